//! ECDSA over P-256 with SHA-256 (RFC 8446, 4.2.3), signatures in DER.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::fmt;

use p256::ecdsa::{
    DerSignature, SigningKey, VerifyingKey,
    signature::{Signer as _, Verifier as _},
};
use rustls::{
    Error, SignatureAlgorithm, SignatureScheme,
    pki_types::{
        AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm,
        SubjectPublicKeyInfoDer, alg_id,
    },
    sign::{Signer, SigningKey as TlsSigningKey, public_key_to_spki},
};

/// A private key, shared by the handshakes of one boot; it zeroes itself with the last of them.
/// Signing is deterministic (RFC 6979), so that a weak random number cannot reveal it.
#[derive(Clone)]
pub(crate) struct EcdsaKey(pub(crate) Arc<SigningKey>);

impl EcdsaKey {
    /// DER of SubjectPublicKeyInfo (RFC 5480, 2), point uncompressed.
    pub(crate) fn spki(&self) -> SubjectPublicKeyInfoDer<'static> {
        let point = self.0.verifying_key().to_sec1_point(false);
        public_key_to_spki(&alg_id::ECDSA_P256, point.as_bytes())
    }

    pub(crate) fn sign_der(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature: Result<DerSignature, _> = self.0.try_sign(message);
        let signature = signature.map_err(|_| Error::General("signing failed".into()))?;
        Ok(signature.as_bytes().to_vec())
    }
}

impl fmt::Debug for EcdsaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EcdsaKey")
    }
}

impl TlsSigningKey for EcdsaKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let known = offered.contains(&self.scheme());
        known.then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.spki())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for EcdsaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.sign_der(message)
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

/// Verifies a DER signature over `message` by the key of a SEC1 point.
pub(crate) fn verify(
    point: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), InvalidSignature> {
    let key = VerifyingKey::from_sec1_bytes(point).map_err(|_| InvalidSignature)?;
    let signature = DerSignature::from_bytes(signature).map_err(|_| InvalidSignature)?;
    key.verify(message, &signature).map_err(|_| InvalidSignature)
}

#[derive(Debug)]
pub(super) struct EcdsaP256Sha256;

impl SignatureVerificationAlgorithm for EcdsaP256Sha256 {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        verify(public_key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }
}
