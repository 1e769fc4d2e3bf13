//! What a driver is: it prepares containers, and each is used once.

use std::{any::Any, path::PathBuf};

use toani_protocol::{
    instance::RootFileSystems,
    job::{CONNECTOR_UNCONFINED, CONNECTOR_WAITS, JobOutcome},
    limits::CONNECTIONS_MAX,
    policy::{Class, RootName},
};
use tokio::{io::AsyncReadExt, net::UnixStream};

use crate::{execution::Work, root::PROGRAM, vm::VmPaths};

/// Who the connector is, inside and, where we may choose, outside.
pub(crate) const NOBODY: u32 = 65_534;
/// Where it finds its door. Where it has several, they follow.
pub(crate) const DOOR_FD: i32 = 3;

/// Which driver, and what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriverKind {
    /// Namespaces and a filter of system calls.
    Native,
    /// A runtime with a kernel in user space.
    Gvisor {
        /// Its program.
        runsc: PathBuf,
        /// The root file system with a browser, where there is one.
        browser: Option<PathBuf>,
    },
    /// A virtual machine, in which a supervisor with one of the others runs.
    Vm(VmPaths),
}

impl DriverKind {
    /// The file of the connector's root file system, from where the plane's programs are.
    pub fn root_file_system(&self) -> PathBuf {
        match self {
            Self::Native => PROGRAM.into(),
            Self::Gvisor { .. } => "connector.erofs".into(),
            Self::Vm(paths) => paths.root_file_system(),
        }
    }
}

/// What a container is made for: of a class, what it cannot be given later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub root_file_system: RootName,
    pub size: Size,
}

impl Kind {
    /// How many connections it may open, each through a door of its own.
    pub fn doors(self) -> usize {
        match self.root_file_system {
            RootName::Connector => 1,
            RootName::Browser => CONNECTIONS_MAX,
        }
    }
}

impl From<&Class> for Kind {
    fn from(class: &Class) -> Self {
        Self { root_file_system: class.root_file_system, size: Size::from(class) }
    }
}

impl Default for Kind {
    fn default() -> Self {
        Self::from(&Class::default())
    }
}

/// The resources that a container is held to from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub memory_mib: u32,
    pub processes: u32,
    pub tmp_mib: u32,
}

impl From<&Class> for Size {
    fn from(class: &Class) -> Self {
        let Class { memory_mib, processes, tmp_mib, .. } = *class;
        Self { memory_mib, processes, tmp_mib }
    }
}

impl Default for Size {
    fn default() -> Self {
        Self::from(&Class::default())
    }
}

/// Prepares containers. One that cannot isolate does not come into being.
pub trait Driver: Send + Sync + 'static {
    /// A container that waits for its one job.
    type Parked: Parked;

    /// What its containers may run.
    fn root_file_systems(&self) -> RootFileSystems;

    /// Starts a container and returns when it is isolated and waits.
    fn prepare(
        &self,
        kind: Kind,
    ) -> impl Future<Output = Result<Self::Parked, PrepareError>> + Send;
}

/// A container that was never used. Dropping it ends it.
pub trait Parked: Send + 'static {
    /// Whether it still waits: one that has ended, whatever the reason, gets no job.
    fn is_sound(&self) -> bool;

    /// Runs one job; what was its container has only to end. By value: there is no second job.
    fn run(self, work: Work) -> impl Future<Output = (JobOutcome, Used)> + Send;
}

/// A container that had its job, and to which nothing leads any more. Dropping it ends it.
#[must_use]
#[derive(Debug)]
pub struct Used(#[expect(dead_code, reason = "its drop is what it is for")] Box<dyn Any + Send>);

impl Used {
    pub fn new(container: impl Send + 'static) -> Self {
        Self(Box::new(container))
    }
}

/// No container came about; no job was given to one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no container could be started: {0}")]
pub struct PrepareError(pub String);

/// Returns when the program in the container has said that it is confined and waits.
pub(crate) async fn waits(job: &mut UnixStream) -> Result<(), PrepareError> {
    match job.read_u8().await {
        Ok(CONNECTOR_WAITS) => Ok(()),
        Ok(CONNECTOR_UNCONFINED) => {
            Err(PrepareError("the filter of system calls is not in force in it".into()))
        }
        Ok(_) => Err(PrepareError("what runs in it is not the connector of this version".into())),
        Err(_) => Err(PrepareError("it ended before it could wait for a job".into())),
    }
}

/// Whether nothing has come from the container, not even its end.
pub(crate) fn is_silent(job: &UnixStream) -> bool {
    let mut byte = [0];
    matches!(job.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}
