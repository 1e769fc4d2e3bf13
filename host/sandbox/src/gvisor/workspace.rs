//! Where a supervisor keeps what its runtimes need, and how it is gone afterwards, also after a
//! supervisor that was killed.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    process::geteuid,
};
use tempfile::TempDir;
use toani_protocol::policy::RootName;

use crate::cgroup::{Groups, NoGroups};

const PREFIX: &str = "toani-sandbox-";
/// Names the control groups.
const GROUPS: &str = "groups";
const TRIES_MAX: usize = 8;

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
    /// Of the folder, for as long as the supervisor lives.
    _lock: File,
}

impl Workspace {
    pub(super) fn create() -> Result<Self, WorkspaceError> {
        let within = std::env::temp_dir();
        let failed = |error| WorkspaceError::Folder(within.clone(), error);
        sweep(&within);
        let (folder, lock) = locked(&within).map_err(failed)?;
        for name in ["nothing", "containers"] {
            fs::create_dir(folder.path().join(name)).map_err(failed)?;
        }
        let groups = Groups::create(&name(folder.path()))?;
        let recorded = groups.folders().map(|folder| format!("{}\n", folder.display()));
        fs::write(folder.path().join(GROUPS), recorded.collect::<String>()).map_err(failed)?;
        Ok(Self { groups, folder, _lock: lock })
    }

    pub(super) fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The copy of the runtime that runs, whatever happens to the file that it was made of.
    pub(super) fn runtime(&self) -> PathBuf {
        self.folder.path().join("runsc")
    }

    /// The copy of a root file system's image.
    pub(super) fn root(&self, name: RootName) -> PathBuf {
        self.folder.path().join(name.as_str()).with_extension("erofs")
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

/// A new folder, its owner's alone, and locked. The lock is the folder itself: what cleans up by
/// age (tmpfiles.d(5)) leaves such folders alone.
fn locked(within: &Path) -> io::Result<(TempDir, File)> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).permissions(fs::Permissions::from_mode(0o700));
    for _ in 0..TRIES_MAX {
        let folder = builder.tempdir_in(within)?;
        let lock = File::open(folder.path())?;
        // Else it was taken for one that is left, before it was locked.
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() && folder.path().exists()
        {
            return Ok((folder, lock));
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Removes what this user's supervisors have left that do not live any more. A folder says which
/// groups were its supervisor's, and stays until they are gone.
fn sweep(within: &Path) {
    let entries = fs::read_dir(within).into_iter().flatten().flatten();
    for folder in entries.map(|entry| entry.path()) {
        if !name(&folder).starts_with(PREFIX) {
            continue;
        }
        let Ok(Some(_lock)) = left(&folder) else { continue };
        let groups = fs::read_to_string(folder.join(GROUPS)).unwrap_or_default();
        let gone: Vec<bool> = groups.lines().map(|group| Groups::sweep(Path::new(group))).collect();
        if gone.into_iter().all(|gone| gone) {
            // What cannot be removed now can be next time.
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

/// The folder's lock, if its supervisor has left it.
fn left(folder: &Path) -> io::Result<Option<File>> {
    let metadata = fs::symlink_metadata(folder)?;
    if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() {
        return Ok(None);
    }
    let lock = File::open(folder)?;
    Ok(flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(lock))
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
        let left_groups: Vec<_> = groups.folders().map(Path::to_path_buf).collect();
        std::mem::forget(groups);
        let _ = folder.keep();
        drop(_lock);
        let next = Workspace::create().unwrap();
        assert!(here.exists() && !there.exists());
        assert!(left_groups.iter().all(|group| !group.exists()));
        drop((one, next));
        assert!(!here.exists());
    }
}
