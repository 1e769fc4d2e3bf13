//! A credential as its owner sends it: sealed on the owner's side, for this instance alone.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::{
    canonical::{self, CanonicalError},
    ids::{CredentialId, Hash, Namespace, TenantId},
    limits::SEALED_CREDENTIAL_BYTES_MAX,
    policy::{Endpoint, Injection, TlsTrust},
    sign::{Bytes, Label, PublicKey, Signature, SignatureError},
};

/// HPKE's info string for sealing to the intake key (RFC 9180, section 5.1).
pub const INTAKE_INFO: &[u8] = b"toani/v1/intake";

/// What the owner allows. It is the AAD of the ciphertext and it is signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialHeader {
    pub instance: Hash,
    pub tenant: TenantId,
    pub namespace: Namespace,
    pub owner: PublicKey,
    pub id: CredentialId,
    pub version: u64,
    /// Where it may be sent.
    pub endpoints: Vec<Endpoint>,
    /// What these endpoints' certificates are verified against.
    pub tls: TlsTrust,
    pub injection: Injection,
    /// Whether the enclave may replace the value, as OAuth refresh needs.
    pub rotate: bool,
}

/// Header and ciphertext, signed by the owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedCredential {
    pub header: CredentialHeader,
    /// HPKE DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, base mode: the encapsulated key.
    pub encapsulated: Bytes,
    pub ciphertext: Bytes,
    /// By `header.owner`, over the canonical `[header, encapsulated, ciphertext]`.
    pub signature: Signature,
}

impl SealedCredential {
    /// Reads canonical bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, CanonicalError> {
        canonical::decode(bytes, SEALED_CREDENTIAL_BYTES_MAX)
    }

    /// What the owner signs.
    pub fn signed_bytes(
        header: &CredentialHeader,
        encapsulated: &Bytes,
        ciphertext: &Bytes,
    ) -> Result<Vec<u8>, CanonicalError> {
        canonical::encode(&(header, encapsulated, ciphertext))
    }

    /// Verifies the owner's signature.
    pub fn verify(&self) -> Result<(), SignatureError> {
        let bytes = Self::signed_bytes(&self.header, &self.encapsulated, &self.ciphertext)
            .map_err(|_| SignatureError)?;
        self.header.owner.verify(Label::Credential, &bytes, &self.signature)
    }
}
