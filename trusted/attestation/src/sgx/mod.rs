//! SGX: a DCAP quote with its collateral, verified under given roots.
//!
//! ```text
//!   root ──▶ PCK CA ──▶ PCK ──▶ QE report ──▶ attestation key ──▶ header and report body
//!    ├─────▶ TCB info signer ──▶ TCB info: what this platform's TCB is worth
//!    ├─────▶ QE identity signer ──▶ QE identity: which QE, and what its TCB is worth
//!    └─────▶ root CRL (root, PCK CA, signers); PCK CA ──▶ PCK CRL (PCK)
//! ```
//!
//! Nothing in a quote is left unsigned but its framing, which has one accepted form, and the base64
//! of its certificates. The certificates themselves are signed.

mod pck;
mod quote;
mod tcb;

use alloc::{string::String, vec::Vec};
use core::ops::Deref;

use sha2::{Digest, Sha256};
pub use toani_protocol::instance::{SgxPolicy, TcbStatus};
use toani_protocol::{Hash, Time, sign::Bytes};

use self::{
    pck::{Platform, SGX_EXTENSIONS},
    quote::Quote,
    tcb::{Document, Judgement, QeIdentity, TcbInfo},
};
pub use crate::crl::CrlError;
use crate::{
    crl::Crl,
    evidence::{SgxCollateral, SgxEvidence},
    key::{Key, p256_key_of_point, p256_signed},
    x509::{Certificate, CertificateError, Role, Use},
};

/// Why evidence is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SgxError {
    #[error("the root is not one of the accepted roots")]
    UnknownRoot,
    #[error("certificate of the {0}: {1}")]
    Certificate(Role, CertificateError),
    #[error("CRL of the {0}: {1}")]
    Crl(Role, CrlError),
    #[error("the {0}'s document is not of the expected form")]
    DocumentForm(Role),
    #[error("the {0} did not sign its document")]
    DocumentSignature(Role),
    #[error("the document of the {0} is not valid yet")]
    DocumentNotYetValid(Role),
    #[error("the document of the {0} has expired")]
    DocumentExpired(Role),
    #[error("the quote is not one of version 3 with a PCK chain")]
    QuoteForm,
    #[error("the chain in the quote does not end in the root")]
    OtherRoot,
    #[error("the PCK certificate does not name its platform")]
    Platform,
    #[error("the PCK did not sign the quoting enclave's report")]
    QeSignature,
    #[error("the quoting enclave does not vouch for the attestation key")]
    AttestationKey,
    #[error("it is not the quoting enclave that the QE identity names")]
    QeIdentity,
    #[error("the attestation key did not sign the quote")]
    QuoteSignature,
    #[error("the enclave is a debug enclave, or was never initialised")]
    Debug,
    #[error("the TCB info is about another kind of platform")]
    OtherPlatform,
    #[error("the platform or its quoting enclave reaches no TCB level")]
    NoTcbLevel,
    #[error("the TCB is revoked")]
    Revoked,
    #[error("the policy does not accept the TCB's status")]
    Status,
    #[error("the collateral is older than the policy asks for")]
    EvaluationDataNumber,
}

/// What verified evidence says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SgxFacts {
    pub mrenclave: Hash,
    pub mrsigner: Hash,
    pub isv_prod_id: u16,
    pub isv_svn: u16,
    pub report_data: [u8; 64],
    /// FLAGS and XFRM.
    pub attributes: [u8; 16],
    /// SHA-256 of the root in DER.
    pub root: Hash,
    pub status: TcbStatus,
    /// Sorted, without duplicates.
    pub advisory_ids: Vec<String>,
    /// The lesser one of TCB info and QE identity.
    pub tcb_eval_data_number: u32,
    pub root_crl_number: u32,
    pub pck_crl_number: u32,
    /// The platform's own id.
    pub ppid: [u8; 16],
    /// The kind of platform.
    pub fmspc: [u8; 6],
    /// When the first certificate, CRL or document expires.
    pub valid_until: Time,
}

/// Proof that [`verify`] accepted. There is no other way to have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SgxVerdict(SgxFacts);

impl Deref for SgxVerdict {
    type Target = SgxFacts;

    fn deref(&self) -> &SgxFacts {
        &self.0
    }
}

/// Verifies evidence at `now` under one of `roots`, each the SHA-256 of a certificate in DER.
pub fn verify(
    evidence: &SgxEvidence,
    roots: &[Hash],
    policy: &SgxPolicy,
    now: Time,
) -> Result<SgxVerdict, SgxError> {
    let collateral = &evidence.collateral;
    let quote = Quote::parse(&evidence.quote.0).ok_or(SgxError::QuoteForm)?;
    verify_attestation_key(&quote)?;
    let mut root = Root::verify(collateral, roots, now)?;
    let pck = root.pck(&quote, collateral)?;
    verify_quoting_enclave(&quote, pck.certificate.key())?;

    let (signer, signature) = (&collateral.tcb_info_signer, &collateral.tcb_info_signature);
    let tcb_info: TcbInfo =
        root.document(Role::TcbInfoSigner, signer, &collateral.tcb_info, signature)?;
    let (signer, signature) = (&collateral.qe_identity_signer, &collateral.qe_identity_signature);
    let qe_identity: QeIdentity =
        root.document(Role::QeIdentitySigner, signer, &collateral.qe_identity, signature)?;

    let Judgement { status, advisory_ids } = judge(&quote, &pck.platform, &tcb_info, &qe_identity)?;
    let body = quote.body;
    let facts = SgxFacts {
        mrenclave: body.mrenclave,
        mrsigner: body.mrsigner,
        isv_prod_id: body.isv_prod_id,
        isv_svn: body.isv_svn,
        report_data: body.report_data,
        attributes: body.attributes,
        root: Hash::of(&collateral.root.0),
        status,
        advisory_ids,
        tcb_eval_data_number: tcb_info
            .tcb_evaluation_data_number
            .min(qe_identity.tcb_evaluation_data_number),
        root_crl_number: root.crl.number,
        pck_crl_number: pck.crl_number,
        ppid: pck.platform.ppid,
        fmspc: pck.platform.fmspc,
        valid_until: root.valid_until,
    };
    satisfies(&facts, policy)?;
    Ok(SgxVerdict(facts))
}

/// Whether a policy is content with what was verified.
fn satisfies(facts: &SgxFacts, policy: &SgxPolicy) -> Result<(), SgxError> {
    if facts.status == TcbStatus::Revoked {
        return Err(SgxError::Revoked);
    }
    if !policy.statuses.contains(&facts.status) {
        return Err(SgxError::Status);
    }
    if facts.tcb_eval_data_number < policy.min_tcb_eval_data_number {
        return Err(SgxError::EvaluationDataNumber);
    }
    for (role, number, least) in [
        (Role::Root, facts.root_crl_number, policy.min_root_crl_number),
        (Role::PckCa, facts.pck_crl_number, policy.min_pck_crl_number),
    ] {
        if least.is_some_and(|least| number < least) {
            return Err(SgxError::Crl(role, CrlError::Number));
        }
    }
    Ok(())
}

/// The accepted root, and what hangs right below it.
struct Root {
    certificate: Certificate,
    crl: Crl,
    now: Time,
    /// The earliest expiry of all that was verified so far.
    valid_until: Time,
}

/// The platform's certificate.
struct Pck {
    certificate: Certificate,
    platform: Platform,
    crl_number: u32,
}

impl Root {
    fn verify(collateral: &SgxCollateral, roots: &[Hash], now: Time) -> Result<Self, SgxError> {
        if !roots.contains(&Hash::of(&collateral.root.0)) {
            return Err(SgxError::UnknownRoot);
        }
        let refusal = |error| SgxError::Certificate(Role::Root, error);
        let certificate = Certificate::parse(&collateral.root.0).map_err(refusal)?;
        let expires = certificate.verify(&certificate, Use::Ca, now).map_err(refusal)?;
        let crl = Crl::verify(&collateral.root_crl.0, &certificate, now)
            .map_err(|error| SgxError::Crl(Role::Root, error))?;
        certificate.verify_not_revoked(&crl).map_err(refusal)?;
        let valid_until = expires.min(crl.expires);
        Ok(Self { certificate, crl, now, valid_until })
    }

    fn expires(&mut self, expires: Time) {
        self.valid_until = self.valid_until.min(expires);
    }

    /// A certificate that the root itself issued.
    fn issued(&mut self, der: &[u8], role: Role, wanted: Use) -> Result<Certificate, SgxError> {
        let refusal = |error| SgxError::Certificate(role, error);
        let certificate = Certificate::parse(der).map_err(refusal)?;
        let expires = certificate.verify(&self.certificate, wanted, self.now).map_err(refusal)?;
        certificate.verify_not_revoked(&self.crl).map_err(refusal)?;
        self.expires(expires);
        Ok(certificate)
    }

    fn pck(&mut self, quote: &Quote<'_>, collateral: &SgxCollateral) -> Result<Pck, SgxError> {
        let [leaf, ca, root] = &quote.pck_chain;
        if *root != collateral.root.0 {
            return Err(SgxError::OtherRoot);
        }
        let ca = self.issued(ca, Role::PckCa, Use::Ca)?;
        let crl = Crl::verify(&collateral.pck_crl.0, &ca, self.now)
            .map_err(|error| SgxError::Crl(Role::PckCa, error))?;
        let refusal = |error| SgxError::Certificate(Role::Pck, error);
        let certificate = Certificate::parse(leaf).map_err(refusal)?;
        let expires = certificate.verify(&ca, Use::Leaf, self.now).map_err(refusal)?;
        certificate.verify_not_revoked(&crl).map_err(refusal)?;
        self.expires(expires.min(crl.expires));
        let extensions = certificate.extension(SGX_EXTENSIONS).flatten();
        let platform = extensions.and_then(Platform::parse).ok_or(SgxError::Platform)?;
        Ok(Pck { certificate, platform, crl_number: crl.number })
    }

    /// A document that a certificate right below the root signs. The signer is a leaf, so that a
    /// PCK CA cannot be one.
    fn document<T: Document>(
        &mut self,
        role: Role,
        signer: &Bytes,
        json: &Bytes,
        signature: &Bytes,
    ) -> Result<T, SgxError> {
        let signer = self.issued(&signer.0, role, Use::Leaf)?;
        let signed = match signer.key() {
            Key::P256(key) => p256_signed(key, &json.0, &signature.0),
            _ => false,
        };
        if !signed {
            return Err(SgxError::DocumentSignature(role));
        }
        let document: T =
            serde_json::from_slice(&json.0).map_err(|_| SgxError::DocumentForm(role))?;
        if !document.is_for_sgx() {
            return Err(SgxError::DocumentForm(role));
        }
        let (issued, expires) = document.window();
        if self.now < issued {
            return Err(SgxError::DocumentNotYetValid(role));
        }
        if self.now > expires {
            return Err(SgxError::DocumentExpired(role));
        }
        self.expires(expires);
        Ok(document)
    }
}

/// The quoting enclave's report names the attestation key, which signed the quote. This alone is
/// worth nothing: whose report it is, the chain has to say.
fn verify_attestation_key(quote: &Quote<'_>) -> Result<(), SgxError> {
    let mut hasher = Sha256::new();
    hasher.update(quote.attestation_key);
    hasher.update(quote.qe_authentication);
    let (named, rest) = quote.qe_body.report_data.split_at(32);
    if named != hasher.finalize().as_slice() || rest.iter().any(|byte| *byte != 0) {
        return Err(SgxError::AttestationKey);
    }
    let key = p256_key_of_point(quote.attestation_key).ok_or(SgxError::AttestationKey)?;
    if !p256_signed(&key, quote.signed, quote.signature) {
        return Err(SgxError::QuoteSignature);
    }
    if quote.body.is_debug() || !quote.body.is_initialised() {
        return Err(SgxError::Debug);
    }
    Ok(())
}

fn verify_quoting_enclave(quote: &Quote<'_>, pck: &Key) -> Result<(), SgxError> {
    let signed = match pck {
        Key::P256(key) => p256_signed(key, quote.qe_report, quote.qe_signature),
        _ => false,
    };
    if signed { Ok(()) } else { Err(SgxError::QeSignature) }
}

fn judge(
    quote: &Quote<'_>,
    platform: &Platform,
    tcb_info: &TcbInfo,
    qe_identity: &QeIdentity,
) -> Result<Judgement, SgxError> {
    if !qe_identity.names(&quote.qe_body) {
        return Err(SgxError::QeIdentity);
    }
    if !tcb_info.is_about(platform) {
        return Err(SgxError::OtherPlatform);
    }
    let platform = tcb_info.judge(platform).ok_or(SgxError::NoTcbLevel)?;
    let qe = qe_identity.judge(&quote.qe_body).ok_or(SgxError::NoTcbLevel)?;
    Ok(platform.with_qe(qe))
}
