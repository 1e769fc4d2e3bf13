//! The enclave's and the upstream's part, and the programs under test.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use aes_gcm::{
    Aes256Gcm, Nonce,
    aead::{Aead, KeyInit, Payload},
};
use hpke::{
    Deserializable, OpModeS, Serializable, aead::AesGcm256, kdf::HkdfSha256, kem::X25519HkdfSha256,
};
use toani_protocol::{
    ids::{BootId, ExecutionId, Hash},
    job::{
        JOB_INFO, Job, JobHeader, JobOutcome, OUTCOME_EXPORT, SandboxHello, SealedJob,
        SealedOutcome,
    },
    plan::Plan,
    policy::{Class, Connector, Endpoint, Injection, Method, TlsTrust},
    wire,
};
use toani_sandbox::{RunError, SupervisorClient, SupervisorPaths};

pub(crate) mod upstream;

pub(crate) const WAIT: Duration = Duration::from_secs(60);

type Kem = X25519HkdfSha256;

/// Builds a program of `package` without shared libraries, once.
fn static_program(package: &str, name: &str) -> PathBuf {
    let supervisor = Path::new(env!("CARGO_BIN_EXE_toani-sandbox"));
    let profile_folder = supervisor.parent().unwrap();
    let target = profile_folder.parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["rustc", "--quiet", "-p", package, "--bin", name, "--target-dir"]);
    build.arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile_folder.ends_with("release") {
        build.arg("--release");
    }
    build.args(["--", "-C", "target-feature=+crt-static"]);
    // What cargo tells this test about its package would make build scripts run again.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            build.env_remove(&*name);
        }
    }
    assert!(build.status().unwrap().success(), "cannot build {name}");
    // A copy: another build may put a program with shared libraries in its place.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let copy = folder.join(format!("{name}-{}", std::process::id()));
    std::fs::copy(profile_folder.join(name), &copy).unwrap();
    copy
}

pub(crate) fn connector() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| static_program("toani-connectors", "toani-connector")).clone()
}

pub(crate) fn probe() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| static_program("toani-sandbox", "toani-probe")).clone()
}

pub(crate) fn paths(connector: PathBuf) -> SupervisorPaths {
    SupervisorPaths { supervisor: env!("CARGO_BIN_EXE_toani-sandbox").into(), connector }
}

/// A supervisor and what the enclave knows about it.
pub(crate) struct Bench {
    pub(crate) client: SupervisorClient,
    pub(crate) hello: SandboxHello,
    next: AtomicU32,
}

impl Bench {
    pub(crate) async fn new(paths: SupervisorPaths) -> Self {
        let (client, hello) = SupervisorClient::spawn(&paths).await.unwrap();
        Self { client, hello, next: AtomicU32::new(1) }
    }

    pub(crate) async fn connector() -> Self {
        Self::new(paths(connector())).await
    }

    pub(crate) fn seal(&self, plan: &Plan, credential: &[u8]) -> (SealedJob, Opener) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let header = JobHeader {
            instance: Hash::of(b"instance"),
            boot: BootId::from_random([1; 16]),
            execution: ExecutionId::from_random(u128::from(number).to_le_bytes()),
            jti: Hash::of(&number.to_le_bytes()),
        };
        let job = Job { plan: plan.seal().unwrap().0, credential: credential.to_vec() };
        seal(&self.hello.key, &header, &job)
    }

    pub(crate) async fn run(&self, plan: &Plan, credential: &[u8]) -> JobOutcome {
        self.try_run(plan, credential).await.unwrap()
    }

    pub(crate) async fn try_run(
        &self,
        plan: &Plan,
        credential: &[u8],
    ) -> Result<JobOutcome, RunError> {
        let (job, opener) = self.seal(plan, credential);
        let outcome = self.client.run(job, WAIT).await?;
        Ok(opener.open(&outcome))
    }

    /// The launcher's process, and those of the containers that run.
    pub(crate) fn launcher(&self) -> u32 {
        let children = children_of(self.client.pid());
        assert_eq!(children.len(), 1);
        children[0]
    }

    pub(crate) async fn containers_end(&self) {
        let launcher = self.launcher();
        until("containers end", || children_of(launcher).is_empty()).await;
    }
}

/// Opens the outcome of one job, as the enclave does.
pub(crate) struct Opener {
    key: [u8; 32],
    aad: Vec<u8>,
}

impl Opener {
    pub(crate) fn open(&self, outcome: &SealedOutcome) -> JobOutcome {
        let cipher = Aes256Gcm::new_from_slice(&self.key).unwrap();
        let payload = Payload { msg: &outcome.ciphertext, aad: &self.aad };
        let plaintext = cipher.decrypt(&Nonce::from([0; 12]), payload).unwrap();
        wire::decode(&plaintext, 16 << 20).unwrap()
    }
}

struct Rng;

impl hpke::rand_core::TryRng for Rng {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(getrandom::u32().unwrap())
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(getrandom::u64().unwrap())
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        getrandom::fill(out).unwrap();
        Ok(())
    }
}

impl hpke::rand_core::TryCryptoRng for Rng {}

fn seal(key: &[u8; 32], header: &JobHeader, job: &Job) -> (SealedJob, Opener) {
    let key = <Kem as hpke::Kem>::PublicKey::from_bytes(key).unwrap();
    let boot = header.boot.as_str().as_bytes();
    let info = [JOB_INFO, header.instance.as_bytes(), boot].concat();
    let mode = OpModeS::<Kem>::Base;
    let (encapsulated, mut context) =
        hpke::setup_sender_with_rng::<AesGcm256, HkdfSha256, Kem>(&mode, &key, &info, &mut Rng)
            .unwrap();
    let aad = wire::encode(header).unwrap();
    let ciphertext = context.seal(&wire::encode(job).unwrap(), &aad).unwrap();
    let mut exported = [0; 32];
    context.export(OUTCOME_EXPORT, &mut exported).unwrap();
    let sealed = SealedJob {
        header: header.clone(),
        encapsulated: encapsulated.to_bytes().to_vec(),
        ciphertext,
    };
    (sealed, Opener { key: exported, aad })
}

/// GET of `path` at a local upstream, pinned.
pub(crate) fn plan(port: u16, pin: Hash, path: &str, injection: Option<Injection>) -> Plan {
    Plan {
        connector: Connector::DirectApi,
        method: Method::Get,
        endpoint: Endpoint { host: "localhost".into(), port, private: true },
        path: path.into(),
        query: Vec::new(),
        headers: Default::default(),
        body: None,
        injection,
        tls: TlsTrust::SpkiSha256(vec![pin]),
        success: None,
        class: Class { timeout_ms: 20_000, response_bytes_max: 256 * 1024, ..Class::default() },
        nonce: Hash::of(b"nonce"),
    }
}

/// Waits for a condition, and fails if it does not come true.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < WAIT, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A line of /proc/PID/status, without its name.
pub(crate) fn status(pid: u32, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim().to_owned())
}

pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let parent = parent.to_string();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| status(*pid, "PPid:").as_ref() == Some(&parent))
        .collect()
}

pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

pub(crate) type Shared<T> = Arc<Mutex<T>>;
pub(crate) type Count = Arc<AtomicUsize>;
