//! L1: how it is born, sealed for one platform, handed over to another, and what it is the root of.

use alloc::vec::Vec;

use ed25519_dalek::SigningKey;
use hpke::{
    Kem, OpModeS, Serializable, aead::AesGcm256, kdf::HkdfSha256, kem::X25519HkdfSha256,
    setup_sender_with_rng,
};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use toani_protocol::{BootId, Hash, TenantId, hand_over::ROOT_INFO, sign::Bytes};

use crate::{
    keys::{self, CryptoError, PrivateKey},
    platform::{Platform, Wrapped},
    secret::{Guarded, Secret},
};

/// L1, and the instance that it is the root of.
#[derive(Debug)]
pub(crate) struct Root {
    key: Secret<32>,
    instance: Hash,
    /// Counter of the hand-over that it came by; 0 where it was born. The log says the same, or
    /// one of them is not the instance's last.
    pub(crate) hand_overs: u64,
}

/// L1 wrapped under L0.
#[derive(Serialize, Deserialize)]
struct SealedRoot {
    format: u8,
    epoch: u32,
    hand_overs: u64,
    wrapped: Wrapped,
}

/// L1's epoch: it grows with every new root of one instance, which there is none of yet.
const EPOCH: u32 = 1;

impl Root {
    /// A new root.
    pub(crate) fn born(instance: Hash, rng: &mut dyn CryptoRng) -> Self {
        let key = Secret::filled(|bytes| rng.fill_bytes(bytes));
        Self { key, instance, hand_overs: 0 }
    }

    /// Wraps under L0. The manifest's hash is in the AAD: under another manifest it does not open.
    pub(crate) fn seal(
        &self,
        platform: &dyn Platform,
        rng: &mut dyn CryptoRng,
    ) -> Result<Vec<u8>, CryptoError> {
        let Self { key, instance, hand_overs } = self;
        let wrapped = Wrapped::seal(platform, key, &aad(instance, EPOCH, *hand_overs), rng)?;
        let sealed = SealedRoot { format: 1, epoch: EPOCH, hand_overs: *hand_overs, wrapped };
        Ok(postcard::to_allocvec(&sealed)?)
    }

    /// Opens a wrapped root under this manifest.
    pub(crate) fn open(
        platform: &dyn Platform,
        instance: Hash,
        sealed: &[u8],
    ) -> Result<Self, CryptoError> {
        let SealedRoot { format, epoch, hand_overs, wrapped } = postcard::from_bytes(sealed)?;
        if format != 1 || epoch != EPOCH {
            return Err(CryptoError);
        }
        let key = wrapped.open(platform, &aad(&instance, epoch, hand_overs))?;
        Ok(Self { key, instance, hand_overs })
    }

    /// Seals it to the key of who takes it: encapsulated key and ciphertext.
    pub(crate) fn seal_to(
        &self,
        key: &[u8],
        aad: &[u8],
        mut rng: &mut dyn CryptoRng,
    ) -> Result<(Bytes, Bytes), CryptoError> {
        let key = <<X25519HkdfSha256 as Kem>::PublicKey as hpke::Deserializable>::from_bytes(key)?;
        let (encapsulated, mut context) = setup_sender_with_rng::<
            AesGcm256,
            HkdfSha256,
            X25519HkdfSha256,
        >(&OpModeS::Base, &key, ROOT_INFO, &mut rng)?;
        let ciphertext = context.seal(self.key.bytes(), aad)?;
        Ok((Bytes(encapsulated.to_bytes().to_vec()), Bytes(ciphertext)))
    }

    /// Opens what [`Self::seal_to`] has sealed.
    pub(crate) fn open_sealed(
        private: &PrivateKey,
        (encapsulated, ciphertext): (&Bytes, &Bytes),
        aad: &[u8],
        instance: Hash,
        hand_overs: u64,
    ) -> Result<Self, CryptoError> {
        let mut key = Secret::zeroed();
        let out = key.bytes_mut().as_mut_slice();
        keys::open_sealed(private, &encapsulated.0, ROOT_INFO, aad, &ciphertext.0, out)?;
        Ok(Self { key, instance, hand_overs })
    }

    /// A key of this root; `purpose` is its own.
    pub(crate) fn derive<const N: usize>(
        &self,
        purpose: &str,
        parts: &[&[u8]],
    ) -> Result<Secret<N>, CryptoError> {
        let mut info: Vec<&[u8]> = alloc::vec![purpose.as_bytes(), self.instance.as_bytes()];
        info.extend_from_slice(parts);
        keys::derive(self.key.bytes(), b"", &info)
    }

    /// L2: one part of a tenant's vault.
    pub(crate) fn vault(
        &self,
        tenant: &TenantId,
        namespace: &str,
    ) -> Result<Secret<32>, CryptoError> {
        let parts: [&[u8]; 3] =
            [tenant.as_str().as_bytes(), namespace.as_bytes(), &EPOCH.to_be_bytes()];
        self.derive("toani/v1/l2", &parts)
    }

    /// Wraps a tenant's salts: under the L2 of the empty namespace, which no credential can have.
    pub(crate) fn salts(&self, tenant: &TenantId) -> Result<Secret<32>, CryptoError> {
        keys::derive(self.vault(tenant, "")?.bytes(), b"", &[b"toani/v1/salts"])
    }

    /// Signs records, receipts, statements and checkpoints, in every image that has the root.
    pub(crate) fn chain(&self) -> Result<Guarded<SigningKey>, CryptoError> {
        let seed: Secret<32> = self.derive("toani/v1/chain", &[])?;
        Ok(Guarded::new(SigningKey::from_bytes(seed.bytes())))
    }

    /// Seals what one boot gives to the host to keep.
    pub(crate) fn boot_seal(&self, boot: &BootId) -> Result<Secret<32>, CryptoError> {
        self.derive("toani/v1/seal", &[boot.as_str().as_bytes()])
    }
}

fn aad(instance: &Hash, epoch: u32, hand_overs: u64) -> Vec<u8> {
    let (epoch, hand_overs) = (epoch.to_be_bytes(), hand_overs.to_be_bytes());
    keys::fields(&[b"toani/v1/root", instance.as_bytes(), &epoch, &hand_overs])
}
