//! The proof bundle: one file that a stranger can verify offline, with his own trust file alone.
//!
//! It is a tar archive with exactly one encoding (verifier/src/tar.rs), so that no byte of it can
//! change unnoticed:
//!
//! | name | content |
//! |---|---|
//! | `index.json` | canonical `Signed<BundleIndex>`, by the log's key |
//! | `README.txt` | how to verify, in plain words |
//! | `manifest.json` | the instance's manifest |
//! | `admissions/HEX.json` | each admission list that a record names, by SHA-256 |
//! | `evidence/HEX.json` | the evidence of each boot that a record is of, by SHA-256 |
//! | `checkpoint` | the signed note |
//! | `records/NNNNNNNNNN.json` | a record's exact leaf, by its index in the log |
//! | `proofs/NNNNNNNNNN.json` | its inclusion proof: a canonical array of hashes |
//! | `policies/HEX.json` | each signed policy that a record names, by SHA-256 |
//! | `receipts/EXECUTION.json` | canonical `Signed<Receipt>`s |
//! | `disclosures/ACTION.json` | canonical `Disclosure`s: what opens the records' commitments |
//!
//! Its records are those of one tenant without a gap, from a sequence up to the last one that the
//! tenant had at the checkpoint, the record `boot` of each boot that one of them is of and of the
//! one that signs the index, and as many records of the instance itself as the exporter added. The
//! enclave signs the index, so that the exporter cannot leave out the end.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use toani_protocol::{
    ActionId, BootId, ExecutionId, Hash, TenantId, Time,
    canonical::{self, CanonicalError},
    limits::MESSAGE_BYTES_MAX,
};

/// The index must fit into one message to the enclave.
pub const INDEX_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 1024 * 1024;
/// Files of one bundle.
pub const FILES_MAX: usize = 150_000;
/// An index has ten digits in a file name.
pub const INDEX_MAX: u64 = 9_999_999_999;

pub const INDEX_NAME: &str = "index.json";
pub const README_NAME: &str = "README.txt";
pub const MANIFEST_NAME: &str = "manifest.json";
pub const CHECKPOINT_NAME: &str = "checkpoint";

/// What the enclave signs of a bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleIndex {
    pub format: BundleFormat,
    pub instance: Hash,
    /// The boot that signs.
    pub boot: BootId,
    pub tenant: TenantId,
    /// The tenant's last sequence at the checkpoint.
    pub tenant_last_sequence: u64,
    /// The tenant's first sequence in this bundle.
    pub from_sequence: u64,
    /// SHA-256 of the file `checkpoint`.
    pub checkpoint: Hash,
    pub made_at: Time,
    /// Every file but the index itself.
    pub files: BTreeMap<String, FileEntry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BundleFormat {
    #[serde(rename = "toani-bundle/1")]
    V1,
}

/// A file's content, by hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    pub sha256: Hash,
    pub bytes: u64,
}

impl FileEntry {
    pub fn of(bytes: &[u8]) -> Self {
        Self { sha256: Hash::of(bytes), bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX) }
    }
}

impl BundleIndex {
    /// Reads an index that is to be signed: canonical, and of files that a bundle may have.
    pub fn decode(bytes: &[u8]) -> Result<Self, CanonicalError> {
        let index: Self = canonical::decode(bytes, INDEX_BYTES_MAX)?;
        index.check()?;
        Ok(index)
    }

    /// Whether its names are those of a bundle, and it is the index of its checkpoint.
    pub fn check(&self) -> Result<(), CanonicalError> {
        let named = self.files.keys().all(|name| FileKind::of(name).is_some());
        let checkpoint = self.files.get(CHECKPOINT_NAME);
        let bound = checkpoint.is_some_and(|file| file.sha256 == self.checkpoint);
        let ordered = self.from_sequence <= self.tenant_last_sequence;
        if self.files.len() < FILES_MAX && named && bound && ordered {
            Ok(())
        } else {
            Err(CanonicalError::Malformed)
        }
    }
}

/// What a file of a bundle is, as its name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    Readme,
    Manifest,
    Checkpoint,
    Admission(Hash),
    Evidence(Hash),
    Record(u64),
    Proof(u64),
    Policy(Hash),
    Receipt(ExecutionId),
    Disclosure(ActionId),
}

impl FileKind {
    /// `None` for the index and for names that a bundle does not have.
    pub fn of(name: &str) -> Option<Self> {
        let kind = match name {
            README_NAME => Self::Readme,
            MANIFEST_NAME => Self::Manifest,
            CHECKPOINT_NAME => Self::Checkpoint,
            _ => {
                let (folder, file) = name.split_once('/')?;
                let stem = file.strip_suffix(".json")?;
                match folder {
                    "admissions" => Self::Admission(hash_of_stem(stem)?),
                    "evidence" => Self::Evidence(hash_of_stem(stem)?),
                    "policies" => Self::Policy(hash_of_stem(stem)?),
                    "records" => Self::Record(stem.parse().ok()?),
                    "proofs" => Self::Proof(stem.parse().ok()?),
                    "receipts" => Self::Receipt(ExecutionId::new(stem).ok()?),
                    "disclosures" => Self::Disclosure(ActionId::new(stem).ok()?),
                    _ => return None,
                }
            }
        };
        // One name for one thing: leading zeros, signs and the like do not come back the same.
        (kind.name() == name).then_some(kind)
    }

    pub fn name(&self) -> String {
        match self {
            Self::Readme => README_NAME.into(),
            Self::Manifest => MANIFEST_NAME.into(),
            Self::Checkpoint => CHECKPOINT_NAME.into(),
            Self::Admission(hash) => format!("admissions/{}.json", stem_of_hash(hash)),
            Self::Evidence(hash) => format!("evidence/{}.json", stem_of_hash(hash)),
            Self::Record(index) => format!("records/{index:010}.json"),
            Self::Proof(index) => format!("proofs/{index:010}.json"),
            Self::Policy(hash) => format!("policies/{}.json", stem_of_hash(hash)),
            Self::Receipt(execution) => format!("receipts/{execution}.json"),
            Self::Disclosure(action) => format!("disclosures/{action}.json"),
        }
    }
}

fn stem_of_hash(hash: &Hash) -> String {
    HEXLOWER.encode(hash.as_bytes())
}

fn hash_of_stem(stem: &str) -> Option<Hash> {
    let bytes: Vec<u8> = HEXLOWER.decode(stem.as_bytes()).ok()?;
    bytes.try_into().ok().map(Hash::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_have_one_spelling() {
        for good in ["records/0000000007.json", "receipts/exe_1.json", "checkpoint"] {
            assert!(FileKind::of(good).is_some(), "{good}");
        }
        for bad in [
            "index.json",
            "records/7.json",
            "records/+000000007.json",
            "records/00000000007.json",
            "records/0000000007.json/",
            "policies/AB.json",
            "receipts/../x.json",
            "other",
        ] {
            assert!(FileKind::of(bad).is_none(), "{bad}");
        }
    }
}
