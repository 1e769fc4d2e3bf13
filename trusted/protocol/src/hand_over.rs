//! Hand-over: an instance's root key goes on in another image, or on another machine.
//!
//! ```text
//! ask    an enclave that has no root makes a key; its quote vouches for it     RootRequest
//! sign   a quorum of operators allows one hand-over, to this key alone         HandOver
//! give   the enclave that has the root records it, and seals the root to it    RootPackage
//! take   the other one opens it, and seals it for itself
//! ```
//!
//! Each enclave verifies the other's quote under the manifest's roots before a root leaves, and
//! before one is taken in.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::{
    canonical::{self, CanonicalError},
    evidence::BootKeys,
    ids::{BootId, Hash, Time},
    limits::DOCUMENT_BYTES_MAX,
    sign::{Bytes, PublicKey, Signed},
    text::names,
};

/// HPKE's info string for sealing a root (RFC 9180, section 5.1).
pub const ROOT_INFO: &[u8] = b"toani/v1/hand-over";

/// What an enclave shows that asks for a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootRequest {
    pub format: RootRequestFormat,
    pub instance: Hash,
    /// X25519, 32 bytes: the root is sealed to it.
    pub key: Bytes,
    /// Evidence over [`crate::evidence::root_request_report_data`].
    pub evidence: Bytes,
}

names! {
    RootRequestFormat { V1 = "toani-root-request/1", }
}

/// What the operators sign: one hand-over, of one instance, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandOver {
    pub format: HandOverFormat,
    pub instance: Hash,
    /// One more than that of the last hand-over in the instance's log; the first is 1.
    pub counter: u64,
    /// MRENCLAVE of the enclave that gives the root.
    pub from: Hash,
    /// MRENCLAVE of the one that takes it; the same on another machine.
    pub to: Hash,
    /// The least ISVSVN of the one that takes it.
    pub min_isv_svn: u16,
    /// The key of its request.
    pub key: Bytes,
    /// From then on nobody gives a root for this.
    pub expires_at: Time,
}

names! {
    HandOverFormat { V1 = "toani-hand-over/1", }
}

impl HandOver {
    /// HPKE's AAD: what is sealed for one statement opens for no other.
    pub fn aad(&self) -> Result<Vec<u8>, CanonicalError> {
        canonical::encode(self)
    }
}

/// A root on its way. Not secret, and of use to one enclave alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootPackage {
    pub format: RootPackageFormat,
    pub statement: Signed<HandOver>,
    /// The boot that gave it, and the keys that its evidence vouches for. The root that comes out
    /// has to be the one that this chain key is derived from.
    pub boot: BootId,
    pub chain_key: PublicKey,
    pub intake_key: Bytes,
    pub channel: Hash,
    pub evidence: Bytes,
    /// HPKE DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, base mode: the encapsulated key.
    pub encapsulated: Bytes,
    pub ciphertext: Bytes,
}

names! {
    RootPackageFormat { V1 = "toani-root-package/1", }
}

impl RootPackage {
    /// Reads canonical bytes, verifying nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, CanonicalError> {
        canonical::decode(bytes, DOCUMENT_BYTES_MAX)
    }

    /// What the giver's evidence has to vouch for.
    pub fn vouched(&self) -> Option<BootKeys> {
        let intake = self.intake_key.0.as_slice().try_into().ok()?;
        Some(BootKeys { chain: self.chain_key, intake, channel: self.channel })
    }
}
