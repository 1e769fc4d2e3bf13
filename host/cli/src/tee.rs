//! Which program runs the enclave's image, and under which roots it has to prove itself.
//!
//! Simulation is asked for by name, once, at `toani init`: from then on the manifest's roots say
//! it, and nothing falls back to anything.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};
use serde::Deserialize;
use toani_attestation::roots;
use toani_enclave_host::Runner;
use toani_protocol::{Hash, assurance::Tee, instance::Manifest, sign::Bytes};

pub(crate) const IMAGE: &str = "toani-image";
pub(crate) const IMAGE_SIGNATURE: &str = "toani-image.sig";
/// What Intel publishes about this machine, in the data folder; the operator keeps it fresh.
const COLLATERAL: &str = "sgx-collateral.json";
pub(crate) const SIMULATOR: &str = "toani-simulator";
pub(crate) const SGX: &str = "toani-sgx";

/// Under which roots a simulated machine's parts prove what they are, and its chip's id.
#[derive(Debug, Deserialize)]
pub(crate) struct SimulatedMachine {
    pub(crate) sgx_root: Hash,
    pub(crate) snp_root: Hash,
    pub(crate) chip: Bytes,
}

/// The simulated machine of this user, where no other is named.
fn default_machine() -> PathBuf {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state"));
    state.or_else(home).unwrap_or_else(|| PathBuf::from(".")).join("toani/simulator")
}

/// The level and what it means, for people.
pub(crate) fn in_words(tee: Tee) -> String {
    format!("tee: {}: {}", tee.as_str(), tee.means())
}

/// Without SGX there is nothing to be born in, and nothing else is tried.
pub(crate) fn require_sgx() -> anyhow::Result<()> {
    let device = Path::new("/dev/sgx_enclave");
    if !device.exists() {
        bail!(
            "there is no {}: this machine has no SGX, or its kernel driver is off. To try toani \
             out in a simulated TEE, which proves nothing: toani init --simulator",
            device.display()
        );
    }
    Ok(())
}

/// The vendors' roots.
pub(crate) fn vendor_roots() -> (Vec<Hash>, Vec<Hash>) {
    let amd = [roots::AMD_ARK_MILAN, roots::AMD_ARK_GENOA, roots::AMD_ARK_TURIN];
    (vec![roots::INTEL_SGX_ROOT_CA], amd.to_vec())
}

/// A simulated machine, which is made if it is not there.
pub(crate) fn simulated_machine(
    programs: &Path,
    machine: Option<PathBuf>,
) -> anyhow::Result<SimulatedMachine> {
    let program = programs.join(SIMULATOR);
    let output = Command::new(&program)
        .arg("--roots")
        .arg(machine.unwrap_or_else(default_machine))
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("the simulator did not say its roots")
}

/// The simulated machine whose chip vouches for supervisors; none where AMD's do.
pub(crate) fn simulated_chip(snp_roots: &[Hash], machine: Option<PathBuf>) -> Option<PathBuf> {
    let hardware = snp_roots.iter().any(roots::sandbox_is_snp);
    (!hardware).then(|| machine.unwrap_or_else(default_machine))
}

/// SGX for Intel's root, the simulator for any other.
pub(crate) fn runner(
    programs: &Path,
    machine: Option<PathBuf>,
    data: &Path,
    manifest: &Manifest,
) -> anyhow::Result<Runner> {
    let hardware = manifest.sgx_roots.contains(&roots::INTEL_SGX_ROOT_CA);
    let image = programs.join(IMAGE);
    if !image.is_file() {
        bail!("there is no {IMAGE} in {}; ./x image builds it", programs.display());
    }
    let (program, arguments) = if hardware {
        if machine.is_some() {
            bail!("--machine is for a simulated machine, and this instance lives on SGX hardware");
        }
        let signature = programs.join(IMAGE_SIGNATURE);
        (SGX, vec![image, signature, data.join(COLLATERAL)])
    } else {
        (SIMULATOR, vec![image, machine.unwrap_or_else(default_machine)])
    };
    let arguments = arguments.into_iter().map(PathBuf::into_os_string).collect();
    Ok(Runner { program: programs.join(program), arguments })
}
