//! The handle.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use rusqlite::Connection;
use toani_protocol::{Hash, TenantId, Time, record::Record};
use tokio::sync::{mpsc, oneshot};

use crate::{
    blobs, database,
    error::StoreError,
    folder::DataFolder,
    projections,
    writer::{Job, Pending, QUEUE_MAX, Ticket, Write, Writer},
};

/// Idle connections that are kept for reading.
const READERS_MAX: usize = 8;

/// A handle to the store; clones share it. The last one that is dropped writes what is queued.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    readers: Mutex<Vec<Connection>>,
    pending: Arc<Pending>,
    /// `None` while it is dropped.
    queue: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// Nobody else opens the folder before the thread has ended.
    _folder: DataFolder,
}

impl Store {
    /// Opens the store in a folder that this process holds, and migrates it.
    pub fn open(folder: &DataFolder) -> Result<Self, StoreError> {
        let path = folder.database();
        let connection = database::open_writer(&path)?;
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let pending = Arc::new(Pending::default());
        let writer = Writer { connection, queue, pending: pending.clone(), full: true };
        let thread = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(|error| StoreError::Database(error.to_string()))?;
        Ok(Self(Arc::new(Inner {
            path,
            readers: Mutex::default(),
            pending,
            queue: Some(sender),
            thread: Some(thread),
            _folder: folder.clone(),
        })))
    }

    async fn submit(&self, write: Write, durable: bool) -> Result<Ticket, StoreError> {
        let (answer, ticket) = oneshot::channel();
        let job = Job { write, durable, answer };
        let queue = self.0.queue.as_ref().ok_or(StoreError::Closed)?;
        queue.send(job).await.map_err(|_| StoreError::Closed)?;
        Ok(Ticket(ticket))
    }

    async fn submit_blob(
        &self,
        bytes: Vec<u8>,
        delete_after: Option<Time>,
        durable: bool,
    ) -> Result<(Hash, Ticket), StoreError> {
        let (hash, bytes) = (Hash::of(&bytes), Arc::new(bytes));
        let queue = self.0.queue.as_ref().ok_or(StoreError::Closed)?;
        // The place is reserved first: a call that is dropped while it waits leaves nothing.
        let place = queue.reserve().await.map_err(|_| StoreError::Closed)?;
        self.0.pending.insert(hash, &bytes);
        let (answer, ticket) = oneshot::channel();
        place.send(Job { write: Write::Blob { hash, bytes, delete_after }, durable, answer });
        Ok((hash, Ticket(ticket)))
    }

    /// Keeps a blob under its SHA-256, at least until `delete_after`. It can be read at once.
    /// Settled, it survives the end of this process, but perhaps not a power failure.
    pub async fn put_blob(
        &self,
        bytes: Vec<u8>,
        delete_after: Option<Time>,
    ) -> Result<(Hash, Ticket), StoreError> {
        self.submit_blob(bytes, delete_after, false).await
    }

    /// Keeps a blob under its SHA-256 and returns when it is durable.
    pub async fn put_blob_durable(
        &self,
        bytes: Vec<u8>,
        delete_after: Option<Time>,
    ) -> Result<Hash, StoreError> {
        let (hash, ticket) = self.submit_blob(bytes, delete_after, true).await?;
        ticket.settled().await.map(|_| hash)
    }

    /// A blob by its SHA-256. Blocks on the disk.
    pub fn blob(&self, hash: &Hash) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(bytes) = self.0.pending.get(hash) {
            return Ok(Some(bytes.to_vec()));
        }
        self.with_reader(|connection| blobs::get(connection, hash))
    }

    /// Deletes blobs whose time is over; returns how many.
    pub async fn delete_expired(&self, now: Time) -> Result<u64, StoreError> {
        let ticket = self.submit(Write::DeleteExpired(now), false).await?;
        ticket.settled().await
    }

    /// Keeps a tenant's wrapped salt of a day (days since 1970-01-01), durably.
    pub async fn put_salt(
        &self,
        tenant: TenantId,
        day: u64,
        wrapped: Vec<u8>,
    ) -> Result<(), StoreError> {
        let write = Write::Salt { tenant, day, wrapped };
        self.submit(write, true).await?.settled().await.map(|_| ())
    }

    /// A tenant's wrapped salt of a day. Blocks on the disk.
    pub fn salt(&self, tenant: &TenantId, day: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.with_reader(|connection| blobs::salt(connection, tenant, day))
    }

    /// The wrapped salts of a day. Blocks on the disk.
    pub fn salts_of_day(&self, day: u64) -> Result<Vec<(TenantId, Vec<u8>)>, StoreError> {
        self.with_reader(|connection| blobs::salts_of_day(connection, day))
    }

    /// Takes a durable record into the lists. Records come in the order of the log; one that was
    /// taken before changes nothing. Begin at [`Self::projected`].
    pub async fn project(&self, leaf: &[u8]) -> Result<Ticket, StoreError> {
        let record = Record::decode(leaf).map_err(|_| StoreError::NotARecord)?;
        self.submit(Write::Project(Box::new(record)), false).await
    }

    /// How many records the lists hold: the index of the next. Blocks on the disk.
    pub fn projected(&self) -> Result<u64, StoreError> {
        self.with_reader(projections::size)
    }

    /// Makes all lists anew from all leaves of the log; returns how many there were.
    pub async fn rebuild<L: AsRef<[u8]>>(
        &self,
        leaves: impl IntoIterator<Item = L>,
    ) -> Result<u64, StoreError> {
        let cleared = self.submit(Write::ClearProjections, false).await?;
        cleared.settled().await?;
        let (mut count, mut last) = (0, None);
        for leaf in leaves {
            // Only the last is waited for; one that fails makes every later one fail too.
            last = Some(self.project(leaf.as_ref()).await?);
            count += 1;
        }
        if let Some(last) = last {
            last.settled().await?;
        }
        Ok(count)
    }

    /// Lends a connection for reading.
    pub(crate) fn with_reader<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let readers = || self.0.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = readers().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => database::open_reader(&self.0.path)?,
        };
        let result = read(&connection);
        let mut readers = readers();
        if readers.len() < READERS_MAX {
            readers.push(connection);
        }
        result
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so; there is nothing left to do for it.
            let _ = thread.join();
        }
    }
}
