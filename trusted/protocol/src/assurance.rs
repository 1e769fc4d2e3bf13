//! What is true of an execution, as levels. The enclave computes them and no one else.

use serde::{Deserialize, Serialize};

use crate::reason::Reason;

macro_rules! levels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$level_doc:meta])* $level:ident),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$level_doc])* $level),* }
    )*};
}

levels! {
    /// Where the enclave runs. `sgx` means a quote under Intel's root, and nothing else.
    Tee { None, Simulator, Sgx }
    /// What holds the connector. All but `snp` are the host's word.
    SandboxLevel { Native, Gvisor, Vm, Snp }
    /// Who made the request: the gateway for an API key, or the agent by its signature.
    AgentLevel { Gateway, Signed }
    /// The weakest approval that counted.
    ApprovalLevel { None, Key, Software, Passkey }
    /// Whose word it is that the record is durable.
    Durability { Host, Witnessed }
    /// Whose word it is that nothing was rolled back.
    Freshness { Host, Witnessed }
    /// Whose clock it was.
    TimeSource { Host, Witnessed }
}

/// The levels of one execution; also the least that an action's policy accepts: where a policy says
/// nothing, the least level is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Assurance {
    pub tee: Tee,
    pub sandbox: SandboxLevel,
    pub agent: AgentLevel,
    pub approval: ApprovalLevel,
    pub durability: Durability,
    pub freshness: Freshness,
    pub time: TimeSource,
}

impl Assurance {
    /// The lowest level of each.
    pub const LOWEST: Self = Self {
        tee: Tee::None,
        sandbox: SandboxLevel::Native,
        agent: AgentLevel::Gateway,
        approval: ApprovalLevel::None,
        durability: Durability::Host,
        freshness: Freshness::Host,
        time: TimeSource::Host,
    };

    /// Why this is not enough where `least` is asked for: the first aspect in which it is less.
    pub fn shortfall(&self, least: &Self) -> Option<Reason> {
        let short = [
            (Reason::AssuranceTee, self.tee < least.tee),
            (Reason::AssuranceSandbox, self.sandbox < least.sandbox),
            (Reason::AssuranceAgent, self.agent < least.agent),
            (Reason::AssuranceApproval, self.approval < least.approval),
            (Reason::AssuranceDurability, self.durability < least.durability),
            (Reason::AssuranceFreshness, self.freshness < least.freshness),
            (Reason::AssuranceTime, self.time < least.time),
        ];
        short.into_iter().find_map(|(reason, falls_short)| falls_short.then_some(reason))
    }
}

impl Default for Assurance {
    fn default() -> Self {
        Self::LOWEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortfall_is_named() {
        let least = Assurance { tee: Tee::Sgx, ..Assurance::LOWEST };
        assert_eq!(Assurance::LOWEST.shortfall(&least), Some(Reason::AssuranceTee));
        assert_eq!(least.shortfall(&Assurance::LOWEST), None);
        let text = serde_json::to_string(&Assurance::LOWEST).unwrap();
        assert!(text.starts_with("{\"tee\":\"none\",\"sandbox\":\"native\",\"agent\":\"gateway\""));
    }
}
