//! In a virtual machine: the same supervisor, its stream a port of the machine, and evidence from
//! outside its own program.

mod certificates;
mod ioctl;
mod memory;
mod ports;
mod report;
mod report_port;
mod sev_guest;
mod tsm;
mod vsock;

use std::{os::unix::net::UnixStream, path::Path};

use toani_protocol::{evidence::ReportData, instance::LaunchDigest};

pub(crate) use self::{
    ports::CHANNEL_PORT,
    report::{REPORT_PORT, REQUEST_BYTES as REPORT_BYTES, answer},
};
use crate::evidence::{EvidenceError, EvidenceSource};

pub use self::{
    memory::{Fits, TooSmall},
    report_port::ReportPort,
    sev_guest::SevGuestReport,
    tsm::TsmReport,
};

/// What a guest says of its own launch digest, which it is not the one to know: the host fills in
/// what it has started, and nobody believes either without evidence.
pub const UNKNOWN: LaunchDigest = [0; 48];

/// Where a guest's evidence comes from.
#[derive(Debug)]
pub enum GuestEvidence {
    /// A simulated chip, on the host.
    Port(ReportPort),
    /// The chip that the guest runs on, by configfs-tsm.
    Tsm(TsmReport),
    /// The same, by /dev/sev-guest, where the kernel has no configfs-tsm.
    SevGuest(SevGuestReport),
}

impl GuestEvidence {
    /// `port` or `snp`, as the kernel's command line says.
    ///
    /// # Errors
    /// There is no such source here.
    pub fn of(word: &str) -> Result<Self, EvidenceError> {
        let port = || ports::open(REPORT_PORT).map(ReportPort::new).map_err(EvidenceError::because);
        match word {
            "port" => Ok(Self::Port(port()?)),
            "snp" => match interface(Path::new(tsm::FOLDER), Path::new(sev_guest::DEVICE))? {
                Interface::Tsm => Ok(Self::Tsm(TsmReport::new(port()?)?)),
                Interface::SevGuest => Ok(Self::SevGuest(SevGuestReport::new(port()?)?)),
            },
            other => Err(EvidenceError(format!("{other:?} is no source of evidence"))),
        }
    }
}

/// By which of its interfaces this kernel hands out reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interface {
    Tsm,
    SevGuest,
}

/// configfs-tsm where a driver stands behind it: it is the newer one, and outlives the other.
fn interface(tsm: &Path, sev_guest: &Path) -> Result<Interface, EvidenceError> {
    match (tsm::is_usable(tsm), sev_guest.exists()) {
        (true, _) => Ok(Interface::Tsm),
        (false, true) => Ok(Interface::SevGuest),
        (false, false) => Err(EvidenceError(format!(
            "reports come neither by {} nor by {}: this is no SEV-SNP guest, or its kernel was built without \
             the sev-guest module; ./x image guest --snp builds one that has it",
            tsm.display(),
            sev_guest.display()
        ))),
    }
}

impl EvidenceSource for GuestEvidence {
    fn evidence(&self, report_data: &ReportData) -> Result<Vec<u8>, EvidenceError> {
        match self {
            Self::Port(port) => port.evidence(report_data),
            Self::Tsm(tsm) => tsm.evidence(report_data),
            Self::SevGuest(device) => device.evidence(report_data),
        }
    }
}

/// The gateway's stream, as a supervisor has it on descriptor 0 where it is no guest.
///
/// # Errors
/// The host has neither such a port nor connects over vsock.
pub fn gateway() -> std::io::Result<UnixStream> {
    if vsock::is_there(Path::new(vsock::DEVICES)) {
        return vsock::gateway();
    }
    ports::stream_of(ports::open(CHANNEL_PORT)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_interface_is_used_where_the_newer_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (tsm, device) = (folder.path().join("tsm"), folder.path().join("sev-guest"));
        let neither = interface(&tsm, &device).unwrap_err();
        assert!(neither.0.contains("./x image guest --snp"), "{neither}");
        std::fs::write(&device, "").unwrap();
        assert_eq!(interface(&tsm, &device), Ok(Interface::SevGuest));
        std::fs::create_dir(&tsm).unwrap();
        assert_eq!(interface(&tsm, &device), Ok(Interface::Tsm));
        assert_eq!(std::fs::read_dir(&tsm).unwrap().count(), 0, "the trial leaves nothing");
    }

    /// On a machine that is no SEV-SNP guest a supervisor does not start as one.
    #[test]
    fn outside_of_a_protected_guest_there_is_no_evidence_of_one() {
        if tsm::is_usable(Path::new(tsm::FOLDER)) || Path::new(sev_guest::DEVICE).exists() {
            return;
        }
        let error = GuestEvidence::of("snp").unwrap_err();
        assert!(error.0.contains("no SEV-SNP guest"), "{error}");
    }
}
