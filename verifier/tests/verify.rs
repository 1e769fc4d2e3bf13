//! The real binary over a real bundle, whole and tampered with.
#![allow(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use ed25519_dalek::SigningKey;
use toani_attestation::Evidence;
use toani_audit::{
    bundle::{BundleFormat, BundleIndex, FileEntry, FileKind, INDEX_NAME},
    chain::Links,
    checkpoint,
};
use toani_protocol::{
    BootId, Hash, TenantId, Time, canonical,
    evidence::{BootKeys, Role, report_data},
    instance::{Manifest, ManifestFormat, SgxPolicy},
    record::{About, Record, RecordKind},
    sign::{Bytes, Label, PublicKey, Signature, Signed, sign},
    trust::{IntakeKey, LogTrust, TrustFile, TrustFormat},
};
use toani_simulator::{Authority, Platform};

const ORIGIN: &str = "log.example/1";

const NOW: Time = Time::from_ms(1_773_224_100_000);
const CHANNEL: Hash = Hash::new([7; 32]);
const INTAKE: [u8; 32] = [5; 32];

/// What a simulated enclave shows for a boot, and the root of its vendor.
fn shown(instance: &Hash, boot: &BootId, key: &SigningKey) -> (Vec<u8>, Hash) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(folder.path()).unwrap();
    let keys = BootKeys { chain: PublicKey::of(key), intake: INTAKE, channel: CHANNEL };
    let mut body = [0; 384];
    body[48] = 0b101; // INIT, MODE64BIT
    body[56] = 3;
    body[64..96].copy_from_slice(Hash::of(b"enclave").as_bytes());
    let vouched = report_data(Role::Enclave, instance, boot.as_str(), &keys.hash());
    body[320..].copy_from_slice(&vouched);
    let evidence = authority.sgx_evidence(&Platform::number(1), &body, NOW).unwrap();
    (Evidence::Sgx(evidence).encode().unwrap(), authority.sgx_root())
}

/// A bundle of one record, with that of its boot, and the trust file for it.
fn make() -> (Vec<u8>, TrustFile) {
    let key = SigningKey::from_bytes(&[1; 32]);
    let tenant = TenantId::of_first_key(&PublicKey::of(&key));
    let boot = BootId::new("boot_1").unwrap();
    let manifest = canonical::encode(&Manifest {
        format: ManifestFormat::V1,
        sgx_roots: vec![Hash::of(b"a root")],
        sgx_policy: SgxPolicy::up_to_date(),
        snp_roots: vec![Hash::of(b"another root")],
        operators: vec![PublicKey::of(&key)],
        quorum: 1,
        log_origin: ORIGIN.into(),
        nonce: Hash::ZERO,
    })
    .unwrap();
    let instance = Manifest::id_of(&manifest);
    let (evidence, root) = shown(&instance, &boot, &key);
    let mut links = Links::new();
    let mut append = |kind, about| {
        let mut record = Record {
            index: links.size(),
            origin: ORIGIN.into(),
            previous: links.head(),
            time: NOW,
            boot: boot.clone(),
            kind,
            tee_mrenclave: Hash::of(b"enclave"),
            evidence: Hash::of(&evidence),
            admission: Hash::ZERO,
            about,
            chain_signature: Signature([0; 64]),
        };
        let unsigned = record.unsigned_bytes().unwrap();
        record.chain_signature = sign(&key, Label::Record, &unsigned);
        let leaf = canonical::encode(&record).unwrap();
        links.advance(&record, Record::hash_of(&leaf)).unwrap();
        leaf
    };
    let boots = append(RecordKind::Boot, About { blob: Some(CHANNEL), ..About::default() });
    let of_tenant = About {
        tenant: Some(tenant.clone()),
        tenant_sequence: Some(0),
        tenant_previous: Some(Hash::ZERO),
        ..About::default()
    };
    let refused = append(RecordKind::Refused, of_tenant);
    let note = checkpoint::sign(ORIGIN, 2, &links.frontier().root(), &key);
    let proof = |other: &[u8]| canonical::encode(&vec![Record::hash_of(other)]).unwrap();
    let mut files = BTreeMap::from([
        (FileKind::Readme.name(), b"how to verify".to_vec()),
        (FileKind::Manifest.name(), manifest),
        (FileKind::Checkpoint.name(), note.clone().into_bytes()),
        (FileKind::Evidence(Hash::of(&evidence)).name(), evidence.clone()),
        (FileKind::Proof(0).name(), proof(&refused)),
        (FileKind::Proof(1).name(), proof(&boots)),
        (FileKind::Record(0).name(), boots),
        (FileKind::Record(1).name(), refused),
    ]);
    let entries = files.iter().map(|(name, bytes)| (name.clone(), FileEntry::of(bytes)));
    let index = BundleIndex {
        format: BundleFormat::V1,
        instance,
        boot,
        tenant: tenant.clone(),
        tenant_last_sequence: 0,
        from_sequence: 0,
        checkpoint: Hash::of(note.as_bytes()),
        made_at: NOW,
        files: entries.collect(),
    };
    let signed = Signed::by(&key, Label::BundleIndex, index).unwrap();
    files.insert(INDEX_NAME.into(), canonical::encode(&signed).unwrap());
    let bundle = toani_verify::tar::write(&files).unwrap();
    let trust = TrustFile {
        format: TrustFormat::V1,
        instance,
        tenant: Some(tenant),
        mrenclaves: vec![Hash::of(b"enclave")],
        log: LogTrust { origin: ORIGIN.into(), key: PublicKey::of(&key) },
        intake_key: IntakeKey(Bytes(INTAKE.to_vec())),
        sgx_roots: vec![root],
        sgx_policy: SgxPolicy::up_to_date(),
        snp_roots: Vec::new(),
        witnesses: Vec::new(),
        witness_quorum: 0,
    };
    (bundle, trust)
}

fn run(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_toani-verify"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn the_binary_says_verified_or_refused_by_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let (bundle, trust) = make();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write("b.tar", &bundle);
    write("t.json", &serde_json::to_vec_pretty(&trust).unwrap());

    let (code, text) = run(folder.path(), &["b.tar", "--trust", "t.json"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("VERIFIED"), "{text}");
    assert!(
        text.contains("1 refused") && text.contains("tee: simulator: a simulated TEE"),
        "{text}"
    );

    let (code, text) = run(folder.path(), &["b.tar", "--trust", "t.json", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["ok"]), (0, &true.into()));
    assert_eq!(json["report"]["records"], 1);
    assert_eq!(json["report"]["tee"], "simulator");
    assert_eq!(json["report"]["boots"][0]["tcb_status"], "UpToDate");

    let mut changed = bundle.clone();
    changed[bundle.len() / 2] ^= 1;
    write("changed.tar", &changed);
    let (code, text) = run(folder.path(), &["changed.tar", "--trust", "t.json"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.starts_with("REFUSED"), "{text}");
    let (code, text) = run(folder.path(), &["changed.tar", "--trust", "t.json", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["ok"]), (1, &false.into()));
    assert!(json["code"].is_string());
}

#[test]
fn what_cannot_be_read_is_neither() {
    let folder = tempfile::tempdir().unwrap();
    let (bundle, trust) = make();
    fs::write(folder.path().join("b.tar"), bundle).unwrap();
    let text = serde_json::to_string(&trust).unwrap();
    let twice = text.replacen('{', "{\"tenant\":null,", 1);
    fs::write(folder.path().join("twice.json"), twice).unwrap();
    for arguments in [
        &["b.tar"][..],
        &["b.tar", "--trust", "none.json"],
        &["none.tar", "--trust", "twice.json"],
        &["b.tar", "--trust", "twice.json"],
        &["b.tar", "--trust", "b.tar"],
    ] {
        assert_eq!(run(folder.path(), arguments).0, 2, "{arguments:?}");
    }
    let (code, help) = run(folder.path(), &["--help"]);
    assert_eq!(code, 0);
    assert!(help.contains("Exit codes:"), "{help}");
}
