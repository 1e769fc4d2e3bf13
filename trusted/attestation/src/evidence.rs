//! Evidence: what a TEE shows, with all that it takes to verify it offline.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};
use toani_protocol::{
    Hash,
    canonical::{self, CanonicalError},
    sign::Bytes,
};

/// One document of evidence, canonical. It has to fit a TLS 1.3 certificate message, and a TLS
/// stack takes 64 KiB of those.
pub const EVIDENCE_DOCUMENT_BYTES_MAX: usize = 48 * 1024;

const HASH_LABEL: &str = "toani/v1/evidence";

/// What a TEE shows. Decoding verifies nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    Sgx(SgxEvidence),
    Snp(SnpEvidence),
}

/// An SGX enclave's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgxEvidence {
    /// A DCAP quote, version 3, ECDSA P-256, with its PCK chain in it (certification data type 5).
    pub quote: Bytes,
    pub collateral: SgxCollateral,
}

/// What Intel's provisioning service publishes about a platform. Certificates and CRLs are DER.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgxCollateral {
    /// The one certificate that every chain has to end in.
    pub root: Bytes,
    /// Of the root, about the CAs and signers right below it.
    pub root_crl: Bytes,
    /// Of the CA that issued the PCK certificate.
    pub pck_crl: Bytes,
    /// Issued by the root.
    pub tcb_info_signer: Bytes,
    /// The `tcbInfo` of TCB info version 3, exactly the bytes that are signed.
    pub tcb_info: Bytes,
    /// r and s, big-endian, 32 bytes each.
    pub tcb_info_signature: Bytes,
    /// Issued by the root; mostly the same certificate.
    pub qe_identity_signer: Bytes,
    /// The `enclaveIdentity` of QE identity version 2, exactly the bytes that are signed.
    pub qe_identity: Bytes,
    pub qe_identity_signature: Bytes,
}

/// An SEV-SNP guest's. Certificates and the CRL are DER.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpEvidence {
    /// The attestation report: 1,184 bytes.
    pub report: Bytes,
    /// The chip's certificate at the report's TCB.
    pub vcek: Bytes,
    pub ask: Bytes,
    pub ark: Bytes,
    /// Of the ARK.
    pub crl: Bytes,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<T> {
    format: Format,
    evidence: T,
}

#[derive(Serialize, Deserialize)]
enum Format {
    #[serde(rename = "toani-evidence/1")]
    V1,
}

impl Evidence {
    /// Reads a document of at most [`EVIDENCE_DOCUMENT_BYTES_MAX`] in canonical form.
    pub fn decode(bytes: &[u8]) -> Result<Self, CanonicalError> {
        let document: Document<Self> = canonical::decode(bytes, EVIDENCE_DOCUMENT_BYTES_MAX)?;
        Ok(document.evidence)
    }

    /// The document; [`CanonicalError::TooLarge`] if nobody would read it.
    pub fn encode(&self) -> Result<Vec<u8>, CanonicalError> {
        let bytes = canonical::encode(&Document { format: Format::V1, evidence: self })?;
        if bytes.len() > EVIDENCE_DOCUMENT_BYTES_MAX {
            return Err(CanonicalError::TooLarge);
        }
        Ok(bytes)
    }

    /// Names these bytes in a record. It does not name a TEE: other bytes may show the same one.
    pub fn hash(&self) -> Result<Hash, CanonicalError> {
        Ok(Hash::of_labelled(HASH_LABEL, &self.encode()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(byte: u8, length: usize) -> Evidence {
        let bytes = || Bytes(alloc::vec![byte; length]);
        Evidence::Snp(SnpEvidence {
            report: bytes(),
            vcek: bytes(),
            ask: bytes(),
            ark: bytes(),
            crl: bytes(),
        })
    }

    #[test]
    fn a_document_has_one_form() {
        let shown = evidence(7, 3);
        let bytes = shown.encode().unwrap();
        assert_eq!(Evidence::decode(&bytes), Ok(shown.clone()));
        assert!(bytes.starts_with(br#"{"evidence":{"snp":{"ark":"BwcH","#));
        assert!(bytes.ends_with(br#"}},"format":"toani-evidence/1"}"#));
        let spaced = [b" ".as_slice(), &bytes].concat();
        assert_eq!(Evidence::decode(&spaced), Err(CanonicalError::NotCanonical));
        let other = alloc::string::String::from_utf8(bytes).unwrap().replace("/1\"", "/2\"");
        assert_eq!(Evidence::decode(other.as_bytes()), Err(CanonicalError::Malformed));
        assert_ne!(shown.hash(), evidence(8, 3).hash());
    }

    #[test]
    fn a_document_has_a_maximum() {
        let too_large = evidence(0, EVIDENCE_DOCUMENT_BYTES_MAX / 6);
        assert_eq!(too_large.encode(), Err(CanonicalError::TooLarge));
        let long = alloc::vec![b' '; EVIDENCE_DOCUMENT_BYTES_MAX + 1];
        assert_eq!(Evidence::decode(&long), Err(CanonicalError::TooLarge));
    }
}
