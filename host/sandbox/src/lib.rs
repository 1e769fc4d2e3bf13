//! The sandbox: one new, isolated process per execution, and one way out of it.
//!
//! ```text
//! gateway ── SupervisorClient ── fd 0 ──▶ supervisor ── launcher ──▶ container: connector
//!           bytes of the channel            │  takes jobs, scrubs, answers             │
//!                                           └────────── door ◀── descriptor 3 ─────────┘
//! ```
//!
//! - [`client`]: what the gateway uses. It starts the supervisor and carries the channel's bytes.
//! - [`supervisor`]: what the process `toani-sandbox` does with them.
//! - `connection`: its end of the attested channel; [`peer`] says whom it takes jobs from,
//!   [`evidence`] what it shows of itself.
//! - [`driver`]: what isolates; [`gvisor`] does it with a kernel in user space, [`native`] with
//!   namespaces, seccomp and limits. `syscalls` says for both what a connector may call, `cgroup`
//!   bounds what it uses, [`share`] says how much for all
//!   of them, and `confinement` judges what one says of itself.
//! - [`ending`]: what is left of containers is cleared away, several at a time; `workspace` is what a
//!   supervisor has on its machine, also if it was killed.
//! - [`lifeline`]: processes that end with the one that started them.
//! - [`root`]: the root file systems that containers run, by their digests.
//! - [`pool`]: containers that wait before there is a job, and are used once.
//! - [`execution`]: one job in a container that waits for it: frame, door, deadline, scrubbing.
//! - [`door`]: the container's only way out, to the plan's endpoint and nowhere else;
//!   [`address`] says which addresses it may lead to.
//! - [`vm`]: a supervisor in a virtual machine, started and measured from outside; [`guest`] is what
//!   is another way in there.
//! - [`scrub`]: whether a secret is in what came back.

pub mod address;
mod cgroup;
pub mod client;
mod confinement;
mod connection;
mod descriptors;
pub mod door;
pub mod driver;
pub mod ending;
pub mod evidence;
pub mod execution;
pub mod guest;
pub mod gvisor;
pub mod lifeline;
pub mod measurement;
pub mod messages;
pub mod native;
pub mod peer;
pub mod pool;
pub mod root;
pub mod scrub;
pub mod share;
pub mod supervisor;
mod syscalls;
pub mod vm;
mod vsock;
mod workspace;

pub use client::{SpawnError, Started, SupervisorClient, SupervisorLost, SupervisorPaths};
pub use driver::DriverKind;
pub use measurement::launch_digest;
