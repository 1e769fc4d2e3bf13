//! The boots that a bundle's records are of: what each of them proved, and that no record claims
//! more.

use std::collections::BTreeMap;

use toani_audit::bundle::FileKind;
use toani_protocol::{
    BootId, Hash,
    limits::BUNDLE_BOOTS_MAX,
    record::{Record, RecordKind},
};

use crate::{
    attested::AttestedBoot,
    bundle::{Parts, Records, of_kinds},
    problem::{BundleError, Problem},
};

/// Verifies the evidence of each boot at the time of its record `boot`, and holds all records
/// against it. In the order of the log.
pub(crate) fn verify(
    parts: &Parts<'_>,
    records: &Records,
) -> Result<Vec<AttestedBoot>, BundleError> {
    let of_boots = records.values().filter(|record| record.kind == RecordKind::Boot);
    let begun: BTreeMap<&BootId, &Record> = of_boots.map(|record| (&record.boot, record)).collect();
    if begun.len() > BUNDLE_BOOTS_MAX {
        return Err(BundleError::of(Problem::TooLarge));
    }
    if !begun.contains_key(&parts.index.boot) {
        return Err(BundleError::of(Problem::BootRecord));
    }
    verify_named(parts, &begun)?;
    let mut boots = BTreeMap::new();
    for (boot, record) in &begun {
        boots.insert(*boot, verify_boot(parts, record)?);
    }
    for record in records.values() {
        let fail = |problem| BundleError::in_file(problem, &FileKind::Record(record.index));
        let attested = boots.get(&record.boot).ok_or_else(|| fail(Problem::BootRecord))?;
        if record.evidence != attested.evidence || record.tee_mrenclave != attested.mrenclave {
            return Err(fail(Problem::RecordEvidence));
        }
        let claimed = record.about.assurance.map(|assurance| assurance.tee);
        if claimed.is_some_and(|claimed| claimed > attested.tee) {
            return Err(fail(Problem::RecordAssurance));
        }
    }
    let mut boots: Vec<AttestedBoot> = boots.into_values().collect();
    boots.sort_by_key(|boot| boot.at);
    Ok(boots)
}

/// Every file of evidence is the one that its name says, and that of a boot.
fn verify_named(parts: &Parts<'_>, begun: &BTreeMap<&BootId, &Record>) -> Result<(), BundleError> {
    for (kind, bytes) in of_kinds(parts.files) {
        let FileKind::Evidence(hash) = kind else {
            continue;
        };
        let named = begun.values().any(|record| record.evidence == hash);
        if !named || Hash::of(bytes) != hash {
            return Err(BundleError::in_file(Problem::Evidence, &kind));
        }
    }
    Ok(())
}

fn verify_boot(parts: &Parts<'_>, record: &Record) -> Result<AttestedBoot, BundleError> {
    let kind = FileKind::Evidence(record.evidence);
    let document = parts.files.get(kind.name().as_str());
    let document = document.ok_or_else(|| BundleError::in_file(Problem::Missing, &kind))?;
    // A boot without a channel key had no key to vouch for.
    let channel = record.about.blob.unwrap_or(Hash::ZERO);
    AttestedBoot::verify(document, &record.boot, channel, parts.trust, record.time).map_err(
        |cause| BundleError {
            cause: Some(cause),
            ..BundleError::in_file(Problem::Evidence, &kind)
        },
    )
}
