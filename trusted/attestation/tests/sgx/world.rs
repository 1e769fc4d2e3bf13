//! What the tests of SGX share: genuine and simulated evidence, and a second opinion on it.

use std::{path::PathBuf, sync::OnceLock};

use data_encoding::{BASE64_MIME, HEXLOWER};
use dcap_qvl::{QuoteCollateralV3, QuotePolicy, verify::QuoteVerifier};
use serde_json::Value;
use toani_attestation::{
    SgxCollateral, SgxError, SgxEvidence, SgxPolicy, SgxVerdict,
    sgx::{self, TcbStatus},
};
use toani_protocol::{Hash, Time, sign::Bytes};
use toani_simulator::Authority;

pub(crate) const NOW: Time = Time::from_ms(1_773_224_100_000);
/// When the genuine quote's collateral was fresh.
pub(crate) const GENUINE_NOW: Time = Time::from_ms(1_750_400_000_000);

pub(crate) const STRICT: [TcbStatus; 1] = [TcbStatus::UpToDate];

pub(crate) fn policy(statuses: &[TcbStatus]) -> SgxPolicy {
    SgxPolicy {
        statuses: statuses.to_vec(),
        min_tcb_eval_data_number: 17,
        min_root_crl_number: None,
        min_pck_crl_number: None,
    }
}

/// One authority for all tests of a program.
pub(crate) fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        Authority::open_or_create(folder.path()).unwrap()
    })
}

/// The body of a REPORT of an enclave that is not a debug enclave.
pub(crate) fn report_body() -> [u8; 384] {
    let mut body = [0; 384];
    body[48] = 0b101; // INIT, MODE64BIT
    body[56] = 7; // XFRM
    body[64..96].fill(0xe1);
    body[128..160].fill(0x51);
    body[256..258].copy_from_slice(&7u16.to_le_bytes());
    body[258..260].copy_from_slice(&9u16.to_le_bytes());
    body[320..384].fill(0xda);
    body
}

/// Under the test root and a strict policy.
pub(crate) fn verify(evidence: &SgxEvidence) -> Result<SgxVerdict, SgxError> {
    sgx::verify(evidence, &[authority().sgx_root()], &policy(&STRICT), NOW)
}

/// What `dcap-qvl` says, under whatever root is in the evidence, without a policy.
pub(crate) fn second_opinion(evidence: &SgxEvidence, now: Time) -> Option<dcap_qvl::QuoteClaims> {
    let SgxCollateral {
        root,
        root_crl,
        pck_crl,
        tcb_info_signer,
        tcb_info,
        tcb_info_signature,
        qe_identity_signer,
        qe_identity,
        qe_identity_signature,
    } = evidence.collateral.clone();
    let chain = |signer: &Bytes| [pem(&signer.0), pem(&root.0)].concat();
    let collateral = QuoteCollateralV3 {
        pck_crl_issuer_chain: String::new(),
        root_ca_crl: root_crl.0,
        pck_crl: pck_crl.0,
        tcb_info_issuer_chain: chain(&tcb_info_signer),
        tcb_info: String::from_utf8(tcb_info.0).ok()?,
        tcb_info_signature: tcb_info_signature.0,
        qe_identity_issuer_chain: chain(&qe_identity_signer),
        qe_identity: String::from_utf8(qe_identity.0).ok()?,
        qe_identity_signature: qe_identity_signature.0,
        pck_certificate_chain: None,
    };
    let seconds = now.ms() / 1000;
    QuoteVerifier::new(root.0)
        .verify_with_policy(
            &evidence.quote.0,
            collateral,
            seconds,
            &QuotePolicy::claims_only(seconds),
        )
        .ok()
}

fn pem(der: &[u8]) -> String {
    let base64 = BASE64_MIME.encode(der).replace('\r', "");
    format!("-----BEGIN CERTIFICATE-----\n{base64}-----END CERTIFICATE-----\n")
}

fn certificates(pem: &str) -> Vec<Bytes> {
    let blocks = pem.split("-----BEGIN CERTIFICATE-----").skip(1);
    blocks
        .map(|block| {
            let base64 = block.split_once("-----END").unwrap().0.replace('\n', "");
            Bytes(data_encoding::BASE64.decode(base64.as_bytes()).unwrap())
        })
        .collect()
}

pub(crate) fn vector(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/attestation");
    std::fs::read(folder.join(name)).unwrap()
}

/// The quote of a real machine, with Intel's collateral.
pub(crate) fn genuine() -> SgxEvidence {
    let published: Value = serde_json::from_slice(&vector("sgx_quote_collateral.json")).unwrap();
    let text = |name: &str| published[name].as_str().unwrap();
    let hex = |name: &str| Bytes(HEXLOWER.decode(text(name).as_bytes()).unwrap());
    let [tcb_info_signer, root] =
        <[Bytes; 2]>::try_from(certificates(text("tcb_info_issuer_chain"))).unwrap();
    let [qe_identity_signer, _] =
        <[Bytes; 2]>::try_from(certificates(text("qe_identity_issuer_chain"))).unwrap();
    SgxEvidence {
        quote: Bytes(vector("sgx_quote")),
        collateral: SgxCollateral {
            root,
            root_crl: hex("root_ca_crl"),
            pck_crl: hex("pck_crl"),
            tcb_info_signer,
            tcb_info: Bytes(text("tcb_info").as_bytes().to_vec()),
            tcb_info_signature: hex("tcb_info_signature"),
            qe_identity_signer,
            qe_identity: Bytes(text("qe_identity").as_bytes().to_vec()),
            qe_identity_signature: hex("qe_identity_signature"),
        },
    }
}

/// Roots that are no test root.
pub(crate) fn vendors() -> [Hash; 4] {
    use toani_attestation::roots::*;
    [INTEL_SGX_ROOT_CA, AMD_ARK_MILAN, AMD_ARK_GENOA, AMD_ARK_TURIN]
}
