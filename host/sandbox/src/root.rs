//! A root file system: one archive, named by the SHA-256 of its bytes. What a container runs is
//! what stands in there, and nothing beside it.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tar::{Archive, Builder, EntryType, Header};
use toani_protocol::ids::Hash;

use crate::measurement;

/// The program that a container runs, from its root.
pub const PROGRAM: &str = "toani-connector";
/// Where a runtime mounts what a container needs; a read-only root has to have them already.
const FOLDERS: &[&str] = &["dev/", "proc/", "sys/", "tmp/"];
/// Archives of more are refused: Debian's browser with its libraries is below a gigabyte.
const ARCHIVE_BYTES_MAX: u64 = 2 << 30;
/// A single program of more is refused.
const PROGRAM_BYTES_MAX: u64 = 256 << 20;

/// Why there is no root file system.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("the root file system {0} cannot be read ({1}); ./x image connector builds one")]
    Read(PathBuf, io::Error),
    #[error("the root file system {0} is no archive with the program /{PROGRAM}")]
    NoProgram(PathBuf),
    #[error("the root file system {0} holds more than {ARCHIVE_BYTES_MAX} bytes")]
    TooLarge(PathBuf),
}

/// An archive on disk and what it hashed to when it was read.
#[derive(Debug)]
pub struct RootFileSystem {
    archive: PathBuf,
    digest: Hash,
}

impl RootFileSystem {
    /// # Errors
    /// See [`RootError`].
    pub fn open(archive: &Path) -> Result<Self, RootError> {
        let failed = |error| RootError::Read(archive.to_path_buf(), error);
        let file = File::open(archive).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() > ARCHIVE_BYTES_MAX {
            return Err(RootError::TooLarge(archive.to_path_buf()));
        }
        let digest = measurement::hash_of(file).map_err(failed)?;
        Ok(Self { archive: archive.to_path_buf(), digest })
    }

    pub fn digest(&self) -> Hash {
        self.digest
    }

    /// The program that stands in it.
    ///
    /// # Errors
    /// See [`RootError`].
    pub fn program(&self) -> Result<Vec<u8>, RootError> {
        let mut program = Vec::new();
        self.read(|archive| {
            for entry in archive.entries()? {
                let mut entry = entry?;
                if entry.path()?.as_ref() == Path::new(PROGRAM) {
                    entry.by_ref().take(PROGRAM_BYTES_MAX).read_to_end(&mut program)?;
                }
            }
            Ok(())
        })?;
        if program.is_empty() {
            return Err(RootError::NoProgram(self.archive.clone()));
        }
        Ok(program)
    }

    /// Lays it out in `folder`, which is empty and nobody else's. It then belongs to whoever runs
    /// in it, so that nothing but its being read-only keeps it as it is: the check at each start
    /// tells when that is not in force.
    ///
    /// # Errors
    /// See [`RootError`].
    pub fn unpack(&self, folder: &Path) -> Result<(), RootError> {
        self.read(|archive| {
            archive.set_preserve_permissions(true);
            archive.unpack(folder)?;
            fs::set_permissions(folder, PermissionsExt::from_mode(0o777))
        })?;
        if folder.join(PROGRAM).is_file() {
            Ok(())
        } else {
            Err(RootError::NoProgram(self.archive.clone()))
        }
    }

    /// Reads the archive to its end, and fails if that is not what was hashed before.
    fn read(
        &self,
        with: impl FnOnce(&mut Archive<Hashing<File>>) -> io::Result<()>,
    ) -> Result<(), RootError> {
        let failed = |error| RootError::Read(self.archive.clone(), error);
        let mut archive = Archive::new(Hashing::new(File::open(&self.archive).map_err(failed)?));
        with(&mut archive).map_err(failed)?;
        let digest = archive.into_inner().digest().map_err(failed)?;
        if digest != self.digest {
            return Err(failed(io::Error::other("it has changed while it was read")));
        }
        Ok(())
    }
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: R,
    hasher: sha2::Sha256,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, hasher: sha2::Digest::new() }
    }

    /// Of all of it, also of what nobody has read yet.
    fn digest(mut self) -> io::Result<Hash> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(Hash::new(sha2::Digest::finalize(self.hasher).into()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        sha2::Digest::update(&mut self.hasher, buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

/// The archive of one statically linked program: the same bytes for the same program, anywhere.
///
/// # Errors
/// `output` cannot be written.
pub fn pack(program: &[u8], output: impl Write) -> io::Result<()> {
    let mut archive = Builder::new(output);
    for name in FOLDERS {
        archive.append_data(&mut header(EntryType::Directory, 0o755), name, io::empty())?;
    }
    let mut header = header(EntryType::Regular, 0o555);
    header.set_size(u64::try_from(program.len()).map_err(io::Error::other)?);
    archive.append_data(&mut header, PROGRAM, program)?;
    archive.into_inner()?.flush()
}

/// Nobody's, at no time.
fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(program: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        pack(program, &mut file).unwrap();
        file
    }

    #[test]
    fn the_same_program_is_the_same_archive() {
        let (one, two, other) = (packed(b"a"), packed(b"a"), packed(b"b"));
        let digest =
            |file: &tempfile::NamedTempFile| RootFileSystem::open(file.path()).unwrap().digest();
        assert_eq!(digest(&one), digest(&two));
        assert_ne!(digest(&one), digest(&other));
    }

    #[test]
    fn what_was_packed_comes_out() {
        let file = packed(b"program");
        let root = RootFileSystem::open(file.path()).unwrap();
        assert_eq!(root.program().unwrap(), b"program");
        let folder = tempfile::tempdir().unwrap();
        root.unpack(folder.path()).unwrap();
        let program = folder.path().join(PROGRAM);
        assert_eq!(std::fs::read(&program).unwrap(), b"program");
        assert_eq!(program.metadata().unwrap().permissions().mode() & 0o777, 0o555);
        assert_eq!(folder.path().metadata().unwrap().permissions().mode() & 0o777, 0o777);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), FOLDERS.len() + 1);
    }

    #[test]
    fn an_archive_that_changes_after_it_was_hashed_is_not_used() {
        let file = packed(b"program");
        let root = RootFileSystem::open(file.path()).unwrap();
        pack(b"another", File::create(file.path()).unwrap()).unwrap();
        assert!(matches!(root.program(), Err(RootError::Read(..))));
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(root.unpack(folder.path()), Err(RootError::Read(..))));
    }

    #[test]
    fn what_is_no_archive_or_has_no_program_says_so() {
        let missing = RootFileSystem::open(Path::new("/nonexistent")).unwrap_err();
        assert!(missing.to_string().contains("./x image connector"), "{missing}");
        let empty = tempfile::NamedTempFile::new().unwrap();
        let root = RootFileSystem::open(empty.path()).unwrap();
        assert!(matches!(root.program(), Err(RootError::NoProgram(_))));
        let mut text = tempfile::NamedTempFile::new().unwrap();
        text.write_all(&[b'x'; 2048]).unwrap();
        let root = RootFileSystem::open(text.path()).unwrap();
        assert!(root.program().is_err());
    }
}
