//! Signatures: always over a label, a zero byte and canonical bytes.

use alloc::vec::Vec;
use core::fmt;

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::{
    canonical::{self, CanonicalError},
    limits::SIGNATURES_MAX,
    text::{bytes_as_text, debug_as_text, names},
};

names! {
    /// What kind of thing is signed. No two kinds share a label, so that a signature of one is
    /// never one of another.
    Label {
        Admission = "toani/v1/admission",
        HandOver = "toani/v1/hand-over",
        Policy = "toani/v1/policy",
        PolicyKey = "toani/v1/policy-key",
        Credential = "toani/v1/credential",
        Request = "toani/v1/request",
        Read = "toani/v1/read",
        Statement = "toani/v1/statement",
        Approve = "toani/v1/approve",
        Deny = "toani/v1/deny",
        Receipt = "toani/v1/receipt",
        Record = "toani/v1/record",
        BundleIndex = "toani/v1/bundle-index",
    }
}

impl Label {
    /// The bytes that are signed: label, zero byte, document.
    pub fn message(self, bytes: &[u8]) -> Vec<u8> {
        [self.as_str().as_bytes(), &[0], bytes].concat()
    }
}

/// A signature that does not hold, or too few that do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signature is missing or does not verify")]
pub struct SignatureError;

/// An Ed25519 public key: `ed25519:` and 43 characters of base64url in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn of(key: &SigningKey) -> Self {
        Self(key.verifying_key().to_bytes())
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Verifies strictly (RFC 8032 with cofactor and small-order keys refused).
    pub fn verify(
        &self,
        label: Label,
        bytes: &[u8],
        signature: &Signature,
    ) -> Result<(), SignatureError> {
        self.verify_message(&label.message(bytes), signature)
    }

    /// Verifies a message whose label its own format prescribes, such as a checkpoint's.
    pub fn verify_message(
        &self,
        message: &[u8],
        signature: &Signature,
    ) -> Result<(), SignatureError> {
        VerifyingKey::from_bytes(&self.0)
            .and_then(|key| key.verify_strict(message, &signature.0.into()))
            .map_err(|_| SignatureError)
    }
}

/// Signs `bytes` under `label`.
pub fn sign(key: &SigningKey, label: Label, bytes: &[u8]) -> Signature {
    Signature(key.sign(&label.message(bytes)).to_bytes())
}

bytes_as_text! {
    PublicKey as [u8; 32]: "ed25519:" BASE64URL_NOPAD,
    "a public key is ed25519: and 43 characters of base64url"
}
debug_as_text!(PublicKey, Signature);

/// An Ed25519 signature: 86 characters of base64url in JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

bytes_as_text! {
    Signature as Vec<u8>: "" BASE64URL_NOPAD,
    "a signature is 86 characters of base64url"
}

/// Bytes as base64url without padding in JSON.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

bytes_as_text! {
    Bytes as Vec<u8>: "" BASE64URL_NOPAD,
    "not base64url without padding"
}

/// A document with the signatures that vouch for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed<T> {
    pub payload: T,
    pub signatures: Vec<KeySignature>,
}

/// One key's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySignature {
    pub key: PublicKey,
    pub signature: Signature,
}

impl<T: Serialize> Signed<T> {
    /// Signs `payload` with one key.
    pub fn by(key: &SigningKey, label: Label, payload: T) -> Result<Self, CanonicalError> {
        let signature = sign(key, label, &canonical::encode(&payload)?);
        let signature = KeySignature { key: PublicKey::of(key), signature };
        Ok(Self { payload, signatures: alloc::vec![signature] })
    }

    /// Accepts if at least `quorum` distinct keys of `allowed` signed, and no signature is there
    /// that does not hold.
    pub fn verify(
        &self,
        label: Label,
        allowed: &[PublicKey],
        quorum: usize,
    ) -> Result<(), SignatureError> {
        if quorum == 0 || self.signatures.len() > SIGNATURES_MAX {
            return Err(SignatureError);
        }
        let bytes = canonical::encode(&self.payload).map_err(|_| SignatureError)?;
        let message = label.message(&bytes);
        let mut signers: Vec<PublicKey> = Vec::new();
        for KeySignature { key, signature } in &self.signatures {
            if !allowed.contains(key) || signers.contains(key) {
                return Err(SignatureError);
            }
            key.verify_message(&message, signature)?;
            signers.push(*key);
        }
        if signers.len() >= quorum { Ok(()) } else { Err(SignatureError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    #[test]
    fn a_signature_of_one_kind_is_none_of_another() {
        let signature = sign(&key(1), Label::Deny, b"x");
        let public = PublicKey::of(&key(1));
        assert!(public.verify(Label::Deny, b"x", &signature).is_ok());
        assert!(public.verify(Label::Approve, b"x", &signature).is_err());
        assert!(public.verify(Label::Deny, b"y", &signature).is_err());
    }

    #[test]
    fn a_quorum_counts_keys_not_signatures() {
        let mut signed = Signed::by(&key(1), Label::Admission, "list").unwrap();
        let allowed = [PublicKey::of(&key(1)), PublicKey::of(&key(2))];
        assert!(signed.verify(Label::Admission, &allowed, 1).is_ok());
        assert!(signed.verify(Label::Admission, &allowed, 2).is_err());
        assert!(signed.verify(Label::Admission, &allowed, 0).is_err());
        signed.signatures.push(signed.signatures[0].clone());
        assert!(signed.verify(Label::Admission, &allowed, 2).is_err());
        let stranger = Signed::by(&key(3), Label::Admission, "list").unwrap();
        signed.signatures[1] = stranger.signatures[0].clone();
        assert!(signed.verify(Label::Admission, &allowed, 1).is_err());
    }

    #[test]
    fn keys_have_one_text() {
        let public = PublicKey::of(&key(7));
        assert_eq!(public.to_string().parse(), Ok(public));
        assert!("ed25519:AA".parse::<PublicKey>().is_err());
    }
}
