//! gVisor's runtime: the one on PATH if it is new enough, else one that is built here, once.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};
use toani_sandbox::gvisor::{RUNTIME_LEAST, date};

use crate::{
    repo::root,
    run::{release_folder, step},
    tools,
};

const NAME: &str = "runsc";
/// Pins the version, and the hashes of all that it is built from.
const MODULE: &str = "host/sandbox/runsc";
const PACKAGE: &str = "gvisor.dev/gvisor/runsc";
/// The date within the pinned version: what the runtime says of itself.
const VERSION: &str = "20260518";

/// Puts a runtime beside the programs.
pub(crate) fn setup() -> Result<()> {
    let runtime = match on_path() {
        Some(runtime) => runtime,
        None => built()?,
    };
    let beside = release_folder().join(NAME);
    if std::fs::read_link(&beside).is_ok_and(|target| target == runtime) {
        return Ok(());
    }
    std::fs::create_dir_all(release_folder())?;
    if beside.symlink_metadata().is_ok() {
        std::fs::remove_file(&beside)?;
    }
    std::os::unix::fs::symlink(&runtime, &beside)
        .with_context(|| format!("cannot link {}", beside.display()))
}

fn on_path() -> Option<PathBuf> {
    let runtime = tools::find(NAME)?;
    let output = Command::new(&runtime).arg("--version").output().ok()?;
    let version = date(String::from_utf8(output.stdout).ok()?.lines().next()?)?;
    (version >= RUNTIME_LEAST).then_some(runtime)
}

fn built() -> Result<PathBuf> {
    let folder = root().join(".toani").join(format!("{NAME}-{VERSION}"));
    let runtime = folder.join(NAME);
    if runtime.is_file() {
        return Ok(runtime);
    }
    let Some(go) = tools::find("go") else {
        bail!(
            "the sandbox needs gVisor's runsc of {RUNTIME_LEAST} or later: install it \
             (gvisor.dev/docs/user_guide/install), or Go 1.25.5 or later to build it here \
             (go.dev/doc/install), and run ./x setup again"
        );
    };
    step(&format!("building gVisor's runsc {VERSION} (1 to 3 minutes, once)"));
    std::fs::create_dir_all(&folder)?;
    // Under another name until it is whole.
    let new = folder.join("new");
    let status = Command::new(go)
        .args(["build", "-trimpath", "-mod=readonly", "-ldflags"])
        .arg(format!("-s -w -X {PACKAGE}/version.version={VERSION}"))
        .arg("-o")
        .arg(&new)
        .arg(PACKAGE)
        .env("CGO_ENABLED", "0")
        .current_dir(root().join(MODULE))
        .status()
        .context("cannot run go")?;
    if !status.success() {
        bail!("runsc does not build; go of 1.25.5 or later is needed, or a runsc on PATH");
    }
    std::fs::rename(&new, &runtime)?;
    Ok(runtime)
}
