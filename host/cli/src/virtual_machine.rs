//! The virtual machine of `--sandbox vm`: its parts, its size, and what protects it.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, ValueEnum, builder::RangedU64ValueParser};
use toani_sandbox::vm::{
    Accelerator, MEMORY_MIB_MAX, MEMORY_MIB_MIN, Machine, PROCESSORS_MAX, Protection, VmPaths,
};

const GUEST: &str = "guest";

#[derive(Debug, Default, Args)]
pub(crate) struct VirtualMachine {
    /// The guest of --sandbox vm; by default the one beside the programs.
    #[arg(long, value_name = "FOLDER")]
    guest: Option<PathBuf>,
    /// What runs the guest's instructions: the processor, or an emulator, which is many times
    /// slower; kvm by default.
    #[arg(long, value_enum)]
    accel: Option<Accel>,
    /// Memory of the guest, for all its containers; 768 by default.
    #[arg(
        long,
        value_name = "MIB",
        value_parser = RangedU64ValueParser::<u32>::new().range(memory())
    )]
    guest_memory: Option<u32>,
    /// Processors of the guest; SEV-SNP measures how many. 1 by default.
    #[arg(
        long,
        value_name = "N",
        value_parser = RangedU64ValueParser::<u32>::new().range(1..=u64::from(PROCESSORS_MAX))
    )]
    vcpus: Option<u32>,
    /// SEV-SNP protects the guest, and this machine's chip vouches for it. Not yet run on SEV-SNP
    /// hardware.
    #[arg(long)]
    snp: bool,
    /// The firmware of an SEV-SNP guest: an OVMF of the AmdSev build, which measures what it boots.
    #[arg(long, value_name = "FILE", requires = "snp")]
    firmware: Option<PathBuf>,
    /// The processor of an SEV-SNP guest, as QEMU names it, which is measured; EPYC-v4 by default.
    #[arg(long, value_name = "NAME", requires = "snp")]
    processor: Option<String>,
    /// What AMD publishes about this machine's chip: vcek.der, ask.der, ark.der and crl.der. For a
    /// guest whose host's firmware was not given them.
    #[arg(long, value_name = "FOLDER", requires = "snp")]
    certificates: Option<PathBuf>,
}

fn memory() -> std::ops::RangeInclusive<u64> {
    u64::from(MEMORY_MIB_MIN)..=u64::from(MEMORY_MIB_MAX)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Accel {
    Kvm,
    Tcg,
}

impl From<Accel> for Accelerator {
    fn from(accel: Accel) -> Self {
        match accel {
            Accel::Kvm => Self::Kvm,
            Accel::Tcg => Self::Tcg,
        }
    }
}

impl VirtualMachine {
    /// Who asks for protection gets it or an error, whatever else is asked for.
    ///
    /// # Errors
    /// Something of a virtual machine is asked for, and none is.
    pub(crate) fn expect_nothing(&self) -> anyhow::Result<()> {
        if self.snp {
            bail!("--snp protects a virtual machine: --sandbox vm --snp --firmware FILE");
        }
        let of_a_machine = self.guest.is_some()
            || self.accel.is_some()
            || self.guest_memory.is_some()
            || self.vcpus.is_some();
        if of_a_machine {
            bail!(
                "--guest, --accel, --guest-memory and --vcpus are a virtual machine's: --sandbox vm"
            );
        }
        Ok(())
    }

    /// # Errors
    /// What is asked for is not to be had together.
    pub(crate) fn paths(self, programs: &Path) -> anyhow::Result<VmPaths> {
        let mut machine = Machine::usual(protection(self.snp, self.firmware)?);
        if let Some(accel) = self.accel {
            machine.accelerator = accel.into();
        }
        if self.snp && machine.accelerator == Accelerator::Tcg {
            bail!("an emulator has no SEV-SNP: leave out --accel tcg, or --snp");
        }
        machine.memory_mib = self.guest_memory.unwrap_or(machine.memory_mib);
        machine.processors = self.vcpus.unwrap_or(machine.processors);
        machine.snp_processor = self.processor.unwrap_or(machine.snp_processor);
        Ok(VmPaths {
            guest: std::path::absolute(self.guest.unwrap_or_else(|| programs.join(GUEST)))?,
            qemu: None,
            machine,
            certificates: self.certificates.map(std::path::absolute).transpose()?,
        })
    }
}

fn protection(snp: bool, firmware: Option<PathBuf>) -> anyhow::Result<Protection> {
    if !snp {
        return Ok(Protection::None);
    }
    let Some(firmware) = firmware else {
        bail!(
            "--snp needs --firmware FILE: an OVMF of the AmdSev build, which measures kernel, initrd \
             and command line"
        );
    };
    if !firmware.is_file() {
        bail!(
            "there is no firmware {}; build OVMF's AmdSev target and name it by --firmware",
            firmware.display()
        );
    }
    Ok(Protection::Snp { firmware: std::path::absolute(firmware)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snp_comes_whole_or_not_at_all() {
        let firmware = tempfile::NamedTempFile::new().unwrap();
        let asked = || VirtualMachine {
            snp: true,
            firmware: Some(firmware.path().into()),
            vcpus: Some(4),
            processor: Some("EPYC-Milan".into()),
            ..VirtualMachine::default()
        };
        let paths = asked().paths(Path::new("/programs")).unwrap();
        assert!(paths.is_snp());
        assert_eq!((paths.machine.processors, paths.machine.accelerator), (4, Accelerator::Kvm));
        assert_eq!(paths.machine.snp_processor, "EPYC-Milan");
        assert_eq!(paths.guest, Path::new("/programs/guest"));
        let refused =
            |asked: VirtualMachine| asked.paths(Path::new("/programs")).unwrap_err().to_string();
        let emulated = VirtualMachine { accel: Some(Accel::Tcg), ..asked() };
        assert!(refused(emulated).contains("--accel tcg"));
        assert!(refused(VirtualMachine { firmware: None, ..asked() }).contains("AmdSev"));
        let nowhere = VirtualMachine { firmware: Some("/nowhere".into()), ..asked() };
        assert!(refused(nowhere).contains("/nowhere"));
        assert!(asked().expect_nothing().is_err());
    }
}
