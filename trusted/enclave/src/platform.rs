//! What the enclave runs on: two leaves of ENCLU, and the structures that go with them.
//!
//! Sealing gives L0: EGETKEY's 128 bits for this very MRENCLAVE on this very processor, stretched
//! by HKDF. A report says what runs, for the quoting enclave to sign.

use alloc::vec::Vec;

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use toani_protocol::Hash;

use crate::{
    keys::{self, CryptoError, NONCE_BYTES},
    secret::Secret,
};

/// KEYREQUEST and TARGETINFO (SDM vol. 3D, 38.17 and 38.16).
pub const KEYREQUEST_BYTES: usize = 512;
pub const TARGETINFO_BYTES: usize = 512;
/// REPORT (SDM vol. 3D, 38.15): a body, then KEYID and MAC.
pub const REPORT_BYTES: usize = 432;

/// The processor, as an enclave meets it.
pub trait Platform: Send + Sync {
    /// EGETKEY. `None` where the processor refuses the request.
    fn egetkey(&self, request: &[u8; KEYREQUEST_BYTES]) -> Option<Secret<16>>;

    /// EREPORT: what this enclave is, for the enclave that `target` names.
    fn ereport(
        &self,
        target: &[u8; TARGETINFO_BYTES],
        report_data: &[u8; 64],
    ) -> [u8; REPORT_BYTES];
}

/// KEYNAME of a sealing key.
const SEAL_KEY: u16 = 4;
/// KEYPOLICY: the key depends on MRENCLAVE; not on MRSIGNER alone, or any program of the signer
/// could unseal.
const POLICY_MRENCLAVE: u16 = 1;

/// Which sealing key: stored beside what it seals, or the next microcode would strand it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SealingKey {
    key_id: [u8; 32],
    cpu_svn: [u8; 16],
    isv_svn: u16,
}

impl SealingKey {
    /// A new one, for the security versions of now.
    pub(crate) fn new(own: &OwnReport, rng: &mut dyn CryptoRng) -> Self {
        Self { key_id: keys::random(rng), cpu_svn: own.cpu_svn, isv_svn: own.isv_svn }
    }

    /// L0.
    pub(crate) fn derive(&self, platform: &dyn Platform) -> Result<Secret<32>, CryptoError> {
        let key = platform.egetkey(&self.request()).ok_or(CryptoError)?;
        keys::derive(key.bytes(), b"", &[b"toani/v1/l0"])
    }

    /// All attributes (DEBUG among them), XFRM and MISCSELECT take part in the key.
    fn request(&self) -> [u8; KEYREQUEST_BYTES] {
        let mut request = [0; KEYREQUEST_BYTES];
        put(&mut request, 0, &SEAL_KEY.to_le_bytes());
        put(&mut request, 2, &POLICY_MRENCLAVE.to_le_bytes());
        put(&mut request, 4, &self.isv_svn.to_le_bytes());
        put(&mut request, 8, &self.cpu_svn);
        put(&mut request, 24, &[0xff; 16]);
        put(&mut request, 40, &self.key_id);
        put(&mut request, 72, &u32::MAX.to_le_bytes());
        request
    }
}

/// 32 secret bytes, wrapped under L0.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wrapped {
    sealing: SealingKey,
    nonce: [u8; NONCE_BYTES],
    ciphertext: Vec<u8>,
}

impl Wrapped {
    pub(crate) fn seal(
        platform: &dyn Platform,
        secret: &Secret<32>,
        aad: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Result<Self, CryptoError> {
        let sealing = SealingKey::new(&OwnReport::of(platform), rng);
        let (l0, nonce) = (sealing.derive(platform)?, keys::random(rng));
        let ciphertext = keys::encrypt(l0.bytes(), &nonce, aad, secret.bytes())?;
        Ok(Self { sealing, nonce, ciphertext })
    }

    pub(crate) fn open(
        &self,
        platform: &dyn Platform,
        aad: &[u8],
    ) -> Result<Secret<32>, CryptoError> {
        let (l0, mut secret) = (self.sealing.derive(platform)?, Secret::zeroed());
        keys::decrypt_into(l0.bytes(), &self.nonce, aad, &self.ciphertext, secret.bytes_mut())?;
        Ok(secret)
    }
}

fn put(structure: &mut [u8], offset: usize, field: &[u8]) {
    let places = structure.iter_mut().skip(offset);
    places.zip(field).for_each(|(place, byte)| *place = *byte);
}

/// What the processor says about this enclave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnReport {
    pub(crate) mrenclave: Hash,
    cpu_svn: [u8; 16],
    pub(crate) isv_svn: u16,
}

impl OwnReport {
    /// Asks for a report for nobody, only to read it. The processor alone can have written it.
    pub(crate) fn of(platform: &dyn Platform) -> Self {
        let report = platform.ereport(&[0; TARGETINFO_BYTES], &[0; 64]);
        Self {
            cpu_svn: field(&report, 0),
            mrenclave: Hash::new(field(&report, 64)),
            isv_svn: u16::from_le_bytes(field(&report, 258)),
        }
    }
}

fn field<const N: usize>(report: &[u8; REPORT_BYTES], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.iter_mut().zip(report.iter().skip(offset)).for_each(|(byte, from)| *byte = *from);
    bytes
}
