//! After many executions, and after kills of everything that can be killed, nothing is left: no
//! process, no folder, no control group, no mount.
#![cfg(test)]

mod common;

use std::{collections::BTreeSet, fs, path::PathBuf};

use common::{Bench, all_runtimes, children_of, connector, runtimes, until, upstream::Upstream};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use toani_protocol::{job::JobEnd, plan::Plan};
use toani_sandbox::{DriverKind, pool::WAITING_MAX};

/// How many executions; `./x test --long` asks for more.
const EXECUTIONS: usize = 50;
const EXECUTIONS_VARIABLE: &str = "TOANI_STRAY_EXECUTIONS";
/// One kill in so many executions, of each kind in turn.
const KILL_EVERY: usize = 5;

#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// Those that run a runtime from a supervisor's folder, or a connector from memory.
    processes: BTreeSet<u32>,
    folders: BTreeSet<PathBuf>,
    groups: BTreeSet<PathBuf>,
    mounts: usize,
}

impl Found {
    fn now() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut groups = BTreeSet::new();
        collect_groups("/sys/fs/cgroup".into(), &mut groups);
        Self {
            processes: all_runtimes().into_iter().chain(all_native()).collect(),
            folders: ours(std::env::temp_dir()).collect(),
            groups,
            mounts: mounts.lines().count(),
        }
    }
}

/// Containers of the native driver.
fn all_native() -> impl Iterator<Item = u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        program.to_string_lossy().contains("memfd:toani-connector")
    })
}

/// Entries of a folder that are a supervisor's.
fn ours(folder: PathBuf) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("toani-sandbox-"))
        .map(|entry| entry.path())
}

fn collect_groups(folder: PathBuf, groups: &mut BTreeSet<PathBuf>) {
    groups.extend(ours(folder.clone()));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_groups(entry.path(), groups);
        }
    }
}

/// What an execution says that was under way when something was killed.
fn is_definite(end: &JobEnd) -> bool {
    matches!(end, JobEnd::Response { status: 200, .. } | JobEnd::ConnectorFailed)
}

/// A container may end by itself before it is met.
fn kill_if_there(pid: u32) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    assert!(matches!(kill_process(pid, Signal::KILL), Ok(()) | Err(Errno::SRCH)));
}

async fn succeeds(bench: &Bench, plan: &Plan) -> bool {
    let outcome = bench.run(plan, b"").await;
    let succeeded = matches!(outcome.end, JobEnd::Response { status: 200, .. });
    assert!(succeeded || (outcome.end == JobEnd::ConnectorFailed && !outcome.connected()));
    succeeded
}

/// Who is killed in the middle of an execution: each kind in turn.
fn victims(driver: &DriverKind, bench: &Bench, number: usize) -> Vec<u32> {
    let supervisor = bench.client.pid();
    match (number % (4 * KILL_EVERY), driver) {
        (0, _) => vec![supervisor],
        (5, DriverKind::Native) => vec![bench.launcher()],
        (10 | 15, DriverKind::Native) => children_of(bench.launcher()),
        (5, _) => runtimes(supervisor, "run"),
        (10, _) => runtimes(supervisor, "boot"),
        (15, _) => runtimes(supervisor, ""),
        _ => Vec::new(),
    }
}

/// It was killed itself, or the launcher, without which it does not go on.
fn ends_the_supervisor(driver: &DriverKind, number: usize) -> bool {
    matches!((number % (4 * KILL_EVERY), driver), (0, _) | (5, DriverKind::Native))
}

/// One driver after the other: each looks for what anybody has left on this machine.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_behind() {
    for driver in common::drivers() {
        nothing_is_left_behind_by(&driver).await;
    }
}

async fn nothing_is_left_behind_by(driver: &DriverKind) {
    let executions = std::env::var(EXECUTIONS_VARIABLE);
    let executions = executions.map_or(EXECUTIONS, |number| number.parse().unwrap());
    let upstream = Upstream::start().await;
    let plan = upstream.plan("/ok", None);
    // Clears away what runs of before have left that were killed themselves.
    Bench::under(driver, connector()).await.ended().await;
    let before = Found::now();
    let mut bench = Bench::under(driver, connector()).await;
    let mut kills = 0;
    for number in 1..=executions {
        if number.is_multiple_of(KILL_EVERY) {
            // Those that wait may all have been used up or killed a moment ago.
            let is_there = || !victims(driver, &bench, number).is_empty();
            until("somebody is there to be met", is_there).await;
        }
        let victims = victims(driver, &bench, number);
        kills += victims.len();
        let running = bench.try_run(&plan, b"");
        let (end, ()) =
            tokio::join!(running, async { victims.into_iter().for_each(kill_if_there) });
        let ends = ends_the_supervisor(driver, number);
        match end {
            Ok(outcome) => assert!(is_definite(&outcome.end), "{number}: {:?}", outcome.end),
            Err(_) => assert!(ends, "{number}: the supervisor is gone"),
        }
        if ends {
            // The next one finds what it has left.
            bench.client.gone().await;
            bench = Bench::under(driver, connector()).await;
        }
        // A container that was met while it waited may get a job before its end is noticed. Then
        // nothing has happened, and the pool has one less of them.
        let failed = async {
            let mut failed = 0;
            while !succeeds(&bench, &plan).await {
                failed += 1;
            }
            failed
        };
        assert!(failed.await <= WAITING_MAX, "{number}");
    }
    assert!(kills >= executions / KILL_EVERY, "each kind has met somebody: {kills}");
    bench.ended().await;
    until("nothing is left", || Found::now() == before).await;
}
