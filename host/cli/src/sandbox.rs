//! What holds connectors: which driver, and its parts on this machine.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, ValueEnum};
use toani_attestation::roots;
use toani_protocol::{Hash, assurance::SandboxLevel};
use toani_sandbox::DriverKind;

use crate::virtual_machine::VirtualMachine;

const RUNSC: &str = "runsc";

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

/// The level at which a driver is admitted.
pub(crate) fn level(driver: &DriverKind) -> SandboxLevel {
    match driver {
        DriverKind::Gvisor { .. } => SandboxLevel::Gvisor,
        DriverKind::Native => SandboxLevel::Native,
        DriverKind::Vm(paths) if paths.is_snp() => SandboxLevel::Snp,
        DriverKind::Vm(_) => SandboxLevel::Vm,
    }
}

/// AMD's roots and SEV-SNP go together: what is simulated is never taken for a chip, nor tried where
/// there is none.
///
/// # Errors
/// Evidence of this driver would hold under none of the roots.
pub(crate) fn expect_agreement(driver: &DriverKind, snp_roots: &[Hash]) -> anyhow::Result<()> {
    let hardware = snp_roots.iter().any(roots::sandbox_is_snp);
    match (level(driver) == SandboxLevel::Snp, hardware) {
        (true, true) | (false, false) => Ok(()),
        (true, false) => bail!(
            "this instance believes a simulated machine's root, under which no chip of AMD's proves \
             anything: leave --snp out, or make an instance by `toani init --snp`"
        ),
        (false, true) => bail!(
            "this instance believes AMD's roots alone, and a sandbox of this machine is in no SEV-SNP \
             guest: --sandbox vm --snp --firmware FILE starts one"
        ),
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
    #[command(flatten)]
    machine: VirtualMachine,
}

impl Runtime {
    /// The driver with its parts.
    pub(crate) fn driver(self, sandbox: Sandbox, programs: &Path) -> anyhow::Result<DriverKind> {
        if self.browser.is_some() && sandbox != Sandbox::Gvisor {
            bail!("--browser needs --sandbox gvisor: nothing else here holds a browser");
        }
        if sandbox != Sandbox::Vm {
            self.machine.expect_nothing()?;
        }
        match sandbox {
            Sandbox::Native => Ok(DriverKind::Native),
            Sandbox::Vm => Ok(DriverKind::Vm(self.machine.paths(programs)?)),
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
