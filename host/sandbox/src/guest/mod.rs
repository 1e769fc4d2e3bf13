//! In a virtual machine: the same supervisor, its stream a port of the machine, and evidence from
//! outside its own program.

mod certificates;
mod ports;
mod report;
mod report_port;
mod tsm;

use std::os::unix::net::UnixStream;

use toani_protocol::{evidence::ReportData, instance::LaunchDigest};

pub(crate) use self::{
    ports::CHANNEL_PORT,
    report::{REPORT_PORT, REQUEST_BYTES as REPORT_BYTES, answer},
};
use crate::evidence::{EvidenceError, EvidenceSource};

pub use self::{report_port::ReportPort, tsm::TsmReport};

/// What a guest says of its own launch digest, which it is not the one to know: the host fills in
/// what it has started, and nobody believes either without evidence.
pub const UNKNOWN: LaunchDigest = [0; 48];

/// Where a guest's evidence comes from.
#[derive(Debug)]
pub enum GuestEvidence {
    /// A simulated chip, on the host.
    Port(ReportPort),
    /// The processor that the guest runs on.
    Tsm(TsmReport),
}

impl GuestEvidence {
    /// `port` or `tsm`, as the kernel's command line says.
    ///
    /// # Errors
    /// There is no such source here.
    pub fn of(word: &str) -> Result<Self, EvidenceError> {
        let port = || ports::open(REPORT_PORT).map(ReportPort::new).map_err(EvidenceError::because);
        match word {
            "port" => Ok(Self::Port(port()?)),
            "tsm" => Ok(Self::Tsm(TsmReport::new(port()?)?)),
            other => Err(EvidenceError(format!("{other:?} is no source of evidence"))),
        }
    }
}

impl EvidenceSource for GuestEvidence {
    fn evidence(&self, report_data: &ReportData) -> Result<Vec<u8>, EvidenceError> {
        match self {
            Self::Port(port) => port.evidence(report_data),
            Self::Tsm(tsm) => tsm.evidence(report_data),
        }
    }
}

/// The gateway's stream, as a supervisor has it on descriptor 0 where it is no guest.
///
/// # Errors
/// The host has no such port.
pub fn gateway() -> std::io::Result<UnixStream> {
    ports::stream_of(ports::open(CHANNEL_PORT)?)
}
