//! Public keys of certificates, and the two kinds of signature that vendors' chains have.

use p256::elliptic_curve::FieldBytes;
use rsa::{
    BoxedUint,
    pss::{Signature as PssSignature, VerifyingKey as PssKey},
    signature::Verifier,
    traits::PublicKeyParts,
};
use sha2::Sha384;
use x509_cert::{
    der::{
        Decode, Encode, Reader, SliceReader,
        asn1::{ObjectIdentifier, UintRef},
    },
    spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned},
};

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const PRIME256V1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");

/// AMD's keys have no other size.
const RSA_BITS: u32 = 4096;
const PSS_SALT_BYTES: usize = 48;

/// RSASSA-PSS-params (RFC 4055, 3.1): SHA-384, MGF1 with SHA-384, 48 bytes of salt. Milan and Genoa
/// spell the default trailer field out, against DER; Turin leaves it away.
const PSS_SHA384: &[u8] = b"\x30\x34\
    \xa0\x0f\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\
    \xa1\x1c\x30\x1a\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08\
    \x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\
    \xa2\x03\x02\x01\x30";
const PSS_SHA384_TRAILER: &[u8] = b"\x30\x39\
    \xa0\x0f\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\
    \xa1\x1c\x30\x1a\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08\
    \x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\
    \xa2\x03\x02\x01\x30\
    \xa3\x03\x02\x01\x01";

/// The key of a certificate.
#[derive(Debug, Clone)]
pub(crate) enum Key {
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
    Rsa(PssKey<Sha384>),
}

impl Key {
    /// `None` for a kind of key that no vendor's chain has.
    pub(crate) fn of(info: &SubjectPublicKeyInfoOwned) -> Option<Self> {
        let bytes = info.subject_public_key.as_bytes()?;
        match info.algorithm.oid {
            EC_PUBLIC_KEY => {
                let curve = info.algorithm.parameters.as_ref()?;
                match curve.decode_as::<ObjectIdentifier>().ok()? {
                    PRIME256V1 => Some(Self::P256(p256_key(bytes)?)),
                    SECP384R1 => {
                        p384::ecdsa::VerifyingKey::from_sec1_bytes(bytes).ok().map(Self::P384)
                    }
                    _ => None,
                }
            }
            RSA_ENCRYPTION => rsa_key(bytes).map(Self::Rsa),
            _ => None,
        }
    }

    /// Whether this key made the signature of a certificate or CRL.
    pub(crate) fn signed(
        &self,
        algorithm: &AlgorithmIdentifierOwned,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        let parameters = algorithm.parameters.as_ref().and_then(|any| any.to_der().ok());
        match (self, algorithm.oid) {
            (Self::P256(key), ECDSA_WITH_SHA256) => {
                parameters.is_none()
                    && ecdsa_signature(signature)
                        .is_some_and(|signature| key.verify(message, &signature).is_ok())
            }
            (Self::Rsa(key), RSASSA_PSS) => {
                let known = [PSS_SHA384, PSS_SHA384_TRAILER];
                parameters.is_some_and(|parameters| known.contains(&parameters.as_slice()))
                    && PssSignature::try_from(signature)
                        .is_ok_and(|signature| key.verify(message, &signature).is_ok())
            }
            _ => false,
        }
    }
}

/// A point in SEC1 form.
fn p256_key(bytes: &[u8]) -> Option<p256::ecdsa::VerifyingKey> {
    p256::ecdsa::VerifyingKey::from_sec1_bytes(bytes).ok()
}

/// A key as quotes have it: x and y, 32 bytes each, big-endian.
pub(crate) fn p256_key_of_point(point: &[u8; 64]) -> Option<p256::ecdsa::VerifyingKey> {
    let mut sec1 = [4; 65];
    sec1.get_mut(1..)?.copy_from_slice(point);
    p256_key(&sec1)
}

/// A signature as quotes and Intel's documents have it: r and s, 32 bytes each, big-endian.
pub(crate) fn p256_signed(
    key: &p256::ecdsa::VerifyingKey,
    message: &[u8],
    signature: &[u8],
) -> bool {
    p256::ecdsa::Signature::from_slice(signature)
        .is_ok_and(|signature| key.verify(message, &signature).is_ok())
}

/// ECDSA-Sig-Value (RFC 5480, appendix A).
fn ecdsa_signature(der: &[u8]) -> Option<p256::ecdsa::Signature> {
    let (r, s) = two_integers(der)?;
    p256::ecdsa::Signature::from_scalars(scalar(r)?, scalar(s)?).ok()
}

fn scalar(integer: UintRef<'_>) -> Option<FieldBytes<p256::NistP256>> {
    let bytes = integer.as_bytes();
    let mut scalar = [0; 32];
    let start = scalar.len().checked_sub(bytes.len())?;
    scalar.get_mut(start..)?.copy_from_slice(bytes);
    Some(scalar.into())
}

/// RSAPublicKey (RFC 8017, appendix A.1.1), of 4,096 bits.
fn rsa_key(der: &[u8]) -> Option<PssKey<Sha384>> {
    let (modulus, exponent) = two_integers(der)?;
    let modulus = BoxedUint::from_be_slice(modulus.as_bytes(), RSA_BITS).ok()?;
    let exponent = BoxedUint::from_be_slice(exponent.as_bytes(), 64).ok()?;
    let key = rsa::PublicKey::new(modulus, exponent).ok()?;
    let whole = key.n().bit_width() == RSA_BITS;
    whole.then(|| PssKey::new_with_salt_len(key, PSS_SALT_BYTES))
}

/// A SEQUENCE of two INTEGERs that are not negative.
fn two_integers(der: &[u8]) -> Option<(UintRef<'_>, UintRef<'_>)> {
    let mut reader = SliceReader::new(der).ok()?;
    let both = reader
        .sequence(|body| {
            Ok::<_, x509_cert::der::Error>((UintRef::decode(body)?, UintRef::decode(body)?))
        })
        .ok()?;
    reader.finish().ok()?;
    Some(both)
}
