//! An independent checker: reads a log's folder on a path of its own, changes nothing, and says
//! what is there. It shares no reading code with the writer, because it is the tests' oracle.

use std::{fs, io, path::Path};

use toani_audit::tree::{empty_root, node_hash};
use toani_protocol::{Hash, record::Record};

/// What lies in a log's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsckReport {
    /// Whole entries from the first on that are canonical records and follow each other.
    pub entries: u64,
    /// Where the last of them ends.
    pub good_bytes: u64,
    /// Bytes after them.
    pub bad_bytes: u64,
    /// Root of the tree over them.
    pub root: Hash,
    /// Size that the kept checkpoint states, unverified.
    pub checkpoint_size: Option<u64>,
    /// Whether the kept checkpoint states the root of so many of these entries.
    pub checkpoint_fits: bool,
}

impl FsckReport {
    /// Nothing is amiss.
    pub fn is_clean(&self) -> bool {
        self.bad_bytes == 0 && (self.checkpoint_size.is_none() || self.checkpoint_fits)
    }
}

/// The folder cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    #[error("cannot read the log: {0}")]
    Io(#[from] io::Error),
    #[error("the file does not begin as a log does")]
    NotALog,
}

/// Checks the log in `folder`, which should not be open.
pub fn fsck(folder: &Path) -> Result<FsckReport, FsckError> {
    let bytes = fs::read(folder.join("records.log"))?;
    let body = bytes.strip_prefix(b"toani-log/1\n\0\0\0\0").ok_or(FsckError::NotALog)?;
    let (mut hashes, mut previous, mut rest) = (Vec::new(), Hash::ZERO, body);
    while let Some((leaf, tail)) = entry(rest, hashes.len(), previous) {
        previous = Record::hash_of(leaf);
        hashes.push(previous);
        rest = tail;
    }
    let note = fs::read_to_string(folder.join("checkpoint")).ok();
    let mut lines = note.iter().flat_map(|note| note.lines()).skip(1);
    let checkpoint_size = lines.next().and_then(|line| line.parse().ok());
    let covered = checkpoint_size
        .and_then(|size: u64| usize::try_from(size).ok())
        .and_then(|size| hashes.get(..size));
    let checkpoint_fits = match (covered, lines.next()) {
        (Some(covered), Some(line)) => toani_audit::checkpoint::body("x", 0, &root(covered))
            .lines()
            .nth(2)
            .is_some_and(|root| root == line),
        _ => false,
    };
    let length = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    Ok(FsckReport {
        entries: u64::try_from(hashes.len()).unwrap_or(u64::MAX),
        good_bytes: length(&bytes) - length(rest),
        bad_bytes: length(rest),
        root: root(&hashes),
        checkpoint_size,
        checkpoint_fits,
    })
}

/// The entry at the beginning of `bytes`, if it is whole and the one that is due.
fn entry(bytes: &[u8], due: usize, previous: Hash) -> Option<(&[u8], &[u8])> {
    let number = |from: usize, to: usize| {
        let field = bytes.get(from..to)?.iter().rev();
        Some(field.fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte)))
    };
    let length = usize::try_from(number(4, 8)?).ok()?;
    let leaf = bytes.get(28..28usize.checked_add(length)?)?;
    let checked = [bytes.get(..24)?, leaf].concat();
    let record = Record::decode(leaf).ok()?;
    let good = bytes.starts_with(b"tle1")
        && number(8, 16)? == u64::try_from(due).ok()?
        && number(24, 28)? == u64::from(crc32fast::hash(&checked))
        && record.index == number(8, 16)?
        && record.previous == previous;
    good.then_some((leaf, bytes.get(28 + length..)?))
}

/// The tree by its definition (RFC 9162, section 2.1.1).
fn root(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => empty_root(),
        [one] => *one,
        _ => {
            let (left, right) = hashes.split_at(hashes.len().next_power_of_two() / 2);
            node_hash(&root(left), &root(right))
        }
    }
}
