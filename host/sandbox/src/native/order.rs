//! Between supervisor and launcher: a seqpacket of orders, each with its descriptors, and for
//! each order a stream on which the new container reports.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{io::Errno, net::SendFlags};

use super::step::{Step, StepFailed};
use crate::{
    confinement::Runs,
    descriptors::{receive, send},
    driver::Size,
};

const MIB: u64 = 1024 * 1024;
/// Below this not even the connector's program fits.
const MEMORY_MIB_MIN: u32 = 32;
const MEMORY_MIB_MAX: u32 = 8192;

/// A container's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    memory_mib: u32,
    processes: u32,
    tmp_mib: u32,
}

impl Limits {
    pub(super) fn of(size: Size) -> Self {
        Self {
            memory_mib: size.memory_mib.clamp(MEMORY_MIB_MIN, MEMORY_MIB_MAX),
            processes: size.processes,
            tmp_mib: size.tmp_mib,
        }
    }

    pub(super) fn memory_bytes(self) -> u64 {
        u64::from(self.memory_mib) * MIB
    }

    /// Of /tmp; nothing can be written to one of 0.
    pub(super) fn tmp_mib(self) -> u32 {
        self.tmp_mib
    }

    /// Of one file: more than fits into /tmp, so that a full one is what says so.
    pub(super) fn file_bytes(self) -> u64 {
        let bytes = u64::from(self.tmp_mib) * MIB;
        if bytes == 0 { 0 } else { bytes + 1 }
    }

    pub(super) fn processes(self) -> u64 {
        self.processes.into()
    }
}

/// One container to start. Its groups are one in each hierarchy, of which there is one or there are two.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) limits: Limits,
    pub(super) runs: Runs,
    pub(super) job: OwnedFd,
    pub(super) door: OwnedFd,
    pub(super) report: OwnedFd,
    /// Who writes to them is in the container's control group.
    pub(super) groups: Vec<OwnedFd>,
}

impl Order {
    pub(super) fn send(&self, control: BorrowedFd<'_>) -> rustix::io::Result<()> {
        let Limits { memory_mib, processes, tmp_mib } = self.limits;
        let reports = u32::from(self.runs == Runs::Report);
        let numbers = [memory_mib, processes, tmp_mib, reports].map(u32::to_le_bytes);
        let mut fds = vec![self.job.as_fd(), self.door.as_fd(), self.report.as_fd()];
        fds.extend(self.groups.iter().map(OwnedFd::as_fd));
        send(control, numbers.as_flattened(), &fds)
    }

    /// `None` when the supervisor is gone.
    pub(super) fn receive(control: BorrowedFd<'_>) -> rustix::io::Result<Option<Self>> {
        let mut numbers = [[0; 4]; 4];
        let (length, fds) = receive(control, numbers.as_flattened_mut())?;
        if length == 0 {
            return Ok(None);
        }
        let [memory_mib, processes, tmp_mib, reports] = numbers.map(u32::from_le_bytes);
        let mut fds = fds.into_iter();
        let (Some(job), Some(door), Some(report)) = (fds.next(), fds.next(), fds.next()) else {
            return Err(Errno::PROTO);
        };
        Ok(Some(Self {
            limits: Limits { memory_mib, processes, tmp_mib },
            runs: if reports == 0 { Runs::Connector } else { Runs::Report },
            job,
            door,
            report,
            groups: fds.collect(),
        }))
    }
}

/// What comes back on a report. Its end without a failure says that the container runs.
#[derive(Debug)]
pub(super) enum Report {
    /// A descriptor of the container's first process.
    Process(OwnedFd),
    Failed(StepFailed),
    End,
}

impl Report {
    pub(super) fn send_process(report: BorrowedFd<'_>, pidfd: &OwnedFd) -> rustix::io::Result<()> {
        send(report, &[0; 5], &[pidfd.as_fd()])
    }

    pub(super) fn send_failure(report: BorrowedFd<'_>, failed: StepFailed) {
        let [a, b, c, d] = failed.errno.raw_os_error().to_le_bytes();
        let bytes = [failed.step.byte(), a, b, c, d];
        // Not sendmsg: the filter, which is in force at the last step, does not allow it. If
        // nobody listens, nobody waits for this container.
        let _ = rustix::net::send(report, &bytes, SendFlags::NOSIGNAL);
    }

    pub(super) fn receive(report: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let mut bytes = [0; 5];
        let (length, mut fds) = receive(report, &mut bytes)?;
        let [step, a, b, c, d] = bytes;
        match (length, step, fds.pop()) {
            (0, _, None) => Ok(Self::End),
            (5, 0, Some(pidfd)) => Ok(Self::Process(pidfd)),
            (5, _, None) => Ok(Self::Failed(StepFailed {
                step: Step::from_byte(step).ok_or(Errno::PROTO)?,
                errno: Errno::from_raw_os_error(i32::from_le_bytes([a, b, c, d])),
            })),
            _ => Err(Errno::PROTO),
        }
    }
}
