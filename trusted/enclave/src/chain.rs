//! The chain of records: made here, one after the other, each signed.

use alloc::{
    collections::{BTreeMap, VecDeque},
    string::String,
};

use toani_audit::{
    chain::{ChainError, Links},
    checkpoint,
    tree::Frontier,
};
use toani_protocol::{
    Hash, Reason, TenantId, Time,
    assurance::Tee,
    canonical,
    limits::{RECORD_BYTES_MAX, UNDURABLE_RECORDS_MAX, UNDURABLE_RECORDS_RESERVE},
    record::{About, Record, RecordKind},
    sign::{self, Label, Signature},
    wire::Effect,
};

use crate::keys::Keys;

/// What every record of a boot says.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub(crate) origin: String,
    pub(crate) mrenclave: Hash,
    pub(crate) tee: Tee,
    /// Hash of the boot's evidence.
    pub(crate) evidence: Hash,
    /// Hash of the active admission list; zero before the first.
    pub(crate) admission: Hash,
}

/// A record that is signed and not yet known to be durable.
#[derive(Debug)]
struct Undurable {
    leaf_hash: Hash,
    tenant: Option<(TenantId, u64)>,
}

/// Proof that the host has called a record durable. There is no other way to have one.
#[derive(Debug)]
pub(crate) struct DurableStart(());

/// The end of the chain.
#[derive(Debug)]
pub(crate) struct Chain {
    links: Links,
    durable: Frontier,
    undurable: VecDeque<Undurable>,
    /// Last sequence of each tenant among the durable records.
    covered: BTreeMap<TenantId, u64>,
}

impl Chain {
    /// Continues a chain all of whose records are durable.
    pub(crate) fn after(links: Links, covered: BTreeMap<TenantId, u64>) -> Self {
        let durable = links.frontier().clone();
        Self { links, durable, undurable: VecDeque::new(), covered }
    }

    pub(crate) fn size(&self) -> u64 {
        self.links.size()
    }

    pub(crate) fn durable_size(&self) -> u64 {
        self.durable.size()
    }

    /// The host's clock, but never before the log's last time.
    pub(crate) fn time(&self, now: Time) -> Time {
        now.max(self.links.time())
    }

    /// Whether another record of this kind may be signed before the host makes some durable.
    /// What starts something leaves room for the end of everything that has started.
    pub(crate) fn room(&self, kind: RecordKind) -> Result<(), Reason> {
        let reserve = match kind {
            RecordKind::Finished | RecordKind::Ended => 0,
            _ => UNDURABLE_RECORDS_RESERVE,
        };
        let limit = UNDURABLE_RECORDS_MAX.saturating_sub(reserve);
        if self.undurable.len() < limit { Ok(()) } else { Err(Reason::LogUnavailable) }
    }

    /// Makes, signs and links the next record.
    pub(crate) fn append(
        &mut self,
        keys: &Keys,
        standing: &Standing,
        now: Time,
        kind: RecordKind,
        mut about: About,
    ) -> Result<(Record, Effect), Reason> {
        self.room(kind)?;
        if let Some(tenant) = &about.tenant {
            let tip = self.links.tenant(tenant);
            about.tenant_sequence = Some(tip.sequence);
            about.tenant_previous = Some(tip.previous);
        }
        let mut record = Record {
            index: self.size(),
            origin: standing.origin.clone(),
            previous: self.links.head(),
            time: self.time(now),
            boot: keys.boot.clone(),
            kind,
            tee_mrenclave: standing.mrenclave,
            evidence: standing.evidence,
            admission: standing.admission,
            about,
            chain_signature: Signature([0; 64]),
        };
        let unsigned = canonical::encode(&record).map_err(|_| Reason::Internal)?;
        record.chain_signature = sign::sign(&keys.chain, Label::Record, &unsigned);
        let leaf = canonical::encode(&record).map_err(|_| Reason::Internal)?;
        if leaf.len() > RECORD_BYTES_MAX {
            return Err(Reason::Internal);
        }
        let leaf_hash = Record::hash_of(&leaf);
        self.links.advance(&record, leaf_hash).map_err(|_: ChainError| Reason::Internal)?;
        let tenant = record.about.tenant.clone().zip(record.about.tenant_sequence);
        self.undurable.push_back(Undurable { leaf_hash, tenant });
        let effect = Effect::Append { index: record.index, leaf };
        Ok((record, effect))
    }

    /// The host says that records up to `size` are durable: signs the checkpoint over them.
    pub(crate) fn durable(
        &mut self,
        keys: &Keys,
        origin: &str,
        size: u64,
    ) -> Result<String, Reason> {
        if size > self.size() || size < self.durable.size() {
            return Err(Reason::LogUnavailable);
        }
        while self.durable.size() < size {
            let next = self.undurable.pop_front().ok_or(Reason::Internal)?;
            self.durable.push(next.leaf_hash);
            if let Some((tenant, sequence)) = next.tenant {
                self.covered.insert(tenant, sequence);
            }
        }
        Ok(checkpoint::sign(origin, size, &self.durable.root(), &keys.chain))
    }

    /// The last sequence of a tenant among the durable records.
    pub(crate) fn covered(&self, tenant: &TenantId) -> Option<u64> {
        self.covered.get(tenant).copied()
    }

    /// Step 8 exists only behind this: the record's durability.
    pub(crate) fn durable_start(&self, index: u64) -> Option<DurableStart> {
        (index < self.durable.size()).then_some(DurableStart(()))
    }
}
