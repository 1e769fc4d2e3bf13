//! L0, the sealing key: a file of 32 random bytes that its owner alone may read.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, Result, bail};
use toani_enclave::Secret;

const NAME: &str = "l0.key";
/// The key while it is written; a leftover is from a start that was cut short.
const NAME_NEW: &str = "l0.key.new";
const OWNER_ONLY: u32 = 0o600;

/// Reads the key, or makes one where there is none.
pub(crate) fn open_or_create(data: &Path) -> Result<Secret<32>> {
    let path = data.join(NAME);
    let shown = path.display();
    let mut file = match open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create(data).with_context(|| format!("cannot create {shown}"))?;
            open(&path)
        }
        opened => opened,
    }
    .with_context(|| format!("cannot open {shown}; it must be a file of the user who runs this"))?;

    let facts = file.metadata()?;
    if !facts.is_file() {
        bail!("{shown} is not a regular file");
    }
    if facts.uid() != rustix::process::geteuid().as_raw() {
        bail!("{shown} belongs to another user; change that with: chown $(id -u) {shown}");
    }
    let mode = facts.permissions().mode() & 0o7777;
    if mode & !OWNER_ONLY != 0 {
        bail!(
            "{shown} has mode {mode:o}, so that others may have read it; if nobody has: chmod 600 {shown}"
        );
    }
    let mut key = Secret::<32>::zeroed();
    let whole = file.read_exact(key.bytes_mut()).is_ok() && file.read(&mut [0])? == 0;
    if !whole {
        bail!("{shown} does not hold exactly 32 bytes; restore it from a backup");
    }
    Ok(key)
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Writes the key aside and links it into place: the name never names half a key, and never
/// replaces another one.
fn create(data: &Path) -> Result<()> {
    let aside = data.join(NAME_NEW);
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut key = Secret::<32>::zeroed();
    getrandom::fill(key.bytes_mut()).context("the system gives no random bytes")?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(OWNER_ONLY)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&aside)?;
    file.write_all(key.bytes())?;
    file.sync_all()?;
    std::fs::hard_link(&aside, data.join(NAME))?;
    std::fs::remove_file(&aside)?;
    File::open(data)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        // Left over from a start that was cut short.
        std::fs::write(folder.path().join(NAME_NEW), [1; 7]).unwrap();
        let first = open_or_create(folder.path()).unwrap();
        assert_ne!(*first.bytes(), [0; 32]);
        assert_eq!(open_or_create(folder.path()).unwrap().bytes(), first.bytes());
        let facts = std::fs::metadata(folder.path().join(NAME)).unwrap();
        assert_eq!(facts.permissions().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_others_may_have_touched_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        open_or_create(folder.path()).unwrap();
        for mode in [0o644, 0o660, 0o601, 0o4600, 0o700] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let refusal = open_or_create(folder.path()).err().unwrap().to_string();
            assert!(refusal.contains("chmod 600"), "{mode:o}: {refusal}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert!(open_or_create(folder.path()).is_ok());

        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(open_or_create(folder.path()).is_err(), "a symbolic link");
        std::fs::remove_file(&path).unwrap();
        for length in [0, 31, 33] {
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(true).mode(0o600);
            file.open(&path).unwrap().write_all(&vec![1; length]).unwrap();
            assert!(open_or_create(folder.path()).is_err(), "{length} bytes");
        }
    }
}
