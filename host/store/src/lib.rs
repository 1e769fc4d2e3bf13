//! What the host keeps beside the audit log: blobs, wrapped salts, the sealed root, projections.
//!
//! The log is the truth; this is where the documents lie that it names by hash, and lists for
//! people to read. A missing blob disables what needs it and nothing else. Projections can be made
//! anew from the log at any time ([`Store::rebuild`]).
//!
//! # What is durable when
//!
//! One thread writes; whatever is queued becomes one SQLite transaction in the write-ahead log.
//!
//! * [`Store::put_blob_durable`] (policies, credentials, admission lists, salts) returns after an
//!   fsync. Await it before the record that names the blob is appended, or at the latest before
//!   that record is acknowledged: then the blob is durable no later than the record counts.
//! * [`Store::put_blob`] (params, results, statements) returns at once with a [`Ticket`], and
//!   costs no fsync of its own. A settled ticket survives the end of the process, by kill -9 too,
//!   but the last of them may be lost when the machine loses power; then the params or the result
//!   of an execution cannot be read again, and its record and receipt still stand. Await the
//!   ticket before the record that names the blob is appended: else the end of the process in
//!   between loses what the record promises.
//!
//! Writing calls are async and wait while the queue is full. Reading calls block on SQLite for
//! some tens of microseconds: call them from `spawn_blocking`, or where that is acceptable.

mod blobs;
mod database;
mod error;
mod folder;
mod projections;
mod queries;
mod replay;
mod store;
mod writer;

pub use error::{FolderError, StoreError};
pub use folder::DataFolder;
pub use queries::{
    ActionRow, ActionState, ApprovalRow, CredentialRow, CredentialState, ExecutionRow,
    ExecutionState, PolicyKeyRow, PolicyRow, PolicyState,
};
pub use replay::{
    AddressError, EmbeddedReplay, REPLAY_MS_MAX, RedisAddress, RedisConfig, RedisReplay,
    ReplayError, ReplayFuture, ReplayStore,
};
pub use store::Store;
pub use writer::Ticket;
