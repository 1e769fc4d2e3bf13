//! `toani-fuzz --executions N [--target NAME] [--seed S]`: longer runs of the fuzz targets.

use std::time::Instant;

use anyhow::{Result, bail};
use clap::Parser;
use toani_fuzz::{EXECUTIONS_VARIABLE, hostile, run, targets::ALL};

/// Sequences of calls by a hostile host, beside the targets that are parsers.
const HOSTILE_HOST: &str = "hostile_host";

#[derive(Parser)]
#[command(about = "Mutates real samples and checks what must hold of any input")]
struct Arguments {
    /// Executions of each target; expensive targets get a share of it.
    #[arg(long, env = EXECUTIONS_VARIABLE, default_value_t = 1_000_000)]
    executions: u64,
    /// One target; without it, all.
    #[arg(long)]
    target: Option<String>,
    /// Another seed makes other mutations; sequences of calls have this seed and those behind it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let wanted = |name: &str| arguments.target.as_deref().is_none_or(|target| target == name);
    let mut names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
    names.push(HOSTILE_HOST);
    if !names.iter().any(|name| wanted(name)) {
        bail!("no such target; there are {}", names.join(", "));
    }
    for (name, make) in ALL.iter().filter(|(name, _)| wanted(name)) {
        let begun = Instant::now();
        run(&mut make(), arguments.executions, arguments.seed);
        println!("{name}: holds, {} ms", begun.elapsed().as_millis());
    }
    if wanted(HOSTILE_HOST) {
        let (begun, first) = (Instant::now(), arguments.seed);
        let tally = hostile::fuzz(first..first + hostile::sequences(arguments.executions));
        println!("{HOSTILE_HOST}: holds, {tally:?}, {} ms", begun.elapsed().as_millis());
    }
    Ok(())
}
