//! A whole tier-0 execution, through the shipped programs, over the floor of what it must do: a
//! fresh process with the same namespaces, one TLS request, two fdatasync of the same bytes. Both
//! are interleaved in one run; medians; one JSON object.

mod agent;
mod connections;
mod floor;
mod nginx;
mod processors;

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::{Value, json};
use toani_tests::{Brokerage, Plane, plane::programs};

use crate::{agent::Agent, floor::Floor, nginx::Nginx};

const TOKEN: &str = "broker-token-of-the-benchmark";
/// Rounds at c = 1.
const ROUNDS: usize = 100;
/// Rounds at c = 16, each of so many at once.
const ROUNDS_AT_ONCE: usize = 20;
const AT_ONCE: usize = 16;
/// Beside nginx.
const MANY_AT_ONCE: usize = 64;
/// Longer than it takes until another container waits.
const REFILL: Duration = Duration::from_millis(250);

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
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let [mut native, mut gvisor] =
        [plane("native", home.path(), &upstream)?, plane("gvisor", home.path(), &upstream)?];
    let (agent, gvisor_agent) = (Agent::new(&native)?, Agent::new(&gvisor)?);
    let floor = Floor::new(home.path(), &upstream, TOKEN);

    let mut whole = Vec::new();
    for (at_once, rounds) in [(1, ROUNDS), (AT_ONCE, ROUNDS_AT_ONCE)] {
        let [ours, floors] = beside(
            rounds,
            Duration::ZERO,
            || runtime.block_on(agent.run(at_once)),
            || floor.run(at_once),
        )?;
        let (ours_ms, floor_ms) = (ours.median_ms()?, floors.median_ms()?);
        whole.push(json!({
            "at_once": at_once, "execution_ms": ours_ms, "floor_ms": floor_ms,
            "ratio": ours_ms / floor_ms, "goal": 1.5,
            "execution_busy": ours.busy(), "floor_busy": floors.busy(),
            "work_ratio": ours.worked_ms / floors.worked_ms,
        }));
    }
    // Slowly enough that containers wait: what it costs to refill is measured by itself.
    let [by_gvisor, by_native] = beside(
        ROUNDS,
        REFILL,
        || runtime.block_on(gvisor_agent.run(1)),
        || runtime.block_on(agent.run(1)),
    )?;
    let (by_gvisor, by_native) = (by_gvisor.median_ms()?, by_native.median_ms()?);
    let through_nginx = match Nginx::start(home.path(), &upstream, TOKEN)? {
        None => json!("nginx is not installed: apt-get install nginx-light"),
        Some(nginx) => beside_nginx(
            |at_once| runtime.block_on(agent.run(at_once)),
            |at_once| runtime.block_on(nginx.run(at_once)),
        )?,
    };
    say(&json!({ "whole": whole, "nginx": through_nginx, "gvisor": {
        "execution_ms": by_gvisor, "native_ms": by_native, "ratio": by_gvisor / by_native,
        "goal": 1.5,
    }}));
    for plane in [&mut native, &mut gvisor] {
        anyhow::ensure!(plane.stop()? == 0, "the plane did not stop cleanly");
    }
    Ok(())
}

/// No goal: what all that a proxy does not do takes.
fn beside_nginx(
    ours: impl Fn(usize) -> anyhow::Result<()>,
    nginx: impl Fn(usize) -> anyhow::Result<()>,
) -> anyhow::Result<Value> {
    let mut rows = Vec::new();
    for (at_once, rounds) in [(1, ROUNDS), (MANY_AT_ONCE, ROUNDS_AT_ONCE)] {
        let [ours, theirs] = beside(rounds, Duration::ZERO, || ours(at_once), || nginx(at_once))?;
        let (ours_ms, nginx_ms) = (ours.median_ms()?, theirs.median_ms()?);
        rows.push(json!({
            "at_once": at_once, "execution_ms": ours_ms, "nginx_ms": nginx_ms,
            "difference_ms": ours_ms - nginx_ms, "ratio": ours_ms / nginx_ms,
        }));
    }
    Ok(json!(rows))
}

/// A plane whose connectors are held by this.
fn plane(sandbox: &'static str, home: &Path, upstream: &Brokerage) -> anyhow::Result<Plane> {
    let mut plane = Plane::init(&programs()?, &home.join(sandbox))?;
    plane.held_by(sandbox);
    plane.serve()?;
    plane.furnish(upstream, TOKEN)?;
    Ok(plane)
}

/// Both sides, one after the other in each round, each after the same pause: what one leaves to be
/// done is not the other's. The first round warms up and is not counted.
fn beside(
    rounds: usize,
    pause: Duration,
    mut one: impl FnMut() -> anyhow::Result<()>,
    mut other: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<[Side; 2]> {
    let mut sides = [Side::default(), Side::default()];
    let after_pause = |run: &mut dyn FnMut() -> anyhow::Result<()>| {
        std::thread::sleep(pause);
        Round::of(run)
    };
    for round in 0..=rounds {
        let taken = [after_pause(&mut one)?, after_pause(&mut other)?];
        if round > 0 {
            sides.iter_mut().zip(&taken).for_each(|(side, round)| side.add(round));
        }
    }
    Ok(sides)
}

/// One round of one side.
struct Round {
    took_ms: f64,
    worked_ms: f64,
}

impl Round {
    fn of(run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let (worked, began) = (processors::worked_ms()?, Instant::now());
        run()?;
        let took_ms = began.elapsed().as_secs_f64() * 1e3;
        Ok(Self { took_ms, worked_ms: processors::worked_ms()? - worked })
    }
}

/// All counted rounds of one side.
#[derive(Default)]
struct Side {
    took_ms: Vec<f64>,
    worked_ms: f64,
}

impl Side {
    fn add(&mut self, round: &Round) {
        self.took_ms.push(round.took_ms);
        self.worked_ms += round.worked_ms;
    }

    /// Processors that worked at a time, on average.
    fn busy(&self) -> f64 {
        self.worked_ms / self.took_ms.iter().sum::<f64>()
    }

    fn median_ms(&self) -> anyhow::Result<f64> {
        let mut sorted = self.took_ms.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().context("nothing was measured")
    }
}
