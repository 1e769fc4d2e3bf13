//! Verifying a bundle against a trust file. Trust flows in one direction: from the trust file to
//! index and checkpoint, from these to files and records, from records to evidence, policies and
//! receipts.

use std::collections::{BTreeMap, BTreeSet};

use toani_audit::{
    bundle::{
        BundleIndex, CHECKPOINT_NAME, FILES_MAX, FileEntry, FileKind, INDEX_BYTES_MAX, INDEX_NAME,
        MANIFEST_NAME,
    },
    chain::{ChainError, TenantTip, verify_record},
    checkpoint::Checkpoint,
};
use toani_protocol::{
    Hash, Time, canonical,
    instance::{Manifest, VerifiedAdmission},
    limits::{BUNDLE_BYTES_MAX, DOCUMENT_BYTES_MAX},
    policy::Policy,
    record::{PolicyRef, Record},
    sign::{Label, Signed},
    trust::TrustFile,
};

use crate::{
    boots,
    disclosure::{self, Disclosed, Held},
    merkle::{self, PROOF_HASHES_MAX},
    problem::{BundleError, Problem},
    receipts::verify_receipts,
    report::{self, Report},
    tar,
};

pub(crate) type Files<'a> = BTreeMap<&'a str, &'a [u8]>;

/// What the records of a bundle are held against.
pub(crate) struct Parts<'a> {
    pub(crate) files: &'a Files<'a>,
    pub(crate) index: &'a BundleIndex,
    checkpoint: &'a Checkpoint,
    pub(crate) trust: &'a TrustFile,
}

/// A bundle that was verified. Only [`verify`] makes one.
#[derive(Debug, Clone)]
pub struct Verified {
    report: Report,
}

impl Verified {
    pub fn report(&self) -> &Report {
        &self.report
    }
}

/// Verifies a whole bundle under the trust file; nothing in the bundle is believed otherwise.
pub fn verify(bundle: &[u8], trust: &TrustFile) -> Result<Verified, BundleError> {
    if bundle.len() > BUNDLE_BYTES_MAX {
        return Err(BundleError::of(Problem::TooLarge));
    }
    if trust.witness_quorum > 0 {
        return Err(BundleError::of(Problem::Witnesses));
    }
    let files = tar::parse(bundle).map_err(|_| BundleError::of(Problem::Archive))?;
    let index = verify_index(&files, trust)?;
    verify_files(&files, &index)?;
    let manifest = verify_manifest(&files, trust)?;
    let checkpoint = verify_checkpoint(&files, trust)?;
    let parts = Parts { files: &files, index: &index, checkpoint: &checkpoint, trust };
    let records = Records::verify(&parts)?;
    let boots = boots::verify(&parts, &records)?;
    verify_admissions(&parts, &records, &manifest)?;
    let policies = verify_policies(&parts, &records)?;
    let receipts = verify_receipts(&parts, &records)?;
    let disclosed = verify_disclosures(&parts, &records)?;

    let (tee, tee_statement) = report::tee_of(&boots);
    let (from, to) = records.period();
    let mut report = Report {
        instance: trust.instance,
        tenant: index.tenant,
        origin: checkpoint.origin,
        checkpoint_size: checkpoint.size,
        checkpoint_root: checkpoint.root,
        made_at: index.made_at,
        records: 0,
        instance_records: 0,
        from_sequence: index.from_sequence,
        last_sequence: index.tenant_last_sequence,
        from,
        to,
        kinds: BTreeMap::new(),
        outcomes: BTreeMap::new(),
        policies,
        receipts,
        disclosed,
        boots,
        tee,
        tee_statement,
        weakest: None,
        coverage: String::new(),
    };
    for record in records.values() {
        if record.about.tenant.is_some() {
            report.add(record);
        } else {
            report.instance_records = report.instance_records.saturating_add(1);
        }
    }
    report.conclude();
    Ok(Verified { report })
}

fn verify_index(files: &Files<'_>, trust: &TrustFile) -> Result<BundleIndex, BundleError> {
    let fail = BundleError::of;
    let bytes = files.get(INDEX_NAME).ok_or_else(|| fail(Problem::IndexMissing))?;
    let signed: Signed<BundleIndex> =
        canonical::decode(bytes, INDEX_BYTES_MAX).map_err(|_| fail(Problem::Index))?;
    signed
        .verify(Label::BundleIndex, &[trust.log.key], 1)
        .map_err(|_| fail(Problem::IndexSignature))?;
    let index = signed.payload;
    index.check().map_err(|_| fail(Problem::Index))?;
    if index.instance != trust.instance {
        return Err(fail(Problem::Instance));
    }
    match &trust.tenant {
        Some(tenant) if *tenant != index.tenant => Err(fail(Problem::Tenant)),
        _ => Ok(index),
    }
}

/// Every file is listed, every listed file is there, and each is the one that is listed.
fn verify_files(files: &Files<'_>, index: &BundleIndex) -> Result<(), BundleError> {
    if files.len() > FILES_MAX {
        return Err(BundleError::of(Problem::TooLarge));
    }
    for (name, entry) in &index.files {
        // The index was checked: each of its names is one that a bundle may have.
        let failed = |problem| BundleError { file: Some(name.clone()), ..BundleError::of(problem) };
        let content = files.get(name.as_str()).ok_or_else(|| failed(Problem::Missing))?;
        if FileEntry::of(content) != *entry {
            return Err(failed(Problem::FileHash));
        }
    }
    let listed = |name: &str| name == INDEX_NAME || index.files.contains_key(name);
    if files.keys().all(|name| listed(name)) {
        Ok(())
    } else {
        Err(BundleError::of(Problem::Unlisted))
    }
}

fn verify_manifest(files: &Files<'_>, trust: &TrustFile) -> Result<Manifest, BundleError> {
    let fail = |problem| BundleError::in_file(problem, &FileKind::Manifest);
    let bytes = files.get(MANIFEST_NAME).ok_or_else(|| fail(Problem::Missing))?;
    if Manifest::id_of(bytes) != trust.instance {
        return Err(fail(Problem::Instance));
    }
    let manifest = Manifest::decode(bytes).map_err(|_| fail(Problem::Manifest))?;
    if manifest.log_origin == trust.log.origin {
        Ok(manifest)
    } else {
        Err(fail(Problem::Manifest))
    }
}

fn verify_checkpoint(files: &Files<'_>, trust: &TrustFile) -> Result<Checkpoint, BundleError> {
    let fail = |problem| BundleError::in_file(problem, &FileKind::Checkpoint);
    let bytes = files.get(CHECKPOINT_NAME).ok_or_else(|| fail(Problem::Missing))?;
    let note = std::str::from_utf8(bytes).map_err(|_| fail(Problem::Checkpoint))?;
    Checkpoint::verify(note, &trust.log.origin, &trust.log.key)
        .map_err(|_| fail(Problem::Checkpoint))
}

/// The bundle's records by index, each verified.
pub(crate) struct Records(BTreeMap<u64, Record>);

impl Records {
    pub(crate) fn values(&self) -> impl Iterator<Item = &Record> {
        self.0.values()
    }

    pub(crate) fn get(&self, index: &u64) -> Option<&Record> {
        self.0.get(index)
    }

    fn verify(parts: &Parts<'_>) -> Result<Self, BundleError> {
        let index = parts.index;
        let mut records = BTreeMap::new();
        let mut walk = Walk { index, last: None, tip: None };
        for (kind, leaf) in of_kinds(parts.files) {
            let FileKind::Record(number) = kind else {
                continue;
            };
            let fail = |problem| BundleError::in_file(problem, &kind);
            let record = verify_leaf(leaf, number, parts.trust).map_err(fail)?;
            let hash = Record::hash_of(leaf);
            verify_proof(parts, number, &hash)?;
            walk.step(&record, hash).map_err(fail)?;
            records.insert(number, record);
        }
        // The tenant's last record is there exactly if the sequence after it comes next.
        let last = walk.tip.and_then(|tip| tip.sequence.checked_sub(1));
        if last != Some(index.tenant_last_sequence) {
            return Err(BundleError::of(Problem::RecordGap));
        }
        for (kind, _) in of_kinds(parts.files) {
            match kind {
                FileKind::Proof(number) if !records.contains_key(&number) => {
                    return Err(BundleError::in_file(Problem::Proof, &kind));
                }
                _ => {}
            }
        }
        Ok(Self(records))
    }

    /// Times of the tenant's first and last record.
    fn period(&self) -> (Time, Time) {
        let own = self.0.values().filter(|record| record.about.tenant.is_some());
        let mut times = own.map(|record| record.time);
        let first = times.next().unwrap_or(Time::from_ms(0));
        (first, times.next_back().unwrap_or(first))
    }
}

pub(crate) fn of_kinds<'a>(files: &Files<'a>) -> impl Iterator<Item = (FileKind, &'a [u8])> {
    let files = files.iter();
    files.filter_map(|(name, bytes)| Some((FileKind::of(name)?, *bytes)))
}

fn verify_leaf(leaf: &[u8], number: u64, trust: &TrustFile) -> Result<Record, Problem> {
    let record = verify_record(leaf, &trust.log.origin, &trust.log.key).map_err(|e| match e {
        ChainError::Origin => Problem::RecordOrigin,
        ChainError::Signature => Problem::RecordSignature,
        _ => Problem::RecordMalformed,
    })?;
    if record.index != number {
        return Err(Problem::RecordMalformed);
    }
    if trust.mrenclaves.contains(&record.tee_mrenclave) {
        Ok(record)
    } else {
        Err(Problem::RecordMeasurement)
    }
}

fn verify_proof(parts: &Parts<'_>, number: u64, leaf_hash: &Hash) -> Result<(), BundleError> {
    let Parts { files, checkpoint, .. } = parts;
    let kind = FileKind::Proof(number);
    let fail = |problem| BundleError::in_file(problem, &kind);
    let bytes = files.get(kind.name().as_str()).ok_or_else(|| fail(Problem::Missing))?;
    let proof: Vec<Hash> = canonical::decode(bytes, PROOF_HASHES_MAX.saturating_mul(80))
        .map_err(|_| fail(Problem::Proof))?;
    merkle::verify_inclusion(leaf_hash, number, checkpoint.size, &proof, &checkpoint.root)
        .map_err(|_| fail(Problem::Proof))
}

/// Walks the records in the order of the log.
struct Walk<'a> {
    index: &'a BundleIndex,
    /// Index, time and hash of the record before.
    last: Option<(u64, Time, Hash)>,
    tip: Option<TenantTip>,
}

impl Walk<'_> {
    fn step(&mut self, record: &Record, hash: Hash) -> Result<(), Problem> {
        if let Some((number, time, previous)) = self.last {
            let follows = number.checked_add(1) == Some(record.index);
            if record.time < time || (follows && record.previous != previous) {
                return Err(Problem::RecordOrder);
            }
        }
        self.last = Some((record.index, record.time, hash));
        let about = &record.about;
        match &about.tenant {
            Some(tenant) if *tenant == self.index.tenant => {
                let mut tip = self.tip.unwrap_or_else(|| self.start(record));
                tip.advance(record, hash).map_err(|_| Problem::RecordGap)?;
                self.tip = Some(tip);
                Ok(())
            }
            Some(_) => Err(Problem::RecordTenant),
            None if about.tenant_sequence.is_some() || about.tenant_previous.is_some() => {
                Err(Problem::RecordTenant)
            }
            None => Ok(()),
        }
    }

    /// Where the tenant's records begin. What lies before the bundle is only named by its hash.
    fn start(&self, first: &Record) -> TenantTip {
        match self.index.from_sequence {
            0 => TenantTip::START,
            sequence => {
                TenantTip { sequence, previous: first.about.tenant_previous.unwrap_or(Hash::ZERO) }
            }
        }
    }
}

/// Every list that a record names is there and signed by the operators, and no other is.
fn verify_admissions(
    parts: &Parts<'_>,
    records: &Records,
    manifest: &Manifest,
) -> Result<(), BundleError> {
    // Before the first list is activated, records name none.
    let mut named: BTreeSet<Hash> = records.values().map(|record| record.admission).collect();
    named.remove(&Hash::ZERO);
    for (kind, bytes) in of_kinds(parts.files) {
        let FileKind::Admission(hash) = kind else {
            continue;
        };
        let valid = VerifiedAdmission::verify(bytes, manifest, parts.trust.instance)
            .is_ok_and(|list| list.hash() == hash);
        if !valid || !named.remove(&hash) {
            return Err(BundleError::in_file(Problem::Admission, &kind));
        }
    }
    none_left(named.first().copied().map(FileKind::Admission))
}

fn none_left(missing: Option<FileKind>) -> Result<(), BundleError> {
    match missing {
        Some(kind) => Err(BundleError::in_file(Problem::Missing, &kind)),
        None => Ok(()),
    }
}

/// Every policy that a record names is there and is that version, and no other is. Its signature
/// was verified by the enclave when it was activated; here it only has to hold.
fn verify_policies(parts: &Parts<'_>, records: &Records) -> Result<u64, BundleError> {
    let mut named: BTreeMap<Hash, &PolicyRef> = BTreeMap::new();
    for record in records.values() {
        let Some(policy) = &record.about.policy else {
            continue;
        };
        if *named.entry(policy.hash).or_insert(policy) != policy {
            let kind = FileKind::Record(record.index);
            return Err(BundleError::in_file(Problem::Policy, &kind));
        }
    }
    let mut count = 0u64;
    for (kind, bytes) in of_kinds(parts.files) {
        let FileKind::Policy(hash) = kind else {
            continue;
        };
        let named = named.remove(&hash);
        if !named.is_some_and(|named| is_policy(bytes, named, parts.index)) {
            return Err(BundleError::in_file(Problem::Policy, &kind));
        }
        count = count.saturating_add(1);
    }
    let missing = named.first_key_value().map(|(hash, _)| *hash);
    none_left(missing.map(FileKind::Policy))?;
    Ok(count)
}

fn is_policy(bytes: &[u8], named: &PolicyRef, index: &BundleIndex) -> bool {
    let Ok(signed) = canonical::decode::<Signed<Policy>>(bytes, DOCUMENT_BYTES_MAX) else {
        return false;
    };
    let [signature] = signed.signatures.as_slice() else {
        return false;
    };
    let policy = &signed.payload;
    Hash::of(bytes) == named.hash
        && policy.id == named.id
        && policy.version == named.version
        && policy.tenant == index.tenant
        && signed.verify(Label::Policy, &[signature.key], 1).is_ok()
}

fn verify_disclosures(parts: &Parts<'_>, records: &Records) -> Result<Vec<Disclosed>, BundleError> {
    let policy = |hash: &Hash| {
        let bytes = parts.files.get(FileKind::Policy(*hash).name().as_str())?;
        let signed: Signed<Policy> = canonical::decode(bytes, DOCUMENT_BYTES_MAX).ok()?;
        Some(signed.payload)
    };
    let mut disclosed = Vec::new();
    for (kind, bytes) in of_kinds(parts.files) {
        let FileKind::Disclosure(action) = &kind else {
            continue;
        };
        let of_action = |record: &&Record| record.about.action_id.as_ref() == Some(action);
        let held = Held {
            trust: parts.trust,
            tenant: &parts.index.tenant,
            records: records.values().filter(of_action).collect(),
            policy: &policy,
        };
        let opened = disclosure::read(bytes, &kind)
            .and_then(|disclosure| disclosure::verify(&disclosure, &held));
        disclosed.push(opened.map_err(|problem| BundleError::in_file(problem, &kind))?);
    }
    Ok(disclosed)
}
