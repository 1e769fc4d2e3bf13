//! The key of one boot, and the certificate that carries its evidence.
//!
//! A certificate of this shape says one thing: here is a P-256 key, and here is evidence. No chain
//! leads to it, no name and no date in it means anything, because nobody issued it: whom the key
//! belongs to is what the evidence proves. So there is one shape, to the byte; whatever else X.509
//! may hold has nobody to read it, and is refused.

use alloc::{sync::Arc, vec::Vec};
use core::fmt;

use p256::{ecdsa::SigningKey, elliptic_curve::Generate};
use rand_core::CryptoRng;
use rustls::pki_types::CertificateDer;
use toani_protocol::{Hash, limits::ATTESTATION_EVIDENCE_BYTES_MAX};

use crate::{
    der::{self, BIT_STRING, EXPLICIT_3, OCTET_STRING, SEQUENCE},
    error::CertificateError,
    provider::{EcdsaKey, verify},
};

/// A certificate's bytes without its evidence are fewer than 400.
pub(crate) const CERTIFICATE_BYTES_MAX: usize = ATTESTATION_EVIDENCE_BYTES_MAX + 512;

/// `[0] { INTEGER 2 }`, version 3; `INTEGER 1`, the serial number.
const VERSION_AND_SERIAL: &[u8] = &[0xa0, 3, 2, 1, 2, 2, 1, 1];
/// ecdsa-with-SHA256, 1.2.840.10045.4.3.2 (RFC 5758, 3.2).
const ECDSA_WITH_SHA256: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// CN=toani; issuer and subject.
const NAME: &[u8] = b"\x30\x10\x31\x0e\x30\x0c\x06\x03\x55\x04\x03\x0c\x05toani";
/// 1970 to 9999-12-31T23:59:59Z, which stands for no end (RFC 5280, 4.1.2.5).
const VALIDITY: &[u8] = b"\x30\x20\x17\x0d700101000000Z\x18\x0f99991231235959Z";
/// SubjectPublicKeyInfo of P-256 (RFC 5480, 2) up to the 65 bytes of the point.
const SPKI_HEAD: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 6, 8, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07, 3, 0x42, 0,
];
/// id-pe-cmw, 1.3.6.1.5.5.7.1.35 (RFC 9999); not critical.
const ID_PE_CMW: &[u8] = &[6, 8, 0x2b, 6, 1, 5, 5, 7, 1, 35];
/// A CMW record in CBOR (RFC 9999) is an array of type, value and indicator. This is the array's
/// head and the type, a text of 28 bytes. The media type stands in the tree for what nobody has
/// registered (RFC 6838, 3.4).
const CMW_HEAD: &[u8] = b"\x83\x78\x1capplication/x.toani.evidence";
/// CMW's indicator: bit 2, evidence.
const CMW_EVIDENCE: &[u8] = &[4];

/// The private key of one boot's channels. It is made here, never leaves, and zeroes itself.
#[derive(Clone)]
pub struct ChannelKey(EcdsaKey);

impl ChannelKey {
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        Self(EcdsaKey(Arc::new(SigningKey::generate_from_rng(rng))))
    }

    /// DER of SubjectPublicKeyInfo: what evidence vouches for.
    pub fn spki(&self) -> Vec<u8> {
        self.0.spki().as_ref().to_vec()
    }

    /// SHA-256 of [`Self::spki`].
    pub fn spki_hash(&self) -> Hash {
        Hash::of(self.0.spki().as_ref())
    }

    /// The key as rustls uses it, for mutual TLS other than between attested sides.
    pub fn signing_key(&self) -> Arc<dyn rustls::sign::SigningKey> {
        Arc::new(self.0.clone())
    }

    /// A certificate signed by the key itself, with the evidence that vouches for the key.
    pub fn certificate(&self, evidence: &[u8]) -> Result<Certificate, CertificateError> {
        if evidence.len() > ATTESTATION_EVIDENCE_BYTES_MAX {
            return Err(CertificateError::TooLarge);
        }
        let body = body(&self.spki(), evidence).ok_or(CertificateError::TooLarge)?;
        let signature = self.0.sign_der(&body).map_err(|_| CertificateError::Signing)?;
        let der = whole(&body, &signature).ok_or(CertificateError::TooLarge)?;
        Ok(Certificate { der: der.into(), key: self.clone() })
    }
}

impl fmt::Debug for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChannelKey").field(&self.spki_hash()).finish()
    }
}

/// What a side shows of itself, with the key to prove that it is its own.
#[derive(Debug, Clone)]
pub struct Certificate {
    der: CertificateDer<'static>,
    key: ChannelKey,
}

impl Certificate {
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    pub fn key(&self) -> &ChannelKey {
        &self.key
    }

    pub(crate) fn certified_key(&self) -> rustls::sign::CertifiedKey {
        rustls::sign::CertifiedKey::new(alloc::vec![self.der.clone()], self.key.signing_key())
    }
}

/// What stands in a peer's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCertificate<'a> {
    /// DER of SubjectPublicKeyInfo.
    pub spki: &'a [u8],
    pub evidence: &'a [u8],
}

impl<'a> PeerCertificate<'a> {
    /// None unless `der` is exactly what [`ChannelKey::certificate`] makes, and signed by its key.
    pub fn verify(der: &'a [u8]) -> Option<Self> {
        let (certificate, body, signature) = Self::read(der)?;
        let again = self::body(certificate.spki, certificate.evidence)?;
        let same = again == body && whole(body, signature)? == der;
        let point = certificate.spki.strip_prefix(SPKI_HEAD)?;
        (same && verify(point, body, signature).is_ok()).then_some(certificate)
    }

    /// Key and evidence of a certificate that [`Self::verify`] has accepted.
    pub(crate) fn of_verified(der: &'a [u8]) -> Option<Self> {
        Self::read(der).map(|(certificate, ..)| certificate)
    }

    /// Key, evidence, signed body and signature, from where they stand in the one shape; that the
    /// rest is as it should be, [`Self::verify`] finds by writing it again.
    fn read(mut der: &'a [u8]) -> Option<(Self, &'a [u8], &'a [u8])> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return None;
        }
        let mut outer = der::take(&mut der, SEQUENCE)?;
        let signed = outer;
        let mut inner = der::take(&mut outer, SEQUENCE)?;
        let body = signed.get(..signed.len().checked_sub(outer.len())?)?;
        der::take(&mut outer, SEQUENCE)?;
        let (_, signature) = der::take(&mut outer, BIT_STRING)?.split_first()?;

        let fixed = [VERSION_AND_SERIAL, ECDSA_WITH_SHA256, NAME, VALIDITY, NAME].concat();
        inner = inner.strip_prefix(fixed.as_slice())?;
        let (spki, rest) = inner.split_at_checked(SPKI_BYTES)?;
        inner = rest;
        let mut extensions = der::take(&mut inner, EXPLICIT_3)?;
        let mut extensions = der::take(&mut extensions, SEQUENCE)?;
        let extension = der::take(&mut extensions, SEQUENCE)?;
        let mut value = extension.strip_prefix(ID_PE_CMW)?;
        let mut cmw = der::take(&mut value, OCTET_STRING)?;
        let cbor = der::take(&mut cmw, OCTET_STRING)?;
        let record = cbor.strip_prefix(CMW_HEAD)?.strip_suffix(CMW_EVIDENCE)?;
        let evidence = match record {
            [0x58, _, evidence @ ..] | [0x59, _, _, evidence @ ..] | [_, evidence @ ..] => evidence,
            [] => return None,
        };
        Some((Self { spki, evidence }, body, signature))
    }
}

/// Of SubjectPublicKeyInfo with an uncompressed point.
const SPKI_BYTES: usize = SPKI_HEAD.len() + 65;

/// TBSCertificate (RFC 5280, 4.1).
fn body(spki: &[u8], evidence: &[u8]) -> Option<Vec<u8>> {
    let record = [CMW_HEAD, &byte_string_head(evidence)?, evidence, CMW_EVIDENCE].concat();
    // CMW ::= CHOICE { json UTF8String, cbor OCTET STRING }, itself in the extension's OCTET STRING.
    let cmw = der::element(OCTET_STRING, &[&record])?;
    let extension = der::element(SEQUENCE, &[ID_PE_CMW, &der::element(OCTET_STRING, &[&cmw])?])?;
    let extensions = der::element(EXPLICIT_3, &[&der::element(SEQUENCE, &[&extension])?])?;
    let fields = [VERSION_AND_SERIAL, ECDSA_WITH_SHA256, NAME, VALIDITY, NAME, spki, &extensions];
    der::element(SEQUENCE, &fields)
}

/// Certificate (RFC 5280, 4.1) of a body and its signature.
fn whole(body: &[u8], signature: &[u8]) -> Option<Vec<u8>> {
    let signature = der::element(BIT_STRING, &[&[0], signature])?;
    der::element(SEQUENCE, &[body, ECDSA_WITH_SHA256, &signature])
}

/// The head of a CBOR byte string, as short as can be (RFC 8949, 4.2.1).
fn byte_string_head(bytes: &[u8]) -> Option<Vec<u8>> {
    let [high, low] = u16::try_from(bytes.len()).ok()?.to_be_bytes();
    Some(match (high, low) {
        (0, 0..=23) => alloc::vec![0x40 | low],
        (0, _) => alloc::vec![0x58, low],
        _ => alloc::vec![0x59, high, low],
    })
}

#[cfg(test)]
mod tests {
    use getrandom::{SysRng, rand_core::UnwrapErr};

    use super::*;

    fn key() -> ChannelKey {
        ChannelKey::generate(&mut UnwrapErr(SysRng))
    }

    #[test]
    fn what_is_made_is_read_at_every_length() {
        let key = key();
        for length in [0, 1, 23, 24, 88, 89, 127, 128, 255, 256, 300, 5_000, 48 * 1024] {
            let evidence = alloc::vec![7; length];
            let certificate = key.certificate(&evidence).unwrap();
            let read = PeerCertificate::verify(certificate.der()).unwrap();
            assert_eq!(read, PeerCertificate { spki: &key.spki(), evidence: &evidence });
        }
        let error = key.certificate(&alloc::vec![7; 48 * 1024 + 1]).unwrap_err();
        assert_eq!(error, CertificateError::TooLarge);
    }

    #[test]
    fn no_other_byte_is_accepted() {
        let certificate = key().certificate(b"evidence").unwrap();
        for at in 0..certificate.der().len() {
            for bit in 0..8 {
                let mut der = certificate.der().to_vec();
                der[at] ^= 1 << bit;
                assert_eq!(PeerCertificate::verify(&der), None, "byte {at}, bit {bit}");
            }
            assert_eq!(PeerCertificate::verify(&certificate.der()[..at]), None);
        }
        let longer = [certificate.der(), &[0]].concat();
        assert_eq!(PeerCertificate::verify(&longer), None);
    }

    #[test]
    fn a_key_signs_for_itself_only() {
        let (mine, other) = (key(), key());
        let body = body(&mine.spki(), b"evidence").unwrap();
        let forged = whole(&body, &other.0.sign_der(&body).unwrap()).unwrap();
        assert_eq!(PeerCertificate::verify(&forged), None);
    }
}
