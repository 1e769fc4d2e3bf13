//! Where a supervisor's evidence comes from. There is no default: who starts a supervisor names it.

use std::path::Path;

use toani_attestation::Evidence;
use toani_protocol::{evidence::ReportData, ids::Time, instance::LaunchDigest};
use toani_simulator::{Authority, Chip, Guest, SnpRevocations};

/// No evidence came about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no evidence could be made: {0}")]
pub struct EvidenceError(pub String);

impl EvidenceError {
    pub(crate) fn because(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// Shows what runs here. It may take a while: it is called where it keeps nobody waiting.
pub trait EvidenceSource: Send + Sync + 'static {
    /// An evidence document over this report data, with all that it takes to verify it.
    ///
    /// # Errors
    /// The source cannot be asked, or what it says is no evidence.
    fn evidence(&self, report_data: &ReportData) -> Result<Vec<u8>, EvidenceError>;
}

/// The chip of a simulated machine: its word under the machine's own root, and no proof. What it
/// measures is what runs.
pub struct SimulatedChip {
    authority: Authority,
    chip: Chip,
    launch_digest: LaunchDigest,
}

impl std::fmt::Debug for SimulatedChip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedChip").field("chip", &self.chip).finish_non_exhaustive()
    }
}

impl SimulatedChip {
    /// # Errors
    /// The folder is not a simulated machine's, or not this user's.
    pub fn of(machine: &Path, launch_digest: LaunchDigest) -> Result<Self, EvidenceError> {
        let authority = Authority::open_or_create(machine).map_err(EvidenceError::because)?;
        // The vendor's keys are made now, if they are not there, and not under a connection.
        authority.snp_root().map_err(EvidenceError::because)?;
        let chip = authority.chip();
        Ok(Self { authority, chip, launch_digest })
    }
}

impl EvidenceSource for SimulatedChip {
    fn evidence(&self, report_data: &ReportData) -> Result<Vec<u8>, EvidenceError> {
        let guest = Guest::new(self.launch_digest, *report_data);
        let revocations = SnpRevocations::none(now());
        let evidence = self.authority.snp_evidence(&self.chip, &guest, &revocations);
        let evidence = Evidence::Snp(evidence.map_err(EvidenceError::because)?);
        evidence.encode().map_err(EvidenceError::because)
    }
}

/// The clock of this side.
pub(crate) fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Time::from_ms(u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX))
}
