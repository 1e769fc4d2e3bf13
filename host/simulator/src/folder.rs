//! Secrets in a folder: files that their owner alone may read, each made once and kept.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

const OWNER_ONLY: u32 = 0o600;
/// A key file is a few kilobytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Reads the file `name`, or writes what `make` makes where there is none.
pub(crate) fn open_or_create<E: From<io::Error>>(
    folder: &Path,
    name: &str,
    make: impl FnOnce() -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    let path = folder.join(name);
    match read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create(folder, name, &make()?)?;
            Ok(read(&path)?)
        }
        read => Ok(read?),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let no_surprise = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
    let no_surprise = i32::try_from(no_surprise).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).custom_flags(no_surprise).open(path)?;
    let facts = file.metadata()?;
    let own = facts.uid() == rustix::process::geteuid().as_raw();
    if !facts.is_file() || !own || facts.mode() & 0o7777 & !OWNER_ONLY != 0 {
        return Err(io::Error::new(
            ErrorKind::PermissionDenied,
            "it is not a regular file of this user with mode 600",
        ));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes the file aside and links it into place: the name never names half a file, and never
/// replaces another one. Who comes second keeps what the first one made, in whatever process or
/// thread: no two write to the same name aside.
fn create(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    static CREATED: AtomicU64 = AtomicU64::new(0);
    let count = CREATED.fetch_add(1, Ordering::Relaxed);
    let aside = folder.join(format!("{name}.{}.{count}.new", std::process::id()));
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let linked = match std::fs::hard_link(&aside, folder.join(name)) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    };
    std::fs::remove_file(&aside)?;
    linked?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_made_once_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let open = |bytes: &[u8]| open_or_create(folder.path(), "key", || Ok(bytes.to_vec()));
        let first: io::Result<_> = open(b"first");
        assert_eq!(first.unwrap(), b"first");
        assert_eq!(open(b"second").unwrap(), b"first");
        create(folder.path(), "key", b"third").unwrap();
        assert_eq!(open(b"fourth").unwrap(), b"first");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

        let path = folder.path().join("key");
        for mode in [0o644, 0o620, 0o700] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(open(b"").unwrap_err().kind(), ErrorKind::PermissionDenied, "{mode:o}");
        }
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(open(b"").is_err());
    }

    #[test]
    fn many_who_come_first_at_once_agree() {
        const AT_ONCE: u8 = 8;
        for _ in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let gate = std::sync::Barrier::new(usize::from(AT_ONCE));
            let open = |own: u8| {
                gate.wait();
                open_or_create(folder.path(), "key", || Ok::<_, io::Error>(vec![own; 32])).unwrap()
            };
            let read: std::collections::BTreeSet<Vec<u8>> = std::thread::scope(|scope| {
                let all: Vec<_> = (0..AT_ONCE).map(|own| scope.spawn(move || open(own))).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert_eq!(read.len(), 1);
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }
}
