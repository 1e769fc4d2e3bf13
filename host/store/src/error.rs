//! What can go wrong.

use std::{io, path::PathBuf};

use toani_protocol::Hash;

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("cannot {action} {path}: {error}", path = path.display())]
    Io { action: &'static str, path: PathBuf, error: io::Error },
    #[error(
        "the data folder {path} is in use by {holder}; stop that one first, or choose another \
         folder",
        path = path.display()
    )]
    InUse { path: PathBuf, holder: String },
    #[error("the data folder {path} has a sealed root already; it is never replaced", path = .0.display())]
    RootExists(PathBuf),
}

/// Why the store did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("the store failed: {0}")]
    Database(String),
    #[error(
        "the store was made by a newer version (schema {found}, this one knows {known}); use that version"
    )]
    Newer { found: i64, known: i64 },
    #[error("the blob {0} is damaged on disk")]
    Damaged(Hash),
    #[error("a leaf is not a record")]
    NotARecord,
    #[error("the record {found} cannot be projected before {expected}")]
    Gap { expected: u64, found: u64 },
    #[error("the store is closed")]
    Closed,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.to_string())
    }
}
