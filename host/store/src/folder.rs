//! The data folder: one process at a time, readable by its owner only.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::FlockOperation;

use crate::error::FolderError;

const LOCK: &str = "lock";
const ROOT: &str = "root.sealed";

/// A data folder that this process holds. Clones share it, and so does an open store; dropping the
/// last one gives the folder back.
#[derive(Debug, Clone)]
pub struct DataFolder(Arc<Held>);

#[derive(Debug)]
struct Held {
    path: PathBuf,
    lock: File,
}

fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FolderError + 'a {
    move |error| FolderError::Io { action, path: path.to_path_buf(), error }
}

impl DataFolder {
    /// Makes the folder if it is not there (mode 0700) and locks it.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at("make", path))?;
        let lock_path = path.join(LOCK);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(at("open", &lock_path))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            // What cannot be read is not told.
            let _ = (&mut lock).take(16).read_to_string(&mut pid);
            let holder = match pid.trim().parse::<u32>() {
                Ok(pid) => format!("process {pid}"),
                Err(_) => "another process".into(),
            };
            return Err(FolderError::InUse { path: path.to_path_buf(), holder });
        }
        lock.set_len(0)
            .and_then(|()| lock.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0))
            .map_err(at("write", &lock_path))?;
        Ok(Self(Arc::new(Held { path: path.to_path_buf(), lock })))
    }

    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Where the audit log belongs.
    pub fn audit(&self) -> PathBuf {
        self.0.path.join("audit")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.0.path.join("store.sqlite")
    }

    /// Keeps the sealed root of an instance that was born, durably, mode 0600.
    pub fn put_root(&self, sealed: &[u8]) -> Result<(), FolderError> {
        let path = self.0.path.join(ROOT);
        if path.exists() {
            return Err(FolderError::RootExists(self.0.path.clone()));
        }
        self.write_root(&path, sealed)
    }

    /// Keeps the sealed root that came by the hand-over of this counter. If the one before lies
    /// here, it stays aside: its enclave may have to give the root once more.
    pub fn take_root(&self, sealed: &[u8], counter: u64) -> Result<(), FolderError> {
        let path = self.0.path.join(ROOT);
        let before = self.0.path.join(format!("{ROOT}.before-{counter}"));
        // Linked, not moved: at no moment is there none. A second try keeps the first one's link.
        match fs::hard_link(&path, &before) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
                ) => {}
            linked => linked.map_err(at("write", &before))?,
        }
        self.write_root(&path, sealed)
    }

    fn write_root(&self, path: &Path, sealed: &[u8]) -> Result<(), FolderError> {
        let temporary = self.0.path.join("root.new");
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(sealed)?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            File::open(&self.0.path)?.sync_all()
        };
        write().map_err(at("write", path))
    }

    /// The sealed root, if the instance was born here.
    pub fn root(&self) -> Result<Option<Vec<u8>>, FolderError> {
        let path = self.0.path.join(ROOT);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("read", &path)(error)),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // By name: closing the file would leave the lock with a child process that was forked at
        // the same moment. At worst it stays until the process ends.
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_process_holds_the_folder_and_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let held = DataFolder::open(&path).unwrap();
        let error = DataFolder::open(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(held);
        let held = DataFolder::open(&path).unwrap();
        assert_eq!(fs::metadata(held.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn the_root_is_kept_once_and_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(folder.path()).unwrap();
        assert_eq!(data.root().unwrap(), None);
        data.put_root(b"sealed").unwrap();
        assert_eq!(data.root().unwrap().as_deref(), Some(&b"sealed"[..]));
        assert!(matches!(data.put_root(b"other"), Err(FolderError::RootExists(_))));
        let mode = fs::metadata(folder.path().join(ROOT)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_root_that_is_taken_leaves_the_one_before_aside() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(folder.path()).unwrap();
        let aside = |counter: u64| fs::read(folder.path().join(format!("{ROOT}.before-{counter}")));
        data.take_root(b"first", 1).unwrap();
        assert!(aside(1).is_err(), "there was none");
        for _ in 0..2 {
            data.take_root(b"second", 2).unwrap();
            assert_eq!(data.root().unwrap().as_deref(), Some(&b"second"[..]));
            assert_eq!(aside(2).unwrap(), b"first", "also after a second try");
        }
    }
}
