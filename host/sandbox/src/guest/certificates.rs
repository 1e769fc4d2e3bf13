//! The table of certificates that a host may hand to its guest with a report (AMD, publication
//! 56421, the GHCB specification, SNP_EXTENDED_GUEST_REQUEST). The host can put anything there: a
//! verifier believes what it finds only as far as it leads to a root that it knows.

use toani_attestation::{Evidence, SnpEvidence};
use toani_protocol::{evidence::ReportData, sign::Bytes};

use super::report_port::ReportPort;
use crate::evidence::{EvidenceError, EvidenceSource};

/// A table with what it points to.
pub(super) const TABLE_BYTES_MAX: usize = 64 * 1024;
const ENTRY_BYTES: usize = 24;
/// Four that we want; some hosts add others.
const ENTRIES_MAX: usize = 32;
const DER_SEQUENCE: u8 = 0x30;

/// Names of entries, as the specification writes them, from left to right.
const VCEK: u128 = 0x63da_758d_e664_4564_adc5_f4b9_3be8_accd;
const ASK: u128 = 0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782;
const ARK: u128 = 0xc0b4_06a4_a803_4952_9743_3fb6_014c_d0ae;
const CRL: u128 = 0x92f8_1bc3_5811_4d3d_97ff_d19f_88dc_67ea;
const END: u128 = 0;

/// The host's table is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the host's table of certificates is not of its form")]
pub(super) struct TableError;

/// What a host has handed over, each in DER.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Certificates {
    pub(super) vcek: Option<Vec<u8>>,
    pub(super) ask: Option<Vec<u8>>,
    pub(super) ark: Option<Vec<u8>>,
    pub(super) crl: Option<Vec<u8>>,
}

impl Certificates {
    /// Reads a table; nothing at all is a table without entries.
    pub(super) fn parse(table: &[u8]) -> Result<Self, TableError> {
        let mut found = Self::default();
        if table.is_empty() {
            return Ok(found);
        }
        if table.len() > TABLE_BYTES_MAX {
            return Err(TableError);
        }
        for entry in table.chunks_exact(ENTRY_BYTES).take(ENTRIES_MAX) {
            let (name, place) = entry.split_first_chunk::<16>().ok_or(TableError)?;
            let name = u128::from_be_bytes(*name);
            if name == END {
                return Ok(found);
            }
            let value = slice(table, place).ok_or(TableError)?;
            let Some(slot) = found.slot(name) else { continue };
            // Some hosts have PEM there, which is as good as nothing.
            if slot.is_none() && value.first() == Some(&DER_SEQUENCE) {
                *slot = Some(value.to_vec());
            }
        }
        Err(TableError)
    }

    /// Programs that write the table disagree about the order of a name's bytes: no name is another
    /// one's in the other order.
    fn slot(&mut self, name: u128) -> Option<&mut Option<Vec<u8>>> {
        match [name, mixed(name)] {
            [VCEK, _] | [_, VCEK] => Some(&mut self.vcek),
            [ASK, _] | [_, ASK] => Some(&mut self.ask),
            [ARK, _] | [_, ARK] => Some(&mut self.ark),
            [CRL, _] | [_, CRL] => Some(&mut self.crl),
            _ => None,
        }
    }

    /// Evidence of a report with these; what is missing is taken from `other`.
    pub(super) fn evidence(
        self,
        report: Vec<u8>,
        other: Option<SnpEvidence>,
    ) -> Option<SnpEvidence> {
        let mut parts = [self.vcek, self.ask, self.ark, self.crl];
        if let Some(other) = other {
            for (part, other) in parts.iter_mut().zip([other.vcek, other.ask, other.ark, other.crl])
            {
                part.get_or_insert(other.0);
            }
        }
        let [Some(vcek), Some(ask), Some(ark), Some(crl)] = parts.map(|part| part.map(Bytes))
        else {
            return None;
        };
        Some(SnpEvidence { report: Bytes(report), vcek, ask, ark, crl })
    }

    pub(super) fn is_whole(&self) -> bool {
        [&self.vcek, &self.ask, &self.ark, &self.crl].into_iter().all(Option::is_some)
    }
}

/// Evidence of a report with the host's table, and what is missing there from the host's port.
pub(super) fn document(
    report: Vec<u8>,
    table: &[u8],
    host: &ReportPort,
    report_data: &ReportData,
) -> Result<Vec<u8>, EvidenceError> {
    let certificates = Certificates::parse(table).map_err(EvidenceError::because)?;
    let other = match certificates.is_whole() {
        true => None,
        false => Some(others(host, report_data)?),
    };
    let missing = || EvidenceError("a certificate is missing".into());
    let evidence = certificates.evidence(report, other).ok_or_else(missing)?;
    Evidence::Snp(evidence).encode().map_err(EvidenceError::because)
}

/// The host's certificates: a document of evidence whose report is of no use.
fn others(host: &ReportPort, report_data: &ReportData) -> Result<SnpEvidence, EvidenceError> {
    match Evidence::decode(&host.evidence(report_data)?) {
        Ok(Evidence::Snp(evidence)) => Ok(evidence),
        _ => Err(EvidenceError("the host has no certificates of this chip".into())),
    }
}

/// What an entry's offset and length point to.
fn slice<'a>(table: &'a [u8], place: &[u8]) -> Option<&'a [u8]> {
    let (offset, length) = place.split_first_chunk::<4>()?;
    let number = |bytes: &[u8; 4]| usize::try_from(u32::from_le_bytes(*bytes)).ok();
    let (offset, length) = (number(offset)?, number(length.first_chunk()?)?);
    table.get(offset..offset.checked_add(length)?)
}

/// The first three parts of a name in the other order.
fn mixed(name: u128) -> u128 {
    let [a0, a1, a2, a3, b0, b1, c0, c1, rest @ ..] = name.to_be_bytes();
    let [d0, d1, d2, d3, d4, d5, d6, d7] = rest;
    u128::from_be_bytes([a3, a2, a1, a0, b1, b0, c1, c0, d0, d1, d2, d3, d4, d5, d6, d7])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A table with these entries.
    pub(in super::super) fn table(entries: &[(u128, &[u8])]) -> Vec<u8> {
        let mut offset = (entries.len() + 1) * ENTRY_BYTES;
        let mut head = Vec::new();
        let mut values = Vec::new();
        for (name, value) in entries {
            head.extend_from_slice(&name.to_be_bytes());
            head.extend_from_slice(&u32::try_from(offset).unwrap().to_le_bytes());
            head.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
            values.extend_from_slice(value);
            offset += value.len();
        }
        head.extend_from_slice(&[0; ENTRY_BYTES]);
        [head, values].concat()
    }

    pub(in super::super) fn whole() -> Vec<u8> {
        table(&[(VCEK, b"0v"), (ASK, b"0s"), (ARK, b"0r"), (CRL, b"0c")])
    }

    #[test]
    fn entries_are_found_by_name_in_either_order() {
        let found = Certificates::parse(&whole()).unwrap();
        assert!(found.is_whole());
        let evidence = found.clone().evidence(vec![1], None).unwrap();
        assert_eq!([evidence.vcek.0, evidence.crl.0], [b"0v".to_vec(), b"0c".to_vec()]);
        let other = table(&[(mixed(ARK), b"0r"), (7, b"?"), (mixed(VCEK), b"0v"), (VCEK, b"0w")]);
        let found = Certificates::parse(&other).unwrap();
        assert_eq!((found.vcek, found.ark), (Some(b"0v".to_vec()), Some(b"0r".to_vec())));
        assert_eq!((found.ask, found.crl), (None, None));
    }

    #[test]
    fn what_is_missing_is_taken_from_elsewhere_and_never_replaces() {
        let whole = Certificates::parse(&whole()).unwrap().evidence(vec![1], None).unwrap();
        let one = Certificates::parse(&table(&[(VCEK, b"0x"), (ASK, b"-----BEGIN")])).unwrap();
        assert!(!one.is_whole() && one.ask.is_none());
        assert_eq!(one.clone().evidence(vec![2], None), None);
        let both = one.evidence(vec![2], Some(whole)).unwrap();
        assert_eq!((both.vcek.0, both.ask.0, both.report.0), (b"0x".into(), b"0s".into(), vec![2]));
    }

    #[test]
    fn a_table_that_is_none_is_an_error() {
        assert_eq!(Certificates::parse(b""), Ok(Certificates::default()));
        assert_eq!(Certificates::parse(&[0; ENTRY_BYTES]), Ok(Certificates::default()));
        let good = whole();
        let endless = [&VCEK.to_be_bytes()[..], &[0; 8]].concat().repeat(ENTRIES_MAX + 1);
        let beyond = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            bad
        };
        for bad in [
            good[..ENTRY_BYTES - 1].to_vec(),
            good[..4 * ENTRY_BYTES].to_vec(),
            endless,
            beyond(16, 0xff),
            beyond(19, 0xff),
            beyond(20, 0xff),
            beyond(23, 0xff),
            vec![0; TABLE_BYTES_MAX + 1],
        ] {
            assert_eq!(Certificates::parse(&bad), Err(TableError), "{} bytes", bad.len());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(
            places in prop::collection::vec((0..120_usize, any::<u8>()), 0..8),
            bytes in prop::collection::vec(any::<u8>(), 0..256),
        ) {
            let _ = Certificates::parse(&bytes);
            let mut table = whole();
            for (at, byte) in places {
                if let Some(place) = table.get_mut(at) {
                    *place = byte;
                }
            }
            let _ = Certificates::parse(&table);
        }
    }
}
