//! Receipts, held against the records that name them.

use std::collections::BTreeMap;

use toani_audit::bundle::{BundleIndex, FileKind};
use toani_protocol::{
    Hash, canonical,
    limits::RECORD_BYTES_MAX,
    record::{Receipt, Record, RecordKind},
    sign::{Label, Signed},
};

use crate::{
    bundle::{Parts, Records, of_kinds},
    problem::{BundleError, Problem},
};

/// Counts the receipts of a bundle.
pub(crate) fn verify_receipts(parts: &Parts<'_>, records: &Records) -> Result<u64, BundleError> {
    let Parts { index, trust, .. } = parts;
    let finished = records.values().filter(|record| record.kind == RecordKind::Finished);
    let with_hash = finished.filter_map(|record| Some((record.about.execution_receipt?, record)));
    let finished: BTreeMap<Hash, &Record> = with_hash.collect();
    let mut count = 0u64;
    for (kind, bytes) in of_kinds(parts.files) {
        let FileKind::Receipt(execution) = &kind else {
            continue;
        };
        let fail = |problem| BundleError::in_file(problem, &kind);
        let signed: Signed<Receipt> =
            canonical::decode(bytes, RECORD_BYTES_MAX).map_err(|_| fail(Problem::Receipt))?;
        signed.verify(Label::Receipt, &[trust.log.key], 1).map_err(|_| fail(Problem::Receipt))?;
        let record =
            finished.get(&Receipt::hash_of(bytes)).ok_or_else(|| fail(Problem::ReceiptRecord))?;
        let started = records.get(&signed.payload.started);
        let told = signed.payload.execution_id == *execution
            && signed.payload.instance == trust.instance
            && agrees(&signed.payload, record)
            && is_started(&signed.payload, started, index);
        if !told {
            return Err(fail(Problem::ReceiptRecord));
        }
        count = count.saturating_add(1);
    }
    Ok(count)
}

/// The record `started` that a receipt names is that of its execution. It may lie before the
/// first record of the bundle.
fn is_started(receipt: &Receipt, started: Option<&Record>, index: &BundleIndex) -> bool {
    match started {
        Some(record) => {
            record.kind == RecordKind::Started
                && record.about.execution_id.as_ref() == Some(&receipt.execution_id)
        }
        None => index.from_sequence > 0,
    }
}

/// Whether a receipt and the record `finished` tell the same. What every such record states must
/// be there; of the rest, what is there must be the same.
fn agrees(receipt: &Receipt, record: &Record) -> bool {
    fn same<T: PartialEq>(stated: &Option<T>, value: &T) -> bool {
        stated.as_ref().is_none_or(|stated| stated == value)
    }
    let about = &record.about;
    about.tenant.as_ref() == Some(&receipt.tenant)
        && about.execution_id.as_ref() == Some(&receipt.execution_id)
        && about.outcome == Some(receipt.outcome)
        && about.assurance == Some(receipt.assurance)
        && about.root_file_system == Some(receipt.root_file_system)
        // Left out means none.
        && about.connections.as_deref().unwrap_or_default() == receipt.connections
        && record.boot == receipt.boot
        && record.tee_mrenclave == receipt.tee_mrenclave
        && record.evidence == receipt.evidence
        && record.admission == receipt.admission
        && same(&about.action_id, &receipt.action_id)
        && same(&about.agent, &receipt.agent)
        && same(&about.service, &receipt.service)
        && same(&about.action, &receipt.action)
        && same(&about.params, &receipt.params_hash)
        && same(&about.plan, &receipt.plan_hash)
        && same(&about.policy, &receipt.policy)
        && same(&about.tier, &receipt.tier)
        && same(&about.jti, &receipt.jti_hash)
        && same(&about.sandbox, &receipt.sandbox)
        && (about.credential.is_none() || about.credential == receipt.credential)
        && (about.hitl_proof.is_none() || about.hitl_proof == receipt.hitl_proof)
}
