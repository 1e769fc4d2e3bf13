//! What a person is shown, and what a person signs.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::{
    canonical::{self, CanonicalError, Json},
    ids::{
        ActionId, ActionName, AgentId, BootId, Hash, PersonId, ServiceId, TenantId, Time, UserId,
    },
    limits::EVIDENCE_BYTES_MAX,
    plan::Plan,
    policy::{ApproverKey, Tier},
    record::PolicyRef,
    sign::{Bytes, Label, Signature},
};

/// An action that waits, complete and readable, signed by the enclave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    pub instance: Hash,
    pub boot: BootId,
    pub action_id: ActionId,
    pub tenant: TenantId,
    pub agent: AgentId,
    /// Whom the agent claims to act for.
    pub user: UserId,
    pub service: ServiceId,
    pub action: ActionName,
    pub params: Json,
    pub plan: Plan,
    pub policy: PolicyRef,
    pub tier: Tier,
    /// Who may answer.
    pub approvers: Vec<PersonId>,
    /// How many of them must approve.
    pub threshold: u8,
    pub issued_at: Time,
    /// From then on it counts as denied.
    pub expires_at: Time,
}

impl Statement {
    /// The hash of a statement's canonical bytes.
    pub fn hash_of(bytes: &[u8]) -> Hash {
        Hash::of_labelled(Label::Statement.as_str(), bytes)
    }
}

/// Yes or no. One no is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Approve,
    Deny,
}

impl Verdict {
    /// The label under which this verdict is signed: a no can never be turned into a yes.
    pub const fn label(self) -> Label {
        match self {
            Self::Approve => Label::Approve,
            Self::Deny => Label::Deny,
        }
    }

    /// The WebAuthn challenge: SHA-256 over label, zero byte and the statement's hash.
    pub fn challenge(self, statement: &Hash) -> Hash {
        Hash::of_labelled(self.label().as_str(), statement.as_bytes())
    }
}

/// One person's answer to one statement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    pub action_id: ActionId,
    pub person: PersonId,
    pub verdict: Verdict,
    /// Which of the person's keys, exactly as the policy lists it.
    pub key: ApproverKey,
    pub proof: ApprovalProof,
}

impl Evidence {
    /// Reads canonical bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, CanonicalError> {
        canonical::decode(bytes, EVIDENCE_BYTES_MAX)
    }
}

/// The signature itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ApprovalProof {
    /// Over the verdict's label, a zero byte and the statement's hash.
    Ed25519(Signature),
    /// A WebAuthn assertion whose challenge is [`Verdict::challenge`].
    Webauthn(Assertion),
}

/// What a WebAuthn authenticator returns (Web Authentication Level 2, section 5.2.2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assertion {
    pub authenticator_data: Bytes,
    pub client_data_json: Bytes,
    /// ECDSA, DER.
    pub signature: Bytes,
}
