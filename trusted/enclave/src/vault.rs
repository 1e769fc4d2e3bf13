//! The vault: credentials come in under HPKE, rest under L3, and leave in a job only.

use alloc::vec::Vec;
use core::fmt;

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use toani_protocol::{
    Reason, canonical,
    credential::{CredentialHeader, INTAKE_INFO, SealedCredential},
    limits::CREDENTIAL_BYTES_MAX,
};

use crate::{
    keys::{self, CryptoError, Keys, NONCE_BYTES, TAG_BYTES},
    secret::Secret,
};

/// A credential's plaintext, in a fixed buffer that is wiped whole.
pub(crate) struct Plaintext {
    buffer: Secret<CREDENTIAL_BYTES_MAX>,
    length: usize,
}

impl Plaintext {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.bytes().get(..self.length).unwrap_or_default()
    }

    fn sized(length: usize) -> Result<Self, CryptoError> {
        if length > CREDENTIAL_BYTES_MAX {
            return Err(CryptoError);
        }
        Ok(Self { buffer: Secret::zeroed(), length })
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.bytes_mut().get_mut(..self.length).unwrap_or_default()
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plaintext")
    }
}

/// A credential at rest: what the blob of its record holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredCredential {
    format: u8,
    /// The canonical header, which is the owner's word.
    header: Vec<u8>,
    salt: [u8; 32],
    commitment: [u8; 32],
    nonce: [u8; NONCE_BYTES],
    ciphertext: Vec<u8>,
}

impl StoredCredential {
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, CredentialHeader), CryptoError> {
        let stored: Self = postcard::from_bytes(bytes)?;
        let header = canonical::decode(&stored.header, bytes.len())?;
        if stored.format == 1 { Ok((stored, header)) } else { Err(CryptoError) }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, CryptoError> {
        Ok(postcard::to_allocvec(self)?)
    }
}

/// Opens what an owner sealed, and seals it again under a fresh L3. The owner's signature was
/// verified before.
pub(crate) fn take_in(
    keys: &Keys,
    sealed: &SealedCredential,
    rng: &mut dyn CryptoRng,
) -> Result<StoredCredential, Reason> {
    let header = canonical::encode(&sealed.header).map_err(|_| Reason::DocumentMalformed)?;
    let plaintext = open_intake(keys, sealed, &header).map_err(|_| Reason::CredentialEnvelope)?;
    let (salt, nonce) = (keys::random(rng), keys::random(rng));
    let l3 = l3(keys, &sealed.header, &salt)?;
    let ciphertext = keys::encrypt(l3.key()?, &nonce, &at_rest_aad(&header), plaintext.bytes())?;
    Ok(StoredCredential { format: 1, header, salt, commitment: l3.commitment(), nonce, ciphertext })
}

fn open_intake(
    keys: &Keys,
    sealed: &SealedCredential,
    header: &[u8],
) -> Result<Plaintext, CryptoError> {
    let (private, ciphertext) = (keys.intake_private()?, &sealed.ciphertext.0);
    let length = ciphertext.len().checked_sub(TAG_BYTES).ok_or(CryptoError)?;
    let mut plaintext = Plaintext::sized(length)?;
    let out = plaintext.bytes_mut();
    keys::open_sealed(&private, &sealed.encapsulated.0, INTAKE_INFO, header, ciphertext, out)?;
    if plaintext.length == 0 { Err(CryptoError) } else { Ok(plaintext) }
}

/// Opens a credential at rest. The key commitment is compared first: GCM alone would let one
/// ciphertext open under two keys.
pub(crate) fn open(
    keys: &Keys,
    stored: &StoredCredential,
    header: &CredentialHeader,
) -> Result<Plaintext, CryptoError> {
    let l3 = l3(keys, header, &stored.salt)?;
    if !bool::from(l3.commitment().ct_eq(&stored.commitment)) {
        return Err(CryptoError);
    }
    let length = stored.ciphertext.len().checked_sub(TAG_BYTES).ok_or(CryptoError)?;
    let mut plaintext = Plaintext::sized(length)?;
    let aad = at_rest_aad(&stored.header);
    keys::decrypt_into(l3.key()?, &stored.nonce, &aad, &stored.ciphertext, plaintext.bytes_mut())?;
    Ok(plaintext)
}

/// An encryption key and the commitment to it.
struct L3(Secret<64>);

impl L3 {
    fn key(&self) -> Result<&[u8; 32], CryptoError> {
        self.0.bytes().first_chunk().ok_or(CryptoError)
    }

    /// Not secret: it stands beside the ciphertext.
    fn commitment(&self) -> [u8; 32] {
        self.0.bytes().last_chunk().copied().unwrap_or_default()
    }
}

fn l3(keys: &Keys, header: &CredentialHeader, salt: &[u8; 32]) -> Result<L3, CryptoError> {
    let l2 = keys.root.vault(&header.tenant, header.namespace.as_str())?;
    let info: [&[u8]; 4] = [
        b"toani/v1/l3",
        header.owner.as_bytes(),
        header.id.as_str().as_bytes(),
        &header.version.to_be_bytes(),
    ];
    keys::derive(l2.bytes(), salt, &info).map(L3)
}

/// Binds the ciphertext to format, suite and everything that the owner said.
fn at_rest_aad(header: &[u8]) -> Vec<u8> {
    keys::fields(&[b"toani/v1/credential-at-rest", b"aes-256-gcm", header])
}
