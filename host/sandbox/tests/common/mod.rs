//! The enclave's and the upstream's part, and the programs under test.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use toani_protocol::{
    ids::Hash,
    instance::LaunchDigest,
    job::JobOutcome,
    plan::Plan,
    policy::{Class, Connector, Endpoint, Injection, Method, TlsTrust},
};
use toani_sandbox::{DriverKind, Started, SupervisorClient, SupervisorPaths, root::Roots};

pub(crate) mod enclave;
pub(crate) mod ordinary;
pub(crate) mod probe;
pub(crate) mod upstream;

use enclave::{Enclave, Link, Lost, Stage};

pub(crate) const WAIT: Duration = Duration::from_secs(60);

/// Builds a program of `package` without shared libraries, once.
fn static_program(package: &str, kind: &str, name: &str) -> PathBuf {
    let supervisor = Path::new(env!("CARGO_BIN_EXE_toani-sandbox"));
    let profile_folder = supervisor.parent().unwrap();
    let target = profile_folder.parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["rustc", "--quiet", "-p", package, kind, name, "--target-dir"]);
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
    let built = if kind == "--example" { "examples" } else { "" };
    std::fs::copy(profile_folder.join(built).join(name), &copy).unwrap();
    copy
}

pub(crate) fn connector() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| static_program("toani-connectors", "--bin", "toani-connector")).clone()
}

pub(crate) fn probe() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| static_program("toani-sandbox", "--example", "toani-probe")).clone()
}

/// Drives a browser, where there is one.
pub(crate) fn browse() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| static_program("toani-sandbox", "--example", "toani-browse")).clone()
}

/// The image of a root file system with this program, made once.
pub(crate) fn image(program: &Path) -> PathBuf {
    static MADE: Mutex<BTreeMap<PathBuf, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap();
    let make = || {
        let root = tempfile::tempdir().unwrap();
        std::fs::set_permissions(root.path(), PermissionsExt::from_mode(0o777)).unwrap();
        for name in ["dev", "proc", "sys", "tmp"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        let inside = root.path().join(toani_sandbox::root::PROGRAM);
        std::fs::copy(program, &inside).unwrap();
        std::fs::set_permissions(inside, PermissionsExt::from_mode(0o555)).unwrap();
        let image = program
            .with_file_name(format!("{}.erofs", program.file_name().unwrap().to_string_lossy()));
        pack(root.path(), &image);
        image
    };
    made.entry(program.to_path_buf()).or_insert_with(make).clone()
}

/// Makes an image of a folder, as `./x image` does.
pub(crate) fn pack(root: &Path, image: &Path) {
    let options = ["--quiet", "-Enoinline_data", "-T0", "-x-1", "--all-root"];
    let mut mkfs = Command::new("mkfs.erofs");
    let status = mkfs.args(options).args([image, root]).status();
    assert!(status.expect("./x setup installs mkfs.erofs").success());
}

/// What containers run under a driver, where they are to run this program.
pub(crate) fn root_of(driver: &DriverKind, program: &Path) -> PathBuf {
    match driver {
        DriverKind::Native => program.to_path_buf(),
        DriverKind::Gvisor { .. } | DriverKind::Vm(_) => image(program),
    }
}

/// A supervisor whose containers run this program, by the native driver.
pub(crate) fn paths(program: PathBuf) -> SupervisorPaths {
    SupervisorPaths {
        supervisor: env!("CARGO_BIN_EXE_toani-sandbox").into(),
        driver: DriverKind::Native,
        root_file_system: program,
        memory_mib: None,
        simulated_chip: Some(enclave::machine()),
    }
}

pub(crate) fn paths_under(driver: DriverKind, program: &Path) -> SupervisorPaths {
    let root_file_system = root_of(&driver, program);
    SupervisorPaths { driver, root_file_system, ..paths(program.to_path_buf()) }
}

pub(crate) fn gvisor() -> DriverKind {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release");
    let programs = std::env::var_os("TOANI_PROGRAMS").map_or(beside, PathBuf::from);
    let runsc = programs.join("runsc").canonicalize().expect("./x setup builds runsc");
    DriverKind::Gvisor { runsc, browser: None }
}

/// With what runs in the place of a browser.
pub(crate) fn with_browser(root_file_system: &Path) -> DriverKind {
    let DriverKind::Gvisor { runsc, .. } = gvisor() else { unreachable!() };
    DriverKind::Gvisor { runsc, browser: Some(root_file_system.to_path_buf()) }
}

/// The drivers that run on any machine of ours.
pub(crate) fn drivers() -> [DriverKind; 2] {
    [DriverKind::Native, gvisor()]
}

/// A supervisor, and the enclave that speaks to it.
pub(crate) struct Bench {
    pub(crate) client: SupervisorClient,
    pub(crate) launch_digest: LaunchDigest,
    pub(crate) link: Arc<Link>,
    listening: tokio::task::JoinHandle<()>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Bench {
    pub(crate) async fn new(paths: SupervisorPaths) -> Self {
        let roots = Roots::open(&paths.root_file_system, &paths.driver).unwrap();
        let enclave = Enclave { root_file_systems: roots.digests(), ..Enclave::honest() };
        let bench = Self::with(paths, enclave).await;
        assert_eq!(bench.link.settled().await, Stage::Open);
        bench
    }

    pub(crate) async fn with(paths: SupervisorPaths, enclave: Enclave) -> Self {
        let started = SupervisorClient::spawn(&paths).await.unwrap();
        let Started { client, messages, launch_digest } = started;
        let launch_digest = launch_digest.try_into().unwrap();
        let link = Link::begin(enclave, 1, client.clone(), launch_digest);
        let listening = tokio::spawn(Arc::clone(&link).listen(messages));
        Self { client, launch_digest, link, listening }
    }

    pub(crate) async fn connector() -> Self {
        Self::new(paths(connector())).await
    }

    pub(crate) async fn under(driver: &DriverKind, program: PathBuf) -> Self {
        Self::new(paths_under(driver.clone(), &program)).await
    }

    pub(crate) async fn run(&self, plan: &Plan, credential: &[u8]) -> JobOutcome {
        self.try_run(plan, credential).await.unwrap()
    }

    pub(crate) async fn try_run(&self, plan: &Plan, credential: &[u8]) -> Result<JobOutcome, Lost> {
        self.link.run(plan, credential).await
    }

    /// Ends the supervisor, and returns when it has ended.
    pub(crate) async fn ended(self) {
        let gone = self.client.gone();
        drop(self);
        gone.await;
    }

    /// The launcher's process; its children are the containers.
    pub(crate) fn launcher(&self) -> u32 {
        let children = children_of(self.client.pid());
        assert_eq!(children.len(), 1);
        children[0]
    }

    /// Waits until so many containers have become what they are to be, and no other process of the
    /// launcher is there.
    pub(crate) async fn isolated(&self, count: usize) -> Vec<u32> {
        let launcher = self.launcher();
        let are = || {
            let children = children_of(launcher);
            let filtered = |pid: &u32| status(*pid, "Seccomp:").as_deref() == Some("2");
            children.len() == count && children.iter().all(filtered)
        };
        until("all wait", are).await;
        children_of(launcher)
    }

    /// Waits until one of these containers, the one that was used, has ended.
    pub(crate) async fn one_has_ended(&self, these: &[u32]) {
        let ended = || {
            let still = children_of(self.launcher());
            these.iter().any(|pid| !still.contains(pid))
        };
        until("the one that was used has ended", ended).await;
    }

    /// Waits until so many containers are there.
    pub(crate) async fn containers(&self, count: usize) -> Vec<u32> {
        let launcher = self.launcher();
        until("containers have ended", || children_of(launcher).len() == count).await;
        children_of(launcher)
    }
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

/// The control group of a process in the hierarchy of a controller; that of version 2 has no name.
pub(crate) fn group_of(process: &str, controller: &str) -> Option<PathBuf> {
    let groups = std::fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap();
    let line = groups.lines().find(|line| line.split(':').nth(1) == Some(controller))?;
    let group = line.rsplit(':').next()?.trim_start_matches('/');
    Some(Path::new("/sys/fs/cgroup").join(controller).join(group))
}

/// The group of a container's supervisor, in which its containers have theirs.
pub(crate) fn memory_of_all(pid: u32) -> PathBuf {
    let own = group_of(&pid.to_string(), "memory").or_else(|| group_of(&pid.to_string(), ""));
    own.unwrap().parent().unwrap().to_path_buf()
}

/// What a control group says, in either version of them.
pub(crate) fn limit(pid: u32, controller: &str, one: &str, two: &str) -> u64 {
    let file = match group_of(&pid.to_string(), controller) {
        Some(group) => group.join(one),
        None => group_of(&pid.to_string(), "").unwrap().join(two),
    };
    std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
}

/// All processes that run a copy of the runtime.
pub(crate) fn all_runtimes() -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        program.to_string_lossy().contains("/toani-sandbox-")
    })
    .collect()
}

/// Those of one supervisor, by the command that they were started with; without one, the processes
/// in which the programs themselves run.
pub(crate) fn runtimes(supervisor: u32, command: &str) -> Vec<u32> {
    let descends = |pid: u32| {
        let parent = |pid: &u32| status(*pid, "PPid:")?.parse().ok().filter(|parent| *parent > 1);
        std::iter::successors(Some(pid), parent).any(|pid| pid == supervisor)
    };
    let has = |pid: u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        if command.is_empty() {
            line.is_empty()
        } else {
            words.any(|word| word == command.as_bytes())
        }
    };
    all_runtimes().into_iter().filter(|pid| has(*pid) && descends(*pid)).collect()
}

pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Containers that wait once jobs of this many classes have run, the usual one among them.
pub(crate) const fn waiting(classes: usize) -> usize {
    classes * toani_sandbox::pool::WAITING_MAX
}

pub(crate) type Shared<T> = Arc<Mutex<T>>;
pub(crate) type Count = Arc<AtomicUsize>;
