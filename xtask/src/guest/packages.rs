//! The Debian packages whose files are in a guest: fetched once, unpacked, never installed.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{repo::root, run::step};

/// Where they are kept; git ignores it.
const FOLDER: &str = ".toani/guest";
/// Each needs a kernel of its line, and brings nothing by itself. The first is in bookworm and can do
/// SEV-SNP; where it is not known, the release's own kernel can.
const KERNELS: &[&str] = &["linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"];
const KERNEL_PREFIX: &str = "linux-image-";
const BUSYBOX: &str = "busybox-static";

/// Package files.
#[derive(Debug, Clone)]
pub(super) struct Packages {
    pub(super) kernel: PathBuf,
    pub(super) busybox: PathBuf,
}

impl Packages {
    /// Fetches what is not there. What is there stays, so that a digest does not change by itself;
    /// who wants newer ones deletes the folder.
    pub(super) fn fetch(kernel: Option<&Path>) -> Result<Self> {
        let folder = root().join(FOLDER);
        std::fs::create_dir_all(&folder)?;
        let kernel = match kernel {
            Some(file) => file.to_owned(),
            None => match kept(&folder, KERNEL_PREFIX)? {
                Some(file) => file,
                None => download(&folder, &kernel_package()?)?,
            },
        };
        let busybox = match kept(&folder, BUSYBOX)? {
            Some(file) => file,
            None => download(&folder, BUSYBOX)?,
        };
        Ok(Self { kernel, busybox })
    }
}

/// Fetches both packages, for `./x setup`.
pub(crate) fn fetch() -> Result<()> {
    Packages::fetch(None).map(drop)
}

/// A package file that was fetched before.
fn kept(folder: &Path, prefix: &str) -> Result<Option<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(prefix) && name.ends_with(".deb") {
            found.push(folder.join(&*name));
        }
    }
    ensure!(found.len() < 2, "{} holds more than one {prefix}*.deb: keep one", folder.display());
    Ok(found.pop())
}

/// The package that a kernel's meta-package depends on.
fn kernel_package() -> Result<String> {
    for meta in KERNELS {
        let output = Command::new("apt-cache").args(["depends", meta]).output();
        let output =
            output.context("cannot run apt-cache; --kernel FILE names a kernel's package")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut depends = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        if let Some(package) = depends.find(|name| name.starts_with(KERNEL_PREFIX)) {
            return Ok(package.to_owned());
        }
    }
    bail!("apt knows no {}: apt-get update, or name one by --kernel FILE", KERNELS.join(" or "))
}

fn download(folder: &Path, package: &str) -> Result<PathBuf> {
    step(&format!("fetching {package} with apt-get"));
    let status = Command::new("apt-get")
        .args(["download", "-qq", package])
        .current_dir(folder)
        .status()
        .context("cannot run apt-get")?;
    if !status.success() {
        bail!("apt-get download {package} failed; apt-get update helps if its lists are old");
    }
    kept(folder, package)?.with_context(|| format!("apt-get has left no {package}"))
}

/// Unpacks a package into a folder.
pub(super) fn unpack(package: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("dpkg-deb");
    let status = command.arg("-x").arg(package).arg(to).status().context("cannot run dpkg-deb")?;
    ensure!(status.success(), "dpkg-deb refuses {}", package.display());
    Ok(())
}
