//! What is true of an execution, as levels. The enclave computes them and no one else.

use serde::{Deserialize, Serialize};

use crate::reason::Reason;

/// Levels from the least to the highest, each with what it means for people.
macro_rules! levels {
    ($($(#[$doc:meta])* $name:ident { $($level:ident = $text:literal, $means:literal;)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $(#[doc = $means] #[serde(rename = $text)] $level),* }

        impl $name {
            /// The stable name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$level => $text),* }
            }

            /// What it means, in the words that status, receipts and bundles are explained by.
            pub const fn means(self) -> &'static str {
                match self { $(Self::$level => $means),* }
            }
        }
    )*};
}

levels! {
    /// Where the enclave runs. `sgx` means a quote under Intel's root, and nothing else.
    Tee {
        None = "none", "nothing is proven about what runs";
        Simulator = "simulator", "a simulated TEE: the measurement is real, its protection is not; \
            who is root on that machine, or the plane's user, reads every key";
        Sgx = "sgx", "a quote under Intel's root; not yet run on SGX hardware";
    }
    /// What holds the connector. All but `snp` are the host's word.
    SandboxLevel {
        Native = "native", "namespaces and seccomp, by the host's word";
        Gvisor = "gvisor", "a gVisor container, by the host's word";
        Vm = "vm", "a virtual machine, by the host's word";
        Snp = "snp", "a guest under AMD's root";
    }
    /// Who made the request.
    AgentLevel {
        Gateway = "gateway", "an API key: whoever saw it, the gateway too, can ask";
        Signed = "signed", "the agent's own signature";
    }
    /// The weakest approval that counted.
    ApprovalLevel {
        None = "none", "nobody was asked";
        Key = "key", "a signature by a person's key";
        Software = "software", "a passkey in software";
        Passkey = "passkey", "a passkey, an authenticator's by the policy author's word";
    }
    /// Whose word it is that the record is durable.
    Durability {
        Host = "host", "the host says that the record is kept";
        Witnessed = "witnessed", "a witness has seen it";
    }
    /// Whose word it is that nothing was rolled back.
    Freshness {
        Host = "host", "the host says that nothing was rolled back";
        Witnessed = "witnessed", "a witness refuses a log that was rolled back";
    }
    /// Whose clock it was.
    TimeSource {
        Host = "host", "the host's clock";
        Witnessed = "witnessed", "a witness's clock";
    }
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

    /// Each aspect with its level and what that means.
    pub const fn in_words(&self) -> [(&'static str, &'static str, &'static str); 7] {
        let Self { tee, sandbox, agent, approval, durability, freshness, time } = *self;
        [
            ("tee", tee.as_str(), tee.means()),
            ("sandbox", sandbox.as_str(), sandbox.means()),
            ("agent", agent.as_str(), agent.means()),
            ("approval", approval.as_str(), approval.means()),
            ("durability", durability.as_str(), durability.means()),
            ("freshness", freshness.as_str(), freshness.means()),
            ("time", time.as_str(), time.means()),
        ]
    }

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
        for (aspect, level, _) in least.in_words() {
            assert_eq!(serde_json::to_value(least).unwrap()[aspect], level);
        }
        assert!(text.starts_with("{\"tee\":\"none\",\"sandbox\":\"native\",\"agent\":\"gateway\""));
    }
}
