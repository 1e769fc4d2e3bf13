//! Whom the supervisor takes jobs from: an enclave of an instance, by its evidence.

use toani_attestation::{Evidence, sgx};
use toani_protocol::{
    evidence::{BootKeys, ReportData, Role, report_data},
    ids::{Hash, Time},
    instance::{AdmissionError, Manifest, ManifestError, VerifiedAdmission},
};
use toani_tls::{PeerCertificate, PeerCheck, Refused};

use crate::messages::{Connect, EnclaveBoot};

/// Why a connection cannot be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error("the admission list is older than the one before")]
    Older,
}

/// What an enclave has to prove: that it is of the manifest's instance, and admitted.
///
/// Which instance that is, the gateway says. One of its own making gets a supervisor whose evidence
/// names that instance, and whose credentials are its own.
#[derive(Debug, Clone)]
pub struct Terms {
    pub(crate) instance: Hash,
    manifest: Manifest,
    admission: VerifiedAdmission,
    boot: EnclaveBoot,
}

impl Terms {
    /// # Errors
    /// Manifest or list do not hold.
    pub fn new(connect: &Connect) -> Result<Self, TermsError> {
        let manifest = Manifest::decode(&connect.manifest)?;
        let instance = Manifest::id_of(&connect.manifest);
        let admission = VerifiedAdmission::verify(&connect.admission, &manifest, instance)?;
        Ok(Self { instance, manifest, admission, boot: connect.boot.clone() })
    }

    /// The same terms under a newer list.
    ///
    /// # Errors
    /// The list does not hold, or is older.
    pub fn under(&self, admission: &[u8]) -> Result<Self, TermsError> {
        let admission = VerifiedAdmission::verify(admission, &self.manifest, self.instance)?;
        self.clone().not_older(admission)
    }

    fn not_older(self, admission: VerifiedAdmission) -> Result<Self, TermsError> {
        if admission.version() < self.admission.version() {
            return Err(TermsError::Older);
        }
        Ok(Self { admission, ..self })
    }

    /// Takes the place of terms of an earlier connection; for the same instance no list of before
    /// comes back.
    ///
    /// # Errors
    /// The list is older than the one of before.
    pub fn after(self, before: &Self) -> Result<Self, TermsError> {
        if self.instance != before.instance {
            return Ok(self);
        }
        let admission = self.admission.clone();
        Self { admission: before.admission.clone(), ..self }.not_older(admission)
    }
}

/// Proof that an admitted enclave is at the other end. Only the check of its evidence makes one.
#[derive(Debug)]
pub struct AttestedEnclave(());

/// Terms, at a time.
pub(crate) struct EnclaveCheck {
    pub(crate) terms: Terms,
    pub(crate) now: Time,
}

impl EnclaveCheck {
    fn verify(&self, evidence: &[u8], report_data: &ReportData) -> Result<(), Refused> {
        let Ok(Evidence::Sgx(evidence)) = Evidence::decode(evidence) else { return Err(Refused) };
        let Manifest { sgx_roots, sgx_policy, .. } = &self.terms.manifest;
        let verdict = sgx::verify(&evidence, sgx_roots, sgx_policy, self.now);
        let verdict = verdict.map_err(|_| Refused)?;
        let admitted = self.terms.admission.admits_enclave(&verdict.mrenclave);
        if admitted && verdict.report_data == *report_data { Ok(()) } else { Err(Refused) }
    }
}

impl PeerCheck for EnclaveCheck {
    type Peer = AttestedEnclave;

    /// The boot's evidence vouches for this key, together with the boot's two others.
    fn certificate(&self, role: Role, certificate: &PeerCertificate<'_>) -> Result<(), Refused> {
        let EnclaveBoot { boot, chain_key, intake_key } = &self.terms.boot;
        let channel = Hash::of(certificate.spki);
        let keys = BootKeys { chain: *chain_key, intake: *intake_key, channel };
        let data = report_data(role, &self.terms.instance, boot.as_str(), &keys.hash());
        self.verify(certificate.evidence, &data)
    }

    fn channel(
        &self,
        _: Role,
        _: &PeerCertificate<'_>,
        report_data: &ReportData,
        evidence: &[u8],
    ) -> Result<AttestedEnclave, Refused> {
        self.verify(evidence, report_data).map(|()| AttestedEnclave(()))
    }
}
