//! What runs in a guest: the supervisor, the connector's root file system, and gVisor's runtime.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::{
    image::{self, Elsewhere},
    repo, root_file_system,
    run::{release_folder, step},
    runsc,
};

const SUPERVISOR: &str = "toani-sandbox";
const CONNECTOR: &str = "toani-connector";
const ROOT_FILE_SYSTEM: &str = "connector.erofs";
const RUNSC: &str = "runsc";

/// Where they are.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) supervisor: PathBuf,
    /// What the native driver runs.
    pub(super) connector: PathBuf,
    /// What gVisor runs.
    pub(super) root_file_system: PathBuf,
    pub(super) runsc: PathBuf,
}

impl Programs {
    /// Those of a folder, whoever has built them.
    pub(super) fn of(folder: &Path) -> Self {
        Self {
            supervisor: folder.join(SUPERVISOR),
            connector: folder.join(CONNECTOR),
            root_file_system: folder.join(ROOT_FILE_SYSTEM),
            runsc: folder.join(RUNSC),
        }
    }

    /// Builds them so that the same source gives the same bytes in any folder.
    pub(super) fn build() -> Result<Self> {
        step("building the guest's programs (some minutes the first time)");
        root_file_system::build()?;
        runsc::setup()?;
        let supervisor = link(&repo::root(), &target())?;
        Ok(Self { supervisor, ..Self::of(&release_folder()) })
    }

    /// Builds the supervisor once more, from a copy of the sources in another folder.
    pub(super) fn same_elsewhere(&self) -> Result<()> {
        step("building the guest's supervisor once more, in another folder");
        let elsewhere = Elsewhere::new()?;
        let other = std::fs::read(link(&elsewhere.sources, &elsewhere.target)?)?;
        ensure!(
            other == std::fs::read(&self.supervisor)?,
            "another folder gives another supervisor: something of the folder's name is in it"
        );
        Ok(())
    }
}

fn target() -> PathBuf {
    release_folder().with_file_name("guest")
}

fn link(root: &Path, target: &Path) -> Result<PathBuf> {
    image::link_program((SUPERVISOR, SUPERVISOR), root, target, &[])
}
