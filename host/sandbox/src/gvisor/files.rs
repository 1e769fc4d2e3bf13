//! What the driver keeps in a supervisor's folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use toani_protocol::policy::RootName;

use crate::workspace::Workspace;

impl Workspace {
    pub(super) fn make_folders(&self) -> io::Result<()> {
        fs::create_dir(self.nothing())?;
        fs::create_dir(self.containers())
    }

    /// The copy of the runtime that runs, whatever happens to the file that it was made of.
    pub(super) fn runtime(&self) -> PathBuf {
        self.path().join("runsc")
    }

    /// The copy of a root file system's image.
    pub(super) fn root(&self, name: RootName) -> PathBuf {
        self.path().join(name.as_str()).with_extension("erofs")
    }

    /// An empty folder.
    pub(super) fn nothing(&self) -> PathBuf {
        self.path().join("nothing")
    }

    pub(super) fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    fn containers(&self) -> PathBuf {
        self.path().join("containers")
    }
}

/// A container's folder.
#[derive(Debug)]
pub(super) struct Remains {
    folder: PathBuf,
    /// The folder's own folder stays for as long as this.
    _workspace: Arc<Workspace>,
}

impl Remains {
    pub(super) fn create(workspace: &Arc<Workspace>, id: &str) -> io::Result<Self> {
        let folder = workspace.container(id);
        fs::create_dir(&folder)?;
        Ok(Self { folder, _workspace: Arc::clone(workspace) })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the runtime has written, at most so many bytes of its end.
    pub(super) fn words(&self, max: usize) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let log = log.trim();
        let from = log.len().saturating_sub(max);
        log.get(from..).unwrap_or(log).to_owned()
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            crate::supervisor::log(&format!("{} stays behind: {error}", self.folder.display()));
        }
    }
}
