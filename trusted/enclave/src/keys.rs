//! The key hierarchy.
//!
//! ```text
//! L0  the platform's sealing key        wraps L1; never leaves the platform
//! L1  32 random bytes, born once        root of the instance, under its manifest's hash
//! L2  HKDF(L1; tenant, namespace)       one per part of a tenant's vault
//! L3  HKDF(L2; salt, credential, ver.)  one per version of a credential, used for one encryption
//! ```
//!
//! Every derivation is HKDF-SHA-256 with an info string of length-prefixed fields that begins with
//! its purpose and the instance's id.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use aes_gcm::{
    Aes256Gcm, Key, KeyInit, Nonce, Tag,
    aead::{AeadInOut, inout::InOutBuf},
};
use ed25519_dalek::SigningKey;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use hpke::{
    Deserializable, Kem, OpModeR,
    aead::{AeadTag, AesGcm256 as HpkeAead},
    kdf::HkdfSha256,
    kem::X25519HkdfSha256,
    setup_receiver,
};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use toani_protocol::{
    BootId, Hash, Reason, canonical::CanonicalError, evidence::BootKeys, sign::PublicKey,
    wire::WireError,
};
use toani_tls::ChannelKey;

use crate::{
    root::Root,
    secret::{Guarded, Secret},
};

pub(crate) const TAG_BYTES: usize = 16;
pub(crate) const NONCE_BYTES: usize = 12;

/// A key or ciphertext that does not do what it should. Says nothing about why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cryptographic operation failed")]
pub(crate) struct CryptoError;

macro_rules! crypto_errors {
    ($($error:ty),*) => {$(
        impl From<$error> for CryptoError {
            fn from(_: $error) -> Self {
                Self
            }
        }
    )*};
}

crypto_errors!(aes_gcm::Error, hpke::HpkeError, postcard::Error, CanonicalError, WireError);

/// Where nothing else is said, it is the enclave that has failed, not who calls it.
impl From<CryptoError> for Reason {
    fn from(_: CryptoError) -> Self {
        Self::Internal
    }
}

/// Fresh random bytes that are not secret.
pub(crate) fn random<const N: usize>(rng: &mut dyn CryptoRng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Length-prefixes each field, so that no two lists of fields give the same bytes.
pub(crate) fn fields(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    for part in parts {
        let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// One step of HKDF-SHA-256.
pub(crate) fn derive<const N: usize>(
    key: &[u8],
    salt: &[u8],
    info: &[&[u8]],
) -> Result<Secret<N>, CryptoError> {
    let mut out = Secret::zeroed();
    Hkdf::<Sha256>::new(Some(salt), key)
        .expand(&fields(info), out.bytes_mut())
        .map_err(|_| CryptoError)?;
    Ok(out)
}

/// AES-256-GCM of `plaintext`: ciphertext and tag. The caller never repeats a nonce under a key.
pub(crate) fn encrypt(
    key: &[u8; 32],
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let mut out = alloc::vec![0; plaintext.len()];
    out.reserve_exact(TAG_BYTES);
    let buffer = InOutBuf::new(plaintext, &mut out).map_err(|_| CryptoError)?;
    let cipher = Aes256Gcm::new(<&Key<Aes256Gcm>>::from(key));
    let tag = cipher.encrypt_inout_detached(&Nonce::from(*nonce), aad, buffer)?;
    out.extend_from_slice(&tag);
    Ok(out)
}

/// The inverse of [`encrypt`], into `out`, which is as long as the plaintext.
pub(crate) fn decrypt_into(
    key: &[u8; 32],
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    sealed: &[u8],
    out: &mut [u8],
) -> Result<(), CryptoError> {
    let (body, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(CryptoError)?;
    let buffer = InOutBuf::new(body, out).map_err(|_| CryptoError)?;
    let (cipher, tag) = (Aes256Gcm::new(<&Key<Aes256Gcm>>::from(key)), Tag::from(*tag));
    cipher.decrypt_inout_detached(&Nonce::from(*nonce), aad, buffer, &tag)?;
    Ok(())
}

/// The inverse of [`encrypt`].
pub(crate) fn decrypt(
    key: &[u8; 32],
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let mut out = alloc::vec![0; sealed.len().saturating_sub(TAG_BYTES)];
    decrypt_into(key, nonce, aad, sealed, &mut out)?;
    Ok(out)
}

/// A private key of HPKE: X25519.
pub(crate) type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;

/// Opens what was sealed to a key (RFC 9180, base mode), into `out`, which is as long as the
/// plaintext.
pub(crate) fn open_sealed(
    private: &PrivateKey,
    encapsulated: &[u8],
    info: &[u8],
    aad: &[u8],
    sealed: &[u8],
    out: &mut [u8],
) -> Result<(), CryptoError> {
    let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated)?;
    let mut context = setup_receiver::<HpkeAead, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        private,
        &encapsulated,
        info,
    )?;
    let (body, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(CryptoError)?;
    let buffer = InOutBuf::new(body, out).map_err(|_| CryptoError)?;
    context.open_inout_detached(buffer, aad, &AeadTag::<HpkeAead>::from_bytes(tag)?)?;
    Ok(())
}

/// The keys of one boot.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) root: Root,
    pub(crate) boot: BootId,
    pub(crate) chain: Guarded<SigningKey>,
    pub(crate) chain_public: PublicKey,
    /// The private intake key's bytes.
    intake: Secret<32>,
    pub(crate) intake_public: [u8; 32],
    /// Opens channels to supervisors. Of this boot alone.
    pub(crate) channel: ChannelKey,
    /// Action Tokens: only the same measurement, in the same life, opens them.
    pub(crate) token: Secret<32>,
    idempotency: Secret<32>,
    seal: Secret<32>,
    sealed: AtomicU64,
}

impl Keys {
    pub(crate) fn derive(
        root: Root,
        boot: BootId,
        measurement: Hash,
        rng: &mut dyn CryptoRng,
    ) -> Result<Self, CryptoError> {
        let chain = root.chain()?;
        let chain_public = PublicKey::of(&chain);
        let seed: Secret<32> = root.derive("toani/v1/intake", &[])?;
        let (private, public) = X25519HkdfSha256::derive_keypair(seed.bytes());
        let intake = Secret::filled(|bytes| {
            hpke::Serializable::write_exact(&private, bytes.as_mut_slice());
        });
        let intake_public = hpke::Serializable::to_bytes(&public).into();
        let life = [measurement.as_bytes().as_slice(), boot.as_str().as_bytes()];
        Ok(Self {
            token: root.derive("toani/v1/token", &life)?,
            idempotency: root.derive("toani/v1/idempotency", &[])?,
            seal: root.boot_seal(&boot)?,
            sealed: AtomicU64::new(0),
            root,
            boot,
            chain,
            chain_public,
            intake,
            intake_public,
            channel: ChannelKey::generate(rng),
        })
    }

    /// What this boot's evidence vouches for.
    pub(crate) fn vouched(&self) -> BootKeys {
        let Self { chain_public, intake_public, channel, .. } = self;
        BootKeys { chain: *chain_public, intake: *intake_public, channel: channel.spki_hash() }
    }

    pub(crate) fn intake_private(&self) -> Result<PrivateKey, CryptoError> {
        Ok(PrivateKey::from_bytes(self.intake.bytes())?)
    }

    /// A keyed hash: tells the host nothing about what was hashed.
    pub(crate) fn idempotency_hash(&self, parts: &[&[u8]]) -> Result<Hash, CryptoError> {
        keyed_hash(self.idempotency.bytes(), parts)
    }

    /// Seals bytes for the host to keep. `purpose` and `about` must be given again to open them.
    pub(crate) fn seal(&self, about: &[&[u8]], plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
        // One key per boot and a counter: a nonce is never used twice, whatever the host rolls back.
        let counter = self.sealed.fetch_add(1, Ordering::Relaxed);
        let ciphertext =
            encrypt(self.seal.bytes(), &counter_nonce(counter), &fields(about), plaintext)?;
        let blob = SealedBlob { format: 1, boot: self.boot.clone(), counter, ciphertext };
        Ok(postcard::to_allocvec(&blob)?)
    }

    /// Opens what this or an earlier boot sealed.
    pub(crate) fn open(&self, about: &[&[u8]], sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let blob: SealedBlob = postcard::from_bytes(sealed)?;
        if blob.format != 1 {
            return Err(CryptoError);
        }
        let nonce = counter_nonce(blob.counter);
        if blob.boot == self.boot {
            return decrypt(self.seal.bytes(), &nonce, &fields(about), &blob.ciphertext);
        }
        let key = self.root.boot_seal(&blob.boot)?;
        decrypt(key.bytes(), &nonce, &fields(about), &blob.ciphertext)
    }
}

/// HMAC-SHA-256 over length-prefixed parts.
pub(crate) fn keyed_hash(key: &[u8; 32], parts: &[&[u8]]) -> Result<Hash, CryptoError> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).map_err(|_| CryptoError)?;
    mac.update(&fields(parts));
    Ok(Hash::new(mac.finalize().into_bytes().into()))
}

#[derive(Serialize, Deserialize)]
struct SealedBlob {
    format: u8,
    boot: BootId,
    counter: u64,
    ciphertext: Vec<u8>,
}

fn counter_nonce(counter: u64) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    if let Some(low) = nonce.last_chunk_mut::<8>() {
        *low = counter.to_be_bytes();
    }
    nonce
}
