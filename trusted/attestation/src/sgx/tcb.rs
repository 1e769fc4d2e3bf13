//! What Intel says of TCBs: TCB info, version 3, and QE identity, version 2 (Intel PCS API, v4).

use alloc::{string::String, vec::Vec};

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned},
};
use toani_protocol::{Time, instance::TcbStatus};

use super::pck::Platform;
use crate::report_body::ReportBody;

/// The status of platform and quoting enclave together, as Intel's quote verification library
/// converges them: the quoting enclave's counts where it is out of date or revoked.
fn converge(platform: TcbStatus, qe: TcbStatus) -> TcbStatus {
    use TcbStatus::{
        ConfigurationAndSwHardeningNeeded, ConfigurationNeeded, OutOfDate,
        OutOfDateConfigurationNeeded, Revoked, SwHardeningNeeded, UpToDate,
    };
    match (platform, qe) {
        (Revoked, _) | (_, Revoked) => Revoked,
        (UpToDate | SwHardeningNeeded, OutOfDate) => OutOfDate,
        (ConfigurationNeeded | ConfigurationAndSwHardeningNeeded, OutOfDate) => {
            OutOfDateConfigurationNeeded
        }
        (platform, _) => platform,
    }
}

/// A level's status with the advisories that are open at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Judgement {
    pub(super) status: TcbStatus,
    pub(super) advisory_ids: Vec<String>,
}

impl Judgement {
    pub(super) fn with_qe(mut self, qe: Self) -> Self {
        self.status = converge(self.status, qe.status);
        self.advisory_ids.extend(qe.advisory_ids);
        self.advisory_ids.sort_unstable();
        self.advisory_ids.dedup();
        self
    }
}

/// What the two documents have in common.
pub(super) trait Document: DeserializeOwned {
    /// Of the kind and version that is read here.
    fn is_for_sgx(&self) -> bool;
    /// Its date of issue, and when it expires.
    fn window(&self) -> (Time, Time);
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TcbInfo {
    id: String,
    version: u32,
    issue_date: Time,
    next_update: Time,
    fmspc: Hex<6>,
    pce_id: Hex<2>,
    tcb_type: u32,
    pub(super) tcb_evaluation_data_number: u32,
    tcb_levels: Vec<TcbLevel>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TcbLevel {
    tcb: Tcb,
    tcb_status: TcbStatus,
    #[serde(rename = "advisoryIDs", default)]
    advisory_ids: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Tcb {
    sgxtcbcomponents: [Component; 16],
    pcesvn: u16,
}

#[derive(Debug, Deserialize)]
struct Component {
    svn: u8,
}

impl Document for TcbInfo {
    fn is_for_sgx(&self) -> bool {
        self.id == "SGX" && self.version == 3 && self.tcb_type == 0
    }

    fn window(&self) -> (Time, Time) {
        (self.issue_date, self.next_update)
    }
}

impl TcbInfo {
    pub(super) fn is_about(&self, platform: &Platform) -> bool {
        self.fmspc.0 == platform.fmspc && self.pce_id.0 == platform.pce_id
    }

    /// The highest level that the platform reaches in every component; `None` if in none.
    pub(super) fn judge(&self, platform: &Platform) -> Option<Judgement> {
        let mut levels: Vec<_> = self.tcb_levels.iter().collect();
        // Highest first, whatever order the document has.
        levels.sort_by_key(|level| core::cmp::Reverse(level.tcb.key()));
        let level = levels.into_iter().find(|level| level.tcb.is_reached_by(platform))?;
        Some(Judgement { status: level.tcb_status, advisory_ids: level.advisory_ids.clone() })
    }
}

impl Tcb {
    fn key(&self) -> ([u8; 16], u16) {
        (self.sgxtcbcomponents.each_ref().map(|component| component.svn), self.pcesvn)
    }

    fn is_reached_by(&self, platform: &Platform) -> bool {
        let pairs = platform.components.iter().zip(&self.sgxtcbcomponents);
        platform.pce_svn >= self.pcesvn && pairs.into_iter().all(|(own, least)| *own >= least.svn)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct QeIdentity {
    id: String,
    version: u32,
    issue_date: Time,
    next_update: Time,
    pub(super) tcb_evaluation_data_number: u32,
    miscselect: Hex<4>,
    miscselect_mask: Hex<4>,
    attributes: Hex<16>,
    attributes_mask: Hex<16>,
    mrsigner: Hex<32>,
    isvprodid: u16,
    tcb_levels: Vec<QeLevel>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct QeLevel {
    tcb: QeTcb,
    tcb_status: TcbStatus,
    #[serde(rename = "advisoryIDs", default)]
    advisory_ids: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct QeTcb {
    isvsvn: u16,
}

impl Document for QeIdentity {
    fn is_for_sgx(&self) -> bool {
        self.id == "QE" && self.version == 2
    }

    fn window(&self) -> (Time, Time) {
        (self.issue_date, self.next_update)
    }
}

impl QeIdentity {
    /// Whether this is the quoting enclave that Intel signed, and not a debug one.
    pub(super) fn names(&self, qe: &ReportBody) -> bool {
        self.mrsigner.0 == *qe.mrsigner.as_bytes()
            && self.isvprodid == qe.isv_prod_id
            && masked_eq(&self.miscselect.0, &qe.misc_select, &self.miscselect_mask.0)
            && masked_eq(&self.attributes.0, &qe.attributes, &self.attributes_mask.0)
            && qe.is_initialised()
            && !qe.is_debug()
    }

    /// The highest level that the quoting enclave reaches; `None` if none.
    pub(super) fn judge(&self, qe: &ReportBody) -> Option<Judgement> {
        let reached = self.tcb_levels.iter().filter(|level| qe.isv_svn >= level.tcb.isvsvn);
        let level = reached.max_by_key(|level| level.tcb.isvsvn)?;
        Some(Judgement { status: level.tcb_status, advisory_ids: level.advisory_ids.clone() })
    }
}

/// Equal where the mask has ones.
fn masked_eq<const N: usize>(wanted: &[u8; N], own: &[u8; N], mask: &[u8; N]) -> bool {
    wanted.iter().zip(own).zip(mask).all(|((wanted, own), mask)| wanted & mask == own & mask)
}

/// Bytes in hexadecimal of either case.
#[derive(Debug, Clone, Copy)]
struct Hex<const N: usize>([u8; N]);

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        let text = String::deserialize(reader)?;
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(de::Error::custom)?;
        let bytes =
            bytes.try_into().map_err(|_| de::Error::custom("not of the expected length"))?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoting_enclave_lowers_a_platform_only_when_it_is_out_of_date() {
        use TcbStatus::*;
        for (platform, qe, both) in [
            (UpToDate, UpToDate, UpToDate),
            (SwHardeningNeeded, OutOfDate, OutOfDate),
            (ConfigurationNeeded, OutOfDate, OutOfDateConfigurationNeeded),
            (OutOfDate, UpToDate, OutOfDate),
            (UpToDate, ConfigurationNeeded, UpToDate),
            (UpToDate, Revoked, Revoked),
            (Revoked, UpToDate, Revoked),
        ] {
            assert_eq!(converge(platform, qe), both);
        }
    }
}
