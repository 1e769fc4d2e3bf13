//! The guest of virtual machines, as `./x image guest` builds it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};

/// Builds the guest of a folder's programs into another folder.
pub fn build(programs: &Path, output: &Path) -> anyhow::Result<()> {
    let mut build = Command::new(env!("CARGO"));
    build
        .args(["run", "--quiet", "--package", "xtask", "--", "image", "guest", "--programs"])
        .arg(std::path::absolute(programs)?)
        .arg("--output")
        .arg(output)
        .current_dir(workspace()?)
        .stdout(Stdio::null());
    // What cargo tells a test about its package would make build scripts run again.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            build.env_remove(&*name);
        }
    }
    let status = build.status().context("cannot run cargo")?;
    ensure!(status.success(), "no guest can be built; ./x setup fetches what it is made of");
    Ok(())
}

fn workspace() -> anyhow::Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(own.parent().context("the package is in the workspace")?.to_path_buf())
}
