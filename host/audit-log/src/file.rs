//! The log's folder: files, locks, and recovery when it is opened.
//!
//! | file | content |
//! |---|---|
//! | `records.log` | a header and the entries; locked while open |
//! | `durable` | how many entries were durable; written after each commit, never waited for |
//! | `checkpoint` | the latest signed note |

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;
use toani_protocol::Hash;

use crate::{
    frame::{self, FILE_HEADER, HEADER_BYTES, Header},
    index::{Index, Placed},
};

pub(crate) const RECORDS: &str = "records.log";
pub(crate) const DURABLE: &str = "durable";
pub(crate) const CHECKPOINT: &str = "checkpoint";
const HEADER_END: u64 = 16;

/// The system calls of the writer, so that tests can make them fail.
pub trait Storage: Send + 'static {
    /// Writes at the end, all or an error.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// fdatasync.
    fn sync(&mut self) -> io::Result<()>;
    /// Notes how many entries are durable. Nobody waits for it and its failure is no failure: it
    /// only sharpens what recovery can tell.
    fn mark(&mut self, size: u64);
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot {action} {path}: {error}", path = path.display())]
    Io { action: &'static str, path: PathBuf, error: io::Error },
    #[error("{path} is in use by another process; stop that one first", path = .0.display())]
    InUse(PathBuf),
    #[error("{path} is not a log of this version; restore it from a backup or choose another folder", path = .0.display())]
    NotALog(PathBuf),
    #[error(
        "{path} is damaged at byte {offset}: entry {index} does not read back, although {durable} \
         entries were durable. Nothing was changed. Copy the folder away, check the disk, and \
         restore the folder from a backup or a replica; do not delete entries",
        path = path.display()
    )]
    Damaged { path: PathBuf, offset: u64, index: u64, durable: u64 },
}

/// What opening found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// Entries that are there.
    pub size: u64,
    /// Bytes cut from the end: a write that was torn before anybody was told that it is durable.
    pub cut_bytes: u64,
    /// Whole entries among them, which followed the torn one.
    pub cut_entries: u64,
}

/// An opened and recovered log.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) storage: Files,
    pub(crate) reader: File,
    pub(crate) index: Index,
    pub(crate) head: Hash,
    /// Bytes of the file.
    pub(crate) end: u64,
    pub(crate) recovery: Recovery,
}

impl<S: Storage + ?Sized> Storage for Box<S> {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        (**self).append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        (**self).sync()
    }

    fn mark(&mut self, size: u64) {
        (**self).mark(size);
    }
}

/// The real files.
#[derive(Debug)]
pub(crate) struct Files {
    records: File,
    mark: File,
    _lock: Lock,
}

/// The lock on `records.log`. It is given back by name: closing the file would leave it with a
/// child process that was forked at the same moment and has not begun to run its program.
#[derive(Debug)]
struct Lock(File);

impl Lock {
    fn take(records: &File, path: &Path) -> Result<Self, OpenError> {
        let file = records.try_clone().map_err(at("lock", path))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| OpenError::InUse(path.to_path_buf()))?;
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // At worst it stays until the process ends.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

impl Storage for Files {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.records.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.records.sync_data()
    }

    fn mark(&mut self, size: u64) {
        let size = size.to_le_bytes();
        let mut bytes = [0; 12];
        let (value, check) = bytes.split_at_mut(8);
        value.copy_from_slice(&size);
        check.copy_from_slice(&crc32fast::hash(&size).to_le_bytes());
        // See Storage::mark.
        let _ = self.mark.write_all_at(&bytes, 0);
    }
}

/// The noted size; 0 if there is none or it was torn.
pub(crate) fn read_mark(bytes: &[u8]) -> u64 {
    let parts = bytes
        .split_first_chunk::<8>()
        .and_then(|(size, check)| Some((size, check.first_chunk::<4>()?)));
    match parts {
        Some((size, check)) if crc32fast::hash(size) == u32::from_le_bytes(*check) => {
            u64::from_le_bytes(*size)
        }
        _ => 0,
    }
}

fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> OpenError + 'a {
    move |error| OpenError::Io { action, path: path.to_path_buf(), error }
}

/// An error of the file system, told with what was tried.
pub(crate) fn failed(action: &'static str, path: &Path, error: io::Error) -> OpenError {
    at(action, path)(error)
}

fn open_file(path: &Path) -> Result<File, OpenError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(at("open", path))
}

/// Opens the log in `folder`, makes it if it is not there, and repairs a torn end.
pub(crate) fn open(folder: &Path) -> Result<Opened, OpenError> {
    fs::create_dir_all(folder).map_err(at("make", folder))?;
    let path = folder.join(RECORDS);
    let mut records = open_file(&path)?;
    let lock = Lock::take(&records, &path)?;
    begin(&mut records, &path, folder)?;

    let mark_path = folder.join(DURABLE);
    let mut mark = open_file(&mark_path)?;
    let mut bytes = Vec::new();
    mark.read_to_end(&mut bytes).map_err(at("read", &mark_path))?;
    let mut scan = Scan::new(read_mark(&bytes));
    scan.walk(&records, &path)?;
    let recovery = scan.repair(&mut records, &path)?;
    let mut storage = Files { records, mark, _lock: lock };
    storage.mark(recovery.size);
    Ok(Opened {
        storage,
        reader: File::open(&path).map_err(at("open", &path))?,
        index: scan.index,
        head: scan.head,
        end: scan.end,
        recovery,
    })
}

/// Writes the header of a new log, or checks that of an old one.
fn begin(records: &mut File, path: &Path, folder: &Path) -> Result<(), OpenError> {
    let mut start = Vec::new();
    records.take(HEADER_END).read_to_end(&mut start).map_err(at("read", path))?;
    if start == FILE_HEADER {
        return Ok(());
    }
    if !FILE_HEADER.starts_with(&start) {
        return Err(OpenError::NotALog(path.to_path_buf()));
    }
    // New, or torn while it was made.
    records
        .write_all_at(FILE_HEADER, 0)
        .and_then(|()| records.sync_all())
        .and_then(|()| File::open(folder)?.sync_all())
        .map_err(at("write", path))
}

/// One pass over the file.
#[derive(Debug)]
struct Scan {
    index: Index,
    head: Hash,
    /// Where the last whole entry ends.
    end: u64,
    /// Entries of which there is evidence that they were durable.
    durable: u64,
    /// Where the first entry begins of which there is none.
    doubtful: u64,
}

impl Scan {
    fn new(durable: u64) -> Self {
        Self {
            index: Index::default(),
            head: Hash::ZERO,
            end: HEADER_END,
            durable,
            doubtful: HEADER_END,
        }
    }

    /// Reads entries until there is none, or none that is whole.
    fn walk(&mut self, records: &File, path: &Path) -> Result<(), OpenError> {
        let mut reader = BufReader::with_capacity(1 << 20, records);
        reader.seek(SeekFrom::Start(HEADER_END)).map_err(at("read", path))?;
        while let Some((header, leaf)) = next_entry(&mut reader).map_err(at("read", path))? {
            let size = self.index.size();
            let placed = Placed::read(leaf)
                .filter(|placed| header.index == size && placed.follows(size, &self.head));
            // The bytes are as they were written, and what was written is no log.
            let Some(placed) = placed else {
                self.durable = self.durable.max(size.saturating_add(1));
                return Ok(());
            };
            self.durable = self.durable.max(header.durable);
            self.head = placed.hash;
            self.index.push(self.end, placed);
            self.end += frame::bytes_of(header.length);
        }
        Ok(())
    }

    /// Cuts what was torn; refuses where more than that is gone.
    fn repair(&mut self, records: &mut File, path: &Path) -> Result<Recovery, OpenError> {
        let mut rest = Vec::new();
        records
            .seek(SeekFrom::Start(self.end))
            .and_then(|_| records.read_to_end(&mut rest))
            .map_err(at("read", path))?;
        let found = frame::search(&rest);
        let size = self.index.size();
        self.durable = self.durable.max(found.durable);
        if self.durable > size {
            return Err(OpenError::Damaged {
                path: path.to_path_buf(),
                offset: self.end,
                index: size,
                durable: self.durable,
            });
        }
        self.doubtful = self.index.offset(self.durable).unwrap_or(self.end);
        records
            .set_len(self.end)
            .and_then(|()| self.write_anew(records))
            .and_then(|()| records.sync_all())
            .map_err(at("repair", path))?;
        Ok(Recovery {
            size,
            cut_bytes: u64::try_from(rest.len()).unwrap_or(u64::MAX),
            cut_entries: found.entries,
        })
    }

    /// Writes again what may be in the page cache only: after a failed fdatasync the kernel takes
    /// such pages for written, and another fdatasync alone would not write them.
    fn write_anew(&self, records: &mut File) -> io::Result<()> {
        let mut at = self.doubtful;
        let mut buffer = vec![0; 1 << 20];
        while at < self.end {
            let length =
                usize::try_from(self.end - at).map_or(buffer.len(), |n| n.min(buffer.len()));
            let Some(chunk) = buffer.get_mut(..length) else {
                break;
            };
            records.read_exact_at(chunk, at)?;
            records.write_all_at(chunk, at)?;
            at += u64::try_from(length).unwrap_or(u64::MAX);
        }
        records.seek(SeekFrom::Start(self.end)).map(|_| ())
    }
}

/// The next whole entry; `None` at the end and at anything else.
fn next_entry(reader: &mut impl Read) -> io::Result<Option<(Header, Vec<u8>)>> {
    let mut head = [0; HEADER_BYTES];
    if !fill(reader, &mut head)? {
        return Ok(None);
    }
    let Some(header) = Header::read(&head) else {
        return Ok(None);
    };
    let mut leaf = vec![0; header.length];
    let whole = fill(reader, &mut leaf)? && header.fits(&leaf);
    Ok(whole.then_some((header, leaf)))
}

/// Whether the buffer could be filled before the end.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads the leaf whose frame begins at `offset`, and checks it.
pub(crate) fn read_leaf(reader: &File, offset: u64, index: u64) -> io::Result<Vec<u8>> {
    let damaged =
        || io::Error::new(io::ErrorKind::InvalidData, format!("entry {index} is damaged"));
    let mut head = [0; HEADER_BYTES];
    reader.read_exact_at(&mut head, offset)?;
    let header = Header::read(&head).filter(|header| header.index == index);
    let header = header.ok_or_else(damaged)?;
    let mut leaf = vec![0; header.length];
    reader.read_exact_at(&mut leaf, offset + frame::bytes_of(0))?;
    if header.fits(&leaf) { Ok(leaf) } else { Err(damaged()) }
}
