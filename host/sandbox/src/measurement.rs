//! What a supervisor says it is.

use std::{fs::File, io, path::Path};

use sha2::{Digest, Sha256};
use toani_protocol::ids::Hash;

const LABEL: &str = "toani/v1/sandbox-native";

/// The measurement of a supervisor's executable with a connector's executable.
///
/// # Errors
/// One of the files cannot be read.
pub fn measurement(supervisor: &Path, connector: &Path) -> io::Result<Hash> {
    Ok(combine(hash_of(File::open(supervisor)?)?, hash_of(File::open(connector)?)?))
}

/// The measurement of two executables whose SHA-256 are known.
pub fn combine(supervisor: Hash, connector: Hash) -> Hash {
    Hash::of_parts(LABEL, &[supervisor.as_bytes(), connector.as_bytes()])
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
