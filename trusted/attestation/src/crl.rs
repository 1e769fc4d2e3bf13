//! Revocation lists (RFC 5280, section 5): complete, direct and fresh, or refused.

use toani_protocol::Time;
use x509_cert::{
    crl::CertificateList,
    der::{
        Decode,
        asn1::{ObjectIdentifier, UintRef},
    },
    serial_number::SerialNumber,
};

use crate::x509::{Certificate, Signed, time};

const CRL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.20");

/// Why a list is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    #[error("it is missing, or not DER")]
    Malformed,
    #[error("it names another issuer, or one that may not sign it")]
    Issuer,
    #[error("its issuer did not sign it")]
    Signature,
    #[error("it has a critical extension: it is partial or indirect")]
    Scope,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("it has expired, or does not say when it does")]
    Expired,
    #[error("its number is less than the policy asks for, or too large to be one")]
    Number,
}

/// A list that its issuer signed and that is fresh.
#[derive(Debug)]
pub(crate) struct Crl {
    list: CertificateList,
    pub(crate) number: u32,
    pub(crate) expires: Time,
}

impl Crl {
    pub(crate) fn verify(der: &[u8], issuer: &Certificate, now: Time) -> Result<Self, CrlError> {
        let list = CertificateList::from_der(der).map_err(|_| CrlError::Malformed)?;
        let signed = Signed::parse(der).ok_or(CrlError::Malformed)?;
        let body = &list.tbs_cert_list;
        if body.signature != signed.algorithm {
            return Err(CrlError::Malformed);
        }
        if body.issuer != *issuer.subject() || !issuer.may_sign_crls() {
            return Err(CrlError::Issuer);
        }
        if !signed.by(issuer.key()) {
            return Err(CrlError::Signature);
        }
        if body.crl_extensions.iter().flatten().any(|extension| extension.critical) {
            return Err(CrlError::Scope);
        }
        if now < time(body.this_update) {
            return Err(CrlError::NotYetValid);
        }
        let expires = body.next_update.map(time).ok_or(CrlError::Expired)?;
        if now > expires {
            return Err(CrlError::Expired);
        }
        let number = number(&list).ok_or(CrlError::Number)?;
        Ok(Self { list, number, expires })
    }

    /// Any entry counts, whatever it says about its reason.
    pub(crate) fn revokes(&self, serial: &SerialNumber) -> bool {
        let entries = self.list.tbs_cert_list.revoked_certificates.iter().flatten();
        entries.into_iter().any(|entry| entry.serial_number == *serial)
    }
}

/// The list's number, 0 where it has none.
fn number(list: &CertificateList) -> Option<u32> {
    let mut extensions = list.tbs_cert_list.crl_extensions.iter().flatten();
    let Some(extension) = extensions.find(|extension| extension.extn_id == CRL_NUMBER) else {
        return Some(0);
    };
    let number = UintRef::from_der(extension.extn_value.as_bytes()).ok()?;
    let bytes = number.as_bytes();
    (bytes.len() <= 4)
        .then(|| bytes.iter().fold(0, |number, byte| (number << 8) | u32::from(*byte)))
}
