//! Connectors that mean harm: each gets a definite end within its deadline, and the next execution
//! is as if nothing had been. Under each driver.
#![cfg(test)]

mod common;

use std::time::{Duration, Instant};

use common::{Bench, drivers, probe, probe::connecting, upstream::Upstream};
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
