//! Whose evidence it is: from the keys that a trust file names back to a measurement, and to the
//! root that vouches for it.
//!
//! ```text
//!   trust file ── roots, policy ──▶ quote ── MRENCLAVE, report data ──▶ instance, boot, chain key,
//!       └──────── MRENCLAVEs, instance, keys ─────────────────────────▶ intake key: the same
//! ```

use std::ops::{Deref, Range};

use serde::{Deserialize, Serialize};
use toani_attestation::{
    Evidence, SgxError, SgxVerdict, SnpError, SnpEvidence, SnpPolicy, SnpVerdict,
    evidence::EVIDENCE_DOCUMENT_BYTES_MAX,
    roots,
    sgx::{self, TcbStatus},
    snp::{self, TcbVersion},
};
use toani_protocol::{
    BootId, Hash, Time,
    assurance::Tee,
    canonical::{self, Json},
    evidence::{BootKeys, Role, report_data},
    limits::ATTESTATION_EVIDENCE_BYTES_MAX,
    sign::{Bytes, PublicKey},
    trust::{IntakeKey, TrustFile},
};

// A document that fits a record of the log fits a channel too.
const _: () = assert!(EVIDENCE_DOCUMENT_BYTES_MAX == ATTESTATION_EVIDENCE_BYTES_MAX);

/// Why evidence does not prove that a boot's keys are an enclave's of the trust file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    #[error("the evidence is no canonical document of an SGX enclave's evidence")]
    Document,
    #[error("the evidence does not hold under the trust file's roots and policy: {0}")]
    Sgx(#[from] SgxError),
    #[error("the evidence is of a measurement that the trust file does not name")]
    Measurement,
    #[error(
        "the evidence vouches for another instance, boot, chain key, intake key or channel key than \
         those that are held against it"
    )]
    Keys,
    #[error("the trust file's intake key is no X25519 key")]
    IntakeKey,
    #[error("the instance says of itself another {0} than the trust file or its own evidence")]
    Told(&'static str),
}

impl Unproven {
    /// The stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Document => "evidence_document",
            Self::Sgx(_) => "evidence_quote",
            Self::Measurement => "evidence_measurement",
            Self::Keys => "evidence_keys",
            Self::IntakeKey => "evidence_intake_key",
            Self::Told(_) => "evidence_told",
        }
    }
}

/// What is proven of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attested {
    pub boot: BootId,
    /// By the quote's root alone.
    pub tee: Tee,
    pub mrenclave: Hash,
    /// SHA-256 of the root in DER.
    pub root: Hash,
    pub tcb_status: TcbStatus,
    pub advisory_ids: Vec<String>,
    /// The lesser one of TCB info and QE identity.
    pub tcb_eval_data_number: u32,
    /// SHA-256 of the evidence, as records and receipts name it.
    pub evidence: Hash,
    /// The time at which it was judged.
    pub at: Time,
    /// When the first certificate, CRL or document of the evidence expires.
    pub valid_until: Time,
}

/// Proof that [`AttestedBoot::verify`] accepted: chain key and intake key of the trust file are
/// those of an enclave that it names, in this boot. There is no other way to have one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct AttestedBoot(Attested);

impl Deref for AttestedBoot {
    type Target = Attested;

    fn deref(&self) -> &Attested {
        &self.0
    }
}

impl AttestedBoot {
    /// Verifies a boot's evidence document at `at`. `channel` is the hash of the boot's channel key,
    /// which its record names as `blob`.
    pub fn verify(
        document: &[u8],
        boot: &BootId,
        channel: Hash,
        trust: &TrustFile,
        at: Time,
    ) -> Result<Self, Unproven> {
        let Ok(Evidence::Sgx(evidence)) = Evidence::decode(document) else {
            return Err(Unproven::Document);
        };
        let verdict = sgx::verify(&evidence, &trust.sgx_roots, &trust.sgx_policy, at)?;
        if !trust.mrenclaves.contains(&verdict.mrenclave) {
            return Err(Unproven::Measurement);
        }
        let intake = trust.intake_key.0.0.as_slice().try_into();
        let intake = intake.map_err(|_| Unproven::IntakeKey)?;
        let keys = BootKeys { chain: trust.log.key, intake, channel };
        let vouched = report_data(Role::Enclave, &trust.instance, boot.as_str(), &keys.hash());
        if verdict.report_data != vouched {
            return Err(Unproven::Keys);
        }
        Ok(Self(attested(verdict, boot.clone(), Hash::of(document), at)))
    }
}

/// What an instance says of itself, as far as it is held against a trust file: the answer of
/// `GET /v1/instance`, which says more.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Told {
    pub instance: Hash,
    pub boot: BootId,
    pub mrenclave: Hash,
    pub chain_key: PublicKey,
    pub intake_key: IntakeKey,
    /// SHA-256 of the channel key's SubjectPublicKeyInfo.
    pub channel: Hash,
    pub evidence: Json,
}

impl Told {
    /// Verifies what the instance says: that it is the one of the trust file, and by its evidence.
    pub fn verify(&self, trust: &TrustFile, at: Time) -> Result<AttestedBoot, Unproven> {
        for (same, name) in [
            (self.instance == trust.instance, "instance"),
            (self.chain_key == trust.log.key, "chain key"),
            (self.intake_key == trust.intake_key, "intake key"),
        ] {
            if !same {
                return Err(Unproven::Told(name));
            }
        }
        let document = canonical::encode(&self.evidence).map_err(|_| Unproven::Document)?;
        let attested = AttestedBoot::verify(&document, &self.boot, self.channel, trust, at)?;
        if attested.mrenclave == self.mrenclave {
            Ok(attested)
        } else {
            Err(Unproven::Told("measurement"))
        }
    }
}

fn attested(verdict: SgxVerdict, boot: BootId, evidence: Hash, at: Time) -> Attested {
    Attested {
        boot,
        tee: roots::tee_of(&verdict.root),
        mrenclave: verdict.mrenclave,
        root: verdict.root,
        tcb_status: verdict.status,
        advisory_ids: verdict.advisory_ids.clone(),
        tcb_eval_data_number: verdict.tcb_eval_data_number,
        evidence,
        at,
        valid_until: verdict.valid_until,
    }
}

/// Verifies a guest's evidence under the trust file's roots. Which launch digests and chips are
/// admitted, the operators say and not the trust file: both are told here, and not judged.
pub fn verify_guest(
    evidence: &SnpEvidence,
    trust: &TrustFile,
    at: Time,
) -> Result<SnpVerdict, SnpError> {
    let field =
        |place: Range<usize>| Bytes(evidence.report.0.get(place).unwrap_or_default().to_vec());
    let policy = SnpPolicy {
        // Its own: MEASUREMENT and CHIP_ID of the report (publication 56860, ATTESTATION_REPORT).
        launch_digests: vec![field(0x90..0xc0)],
        chips: vec![field(0x1a0..0x1e0)],
        min_tcb: TcbVersion { fmc: 0, boot_loader: 0, tee: 0, snp: 0, microcode: 0 },
        refused_products: Vec::new(),
        min_crl_number: None,
    };
    snp::verify(evidence, &trust.snp_roots, &policy, at)
}

#[cfg(test)]
mod tests;
