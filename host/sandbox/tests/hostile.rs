//! Connectors that mean harm: each gets a definite end within its deadline, and the next execution
//! is as if nothing had been. Under each driver.
#![cfg(test)]

mod common;

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use common::{
    Bench, children_of, drivers, memory_of_all, paths, probe, probe::connecting, until,
    upstream::Upstream, waiting,
};
use toani_protocol::{job::JobEnd, policy::Injection};

/// For those that only their deadline ends, and for those that end before.
const SHORT_MS: u32 = 1_000;
const LONG_MS: u32 = 15_000;
/// The longer deadline, the grace after it, and the machine's own time.
const LONGEST: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn each_has_a_definite_end_and_harms_nobody() {
    let upstream = Upstream::start().await;
    let mut plan = connecting(upstream.plan("/ok", Some(Injection::Bearer)));
    for driver in drivers() {
        let bench = Bench::under(&driver, probe()).await;
        for (word, expected) in [
            ("spin", JobEnd::TimedOut),
            ("silent", JobEnd::TimedOut),
            // An answer is one that ends.
            ("hang", JobEnd::TimedOut),
            ("memory", JobEnd::ConnectorFailed),
            ("garbage", JobEnd::ConnectorFailed),
            ("giant", JobEnd::ConnectorFailed),
            ("flood", JobEnd::ConnectorFailed),
            ("door", JobEnd::ConnectorFailed),
            ("dies", JobEnd::ConnectorFailed),
        ] {
            let short = expected == JobEnd::TimedOut;
            plan.class.timeout_ms = if short { SHORT_MS } else { LONG_MS };
            let began = Instant::now();
            let outcome = bench.run(&plan, word.as_bytes()).await;
            assert_eq!(outcome.end, expected, "{word} under {driver:?}");
            assert!(outcome.connected(), "{word}: the upstream may have acted");
            assert!(began.elapsed() < LONGEST, "{word} under {driver:?}");
            plan.class.timeout_ms = LONG_MS;
            let next = bench.run(&plan, b"peaceful").await.end;
            assert!(matches!(next, JobEnd::Response { status: 200, .. }), "{word}: {next:?}");
        }
    }
}

/// Whether all containers together have met their limit.
fn met(group: &Path) -> bool {
    let says = |file: &str| std::fs::read_to_string(group.join(file)).ok();
    match says("memory.events") {
        Some(events) => !events.lines().any(|line| line == "max 0"),
        None => says("memory.max_usage_in_bytes") == says("memory.limit_in_bytes"),
    }
}

/// The class would let it have more than all have together.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_uses_up_the_memory_of_all_ends_alone() {
    const MIB: u64 = 256;
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut paths = paths(probe());
    let script = folder.path().join("with-less");
    // The driver, its root, and then the option.
    let less = format!(
        "#!/bin/sh\nmode=$1 driver=$2 root=$3\nshift 3\n\
         exec {} $mode $driver $root --memory {MIB} \"$@\"\n",
        paths.supervisor.display()
    );
    std::fs::write(&script, less).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    paths.supervisor = script;
    let bench = Bench::new(paths).await;
    let waiting = bench.isolated(waiting(1)).await;
    let all = memory_of_all(waiting[0]);
    assert!(!met(&all));
    let mut plan = connecting(upstream.plan("/ok", Some(Injection::Bearer)));
    plan.class.timeout_ms = LONG_MS;
    let outcome = bench.run(&plan, b"memory").await;
    assert_eq!(outcome.end, JobEnd::ConnectorFailed);
    assert!(met(&all), "it was not the limit of all that ended it");
    let gone = || {
        let still = children_of(bench.launcher());
        waiting.iter().filter(|pid| !still.contains(pid)).count()
    };
    until("the one that was used has ended", || gone() > 0).await;
    assert_eq!(gone(), 1, "nobody else");
    let next = bench.run(&plan, b"peaceful").await.end;
    assert!(matches!(next, JobEnd::Response { status: 200, .. }), "{next:?}");
}
