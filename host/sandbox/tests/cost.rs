//! What an execution costs. Not a test: run it by name, with `--ignored --nocapture`.
#![cfg(test)]

mod common;

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{Bench, connector, upstream::Upstream};
use toani_protocol::{job::JobEnd, policy::Injection};

const ROUNDS: usize = 200;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn cost_of_an_execution() {
    let upstream = Upstream::start().await;
    let bench = Bench::connector().await;
    let whole = upstream.plan("/ok", Some(Injection::Bearer));
    // The connector refuses this plan at once: what remains is the sandbox.
    let mut empty = whole.clone();
    empty.headers.insert("host".into(), "x".into());
    let (mut exec, mut sandbox, mut execution) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut program = Command::new(connector());
        program.stdin(Stdio::null()).stdout(Stdio::null());
        program.stderr(Stdio::null()).status().unwrap();
        exec.push(start.elapsed());

        let start = Instant::now();
        assert_eq!(bench.run(&empty, b"secret").await.end, JobEnd::ConnectorFailed);
        sandbox.push(start.elapsed());

        let start = Instant::now();
        let end = bench.run(&whole, b"secret").await.end;
        assert!(matches!(end, JobEnd::Response { status: 200, .. }));
        execution.push(start.elapsed());
    }
    let at_once = Instant::now();
    let runs: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let (link, empty) = (bench.link.clone(), empty.clone());
            tokio::spawn(async move { link.run(&empty, b"secret").await.unwrap() })
        })
        .collect();
    for run in runs {
        run.await.unwrap();
    }
    let rate = f64::from(u32::try_from(ROUNDS).unwrap()) / at_once.elapsed().as_secs_f64();
    println!("fork and exec of the connector  {:?}", median(exec));
    println!("sandbox, from job to outcome    {:?}", median(sandbox));
    println!("the same with one TLS request   {:?}", median(execution));
    println!("sandboxes a second, all at once {rate:.0}");
}
