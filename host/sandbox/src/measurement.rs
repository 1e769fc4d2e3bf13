//! The launch digest of a supervisor that runs as a process: what it would be measured as if its
//! programs and its root file system were a guest's whole content.

use std::{fs::File, io, path::Path};

use sha2::{Digest, Sha256, Sha384};
use toani_protocol::{
    ids::Hash,
    instance::{LaunchDigest, RootFileSystems},
};

use crate::driver::DriverKind;

/// A label for each driver: a digest that is admitted for one is not admitted for another.
const NATIVE: &str = "toani/v1/sandbox-native";
const GVISOR: &str = "toani/v1/sandbox-gvisor";

/// The launch digest of a supervisor's executable with its driver and its root file systems.
///
/// # Errors
/// One of the files cannot be read.
pub fn launch_digest(
    supervisor: &Path,
    driver: &DriverKind,
    root_file_systems: RootFileSystems,
) -> io::Result<LaunchDigest> {
    let supervisor = || hash_of(File::open(supervisor)?);
    let RootFileSystems { connector, browser } = root_file_systems;
    Ok(match driver {
        DriverKind::Native => combine(NATIVE, &[supervisor()?, connector]),
        DriverKind::Gvisor { runsc, .. } => {
            let parts = [supervisor()?, hash_of(File::open(runsc)?)?, connector];
            let parts: Vec<_> = parts.into_iter().chain(browser).collect();
            combine(GVISOR, &parts)
        }
        // Both programs are in the guest, and measured with it.
        DriverKind::Vm(paths) => paths.launch_digest().map_err(io::Error::other)?,
    })
}

/// SHA-384 over a label, a zero byte, and the SHA-256 of each part.
fn combine(label: &str, parts: &[Hash]) -> LaunchDigest {
    let mut digest = Sha384::new_with_prefix(label);
    digest.update([0]);
    for part in parts {
        digest.update(part.as_bytes());
    }
    digest.finalize().into()
}

/// SHA-256 of all that `input` holds.
pub(crate) fn hash_of(mut input: impl io::Read) -> io::Result<Hash> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match input.read(&mut chunk) {
            Ok(0) => return Ok(Hash::new(hasher.finalize().into())),
            Ok(count) => hasher.update(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
