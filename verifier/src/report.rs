//! What a verified bundle says, in numbers and words.

use std::collections::BTreeMap;

use serde::Serialize;
use toani_protocol::{
    Hash, TenantId, Time,
    assurance::{Assurance, Tee},
    record::Record,
};

use crate::{attested::AttestedBoot, disclosure::Disclosed};

/// What was verified. Every field follows from records whose proofs hold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub instance: Hash,
    pub tenant: TenantId,
    pub origin: String,
    /// Records in the whole log at the checkpoint, of all tenants.
    pub checkpoint_size: u64,
    pub checkpoint_root: Hash,
    /// When the enclave signed the index, by its clock.
    pub made_at: Time,
    /// The tenant's records in this bundle.
    pub records: u64,
    /// Records of the instance itself in this bundle.
    pub instance_records: u64,
    pub from_sequence: u64,
    pub last_sequence: u64,
    /// Time of the tenant's first and last record in this bundle.
    pub from: Time,
    pub to: Time,
    pub kinds: BTreeMap<String, u64>,
    pub outcomes: BTreeMap<String, u64>,
    pub policies: u64,
    pub receipts: u64,
    /// Actions whose params, and whose approvers, the bundle shows.
    pub disclosed: Vec<Disclosed>,
    /// What the boots of the records, and that which signed the index, have proven of themselves.
    pub boots: Vec<AttestedBoot>,
    /// The least that a boot's evidence proves, by its root; never what the records claim.
    pub tee: Tee,
    pub tee_statement: String,
    /// The weakest level of each aspect over all records that state one, `tee` as above.
    pub weakest: Option<Assurance>,
    pub coverage: String,
}

fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    let count = counts.entry(name.into()).or_default();
    *count = count.saturating_add(1);
}

impl Report {
    /// Counts one of the tenant's records.
    pub(crate) fn add(&mut self, record: &Record) {
        self.records = self.records.saturating_add(1);
        count(&mut self.kinds, record.kind.as_str());
        if let Some(outcome) = record.about.outcome {
            count(&mut self.outcomes, outcome.as_str());
        }
        if let Some(stated) = record.about.assurance {
            let weakest = self.weakest.get_or_insert(stated);
            *weakest = Assurance {
                tee: self.tee,
                sandbox: weakest.sandbox.min(stated.sandbox),
                agent: weakest.agent.min(stated.agent),
                approval: weakest.approval.min(stated.approval),
                durability: weakest.durability.min(stated.durability),
                freshness: weakest.freshness.min(stated.freshness),
                time: weakest.time.min(stated.time),
            };
        }
    }

    pub(crate) fn conclude(&mut self) {
        self.coverage = format!(
            "All {} records of tenant {} with sequences {} to {}, without a gap; {} was its last \
             at the checkpoint over {} records of the log. {} What happened after the checkpoint \
             is not covered.",
            self.records,
            self.tenant,
            self.from_sequence,
            self.last_sequence,
            self.last_sequence,
            self.checkpoint_size,
            if self.from_sequence == 0 {
                "Nothing before them exists."
            } else {
                "The records before them are not in this bundle."
            },
        );
    }
}

/// The least that the boots have proven, in words too.
pub(crate) fn tee_of(boots: &[AttestedBoot]) -> (Tee, String) {
    let tee = boots.iter().map(|boot| boot.tee).min().unwrap_or(Tee::None);
    let statement = format!(
        "tee: {}: {}. Each boot showed evidence, under a root of the trust file, for a measurement \
         that the trust file names and for the keys that signed.",
        tee.as_str(),
        tee.means(),
    );
    (tee, statement)
}
