//! The machine: a simulated processor, and who quotes its reports.

use std::{path::Path, sync::OnceLock};

use toani_attestation::{Evidence as AttestationEvidence, SgxEvidence};
use toani_enclave::{KEYREQUEST_BYTES, REPORT_BYTES, TARGETINFO_BYTES};
use toani_protocol::{hand_over::ROOT_INFO, instance::SgxPolicy};
use toani_simulator::{Authority, Identity, Platform as Silicon, Processor};

use super::*;

/// The simulated vendors of all worlds of this process.
pub fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        // Kept from run to run: making AMD's keys takes seconds.
        let folder = option_env!("CARGO_TARGET_TMPDIR").map_or_else(
            || tempfile::tempdir().unwrap().keep(),
            |folder| Path::new(folder).join("simulated-vendors"),
        );
        std::fs::create_dir_all(&folder).unwrap();
        Authority::open_or_create(&folder).unwrap()
    })
}

/// A machine, by the secret in its processor, and what runs on it.
pub struct Machine {
    processor: Processor,
    identity: Identity,
}

impl Machine {
    pub fn new(secret: [u8; 32], measurement: Hash) -> Self {
        let identity = Identity {
            mrenclave: *measurement.as_bytes(),
            mrsigner: [2; 32],
            attributes: [5, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0],
            misc_select: 0,
            isv_prod_id: 1,
            isv_svn: 1,
        };
        Self::of(Processor::of_secret(secret), identity)
    }

    pub fn of(processor: Processor, identity: Identity) -> Self {
        Self { processor, identity }
    }

    pub fn debugged(mut self) -> Self {
        self.identity.attributes[0] |= 2;
        self
    }
}

impl Platform for Machine {
    fn egetkey(&self, request: &[u8; KEYREQUEST_BYTES]) -> Option<Secret<16>> {
        let key = self.processor.egetkey(&self.identity, request).ok()?;
        Some(Secret::filled(|bytes| *bytes = key))
    }

    fn ereport(
        &self,
        target: &[u8; TARGETINFO_BYTES],
        report_data: &[u8; 64],
    ) -> [u8; REPORT_BYTES] {
        self.processor.ereport(&self.identity, target, report_data)
    }
}

/// TARGETINFO of who quotes: nobody in these worlds looks at a report's MAC.
pub fn quoting_target() -> Vec<u8> {
    vec![0; TARGETINFO_BYTES]
}

/// What a machine shows for a report at a time.
pub fn quoted(silicon: &Silicon, report: &[u8], now: Time) -> SgxEvidence {
    authority().sgx_evidence(silicon, report.first_chunk().unwrap(), now).unwrap()
}

pub fn encoded(evidence: SgxEvidence) -> Vec<u8> {
    AttestationEvidence::Sgx(evidence).encode().unwrap()
}

pub fn manifest() -> Manifest {
    Manifest {
        format: ManifestFormat::V1,
        sgx_roots: vec![authority().sgx_root()],
        sgx_policy: SgxPolicy::up_to_date(),
        snp_roots: vec![authority().snp_root().unwrap()],
        operators: vec![PublicKey::of(&operator())],
        quorum: 1,
        log_origin: ORIGIN.into(),
        nonce: Hash::of(b"nonce"),
    }
}

impl<E: Answers> World<E> {
    /// Birth or boot, up to the report.
    pub fn report(&mut self, command: Command) -> Result<Vec<u8>, Reason> {
        match self.call(command)? {
            Answer::Report { report } => Ok(report),
            other => panic!("{other:?}"),
        }
    }

    /// The rest: an honest machine's quote over it.
    pub fn prove(&mut self, report: &[u8]) -> Result<Answer, Reason> {
        let evidence = encoded(quoted(&Silicon::number(1), report, self.now));
        self.call(Command::Prove { evidence })
    }

    pub fn birth(&mut self, manifest: Vec<u8>) -> Result<Answer, Reason> {
        let report = self.report(Command::Birth { manifest, target: quoting_target() })?;
        self.prove(&report)
    }

    /// From what the host kept, up to the log.
    pub fn boot(&mut self) -> Result<Answer, Reason> {
        let manifest = self.manifest.clone();
        self.boot_under(manifest)
    }

    pub fn boot_under(&mut self, manifest: Vec<u8>) -> Result<Answer, Reason> {
        let sealed_root = self.sealed_root.clone();
        let report =
            self.report(Command::Boot { manifest, sealed_root, target: quoting_target() })?;
        self.prove(&report)
    }
}

/// Seals a root as whoever knows the key can.
pub fn seal_root(key: &Bytes, aad: &[u8], root: &[u8; 32]) -> (Bytes, Bytes) {
    let key = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&key.0).unwrap();
    let (encapsulated, mut context) = setup_sender_with_rng::<
        AesGcm256,
        HkdfSha256,
        X25519HkdfSha256,
    >(&OpModeS::Base, &key, ROOT_INFO, &mut rng())
    .unwrap();
    let ciphertext = context.seal(root, aad).unwrap();
    (Bytes(encapsulated.to_bytes().to_vec()), Bytes(ciphertext))
}
