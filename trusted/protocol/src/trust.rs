//! The trust file: what a client or verifier believes, from outside of anything it verifies.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{
    ids::{Hash, TenantId},
    instance::SgxPolicy,
    sign::PublicKey,
    text::names,
};

/// Given to clients and verifiers by people, never by the plane itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustFile {
    pub format: TrustFormat,
    /// The manifest's hash.
    pub instance: Hash,
    pub tenant: Option<TenantId>,
    /// Measurements that may sign.
    pub mrenclaves: Vec<Hash>,
    pub log: LogTrust,
    /// X25519, to seal credentials to.
    pub intake_key: IntakeKey,
    /// SHA-256 of the roots that vouch for enclaves: what a quote proves hangs on its root alone.
    pub sgx_roots: Vec<Hash>,
    pub sgx_policy: SgxPolicy,
    pub snp_roots: Vec<Hash>,
    pub witnesses: Vec<LogTrust>,
    pub witness_quorum: u8,
}

names! {
    TrustFormat { V1 = "toani-trust/1", }
}

/// A signer of notes: its name and its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogTrust {
    pub origin: String,
    pub key: PublicKey,
}

/// The instance's X25519 key for credentials: base64url.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IntakeKey(pub crate::sign::Bytes);
