//! A guest's three files: read once into sealed memory, measured there, and booted from there.
//! What is measured is what runs, whatever happens to the files meanwhile.

use std::{
    fs::File,
    io::{self, Read, Seek},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use toani_protocol::{ids::Hash, instance::LaunchDigest};

use super::{
    measurement::Parts,
    qemu::Machine,
    snp::{self, FirmwareError, Launch},
};
use crate::measurement::hash_of;

const KERNEL: &str = "vmlinuz";
const INITRD: &str = "initrd";
const COMMAND_LINE: &str = "cmdline";

const FILE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// The kernel's own, on x86.
const COMMAND_LINE_BYTES_MAX: u64 = 2048;

/// No guest can be started from a folder.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("there is no guest ({file}: {error}); ./x image guest builds one")]
    Missing { file: String, error: io::Error },
    #[error(
        "there is no firmware ({file}: {error}); --firmware names an OVMF of the AmdSev build, which \
         measures kernel, initrd and command line"
    )]
    NoFirmware { file: String, error: io::Error },
    #[error("{0} is larger than a guest's part may be")]
    TooLarge(String),
    #[error("the command line is not one line of printable ASCII")]
    CommandLine,
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
    #[error("the guest cannot be held in memory: {0}")]
    Memory(#[from] io::Error),
}

/// A guest, in memory.
#[derive(Debug)]
pub struct GuestImage {
    kernel: File,
    initrd: File,
    firmware: Option<File>,
    pub command_line: String,
    pub parts: Parts,
}

impl GuestImage {
    /// Reads a guest's folder.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn read(folder: &Path) -> Result<Self, ImageError> {
        let (mut kernel, mut initrd) =
            (sealed(&folder.join(KERNEL))?, sealed(&folder.join(INITRD))?);
        let command_line = command_line(&folder.join(COMMAND_LINE))?;
        let parts = Parts {
            kernel: whole_hash(&mut kernel)?,
            initrd: whole_hash(&mut initrd)?,
            command_line: Hash::of(command_line.as_bytes()),
        };
        Ok(Self { kernel, initrd, firmware: None, command_line, parts })
    }

    /// Takes a firmware too, and says what SEV-SNP measures of both on this machine.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn with_firmware(
        &mut self,
        path: &Path,
        machine: &Machine,
    ) -> Result<LaunchDigest, ImageError> {
        let mut firmware = sealed(path).map_err(|error| match error {
            ImageError::Missing { file, error } => ImageError::NoFirmware { file, error },
            other => other,
        })?;
        let mut bytes = Vec::new();
        firmware.rewind()?;
        firmware.read_to_end(&mut bytes)?;
        self.firmware = Some(firmware);
        let launch = Launch {
            kernel: self.parts.kernel,
            initrd: self.parts.initrd,
            command_line: &self.command_line,
            processors: machine.processors,
            processor: &machine.snp_processor,
            features: snp::FEATURES,
        };
        Ok(snp::launch_digest(&bytes, &launch)?)
    }

    pub(super) fn firmware(&self) -> Option<BorrowedFd<'_>> {
        self.firmware.as_ref().map(File::as_fd)
    }

    pub(super) fn kernel(&self) -> BorrowedFd<'_> {
        self.kernel.as_fd()
    }

    pub(super) fn initrd(&self) -> BorrowedFd<'_> {
        self.initrd.as_fd()
    }
}

fn open(path: &Path) -> Result<File, ImageError> {
    let missing = |error| ImageError::Missing { file: path.display().to_string(), error };
    File::open(path).map_err(missing)
}

/// A copy that nobody can change any more.
fn sealed(path: &Path) -> Result<File, ImageError> {
    let file = open(path)?;
    let memory = memfd_create("toani-guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
    let mut memory = File::from(memory.map_err(io::Error::from)?);
    if io::copy(&mut file.take(FILE_BYTES_MAX + 1), &mut memory)? > FILE_BYTES_MAX {
        return Err(ImageError::TooLarge(path.display().to_string()));
    }
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&memory, seals).map_err(io::Error::from)?;
    Ok(memory)
}

fn whole_hash(file: &mut File) -> io::Result<Hash> {
    file.rewind()?;
    hash_of(file)
}

fn command_line(path: &Path) -> Result<String, ImageError> {
    let mut text = String::new();
    let mut file = open(path)?.take(COMMAND_LINE_BYTES_MAX);
    let length = file.read_to_string(&mut text).map_err(|_| ImageError::CommandLine)?;
    let printable = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if !printable || u64::try_from(length).is_ok_and(|length| length >= COMMAND_LINE_BYTES_MAX) {
        return Err(ImageError::CommandLine);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(kernel: &[u8], initrd: &[u8], command_line: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [(KERNEL, kernel), (INITRD, initrd), (COMMAND_LINE, command_line)] {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    #[test]
    fn what_was_measured_is_what_is_held() {
        let folder = folder(b"kernel", b"initrd", b"panic=-1 quiet");
        let mut image = GuestImage::read(folder.path()).unwrap();
        std::fs::write(folder.path().join(INITRD), b"other").unwrap();
        image.initrd.rewind().unwrap();
        let mut held = Vec::new();
        image.initrd.read_to_end(&mut held).unwrap();
        assert_eq!(held, b"initrd");
        assert_eq!(image.parts.initrd, Hash::of(b"initrd"));
        assert_eq!(image.parts.kernel, Hash::of(b"kernel"));
        assert_eq!(image.parts.command_line, Hash::of(b"panic=-1 quiet"));
        let refused = std::io::Write::write(&mut image.initrd, b"x").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_firmware_that_is_not_there_is_named_with_the_option() {
        let folder = folder(b"kernel", b"initrd", b"quiet");
        let mut image = GuestImage::read(folder.path()).unwrap();
        let machine = Machine::usual(crate::vm::Protection::None);
        let error = image.with_firmware(Path::new("/nowhere"), &machine).unwrap_err();
        assert!(error.to_string().contains("--firmware names an OVMF"), "{error}");
        let kernel = folder.path().join(KERNEL);
        let error = image.with_firmware(&kernel, &machine).unwrap_err();
        assert!(matches!(error, ImageError::Firmware(FirmwareError::NotOvmf)), "{error}");
    }

    #[test]
    fn a_folder_without_a_guest_says_how_to_build_one() {
        let none = GuestImage::read(Path::new("/nowhere")).unwrap_err();
        assert!(none.to_string().contains("./x image guest"), "{none}");
        let long = vec![b'x'; 4096];
        for wrong in [b"two\nlines".as_slice(), b"nul\0", "\u{e9}".as_bytes(), &long] {
            let error = GuestImage::read(folder(b"k", b"i", wrong).path()).unwrap_err();
            assert!(matches!(error, ImageError::CommandLine), "{error}");
        }
    }
}
