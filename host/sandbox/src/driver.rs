//! What a driver is: it prepares containers, and each is used once.

use toani_protocol::{job::JobOutcome, policy::Class};

use crate::execution::Work;

/// Prepares containers. One that cannot isolate does not come into being.
pub trait Driver: Send + Sync + 'static {
    /// A container that waits for its one job.
    type Parked: Parked;

    /// Starts a container and returns when it is isolated and waits.
    fn prepare(
        &self,
        class: &Class,
    ) -> impl Future<Output = Result<Self::Parked, PrepareError>> + Send;
}

/// A container that was never used. Dropping it ends it.
pub trait Parked: Send + 'static {
    /// Whether it still waits: one that has ended, whatever the reason, gets no job.
    fn is_sound(&self) -> bool;

    /// Runs one job and ends the container. By value: there is no second job.
    fn run(self, work: Work) -> impl Future<Output = JobOutcome> + Send;
}

/// No container came about; no job was given to one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no container could be started: {0}")]
pub struct PrepareError(pub String);
