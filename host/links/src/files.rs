//! Certificates, keys and revocations in PEM files.

use std::{
    fs, io,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustls::RootCertStore;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject,
};

/// A revocation list of tens of thousands of certificates fits.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why a link cannot be made of its files.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot read {}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{} is larger than 4 MiB", .0.display())]
    Large(PathBuf),
    #[error("{} can be read by others; run: chmod 600 {}", .0.display(), .0.display())]
    Exposed(PathBuf),
    #[error("{} holds no {what} in PEM", path.display())]
    Absent { path: PathBuf, what: &'static str },
    #[error("{} cannot be used: {error}", path.display())]
    Unusable { path: PathBuf, error: String },
}

impl LinkError {
    pub(crate) fn unusable(path: &Path, error: impl ToString) -> Self {
        Self::Unusable { path: path.to_path_buf(), error: error.to_string() }
    }
}

/// What changes when a file is replaced or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    bytes: u64,
    changed_s: i64,
    changed_ns: i64,
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> Result<Self, LinkError> {
        let read = |error| LinkError::Read { path: path.to_path_buf(), error };
        let metadata = fs::metadata(path).map_err(read)?;
        Ok(Self {
            inode: metadata.ino(),
            bytes: metadata.size(),
            changed_s: metadata.ctime(),
            changed_ns: metadata.ctime_nsec(),
        })
    }
}

fn read(path: &Path, secret: bool) -> Result<Vec<u8>, LinkError> {
    let failed = |error| LinkError::Read { path: path.to_path_buf(), error };
    let file = fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if secret && metadata.mode() & 0o077 != 0 {
        return Err(LinkError::Exposed(path.to_path_buf()));
    }
    if metadata.size() > FILE_BYTES_MAX {
        return Err(LinkError::Large(path.to_path_buf()));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn all<T: PemObject>(path: &Path, pem: &[u8], what: &'static str) -> Result<Vec<T>, LinkError> {
    let all = T::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| LinkError::unusable(path, error))?;
    if all.is_empty() {
        return Err(LinkError::Absent { path: path.to_path_buf(), what });
    }
    Ok(all)
}

/// A certificate, those between it and its CA, and its key: one file, for its owner alone.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Identity {
    pub(crate) fn read(path: &Path) -> Result<Self, LinkError> {
        let pem = read(path, true)?;
        let chain = all(path, &pem, "certificate")?;
        let key = PrivateKeyDer::from_pem_slice(&pem);
        let key =
            key.map_err(|_| LinkError::Absent { path: path.to_path_buf(), what: "private key" })?;
        Ok(Self { chain, key })
    }
}

/// The certificates that are believed as roots.
pub(crate) fn roots(path: &Path) -> Result<RootCertStore, LinkError> {
    let mut roots = RootCertStore::empty();
    for root in all::<CertificateDer<'_>>(path, &read(path, false)?, "certificate")? {
        roots.add(root).map_err(|error| LinkError::unusable(path, error))?;
    }
    Ok(roots)
}

pub(crate) fn revocations(
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, LinkError> {
    all(path, &read(path, false)?, "certificate revocation list")
}
