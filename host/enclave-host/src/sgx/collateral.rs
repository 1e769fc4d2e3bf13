//! What Intel publishes about this platform, in a file that the operator keeps fresh.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use anyhow::{Context, Result, bail};
use toani_attestation::SgxCollateral;

/// Longest collateral file.
const BYTES_MAX: usize = 256 * 1024;

/// The file, which stays open: this process opens nothing any more once the enclave runs. Each quote
/// goes out with what stands in it then, so it is written in place and not replaced.
#[derive(Debug)]
pub(super) struct CollateralFile(File);

impl CollateralFile {
    /// Opens it, and reads it once.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let opened = Self(file);
        opened.read().with_context(|| format!("in {}", path.display()))?;
        Ok(opened)
    }

    pub(super) fn read(&self) -> Result<SgxCollateral> {
        let mut bytes = vec![0; BYTES_MAX + 1];
        let mut length = 0;
        loop {
            let offset = u64::try_from(length).unwrap_or(u64::MAX);
            let rest = bytes.get_mut(length..).unwrap_or_default();
            match self.0.read_at(rest, offset).context("the collateral cannot be read")? {
                0 => break,
                read => length += read,
            }
        }
        if length > BYTES_MAX {
            bail!("the file is too large for collateral");
        }
        bytes.truncate(length);
        serde_json::from_slice(&bytes).context("the file is no collateral")
    }
}

#[cfg(test)]
mod tests {
    use toani_protocol::sign::Bytes;

    use super::*;

    fn document(byte: u8) -> Vec<u8> {
        let bytes = || Bytes(vec![byte]);
        let collateral = SgxCollateral {
            root: bytes(),
            root_crl: bytes(),
            pck_crl: bytes(),
            tcb_info_signer: bytes(),
            tcb_info: bytes(),
            tcb_info_signature: bytes(),
            qe_identity_signer: bytes(),
            qe_identity: bytes(),
            qe_identity_signature: bytes(),
        };
        serde_json::to_vec(&collateral).unwrap()
    }

    #[test]
    fn each_time_it_is_what_stands_in_the_file_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("collateral.json");
        std::fs::write(&path, document(1)).unwrap();
        let file = CollateralFile::open(&path).unwrap();
        assert_eq!(file.read().unwrap().root.0, [1]);
        std::fs::write(&path, document(2)).unwrap();
        assert_eq!(file.read().unwrap().root.0, [2]);
        std::fs::write(&path, vec![b' '; BYTES_MAX + 1]).unwrap();
        assert!(file.read().unwrap_err().to_string().contains("too large"));
        std::fs::write(&path, "{}").unwrap();
        assert!(CollateralFile::open(&path).is_err());
    }
}
