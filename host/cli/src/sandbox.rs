//! What holds connectors: which driver, and its parts on this machine.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, ValueEnum};
use toani_protocol::assurance::SandboxLevel;
use toani_sandbox::{
    DriverKind,
    vm::{Accelerator, VmPaths},
};

const RUNSC: &str = "runsc";
const GUEST: &str = "guest";

/// The levels at which a process of this machine can hold connectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sandbox {
    /// gVisor: a kernel of its own in user space, for each container.
    Gvisor,
    /// Linux namespaces and a filter of system calls.
    Native,
    /// A virtual machine, and in it one of the others, as it was built.
    Vm,
}

impl Sandbox {
    pub(crate) const fn level(self) -> SandboxLevel {
        match self {
            Self::Gvisor => SandboxLevel::Gvisor,
            Self::Native => SandboxLevel::Native,
            Self::Vm => SandboxLevel::Vm,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Runtime {
    /// gVisor's runtime; by default the one beside the programs, else the one on PATH.
    #[arg(long, value_name = "FILE")]
    runsc: Option<PathBuf>,
    /// The root file system with a browser, which ./x image browser builds, for actions whose class
    /// names it; only gvisor holds one.
    #[arg(long, value_name = "FILE")]
    browser: Option<PathBuf>,
    /// The guest of --sandbox vm; by default the one beside the programs.
    #[arg(long, value_name = "FOLDER")]
    guest: Option<PathBuf>,
    /// What runs the guest's instructions: the processor, or an emulator, which is many times slower.
    #[arg(long, value_enum, default_value_t = Accel::Kvm)]
    accel: Accel,
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

impl Runtime {
    /// The driver with its parts.
    pub(crate) fn driver(self, sandbox: Sandbox, programs: &Path) -> anyhow::Result<DriverKind> {
        if self.browser.is_some() && sandbox != Sandbox::Gvisor {
            bail!("--browser needs --sandbox gvisor: nothing else here holds a browser");
        }
        match sandbox {
            Sandbox::Native => Ok(DriverKind::Native),
            Sandbox::Vm => Ok(DriverKind::Vm(VmPaths {
                guest: std::path::absolute(self.guest.unwrap_or_else(|| programs.join(GUEST)))?,
                qemu: None,
                accelerator: self.accel.into(),
            })),
            Sandbox::Gvisor => {
                let browser = self.browser.as_ref().map(std::path::absolute).transpose()?;
                Ok(DriverKind::Gvisor { runsc: self.found(programs)?, browser })
            }
        }
    }

    fn found(self, programs: &Path) -> anyhow::Result<PathBuf> {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let on_path = std::env::split_paths(&paths).map(|folder| folder.join(RUNSC));
        let mut places = self.runsc.map_or_else(
            || [programs.join(RUNSC)].into_iter().chain(on_path).collect(),
            |given| vec![given],
        );
        match places.iter().position(|place| place.is_file()) {
            Some(at) => Ok(places.swap_remove(at)),
            None => bail!(
                "there is no gVisor runtime (runsc) beside the programs or on PATH: ./x setup \
                 builds one, --runsc names one; --sandbox native does without, at a lower level \
                 of assurance"
            ),
        }
    }
}
