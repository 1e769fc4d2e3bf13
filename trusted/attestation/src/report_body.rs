//! The body of an SGX REPORT: what EREPORT writes and a quote repeats.

use toani_protocol::Hash;

use crate::reader::Reader;

/// Length of the body: a REPORT without its key id and MAC.
pub const REPORT_BODY_BYTES: usize = 384;

/// ATTRIBUTES.FLAGS, SDM volume 3D, "ATTRIBUTES".
pub(crate) const FLAG_INIT: u8 = 1;
pub(crate) const FLAG_DEBUG: u8 = 1 << 1;

/// The fields of a body (SDM volume 3D, "REPORT"). Parsing verifies nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportBody {
    pub cpu_svn: [u8; 16],
    pub misc_select: [u8; 4],
    /// FLAGS, then XFRM; both little-endian.
    pub attributes: [u8; 16],
    pub mrenclave: Hash,
    pub mrsigner: Hash,
    pub isv_prod_id: u16,
    pub isv_svn: u16,
    pub report_data: [u8; 64],
}

impl ReportBody {
    /// `None` unless there are exactly [`REPORT_BODY_BYTES`].
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let cpu_svn = *reader.array()?;
        let misc_select = *reader.array()?;
        reader.skip(28)?; // CET attributes, reserved, ISVEXTPRODID
        let attributes = *reader.array()?;
        let mrenclave = Hash::new(*reader.array()?);
        reader.skip(32)?;
        let mrsigner = Hash::new(*reader.array()?);
        reader.skip(96)?; // reserved, CONFIGID
        let isv_prod_id = reader.u16()?;
        let isv_svn = reader.u16()?;
        reader.skip(60)?; // CONFIGSVN, reserved, ISVFAMILYID
        let report_data = *reader.array()?;
        reader.end()?;
        Some(Self {
            cpu_svn,
            misc_select,
            attributes,
            mrenclave,
            mrsigner,
            isv_prod_id,
            isv_svn,
            report_data,
        })
    }

    /// Its memory can be read and written with EDBGRD and EDBGWR.
    pub fn is_debug(&self) -> bool {
        self.flags() & FLAG_DEBUG != 0
    }

    pub(crate) fn is_initialised(&self) -> bool {
        self.flags() & FLAG_INIT != 0
    }

    fn flags(&self) -> u8 {
        let [flags, ..] = self.attributes;
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_sdm_puts_them() {
        let mut body = [0; REPORT_BODY_BYTES];
        for (at, byte) in
            [(0, 1), (16, 2), (48, 3), (64, 4), (128, 5), (256, 6), (258, 7), (320, 8)]
        {
            body[at] = byte;
        }
        let parsed = ReportBody::parse(&body).unwrap();
        assert_eq!(parsed.cpu_svn[0], 1);
        assert_eq!(parsed.misc_select[0], 2);
        assert_eq!(parsed.attributes[0], 3);
        assert_eq!(parsed.mrenclave.as_bytes()[0], 4);
        assert_eq!(parsed.mrsigner.as_bytes()[0], 5);
        assert_eq!((parsed.isv_prod_id, parsed.isv_svn), (6, 7));
        assert_eq!(parsed.report_data[0], 8);
        assert!(parsed.is_debug() && parsed.is_initialised());
        assert!(ReportBody::parse(&body[1..]).is_none());
        assert!(ReportBody::parse(&[0; 385]).is_none());
    }
}
