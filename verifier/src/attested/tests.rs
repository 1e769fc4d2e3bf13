//! Evidence that is somebody else's, or that was made up.

use std::sync::OnceLock;

use ed25519_dalek::SigningKey;
use toani_attestation::{SgxEvidence, snp::Product};
use toani_protocol::{
    instance::{SgxPolicy, TcbStatus},
    trust::{LogTrust, TrustFormat},
};
use toani_simulator::{Authority, Chip, Guest, Level, Platform, SnpRevocations};

use super::*;

const NOW: Time = Time::from_ms(1_773_224_100_000);
const DAY_MS: u64 = 86_400_000;
const BOOT: &str = "boot_1";

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<(tempfile::TempDir, Authority)> = OnceLock::new();
    &AUTHORITY.get_or_init(another_authority).1
}

fn another_authority() -> (tempfile::TempDir, Authority) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(folder.path()).unwrap();
    (folder, authority)
}

fn key(seed: u8) -> PublicKey {
    PublicKey::of(&SigningKey::from_bytes(&[seed; 32]))
}

fn trust() -> TrustFile {
    TrustFile {
        format: TrustFormat::V1,
        instance: Hash::of(b"instance"),
        tenant: None,
        mrenclaves: vec![Hash::of(b"older"), Hash::of(b"enclave")],
        log: LogTrust { origin: "log".into(), key: key(1) },
        intake_key: IntakeKey(Bytes(vec![5; 32])),
        sgx_roots: vec![authority().sgx_root()],
        sgx_policy: SgxPolicy::up_to_date(),
        snp_roots: Vec::new(),
        witnesses: Vec::new(),
        witness_quorum: 0,
    }
}

/// An enclave's report body.
fn body(mrenclave: Hash, instance: Hash, boot: &str, keys: &BootKeys) -> [u8; 384] {
    let mut body = [0; 384];
    body[48] = 0b101; // INIT, MODE64BIT
    body[56] = 3;
    body[64..96].copy_from_slice(mrenclave.as_bytes());
    let vouched = report_data(Role::Enclave, &instance, boot, &keys.hash());
    body[320..].copy_from_slice(&vouched);
    body
}

/// The hash of the boot's channel key.
const CHANNEL: Hash = Hash::new([7; 32]);

fn keys() -> BootKeys {
    BootKeys { chain: key(1), intake: [5; 32], channel: CHANNEL }
}

fn honest() -> [u8; 384] {
    body(Hash::of(b"enclave"), Hash::of(b"instance"), BOOT, &keys())
}

fn quoted(body: &[u8; 384]) -> SgxEvidence {
    authority().sgx_evidence(&Platform::number(1), body, NOW).unwrap()
}

fn document(evidence: SgxEvidence) -> Vec<u8> {
    Evidence::Sgx(evidence).encode().unwrap()
}

fn verify_at(document: &[u8], trust: &TrustFile, at: Time) -> Result<AttestedBoot, Unproven> {
    AttestedBoot::verify(document, &BootId::new(BOOT).unwrap(), CHANNEL, trust, at)
}

fn verify(document: &[u8]) -> Result<AttestedBoot, Unproven> {
    verify_at(document, &trust(), NOW)
}

fn code(document: &[u8]) -> &'static str {
    verify(document).map_or_else(Unproven::code, |_| "proven")
}

#[test]
fn what_an_enclave_shows_is_proven_and_named() {
    let shown = document(quoted(&honest()));
    let proven = verify(&shown).unwrap();
    assert_eq!((proven.tee, proven.root), (Tee::Simulator, authority().sgx_root()));
    assert_eq!((proven.mrenclave, proven.boot.as_str()), (Hash::of(b"enclave"), BOOT));
    assert_eq!((proven.tcb_status, proven.advisory_ids.len()), (TcbStatus::UpToDate, 0));
    assert_eq!((proven.evidence, proven.at), (Hash::of(&shown), NOW));
    assert!(proven.valid_until > NOW);
}

#[test]
fn what_is_made_up_or_changed_proves_nothing() {
    let mut forged = quoted(&honest());
    // MRENCLAVE and report data of a quote begin at 112 and 368.
    for at in [112, 368, 431] {
        forged.quote.0[at] ^= 1;
        assert_eq!(code(&document(forged.clone())), "evidence_quote", "byte {at}");
        forged.quote.0[at] ^= 1;
    }
    assert_eq!(code(&document(forged)), "proven");
    for garbage in [b"".as_slice(), b"{}", &[0xff; 64]] {
        assert_eq!(code(garbage), "evidence_document");
    }
    let shown = document(quoted(&honest()));
    assert_eq!(code(&[b" ".as_slice(), &shown].concat()), "evidence_document");
}

#[test]
fn another_measurement_is_not_believed() {
    let other = body(Hash::of(b"other"), Hash::of(b"instance"), BOOT, &keys());
    assert_eq!(code(&document(quoted(&other))), "evidence_measurement");
    let mut debug = honest();
    debug[48] |= 2;
    assert_eq!(verify(&document(quoted(&debug))), Err(Unproven::Sgx(SgxError::Debug)));
}

#[test]
fn other_keys_boots_or_instances_are_not_vouched_for() {
    let (enclave, instance) = (Hash::of(b"enclave"), Hash::of(b"instance"));
    let other_keys = [
        BootKeys { chain: key(2), ..keys() },
        BootKeys { intake: [6; 32], ..keys() },
        BootKeys { channel: Hash::of(b"another"), ..keys() },
    ];
    for keys in &other_keys {
        assert_eq!(code(&document(quoted(&body(enclave, instance, BOOT, keys)))), "evidence_keys");
    }
    let boot = body(enclave, instance, "boot_2", &keys());
    assert_eq!(code(&document(quoted(&boot))), "evidence_keys");
    let other = body(enclave, Hash::of(b"other"), BOOT, &keys());
    assert_eq!(code(&document(quoted(&other))), "evidence_keys");
    // The sandbox's role, over the same keys.
    let mut sandbox = honest();
    let vouched = report_data(Role::Sandbox, &instance, BOOT, &keys().hash());
    sandbox[320..].copy_from_slice(&vouched);
    assert_eq!(code(&document(quoted(&sandbox))), "evidence_keys");
}

#[test]
fn the_root_and_the_policy_are_the_trust_files() {
    let (_folder, stranger) = another_authority();
    let evidence = stranger.sgx_evidence(&Platform::number(1), &honest(), NOW).unwrap();
    let unknown = Err(Unproven::Sgx(SgxError::UnknownRoot));
    assert_eq!(verify(&document(evidence)), unknown);
    let vendors = TrustFile { sgx_roots: vec![roots::INTEL_SGX_ROOT_CA], ..trust() };
    let shown = document(quoted(&honest()));
    assert_eq!(verify_at(&shown, &vendors, NOW), unknown);

    let outdated = Platform { level: Level::Outdated, ..Platform::number(1) };
    let shown = document(authority().sgx_evidence(&outdated, &honest(), NOW).unwrap());
    assert_eq!(verify(&shown), Err(Unproven::Sgx(SgxError::Status)));
    let mut lenient = trust();
    lenient.sgx_policy.statuses.push(TcbStatus::OutOfDate);
    let proven = verify_at(&shown, &lenient, NOW).unwrap();
    assert_eq!(proven.tcb_status, TcbStatus::OutOfDate);
    assert_eq!(proven.advisory_ids, ["SIMULATED-SA-00002"]);
}

#[test]
fn evidence_has_its_time() {
    let shown = document(quoted(&honest()));
    let valid_until = verify(&shown).unwrap().valid_until;
    assert!(verify_at(&shown, &trust(), valid_until).is_ok());
    assert!(verify_at(&shown, &trust(), valid_until.plus_ms(1_000)).is_err());
    assert!(verify_at(&shown, &trust(), Time::from_ms(NOW.ms() - 2 * DAY_MS)).is_err());
}

#[test]
fn what_an_instance_says_is_held_against_trust_file_and_evidence() {
    let evidence = serde_json::from_slice(&document(quoted(&honest()))).unwrap();
    let told = Told {
        instance: Hash::of(b"instance"),
        boot: BootId::new(BOOT).unwrap(),
        mrenclave: Hash::of(b"enclave"),
        chain_key: key(1),
        intake_key: IntakeKey(Bytes(vec![5; 32])),
        channel: CHANNEL,
        evidence,
    };
    assert!(told.verify(&trust(), NOW).is_ok());
    let lie = |change: &dyn Fn(&mut Told)| {
        let mut lie = told.clone();
        change(&mut lie);
        lie.verify(&trust(), NOW).unwrap_err()
    };
    assert_eq!(lie(&|told| told.instance = Hash::ZERO), Unproven::Told("instance"));
    assert_eq!(lie(&|told| told.chain_key = key(2)), Unproven::Told("chain key"));
    assert_eq!(lie(&|told| told.intake_key.0.0[0] = 6), Unproven::Told("intake key"));
    assert_eq!(lie(&|told| told.mrenclave = Hash::of(b"older")), Unproven::Told("measurement"));
    assert_eq!(lie(&|told| told.boot = BootId::new("boot_2").unwrap()), Unproven::Keys);
    assert_eq!(lie(&|told| told.evidence = Json(serde_json::json!({}))), Unproven::Document);
}

#[test]
fn a_guest_is_verified_under_the_roots_for_guests() {
    let chip = Chip::number(Product::Milan, 1);
    let guest = Guest::new([7; 48], [8; 64]);
    let evidence = authority().snp_evidence(&chip, &guest, &SnpRevocations::none(NOW)).unwrap();
    let believed = TrustFile { snp_roots: vec![authority().snp_root().unwrap()], ..trust() };
    let verdict = verify_guest(&evidence, &believed, NOW).unwrap();
    assert_eq!(verdict.root, believed.snp_roots[0]);
    assert_eq!(verify_guest(&evidence, &trust(), NOW), Err(SnpError::UnknownRoot));
    assert_eq!(code(&Evidence::Snp(evidence).encode().unwrap()), "evidence_document");
}
