//! Opening jobs and sealing outcomes: HPKE base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
//! AES-256-GCM, with a key that lives as long as this process.

use std::{collections::HashSet, sync::Mutex};

use aes_gcm::{
    Aes256Gcm, Nonce,
    aead::{Aead, KeyInit, Payload},
};
use hpke::{
    Deserializable, Kem as _, OpModeR, Serializable, aead::AesGcm256, kdf::HkdfSha256,
    kem::X25519HkdfSha256,
};
use toani_protocol::{
    ids::Hash,
    job::{JOB_INFO, Job, JobHeader, JobOutcome, OUTCOME_EXPORT, SealedJob, SealedOutcome},
    limits::FRAME_BYTES_MAX,
    wire,
};
use zeroize::Zeroizing;

use crate::messages::Refusal;

/// Jobs that one life remembers, at 16 bytes each. Forgetting one would let it run again, so a
/// full memory refuses instead, and the supervisor is started anew.
const JOBS_REMEMBERED_MAX: usize = 4 * 1024 * 1024;

type Kem = X25519HkdfSha256;

/// The key of one life, and which jobs it has opened.
pub struct JobKey {
    private: <Kem as hpke::Kem>::PrivateKey,
    public: [u8; 32],
    seen: Mutex<HashSet<[u8; 16]>>,
    seen_max: usize,
}

impl std::fmt::Debug for JobKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobKey").finish_non_exhaustive()
    }
}

/// A job and the means to answer it.
#[derive(Debug)]
pub struct OpenJob {
    pub header: JobHeader,
    pub job: Job,
    pub answer: AnswerKey,
}

/// Seals the one outcome of one job.
pub struct AnswerKey {
    key: Zeroizing<[u8; 32]>,
    aad: Vec<u8>,
}

impl std::fmt::Debug for AnswerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerKey").finish_non_exhaustive()
    }
}

/// There is no randomness, or a key of its size is none.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the system gives no randomness")]
pub struct NoRandomness;

impl JobKey {
    /// A new key.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(|_| NoRandomness)?;
        let (private, public) = Kem::derive_keypair(seed.as_ref());
        Ok(Self {
            private,
            public: public.to_bytes().into(),
            seen: Mutex::new(HashSet::new()),
            seen_max: JOBS_REMEMBERED_MAX,
        })
    }

    /// What the hello says.
    pub fn public(&self) -> [u8; 32] {
        self.public
    }

    /// Opens a job, once.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn open(&self, sealed: &SealedJob) -> Result<OpenJob, Refusal> {
        let header = &sealed.header;
        let aad = wire::encode(header).map_err(|_| Refusal::NotForUs)?;
        let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(&sealed.encapsulated)
            .map_err(|_| Refusal::NotForUs)?;
        let mut context = hpke::setup_receiver::<AesGcm256, HkdfSha256, Kem>(
            &OpModeR::Base,
            &self.private,
            &encapsulated,
            &info(header),
        )
        .map_err(|_| Refusal::NotForUs)?;
        let opened = context.open(&sealed.ciphertext, &aad);
        let plaintext = Zeroizing::new(opened.map_err(|_| Refusal::NotForUs)?);
        let mut key = Zeroizing::new([0; 32]);
        context.export(OUTCOME_EXPORT, key.as_mut()).map_err(|_| Refusal::NotForUs)?;
        let job = wire::decode(&plaintext, FRAME_BYTES_MAX).map_err(|_| Refusal::NotForUs)?;
        // Only what is authentic fills the memory.
        self.remember(header)?;
        Ok(OpenJob { header: header.clone(), job, answer: AnswerKey { key, aad } })
    }

    fn remember(&self, header: &JobHeader) -> Result<(), Refusal> {
        let execution = header.execution.as_str().as_bytes();
        let name = Hash::of_parts("toani/v1/job-seen", &[header.jti.as_bytes(), execution]);
        let [first, ..] = name.as_bytes().as_chunks::<16>().0 else {
            return Err(Refusal::MemoryFull);
        };
        let mut seen = match self.seen.lock() {
            Ok(seen) => seen,
            Err(poisoned) => poisoned.into_inner(),
        };
        if seen.contains(first) {
            Err(Refusal::SeenBefore)
        } else if seen.len() >= self.seen_max {
            Err(Refusal::MemoryFull)
        } else {
            seen.insert(*first);
            Ok(())
        }
    }
}

impl AnswerKey {
    /// Seals the outcome. By value: the nonce is zero, so the key is good for one message.
    ///
    /// `None` if the outcome is larger than anything that could be sealed.
    pub fn seal(self, outcome: &JobOutcome) -> Option<SealedOutcome> {
        let plaintext = Zeroizing::new(wire::encode(outcome).ok()?);
        let cipher = Aes256Gcm::new_from_slice(self.key.as_ref()).ok()?;
        let payload = Payload { msg: &plaintext, aad: &self.aad };
        let ciphertext = cipher.encrypt(&Nonce::from([0; 12]), payload).ok()?;
        Some(SealedOutcome { ciphertext })
    }
}

/// HPKE's info: which instance and which of its lives sealed the job.
fn info(header: &JobHeader) -> Vec<u8> {
    let boot = header.boot.as_str().as_bytes();
    [JOB_INFO, header.instance.as_bytes(), boot].concat()
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
