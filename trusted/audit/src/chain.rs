//! The chain: what each record must say of the ones before it.

use alloc::collections::BTreeMap;

use toani_protocol::{Hash, TenantId, Time, record::Record, sign::PublicKey};

use crate::tree::Frontier;

/// Why a record does not continue the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    #[error("a leaf is not a canonical record")]
    Malformed,
    #[error("a record's signature is not by the log's key")]
    Signature,
    #[error("a record is of another log")]
    Origin,
    #[error("a record's index does not follow the one before")]
    Index,
    #[error("a record does not name the hash of the one before")]
    Previous,
    #[error("a record's time lies before the one before it")]
    Time,
    #[error("a record's tenant, sequence and link do not stand together")]
    TenantFields,
    #[error("a record's tenant sequence does not follow the tenant's one before")]
    TenantSequence,
    #[error("a record does not name the hash of its tenant's one before")]
    TenantPrevious,
}

/// What the next record of a tenant says of the tenant's ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantTip {
    /// The next sequence.
    pub sequence: u64,
    /// Hash of the tenant's last record; zero if there is none.
    pub previous: Hash,
}

impl TenantTip {
    /// Before a tenant's first record.
    pub const START: Self = Self { sequence: 0, previous: Hash::ZERO };

    /// Moves past a record of this tenant, if it follows.
    pub fn advance(&mut self, record: &Record, leaf_hash: Hash) -> Result<(), ChainError> {
        let about = &record.about;
        let (Some(sequence), Some(previous)) = (about.tenant_sequence, about.tenant_previous)
        else {
            return Err(ChainError::TenantFields);
        };
        if sequence != self.sequence {
            return Err(ChainError::TenantSequence);
        }
        if previous != self.previous {
            return Err(ChainError::TenantPrevious);
        }
        self.sequence = self.sequence.saturating_add(1);
        self.previous = leaf_hash;
        Ok(())
    }
}

/// The links of a log as far as it was walked, and its tree. The enclave makes its records from
/// it; a verifier holds records against it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Links {
    frontier: Frontier,
    head: Hash,
    time: Time,
    tenants: BTreeMap<TenantId, TenantTip>,
}

impl Links {
    /// Before the first record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records so far: the next record's index.
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The next record's `previous`.
    pub fn head(&self) -> Hash {
        self.head
    }

    /// The last record's time; the next one's is not before it.
    pub fn time(&self) -> Time {
        self.time
    }

    /// What the tenant's next record says.
    pub fn tenant(&self, tenant: &TenantId) -> TenantTip {
        self.tenants.get(tenant).copied().unwrap_or(TenantTip::START)
    }

    /// The tree over all records so far.
    pub fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// Moves past one record, if it follows. `leaf_hash` is `Record::hash_of` of its leaf. Nothing
    /// changes on an error. Neither origin nor signature is looked at.
    pub fn advance(&mut self, record: &Record, leaf_hash: Hash) -> Result<(), ChainError> {
        if record.index != self.size() {
            return Err(ChainError::Index);
        }
        if record.previous != self.head {
            return Err(ChainError::Previous);
        }
        if record.time < self.time {
            return Err(ChainError::Time);
        }
        let about = &record.about;
        match &about.tenant {
            Some(tenant) => {
                let mut tip = self.tenant(tenant);
                tip.advance(record, leaf_hash)?;
                self.tenants.insert(tenant.clone(), tip);
            }
            None if about.tenant_sequence.is_some() || about.tenant_previous.is_some() => {
                return Err(ChainError::TenantFields);
            }
            None => {}
        }
        self.frontier.push(leaf_hash);
        self.head = leaf_hash;
        self.time = record.time;
        Ok(())
    }
}

/// Verifies a leaf by itself: canonical, of this log, and signed by its key.
pub fn verify_record(leaf: &[u8], origin: &str, key: &PublicKey) -> Result<Record, ChainError> {
    let record = Record::decode(leaf).map_err(|_| ChainError::Malformed)?;
    if record.origin != origin {
        return Err(ChainError::Origin);
    }
    record.verify(key).map_err(|_| ChainError::Signature)?;
    Ok(record)
}
