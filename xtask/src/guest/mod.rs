//! `./x image guest`: kernel, initrd and command line of the virtual machine in which containers
//! run, and what is measured of them.
//!
//! The same packages and programs give the same files: the archive is sorted, of no time and owned
//! by root, and nothing of the machine that builds it is in it but the libraries that the programs
//! are linked to.

mod cpio;
mod libraries;
mod modules;
mod packages;
mod programs;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail, ensure};
pub(crate) use packages::fetch;

use self::{cpio::Archive, packages::Packages, programs::Programs};
use crate::run::{release_folder, step};

const USAGE: &str = "usage: ./x image guest [--kernel PACKAGE.deb] [--firmware OVMF] [--snp] \
                     [--native] [--programs FOLDER] [--output FOLDER] [--twice]";

const INIT: &str = include_str!("init.sh");

/// What the guest's kernel is told. `init_on_free`: a credential does not outlive the memory that
/// held it. `panic=-1`: a machine that has lost its way is gone at once. `module.sig_enforce`: no
/// module but the kernel's own.
const COMMAND_LINE: &[&str] = &[
    "console=ttyS0",
    "quiet",
    "panic=-1",
    "oops=panic",
    "init_on_free=1",
    "module.sig_enforce=1",
    "random.trust_cpu=on",
    "vsyscall=none",
    // The addresses of QEMU's user network.
    "toani.net=10.0.2.15/24,10.0.2.2,10.0.2.3",
];

/// Folders that the guest's first process mounts something on.
const EMPTY_FOLDERS: &[&str] = &["dev", "mnt", "proc", "run", "sys", "tmp", "var"];

#[derive(Debug, Default)]
struct Options {
    kernel: Option<PathBuf>,
    firmware: Option<PathBuf>,
    programs: Option<PathBuf>,
    output: Option<PathBuf>,
    /// Evidence comes from the kernel of a real SEV-SNP guest, and not from a simulated chip.
    snp: bool,
    /// Containers by the native driver, and not by gVisor.
    native: bool,
    twice: bool,
}

impl Options {
    fn read(arguments: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let flag = match word.as_str() {
                "--snp" => Some(&mut options.snp),
                "--native" => Some(&mut options.native),
                "--twice" => Some(&mut options.twice),
                _ => None,
            };
            if let Some(flag) = flag {
                *flag = true;
                continue;
            }
            let slot = match word.as_str() {
                "--kernel" => &mut options.kernel,
                "--firmware" => &mut options.firmware,
                "--programs" => &mut options.programs,
                "--output" => &mut options.output,
                _ => bail!(USAGE),
            };
            *slot = Some(words.next().context(USAGE)?.into());
        }
        Ok(options)
    }
}

/// The three files, as they are measured, and a fourth for people.
#[derive(Debug, PartialEq, Eq)]
struct Guest {
    kernel: Vec<u8>,
    initrd: Vec<u8>,
    command_line: String,
    /// What containers run, which is in the initrd too: records name it by its hash.
    root_file_system: Vec<u8>,
}

pub(crate) fn image(arguments: &[String]) -> Result<ExitCode> {
    let options = Options::read(arguments)?;
    let programs = match &options.programs {
        Some(folder) => Programs::of(folder),
        None => Programs::build()?,
    };
    let packages = Packages::fetch(options.kernel.as_deref())?;
    step("building the guest");
    let assemble = || assemble(&packages, &programs, options.native, options.snp);
    let guest = assemble()?;
    if options.twice {
        if options.programs.is_none() {
            programs.same_elsewhere()?;
        }
        ensure!(assemble()? == guest, "the same parts have given another guest");
        println!("twice      the same files from the same sources and packages");
    }
    let output = options.output.unwrap_or_else(|| release_folder().join("guest"));
    guest.write(&output)?;
    println!("folder     {}", output.display());
    println!("kernel     {}", packages.kernel.display());
    println!("initrd     {} MiB", guest.initrd.len() / (1024 * 1024));
    println!("containers {}", if options.native { "native" } else { "gVisor" });
    digests(&programs.supervisor, &output, options.firmware.as_deref())
}

fn assemble(packages: &Packages, programs: &Programs, native: bool, snp: bool) -> Result<Guest> {
    let unpacked = tempfile::Builder::new().prefix("toani-guest-").tempdir()?;
    let (kernel, busybox) = (unpacked.path().join("kernel"), unpacked.path().join("busybox"));
    packages::unpack(&packages.kernel, &kernel)?;
    packages::unpack(&packages.busybox, &busybox)?;

    let mut archive = Archive::default();
    for folder in EMPTY_FOLDERS {
        archive.folder(folder);
    }
    archive.program("init", INIT.into());
    archive
        .program("bin/busybox", read(&first_of(&busybox, &["bin/busybox", "usr/bin/busybox"])?)?);
    modules::add(&mut archive, &kernel, snp)?;
    archive.program("bin/toani-sandbox", read(&programs.supervisor)?);
    libraries::add(&mut archive, &programs.supervisor)?;
    let root_file_system =
        read(if native { &programs.connector } else { &programs.root_file_system })?;
    let driver = if native {
        archive.program("bin/toani-connector", root_file_system.clone());
        "toani.driver=native"
    } else {
        archive.program("bin/runsc", read(&programs.runsc)?);
        archive.file("lib/connector.erofs", root_file_system.clone());
        "toani.driver=gvisor"
    };
    archive.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n".to_vec());
    archive.file("etc/nsswitch.conf", b"hosts: files dns\n".to_vec());
    archive.file("etc/passwd", b"root:x:0:0:root:/:/bin/false\n".to_vec());
    archive.file("etc/group", b"root:x:0:\n".to_vec());
    archive.link("etc/resolv.conf", "/run/resolv.conf");

    let report = if snp { "toani.report=snp" } else { "toani.report=port" };
    let command_line = [COMMAND_LINE, &[driver, report]].concat().join(" ");
    let kernel = read(&vmlinuz(&kernel)?)?;
    Ok(Guest { kernel, initrd: archive.bytes()?, command_line, root_file_system })
}

impl Guest {
    /// Each file under another name first: a machine that starts may be reading the old one.
    fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let files: [(&str, &[u8]); 4] = [
            ("vmlinuz", &self.kernel),
            ("initrd", &self.initrd),
            ("cmdline", self.command_line.as_bytes()),
            ("root-file-system", &self.root_file_system),
        ];
        for (name, bytes) in files {
            let aside = folder.join(format!("{name}.new"));
            std::fs::write(&aside, bytes)
                .with_context(|| format!("cannot write {}", aside.display()))?;
            std::fs::rename(&aside, folder.join(name))?;
        }
        Ok(())
    }
}

/// What the program computes that will start this guest: there is one way to compute it.
fn digests(program: &Path, folder: &Path, firmware: Option<&Path>) -> Result<ExitCode> {
    let mut command = Command::new(program);
    command.args(["vm-digest", "--guest"]).arg(folder);
    if let Some(firmware) = firmware {
        command.arg("--firmware").arg(firmware);
    }
    let status = command.status().with_context(|| format!("cannot run {}", program.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

fn first_of(folder: &Path, paths: &[&str]) -> Result<PathBuf> {
    let found = paths.iter().map(|path| folder.join(path)).find(|path| path.is_file());
    found.with_context(|| format!("the package holds no {}", paths.join(" or ")))
}

fn vmlinuz(unpacked: &Path) -> Result<PathBuf> {
    let boot = unpacked.join("boot");
    for entry in std::fs::read_dir(&boot).context("the kernel's package has no boot folder")? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("vmlinuz-") {
            return Ok(entry.path());
        }
    }
    bail!("the kernel's package holds no vmlinuz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_words_without_quotes() {
        for word in COMMAND_LINE {
            assert!(!word.contains([' ', '"', '\n']), "{word}");
        }
    }

    #[test]
    fn arguments_are_known_and_whole() {
        let words = |words: &[&str]| -> Vec<String> { words.iter().map(|w| (*w).into()).collect() };
        let read = Options::read(&words(&["--programs", "/p", "--snp", "--twice"])).unwrap();
        assert_eq!(read.programs.as_deref(), Some(Path::new("/p")));
        assert!(read.snp && read.twice && !read.native && read.kernel.is_none());
        assert!(Options::read(&words(&["--kernel"])).is_err());
        assert!(Options::read(&words(&["--other"])).is_err());
    }
}
