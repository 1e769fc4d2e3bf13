//! The handle.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use toani_protocol::{Hash, TenantId, limits::RECORD_BYTES_MAX, sign::PublicKey};
use tokio::sync::watch;

use crate::{
    file::{self, CHECKPOINT, OpenError, Opened, Recovery, Storage, read_leaf},
    index::Placed,
    proofs::{self, ProofError},
    signatures::Signatures,
    writer::{Failure, Shared, WINDOW, Writer},
};

/// How a log is opened.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Origin and key of the log, if they are known yet; otherwise see
    /// [`AuditLog::expect_signer`].
    pub signer: Option<(String, PublicKey)>,
}

/// Why an append, or a wait for one, ended without success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Nothing is appended until the log is opened again. What was durable still is.
    #[error("the audit log has failed: {0}")]
    Failed(#[from] Failure),
    #[error("this is not a record with the index {0}")]
    NotARecord(u64),
    #[error("the log has, or is about to write, a record with the index {0}")]
    Taken(u64),
}

/// Why something cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read the audit log: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Proof(#[from] ProofError),
}

/// A handle to an open log. Clones share it; the last one that is dropped writes what it still
/// holds and closes it, which takes as long as one commit.
///
/// Reading calls block on the disk and see durable entries only.
#[derive(Debug, Clone)]
pub struct AuditLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    durable: watch::Receiver<u64>,
    reader: File,
    folder: PathBuf,
    checkpoint: Mutex<Checkpoint>,
    verified: Arc<AtomicU64>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The latest signed note.
#[derive(Debug)]
struct Checkpoint {
    /// Records that it covers; 0 where it was read from its file.
    size: u64,
    note: Option<String>,
    /// Whether its file holds it.
    saved: bool,
}

impl AuditLog {
    /// Opens the log in `folder`, makes it if it is not there, and repairs a torn end. Blocks
    /// while it reads the whole log once.
    pub fn open(folder: &Path, options: Options) -> Result<(Self, Recovery), OpenError> {
        Self::open_with(folder, options, |files| files)
    }

    /// As [`Self::open`], with the writer's system calls in other hands: for tests of failures.
    pub fn open_with<S: Storage>(
        folder: &Path,
        options: Options,
        wrap: impl FnOnce(Box<dyn Storage>) -> S,
    ) -> Result<(Self, Recovery), OpenError> {
        let opened = file::open(folder)?;
        let note = match fs::read_to_string(folder.join(CHECKPOINT)) {
            Ok(note) => Some(note),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(file::failed("read", &folder.join(CHECKPOINT), error)),
        };
        let Opened { storage, reader, index, head, end, recovery } = opened;
        let shared = Arc::new(Shared::new(index));
        let (sender, durable) = watch::channel(recovery.size);
        let writer = Writer {
            storage: wrap(Box::new(storage)),
            shared: shared.clone(),
            durable: sender,
            head,
            end,
            buffer: Vec::new(),
        };
        let log = Self(Arc::new(Inner {
            shared,
            durable,
            reader,
            folder: folder.to_path_buf(),
            checkpoint: Mutex::new(Checkpoint { size: 0, note, saved: true }),
            verified: Arc::new(AtomicU64::new(recovery.size)),
            threads: Mutex::default(),
        }));
        log.start("audit-writer", move || writer.run())
            .map_err(|error| file::failed("start the writer of", folder, error))?;
        if let Some((origin, key)) = options.signer {
            log.expect_signer(&origin, key)
                .map_err(|error| file::failed("start the verifier of", folder, error))?;
        }
        Ok((log, recovery))
    }

    fn start(&self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name(name.into()).spawn(run)?;
        self.threads().push(thread);
        Ok(())
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.0.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to verify, behind the writer, the signature of every record that was not there when
    /// the log was opened (the enclave verifies those when it replays them). Call it once, as
    /// soon as the instance's key is known.
    pub fn expect_signer(&self, origin: &str, key: PublicKey) -> io::Result<()> {
        let signatures = Signatures {
            shared: self.0.shared.clone(),
            reader: self.0.reader.try_clone()?,
            origin: origin.into(),
            key,
            verified: self.0.verified.clone(),
        };
        self.start("audit-signatures", move || signatures.run())
    }

    /// Takes a record for writing. It may come before others with smaller indices; it waits while
    /// its index lies [`WINDOW`] or more beyond what is durable. Success says that it is in line,
    /// not that it is durable: for that, wait for [`Self::durable`] with `index + 1`.
    ///
    /// Cancel safe: a call that is dropped has taken the record or has not.
    pub async fn append(&self, index: u64, leaf: Vec<u8>) -> Result<(), LogError> {
        self.append_all(vec![(index, leaf)]).await
    }

    /// Takes several records at once, so that they end up in one commit. They must lie within one
    /// [`WINDOW`].
    pub async fn append_all(&self, leaves: Vec<(u64, Vec<u8>)>) -> Result<(), LogError> {
        let mut placed = Vec::with_capacity(leaves.len());
        for (index, leaf) in leaves {
            let fits = (1..=RECORD_BYTES_MAX).contains(&leaf.len());
            let record = Placed::read(leaf).filter(|record| fits && record.index == index);
            placed.push(record.ok_or(LogError::NotARecord(index))?);
        }
        let Some(last) = placed.iter().map(|record| record.index).max() else {
            return Ok(());
        };
        self.wait_until(|durable| last < durable.saturating_add(WINDOW)).await?;
        let mut queue = self.0.shared.queue();
        if let Some(failure) = &queue.failure {
            return Err(failure.clone().into());
        }
        let taken = |record: &&Placed| {
            record.index < queue.next || queue.pending.contains_key(&record.index)
        };
        if let Some(record) = placed.iter().find(taken) {
            return Err(LogError::Taken(record.index));
        }
        for record in placed {
            queue.pending.insert(record.index, record);
        }
        drop(queue);
        self.0.shared.changed.notify_all();
        Ok(())
    }

    /// Waits until the log's durable size is at least `size`.
    pub async fn durable(&self, size: u64) -> Result<(), LogError> {
        self.wait_until(|durable| durable >= size).await
    }

    async fn wait_until(&self, mut enough: impl FnMut(u64) -> bool) -> Result<(), LogError> {
        let mut durable = self.0.durable.clone();
        let result = durable.wait_for(|durable| enough(*durable)).await.map(|_| ());
        result.map_err(|_| LogError::Failed(self.failure().unwrap_or(Failure::Closed)))
    }

    /// The durable size; changes once for each commit. It ends (an error of `changed`) when the
    /// log fails or closes.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.0.durable.clone()
    }

    /// Durable records.
    pub fn size(&self) -> u64 {
        *self.0.durable.borrow()
    }

    /// Why the log has failed, if it has.
    pub fn failure(&self) -> Option<Failure> {
        self.0.shared.queue().failure.clone()
    }

    /// Records below this index were verified by the signature thread, or were there when the log
    /// was opened.
    pub fn signatures_verified(&self) -> u64 {
        self.0.verified.load(Ordering::Acquire)
    }

    /// Leaves from an index on: as many as there are, but at most `max_count`, and after the first
    /// one not more than `max_bytes`.
    pub fn read(
        &self,
        from: u64,
        max_count: usize,
        max_bytes: usize,
    ) -> Result<Vec<Vec<u8>>, ReadError> {
        let (mut leaves, mut bytes) = (Vec::new(), 0);
        for index in from.. {
            let offset = self.0.shared.index().offset(index);
            let Some(offset) = offset.filter(|_| leaves.len() < max_count) else {
                break;
            };
            let leaf = read_leaf(&self.0.reader, offset, index)?;
            bytes += leaf.len();
            if bytes > max_bytes && !leaves.is_empty() {
                break;
            }
            leaves.push(leaf);
        }
        Ok(leaves)
    }

    /// One leaf, if it is durable.
    pub fn leaf(&self, index: u64) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.read(index, 1, 0)?.pop())
    }

    /// All leaves from an index on, in order, with a bounded buffer.
    pub fn leaves(&self, from: u64) -> Leaves {
        Leaves { log: self.clone(), next: from, buffer: Vec::new().into_iter() }
    }

    /// Indices of the tenant's records from its `sequence` on, at most `max` of them.
    pub fn tenant_indices(&self, tenant: &TenantId, sequence: u64, max: usize) -> Vec<u64> {
        self.0.shared.index().of_tenant(tenant, sequence, max)
    }

    /// How many records the tenant has.
    pub fn tenant_size(&self, tenant: &TenantId) -> u64 {
        self.0.shared.index().tenant_size(tenant)
    }

    /// Index of the record that begins the boot of the record at `index`.
    pub fn boot_of(&self, index: u64) -> Option<u64> {
        self.0.shared.index().boot_of(index)
    }

    /// Proof that the record at `index` is in the tree over the first `size` records.
    pub fn inclusion_proof(&self, index: u64, size: u64) -> Result<Vec<Hash>, ReadError> {
        let nodes = self.0.shared.index();
        Ok(proofs::inclusion_proof(&*nodes, index, size)?)
    }

    /// Proof that the tree over `old` records is a prefix of the one over `new`.
    pub fn consistency_proof(&self, old: u64, new: u64) -> Result<Vec<Hash>, ReadError> {
        let nodes = self.0.shared.index();
        Ok(proofs::consistency_proof(&*nodes, old, new)?)
    }

    /// Root of the tree over the first `size` records.
    pub fn root(&self, size: u64) -> Result<Hash, ReadError> {
        let nodes = self.0.shared.index();
        Ok(proofs::root_at(&*nodes, size)?)
    }

    /// Keeps a signed note over `size` records, unless a later one is kept. In memory: a file
    /// that is written with each commit would make each commit wait for it on many file systems.
    pub fn put_checkpoint(&self, size: u64, note: String) {
        let mut kept = self.checkpoint_lock();
        if size >= kept.size {
            *kept = Checkpoint { size, note: Some(note), saved: false };
        }
    }

    /// Writes the latest note to its file, whole, if it is not there yet. It is not synced: after
    /// a power failure the enclave signs another one. Dropping the log does this too.
    pub fn save_checkpoint(&self) -> io::Result<()> {
        self.0.save_checkpoint()
    }

    /// The latest signed note.
    pub fn checkpoint(&self) -> Option<String> {
        self.checkpoint_lock().note.clone()
    }

    fn checkpoint_lock(&self) -> MutexGuard<'_, Checkpoint> {
        self.0.checkpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn save_checkpoint(&self) -> io::Result<()> {
        let mut kept = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(note) = kept.note.as_ref().filter(|_| !kept.saved) else {
            return Ok(());
        };
        let temporary = self.folder.join("checkpoint.new");
        fs::write(&temporary, note)?;
        fs::rename(&temporary, self.folder.join(CHECKPOINT))?;
        kept.saved = true;
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // One that is lost is signed again.
        let _ = self.save_checkpoint();
        self.shared.queue().closing = true;
        self.shared.changed.notify_all();
        let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // A thread that panicked has said so; there is nothing left to do for it.
            let _ = thread.join();
        }
    }
}

/// Iterates over durable leaves; ends after an error.
#[derive(Debug)]
pub struct Leaves {
    log: AuditLog,
    next: u64,
    buffer: std::vec::IntoIter<Vec<u8>>,
}

impl Iterator for Leaves {
    type Item = Result<Vec<u8>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.buffer.len() == 0 {
            match self.log.read(self.next, 1024, 4 * 1024 * 1024) {
                Ok(leaves) => self.buffer = leaves.into_iter(),
                Err(error) => {
                    self.next = u64::MAX;
                    return Some(Err(error));
                }
            }
        }
        let leaf = self.buffer.next()?;
        self.next = self.next.saturating_add(1);
        Some(Ok(leaf))
    }
}
