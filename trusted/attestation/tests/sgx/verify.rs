//! What is accepted, and what is refused for which reason.

use crate::world::*;
use toani_attestation::{
    Evidence, SgxError, SgxEvidence,
    roots::{INTEL_SGX_ROOT_CA, tee_of},
    sgx::{self, CrlError, TcbStatus},
    x509::{CertificateError, Role},
};
use toani_protocol::{Hash, assurance::Tee, sign::Bytes};
use toani_simulator::{Level, PCK_CA_SERIAL, Platform, Publication, TCB_SIGNER_SERIAL, Validity};

fn simulated() -> SgxEvidence {
    authority().sgx_evidence(&Platform::number(1), &report_body(), NOW).unwrap()
}

fn quote_of(platform: &Platform) -> SgxEvidence {
    authority().sgx_evidence(platform, &report_body(), NOW).unwrap()
}

fn published(change: impl FnOnce(&mut Publication)) -> SgxEvidence {
    let mut publication = Publication::about(&Platform::number(1), NOW);
    change(&mut publication);
    let collateral = authority().collateral(&publication).unwrap();
    SgxEvidence { collateral, ..simulated() }
}

#[test]
fn a_genuine_quote_is_accepted_where_its_status_is() {
    let evidence = genuine();
    let lenient = policy(&[TcbStatus::ConfigurationAndSwHardeningNeeded]);
    let verdict = sgx::verify(&evidence, &[INTEL_SGX_ROOT_CA], &lenient, GENUINE_NOW).unwrap();
    assert_eq!(tee_of(&verdict.root), Tee::Sgx);
    assert_eq!(verdict.status, TcbStatus::ConfigurationAndSwHardeningNeeded);
    assert_eq!(verdict.advisory_ids, ["INTEL-SA-00289", "INTEL-SA-00615"]);
    assert_eq!(verdict.fmspc, [0, 0xa0, 0x67, 0x11, 0, 0]);
    assert_eq!(verdict.tcb_eval_data_number, 17);

    let claims = second_opinion(&evidence, GENUINE_NOW).unwrap();
    assert_eq!(verdict.ppid.as_slice(), claims.platform.pck.ppid);
    assert_eq!(verdict.advisory_ids, claims.tcb.advisory_ids);
    assert_eq!(verdict.valid_until.ms(), claims.earliest_expiration_date * 1000);
    assert_eq!(verdict.pck_crl_number, claims.platform.pck_crl_num);

    let decoded = Evidence::decode(&Evidence::Sgx(evidence.clone()).encode().unwrap()).unwrap();
    assert_eq!(decoded, Evidence::Sgx(evidence));
}

#[test]
fn a_genuine_quote_is_refused_elsewhere_and_at_other_times() {
    let evidence = genuine();
    let lenient = policy(&[TcbStatus::ConfigurationAndSwHardeningNeeded]);
    let refusal = |roots: &[Hash], policy: &sgx::SgxPolicy, now| {
        sgx::verify(&evidence, roots, policy, now).unwrap_err()
    };
    let intel = [INTEL_SGX_ROOT_CA];
    assert_eq!(refusal(&intel, &policy(&STRICT), GENUINE_NOW), SgxError::Status);
    assert_eq!(refusal(&[authority().sgx_root()], &lenient, GENUINE_NOW), SgxError::UnknownRoot);
    assert_eq!(refusal(&vendors()[1..], &lenient, GENUINE_NOW), SgxError::UnknownRoot);
    assert_eq!(refusal(&[], &lenient, GENUINE_NOW), SgxError::UnknownRoot);
    let month = 31 * 24 * 60 * 60 * 1000;
    assert!(matches!(
        refusal(&intel, &lenient, GENUINE_NOW.plus_ms(month)),
        SgxError::Crl(_, CrlError::Expired)
    ));
    let newer = sgx::SgxPolicy { min_tcb_eval_data_number: 18, ..lenient.clone() };
    assert_eq!(refusal(&intel, &newer, GENUINE_NOW), SgxError::EvaluationDataNumber);
    let verdict = sgx::verify(&evidence, &intel, &lenient, GENUINE_NOW).unwrap();
    let newer =
        sgx::SgxPolicy { min_pck_crl_number: Some(verdict.pck_crl_number + 1), ..lenient.clone() };
    let refused = refusal(&intel, &newer, GENUINE_NOW);
    assert_eq!(refused, SgxError::Crl(Role::PckCa, CrlError::Number));
    let newer =
        sgx::SgxPolicy { min_root_crl_number: Some(verdict.root_crl_number + 1), ..lenient };
    let refused = refusal(&intel, &newer, GENUINE_NOW);
    assert_eq!(refused, SgxError::Crl(Role::Root, CrlError::Number));
}

#[test]
fn a_simulated_quote_is_accepted_under_its_root_alone() {
    let evidence = simulated();
    let verdict = verify(&evidence).unwrap();
    assert_eq!(verdict.mrenclave, Hash::new([0xe1; 32]));
    assert_eq!(verdict.mrsigner, Hash::new([0x51; 32]));
    assert_eq!((verdict.isv_prod_id, verdict.isv_svn), (7, 9));
    assert_eq!(verdict.report_data, [0xda; 64]);
    assert_eq!(verdict.root, authority().sgx_root());
    assert_eq!(tee_of(&verdict.root), Tee::Simulator);
    assert_eq!(verdict.ppid, Platform::number(1).ppid);
    assert!(verdict.advisory_ids.is_empty());

    let refused = sgx::verify(&evidence, &vendors(), &policy(&STRICT), NOW);
    assert_eq!(refused, Err(SgxError::UnknownRoot));
    let folder = tempfile::tempdir().unwrap();
    let other = toani_simulator::Authority::open_or_create(folder.path()).unwrap();
    let refused = sgx::verify(&evidence, &[other.sgx_root()], &policy(&STRICT), NOW);
    assert_eq!(refused, Err(SgxError::UnknownRoot));
}

/// The format is Intel's: a verifier that others wrote accepts it and reads the same from it.
#[test]
fn a_second_verifier_agrees() {
    for level in [Level::Current, Level::Misconfigured, Level::Outdated] {
        let evidence = quote_of(&Platform { level, ..Platform::number(1) });
        let all = [
            TcbStatus::UpToDate,
            TcbStatus::ConfigurationNeeded,
            TcbStatus::OutOfDate,
            TcbStatus::Revoked,
        ];
        let roots = [authority().sgx_root()];
        let verdict = sgx::verify(&evidence, &roots, &policy(&all), NOW).unwrap();
        let claims = second_opinion(&evidence, NOW).unwrap();
        assert_eq!(format!("{:?}", verdict.status), claims.tcb.status.to_string());
        assert_eq!(verdict.advisory_ids, claims.tcb.advisory_ids);
        assert_eq!(verdict.tcb_eval_data_number, claims.tcb.eval_data_number);
        assert_eq!(verdict.root_crl_number, claims.platform.root_ca_crl_num);
        assert_eq!(verdict.valid_until.ms(), claims.earliest_expiration_date * 1000);
        assert_eq!(verdict.ppid.as_slice(), claims.platform.pck.ppid);
    }
}

/// What is wrong with the platform or its enclave, honestly signed.
#[test]
fn platforms_that_are_not_up_to_it_are_refused() {
    let platform = Platform::number(1);
    let expired = Validity { until: NOW, ..Validity::LONG };
    let expired =
        Validity { until: toani_protocol::Time::from_ms(expired.until.ms() - 1000), ..expired };
    let pck = |error| SgxError::Certificate(Role::Pck, error);
    let later = Validity { from: NOW.plus_ms(1000), ..Validity::LONG };
    let mut debug_qe = platform.qe_attributes;
    debug_qe[0] |= 2;
    for (platform, error) in [
        (Platform { level: Level::Misconfigured, ..platform.clone() }, SgxError::Status),
        (Platform { level: Level::Outdated, ..platform.clone() }, SgxError::Status),
        (Platform { level: Level::Broken, ..platform.clone() }, SgxError::Revoked),
        (Platform { level: Level::Unknown, ..platform.clone() }, SgxError::NoTcbLevel),
        (Platform { qe_level: Level::Outdated, ..platform.clone() }, SgxError::Status),
        (Platform { qe_level: Level::Broken, ..platform.clone() }, SgxError::Revoked),
        (Platform { qe_level: Level::Unknown, ..platform.clone() }, SgxError::NoTcbLevel),
        (Platform { qe_attributes: debug_qe, ..platform.clone() }, SgxError::QeIdentity),
        (Platform { pck_validity: expired, ..platform.clone() }, pck(CertificateError::Expired)),
        (Platform { pck_validity: later, ..platform }, pck(CertificateError::NotYetValid)),
    ] {
        assert_eq!(verify(&quote_of(&platform)), Err(error), "{platform:?}");
    }
    for (flags, error) in [(0b111, SgxError::Debug), (0b100, SgxError::Debug)] {
        let mut body = report_body();
        body[48] = flags;
        let evidence = authority().sgx_evidence(&Platform::number(1), &body, NOW).unwrap();
        assert_eq!(verify(&evidence), Err(error), "{flags:b}");
    }
    let broken = quote_of(&Platform { level: Level::Broken, ..Platform::number(1) });
    let named = policy(&[TcbStatus::Revoked]);
    let refused = sgx::verify(&broken, &[authority().sgx_root()], &named, NOW);
    assert_eq!(refused, Err(SgxError::Revoked), "a policy cannot accept what is revoked");
}

/// What Intel would have to say for the evidence to be refused.
#[test]
fn collateral_that_revokes_or_is_stale_is_refused() {
    let serial = Platform::number(1).pck_serial;
    let revoked = |role| SgxError::Certificate(role, CertificateError::Revoked);
    let crl = |error| SgxError::Crl(Role::Root, error);
    let past = Validity {
        from: Validity::LONG.from,
        until: toani_protocol::Time::from_ms(NOW.ms() - 1000),
    };
    let future = Validity { from: NOW.plus_ms(1000), ..Validity::LONG };
    let document = Role::TcbInfoSigner;
    for (evidence, error) in [
        (published(|of| of.revoked_by_pck_ca = vec![5, serial]), revoked(Role::Pck)),
        (published(|of| of.revoked_by_root = vec![PCK_CA_SERIAL]), revoked(Role::PckCa)),
        (published(|of| of.revoked_by_root = vec![TCB_SIGNER_SERIAL]), revoked(document)),
        (published(|of| of.revoked_by_root = vec![1]), revoked(Role::Root)),
        (published(|of| of.crls = past), crl(CrlError::Expired)),
        (published(|of| of.crls = future), crl(CrlError::NotYetValid)),
        (published(|of| of.documents = past), SgxError::DocumentExpired(document)),
        (published(|of| of.documents = future), SgxError::DocumentNotYetValid(document)),
        (published(|of| of.fmspc = [1; 6]), SgxError::OtherPlatform),
        (published(|of| of.pce_id = [1, 0]), SgxError::OtherPlatform),
        (published(|of| of.tcb_eval_data_number = 16), SgxError::EvaluationDataNumber),
    ] {
        assert_eq!(verify(&evidence), Err(error));
    }
    let others = published(|of| of.revoked_by_pck_ca = vec![serial + 1]);
    assert!(verify(&others).is_ok(), "another platform's revocation");
}

/// Each part has to be there, and to be the part that it is said to be.
#[test]
fn parts_that_are_missing_or_exchanged_are_refused() {
    let whole = simulated();
    type Part = for<'a> fn(&'a mut SgxEvidence) -> &'a mut Bytes;
    let parts: [Part; 10] = [
        |of| &mut of.quote,
        |of| &mut of.collateral.root,
        |of| &mut of.collateral.root_crl,
        |of| &mut of.collateral.pck_crl,
        |of| &mut of.collateral.tcb_info_signer,
        |of| &mut of.collateral.tcb_info,
        |of| &mut of.collateral.tcb_info_signature,
        |of| &mut of.collateral.qe_identity_signer,
        |of| &mut of.collateral.qe_identity,
        |of| &mut of.collateral.qe_identity_signature,
    ];
    for (which, part) in parts.iter().enumerate() {
        let mut without = whole.clone();
        part(&mut without).0.clear();
        assert!(verify(&without).is_err(), "part {which} is empty");
        let mut longer = whole.clone();
        part(&mut longer).0.push(0);
        assert!(verify(&longer).is_err(), "part {which} is longer");
        for (other, from) in parts.iter().enumerate() {
            let mut exchanged = whole.clone();
            let bytes = from(&mut exchanged).0.clone();
            let same = bytes == part(&mut exchanged).0;
            part(&mut exchanged).0 = bytes;
            assert_eq!(verify(&exchanged).is_ok(), same, "part {other} as part {which}");
        }
    }
}

/// A CA right below the root signs documents, and is not asked.
#[test]
fn a_pck_ca_signs_no_documents() {
    let mut evidence = simulated();
    let chain = String::from_utf8_lossy(&evidence.quote.0).into_owned();
    let ca = chain.split("-----BEGIN CERTIFICATE-----").nth(2).unwrap();
    let ca = ca.split_once("-----END").unwrap().0.replace('\n', "");
    let ca = data_encoding::BASE64.decode(ca.as_bytes()).unwrap();
    evidence.collateral.tcb_info_signer = Bytes(ca);
    let error = SgxError::Certificate(Role::TcbInfoSigner, CertificateError::Use);
    assert_eq!(verify(&evidence), Err(error));
}

/// Evidence of two platforms does not mix: a quote's chain belongs to its own platform.
#[test]
fn a_quote_carries_its_own_platform() {
    let (one, two) = (simulated(), quote_of(&Platform::number(2)));
    let verdict = verify(&SgxEvidence { collateral: one.collateral, quote: two.quote }).unwrap();
    assert_eq!(verdict.ppid, Platform::number(2).ppid);
}

/// What the second verifier lets pass and ours does not: where they differ, ours refuses.
#[test]
fn gaps_of_the_second_verifier_are_closed() {
    let pce = published(|of| of.pce_id = [1, 0]);
    assert!(second_opinion(&pce, NOW).is_some());
    assert_eq!(verify(&pce), Err(SgxError::OtherPlatform), "TCB info of another PCE");

    let mut trailing = simulated();
    trailing.quote.0.push(0);
    assert!(second_opinion(&trailing, NOW).is_some());
    assert_eq!(verify(&trailing), Err(SgxError::QuoteForm), "a byte after the quote");

    let mut copy = simulated();
    let last = copy.quote.0.len() - 60;
    copy.quote.0[last] = if copy.quote.0[last] == b'A' { b'B' } else { b'A' };
    assert!(second_opinion(&copy, NOW).is_some());
    assert_eq!(verify(&copy), Err(SgxError::OtherRoot), "a root in the quote that is none");
}
