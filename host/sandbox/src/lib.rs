//! The sandbox: one new, isolated process per execution, and one way out of it.
//!
//! ```text
//! gateway ── SupervisorClient ── fd 3 ──▶ supervisor ── launcher ──▶ container: connector
//!                sealed jobs                │  opens jobs, scrubs, seals outcomes      │
//!                                           └────────── door ◀── descriptor 3 ─────────┘
//! ```
//!
//! - [`client`]: what the gateway uses. It starts the supervisor and sends it sealed jobs.
//! - [`supervisor`]: what the process `toani-sandbox` does with them.
//! - [`seal`]: opening jobs and sealing outcomes.
//! - [`driver`]: what isolates; [`native`] does it with namespaces, seccomp and limits.
//! - [`execution`]: one job in a container that waits for it: frame, door, deadline, scrubbing.
//! - [`door`]: the container's only way out, to the plan's endpoint and nowhere else;
//!   [`address`] says which addresses it may lead to.
//! - [`scrub`]: whether a secret is in what came back.

pub mod address;
pub mod client;
pub mod door;
pub mod driver;
pub mod execution;
pub mod measurement;
pub mod messages;
pub mod native;
pub mod scrub;
pub mod seal;
pub mod supervisor;

pub use client::{RunError, SpawnError, SupervisorClient, SupervisorPaths};
pub use measurement::measurement;
