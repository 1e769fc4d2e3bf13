//! Steps, and the sequence that a seed makes of them.

use chacha20::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// One thing that a host does. What `a` and `b` choose is taken modulo what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub op: Op,
    pub a: u32,
    pub b: u32,
    /// The step's first call is checked now and applied later.
    pub hold: bool,
}

macro_rules! ops {
    ($($(#[$doc:meta])* $op:ident: $weight:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Op { $($(#[$doc])* $op),* }

        /// How often each comes, in proportion.
        const WEIGHTS: &[(Op, u32)] = &[$((Op::$op, $weight)),*];
    };
}

ops! {
    /// Honest people put right what keeps everything from working.
    Mend: 20,
    /// A new request, honest or not, to be decided.
    Ask: 8,
    /// An old request once more.
    AskAgain: 3,
    /// A request without a token.
    Direct: 20,
    DirectAgain: 6,
    /// From asking to the token or its execution, as all honest people do it.
    Approved: 14,
    /// A token, with its request or another's.
    Redeem: 16,
    Poll: 4,
    /// A person's answer, honest or not.
    Answer: 10,
    /// An answer that was given before.
    AnswerAgain: 5,
    RevokeToken: 1,
    /// From a redeemed token to the end, as an honest host does it.
    Run: 10,
    Durable: 5,
    Release: 9,
    Finish: 6,
    Abort: 3,
    /// The supervisor answers a job.
    Outcome: 6,
    Carry: 6,
    /// With bytes lost, doubled, changed or exchanged.
    CarryBadly: 1,
    Connect: 1,
    Disconnect: 1,
    /// Somebody opens a result.
    Open: 2,
    Disclose: 1,
    Policy: 4,
    OldPolicy: 2,
    PolicyKey: 2,
    RevokePolicy: 1,
    RevokeAgent: 1,
    Credential: 2,
    OldCredential: 1,
    RevokeCredential: 1,
    Admit: 2,
    Forget: 1,
    Export: 1,
    Tick: 2,
    Clock: 6,
    /// What was checked before is applied.
    Apply: 10,
    /// Two calls that were checked at once take effect one after the other.
    Race: 14,
    /// A call of before, byte for byte.
    Again: 5,
    /// A call of before with some bytes changed.
    Mutated: 5,
    Restart: 1,
}

/// The sequence of a seed.
pub(super) fn sequence(seed: u64, length: usize) -> Vec<Step> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let all: u32 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    let op = |mut roll: u32| {
        for (op, weight) in WEIGHTS {
            match roll.checked_sub(*weight) {
                Some(rest) => roll = rest,
                None => return *op,
            }
        }
        Op::Tick
    };
    let mut step = || Step {
        op: op(rng.next_u32() % all),
        a: rng.next_u32() >> 8,
        b: rng.next_u32() >> 8,
        hold: rng.next_u32().is_multiple_of(6),
    };
    (0..length).map(|_| step()).collect()
}
