//! What a gateway has to know to start a virtual machine.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use toani_protocol::instance::LaunchDigest;

use super::{GuestImage, ImageError, Machine, Protection, READY};

/// Beyond the time that the guest itself has: for this side's own work.
const READY_EXTRA: Duration = Duration::from_secs(20);

/// Longest time from starting the host's part to its word that the guest is ready.
pub(crate) const READY_WITH_HOST: Duration = READY.saturating_add(READY_EXTRA);

/// Where the parts of a guest are, and what runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmPaths {
    /// The folder that `./x image guest` writes.
    pub guest: PathBuf,
    /// Not the one of Debian's package.
    pub qemu: Option<PathBuf>,
    pub machine: Machine,
    /// What AMD publishes about this machine's chip, for a guest that SEV-SNP protects.
    pub certificates: Option<PathBuf>,
}

/// In a guest's folder: what containers run in it, for whoever admits it by its hash.
const ROOT_FILE_SYSTEM: &str = "root-file-system";

impl VmPaths {
    /// Whether SEV-SNP protects the guest, so that a real chip vouches for it and no simulated one.
    pub fn is_snp(&self) -> bool {
        self.machine.protection != Protection::None
    }

    /// What the guest is measured as: by the chip's firmware under SEV-SNP, and else by this host.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn launch_digest(&self) -> Result<LaunchDigest, ImageError> {
        let mut image = GuestImage::read(&self.guest)?;
        match &self.machine.protection {
            Protection::None => Ok(image.parts.simulated_digest()),
            Protection::Snp { firmware } => image.with_firmware(firmware, &self.machine),
        }
    }

    pub(crate) fn root_file_system(&self) -> PathBuf {
        self.guest.join(ROOT_FILE_SYSTEM)
    }

    /// For `toani-sandbox`, but for a simulated chip.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let Machine { accelerator, protection, memory_mib, processors, snp_processor } =
            &self.machine;
        let mut arguments: Vec<OsString> = vec!["vm".into()];
        let mut put = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        put("--guest", self.guest.clone().into());
        put("--accel", accelerator.as_str().into());
        put("--memory-mib", memory_mib.to_string().into());
        put("--vcpus", processors.to_string().into());
        if let Some(qemu) = &self.qemu {
            put("--qemu", qemu.into());
        }
        if let Protection::Snp { firmware } = protection {
            put("--firmware", firmware.into());
            put("--processor", snp_processor.into());
            if let Some(folder) = &self.certificates {
                put("--certificates", folder.into());
            }
            arguments.push("--snp".into());
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::Options;

    /// What the gateway's side writes is what the other side reads.
    #[test]
    fn a_machine_goes_through_the_arguments_whole() {
        let machine = Machine {
            memory_mib: 1536,
            processors: 4,
            snp_processor: "EPYC-Milan".into(),
            ..Machine::usual(Protection::Snp { firmware: "/f".into() })
        };
        let paths = VmPaths {
            guest: "/g".into(),
            qemu: Some("/q".into()),
            machine,
            certificates: Some("/c".into()),
        };
        let arguments = paths.arguments();
        assert_eq!(arguments[0], "vm");
        let read = Options::read(&arguments[1..]).unwrap();
        assert_eq!(read.machine, paths.machine);
        assert_eq!((read.guest, read.qemu), ("/g".into(), "/q".into()));
        assert_eq!((read.certificates, read.simulated_chip), (paths.certificates, None));
        assert!(
            Options::read(&[&arguments[1..], &["--simulated-chip".into(), "/m".into()]].concat())
                .is_err()
        );
    }
}
