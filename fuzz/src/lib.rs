//! A small deterministic mutation fuzzer.
//!
//! Each [`targets`] entry takes real samples, made by a whole instance, and says what must hold of
//! any bytes that come of them: never a panic, and more than that. The same seed makes the same
//! mutations, so that a failure is found again; it names the target and shows the bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a fuzzer tells what it has found"
)]

pub mod hostile;
pub mod mutate;
mod samples;
pub mod targets;
#[path = "../../trusted/enclave/tests/world/mod.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use mutate::Mutator;
use targets::Target;

/// Says how many executions each target gets; expensive targets get a share of it.
pub const EXECUTIONS_VARIABLE: &str = "TOANI_FUZZ_EXECUTIONS";
/// Executions of each target where nothing else is said.
pub const EXECUTIONS: u64 = 30_000;

/// What the environment says, or [`EXECUTIONS`].
pub fn executions() -> u64 {
    let asked = std::env::var(EXECUTIONS_VARIABLE).ok();
    asked.map_or(EXECUTIONS, |text| text.parse().expect("a number of executions"))
}

/// Runs one target: first its samples as they are, then mutations of them.
///
/// # Panics
/// When something does not hold; the bytes are printed in hexadecimal.
pub fn run(target: &mut Target, executions: u64, seed: u64) {
    let mut mutator = Mutator::new(seed);
    let samples = std::mem::take(&mut target.samples);
    assert!(!samples.is_empty(), "{} has no samples", target.name);
    for sample in &samples {
        attempt(target, sample);
    }
    for _ in 0..(executions / target.cost).max(1) {
        let bytes = mutator.mutate(&samples);
        attempt(target, &bytes);
    }
    target.samples = samples;
}

fn attempt(target: &mut Target, bytes: &[u8]) {
    let check = AssertUnwindSafe(|| (target.check)(bytes));
    if let Err(panic) = catch_unwind(check) {
        let hex = data_encoding::HEXLOWER.encode(bytes);
        eprintln!("{} does not hold for these bytes: {hex}", target.name);
        resume_unwind(panic);
    }
}
