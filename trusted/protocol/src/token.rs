//! The Action Token's claims. The token itself is PASETO v4.local, made and opened in the enclave.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::{
    ids::{ActionId, ActionName, BootId, Hash, PolicyId, ServiceId, Time},
    policy::Tier,
};

/// The issuer claim.
pub const ISSUER: &str = "toani-control-tee-enclave";

/// What a token is bound to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// A random UUID, version 4.
    pub jti: String,
    pub iss: String,
    /// `tenant:agent:user`.
    pub sub: String,
    pub iat: Time,
    pub exp: Time,
    pub boot: BootId,
    pub action_id: ActionId,
    pub policy_id: PolicyId,
    pub policy_version: u64,
    pub service: ServiceId,
    pub action: ActionName,
    /// The commitment that the records carry; the enclave knows its nonce.
    pub params_hash: Hash,
    pub plan_hash: Hash,
    /// The plan's random bytes: with them the same plan can be rendered again.
    pub plan_nonce: Hash,
    pub credential_version: Option<u64>,
    pub risk_tier: Tier,
    pub hitl_confirmed: bool,
    pub hitl_confirmed_at: Option<Time>,
    pub hitl_proof: Option<Hash>,
    pub tee_mrenclave: Hash,
}

/// The record's reference to a token: the hash of its jti.
pub fn jti_hash(jti: &str) -> Hash {
    Hash::of_labelled("toani/v1/jti", jti.as_bytes())
}
