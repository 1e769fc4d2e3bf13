//! The instance: its manifest, which never changes, and its admission list, which does.

use alloc::{collections::BTreeSet, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{
    assurance::SandboxLevel,
    canonical::{self, CanonicalError},
    ids::Hash,
    limits::{
        ADMITTED_CHIPS_MAX, ADMITTED_ENCLAVES_MAX, ADMITTED_SANDBOXES_MAX, DOCUMENT_BYTES_MAX,
        OPERATORS_MAX, ROOTS_MAX, TCB_STATUSES_MAX,
    },
    policy::RootName,
    sign::{Bytes, Label, PublicKey, SignatureError, Signed},
    text::names,
};

/// Under what one instance is born. Its hash is the instance's id, in every derived key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: ManifestFormat,
    /// SHA-256 of the DER of each root that vouches for enclaves: one at least.
    pub sgx_roots: Vec<Hash>,
    /// What else is asked of the platform that an enclave of this instance runs on.
    pub sgx_policy: SgxPolicy,
    /// SHA-256 of the DER of each root that vouches for guests: one at least.
    pub snp_roots: Vec<Hash>,
    pub operators: Vec<PublicKey>,
    /// How many operators must sign an admission list.
    pub quorum: u8,
    /// The origin line of the instance's log.
    pub log_origin: String,
    /// Makes two manifests with the same content two instances.
    pub nonce: Hash,
}

names! {
    ManifestFormat { V1 = "toani-manifest/1", }
}

/// What is asked of an SGX platform. Debug enclaves are refused always.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgxPolicy {
    /// Accepted statuses. [`TcbStatus::Revoked`] is refused even if it is named.
    pub statuses: Vec<TcbStatus>,
    /// The least `tcbEvaluationDataNumber` of TCB info and QE identity. It stands in for a clock:
    /// whoever controls the time cannot pass off collateral older than this.
    pub min_tcb_eval_data_number: u32,
    /// The least number of the root's CRL, against older ones likewise.
    pub min_root_crl_number: Option<u32>,
    /// The least number of the PCK CA's CRL.
    pub min_pck_crl_number: Option<u32>,
}

impl SgxPolicy {
    /// Nothing that Intel knows to be in need of mending.
    pub fn up_to_date() -> Self {
        Self {
            statuses: alloc::vec![TcbStatus::UpToDate],
            min_tcb_eval_data_number: 0,
            min_root_crl_number: None,
            min_pck_crl_number: None,
        }
    }
}

/// What Intel says of a platform's TCB (`tcbStatus` of TCB info, version 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TcbStatus {
    UpToDate,
    #[serde(rename = "SWHardeningNeeded")]
    SwHardeningNeeded,
    ConfigurationNeeded,
    #[serde(rename = "ConfigurationAndSWHardeningNeeded")]
    ConfigurationAndSwHardeningNeeded,
    OutOfDate,
    OutOfDateConfigurationNeeded,
    /// Its keys are known to others. No policy can accept it.
    Revoked,
}

/// A manifest is of another form, or its numbers do not fit each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    #[error("a manifest names 1 to 32 distinct operators and a quorum of at least one of them")]
    Operators,
    #[error("a manifest names 1 to 8 roots for enclaves, as many for guests, and a TCB status")]
    Roots,
    #[error("a log origin is 1 to 128 visible ASCII characters without '+' and white space")]
    Origin,
}

impl Manifest {
    /// Reads and checks a manifest.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = canonical::decode(bytes, DOCUMENT_BYTES_MAX)?;
        let operators = &manifest.operators;
        let distinct: BTreeSet<_> = operators.iter().collect();
        let distinct = distinct.len() == operators.len();
        let quorum = usize::from(manifest.quorum);
        if !distinct || operators.len() > OPERATORS_MAX || quorum == 0 || quorum > operators.len() {
            return Err(ManifestError::Operators);
        }
        let roots = |roots: &[Hash]| (1..=ROOTS_MAX).contains(&roots.len());
        let statuses = manifest.sgx_policy.statuses.len();
        let statuses = (1..=TCB_STATUSES_MAX).contains(&statuses);
        if !roots(&manifest.sgx_roots) || !roots(&manifest.snp_roots) || !statuses {
            return Err(ManifestError::Roots);
        }
        if !is_origin(&manifest.log_origin) {
            return Err(ManifestError::Origin);
        }
        Ok(manifest)
    }

    /// Whether enough operators have signed.
    pub fn verify<T: Serialize>(
        &self,
        label: Label,
        signed: &Signed<T>,
    ) -> Result<(), SignatureError> {
        signed.verify(label, &self.operators, usize::from(self.quorum))
    }

    /// The instance's id: the hash of the canonical manifest.
    pub fn id_of(bytes: &[u8]) -> Hash {
        Hash::of_labelled("toani/v1/manifest", bytes)
    }
}

/// A C2SP signed note's key name: non-empty, no white space, no plus.
pub fn is_origin(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic() && b != b'+')
}

/// Length of a launch digest (SEV-SNP firmware ABI, publication 56860, MEASUREMENT).
pub const LAUNCH_DIGEST_BYTES: usize = 48;
/// Length of a chip's id (56860, CHIP_ID).
pub const CHIP_ID_BYTES: usize = 64;

pub type LaunchDigest = [u8; LAUNCH_DIGEST_BYTES];

/// What is asked of a guest and its machine. Debug, migration agents and VMPLs other than 0 are
/// refused always.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpPolicy {
    /// Accepted chips, by their ids of 64 bytes; none: none is accepted.
    pub chips: Vec<Bytes>,
    /// Accepted launch digests, 48 bytes each; none: none is accepted.
    pub launch_digests: Vec<Bytes>,
    /// The least version of each part.
    pub min_tcb: TcbVersion,
    /// Lines of processors that are not believed, whatever their chips sign.
    pub refused_products: Vec<Product>,
    /// The least number of the ARK's CRL, against older ones.
    pub min_crl_number: Option<u32>,
}

/// A line of processors with one ARK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Product {
    Milan,
    Genoa,
    Turin,
}

/// Security versions of a platform's parts (56860, TCB_VERSION).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcbVersion {
    /// Turin has one; elsewhere 0.
    pub fmc: u8,
    pub boot_loader: u8,
    pub tee: u8,
    pub snp: u8,
    pub microcode: u8,
}

impl TcbVersion {
    /// No part is older than in `least`.
    pub fn reaches(&self, least: &Self) -> bool {
        self.fmc >= least.fmc
            && self.boot_loader >= least.boot_loader
            && self.tee >= least.tee
            && self.snp >= least.snp
            && self.microcode >= least.microcode
    }
}

/// What the operators admit for now, on both ends of the channel. Versions grow; a record activates
/// each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdmissionList {
    pub format: AdmissionFormat,
    pub instance: Hash,
    pub version: u64,
    /// MRENCLAVEs that supervisors take jobs from.
    pub enclaves: Vec<Hash>,
    /// Guests that may receive credentials.
    pub sandboxes: Vec<AdmittedSandbox>,
    /// Ids of the chips that they run on, 64 bytes each.
    pub chips: Vec<Bytes>,
    /// What else is asked of these chips, as in [`SnpPolicy`].
    pub min_tcb: TcbVersion,
    pub refused_products: Vec<Product>,
    pub min_crl_number: Option<u32>,
}

names! {
    AdmissionFormat { V1 = "toani-admission/1", }
}

/// A supervisor that may receive credentials, and the level at which the operators admit it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdmittedSandbox {
    /// 48 bytes.
    pub launch_digest: Bytes,
    pub level: SandboxLevel,
    pub root_file_systems: RootFileSystems,
}

/// What the containers of one sandbox may run, each by the SHA-256 of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootFileSystems {
    pub connector: Hash,
    #[serde(default)]
    pub browser: Option<Hash>,
}

impl RootFileSystems {
    /// The one of this name, if the sandbox has it.
    pub fn get(&self, name: RootName) -> Option<Hash> {
        match name {
            RootName::Connector => Some(self.connector),
            RootName::Browser => self.browser,
        }
    }
}

/// How records and receipts name a sandbox: by the SHA-256 of its launch digest.
pub fn sandbox_hash(launch_digest: &LaunchDigest) -> Hash {
    Hash::of(launch_digest)
}

/// An admission list whose operators' signatures were verified for this instance.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedAdmission {
    list: AdmissionList,
    hash: Hash,
}

/// Why an admission list is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("the admission list is for another instance")]
    Instance,
    #[error("the admission list names too many enclaves, sandboxes or chips")]
    TooMany,
    #[error("a launch digest has 48 bytes and stands there once, and a chip's id has 64")]
    Sandboxes,
}

impl VerifiedAdmission {
    /// Verifies `bytes`, a canonical `Signed<AdmissionList>`, against the manifest.
    pub fn verify(
        bytes: &[u8],
        manifest: &Manifest,
        instance: Hash,
    ) -> Result<Self, AdmissionError> {
        let signed: Signed<AdmissionList> = canonical::decode(bytes, DOCUMENT_BYTES_MAX)?;
        manifest.verify(Label::Admission, &signed)?;
        if signed.payload.instance != instance {
            return Err(AdmissionError::Instance);
        }
        signed.payload.check()?;
        Ok(Self { list: signed.payload, hash: Hash::of(bytes) })
    }

    pub fn hash(&self) -> Hash {
        self.hash
    }

    pub fn version(&self) -> u64 {
        self.list.version
    }

    /// Whether supervisors take jobs from this MRENCLAVE.
    pub fn admits_enclave(&self, mrenclave: &Hash) -> bool {
        self.list.enclaves.contains(mrenclave)
    }

    /// As what a guest is admitted.
    pub fn sandbox(&self, launch_digest: &LaunchDigest) -> Option<&AdmittedSandbox> {
        let mut sandboxes = self.list.sandboxes.iter();
        sandboxes.find(|admitted| admitted.launch_digest.0 == *launch_digest)
    }

    /// What a guest's evidence has to hold under.
    pub fn snp_policy(&self) -> SnpPolicy {
        let sandboxes = self.list.sandboxes.iter();
        SnpPolicy {
            chips: self.list.chips.clone(),
            launch_digests: sandboxes.map(|admitted| admitted.launch_digest.clone()).collect(),
            min_tcb: self.list.min_tcb,
            refused_products: self.list.refused_products.clone(),
            min_crl_number: self.list.min_crl_number,
        }
    }
}

impl AdmissionList {
    fn check(&self) -> Result<(), AdmissionError> {
        if self.enclaves.len() > ADMITTED_ENCLAVES_MAX
            || self.sandboxes.len() > ADMITTED_SANDBOXES_MAX
            || self.chips.len() > ADMITTED_CHIPS_MAX
        {
            return Err(AdmissionError::TooMany);
        }
        let digests: BTreeSet<_> = self.sandboxes.iter().map(|one| &one.launch_digest.0).collect();
        let sandboxes = digests.len() == self.sandboxes.len()
            && digests.iter().all(|digest| digest.len() == LAUNCH_DIGEST_BYTES);
        let chips = self.chips.iter().all(|chip| chip.0.len() == CHIP_ID_BYTES);
        if sandboxes && chips { Ok(()) } else { Err(AdmissionError::Sandboxes) }
    }
}
