//! The instance: its manifest, which never changes, and its admission list, which does.

use alloc::{collections::BTreeSet, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{
    assurance::SandboxLevel,
    canonical::{self, CanonicalError},
    ids::Hash,
    limits::{ADMITTED_SANDBOXES_MAX, DOCUMENT_BYTES_MAX, OPERATORS_MAX},
    sign::{Label, PublicKey, SignatureError, Signed},
    text::names,
};

/// Under what one instance is born. Its hash is the instance's id, in every derived key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: ManifestFormat,
    /// SHA-256 of the DER of each root that vouches for enclaves. Empty: no attestation.
    pub sgx_roots: Vec<Hash>,
    /// SHA-256 of the DER of each root that vouches for guests. Empty: no attestation.
    pub snp_roots: Vec<Hash>,
    pub operators: Vec<PublicKey>,
    /// How many operators must sign an admission list.
    pub quorum: u8,
    /// The origin line of the instance's log.
    pub log_origin: String,
    /// Makes two manifests with the same content two instances.
    pub nonce: Hash,
}

names! {
    ManifestFormat { V1 = "toani-manifest/1", }
}

/// A manifest is of another form, or its numbers do not fit each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    #[error("a manifest names 1 to 32 distinct operators and a quorum of at least one of them")]
    Operators,
    #[error("a log origin is 1 to 128 visible ASCII characters without '+' and white space")]
    Origin,
}

impl Manifest {
    /// Reads and checks a manifest.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = canonical::decode(bytes, DOCUMENT_BYTES_MAX)?;
        let operators = &manifest.operators;
        let distinct: BTreeSet<_> = operators.iter().collect();
        let distinct = distinct.len() == operators.len();
        let quorum = usize::from(manifest.quorum);
        if !distinct || operators.len() > OPERATORS_MAX || quorum == 0 || quorum > operators.len() {
            return Err(ManifestError::Operators);
        }
        if !is_origin(&manifest.log_origin) {
            return Err(ManifestError::Origin);
        }
        Ok(manifest)
    }

    /// The instance's id: the hash of the canonical manifest.
    pub fn id_of(bytes: &[u8]) -> Hash {
        Hash::of_labelled("toani/v1/manifest", bytes)
    }
}

/// A C2SP signed note's key name: non-empty, no white space, no plus.
pub fn is_origin(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic() && b != b'+')
}

/// What the operators admit for now. Versions grow; a record activates each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdmissionList {
    pub format: AdmissionFormat,
    pub instance: Hash,
    pub version: u64,
    pub sandboxes: Vec<AdmittedSandbox>,
}

names! {
    AdmissionFormat { V1 = "toani-admission/1", }
}

/// A supervisor that may receive credentials, and the level at which the operators admit it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdmittedSandbox {
    pub measurement: Hash,
    pub level: SandboxLevel,
}

/// An admission list whose operators' signatures were verified for this instance.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedAdmission {
    list: AdmissionList,
    hash: Hash,
}

/// Why an admission list is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("the admission list is for another instance")]
    Instance,
    #[error("the admission list names too many sandboxes")]
    TooMany,
}

impl VerifiedAdmission {
    /// Verifies `bytes`, a canonical `Signed<AdmissionList>`, against the manifest.
    pub fn verify(
        bytes: &[u8],
        manifest: &Manifest,
        instance: Hash,
    ) -> Result<Self, AdmissionError> {
        let signed: Signed<AdmissionList> = canonical::decode(bytes, DOCUMENT_BYTES_MAX)?;
        signed.verify(Label::Admission, &manifest.operators, usize::from(manifest.quorum))?;
        if signed.payload.instance != instance {
            return Err(AdmissionError::Instance);
        }
        if signed.payload.sandboxes.len() > ADMITTED_SANDBOXES_MAX {
            return Err(AdmissionError::TooMany);
        }
        Ok(Self { list: signed.payload, hash: Hash::of(bytes) })
    }

    pub fn hash(&self) -> Hash {
        self.hash
    }

    pub fn version(&self) -> u64 {
        self.list.version
    }

    /// The level at which a measurement is admitted.
    pub fn level_of(&self, measurement: Hash) -> Option<SandboxLevel> {
        let mut sandboxes = self.list.sandboxes.iter();
        sandboxes.find(|admitted| admitted.measurement == measurement).map(|found| found.level)
    }
}
