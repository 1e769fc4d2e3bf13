//! What a gateway has to know to start a virtual machine.

use std::{ffi::OsStr, path::PathBuf, time::Duration};

use super::{Accelerator, READY};

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
    pub accelerator: Accelerator,
}

/// In a guest's folder: what containers run in it, for whoever admits it by its hash.
const ROOT_FILE_SYSTEM: &str = "root-file-system";

impl VmPaths {
    pub(crate) fn root_file_system(&self) -> PathBuf {
        self.guest.join(ROOT_FILE_SYSTEM)
    }

    /// For `toani-sandbox`, but for what vouches for the guest.
    pub(crate) fn arguments(&self) -> Vec<&OsStr> {
        let accelerator = self.accelerator.as_str();
        let mut arguments: Vec<&OsStr> =
            vec!["vm".as_ref(), "--accel".as_ref(), accelerator.as_ref(), "--guest".as_ref()];
        arguments.push(self.guest.as_os_str());
        if let Some(qemu) = &self.qemu {
            arguments.extend(["--qemu".as_ref(), qemu.as_os_str()]);
        }
        arguments
    }
}
