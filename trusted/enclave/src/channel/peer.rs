//! Who is at the other end of the channel, by evidence.

use alloc::{sync::Arc, vec::Vec};

use toani_attestation::{Evidence, SnpVerdict, roots, snp};
use toani_protocol::{
    Hash, Time,
    assurance::SandboxLevel,
    evidence::{ReportData, Role, sandbox_report_data},
    instance::{AdmittedSandbox, LaunchDigest, RootFileSystems, VerifiedAdmission, sandbox_hash},
};
use toani_tls::{PeerCertificate, PeerCheck, Refused};

use crate::ready::Ready;

/// The supervisor that evidence shows to be at the other end. Only [`SandboxCheck`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttestedPeer {
    launch_digest: LaunchDigest,
    admitted: AdmittedSandbox,
    key: Hash,
    valid_until: Time,
}

impl AttestedPeer {
    /// SHA-256 of its launch digest, as records and receipts name it.
    pub(crate) fn measurement(&self) -> Hash {
        sandbox_hash(&self.launch_digest)
    }

    pub(crate) fn level(&self) -> SandboxLevel {
        self.admitted.level
    }

    /// What its containers run by this name, by the list under which it was bound.
    pub(crate) fn root_file_system(&self, name: RootName) -> Option<Hash> {
        self.admitted.root_file_systems.get(name)
    }

    /// SHA-256 of the SubjectPublicKeyInfo of its channel key.
    pub(super) fn key(&self) -> Hash {
        self.key
    }

    /// Whether what proved it is over.
    pub(super) fn is_expired(&self, now: Time) -> bool {
        now > self.valid_until
    }

    /// Whether the list still admits it as what it is.
    pub(super) fn is_admitted(&self, list: &VerifiedAdmission) -> bool {
        list.sandbox(&self.launch_digest) == Some(&self.admitted)
    }
}

/// What a supervisor's evidence has to hold under: the manifest's roots and the list of now.
pub(super) struct SandboxCheck {
    instance: Hash,
    roots: Vec<Hash>,
    admission: Option<Arc<VerifiedAdmission>>,
    now: Time,
}

impl SandboxCheck {
    pub(super) fn new(ready: &Ready, now: Time) -> Arc<Self> {
        Arc::new(Self {
            instance: ready.instance,
            roots: ready.manifest.snp_roots.clone(),
            admission: ready.state.admission.clone(),
            now,
        })
    }

    fn attested(
        &self,
        key: Hash,
        evidence: &[u8],
        report_data: &ReportData,
    ) -> Result<AttestedPeer, Refused> {
        let list = self.admission.as_ref().ok_or(Refused)?;
        let Ok(Evidence::Snp(evidence)) = Evidence::decode(evidence) else { return Err(Refused) };
        let verdict = snp::verify(&evidence, &self.roots, &list.snp_policy(), self.now);
        let verdict = verdict.map_err(|_| Refused)?;
        if verdict.report_data != *report_data {
            return Err(Refused);
        }
        Ok(AttestedPeer {
            launch_digest: verdict.launch_digest,
            admitted: admitted(&verdict, list).ok_or(Refused)?.clone(),
            key,
            valid_until: verdict.valid_until,
        })
    }
}

/// As what the operators admit the guest. Which level a launch digest is of is their word; that it
/// is AMD's guest is AMD's.
fn admitted<'a>(verdict: &SnpVerdict, list: &'a VerifiedAdmission) -> Option<&'a AdmittedSandbox> {
    let admitted = list.sandbox(&verdict.launch_digest)?;
    let proven = admitted.level < SandboxLevel::Snp || roots::sandbox_is_snp(&verdict.root);
    proven.then_some(admitted)
}

impl PeerCheck for SandboxCheck {
    type Peer = AttestedPeer;

    fn certificate(&self, _: Role, certificate: &PeerCertificate<'_>) -> Result<(), Refused> {
        let key = Hash::of(certificate.spki);
        let report_data = sandbox_report_data(&self.instance, &key);
        self.attested(key, certificate.evidence, &report_data).map(|_| ())
    }

    fn channel(
        &self,
        _: Role,
        certificate: &PeerCertificate<'_>,
        report_data: &ReportData,
        evidence: &[u8],
    ) -> Result<AttestedPeer, Refused> {
        self.attested(Hash::of(certificate.spki), evidence, report_data)
    }
}
