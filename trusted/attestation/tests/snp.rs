//! SEV-SNP evidence, genuine and simulated, through the one verifier.
#![allow(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::sync::OnceLock;

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use tempfile::TempDir;
use toani_attestation::{
    Evidence, SnpError, SnpEvidence, SnpPolicy, SnpVerdict,
    roots::{AMD_ARK_GENOA, AMD_ARK_MILAN, AMD_ARK_TURIN, INTEL_SGX_ROOT_CA, sandbox_is_snp},
    sgx::CrlError,
    snp::{self, Product, TcbVersion},
    x509::{CertificateError, Role},
};
use toani_protocol::{Hash, Time, sign::Bytes};
use toani_simulator::{ASK_SERIAL, Authority, Chip, Guest, SnpRevocations, Validity};

const NOW: Time = Time::from_ms(1_773_224_100_000);
const VENDORS: [Hash; 4] = [INTEL_SGX_ROOT_CA, AMD_ARK_MILAN, AMD_ARK_GENOA, AMD_ARK_TURIN];
const NO_TCB: TcbVersion = TcbVersion { fmc: 0, boot_loader: 0, tee: 0, snp: 0, microcode: 0 };

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<(TempDir, Authority)> = OnceLock::new();
    let (_folder, authority) = AUTHORITY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(folder.path()).unwrap();
        authority.snp_root().unwrap();
        (folder, authority)
    });
    authority
}

fn chip() -> Chip {
    Chip::number(Product::Milan, 1)
}

fn guest() -> Guest {
    Guest::new([0x1d; 48], [0xda; 64])
}

fn evidence(chip: &Chip, guest: &Guest) -> SnpEvidence {
    authority().snp_evidence(chip, guest, &SnpRevocations::none(NOW)).unwrap()
}

fn published(change: impl FnOnce(&mut SnpRevocations)) -> SnpEvidence {
    let mut revocations = SnpRevocations::none(NOW);
    change(&mut revocations);
    authority().snp_evidence(&chip(), &guest(), &revocations).unwrap()
}

/// Names the chips and the launch digest of these tests.
fn policy() -> SnpPolicy {
    let lines = [Product::Milan, Product::Genoa, Product::Turin];
    SnpPolicy {
        chips: lines.map(|line| Bytes(Chip::number(line, 1).id.to_vec())).to_vec(),
        launch_digests: vec![Bytes(vec![0x1d; 48])],
        min_tcb: NO_TCB,
        refused_products: Vec::new(),
        min_crl_number: None,
    }
}

fn verify(evidence: &SnpEvidence) -> Result<SnpVerdict, SnpError> {
    snp::verify(evidence, &[authority().snp_root().unwrap()], &policy(), NOW)
}

fn vector(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/attestation/");
    std::fs::read(folder.to_owned() + name).unwrap()
}

/// ASK and ARK, as AMD gives them.
fn chain(name: &str) -> [Bytes; 2] {
    let pem = String::from_utf8(vector(name)).unwrap();
    let blocks = pem.split("-----BEGIN CERTIFICATE-----").skip(1);
    let decode = |block: &str| {
        let base64: String = block.split_once("-----END").unwrap().0.split_whitespace().collect();
        Bytes(BASE64.decode(base64.as_bytes()).unwrap())
    };
    <[Bytes; 2]>::try_from(blocks.map(decode).collect::<Vec<_>>()).unwrap()
}

/// The report of a real machine. Its CRL was not published with it.
fn genuine() -> SnpEvidence {
    let [ask, ark] = chain("cert_chain_milan");
    let hex = String::from_utf8(vector("report_milan.hex")).unwrap();
    let report = Bytes(HEXLOWER_PERMISSIVE.decode(hex.trim().as_bytes()).unwrap());
    SnpEvidence { report, vcek: Bytes(vector("vcek_milan.der")), ask, ark, crl: Bytes(Vec::new()) }
}

/// The CRL is asked for last, when report, root, chain, chip and TCB have held.
#[test]
fn a_genuine_report_holds_up_to_the_crl_that_it_lacks() {
    let evidence = genuine();
    let refusal = |evidence: &SnpEvidence, roots: &[Hash], now| {
        snp::verify(evidence, roots, &policy(), now).unwrap_err()
    };
    let missing = SnpError::Crl(CrlError::Malformed);
    assert_eq!(refusal(&evidence, &[AMD_ARK_MILAN], NOW), missing);
    assert_eq!(refusal(&evidence, &[AMD_ARK_GENOA, AMD_ARK_TURIN], NOW), SnpError::UnknownRoot);
    let year = 365 * 24 * 60 * 60 * 1000;
    let expired = SnpError::Certificate(Role::Vcek, CertificateError::Expired);
    assert_eq!(refusal(&evidence, &[AMD_ARK_MILAN], NOW.plus_ms(5 * year)), expired);
    let early = SnpError::Certificate(Role::Vcek, CertificateError::NotYetValid);
    assert_eq!(refusal(&evidence, &[AMD_ARK_MILAN], Time::from_ms(NOW.ms() - 3 * year)), early);

    let mut flipped = evidence.clone();
    flipped.report.0[0x29f] ^= 1;
    assert_eq!(refusal(&flipped, &[AMD_ARK_MILAN], NOW), SnpError::ReportSignature);
    let simulated = published(|_| ());
    let foreign = SnpEvidence { crl: simulated.crl, ..evidence };
    let issuer = SnpError::Crl(CrlError::Issuer);
    assert_eq!(refusal(&foreign, &[AMD_ARK_MILAN], NOW), issuer);
}

/// No report of Turin is published; its certificates are read and verified all the same.
#[test]
fn a_genuine_vcek_of_turin_vouches_for_no_other_chip() {
    let [ask, ark] = chain("cert_chain_turin");
    assert_eq!(Hash::of(&ark.0), AMD_ARK_TURIN);
    let turin = SnpEvidence { vcek: Bytes(vector("vcek_turin.der")), ask, ark, ..genuine() };
    let refused = snp::verify(&turin, &[AMD_ARK_TURIN], &policy(), NOW);
    assert_eq!(refused, Err(SnpError::ReportSignature));
}

#[test]
fn simulated_reports_are_accepted_under_their_root_alone() {
    for (product, version) in [
        (Product::Milan, 2),
        (Product::Milan, 3),
        (Product::Genoa, 3),
        (Product::Genoa, 5),
        (Product::Turin, 4),
        (Product::Turin, 5),
    ] {
        let chip = Chip::number(product, 1);
        let shown = evidence(&chip, &Guest { report_version: version, ..guest() });
        let verdict = verify(&shown).unwrap();
        assert_eq!(verdict.launch_digest, [0x1d; 48]);
        assert_eq!(verdict.report_data, [0xda; 64]);
        assert_eq!((verdict.product, verdict.chip_id, verdict.tcb), (product, chip.id, chip.tcb));
        assert_eq!(verdict.root, authority().snp_root().unwrap());
        assert!(!sandbox_is_snp(&verdict.root));
        assert_eq!(verdict.valid_until, SnpRevocations::none(NOW).validity.until);

        let refused = snp::verify(&shown, &VENDORS, &policy(), NOW);
        assert_eq!(refused, Err(SnpError::UnknownRoot));
        let encoded = Evidence::Snp(shown.clone()).encode().unwrap();
        assert_eq!(Evidence::decode(&encoded), Ok(Evidence::Snp(shown)));
    }
    assert!(sandbox_is_snp(&AMD_ARK_TURIN) && !sandbox_is_snp(&INTEL_SGX_ROOT_CA));
}

/// What no policy can accept.
#[test]
fn guests_that_can_be_looked_into_are_refused() {
    for (guest, error) in [
        (Guest { policy: Guest::POLICY | 1 << 19, ..guest() }, SnpError::Debug),
        (Guest { policy: Guest::POLICY | 1 << 18, ..guest() }, SnpError::MigrationAgent),
        (Guest { vmpl: 1, ..guest() }, SnpError::Vmpl),
        (Guest { report_version: 1, ..guest() }, SnpError::ReportForm),
        (Guest { report_version: 6, ..guest() }, SnpError::ReportForm),
    ] {
        assert_eq!(verify(&evidence(&chip(), &guest)), Err(error));
    }
}

#[test]
fn what_a_policy_does_not_name_is_refused() {
    let shown = published(|_| ());
    let root = [authority().snp_root().unwrap()];
    for (change, error) in [
        (SnpPolicy { chips: Vec::new(), ..policy() }, SnpError::ChipNotNamed),
        (SnpPolicy { launch_digests: Vec::new(), ..policy() }, SnpError::LaunchDigest),
        (SnpPolicy { refused_products: vec![Product::Milan], ..policy() }, SnpError::Product),
        (
            SnpPolicy { min_tcb: TcbVersion { microcode: 116, ..chip().tcb }, ..policy() },
            SnpError::Tcb,
        ),
        (SnpPolicy { min_tcb: TcbVersion { snp: 9, ..NO_TCB }, ..policy() }, SnpError::Tcb),
        (SnpPolicy { min_crl_number: Some(2), ..policy() }, SnpError::Crl(CrlError::Number)),
    ] {
        assert_eq!(snp::verify(&shown, &root, &change, NOW), Err(error));
    }
    let exact = SnpPolicy { min_tcb: chip().tcb, min_crl_number: Some(1), ..policy() };
    assert!(snp::verify(&shown, &root, &exact, NOW).is_ok());
    let other = evidence(&Chip::number(Product::Milan, 2), &guest());
    assert_eq!(verify(&other), Err(SnpError::ChipNotNamed));
}

#[test]
fn revoked_and_stale_chains_are_refused() {
    let revoked = |role| SnpError::Certificate(role, CertificateError::Revoked);
    let past = Validity { until: Time::from_ms(NOW.ms() - 1000), ..Validity::LONG };
    let future = Validity { from: NOW.plus_ms(1000), ..Validity::LONG };
    for (evidence, error) in [
        (published(|of| of.revoked = vec![1, ASK_SERIAL]), revoked(Role::Ask)),
        (published(|of| of.revoked = vec![0]), revoked(Role::Vcek)),
        (published(|of| of.revoked = vec![0x1_0000]), revoked(Role::Root)),
        (published(|of| of.validity = past), SnpError::Crl(CrlError::Expired)),
        (published(|of| of.validity = future), SnpError::Crl(CrlError::NotYetValid)),
    ] {
        assert_eq!(verify(&evidence), Err(error));
    }
    for (vcek_validity, error) in
        [(past, CertificateError::Expired), (future, CertificateError::NotYetValid)]
    {
        let shown = evidence(&Chip { vcek_validity, ..chip() }, &guest());
        assert_eq!(verify(&shown), Err(SnpError::Certificate(Role::Vcek, error)));
    }
    assert!(verify(&published(|of| of.revoked = vec![ASK_SERIAL + 1])).is_ok());
}

#[test]
fn a_report_of_another_chip_or_tcb_than_its_vcek_is_refused() {
    let older = TcbVersion { microcode: 100, ..chip().tcb };
    let lies_about_tcb = Chip { reported_tcb: older, ..chip() };
    let lies_about_id = Chip { reported_id: Chip::number(Product::Milan, 2).id, ..chip() };
    let mut longer = Chip::number(Product::Turin, 1);
    longer.reported_id[63] = 1;
    for chip in [lies_about_tcb, lies_about_id, longer] {
        assert_eq!(verify(&evidence(&chip, &guest())), Err(SnpError::OtherChip), "{chip:?}");
    }
    // From version 3 on a report names its family: Milan's may not come with Turin's VCEK.
    let version3 = Guest { report_version: 3, ..guest() };
    let mut mixed = evidence(&Chip { reported_product: Product::Turin, ..chip() }, &version3);
    assert_eq!(verify(&mixed), Err(SnpError::OtherChip));
    mixed.vcek = evidence(&Chip { tcb: older, ..chip() }, &version3).vcek;
    assert_eq!(verify(&mixed), Err(SnpError::ReportSignature), "each TCB has a key of its own");
}

#[test]
fn parts_that_are_missing_or_exchanged_are_refused() {
    let whole = published(|_| ());
    type Part = for<'a> fn(&'a mut SnpEvidence) -> &'a mut Bytes;
    let parts: [Part; 5] = [
        |of| &mut of.report,
        |of| &mut of.vcek,
        |of| &mut of.ask,
        |of| &mut of.ark,
        |of| &mut of.crl,
    ];
    for (which, part) in parts.iter().enumerate() {
        let mut without = whole.clone();
        part(&mut without).0.clear();
        assert!(verify(&without).is_err(), "part {which} is empty");
        let mut longer = whole.clone();
        part(&mut longer).0.push(0);
        assert!(verify(&longer).is_err(), "part {which} is longer");
        for (other, from) in parts.iter().enumerate().filter(|(other, _)| *other != which) {
            let mut exchanged = whole.clone();
            part(&mut exchanged).0 = from(&mut whole.clone()).0.clone();
            assert!(verify(&exchanged).is_err(), "part {other} as part {which}");
        }
    }
}

/// Bytes 0 to 2A0h are signed. What follows is the signature in fields that are wider than it, and
/// the rest has to be zero: so no bit of a report can be flipped.
#[test]
fn no_bit_of_a_report_can_be_flipped() {
    let genuine = genuine();
    let every_bit = |byte| (0..8).map(move |bit| (byte, bit));
    let a_bit = |byte| (byte, u8::try_from(byte % 8).unwrap());
    // What is signed and the fields of r and s, all bits; the zeros after them, a bit of each byte.
    let flips: Vec<(usize, u8)> =
        (0..0x330).flat_map(every_bit).chain((0x330..0x4a0).map(a_bit)).collect();
    let refusal = &|report: Vec<u8>| {
        let flipped = SnpEvidence { report: Bytes(report), ..genuine.clone() };
        snp::verify(&flipped, &[AMD_ARK_MILAN], &policy(), NOW).unwrap_err()
    };
    assert_eq!(refusal(genuine.report.0.clone()), SnpError::Crl(CrlError::Malformed), "all but it");
    std::thread::scope(|scope| {
        for half in flips.chunks(flips.len().div_ceil(2)) {
            let mut report = genuine.report.0.clone();
            scope.spawn(move || {
                for (byte, bit) in half {
                    report[*byte] ^= 1 << bit;
                    let refusal = refusal(report.clone());
                    report[*byte] ^= 1 << bit;
                    let early = [SnpError::ReportForm, SnpError::ReportSignature];
                    assert!(early.contains(&refusal), "bit {bit} of byte {byte:#x}: {refusal}");
                }
            });
        }
    });
}

/// One bit of each byte of the certificates and the CRL: all of them are signed.
#[test]
fn no_bit_of_a_chain_can_be_flipped() {
    let whole = published(|_| ());
    type Part = for<'a> fn(&'a mut SnpEvidence) -> &'a mut Bytes;
    let parts: [Part; 4] =
        [|of| &mut of.vcek, |of| &mut of.ask, |of| &mut of.ark, |of| &mut of.crl];
    for part in parts {
        let mut shown = whole.clone();
        for byte in (0..part(&mut shown).0.len()).step_by(3) {
            part(&mut shown).0[byte] ^= 1 << (byte % 8);
            assert!(verify(&shown).is_err(), "byte {byte}");
            part(&mut shown).0[byte] ^= 1 << (byte % 8);
        }
        assert!(verify(&shown).is_ok());
    }
}
