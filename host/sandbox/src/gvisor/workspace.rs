//! Where a supervisor keeps what its runtimes need, and how it is gone afterwards, also after a
//! supervisor that was killed.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    process::geteuid,
};
use tempfile::TempDir;

use crate::cgroup::{Groups, NoGroups};

const PREFIX: &str = "toani-sandbox-";
/// Locked for as long as the supervisor lives.
const LOCK: &str = "lock";

/// No workspace came about.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    #[error("no folder can be made in {0}: {1}")]
    Folder(PathBuf, io::Error),
    #[error(transparent)]
    Groups(#[from] NoGroups),
}

/// A folder and a control group of the same name.
#[derive(Debug)]
pub(super) struct Workspace {
    // First: containers are in it, and their files are open.
    groups: Groups,
    folder: TempDir,
    _lock: File,
}

impl Workspace {
    pub(super) fn create() -> Result<Self, WorkspaceError> {
        let within = std::env::temp_dir();
        let failed = |error| WorkspaceError::Folder(within.clone(), error);
        sweep(&within);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&within).map_err(failed)?;
        let lock = locked(folder.path()).map_err(failed)?;
        for name in ["nothing", "containers"] {
            fs::create_dir(folder.path().join(name)).map_err(failed)?;
        }
        let groups = Groups::create(&name(folder.path()))?;
        Ok(Self { groups, folder, _lock: lock })
    }

    pub(super) fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The copy of the runtime that runs, whatever happens to the file that it was made of.
    pub(super) fn runtime(&self) -> PathBuf {
        self.folder.path().join("runsc")
    }

    /// The copy of the root file system's image.
    pub(super) fn root(&self) -> PathBuf {
        self.folder.path().join("root.erofs")
    }

    /// An empty folder.
    pub(super) fn nothing(&self) -> PathBuf {
        self.folder.path().join("nothing")
    }

    pub(super) fn container(&self, id: &str) -> PathBuf {
        self.folder.path().join("containers").join(id)
    }
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The lock, which is locked before anybody sees it under its name.
fn locked(folder: &Path) -> io::Result<File> {
    let new = folder.join("lock.new");
    let lock = File::create(&new)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    fs::rename(new, folder.join(LOCK))?;
    Ok(lock)
}

/// Removes what this user's supervisors have left that do not live any more.
fn sweep(within: &Path) {
    let entries = fs::read_dir(within).into_iter().flatten().flatten();
    for folder in entries.map(|entry| entry.path()) {
        if name(&folder).starts_with(PREFIX) && is_left(&folder).unwrap_or(false) {
            Groups::sweep(&name(&folder));
            // Somebody else may be at it too.
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

fn is_left(folder: &Path) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(folder)?;
    if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() {
        return Ok(false);
    }
    // One that is being made has no lock yet.
    let lock = File::open(folder.join(LOCK))?;
    Ok(flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_is_gone_with_its_owner_and_swept_without_it() {
        let one = Workspace::create().unwrap();
        let left = Workspace::create().unwrap();
        let (here, there) = (one.folder.path().to_path_buf(), left.folder.path().to_path_buf());
        // As if its supervisor had been killed: the lock is gone and nothing else.
        let Workspace { groups, folder, _lock } = left;
        std::mem::forget(groups);
        let _ = folder.keep();
        drop(_lock);
        let next = Workspace::create().unwrap();
        assert!(here.exists() && !there.exists());
        drop((one, next));
        assert!(!here.exists());
    }
}
