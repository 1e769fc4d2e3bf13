//! What `toani-sandbox vm` is told.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use super::qemu::{Accelerator, Machine, Protection};

pub const USAGE: &str = "toani-sandbox vm --guest FOLDER [--qemu PROGRAM] [--accel kvm|tcg] \
                         [--memory-mib N] [--vcpus N] \
                         (--simulated-chip MACHINE | --snp --firmware FILE [--processor NAME] \
                         [--certificates FOLDER])";

/// Debian's package puts it there. There is no PATH to search: the gateway clears the environment.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const MEMORY_MIB: u32 = 768;
/// Below this a container of the usual class does not fit beside the initrd.
pub const MEMORY_MIB_MIN: u32 = MEMORY_MIB;
pub const MEMORY_MIB_MAX: u32 = 64 * 1024;
const PROCESSORS: u32 = 1;
pub const PROCESSORS_MAX: u32 = 64;
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
        let (mut processors, mut snp_processor) = (PROCESSORS, None);
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
                "--vcpus" => processors = processors_of(value)?,
                "--processor" => snp_processor = Some(value.to_string_lossy().into_owned()),
                _ => return Err(OptionsError("an argument is unknown")),
            }
        }
        let protection = match (snp, firmware, &simulated_chip) {
            (true, Some(_), None) if accelerator == Accelerator::Tcg => {
                return Err(OptionsError("an emulator has no SEV-SNP"));
            }
            (true, Some(firmware), None) => Protection::Snp { firmware },
            (false, None, Some(_)) if certificates.is_none() && snp_processor.is_none() => {
                Protection::None
            }
            _ => return Err(OptionsError("either a simulated chip, or SEV-SNP with its firmware")),
        };
        let mut machine =
            Machine { accelerator, memory_mib, processors, ..Machine::usual(protection) };
        if let Some(snp_processor) = snp_processor {
            machine.snp_processor = snp_processor;
        }
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
    number(value, MEMORY_MIB_MIN..=MEMORY_MIB_MAX)
        .ok_or(OptionsError("a guest's memory is a number of MiB, from 768 to 65536"))
}

fn processors_of(value: &OsStr) -> Result<u32, OptionsError> {
    number(value, 1..=PROCESSORS_MAX)
        .ok_or(OptionsError("a guest has a number of processors from 1 to 64"))
}

fn number(value: &OsStr, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
    value.to_str()?.parse().ok().filter(|number| range.contains(number))
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
            "--guest /g --simulated-chip /m --memory-mib 767",
            "--guest /g --simulated-chip /m --memory-mib 65537",
            "--guest /g --simulated-chip /m --vcpus 0",
            "--guest /g --simulated-chip /m --certificates /c",
            "--guest /g --simulated-chip /m --processor EPYC-v4",
            "--guest /g --snp --firmware /f --accel tcg",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
