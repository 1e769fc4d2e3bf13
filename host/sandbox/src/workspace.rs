//! What a supervisor has on its machine, a folder and a control group, and how both are gone
//! afterwards, also after a supervisor that was killed.

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

use crate::{
    cgroup::{Groups, NoGroups},
    share::Share,
};

const PREFIX: &str = "toani-sandbox-";
/// Names the control groups.
const GROUPS: &str = "groups";
const TRIES_MAX: usize = 8;
const ID_BYTES: usize = 16;

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
pub(crate) struct Workspace {
    // First: containers are in it, and their files are open.
    groups: Groups,
    folder: TempDir,
    /// Of the folder, for as long as the supervisor lives.
    _lock: File,
}

impl Workspace {
    pub(crate) fn create(share: Share) -> Result<Self, WorkspaceError> {
        let within = std::env::temp_dir();
        let failed = |error| WorkspaceError::Folder(within.clone(), error);
        sweep(&within);
        let (folder, lock) = locked(&within).map_err(failed)?;
        let groups = Groups::create(&name(folder.path()), share)?;
        let recorded = groups.folders().map(|folder| format!("{}\n", folder.display()));
        fs::write(folder.path().join(GROUPS), recorded.collect::<String>()).map_err(failed)?;
        Ok(Self { groups, folder, _lock: lock })
    }

    pub(crate) fn groups(&self) -> &Groups {
        &self.groups
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // The folder names the groups for the next start, which clears them away.
        if !self.groups.remove() {
            self.folder.disable_cleanup(true);
        }
    }
}

/// Names a container. Of one length, because gVisor takes the beginning of an id for the whole.
pub(crate) fn new_id() -> io::Result<String> {
    let mut bytes = [0; ID_BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
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
    use crate::cgroup::Limits;

    #[test]
    fn a_workspace_is_gone_with_its_owner_and_swept_without_it() {
        let one = Workspace::create(Share::default()).unwrap();
        let left = Workspace::create(Share::default()).unwrap();
        let (here, there) = (one.folder.path().to_path_buf(), left.folder.path().to_path_buf());
        // As if its supervisor had been killed: the lock is gone and nothing else.
        let left_groups: Vec<_> = left.groups.folders().map(Path::to_path_buf).collect();
        let lock = left._lock.try_clone().unwrap();
        std::mem::forget(left);
        flock(&lock, FlockOperation::Unlock).unwrap();
        let next = Workspace::create(Share::default()).unwrap();
        assert!(here.exists() && !there.exists());
        assert!(left_groups.iter().all(|group| !group.exists()));
        drop((one, next));
        assert!(!here.exists());
    }

    #[test]
    fn a_folder_stays_for_as_long_as_its_groups() {
        let workspace = Workspace::create(Share::default()).unwrap();
        let folder = workspace.path().to_path_buf();
        let limits = Limits { memory_bytes: 64 << 20, threads: 8 };
        // A group that is not dropped is one whose processes do not end.
        std::mem::forget(workspace.groups().group("stays", limits).unwrap());
        drop(workspace);
        assert!(folder.join(GROUPS).exists(), "the next start finds what to clear away");
        drop(Workspace::create(Share::default()).unwrap());
        assert!(!folder.exists());
    }
}
