//! What goes over the port on which a guest asks for evidence: 64 bytes of report data to the host;
//! a status byte, a length of 32 bits, little-endian, and so many bytes back.

use toani_attestation::evidence::EVIDENCE_DOCUMENT_BYTES_MAX;
use toani_protocol::evidence::ReportData;

use crate::evidence::EvidenceError;

/// The port's name, as QEMU gives it and the guest finds it.
pub(crate) const REPORT_PORT: &str = "toani.report";

pub(crate) const REQUEST_BYTES: usize = size_of::<ReportData>();
pub(crate) const HEAD_BYTES: usize = 5;

const EVIDENCE: u8 = 0;
const REFUSED: u8 = 1;
/// Of the sentence that says why there is none.
const WHY_BYTES_MAX: usize = 1024;

/// The host's answer, as bytes.
pub(crate) fn answer(evidence: Result<Vec<u8>, EvidenceError>) -> Vec<u8> {
    let (status, mut bytes) = match evidence {
        Ok(document) if document.len() <= EVIDENCE_DOCUMENT_BYTES_MAX => (EVIDENCE, document),
        Ok(_) => (REFUSED, b"its document is larger than one may be".to_vec()),
        Err(EvidenceError(why)) => (REFUSED, why.into_bytes()),
    };
    if status == REFUSED {
        bytes.truncate(WHY_BYTES_MAX);
    }
    // Both maxima are below 4 GiB.
    let length = u32::try_from(bytes.len()).unwrap_or_default();
    [&[status], length.to_le_bytes().as_slice(), &bytes].concat()
}

/// What a head announces: whether evidence follows, and how many bytes.
pub(crate) fn head([status, length @ ..]: [u8; HEAD_BYTES]) -> Option<(bool, usize)> {
    let length = usize::try_from(u32::from_le_bytes(length)).ok()?;
    match status {
        EVIDENCE if length <= EVIDENCE_DOCUMENT_BYTES_MAX => Some((true, length)),
        REFUSED if length <= WHY_BYTES_MAX => Some((false, length)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_a_head_that_says_what_follows() {
        let bytes = answer(Ok(b"document".to_vec()));
        assert_eq!(head(*bytes.first_chunk().unwrap()), Some((true, 8)));
        assert_eq!(&bytes[HEAD_BYTES..], b"document");
        let bytes = answer(Err(EvidenceError("x".repeat(WHY_BYTES_MAX + 1))));
        assert_eq!(head(*bytes.first_chunk().unwrap()), Some((false, WHY_BYTES_MAX)));
        let bytes = answer(Ok(vec![0; EVIDENCE_DOCUMENT_BYTES_MAX + 1]));
        assert!(matches!(head(*bytes.first_chunk().unwrap()), Some((false, _))));
    }

    #[test]
    fn a_head_beyond_a_maximum_is_none() {
        assert_eq!(head([EVIDENCE, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(head([REFUSED, 1, 4, 0, 0]), None);
        assert_eq!(head([2, 0, 0, 0, 0]), None);
    }
}
