//! The certificates of this machine's chip, for a guest that was not given them by its firmware.
//! What is in the folder proves nothing: whoever verifies the guest's report verifies them too.

use std::{fs, path::Path};

use toani_attestation::{Evidence, SnpEvidence};
use toani_protocol::{evidence::ReportData, sign::Bytes};

use crate::evidence::{EvidenceError, EvidenceSource};

const FILE_BYTES_MAX: usize = 32 * 1024;

/// A document of evidence without a report.
#[derive(Debug)]
pub(super) struct ChipCertificates(Vec<u8>);

impl ChipCertificates {
    /// Reads `vcek.der`, `ask.der`, `ark.der` and `crl.der`, as AMD's key distribution service has
    /// them.
    pub(super) fn read(folder: &Path) -> Result<Self, EvidenceError> {
        let file = |name: &str| {
            let path = folder.join(name);
            let cannot = |why: String| EvidenceError(format!("{}: {why}", path.display()));
            let bytes = fs::read(&path).map_err(|error| cannot(error.to_string()))?;
            match bytes.len() <= FILE_BYTES_MAX {
                true => Ok(Bytes(bytes)),
                false => Err(cannot("larger than a certificate".into())),
            }
        };
        let evidence = Evidence::Snp(SnpEvidence {
            report: Bytes(Vec::new()),
            vcek: file("vcek.der")?,
            ask: file("ask.der")?,
            ark: file("ark.der")?,
            crl: file("crl.der")?,
        });
        Ok(Self(evidence.encode().map_err(EvidenceError::because)?))
    }
}

impl EvidenceSource for ChipCertificates {
    fn evidence(&self, _: &ReportData) -> Result<Vec<u8>, EvidenceError> {
        Ok(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_all_four_or_says_which_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["vcek", "ask", "ark"] {
            fs::write(folder.path().join(format!("{name}.der")), name).unwrap();
        }
        let error = ChipCertificates::read(folder.path()).unwrap_err();
        assert!(error.0.contains("crl.der"), "{error}");
        fs::write(folder.path().join("crl.der"), "crl").unwrap();
        let document = ChipCertificates::read(folder.path()).unwrap().evidence(&[0; 64]).unwrap();
        let Ok(Evidence::Snp(evidence)) = Evidence::decode(&document) else { panic!() };
        assert_eq!((evidence.report.0.len(), evidence.crl.0), (0, b"crl".to_vec()));
    }
}
