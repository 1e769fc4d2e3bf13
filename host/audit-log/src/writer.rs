//! The writer thread: takes whatever is next in order, writes it at once, syncs it once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock},
};

use toani_protocol::{Hash, limits::UNDURABLE_RECORDS_MAX};
use tokio::sync::watch;

use crate::{
    file::Storage,
    frame,
    index::{Index, Placed},
};

/// So far beyond what is durable an append may lie; it waits where it is beyond.
#[allow(clippy::cast_possible_truncation, reason = "16,384")]
pub const WINDOW: u64 = UNDURABLE_RECORDS_MAX as u64;
/// One batch, so that an answer does not wait for the whole window.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why the log takes nothing more until it is opened again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("the disk refused to write: {0}; mend that and start again")]
    Write(String),
    #[error("the disk did not confirm a write: {0}; mend that and start again")]
    Sync(String),
    #[error("record {0} does not name the hash of the one before")]
    Chain(u64),
    #[error("record {0} is not signed by the log's key")]
    Signature(u64),
    #[error("record {0} cannot be read back: {1}")]
    Read(u64, String),
    #[error("the log was closed")]
    Closed,
}

/// Entries that wait for the writer.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) pending: BTreeMap<u64, Placed>,
    /// The next index that the writer takes.
    pub(crate) next: u64,
    /// No more will come; the writer ends when nothing is left to write.
    pub(crate) closing: bool,
    pub(crate) failure: Option<Failure>,
}

/// What handles, writer and signature thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    /// Something was queued, published, failed or closed.
    pub(crate) changed: Condvar,
    pub(crate) index: RwLock<Index>,
}

impl Shared {
    pub(crate) fn new(index: Index) -> Self {
        let queue = Queue { next: index.size(), ..Queue::default() };
        Self { queue: Mutex::new(queue), changed: Condvar::new(), index: RwLock::new(index) }
    }

    /// A thread that panicked while it held the lock left whole values: each is set at once.
    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn index(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first failure stays.
    pub(crate) fn fail(&self, failure: Failure) {
        let mut queue = self.queue();
        queue.failure.get_or_insert(failure);
        queue.pending.clear();
        drop(queue);
        self.changed.notify_all();
    }
}

pub(crate) struct Writer<S> {
    pub(crate) storage: S,
    pub(crate) shared: Arc<Shared>,
    /// Durable size. Dropped when the writer ends, which ends every wait.
    pub(crate) durable: watch::Sender<u64>,
    pub(crate) head: Hash,
    pub(crate) end: u64,
    /// The batch as it is written. Kept, so that large batches do not fault in new pages.
    pub(crate) buffer: Vec<u8>,
}

impl<S: Storage> Writer<S> {
    pub(crate) fn run(mut self) {
        let failure = loop {
            match self.take() {
                Ok(batch) => {
                    if let Err(failure) = self.commit(batch) {
                        break failure;
                    }
                }
                Err(failure) => break failure,
            }
        };
        self.shared.fail(failure);
    }

    /// Waits for the next entry and takes all that follow it.
    fn take(&mut self) -> Result<Vec<Placed>, Failure> {
        let mut queue = self.shared.queue();
        loop {
            if let Some(failure) = &queue.failure {
                return Err(failure.clone());
            }
            let next = queue.next;
            if queue.pending.contains_key(&next) {
                break;
            }
            if queue.closing {
                return Err(Failure::Closed);
            }
            queue = self.shared.wait(queue);
        }
        let mut batch = Vec::with_capacity(queue.pending.len());
        let mut bytes = 0;
        while bytes < BATCH_BYTES_MAX {
            let next = queue.next;
            let first = queue.pending.first_entry();
            let Some(first) = first.filter(|first| *first.key() == next) else {
                break;
            };
            let placed = first.remove();
            bytes += placed.leaf.len();
            queue.next += 1;
            batch.push(placed);
        }
        Ok(batch)
    }

    fn commit(&mut self, batch: Vec<Placed>) -> Result<(), Failure> {
        let durable = *self.durable.borrow();
        let mut places = Vec::with_capacity(batch.len());
        self.buffer.clear();
        let mut refused = None;
        for placed in batch {
            if placed.previous != self.head {
                refused = Some(Failure::Chain(placed.index));
                break;
            }
            self.head = placed.hash;
            frame::write(&mut self.buffer, placed.index, durable, &placed.leaf);
            let (offset, length) = (self.end, placed.leaf.len());
            places.push((offset, placed));
            self.end += frame::bytes_of(length);
        }
        if !places.is_empty() {
            self.storage.append(&self.buffer).map_err(|error| Failure::Write(error.to_string()))?;
            self.storage.sync().map_err(|error| Failure::Sync(error.to_string()))?;
            self.publish(places);
        }
        refused.map_or(Ok(()), Err)
    }

    fn publish(&mut self, places: Vec<(u64, Placed)>) {
        let mut index = self.shared.index.write().unwrap_or_else(PoisonError::into_inner);
        let added = u64::try_from(places.len()).unwrap_or(u64::MAX);
        let size = index.size().saturating_add(added);
        // Whoever waits may go on at once; who reads now waits for this lock, and then sees it all.
        self.durable.send_replace(size);
        for (offset, placed) in places {
            index.push(offset, placed);
        }
        drop(index);
        // Who has just looked and is about to wait holds this lock.
        drop(self.shared.queue());
        self.shared.changed.notify_all();
        self.storage.mark(size);
    }
}
