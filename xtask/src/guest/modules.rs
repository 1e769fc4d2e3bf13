//! The kernel's modules that a guest needs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::cpio::Archive;

const NEEDED: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "configfs",
    // The channel's way where the host's kernel has it.
    "vmw_vsock_virtio_transport",
];

/// Attestation reports, which Debian's kernels hand out from 6.12 on. It loads in an SEV-SNP guest
/// and nowhere else.
const NEEDED_BY_SNP: &[&str] = &["sev_guest"];

/// Puts them in with what they depend on, numbered: the guest's first process loads them by the
/// order of their names.
pub(super) fn add(archive: &mut Archive, unpacked: &Path, snp: bool) -> Result<()> {
    let folder = only_folder(&unpacked.join("lib/modules"))?;
    let builtin = std::fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
    let mut modules = Modules { files: files_under(&folder)?, builtin, order: Vec::new() };
    for name in NEEDED {
        modules.visit(name)?;
    }
    for name in NEEDED_BY_SNP.iter().filter(|_| snp) {
        modules.visit(name).context("SEV-SNP needs a kernel that hands out reports")?;
    }
    for (number, (name, bytes)) in modules.order.into_iter().enumerate() {
        archive.file(&format!("lib/modules/{number:02}-{name}.ko"), bytes);
    }
    Ok(())
}

struct Modules {
    files: Vec<PathBuf>,
    builtin: String,
    /// Each after those that it depends on.
    order: Vec<(String, Vec<u8>)>,
}

impl Modules {
    fn file(&self, name: &str) -> Option<&PathBuf> {
        self.files.iter().find(|file| is_module(file, name))
    }

    /// The kernel's modules depend on each other without circles.
    fn visit(&mut self, name: &str) -> Result<()> {
        if self.order.iter().any(|(known, _)| known == name) {
            return Ok(());
        }
        let Some(file) = self.file(name) else {
            ensure!(is_builtin(&self.builtin, name), "the kernel's package has no module {name}");
            return Ok(());
        };
        let bytes = read(file)?;
        for dependency in dependencies(&bytes) {
            self.visit(&dependency)?;
        }
        self.order.push((name.to_owned(), bytes));
        Ok(())
    }
}

/// What a module says of itself, as strings that end with a zero byte: `depends=a,b`.
fn dependencies(module: &[u8]) -> Vec<String> {
    let words = module.split(|byte| *byte == 0);
    let list = words.filter_map(|word| word.strip_prefix(b"depends=")).next().unwrap_or_default();
    let list = String::from_utf8_lossy(list).replace('-', "_");
    list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// File names have hyphens where modules have underscores, or not.
fn stem(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.split(".ko").next().unwrap_or_default().replace('-', "_")
}

fn is_module(file: &Path, name: &str) -> bool {
    let path = file.to_string_lossy();
    (path.ends_with(".ko") || path.ends_with(".ko.xz")) && stem(&path) == name
}

fn is_builtin(list: &str, name: &str) -> bool {
    list.lines().any(|line| stem(line) == name)
}

/// A module as the guest loads it: without compression.
fn read(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "ko") {
        return std::fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    }
    let output = Command::new("xz").args(["-d", "-c"]).arg(file).output();
    let output = output.context("cannot run xz; install xz-utils")?;
    ensure!(output.status.success(), "xz refuses {}", file.display());
    Ok(output.stdout)
}

fn only_folder(folder: &Path) -> Result<PathBuf> {
    let mut found = std::fs::read_dir(folder)
        .with_context(|| format!("the kernel's package has no {}", folder.display()))?;
    let first = found.next().context("the kernel's package holds no modules")??;
    Ok(first.path())
}

fn files_under(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_stand_in_the_module() {
        let module = b"\x7fELF\0license=GPL\0depends=virtio_ring,virtio-pci\0name=x\0";
        assert_eq!(dependencies(module), ["virtio_ring", "virtio_pci"]);
        assert!(dependencies(b"\0depends=\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }

    /// A module comes after what it needs, and those of SEV-SNP where it is asked for.
    #[test]
    fn a_protected_guest_gets_the_driver_that_hands_out_reports() {
        let unpacked = tempfile::tempdir().unwrap();
        let folder = unpacked.path().join("lib/modules/6.12");
        std::fs::create_dir_all(&folder).unwrap();
        for (file, text) in [
            ("sev-guest.ko", "\0depends=tsm\0"),
            ("tsm.ko", "\0depends=configfs\0"),
            ("configfs.ko", ""),
            ("virtio_pci.ko", ""),
            ("virtio_console.ko", ""),
            ("virtio_net.ko", ""),
            ("vmw_vsock_virtio_transport.ko", ""),
        ] {
            std::fs::write(folder.join(file), text).unwrap();
        }
        let names = |snp| {
            let mut archive = Archive::default();
            add(&mut archive, unpacked.path(), snp).unwrap();
            let bytes = String::from_utf8_lossy(&archive.bytes().unwrap()).into_owned();
            let at = |name: &str| bytes.find(&format!("-{name}.ko"));
            (at("configfs"), at("tsm"), at("sev_guest"))
        };
        let (Some(configfs), Some(tsm), Some(driver)) = names(true) else { panic!() };
        assert!(configfs < tsm && tsm < driver);
        assert_eq!(names(false).1, None);
        assert_eq!(names(false).2, None);
        std::fs::remove_file(folder.join("sev-guest.ko")).unwrap();
        let error = add(&mut Archive::default(), unpacked.path(), true).unwrap_err();
        assert!(format!("{error:#}").contains("hands out reports"), "{error:#}");
    }

    #[test]
    fn names_are_told_from_each_other() {
        assert!(is_module(Path::new("a/virtio-rng.ko.xz"), "virtio_rng"));
        assert!(!is_module(Path::new("a/virtio.ko"), "virtio_ring"));
        assert!(!is_module(Path::new("a/virtio.txt"), "virtio"));
        assert!(is_builtin("kernel/fs/configfs/configfs.ko\n", "configfs"));
    }
}
