//! A whole tier-0 execution, through the shipped programs, over the floor of what it must do: a
//! fresh process with the same namespaces, one TLS request, two fdatasync of the same bytes. Both
//! are interleaved in one run; medians; one JSON object.

mod agent;
mod floor;

use std::{process::ExitCode, time::Instant};

use anyhow::Context;
use serde_json::{Value, json};
use toani_tests::{Brokerage, Plane, plane::programs};

use crate::{agent::Agent, floor::Floor};

const TOKEN: &str = "broker-token-of-the-benchmark";
/// Rounds at c = 1.
const ROUNDS: usize = 100;
/// Rounds at c = 16, each of so many at once.
const ROUNDS_AT_ONCE: usize = 20;
const AT_ONCE: usize = 16;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let result = match arguments.next().as_deref() {
        Some(floor::CHILD) => floor::child(arguments),
        _ => bench(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            fail(&error);
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stderr, reason = "the benchmark's failure")]
fn fail(error: &anyhow::Error) {
    eprintln!("bench: {error:#}");
}

#[allow(clippy::print_stdout, reason = "the benchmark's result")]
fn say(result: &Value) {
    println!("{result}");
}

fn bench() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let programs = programs()?;
    let upstream = Brokerage::start(&programs, TOKEN, 0)?;
    let mut plane = Plane::init(&programs, &home.path().join("home"))?;
    plane.serve()?;
    plane.furnish(&upstream, TOKEN)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let agent = Agent::new(&plane)?;
    let floor = Floor::new(home.path(), &upstream, TOKEN);

    let mut rows = Vec::new();
    for (at_once, rounds) in [(1, ROUNDS), (AT_ONCE, ROUNDS_AT_ONCE)] {
        let (mut ours, mut floors) = (Vec::new(), Vec::new());
        // The first round warms up and is not counted.
        for round in 0..=rounds {
            let began = Instant::now();
            runtime.block_on(agent.run(at_once))?;
            let ours_ms = began.elapsed().as_secs_f64() * 1e3;
            let began = Instant::now();
            floor.run(at_once)?;
            let floor_ms = began.elapsed().as_secs_f64() * 1e3;
            if round > 0 {
                ours.push(ours_ms);
                floors.push(floor_ms);
            }
        }
        let (ours, floors) = (median(ours)?, median(floors)?);
        rows.push(json!({
            "at_once": at_once, "execution_ms": ours, "floor_ms": floors,
            "ratio": ours / floors, "goal": 1.5,
        }));
    }
    say(&json!({ "whole": rows }));
    anyhow::ensure!(plane.stop()? == 0, "the plane did not stop cleanly");
    Ok(())
}

fn median(mut values: Vec<f64>) -> anyhow::Result<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().context("nothing was measured")
}
