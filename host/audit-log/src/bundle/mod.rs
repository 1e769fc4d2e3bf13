//! Making a bundle: collect the files, let the enclave sign the index, write the archive.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use toani_audit::bundle::{
    BundleFormat, BundleIndex, CHECKPOINT_NAME, FILES_MAX, FileEntry, FileKind, INDEX_BYTES_MAX,
    INDEX_MAX, INDEX_NAME,
};
use toani_protocol::{
    ActionId, BootId, ExecutionId, Hash, TenantId, Time,
    canonical::{self, CanonicalError},
    limits::{BUNDLE_BOOTS_MAX, BUNDLE_BYTES_MAX},
    record::Record,
};

const README: &[u8] = include_bytes!("README.txt");

/// A bundle cannot be made of this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    #[error("the bundle would be larger than a bundle may be; export a shorter period")]
    TooLarge,
    #[error("a record's index does not fit into a file name")]
    Index,
    #[error("no record of the bundle names this document")]
    Unnamed,
    #[error("a record or the index is no canonical document: {0}")]
    Canonical(#[from] CanonicalError),
}

/// One record with its proof.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    pub index: u64,
    pub leaf: &'a [u8],
    /// Inclusion proof to the bundle's checkpoint.
    pub proof: &'a [Hash],
}

/// The files of a bundle whose index is not signed yet. What is put in is not verified here: who
/// makes a bundle verifies it afterwards.
#[derive(Debug, Clone)]
pub struct Draft {
    files: BTreeMap<String, Vec<u8>>,
    bytes: usize,
    /// Policies, admission lists and evidence that the records name.
    policies: BTreeSet<Hash>,
    admissions: BTreeSet<Hash>,
    evidence: BTreeSet<Hash>,
}

impl Draft {
    /// Begins with what every bundle has: the manifest's bytes and a signed note.
    pub fn new(manifest: &[u8], checkpoint: &str) -> Result<Self, DraftError> {
        let mut draft = Self {
            files: BTreeMap::new(),
            bytes: 0,
            policies: BTreeSet::new(),
            admissions: BTreeSet::new(),
            evidence: BTreeSet::new(),
        };
        draft.put(&FileKind::Readme, README)?;
        draft.put(&FileKind::Manifest, manifest)?;
        draft.put(&FileKind::Checkpoint, checkpoint.as_bytes())?;
        Ok(draft)
    }

    /// Adds a record and its proof.
    pub fn record(&mut self, entry: &Entry<'_>) -> Result<(), DraftError> {
        if entry.index > INDEX_MAX {
            return Err(DraftError::Index);
        }
        let record = Record::decode(entry.leaf)?;
        self.policies.extend(record.about.policy.map(|policy| policy.hash));
        if record.admission != Hash::ZERO {
            self.admissions.insert(record.admission);
        }
        self.evidence.insert(record.evidence);
        if self.evidence.len() > BUNDLE_BOOTS_MAX {
            return Err(DraftError::TooLarge);
        }
        self.put(&FileKind::Record(entry.index), entry.leaf)?;
        let proof = canonical::encode(entry.proof)?;
        self.put(&FileKind::Proof(entry.index), &proof)
    }

    /// Hashes of the documents that the records name and that are not in yet. A bundle without one
    /// of them is refused.
    pub fn missing(&self) -> Vec<Hash> {
        type Named<'a> = (&'a BTreeSet<Hash>, fn(Hash) -> FileKind);
        let kinds: [Named<'_>; 3] = [
            (&self.policies, FileKind::Policy),
            (&self.admissions, FileKind::Admission),
            (&self.evidence, FileKind::Evidence),
        ];
        let absent =
            |hash: Hash, kind: FileKind| (!self.files.contains_key(&kind.name())).then_some(hash);
        kinds
            .into_iter()
            .flat_map(|(named, kind)| {
                named.iter().filter_map(move |hash| absent(*hash, kind(*hash)))
            })
            .collect()
    }

    /// Adds a document that the records name; another is refused.
    pub fn document(&mut self, bytes: &[u8]) -> Result<(), DraftError> {
        let hash = Hash::of(bytes);
        let kind = if self.policies.contains(&hash) {
            FileKind::Policy(hash)
        } else if self.admissions.contains(&hash) {
            FileKind::Admission(hash)
        } else if self.evidence.contains(&hash) {
            FileKind::Evidence(hash)
        } else {
            return Err(DraftError::Unnamed);
        };
        self.put(&kind, bytes)
    }

    /// Adds a canonical `Signed<Receipt>`.
    pub fn receipt(&mut self, execution: ExecutionId, bytes: &[u8]) -> Result<(), DraftError> {
        self.put(&FileKind::Receipt(execution), bytes)
    }

    /// Adds a canonical `Disclosure`.
    pub fn disclosure(&mut self, action: ActionId, bytes: &[u8]) -> Result<(), DraftError> {
        self.put(&FileKind::Disclosure(action), bytes)
    }

    fn put(&mut self, kind: &FileKind, bytes: &[u8]) -> Result<(), DraftError> {
        self.bytes =
            self.bytes.saturating_add(bytes.len().next_multiple_of(512)).saturating_add(512);
        let room = BUNDLE_BYTES_MAX.saturating_sub(INDEX_BYTES_MAX);
        if self.bytes > room || self.files.len() >= FILES_MAX {
            return Err(DraftError::TooLarge);
        }
        self.files.insert(kind.name(), bytes.to_vec());
        Ok(())
    }

    /// The canonical index for the enclave to sign.
    pub fn index(
        &self,
        instance: Hash,
        boot: BootId,
        tenant: TenantId,
        sequences: RangeInclusive<u64>,
        made_at: Time,
    ) -> Result<Vec<u8>, DraftError> {
        let entries = self.files.iter();
        let files: BTreeMap<String, FileEntry> =
            entries.map(|(name, bytes)| (name.clone(), FileEntry::of(bytes))).collect();
        let checkpoint = files.get(CHECKPOINT_NAME);
        let index = BundleIndex {
            format: BundleFormat::V1,
            instance,
            boot,
            tenant,
            tenant_last_sequence: *sequences.end(),
            from_sequence: *sequences.start(),
            checkpoint: checkpoint.map_or(Hash::ZERO, |file| file.sha256),
            made_at,
            files,
        };
        let bytes = canonical::encode(&index)?;
        if bytes.len() > INDEX_BYTES_MAX.saturating_sub(1024) {
            return Err(DraftError::TooLarge);
        }
        Ok(bytes)
    }

    /// The bundle, with the canonical `Signed<BundleIndex>` that the enclave made of the index.
    pub fn finish(mut self, signed_index: Vec<u8>) -> Result<Vec<u8>, DraftError> {
        self.files.insert(INDEX_NAME.into(), signed_index);
        toani_verify::tar::write(&self.files).map_err(|_| DraftError::TooLarge)
    }
}

#[cfg(test)]
mod tests;
