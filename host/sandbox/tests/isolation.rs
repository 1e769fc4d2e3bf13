//! What the container lets a program do, asked by a program in it; and what happens where the
//! driver cannot isolate.
#![cfg(test)]

mod common;

use std::{
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::Command,
};

use common::{
    Bench, connector, drivers, enclave, limit, memory_of_all,
    ordinary::{Delegated, ORDINARY, Ordinary, enter},
    paths, probe,
    probe::{connecting, expect_isolated, probed},
    runtimes, status, until,
    upstream::Upstream,
    waiting,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use toani_protocol::{job::JobEnd, plan::Plan, policy::Injection};
use toani_sandbox::{DriverKind, SpawnError, SupervisorClient, SupervisorPaths};

/// A plan that tells the probe what to ask the door.
fn asking(upstream: &Upstream, line: &str) -> Plan {
    let mut plan = upstream.plan("/ok", None);
    plan.path = format!("/{line}|");
    plan
}

/// What /proc says about a container that runs.
fn expect_nobody(pid: u32, outside: &str) {
    let is = |name: &str, value: &str| assert_eq!(status(pid, name).unwrap(), value, "{name}");
    let four = [outside; 4].join("\t");
    is("Uid:", &four);
    is("Gid:", &four);
    is("NoNewPrivs:", "1");
    is("Seccomp:", "2");
    is("Threads:", "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        is(set, "0000000000000000");
    }
    assert!(status(pid, "NSpid:").unwrap().ends_with("\t1"));
    assert_eq!(limit(pid, "memory", "memory.limit_in_bytes", "memory.max"), 512 << 20);
    assert_eq!(limit(pid, "pids", "pids.max", "pids.max"), 32 + 1);
    let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(score.trim(), "1000", "it goes before the plane");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(limit("Max core file size"), "0");
    assert_eq!(limit("Max file size"), ((16 << 20) + 1).to_string());
    assert_eq!(limit("Max open files"), "32");
    assert_eq!(limit("Max processes"), "32");
    assert_eq!(limit("Max address space"), (512 << 20).to_string());
}

/// Links to namespaces, the root's content and memory: readable for root only.
fn expect_apart(pid: u32) {
    for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/{name}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{name}");
    }
    let root = std::fs::read_dir(format!("/proc/{pid}/root")).unwrap().flatten();
    assert_eq!(root.map(|entry| entry.file_name()).collect::<Vec<_>>(), ["tmp"]);
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
    let mut mounts = mounts.lines();
    for (place, own) in [("/", "ro"), ("/tmp", "rw")] {
        let mut words = mounts.next().unwrap().split(' ').skip(1);
        assert_eq!(words.next().unwrap(), place);
        let options = words.nth(1).unwrap();
        for option in [own, "nosuid", "nodev", "noexec"] {
            assert!(options.split(',').any(|one| one == option), "{place}: {options}");
        }
    }
    assert_eq!(mounts.next(), None);
    let owner = std::fs::metadata(format!("/proc/{pid}/environ")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(owner.uid(), 0, "not dumpable: /proc belongs to root");
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    // One that waits may not have made its copies yet.
    assert!((4..=4 + 2).contains(&fds.count()), "four, and the probe's copies of two");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test]
async fn the_probe_can_do_nothing() {
    let upstream = Upstream::start().await;
    for driver in drivers() {
        let bench = Bench::under(&driver, probe()).await;
        expect_isolated(probed(&bench, upstream.plan("/ok", None)).await);
    }
}

#[tokio::test]
async fn a_container_is_what_it_should_be_from_outside() {
    let upstream = Upstream::start().await;
    let bench = Bench::new(paths(probe())).await;
    let mut plan = connecting(upstream.plan("/ok", Some(Injection::Bearer)));
    plan.class.timeout_ms = 3_000;
    let waited = bench.isolated(waiting(1)).await;
    let looked = async {
        // It spins once it has connected.
        let arrived = || upstream.accepted.load(std::sync::atomic::Ordering::SeqCst) == 1;
        until("the probe connects", arrived).await;
        // Those that wait are as isolated as the one that runs; no other is prepared meanwhile.
        for container in bench.isolated(waiting(1)).await {
            if is_root() {
                expect_nobody(container, "65534");
                expect_apart(container);
            } else {
                let own = rustix::process::geteuid().as_raw().to_string();
                expect_nobody(container, &own);
            }
        }
    };
    let (outcome, ()) = tokio::join!(bench.run(&plan, b"hang"), looked);
    assert_eq!(outcome.end, JobEnd::TimedOut, "a reply is one that ends");
    bench.one_has_ended(&waited).await;
    bench.containers(waiting(1)).await;
}

/// The sum of their own limits may be more than the machine has.
#[tokio::test]
async fn all_containers_together_have_a_part_of_the_machines_memory() {
    let machine = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = machine.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let kib: u64 = total.trim().trim_end_matches(" kB").parse().unwrap();
    let three_quarters = kib * 1024 / 4 * 3;
    for driver in drivers() {
        let said = std::num::NonZero::new(700);
        for (memory_mib, expected) in [(None, three_quarters), (said, 700 << 20)] {
            let paths =
                SupervisorPaths { memory_mib, ..common::paths_under(driver.clone(), &probe()) };
            let limit = limit_of_all(&Bench::new(paths).await, &driver).await;
            assert!(
                limit <= expected && limit > expected - (4 << 20),
                "{limit} for {memory_mib:?}"
            );
        }
    }
}

async fn limit_of_all(bench: &Bench, driver: &DriverKind) -> u64 {
    let container = match driver {
        DriverKind::Native => bench.isolated(waiting(1)).await[0],
        _ => {
            let supervisor = bench.client.pid();
            until("one waits", || !runtimes(supervisor, "boot").is_empty()).await;
            runtimes(supervisor, "boot")[0]
        }
    };
    let group = memory_of_all(container);
    let limit = std::fs::read_to_string(group.join("memory.limit_in_bytes"));
    let limit = limit.or_else(|_| std::fs::read_to_string(group.join("memory.max"))).unwrap();
    limit.trim().parse().unwrap()
}

#[tokio::test]
async fn the_supervisor_is_kept_from_the_swap_where_it_may() {
    let bench = Bench::new(paths(probe())).await;
    let locked = status(bench.client.pid(), "VmLck:").unwrap();
    // This process may what the one that it started may.
    let all = Rlimit { current: None, maximum: None };
    let may = setrlimit(Resource::Memlock, all).is_ok();
    assert_eq!(locked != "0 kB", may, "{locked}");
}

#[tokio::test]
async fn the_door_refuses_another_host() {
    let upstream = Upstream::start().await;
    let bench = Bench::new(paths(probe())).await;
    let other = Upstream::start().await;
    for line in [
        format!("CONNECT localhost:{}", other.port),
        format!("CONNECT 127.0.0.1:{}", upstream.port),
        format!("GET localhost:{}", upstream.port),
    ] {
        // Without a connection, no answer is believed.
        let outcome = bench.run(&asking(&upstream, &line), b"").await;
        assert_eq!(outcome.end, JobEnd::ConnectorFailed, "{line}");
        assert!(!outcome.connected(), "{line}");
    }
    for upstream in [upstream, other] {
        assert_eq!(upstream.accepted.load(std::sync::atomic::Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn a_plan_that_is_none_runs_nothing() {
    let upstream = Upstream::start().await;
    let bench = Bench::connector().await;
    let mut plan = upstream.plan("/ok", None);
    plan.headers.insert("host".into(), "evil".into());
    let outcome = bench.run(&plan, b"").await;
    assert_eq!(outcome.end, JobEnd::ConnectorFailed);
    assert!(!outcome.connected());
}

/// The enclave names what a job's container runs, and nothing else runs instead.
#[tokio::test]
async fn another_root_file_system_than_the_one_that_is_here_runs_nothing() {
    let upstream = Upstream::start().await;
    let bench = Bench::with(paths(connector()), enclave::Enclave::honest()).await;
    let outcome = bench.run(&upstream.plan("/ok", None), b"").await;
    assert_eq!(outcome.end, JobEnd::ConnectorFailed);
    assert!(!outcome.connected());
    assert_eq!(upstream.accepted.load(std::sync::atomic::Ordering::SeqCst), 0);
}

/// A program that another user may run too, in the place of the supervisor.
fn instead_of_supervisor(folder: &Path, name: &str, script: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script} \"$@\"\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_user_has_containers_where_groups_are_delegated_and_else_the_remedy() {
    if !is_root() {
        // Then all other tests say so.
        return;
    }
    let user = Ordinary::new();
    let upstream = Upstream::start().await;
    for driver in drivers() {
        let why = cannot_start(&user.paths(&driver, &[])).await;
        assert!(why.contains("memory has no limit") && why.contains("Delegate=yes"), "{why}");

        let delegated = Delegated::to(ORDINARY);
        let bench = Bench::new(user.paths(&driver, &delegated.0)).await;
        let own = ORDINARY.to_string();
        assert!(status(bench.client.pid(), "Uid:").unwrap().starts_with(&own));
        if driver == DriverKind::Native {
            for container in bench.isolated(waiting(1)).await {
                expect_nobody(container, &own);
            }
        }
        let outcome = bench.run(&upstream.plan("/ok", None), b"").await;
        assert!(matches!(outcome.end, JobEnd::Response { status: 200, .. }), "{outcome:?}");
        bench.ended().await;
    }
}

async fn cannot_start(paths: &SupervisorPaths) -> String {
    match SupervisorClient::spawn(paths).await {
        Err(SpawnError::CannotStart(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_connector_with_shared_libraries_is_refused_with_the_remedy() {
    let why = cannot_start(&paths("/bin/true".into())).await;
    assert!(why.contains("+crt-static"), "{why}");
    let nowhere = "/nonexistent".into();
    let why =
        cannot_start(&SupervisorPaths { root_file_system: nowhere, ..paths(connector()) }).await;
    assert!(why.contains("./x image connector"), "{why}");
}

/// In a user namespace without a user 65534, and in one in which no other may be made.
#[tokio::test]
async fn where_the_kernel_forbids_it_the_error_says_what_to_allow() {
    let folder = open_folder();
    let supervisor = env!("CARGO_BIN_EXE_toani-sandbox");
    // Root of a user namespace may not what root may.
    let delegated = Delegated::to(rustix::process::geteuid().as_raw());
    let enter = enter(&delegated.0);
    for (name, script, expected) in [
        ("root", format!("{enter}exec unshare -Ur {supervisor}"), "CAP_SETUID"),
        (
            "none",
            format!(
                "{enter}exec unshare -U --map-user=1000 --keep-caps sh -c \
                 'echo 0 >/proc/sys/user/max_user_namespaces; exec {supervisor} \"$@\"' sh"
            ),
            "max_user_namespaces",
        ),
    ] {
        let paths = SupervisorPaths {
            supervisor: instead_of_supervisor(folder.path(), name, &script),
            ..paths(connector())
        };
        let why = cannot_start(&paths).await;
        assert!(why.contains(expected), "{why}");
    }
}

/// The supervisor and its launchers ask to be killed with their parent; one that is gone before they
/// ask kills nobody.
#[test]
fn whoever_was_started_by_one_that_is_gone_ends_by_itself() {
    let root = connector();
    let supervise = ["supervise".as_ref(), "native".as_ref(), root.as_os_str()];
    for words in [&supervise[..], &["native-launcher".as_ref()], &["gvisor-launcher".as_ref()]] {
        let (stream, parents) = UnixStream::pair().unwrap();
        drop(parents);
        let output = Command::new(env!("CARGO_BIN_EXE_toani-sandbox"))
            .args(words)
            .stdin(OwnedFd::from(stream))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("was gone before"), "{words:?}: {said}");
    }
}
