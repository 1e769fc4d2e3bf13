//! A plane of real processes in a folder of its own, and a client that speaks plain HTTP.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part, and stops at the first surprise"
)]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use tempfile::TempDir;
use toani_enclave_host::Runner;
use toani_gateway::{BootError, Config, Exit, Ready};
use toani_protocol::{
    Hash, TenantId,
    assurance::SandboxLevel,
    canonical,
    instance::{
        AdmissionFormat, AdmissionList, AdmittedSandbox, Manifest, ManifestFormat, SgxPolicy,
        TcbVersion,
    },
    policy::{Policy, api_key_hash},
    sign::{Bytes, Label, PublicKey, Signed},
};
use toani_sandbox::{DriverKind, root::Roots};
use toani_simulator::Authority;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::oneshot,
    task::JoinHandle,
};

pub const API_KEY: &str = "tk_simple";
pub const LIMIT: Duration = Duration::from_secs(60);

pub fn operator() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}
pub fn policy_key() -> SigningKey {
    SigningKey::from_bytes(&[2; 32])
}
pub fn tenant() -> TenantId {
    TenantId::of_first_key(&PublicKey::of(&policy_key()))
}

/// The folder with the three programs: `TOANI_PROGRAMS`, or what cargo builds now.
pub fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        if let Some(folder) = std::env::var_os("TOANI_PROGRAMS") {
            return PathBuf::from(folder);
        }
        let cargo = |arguments: &[&str]| {
            let status = Command::new(env!("CARGO")).args(arguments).status();
            assert!(status.unwrap().success(), "{arguments:?}");
        };
        let packages = ["-p", "toani-simulator", "-p", "toani-sandbox"];
        cargo(&[&["build", "--bins"], packages.as_slice()].concat());
        let connector = ["-p", "toani-connectors", "--bin", "toani-connector"];
        let linked = ["--", "-C", "target-feature=+crt-static"];
        cargo(&[&["rustc"], connector.as_slice(), &linked].concat());
        let test = std::env::current_exe().unwrap();
        test.ancestors().nth(2).unwrap().to_path_buf()
    })
}

/// The simulated machine, the same for all tests of one build.
fn machine() -> PathBuf {
    programs().parent().unwrap().join("simulated-machine")
}

fn authority() -> Authority {
    std::fs::create_dir_all(machine()).unwrap();
    Authority::open_or_create(&machine()).unwrap()
}

/// Under which enclaves prove themselves here.
pub fn sgx_root() -> Hash {
    authority().sgx_root()
}

/// What runs the image that `./x image` has built. The machine has a name within the data folder, by
/// which a test finds its own enclave among those of other tests.
pub fn runner(data: &Path) -> Runner {
    let own = data.join("machine");
    if !own.exists() {
        std::os::unix::fs::symlink(machine(), &own).unwrap();
    }
    let arguments = [programs().join("toani-image"), own];
    assert!(arguments[0].is_file(), "there is no image: ./x test builds it, and so does ./x image");
    let arguments = arguments.map(PathBuf::into_os_string).to_vec();
    Runner { program: programs().join("toani-simulator"), arguments }
}

/// An instance that was born, and is run by [`Running`].
pub struct Instance {
    pub data: TempDir,
    /// What holds connectors.
    pub driver: DriverKind,
}

impl Instance {
    pub async fn born() -> Self {
        let data = tempfile::tempdir().unwrap();
        let manifest = Manifest {
            format: ManifestFormat::V1,
            sgx_roots: vec![authority().sgx_root()],
            sgx_policy: SgxPolicy::up_to_date(),
            snp_roots: vec![authority().snp_root().unwrap()],
            operators: vec![PublicKey::of(&operator())],
            quorum: 1,
            log_origin: "log.example/test".to_owned(),
            nonce: Hash::of(data.path().as_os_str().as_encoded_bytes()),
        };
        let bytes = canonical::encode(&manifest).unwrap();
        std::fs::write(data.path().join(toani_gateway::MANIFEST), bytes).unwrap();
        let facts = toani_gateway::birth(&runner(data.path()), data.path()).await.unwrap();
        assert_eq!(facts.size, 2, "birth and boot");
        let again = toani_gateway::birth(&runner(data.path()), data.path()).await;
        assert!(matches!(again, Err(BootError::BornBefore)), "{again:?}");
        Self { data, driver: DriverKind::Native }
    }

    pub fn config(&self) -> Config {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            driver: self.driver.clone(),
            simulated_chip: Some(machine()),
            ..Config::new(self.data.path(), programs(), runner(self.data.path()))
        }
    }

    pub fn admission(&self, facts: &Value) -> Value {
        let programs = programs();
        let root = programs.join(self.driver.root_file_system());
        let roots = Roots::open(&root, &self.driver).unwrap().digests();
        let supervisor = programs.join("toani-sandbox");
        let digest = toani_sandbox::launch_digest(&supervisor, &self.driver, roots).unwrap();
        let list = AdmissionList {
            format: AdmissionFormat::V1,
            instance: facts["instance"].as_str().unwrap().parse().unwrap(),
            version: 1,
            enclaves: vec![facts["mrenclave"].as_str().unwrap().parse().unwrap()],
            sandboxes: vec![AdmittedSandbox {
                launch_digest: Bytes(digest.to_vec()),
                level: match self.driver {
                    DriverKind::Native => SandboxLevel::Native,
                    DriverKind::Gvisor { .. } => SandboxLevel::Gvisor,
                    DriverKind::Vm(_) => SandboxLevel::Vm,
                },
                root_file_systems: roots,
            }],
            chips: vec![Bytes(authority().chip().id.to_vec())],
            min_tcb: TcbVersion::default(),
            refused_products: vec![],
            min_crl_number: None,
        };
        serde_json::to_value(Signed::by(&operator(), Label::Admission, list).unwrap()).unwrap()
    }
}

/// One boot that runs.
pub struct Running {
    pub ready: Ready,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<Exit, BootError>>,
}

impl Running {
    pub async fn start(config: Config) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (is_ready, ready) = oneshot::channel();
        let stopped = async {
            let _ = stopped.await;
        };
        let served = tokio::spawn(toani_gateway::serve(config, stopped, move |ready| {
            is_ready.send(ready).unwrap();
        }));
        match tokio::time::timeout(LIMIT, ready).await.unwrap() {
            Ok(ready) => Self { ready, stop: Some(stop), served },
            Err(_) => panic!("{:?}", served.await),
        }
    }

    pub async fn stop(mut self) -> Exit {
        self.stop.take().unwrap().send(()).unwrap();
        self.exit().await
    }

    pub async fn exit(&mut self) -> Exit {
        tokio::time::timeout(LIMIT, &mut self.served).await.unwrap().unwrap().unwrap()
    }

    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Answer {
        let stream = TcpStream::connect(self.ready.address).await.unwrap();
        talk(stream, &raw(method, path, headers, body)).await
    }

    /// Sends a request and leaves the answer unread.
    pub async fn begin(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> TcpStream {
        let mut stream = TcpStream::connect(self.ready.address).await.unwrap();
        let bytes = raw(method, path, headers, Some(body));
        stream.write_all(&bytes).await.unwrap();
        stream
    }

    /// Waits until the newest execution has this in a field.
    pub async fn until_execution(&self, field: &str, value: &str) {
        let end = Instant::now() + LIMIT;
        loop {
            let rows = self.administer("GET", "/admin/v1/executions", None).await.json();
            if rows["executions"][0][field] == value {
                return;
            }
            assert!(Instant::now() < end, "{rows}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn administer(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let stream = UnixStream::connect(&self.ready.admin_socket).await.unwrap();
        talk(stream, &raw(method, path, &[], body)).await
    }

    pub async fn raw(&self, bytes: &[u8]) -> Answer {
        talk(TcpStream::connect(self.ready.address).await.unwrap(), bytes).await
    }

    /// Waits until a condition of an endpoint holds.
    pub async fn until(&self, path: &str, status: u16) {
        let end = Instant::now() + LIMIT;
        loop {
            let answer = self.ask("GET", path, &[], None).await;
            if answer.status == status {
                return;
            }
            assert!(Instant::now() < end, "{path}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Admission and policy.
    pub async fn set_up(&self, instance: &Instance, policy: &Value) {
        let facts = self.ask("GET", "/v1/instance", &[], None).await.json();
        let admission = instance.admission(&facts);
        let put = self.administer("PUT", "/admin/v1/admission", Some(&admission)).await;
        assert_eq!(put.status, 200, "{put:?}");
        let put = self.administer("PUT", "/admin/v1/policies", Some(policy)).await;
        assert_eq!(put.status, 200, "{put:?}");
        self.until("/readyz", 200).await;
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

fn raw(method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body {
        let body = body.to_string();
        let length = body.len();
        text.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    } else {
        text.push_str("\r\n");
    }
    text.into_bytes()
}

async fn talk(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, bytes: &[u8]) -> Answer {
    // The other side may answer and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut all = Vec::new();
    let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut all)).await.unwrap();
    let at = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(all.len());
    let head = String::from_utf8_lossy(&all[..at]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = all.get(at + 4..).unwrap_or_default().to_vec();
    Answer { status, head, body }
}

/// A policy whose upstream is a loopback port; without a credential.
pub fn policy(version: u64, port: u16) -> Value {
    let look = json!({
        "summary": "look", "params": {"type": "object", "properties": {}, "additionalProperties": false},
        "request": {"method": "GET", "path": "/balance"}, "tier": 0, "class": {"timeout_ms": 3000}
    });
    let buy = json!({
        "summary": "buy", "params": {"type": "object", "properties": {}, "additionalProperties": false},
        "request": {"method": "POST", "path": "/orders"}, "tier": 1,
        "approval": {"approvers": ["clara"], "threshold": 1}
    });
    let agent = json!({"key": {"api_key": api_key_hash(API_KEY.as_bytes())}});
    let document = json!({
        "format": "toani-policy/1", "tenant": tenant(), "id": "main", "version": version,
        "not_before": "2020-01-01T00:00:00Z", "expires": "2099-01-01T00:00:00Z",
        "namespace": "main",
        "persons": {"clara": {"keys": [{"ed25519": PublicKey::of(&operator())}]}},
        "agents": {"simple": agent, "other": agent},
        "services": {"broker": {
            "connector": "direct_api",
            "endpoint": {"host": "localhost", "port": port, "private": true},
            "actions": {"look": look, "buy": buy}
        }}
    });
    let policy: Policy = serde_json::from_value(document).unwrap();
    serde_json::to_value(Signed::by(&policy_key(), Label::Policy, policy).unwrap()).unwrap()
}

pub fn request(action: &str) -> Value {
    json!({"tenant": tenant(), "agent": "simple", "service": "broker", "action": action, "params": {}})
}

pub fn with_key(key: &str) -> [(&'static str, String); 2] {
    [("Authorization", format!("Bearer {API_KEY}")), ("Idempotency-Key", key.to_owned())]
}

/// Ends the child of this test whose command line holds both words.
pub fn kill_child(program: &str, word: &str) {
    signal_child(program, word, rustix::process::Signal::KILL);
}

/// Sends a signal to the child of this test whose command line holds both words.
pub fn signal_child(program: &str, word: &str, signal: rustix::process::Signal) {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", std::process::id())).unwrap();
    for task in tasks {
        let children = task.unwrap().path().join("children");
        let children = std::fs::read_to_string(children).unwrap_or_default();
        for pid in children.split_whitespace() {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains(program) && line.contains(word) {
                let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
                rustix::process::kill_process(pid, signal).unwrap();
                return;
            }
        }
    }
    panic!("no child {program} {word}");
}
