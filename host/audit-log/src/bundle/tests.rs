//! A bundle of a small instance, and every way to tamper with that which we thought of.

use std::sync::OnceLock;

use proptest::prelude::*;
use toani_attestation::{Evidence, SgxEvidence};
use toani_audit::{checkpoint, tree::Frontier};
use toani_protocol::{
    assurance::{Assurance, Tee},
    evidence::{BootKeys, Role, report_data},
    instance::{Manifest, SgxPolicy},
    record::{About, RecordKind},
    sign::{Bytes, Label, PublicKey, Signed},
    trust::{IntakeKey, LogTrust, TrustFile, TrustFormat},
};
use toani_simulator::{Authority, Level, Platform};
use toani_verify::verify;

use super::*;
use crate::proofs;

#[path = "../../../../trusted/audit/tests/world/mod.rs"]
mod world;

use world::{CHANNEL, ORIGIN, START_MS, World, connection, key, manifest, measurement, tenant};

const INTAKE: [u8; 32] = [5; 32];
const ALL: &[u64] = &[0, 1, 2, 4, 5, 7];

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        Authority::open_or_create(folder.path()).unwrap()
    })
}

/// What a simulated machine shows for a boot of the instance.
fn evidence_of(platform: &Platform, boot: &str) -> Vec<u8> {
    let keys = BootKeys { chain: PublicKey::of(&key(1)), intake: INTAKE, channel: CHANNEL };
    let instance = Manifest::id_of(&manifest());
    let vouched = report_data(Role::Enclave, &instance, boot, &keys.hash());
    let mut body = [0; 384];
    body[48] = 0b101; // INIT, MODE64BIT
    body[56] = 3;
    body[64..96].copy_from_slice(measurement().as_bytes());
    body[320..].copy_from_slice(&vouched);
    let now = Time::from_ms(START_MS);
    let evidence: SgxEvidence = authority().sgx_evidence(platform, &body, now).unwrap();
    Evidence::Sgx(evidence).encode().unwrap()
}

/// The evidence of the first boot.
fn shown() -> &'static [u8] {
    static SHOWN: OnceLock<Vec<u8>> = OnceLock::new();
    SHOWN.get_or_init(|| evidence_of(&Platform::number(1), "boot_1"))
}

fn world() -> World {
    World::new(shown())
}

impl World {
    fn draft(&self, indices: &[u64]) -> Draft {
        let hashes: Vec<Hash> = self.leaves.iter().map(|leaf| Record::hash_of(leaf)).collect();
        let nodes = |level: u32, at: u64| {
            let low = usize::try_from(at).ok()? << level;
            let mut subtree = Frontier::new();
            let leaves = hashes.get(low..low + (1 << level))?;
            leaves.iter().for_each(|leaf| subtree.push(*leaf));
            Some(subtree.root())
        };
        let size = self.leaves.len() as u64;
        let root = self.chain.links().frontier().root();
        let note = checkpoint::sign(ORIGIN, size, &root, &self.log);
        let mut draft = Draft::new(&self.manifest, &note).unwrap();
        for index in indices {
            let proof = proofs::inclusion_proof(&nodes, *index, size).unwrap();
            let leaf = &self.leaves[usize::try_from(*index).unwrap()];
            let entry = Entry { index: *index, leaf, proof: &proof };
            draft.record(&entry).unwrap();
        }
        for hash in draft.missing() {
            let documents: [&[u8]; 4] = [&self.policy, &self.admission, &self.evidence, shown()];
            let named = documents.into_iter().find(|bytes| Hash::of(bytes) == hash);
            draft.document(named.unwrap()).unwrap();
        }
        assert_eq!(draft.missing(), []);
        draft
    }

    fn seal(&self, draft: Draft, from: u64, to: u64) -> Vec<u8> {
        let instance = Manifest::id_of(&self.manifest);
        let boot = self.boot.clone();
        let made_at = Time::from_ms(5000);
        let index = draft.index(instance, boot, tenant(3), from..=to, made_at).unwrap();
        let index = BundleIndex::decode(&index).unwrap();
        let signed = Signed::by(&self.log, Label::BundleIndex, index).unwrap();
        draft.finish(canonical::encode(&signed).unwrap()).unwrap()
    }

    fn bundle(&self) -> Vec<u8> {
        let mut draft = self.draft(ALL);
        let execution = ExecutionId::new("exe_1").unwrap();
        draft.receipt(execution, &self.receipt).unwrap();
        self.seal(draft, 0, 3)
    }

    fn trust(&self) -> TrustFile {
        TrustFile {
            format: TrustFormat::V1,
            instance: Manifest::id_of(&self.manifest),
            tenant: Some(tenant(3)),
            mrenclaves: vec![measurement()],
            log: LogTrust { origin: ORIGIN.into(), key: PublicKey::of(&key(1)) },
            intake_key: IntakeKey(Bytes(INTAKE.to_vec())),
            sgx_roots: vec![authority().sgx_root()],
            sgx_policy: SgxPolicy::up_to_date(),
            snp_roots: Vec::new(),
            witnesses: Vec::new(),
            witness_quorum: 0,
        }
    }
}

fn code(bundle: &[u8], trust: &TrustFile) -> &'static str {
    verify(bundle, trust).map_or_else(|e| e.code(), |_| "verified")
}

#[test]
fn a_whole_bundle_is_verified_and_counted() {
    let world = world();
    let verified = verify(&world.bundle(), &world.trust()).unwrap();
    let report = verified.report();
    assert_eq!((report.records, report.instance_records), (4, 2));
    assert_eq!((report.from_sequence, report.last_sequence), (0, 3));
    assert_eq!((report.receipts, report.policies), (1, 1));
    assert_eq!(report.outcomes, BTreeMap::from([("succeeded".to_string(), 1)]));
    assert_eq!(report.kinds.get("started"), Some(&1));
    assert_eq!(report.weakest, Some(Assurance { tee: Tee::Simulator, ..Assurance::LOWEST }));
    assert_eq!((report.from.ms() - START_MS, report.to.ms() - START_MS), (2, 7));
    assert!(report.tee_statement.starts_with("tee: simulator: a simulated TEE"));
    let [boot] = report.boots.as_slice() else { panic!("{:?}", report.boots) };
    assert_eq!((boot.tee, boot.mrenclave), (Tee::Simulator, measurement()));
    assert_eq!((boot.root, boot.at.ms()), (authority().sgx_root(), START_MS + 1));
    assert!(report.coverage.contains("Nothing before them exists"));
}

#[test]
fn a_later_part_says_what_it_lacks() {
    let world = world();
    let bundle = world.seal(world.draft(&[1, 5, 7]), 2, 3);
    let report = verify(&bundle, &world.trust()).unwrap().report().clone();
    assert!(report.coverage.contains("not in this bundle"));
    let bundle = world.seal(world.draft(&[1, 5, 7]), 1, 3);
    assert_eq!(code(&bundle, &world.trust()), "record_gap");
}

#[test]
fn every_flipped_byte_is_refused() {
    let world = world();
    let (bundle, trust) = (world.bundle(), world.trust());
    let mut changed = bundle.clone();
    for at in 0..bundle.len() {
        changed[at] ^= 1 << (at % 8);
        assert!(verify(&changed, &trust).is_err(), "byte {at}");
        changed[at] = bundle[at];
    }
    assert!(verify(&changed, &trust).is_ok());
}

#[test]
fn every_truncation_and_anything_appended_is_refused() {
    let world = world();
    let (bundle, trust) = (world.bundle(), world.trust());
    for length in 0..bundle.len() {
        assert!(verify(&bundle[..length], &trust).is_err(), "length {length}");
    }
    for tail in [1, 511, 512, 1024] {
        let longer = [bundle.as_slice(), &vec![0; tail]].concat();
        assert_eq!(code(&longer, &trust), "archive");
    }
}

#[test]
fn files_that_are_exchanged_removed_or_added_are_refused() {
    let world = world();
    let (bundle, trust) = (world.bundle(), world.trust());
    let files: BTreeMap<String, Vec<u8>> = toani_verify::tar::parse(&bundle)
        .unwrap()
        .into_iter()
        .map(|(name, bytes)| (name.to_string(), bytes.to_vec()))
        .collect();
    let names: Vec<&String> = files.keys().collect();
    for name in &names {
        let mut less = files.clone();
        less.remove(*name);
        assert!(verify(&toani_verify::tar::write(&less).unwrap(), &trust).is_err(), "{name}");
        for other in &names {
            let mut swapped = files.clone();
            swapped.insert((*name).clone(), files[*other].clone());
            swapped.insert((*other).clone(), files[*name].clone());
            let verdict = verify(&toani_verify::tar::write(&swapped).unwrap(), &trust);
            assert_eq!(verdict.is_ok(), files[*name] == files[*other], "{name} {other}");
        }
    }
    let mut more = files.clone();
    more.insert("records/0000000003.json".into(), world.leaves[3].clone());
    assert_eq!(code(&toani_verify::tar::write(&more).unwrap(), &trust), "file_unlisted");
}

/// What the exporter could make the enclave sign: indices over files of its choice.
#[test]
fn a_signed_index_does_not_help_the_exporter() {
    let world = world();
    let trust = world.trust();
    let sealed =
        |indices: &[u64], from, to| code(&world.seal(world.draft(indices), from, to), &trust);
    assert_eq!(sealed(&ALL[1..], 0, 3), "verified");
    assert_eq!(sealed(&[1, 2, 4, 7], 0, 3), "record_gap");
    assert_eq!(sealed(&[1, 4, 5, 7], 0, 3), "record_gap");
    assert_eq!(sealed(&[1, 2, 4, 5], 0, 3), "record_gap");
    assert_eq!(sealed(&[], 0, 0), "record_gap");
    assert_eq!(sealed(&[1, 2, 3, 4, 5, 7], 0, 3), "record_tenant");
    assert_eq!(sealed(&[2, 4, 5, 7], 0, 3), "boot_record");

    let mut renamed = world.draft(ALL);
    let third = renamed.files.remove("records/0000000004.json").unwrap();
    renamed.files.insert("records/0000000003.json".into(), third);
    let proof = renamed.files.remove("proofs/0000000004.json").unwrap();
    renamed.files.insert("proofs/0000000003.json".into(), proof);
    assert_eq!(code(&world.seal(renamed, 0, 3), &trust), "record");

    let mut without = world.draft(ALL);
    without.files.retain(|name, _| !name.starts_with("policies/"));
    assert_eq!(code(&world.seal(without, 0, 3), &trust), "file_missing");
    let mut without = world.draft(ALL);
    without.files.retain(|name, _| !name.starts_with("admissions/"));
    assert_eq!(code(&world.seal(without, 0, 3), &trust), "file_missing");

    let mut foreign = world.draft(ALL);
    foreign.put(&FileKind::Policy(Hash::of(b"{}")), b"{}").unwrap();
    assert_eq!(code(&world.seal(foreign, 0, 3), &trust), "policy");
    let mut foreign = world.draft(ALL);
    foreign.put(&FileKind::Admission(Hash::of(b"{}")), b"{}").unwrap();
    assert_eq!(code(&world.seal(foreign, 0, 3), &trust), "admission");

    let mut receipt = world.draft(ALL);
    let execution = ExecutionId::new("exe_1").unwrap();
    receipt.receipt(execution, &world.make_receipt(1)).unwrap();
    assert_eq!(code(&world.seal(receipt, 0, 3), &trust), "receipt_record");
    let mut receipt = world.draft(ALL);
    let execution = ExecutionId::new("exe_2").unwrap();
    receipt.receipt(execution, &world.receipt).unwrap();
    assert_eq!(code(&world.seal(receipt, 0, 3), &trust), "receipt_record");
}

/// Both are the enclave's word. One that says less than the other, or more, is not believed.
#[test]
fn a_receipt_and_its_record_tell_the_same_of_the_container() {
    type Change = fn(&mut About);
    let changes: [(&str, Change, &str); 6] = [
        ("nothing", |_| {}, "verified"),
        (
            "another root file system",
            |about| about.root_file_system = Some(Hash::of(b"another")),
            "receipt_record",
        ),
        ("no root file system", |about| about.root_file_system = None, "receipt_record"),
        ("no connection", |about| about.connections = None, "receipt_record"),
        (
            "a second connection",
            |about| about.connections.as_mut().unwrap().push(connection()),
            "receipt_record",
        ),
        (
            "more bytes",
            |about| about.connections.as_mut().unwrap()[0].bytes_out += 1,
            "receipt_record",
        ),
    ];
    for (what, change, expected) in changes {
        let mut world = world();
        let started = world.tenant_record(3, RecordKind::Started, world.about());
        world.receipt = world.make_receipt(started);
        let mut finished = world.finished();
        change(&mut finished);
        world.tenant_record(3, RecordKind::Finished, finished);
        let mut draft = world.draft(&[ALL, &[8, 9]].concat());
        draft.receipt(ExecutionId::new("exe_1").unwrap(), &world.receipt).unwrap();
        assert_eq!(code(&world.seal(draft, 0, 5), &world.trust()), expected, "{what}");
    }
}

/// The plane's own word is not enough: each boot has to have shown evidence for the keys that the
/// trust file names.
#[test]
fn evidence_has_to_be_there_and_to_hold() {
    let (world, trust) = (world(), world().trust());
    let refused = |world: &World, change: &dyn Fn(&mut Draft)| {
        let mut draft = world.draft(ALL);
        change(&mut draft);
        let error = verify(&world.seal(draft, 0, 3), &trust).unwrap_err();
        (error.code(), error.cause.map_or("", |cause| cause.code()))
    };
    let without = |draft: &mut Draft| {
        draft.files.retain(|name, _| !name.starts_with("evidence/"));
    };
    assert_eq!(refused(&world, &without), ("file_missing", ""));
    let foreign = |draft: &mut Draft| {
        draft.put(&FileKind::Evidence(Hash::of(b"{}")), b"{}").unwrap();
    };
    assert_eq!(refused(&world, &foreign), ("evidence", ""));
    let exchanged = |draft: &mut Draft| {
        let name = FileKind::Evidence(Hash::of(&world.evidence)).name();
        draft.files.insert(name, evidence_of(&Platform::number(2), "boot_1"));
    };
    assert_eq!(refused(&world, &exchanged), ("evidence", ""));

    let shows = |evidence: &[u8]| refused(&World::new(evidence), &|_| {});
    assert_eq!(shows(b"{}"), ("evidence", "evidence_document"));
    let outdated = Platform { level: Level::Outdated, ..Platform::number(1) };
    assert_eq!(shows(&evidence_of(&outdated, "boot_1")), ("evidence", "evidence_quote"));
    let of_another_boot = evidence_of(&Platform::number(1), "boot_2");
    assert_eq!(shows(&of_another_boot), ("evidence", "evidence_keys"));
}

/// A later boot proves itself anew, also where it only signs the index.
#[test]
fn each_boot_has_its_own_evidence() {
    let mut world = world();
    world.boot = BootId::new("boot_2").unwrap();
    world.evidence = evidence_of(&Platform::number(2), "boot_2");
    world.append(RecordKind::Boot, About { blob: Some(CHANNEL), ..About::default() });
    let trust = world.trust();
    let sealed = |world: &World, indices: &[u64], to| {
        verify(&world.seal(world.draft(indices), 0, to), &trust)
    };
    let whole = sealed(&world, &[0, 1, 2, 4, 5, 7, 8], 3).unwrap();
    let boots = whole.report().boots.iter();
    assert_eq!(boots.map(|boot| boot.boot.as_str()).collect::<Vec<_>>(), ["boot_1", "boot_2"]);
    let unproven = sealed(&world, ALL, 3).unwrap_err();
    assert_eq!(unproven.code(), "boot_record", "the boot that signed the index");

    // Records of the second boot that pass off evidence of the first.
    let second = std::mem::replace(&mut world.evidence, shown().to_vec());
    world.tenant_record(3, RecordKind::Refused, About::default());
    world.evidence = second;
    let borrowed = sealed(&world, &[0, 1, 2, 4, 5, 7, 8, 9], 4).unwrap_err();
    assert_eq!(borrowed.code(), "record_evidence");
}

#[test]
fn a_record_claims_no_more_than_its_boot_has_proven() {
    for (tee, expected) in [(Tee::Simulator, "verified"), (Tee::Sgx, "record_assurance")] {
        let mut world = world();
        let assurance = Some(Assurance { tee, ..Assurance::LOWEST });
        world.tenant_record(3, RecordKind::Refused, About { assurance, ..About::default() });
        let bundle = world.seal(world.draft(&[0, 1, 2, 4, 5, 7, 8]), 0, 4);
        assert_eq!(code(&bundle, &world.trust()), expected);
    }
}

#[test]
fn the_trust_file_decides() {
    let world = world();
    let (bundle, trust) = (world.bundle(), world.trust());
    let with = |change: &dyn Fn(&mut TrustFile)| {
        let mut changed = trust.clone();
        change(&mut changed);
        code(&bundle, &changed)
    };
    assert_eq!(with(&|_| {}), "verified");
    assert_eq!(with(&|t| t.tenant = None), "verified");
    assert_eq!(with(&|t| t.tenant = Some(tenant(4))), "tenant");
    assert_eq!(with(&|t| t.instance = Hash::ZERO), "instance");
    assert_eq!(with(&|t| t.mrenclaves.clear()), "record_measurement");
    assert_eq!(with(&|t| t.sgx_roots.clear()), "evidence");
    assert_eq!(with(&|t| t.sgx_roots = vec![Hash::ZERO]), "evidence");
    assert_eq!(with(&|t| t.intake_key.0.0 = vec![6; 32]), "evidence");
    assert_eq!(with(&|t| t.intake_key.0.0.clear()), "evidence");
    assert_eq!(with(&|t| t.sgx_policy.min_tcb_eval_data_number = 18), "evidence");
    assert_eq!(with(&|t| t.log.key = PublicKey::of(&key(9))), "index_signature");
    assert_eq!(with(&|t| t.log.origin = "other".into()), "manifest");
    assert_eq!(with(&|t| t.witness_quorum = 1), "witnesses");
}

proptest! {
    /// Bundles that another hand packed anew, with everything consistent but the signatures.
    #[test]
    fn mutated_files_in_a_well_formed_archive_are_refused(
        pick in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(),
        byte in any::<u8>(), insert in any::<bool>(),
    ) {
        let world = world();
        let bundle = world.bundle();
        let mut files: BTreeMap<String, Vec<u8>> = toani_verify::tar::parse(&bundle)
            .unwrap()
            .into_iter()
            .map(|(name, bytes)| (name.to_string(), bytes.to_vec()))
            .collect();
        let name = files.keys().nth(pick.index(files.len())).unwrap().clone();
        let content = files.get_mut(&name).unwrap();
        let at = at.index(content.len());
        if insert {
            content.insert(at, byte);
        } else {
            content[at] = byte;
        }
        let changed = toani_verify::tar::write(&files).unwrap();
        prop_assert_eq!(verify(&changed, &world.trust()).is_ok(), changed == bundle);
    }

    #[test]
    fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        prop_assert!(verify(&bytes, &world().trust()).is_err());
    }
}
