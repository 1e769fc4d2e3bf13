//! The audit writer, embedded: keeps signed records, in order, durably. It takes nothing else.
//!
//! It is availability, not trust: whoever owns this machine can destroy what it keeps, but cannot
//! change it unnoticed, because the records are signed, chained and covered by checkpoints that
//! toani-audit verifies.
//!
//! ```text
//!  append(index, leaf) ──▶ window, put in order ──▶ writer thread ──▶ one write, one fdatasync
//!  durable(size) ◀──────────── watch ◀──────────────────┘      └──▶ index, tree (durable only)
//!                                                  signature thread reads back and verifies
//! ```
//!
//! * Concurrent calls may append out of order. Indices up to [`WINDOW`] beyond what is durable are
//!   taken; beyond that a call waits. The next index is always within the window, so this cannot
//!   lock up.
//! * The writer checks what costs little: that a leaf names its index and the hash of the one
//!   before. Signatures are verified behind it, by another thread that reads back what was
//!   written: on this path leaves come from the enclave only, so the check finds faults, not
//!   attackers, and need not make every execution wait. A bad signature fails the log.
//! * After a failed write or fdatasync the log is failed: every call says so, nothing is tried
//!   again on that file (a second fdatasync may claim success for pages the kernel has dropped).
//!   Opening it again writes anew whatever was not known to be durable.
//! * The file is not preallocated. Overwriting zeros makes a lone fdatasync some 1.6 times faster
//!   (105 against 175 microseconds where this was measured), at the price of a write of megabytes
//!   now and then in the middle of somebody's execution, and of a file whose end is not its size.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bundle;
mod file;
mod frame;
mod fsck;
mod index;
mod log;
mod proofs;
mod signatures;
mod writer;

pub use file::{OpenError, Recovery, Storage};
pub use fsck::{FsckError, FsckReport, fsck};
pub use log::{AuditLog, Leaves, LogError, Options, ReadError};
pub use proofs::ProofError;
pub use writer::{Failure, WINDOW};
