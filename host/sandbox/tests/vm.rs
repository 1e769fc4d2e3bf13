//! Executions in a virtual machine: a guest that is built here, booted under an emulator, and asked
//! for jobs over the attested channel.
//!
//! One boot for each program that containers run: boots are what takes the time.
#![cfg(test)]

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use common::{
    Bench, connector, gvisor, probe,
    probe::{connecting, expect_isolated, probed},
    root_of, until,
    upstream::{Identity, Upstream},
};
use toani_protocol::{
    job::{JobEnd, JobOutcome},
    plan::Plan,
    policy::Injection,
};
use toani_sandbox::{
    DriverKind, SpawnError, SupervisorClient, SupervisorPaths,
    vm::{Accelerator, GuestImage, Machine, Protection, VmPaths},
};

const SECRET: &[u8] = b"tok_live_Zm9v/+?42";
/// This machine's loopback addresses, as a guest of QEMU's user network sees them.
const HOST: &str = "10.0.2.2";
/// For those that an emulator on a busy machine has to end in, and for those that only their
/// deadline ends.
const LONG_MS: u32 = 100_000;
const SHORT_MS: u32 = 5_000;

/// Builds the guest of the supervisor under test, whose containers run this program.
fn guest(name: &str, program: &Path, more: &[&str]) -> PathBuf {
    // Both are made of the same packages, which the first one fetches.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _alone = BUILDING.lock().unwrap();
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let (programs, guest) = (scratch.join("programs"), scratch.join("guest"));
    std::fs::create_dir_all(&programs).unwrap();
    let supervisor = Path::new(env!("CARGO_BIN_EXE_toani-sandbox"));
    std::fs::copy(supervisor, programs.join("toani-sandbox")).unwrap();
    let root = root_of(&gvisor(), program);
    std::fs::copy(root, programs.join("connector.erofs")).unwrap();
    let DriverKind::Gvisor { runsc, .. } = gvisor() else { unreachable!() };
    std::fs::copy(runsc, programs.join("runsc")).unwrap();
    let target = supervisor.ancestors().nth(2).unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["run", "--quiet", "--package", "xtask", "--target-dir"]).arg(target);
    build
        .args(["--", "image", "guest", "--programs"])
        .arg(programs)
        .arg("--output")
        .arg(&guest)
        .args(more);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            build.env_remove(&*name);
        }
    }
    let built = build.status().unwrap();
    assert!(built.success(), "no guest can be built; ./x setup fetches what it is made of");
    guest
}

fn vm(guest: PathBuf) -> VmPaths {
    let machine = Machine { accelerator: Accelerator::Tcg, ..Machine::usual(Protection::None) };
    VmPaths { guest, qemu: None, machine, certificates: None }
}

fn paths(vm: VmPaths) -> SupervisorPaths {
    let driver = DriverKind::Vm(vm);
    let root_file_system = driver.root_file_system();
    SupervisorPaths { driver, root_file_system, ..common::paths(connector()) }
}

/// One that a guest can ask.
async fn upstream() -> Upstream {
    let identity = Identity { name: HOST, ..Identity::default() };
    Upstream::with(identity, rustls::DEFAULT_VERSIONS).await
}

fn plan(upstream: &Upstream, injection: Option<Injection>) -> Plan {
    let mut plan = upstream.plan("/ok", injection);
    plan.endpoint.host = HOST.into();
    plan.class.timeout_ms = LONG_MS;
    plan
}

#[tokio::test]
async fn a_job_runs_in_the_guest_that_was_measured() {
    let guest = guest("guest-connector", &connector(), &["--twice"]);
    let upstream = upstream().await;
    let measured = GuestImage::read(&guest).unwrap().parts.simulated_digest();
    // The enclave's end takes evidence of what the host says, which is what is in the folder.
    let bench = Bench::new(paths(vm(guest))).await;
    assert_eq!(bench.launch_digest, measured);

    let mut plan = plan(&upstream, Some(Injection::Bearer));
    let outcome = bench.run(&plan, SECRET).await;
    assert_eq!(outcome.end, JobEnd::Response { status: 200, body: b"{\"ok\":true}".to_vec() });
    assert!(outcome.connected() && !outcome.secret_seen);
    let request = upstream.last_request();
    assert!(request.contains("\r\nauthorization: Bearer tok_live_Zm9v/+?42\r\n"), "{request}");

    // The guest's own loopback addresses are none of this machine's.
    plan.endpoint.host = "127.0.0.1".into();
    let unreachable =
        JobOutcome { end: JobEnd::Unreachable, secret_seen: false, connections: vec![] };
    assert_eq!(bench.run(&plan, SECRET).await, unreachable);
    // And private addresses are refused as anywhere, unless the policy names them.
    plan.endpoint.host = HOST.into();
    plan.endpoint.private = false;
    assert_eq!(bench.run(&plan, SECRET).await.end, JobEnd::AddressRefused);
    assert_eq!(upstream.count(), 1);

    // A class that is larger than the guest is not tried.
    plan.endpoint.private = true;
    let usual = plan.class.memory_mib;
    plan.class.memory_mib = 4096;
    assert_eq!(bench.run(&plan, SECRET).await.end, JobEnd::ConnectorFailed);
    plan.class.memory_mib = usual;
    assert_eq!(upstream.count(), 1);
    let next = bench.run(&plan, SECRET).await.end;
    assert!(matches!(next, JobEnd::Response { status: 200, .. }), "{next:?}");

    // With the gateway's stream everything ends, QEMU too.
    let qemu = common::children_of(bench.client.pid());
    assert_eq!(qemu.len(), 1, "this process has started QEMU and nothing else");
    expect_unprivileged(qemu[0]);
    let client = bench.client.clone();
    common::kill(client.pid());
    client.gone().await;
    until("QEMU has ended", || {
        common::status(qemu[0], "State:").is_none_or(|state| state.starts_with('Z'))
    })
    .await;
}

/// QEMU is a user of its own where root starts it, has no capability, and gains none.
fn expect_unprivileged(qemu: u32) {
    let of = |pid: &str, name: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let is = |name, expected| assert_eq!(of(&qemu.to_string(), name), expected, "{name}");
    is("NoNewPrivs:", "1");
    is("Seccomp:", "2");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        is(set, "0000000000000000");
    }
    if of("self", "Uid:").starts_with("0 ") {
        is("Uid:", "65533 65533 65533 65533");
        is("Gid:", "65533 65533 65533 65533");
        is("Groups:", "");
    }
}

/// A container in a guest is no less isolated than one of the same driver on this machine, and one
/// that means harm ends as it would there.
#[tokio::test]
async fn the_probe_can_do_nothing_in_a_guest_and_harms_nobody() {
    let upstream = upstream().await;
    let bench = Bench::new(paths(vm(guest("guest-probe", &probe(), &[])))).await;
    expect_isolated(probed(&bench, plan(&upstream, None)).await);

    for (word, timeout_ms, expected) in
        [("spin", SHORT_MS, JobEnd::TimedOut), ("dies", LONG_MS, JobEnd::ConnectorFailed)]
    {
        let mut plan = connecting(plan(&upstream, Some(Injection::Bearer)));
        plan.class.timeout_ms = timeout_ms;
        let outcome = bench.run(&plan, word.as_bytes()).await;
        assert_eq!(outcome.end, expected, "{word}");
        assert!(outcome.connected(), "{word}: the upstream may have acted");
        plan.class.timeout_ms = LONG_MS;
        let next = bench.run(&plan, b"peaceful").await.end;
        assert!(matches!(next, JobEnd::Response { status: 200, .. }), "after {word}: {next:?}");
    }
}

/// A guest that is made for SEV-SNP takes no evidence of a simulated chip in its place.
#[tokio::test]
async fn a_guest_for_sev_snp_does_not_start_without_it() {
    let paths = paths(vm(guest("guest-snp", &connector(), &["--snp"])));
    match SupervisorClient::spawn(&paths).await {
        Err(SpawnError::CannotStart(why)) => {
            assert!(why.contains("this is no SEV-SNP guest"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_keeps_a_guest_from_starting_is_said() {
    let folder = tempfile::tempdir().unwrap();
    for part in ["vmlinuz", "initrd", "cmdline"] {
        std::fs::write(folder.path().join(part), part).unwrap();
    }
    let ends = VmPaths { qemu: Some("/bin/false".into()), ..vm(folder.path().into()) };
    let nobody = SupervisorPaths { simulated_chip: None, ..paths(vm(folder.path().into())) };
    for (paths, expected) in [
        (paths(ends), "before it was ready (exit status: 1)"),
        (nobody, "either a simulated chip, or SEV-SNP"),
    ] {
        match SupervisorClient::spawn(&paths).await {
            Err(SpawnError::CannotStart(why)) => assert!(why.contains(expected), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}
