//! Certificates of vendors' chains (RFC 5280), each verified against the one that issued it.
//!
//! There is no path building: a chain's length and roles are fixed, so each step names its issuer.

use alloc::vec::Vec;

use toani_protocol::Time;
use x509_cert::{
    Certificate as Parsed,
    der::{
        Decode, Reader, SliceReader,
        asn1::{BitString, ObjectIdentifier},
    },
    ext::{
        Extension,
        pkix::{BasicConstraints, KeyUsage, KeyUsages},
    },
    name::Name,
    serial_number::SerialNumber,
    spki::AlgorithmIdentifierOwned,
    time::Time as X509Time,
};

use crate::{crl::Crl, key::Key};

const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");

/// Whose certificate it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Role {
    #[error("root")]
    Root,
    #[error("PCK CA")]
    PckCa,
    #[error("PCK")]
    Pck,
    #[error("TCB info signer")]
    TcbInfoSigner,
    #[error("QE identity signer")]
    QeIdentitySigner,
    #[error("ASK")]
    Ask,
    #[error("VCEK")]
    Vcek,
}

/// Why a certificate is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("it is not DER, or of a kind that no vendor issues")]
    Malformed,
    #[error("it names another issuer")]
    Issuer,
    #[error(
        "it is a CA where none may be, none where one must be, or has a critical extension that is not known"
    )]
    Use,
    #[error("its issuer did not sign it")]
    Signature,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("it has expired")]
    Expired,
    #[error("it is revoked")]
    Revoked,
}

/// What a certificate may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Issue other certificates.
    Ca,
    /// Sign, and issue nothing.
    Leaf,
}

/// A certificate. Having one proves nothing yet.
#[derive(Debug)]
pub(crate) struct Certificate {
    parsed: Parsed,
    key: Key,
    signed: Signed,
}

impl Certificate {
    pub(crate) fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let malformed = CertificateError::Malformed;
        let parsed = Parsed::from_der(der).map_err(|_| malformed)?;
        let key = Key::of(parsed.tbs_certificate().subject_public_key_info()).ok_or(malformed)?;
        let signed = Signed::parse(der).ok_or(malformed)?;
        if *parsed.tbs_certificate().signature() != signed.algorithm {
            return Err(malformed);
        }
        Ok(Self { parsed, key, signed })
    }

    pub(crate) const fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn subject(&self) -> &Name {
        self.parsed.tbs_certificate().subject()
    }

    pub(crate) fn serial(&self) -> &SerialNumber {
        self.parsed.tbs_certificate().serial_number()
    }

    /// Verifies that `issuer` issued this certificate for `wanted`, and that it is valid at `now`.
    /// Answers when it expires. The root is its own issuer.
    pub(crate) fn verify(
        &self,
        issuer: &Self,
        wanted: Use,
        now: Time,
    ) -> Result<Time, CertificateError> {
        if self.parsed.tbs_certificate().issuer() != issuer.subject() {
            return Err(CertificateError::Issuer);
        }
        if !self.signed.by(&issuer.key) {
            return Err(CertificateError::Signature);
        }
        if self.allowed_use() != Some(wanted) {
            return Err(CertificateError::Use);
        }
        let validity = self.parsed.tbs_certificate().validity();
        if now < time(validity.not_before) {
            return Err(CertificateError::NotYetValid);
        }
        let expires = time(validity.not_after);
        if now > expires { Err(CertificateError::Expired) } else { Ok(expires) }
    }

    pub(crate) fn verify_not_revoked(&self, crl: &Crl) -> Result<(), CertificateError> {
        if crl.revokes(self.serial()) { Err(CertificateError::Revoked) } else { Ok(()) }
    }

    /// `None` if its extensions contradict each other, or if one is critical and not known here.
    fn allowed_use(&self) -> Option<Use> {
        let known = |extension: &Extension| {
            [BASIC_CONSTRAINTS, KEY_USAGE].contains(&extension.extn_id) || !extension.critical
        };
        if !self.extensions().iter().all(known) {
            return None;
        }
        let is_ca = match self.extension(BASIC_CONSTRAINTS)? {
            Some(constraints) => BasicConstraints::from_der(constraints).ok()?.ca,
            None => false,
        };
        let (usage, wanted) = match is_ca {
            true => (KeyUsages::KeyCertSign, Use::Ca),
            false => (KeyUsages::DigitalSignature, Use::Leaf),
        };
        self.may(usage).then_some(wanted)
    }

    /// Whether its key may be used so; a certificate that says nothing of usage allows all.
    fn may(&self, usage: KeyUsages) -> bool {
        match self.extension(KEY_USAGE) {
            Some(Some(allowed)) => {
                KeyUsage::from_der(allowed).is_ok_and(|allowed| allowed.0.contains(usage))
            }
            Some(None) => true,
            None => false,
        }
    }

    pub(crate) fn may_sign_crls(&self) -> bool {
        self.may(KeyUsages::CRLSign)
    }

    fn extensions(&self) -> &[Extension] {
        self.parsed.tbs_certificate().extensions().map_or(&[], Vec::as_slice)
    }

    /// The value of an extension; the outer `None` if it is there more than once.
    pub(crate) fn extension(&self, id: ObjectIdentifier) -> Option<Option<&[u8]>> {
        let mut found = self.extensions().iter().filter(|extension| extension.extn_id == id);
        let first = found.next();
        if found.next().is_some() {
            return None;
        }
        Some(first.map(|extension| extension.extn_value.as_bytes()))
    }
}

/// What certificates and CRLs have in common: SEQUENCE { body, algorithm, signature }.
#[derive(Debug)]
pub(crate) struct Signed {
    /// The very bytes that were signed.
    body: Vec<u8>,
    pub(crate) algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
}

impl Signed {
    pub(crate) fn parse(der: &[u8]) -> Option<Self> {
        let mut reader = SliceReader::new(der).ok()?;
        let signed = reader
            .sequence(|reader| {
                Ok::<_, x509_cert::der::Error>(Self {
                    body: reader.tlv_bytes()?.to_vec(),
                    algorithm: AlgorithmIdentifierOwned::decode(reader)?,
                    signature: BitString::decode(reader)?,
                })
            })
            .ok()?;
        reader.finish().ok()?;
        Some(signed)
    }

    pub(crate) fn by(&self, key: &Key) -> bool {
        let signature = self.signature.as_bytes();
        signature.is_some_and(|signature| key.signed(&self.algorithm, &self.body, signature))
    }
}

pub(crate) fn time(time: X509Time) -> Time {
    Time::from_ms(time.to_unix_duration().as_secs().saturating_mul(1000))
}
