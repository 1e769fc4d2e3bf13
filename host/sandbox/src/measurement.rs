//! The launch digest of a supervisor that runs as a process: what it would be measured as if it and
//! its connector were a guest's whole content.

use std::{fs::File, io, path::Path};

use sha2::{Digest, Sha256, Sha384};
use toani_protocol::{ids::Hash, instance::LaunchDigest};

const LABEL: &str = "toani/v1/sandbox-native";

/// The launch digest of a supervisor's executable with a connector's executable.
///
/// # Errors
/// One of the files cannot be read.
pub fn launch_digest(supervisor: &Path, connector: &Path) -> io::Result<LaunchDigest> {
    Ok(combine(hash_of(File::open(supervisor)?)?, hash_of(File::open(connector)?)?))
}

/// SHA-384 over a label, a zero byte, and the SHA-256 of both executables.
pub(crate) fn combine(supervisor: Hash, connector: Hash) -> LaunchDigest {
    let digest = Sha384::new_with_prefix(LABEL)
        .chain_update([0])
        .chain_update(supervisor.as_bytes())
        .chain_update(connector.as_bytes());
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
