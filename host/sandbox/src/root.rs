//! What containers run, as one file that is named by the SHA-256 of its bytes: for gVisor a root
//! file system, which is an image in EROFS and read-only by its form; for the native driver, whose
//! root is empty, the program alone.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use toani_protocol::{ids::Hash, instance::RootFileSystems, policy::RootName};

use crate::{driver::DriverKind, measurement};

/// The program that a container runs, from its root.
pub const PROGRAM: &str = "toani-connector";
/// Files of more are refused: Debian's browser with its libraries is below a gigabyte.
const BYTES_MAX: u64 = 2 << 30;
/// A program of more is refused.
const PROGRAM_BYTES_MAX: u64 = 256 << 20;
const CHUNK_BYTES: usize = 256 * 1024;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the root file system {} cannot be used ({why}); ./x image connector builds one, and ./x image \
     browser the one with a browser",
    file.display()
)]
pub struct RootError {
    file: PathBuf,
    why: io::Error,
}

/// A file and what it hashed to when it was opened.
#[derive(Debug)]
pub struct RootFileSystem {
    file: PathBuf,
    digest: Hash,
}

impl RootFileSystem {
    /// # Errors
    /// The file is not there, cannot be read, or holds too much.
    pub fn open(file: &Path) -> Result<Self, RootError> {
        let opened = File::open(file).and_then(|opened| {
            if opened.metadata()?.len() > BYTES_MAX {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            measurement::hash_of(opened)
        });
        match opened {
            Ok(digest) => Ok(Self { file: file.to_path_buf(), digest }),
            Err(why) => Err(RootError { file: file.to_path_buf(), why }),
        }
    }

    pub fn digest(&self) -> Hash {
        self.digest
    }

    /// All of it, where it is a program.
    ///
    /// # Errors
    /// It cannot be read, or is not what it was when it was opened.
    pub fn program(&self) -> Result<Vec<u8>, RootError> {
        let mut program = Vec::new();
        let read = File::open(&self.file)
            .and_then(|file| file.take(PROGRAM_BYTES_MAX).read_to_end(&mut program));
        self.checked(read.map(|_| Hash::of(&program)))?;
        Ok(program)
    }

    /// Copies it to where nobody else writes: what was hashed is what runs.
    ///
    /// # Errors
    /// It cannot be read or written, or is not what it was when it was opened.
    pub fn copy(&self, to: &Path) -> Result<(), RootError> {
        self.checked(copy(&self.file, to))
    }

    fn checked(&self, read: io::Result<Hash>) -> Result<(), RootError> {
        let why = match read {
            Ok(digest) if digest == self.digest => return Ok(()),
            Ok(_) => io::Error::other("it has changed since it was hashed"),
            Err(why) => why,
        };
        Err(RootError { file: self.file.clone(), why })
    }
}

/// Every root file system of one sandbox.
#[derive(Debug)]
pub struct Roots {
    pub connector: RootFileSystem,
    pub browser: Option<RootFileSystem>,
}

impl Roots {
    /// The connector's from its file, and what the driver names besides.
    ///
    /// # Errors
    /// See [`RootFileSystem::open`].
    pub fn open(connector: &Path, driver: &DriverKind) -> Result<Self, RootError> {
        let browser = match driver {
            DriverKind::Gvisor { browser, .. } => browser.as_deref(),
            DriverKind::Native | DriverKind::Vm(_) => None,
        };
        Ok(Self {
            connector: RootFileSystem::open(connector)?,
            browser: browser.map(RootFileSystem::open).transpose()?,
        })
    }

    pub fn digests(&self) -> RootFileSystems {
        RootFileSystems {
            connector: self.connector.digest(),
            browser: self.browser.as_ref().map(RootFileSystem::digest),
        }
    }

    pub(crate) fn named(&self) -> impl Iterator<Item = (RootName, &RootFileSystem)> {
        let browser = self.browser.as_ref().map(|root| (RootName::Browser, root));
        [(RootName::Connector, &self.connector)].into_iter().chain(browser)
    }
}

/// Copies a file, for everybody to read and nobody to write, and says what was copied.
fn copy(from: &Path, to: &Path) -> io::Result<Hash> {
    let (mut from, mut copy) = (File::open(from)?, File::create_new(to)?);
    let (mut hasher, mut chunk) = (Sha256::new(), vec![0; CHUNK_BYTES]);
    loop {
        let read = from.read(&mut chunk)?;
        let part = chunk.get(..read).unwrap_or_default();
        if part.is_empty() {
            break;
        }
        hasher.update(part);
        copy.write_all(part)?;
    }
    fs::set_permissions(to, PermissionsExt::from_mode(0o444))?;
    Ok(Hash::new(hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_hashed_is_what_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let (file, to) = (folder.path().join("root"), folder.path().join("copy"));
        fs::write(&file, b"one").unwrap();
        let root = RootFileSystem::open(&file).unwrap();
        assert_eq!(root.digest(), Hash::of(b"one"));
        assert_eq!(root.program().unwrap(), b"one");
        root.copy(&to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"one");

        fs::write(&file, b"two").unwrap();
        assert!(root.program().is_err());
        let why = root.copy(&folder.path().join("other")).unwrap_err();
        assert!(why.to_string().contains("it has changed"), "{why}");
    }

    #[test]
    fn what_is_not_there_says_what_builds_it() {
        let why = RootFileSystem::open(Path::new("/nonexistent")).unwrap_err();
        assert!(why.to_string().contains("./x image connector"), "{why}");
    }
}
