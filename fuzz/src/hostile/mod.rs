//! A hostile host: sequences of calls against a real instance, and oracles that know better.
//!
//! A seed makes a list of [`Step`]s; each is one thing that a host can do, whatever came before, so
//! that any list of steps can be run and a failing one can be shortened. The model sees what was
//! sent and what came back, knows what the honest holders of keys have signed, and says what should
//! never have happened. It asks the enclave nothing.
//!
//! Steps and the enclave's random bytes are the seed's. TLS, PASETO and HPKE draw their own, on
//! which no step depends.
//!
//! Included by `#[path]` as well, to run over copies of the enclave with planted bugs.

mod actions;
mod boots;
mod channel;
mod documents;
mod fold;
mod host;
mod model;
mod people;
mod secrets;
mod steps;

use host::Host;
pub use host::Tally;
pub use steps::{Op, Step};

/// Steps of one sequence.
pub const STEPS: usize = 300;

/// A sequence is as dear as so many executions of a target that parses a document.
const COST: u64 = 1_500;

/// So many sequences for so many executions.
pub fn sequences(executions: u64) -> u64 {
    (executions / COST).max(1)
}

/// What an oracle watches over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A credential's plaintext outside of the channel.
    Plaintext,
    /// A key of the instance, anywhere.
    Key,
    /// A token, an idempotency key or a job that counts twice.
    SecondUse,
    /// A policy in effect that is not its author's, not the newest, or over.
    Policy,
    Quota,
    /// An action that runs without those who have to approve it, or not as they approved it.
    Approval,
    /// A credential or a sandbox that its owner or the operators did not sign, or have ended.
    Authority,
    /// What is not signed by whom it names, and was heard.
    Forgery,
    /// The log: links, times, signatures, durability, ends.
    Log,
    Panic,
}

/// What should never have happened.
#[derive(Debug, Clone)]
pub struct Breach {
    pub kind: Kind,
    pub what: String,
}

/// What comes of something that an oracle may object to.
type Watched<T = ()> = Result<T, Breach>;

fn breach<T>(kind: Kind, what: impl Into<String>) -> Watched<T> {
    Err(Breach { kind, what: what.into() })
}

fn ensure(holds: bool, kind: Kind, what: &str) -> Watched {
    if holds { Ok(()) } else { breach(kind, what) }
}

/// A breach, and the steps that lead to it.
#[derive(Debug)]
pub struct Found {
    pub seed: u64,
    pub steps: Vec<Step>,
    pub breach: Breach,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Breach { kind, what } = &self.breach;
        writeln!(f, "seed {}: {kind:?}: {what}; after {} steps:", self.seed, self.steps.len())?;
        self.steps.iter().try_for_each(|step| writeln!(f, "    {step:?}"))
    }
}

/// Runs the sequence of a seed.
pub fn run(seed: u64) -> Result<Tally, Found> {
    let steps = steps::sequence(seed, STEPS);
    replay(seed, &steps).map_err(|(breach, used)| Found {
        seed,
        steps: steps[..used].to_vec(),
        breach,
    })
}

/// Runs these steps; a breach comes with how many of them it took.
fn replay(seed: u64, steps: &[Step]) -> Result<Tally, (Breach, usize)> {
    let mut host = Host::new(seed).map_err(|breach| (breach, 0))?;
    for (i, step) in steps.iter().enumerate() {
        host.step(step).map_err(|breach| (breach, i + 1))?;
    }
    host.end().map_err(|breach| (breach, steps.len()))?;
    Ok(host.tally)
}

/// Drops steps as long as what is left ends in the same kind of breach.
pub fn shortened(found: Found) -> Found {
    let Found { seed, mut steps, mut breach } = found;
    let mut size = steps.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            match replay(seed, &fewer) {
                Err((again, used)) if again.kind == breach.kind => {
                    fewer.truncate(used);
                    (steps, breach) = (fewer, again);
                }
                _ => at += size,
            }
        }
        size /= 2;
    }
    Found { seed, steps, breach }
}

/// Runs the sequences of these seeds.
///
/// # Panics
/// At a breach: seed and shortened steps are in the message.
pub fn fuzz(seeds: std::ops::Range<u64>) -> Tally {
    seeds.fold(Tally::default(), |tally, seed| match run(seed) {
        Ok(more) => tally.with(&more),
        Err(found) => panic!("{}", shortened(found)),
    })
}
