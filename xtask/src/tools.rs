//! Programs that tests start and that are no crates.

use std::{os::unix::fs::MetadataExt, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use crate::{guest, run::step};

/// A program, the Debian package that brings it, and what else that package does.
type Tool = (&'static str, &'static str, &'static str);

/// What tests start, and what builds images.
const TOOLS: &[Tool] = &[
    ("openssl", "openssl", ""),
    ("mkfs.erofs", "erofs-utils", ""),
    (
        "redis-server",
        "redis-server",
        "; where systemd runs, the package also starts a Redis on 127.0.0.1:6379, which no test \
         needs: systemctl disable --now redis-server",
    ),
    ("qemu-system-x86_64", "qemu-system-x86", " without a display"),
    // Modules of some kernels are compressed by it.
    ("xz", "xz-utils", ""),
];

/// Installs what is missing, or says how, and fetches what a guest is made of. A test that needs
/// what is still missing then fails.
pub(crate) fn setup() -> Result<()> {
    provide(TOOLS)?;
    let can_update = is_root() && is_there("apt-get");
    let fetched = match guest::fetch() {
        // Package lists may be old, or not there at all.
        Err(_) if can_update => apt(&["update", "-qq"]).and_then(|()| guest::fetch()),
        other => other,
    };
    if let Err(error) = fetched {
        println!("note: no guest can be built: {error:#}");
    }
    Ok(())
}

/// Installs what is missing of these, or says how.
pub(crate) fn provide(tools: &[Tool]) -> Result<()> {
    let missing: Vec<_> = tools.iter().filter(|(program, ..)| !is_there(program)).collect();
    let packages: Vec<_> = missing.iter().map(|(_, package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() || !is_there("apt-get") {
        let packages = packages.join(" ");
        println!(
            "note: this needs {packages}: sudo apt-get update && sudo apt-get install -y {packages}"
        );
        return Ok(());
    }
    for (_, package, besides) in &missing {
        step(&format!("installing {package} with apt-get (less than a minute){besides}"));
    }
    apt(&["update", "-qq"])?;
    apt(&[&["install", "-y", "-qq", "--no-install-recommends"], packages.as_slice()].concat())?;
    Ok(())
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut apt = Command::new("apt-get");
    let status = apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").status();
    match status.context("cannot run apt-get")?.success() {
        true => Ok(()),
        false => bail!("apt-get {} failed", arguments.join(" ")),
    }
}

/// The owner of this process's folder in /proc is its effective user.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn is_there(program: &str) -> bool {
    find(program).is_some()
}

/// A program on PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).map(|folder| folder.join(program)).find(|path| path.is_file())
}
