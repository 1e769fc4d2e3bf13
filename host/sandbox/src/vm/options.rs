//! What `toani-sandbox vm` is told.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use super::qemu::{Accelerator, Machine, Protection};

pub const USAGE: &str = "toani-sandbox vm --guest FOLDER [--qemu PROGRAM] [--accel kvm|tcg] \
                         [--memory-mib N] \
                         (--simulated-chip MACHINE | --snp --firmware FILE [--certificates FOLDER])";

/// Debian's package puts it there. There is no PATH to search: the gateway clears the environment.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const MEMORY_MIB: u32 = 768;
const MEMORY_MIB_MAX: u32 = 64 * 1024;
const PROCESSORS: u32 = 1;
const SNP_PROCESSOR: &str = "EPYC-v4";

/// The arguments are not as they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}: {USAGE}")]
pub struct OptionsError(&'static str);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub guest: PathBuf,
    pub qemu: PathBuf,
    pub machine: Machine,
    /// Whose chip vouches for the guest, where no real one does.
    pub simulated_chip: Option<PathBuf>,
    /// What AMD publishes about this machine's chip, where its firmware was not given it.
    pub certificates: Option<PathBuf>,
}

impl Options {
    /// # Errors
    /// See [`OptionsError`].
    pub fn read(words: &[OsString]) -> Result<Self, OptionsError> {
        let mut guest = None;
        let mut qemu = PathBuf::from(QEMU);
        let (mut accelerator, mut memory_mib) = (Accelerator::Kvm, MEMORY_MIB);
        let (mut simulated_chip, mut certificates) = (None, None);
        let (mut snp, mut firmware) = (false, None);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let word = word.to_str().unwrap_or_default();
            if word == "--snp" {
                snp = true;
                continue;
            }
            let value = words.next().ok_or(OptionsError("a value is missing"))?;
            match word {
                "--guest" => guest = Some(value.into()),
                "--qemu" => qemu = value.into(),
                "--accel" => accelerator = accelerator_of(value)?,
                "--memory-mib" => memory_mib = memory_of(value)?,
                "--simulated-chip" => simulated_chip = Some(value.into()),
                "--certificates" => certificates = Some(value.into()),
                "--firmware" => firmware = Some(value.into()),
                _ => return Err(OptionsError("an argument is unknown")),
            }
        }
        let protection = match (snp, firmware, &simulated_chip) {
            (true, Some(firmware), None) => Protection::Snp { firmware },
            (false, None, Some(_)) => Protection::None,
            _ => return Err(OptionsError("either a simulated chip, or SEV-SNP with its firmware")),
        };
        let machine = Machine { accelerator, memory_mib, ..Machine::usual(protection) };
        let guest = guest.ok_or(OptionsError("no guest is named"))?;
        Ok(Self { guest, qemu, machine, simulated_chip, certificates })
    }
}

impl Machine {
    /// What a guest gets if nothing else is asked for.
    pub fn usual(protection: Protection) -> Self {
        Self {
            accelerator: Accelerator::Kvm,
            protection,
            memory_mib: MEMORY_MIB,
            processors: PROCESSORS,
            snp_processor: SNP_PROCESSOR.into(),
        }
    }
}

fn accelerator_of(value: &OsStr) -> Result<Accelerator, OptionsError> {
    match value.to_str() {
        Some("kvm") => Ok(Accelerator::Kvm),
        Some("tcg") => Ok(Accelerator::Tcg),
        _ => Err(OptionsError("an accelerator is kvm or tcg")),
    }
}

fn memory_of(value: &OsStr) -> Result<u32, OptionsError> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    let fits = number.filter(|mib| (1..=MEMORY_MIB_MAX).contains(mib));
    fits.ok_or(OptionsError("memory is a number of MiB, up to 65536"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, OptionsError> {
        Options::read(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_guest_is_simulated_or_protected_and_never_both() {
        let simulated = read("--guest /g --accel tcg --simulated-chip /m").unwrap();
        assert_eq!(simulated.machine.protection, Protection::None);
        assert_eq!(simulated.machine.accelerator, Accelerator::Tcg);
        let snp = read("--guest /g --snp --firmware /f").unwrap();
        assert_eq!(snp.machine.protection, Protection::Snp { firmware: "/f".into() });
        for wrong in [
            "--guest /g",
            "--guest /g --snp",
            "--guest /g --firmware /f --simulated-chip /m",
            "--guest /g --snp --firmware /f --simulated-chip /m",
            "--simulated-chip /m",
            "--guest /g --simulated-chip",
            "--guest /g --simulated-chip /m --accel fast",
            "--guest /g --simulated-chip /m --memory-mib 0",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
