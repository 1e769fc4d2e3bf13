//! SEV-SNP: an attestation report with its chain, verified under given roots.
//!
//! ```text
//!   ARK ──▶ ASK ──▶ VCEK ──▶ bytes 0 to 2A0h of the report
//!    └────▶ CRL
//! ```
//!
//! A report's policy, VMPL and chip are not part of its launch digest: each is checked for itself.
//!
//! A CRL is asked for always. AMD publishes one for each line, and evidence without it is refused.

mod report;
mod vcek;

use core::ops::Deref;

use p384::ecdsa::signature::Verifier;
pub use toani_protocol::instance::{Product, SnpPolicy, TcbVersion};
use toani_protocol::{Hash, Time, sign::Bytes};

use self::report::{Report, named};
pub use self::{report::REPORT_BYTES, vcek::Chip};
use crate::{
    crl::{Crl, CrlError},
    evidence::SnpEvidence,
    key::Key,
    x509::{Certificate, CertificateError, Role, Use},
};

/// Guest policy bits (56860, GUEST_POLICY).
const POLICY_MIGRATE_MA: u64 = 1 << 18;
const POLICY_DEBUG: u64 = 1 << 19;

/// Why evidence is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SnpError {
    #[error("the report is not one of version 2 to 5, signed with a chip's VCEK")]
    ReportForm,
    #[error("the VCEK did not sign the report")]
    ReportSignature,
    #[error("the root is not one of the accepted roots")]
    UnknownRoot,
    #[error("certificate of the {0}: {1}")]
    Certificate(Role, CertificateError),
    #[error("CRL of the root: {0}")]
    Crl(CrlError),
    #[error("the VCEK does not name a chip of a known line at a TCB")]
    Chip,
    #[error("the report is from another chip, or at another TCB, than its VCEK")]
    OtherChip,
    #[error("the guest can be debugged")]
    Debug,
    #[error("the guest has a migration agent")]
    MigrationAgent,
    #[error("the report was not asked for at VMPL 0")]
    Vmpl,
    #[error("the policy refuses this line of processors")]
    Product,
    #[error("the policy does not name this chip")]
    ChipNotNamed,
    #[error("the policy does not name this launch digest")]
    LaunchDigest,
    #[error("the TCB is older than the policy asks for")]
    Tcb,
}

/// What verified evidence says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpFacts {
    pub launch_digest: [u8; 48],
    pub report_data: [u8; 64],
    pub host_data: [u8; 32],
    pub guest_policy: u64,
    pub product: Product,
    pub chip_id: [u8; 64],
    /// REPORTED_TCB, which the VCEK was made for.
    pub tcb: TcbVersion,
    /// SHA-256 of the ARK in DER.
    pub root: Hash,
    pub crl_number: u32,
    /// When the first certificate or the CRL expires.
    pub valid_until: Time,
}

/// Proof that [`verify`] accepted. There is no other way to have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpVerdict(SnpFacts);

impl Deref for SnpVerdict {
    type Target = SnpFacts;

    fn deref(&self) -> &SnpFacts {
        &self.0
    }
}

/// Verifies evidence at `now` under one of `roots`, each the SHA-256 of an ARK in DER.
pub fn verify(
    evidence: &SnpEvidence,
    roots: &[Hash],
    policy: &SnpPolicy,
    now: Time,
) -> Result<SnpVerdict, SnpError> {
    let vcek = certificate(&evidence.vcek, Role::Vcek)?;
    let report = Report::parse(&evidence.report.0).ok_or(SnpError::ReportForm)?;
    let signed = match vcek.key() {
        Key::P384(key) => key.verify(report.signed, &report.signature).is_ok(),
        _ => false,
    };
    if !signed {
        return Err(SnpError::ReportSignature);
    }
    let root = Hash::of(&evidence.ark.0);
    if !roots.contains(&root) {
        return Err(SnpError::UnknownRoot);
    }
    let ark = certificate(&evidence.ark, Role::Root)?;
    let ask = certificate(&evidence.ask, Role::Ask)?;
    let mut valid_until = Time::MAX;
    for (subject, issuer, wanted, role) in [
        (&ark, &ark, Use::Ca, Role::Root),
        (&ask, &ark, Use::Ca, Role::Ask),
        (&vcek, &ask, Use::Leaf, Role::Vcek),
    ] {
        let expires = subject.verify(issuer, wanted, now);
        valid_until = valid_until.min(expires.map_err(|e| SnpError::Certificate(role, e))?);
    }
    let chip = Chip::of(&vcek).ok_or(SnpError::Chip)?;
    let own = Chip { tcb: report.reported_tcb(chip.product), id: report.chip_id, ..chip };
    if own != chip || !report.is_from(chip.product) {
        return Err(SnpError::OtherChip);
    }
    let crl = Crl::verify(&evidence.crl.0, &ark, now).map_err(SnpError::Crl)?;
    for (subject, role) in [(&ark, Role::Root), (&ask, Role::Ask), (&vcek, Role::Vcek)] {
        let valid = subject.verify_not_revoked(&crl);
        valid.map_err(|error| SnpError::Certificate(role, error))?;
    }
    let facts = SnpFacts {
        launch_digest: report.measurement,
        report_data: report.report_data,
        host_data: report.host_data,
        guest_policy: report.guest_policy,
        product: chip.product,
        chip_id: chip.id,
        tcb: chip.tcb,
        root,
        crl_number: crl.number,
        valid_until: valid_until.min(crl.expires),
    };
    check_guest(&report)?;
    check_policy(policy, &facts)?;
    Ok(SnpVerdict(facts))
}

fn certificate(der: &Bytes, role: Role) -> Result<Certificate, SnpError> {
    Certificate::parse(&der.0).map_err(|error| SnpError::Certificate(role, error))
}

/// What no policy can accept.
fn check_guest(report: &Report<'_>) -> Result<(), SnpError> {
    if report.guest_policy & POLICY_DEBUG != 0 {
        return Err(SnpError::Debug);
    }
    if report.guest_policy & POLICY_MIGRATE_MA != 0 {
        return Err(SnpError::MigrationAgent);
    }
    if report.vmpl != 0 { Err(SnpError::Vmpl) } else { Ok(()) }
}

fn check_policy(policy: &SnpPolicy, facts: &SnpFacts) -> Result<(), SnpError> {
    if policy.refused_products.contains(&facts.product) {
        return Err(SnpError::Product);
    }
    if !named(&policy.chips, &facts.chip_id) {
        return Err(SnpError::ChipNotNamed);
    }
    if !named(&policy.launch_digests, &facts.launch_digest) {
        return Err(SnpError::LaunchDigest);
    }
    if !facts.tcb.reaches(&policy.min_tcb) {
        return Err(SnpError::Tcb);
    }
    if policy.min_crl_number.is_some_and(|least| facts.crl_number < least) {
        return Err(SnpError::Crl(CrlError::Number));
    }
    Ok(())
}
