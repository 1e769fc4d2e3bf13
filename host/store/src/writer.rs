//! The writing thread: whatever is queued becomes one transaction.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rusqlite::Connection;
use toani_protocol::{
    Hash, TenantId, Time,
    record::{Record, RecordKind},
};
use tokio::sync::{mpsc, oneshot};

use crate::{blobs, database::CLEAR_PROJECTIONS, error::StoreError, projections};

/// Writes that wait; a caller waits beyond that.
pub(crate) const QUEUE_MAX: usize = 1024;
/// Writes of one transaction.
const BATCH_MAX: usize = 256;

/// One write.
#[derive(Debug)]
pub(crate) enum Write {
    Blob { hash: Hash, bytes: Arc<Vec<u8>>, delete_after: Option<Time> },
    Salt { tenant: TenantId, day: u64, wrapped: Vec<u8> },
    DeleteExpired(Time),
    Project(Box<Record>),
    ClearProjections,
}

/// A write with who waits for it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) write: Write,
    /// Whether the transaction is synced before it is answered.
    pub(crate) durable: bool,
    pub(crate) answer: oneshot::Sender<Result<u64, StoreError>>,
}

/// A write under way.
#[derive(Debug)]
#[must_use = "a write that nobody waits for may fail unnoticed"]
pub struct Ticket(pub(crate) oneshot::Receiver<Result<u64, StoreError>>);

impl Ticket {
    /// Waits until the write is done, or why it is not. A number goes with some writes, such as
    /// how many blobs were deleted.
    pub async fn settled(self) -> Result<u64, StoreError> {
        self.0.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// How often a blob is queued, and what it is.
type Queued = HashMap<Hash, (usize, Arc<Vec<u8>>)>;

/// Blobs that are queued, so that they can be read at once.
#[derive(Debug, Default)]
pub(crate) struct Pending(Mutex<Queued>);

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Queued> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, hash: &Hash) -> Option<Arc<Vec<u8>>> {
        self.lock().get(hash).map(|(_, bytes)| bytes.clone())
    }

    pub(crate) fn insert(&self, hash: Hash, bytes: &Arc<Vec<u8>>) {
        let mut pending = self.lock();
        let (count, _) = pending.entry(hash).or_insert_with(|| (0, bytes.clone()));
        *count += 1;
    }

    pub(crate) fn remove(&self, hash: &Hash) {
        let mut pending = self.lock();
        if let Some((count, _)) = pending.get_mut(hash) {
            *count -= 1;
            if *count == 0 {
                pending.remove(hash);
            }
        }
    }
}

pub(crate) struct Writer {
    pub(crate) connection: Connection,
    pub(crate) queue: mpsc::Receiver<Job>,
    pub(crate) pending: Arc<Pending>,
    /// Whether commits sync now.
    pub(crate) full: bool,
}

impl Writer {
    /// Ends when every handle is gone and all is written.
    pub(crate) fn run(mut self) {
        while let Some(job) = self.queue.blocking_recv() {
            let mut jobs = vec![job];
            while let Some(job) =
                (jobs.len() < BATCH_MAX).then(|| self.queue.try_recv().ok()).flatten()
            {
                jobs.push(job);
            }
            let results = self.transact(&jobs);
            let mut results = results.map(Vec::into_iter);
            for job in jobs {
                if let Write::Blob { hash, .. } = &job.write {
                    self.pending.remove(hash);
                }
                let result = match &mut results {
                    Ok(results) => results.next().unwrap_or(Err(StoreError::Closed)),
                    Err(error) => Err(error.clone()),
                };
                // Who does not wait any more has said so by dropping the ticket.
                let _ = job.answer.send(result);
            }
        }
    }

    /// Does all of it or, with an error of the database, nothing.
    fn transact(&mut self, jobs: &[Job]) -> Result<Vec<Result<u64, StoreError>>, StoreError> {
        let full = jobs.iter().any(|job| job.durable);
        if full != self.full {
            let level = if full { "full" } else { "normal" };
            self.connection.pragma_update(None, "synchronous", level)?;
            self.full = full;
        }
        let transaction = self.connection.transaction()?;
        let mut results = Vec::with_capacity(jobs.len());
        for job in jobs {
            let result = write(&transaction, &job.write);
            if let Err(StoreError::Database(_)) = result {
                return result.map(|_| Vec::new());
            }
            results.push(result);
        }
        transaction.commit()?;
        self.forget(jobs);
        Ok(results)
    }

    /// What a record `forgotten` has deleted still stands in the write-ahead log; empties that.
    fn forget(&self, jobs: &[Job]) {
        let forgets = |job: &Job| matches!(&job.write, Write::Project(record) if record.kind == RecordKind::Forgotten);
        if jobs.iter().any(forgets) {
            // A reader may hold it back; then it goes with the next checkpoint.
            let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        }
    }
}

fn write(connection: &Connection, write: &Write) -> Result<u64, StoreError> {
    match write {
        Write::Blob { hash, bytes, delete_after } => {
            blobs::put(connection, hash, bytes, *delete_after).map(|()| 0)
        }
        Write::Salt { tenant, day, wrapped } => {
            blobs::put_salt(connection, tenant, *day, wrapped).map(|()| 0)
        }
        Write::DeleteExpired(now) => blobs::delete_expired(connection, *now),
        Write::Project(record) => projections::project(connection, record).map(|()| 0),
        Write::ClearProjections => {
            connection.execute_batch(CLEAR_PROJECTIONS)?;
            Ok(0)
        }
    }
}
