//! The repository as the checks see it: packages and texts, loaded once, or made up by a test.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, MetadataCommand};

/// Files beyond this are data, not text to check.
const TEXT_BYTES_MAX: u64 = 4 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Normal,
    Build,
    Dev,
}

/// The image's workspace.
pub(crate) const IMAGE: &str = "image";

/// One package of the dependency graph.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Folder within the repository; `None` for what comes from a registry.
    pub(crate) folder: Option<String>,
    pub(crate) license: Option<String>,
    pub(crate) source: Option<String>,
    /// Keys of `Repo::packages`.
    pub(crate) dependencies: BTreeSet<(String, Kind)>,
}

/// Everything that a check may look at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repo {
    /// By package id.
    pub(crate) packages: BTreeMap<String, Package>,
    /// By path from the root, with `/`: the texts of the repository.
    pub(crate) files: BTreeMap<String, String>,
    /// All paths, those of binary files and of folders too.
    pub(crate) paths: BTreeSet<String>,
}

/// The repository's root folder.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

impl Repo {
    pub(crate) fn load(root: &Path) -> Result<Self> {
        let mut repo =
            Self { packages: load_packages(root, &root.join(IMAGE))?, ..Self::default() };
        repo.packages.extend(load_packages(root, root)?);
        for path in list_files(root)? {
            let full = root.join(&path);
            // Listed, but deleted and not yet committed.
            let Ok(facts) = full.symlink_metadata() else {
                continue;
            };
            if facts.is_file() && facts.len() <= TEXT_BYTES_MAX {
                let bytes = std::fs::read(&full).with_context(|| format!("cannot read {path}"))?;
                if let Ok(text) = String::from_utf8(bytes) {
                    repo.files.insert(path.clone(), text);
                }
            }
            repo.add_path(&path);
        }
        Ok(repo)
    }

    fn add_path(&mut self, path: &str) {
        let mut folder = path;
        while let Some((parent, _)) = folder.rsplit_once('/') {
            self.paths.insert(parent.to_owned());
            folder = parent;
        }
        self.paths.insert(path.to_owned());
    }

    /// Members of the workspace.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &Package)> {
        self.packages
            .iter()
            .filter(|(_, package)| package.folder.is_some())
            .map(|(id, package)| (id.as_str(), package))
    }

    /// Direct dependencies of a package, of the kinds that `wanted` accepts.
    pub(crate) fn direct(&self, package: &Package, wanted: &[Kind]) -> Vec<&Package> {
        let dependencies = package.dependencies.iter();
        dependencies
            .filter(|(_, kind)| wanted.contains(kind))
            .filter_map(|(id, _)| self.packages.get(id))
            .collect()
    }

    /// The ids of everything that `start` links, itself included.
    pub(crate) fn closure<'a>(&'a self, start: &'a str) -> BTreeSet<&'a str> {
        let mut seen = BTreeSet::new();
        let mut open = vec![start];
        while let Some(id) = open.pop() {
            let Some(package) = self.packages.get(id) else {
                continue;
            };
            if seen.insert(id) {
                let linked = package.dependencies.iter();
                open.extend(
                    linked.filter(|(_, kind)| *kind == Kind::Normal).map(|(id, _)| id.as_str()),
                );
            }
        }
        seen
    }

    /// Rust sources below a folder; `""` is everything.
    pub(crate) fn rust_files<'a>(
        &'a self,
        folder: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.files
            .iter()
            .filter(move |(path, _)| path.starts_with(folder) && path.ends_with(".rs"))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    #[cfg(test)]
    pub(crate) fn with_file(mut self, path: &str, text: &str) -> Self {
        self.add_path(path);
        self.files.insert(path.to_owned(), text.to_owned());
        self
    }
}

/// Tracked files, and those that would be tracked.
pub(crate) fn list_files(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot run git; install it (apt-get install git)")?;
    if !output.status.success() {
        bail!("git ls-files failed; is this a git checkout?");
    }
    let text = String::from_utf8(output.stdout).context("a path is not UTF-8")?;
    Ok(text.split_terminator('\0').map(str::to_owned).collect())
}

/// The packages of the workspace in `folder`; folders are told from the repository's root.
fn load_packages(root: &Path, folder: &Path) -> Result<BTreeMap<String, Package>> {
    let metadata = MetadataCommand::new()
        .current_dir(folder)
        .other_options(vec!["--filter-platform".to_owned(), "x86_64-unknown-linux-gnu".to_owned()])
        .exec()?;
    let resolve = metadata.resolve.context("cargo metadata has no resolution")?;
    let used: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut packages = BTreeMap::new();
    for package in &metadata.packages {
        let Some(node) = used.get(&package.id) else {
            continue;
        };
        let mut dependencies = BTreeSet::new();
        for dependency in &node.deps {
            for kind in &dependency.dep_kinds {
                let kind = match kind.kind {
                    DependencyKind::Build => Kind::Build,
                    DependencyKind::Development => Kind::Dev,
                    _ => Kind::Normal,
                };
                dependencies.insert((dependency.pkg.repr.clone(), kind));
            }
        }
        let manifest = package.manifest_path.as_std_path();
        let folder = manifest
            .parent()
            .and_then(|folder| folder.strip_prefix(root).ok())
            .and_then(Path::to_str)
            .filter(|_| package.source.is_none());
        let found = Package {
            name: package.name.to_string(),
            version: package.version.to_string(),
            folder: folder.map(str::to_owned),
            license: package.license.clone(),
            source: package.source.as_ref().map(|source| source.repr.clone()),
            dependencies,
        };
        packages.insert(package.id.repr.clone(), found);
    }
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_repository_loads() {
        let repo = Repo::load(&root()).unwrap();
        assert!(repo.files.contains_key("trusted/protocol/src/lib.rs"));
        assert!(repo.paths.contains("trusted/protocol"));
        let protocol = repo.members().find(|(_, p)| p.name == "toani-protocol");
        let (id, package) = protocol.unwrap();
        assert_eq!(package.folder.as_deref(), Some("trusted/protocol"));
        assert!(repo.closure(id).len() > 5);
    }
}
