//! The folder of one person or machine: keys, policies, the trust file. Where all of them are in
//! one folder, that is for a start; `toani init` says which belong elsewhere.

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use toani_protocol::{canonical, limits::DOCUMENT_BYTES_MAX, trust::TrustFile};

pub(crate) fn default() -> PathBuf {
    match std::env::var_os("HOME") {
        Some(home) => Path::new(&home).join(".toani"),
        None => PathBuf::from(".toani"),
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Home {
    root: PathBuf,
}

impl Home {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The plane's own folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(crate) fn operator_key(&self) -> PathBuf {
        self.root.join("operator/operator.key")
    }

    pub(crate) fn policy_key(&self) -> PathBuf {
        self.root.join("tenant/policy.key")
    }

    /// The policy key that is to follow, until the plane has taken it.
    pub(crate) fn next_policy_key(&self) -> PathBuf {
        self.root.join("tenant/policy.next.key")
    }

    /// A policy key that was followed by another.
    pub(crate) fn old_policy_key(&self, sequence: u64) -> PathBuf {
        self.root.join(format!("tenant/policy-{sequence}.key"))
    }

    pub(crate) fn owner_key(&self) -> PathBuf {
        self.root.join("owner/owner.key")
    }

    pub(crate) fn agent_key(&self, agent: &str) -> PathBuf {
        self.root.join("agents").join(format!("{agent}.key"))
    }

    pub(crate) fn approver_key(&self, person: &str) -> PathBuf {
        self.root.join("approvers").join(format!("{person}.key"))
    }

    /// The CA and what it has issued.
    pub(crate) fn tls(&self, name: &str) -> PathBuf {
        self.root.join("tls").join(name)
    }

    pub(crate) fn trust_file(&self) -> PathBuf {
        self.root.join("trust.json")
    }

    /// What this side believes, from outside of the plane.
    pub(crate) fn trust(&self) -> anyhow::Result<TrustFile> {
        let path = self.trust_file();
        if !path.exists() {
            bail!(
                "there is no {}; `toani init` makes one, --home names another folder",
                path.display()
            );
        }
        read_trust(&path)
    }
}

pub(crate) fn read_trust(path: &Path) -> anyhow::Result<TrustFile> {
    let bytes = read(path)?;
    canonical::decode(&bytes, DOCUMENT_BYTES_MAX)
        .with_context(|| format!("{} is no trust file", path.display()))
}

pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file whole or not at all, for its owner alone.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = folder_of(path)?;
    let save = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    save().with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a file that must not be there yet. When it returns, the file stays: keys are made so.
pub(crate) fn create(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = folder_of(path)?;
    if path.exists() {
        bail!("{} is there already, and is not written over; move it away first", path.display());
    }
    let create = || -> std::io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::File::open(folder)?.sync_all()
    };
    create().with_context(|| format!("cannot create {}", path.display()))
}

fn folder_of(path: &Path) -> anyhow::Result<&Path> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    Ok(folder)
}
