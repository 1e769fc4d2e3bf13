//! Reports of the guest's own SEV-SNP firmware by `/dev/sev-guest` (Linux,
//! Documentation/virt/coco/sev-guest.rst), for kernels that have no configfs-tsm.
//!
//! The firmware stands behind a trait, so that every byte that goes in and comes out is tested here.
//! Not yet run on SEV-SNP hardware.

use std::{
    fs::File,
    io,
    ops::Range,
    path::Path,
    time::{Duration, Instant},
};

use rustix::io::Errno;
use toani_attestation::snp::REPORT_BYTES;
use toani_protocol::evidence::ReportData;

use super::{
    certificates::{TABLE_BYTES_MAX, document},
    report_port::ReportPort,
};
use crate::evidence::{EvidenceError, EvidenceSource};

pub(super) const DEVICE: &str = "/dev/sev-guest";

pub(super) const MESSAGE_VERSION: u8 = 1;
/// `struct snp_ext_report_req`: report data, level, reserve, then the table's address and length.
const REQUEST_BYTES: usize = 112;
const USER_DATA: Range<usize> = 0..64;
pub(super) const ADDRESS: Range<usize> = 96..104;
const TABLE_LENGTH: Range<usize> = 104..108;
/// `struct snp_report_resp`: in it MSG_REPORT_RSP (AMD, publication 56860).
const RESPONSE_BYTES: usize = 4000;
const STATUS: Range<usize> = 0..4;
const REPORT_SIZE: Range<usize> = 4..8;
const REPORT: Range<usize> = 32..32 + REPORT_BYTES;
/// Where REPORT_DATA stands in a report.
const REPORT_DATA: Range<usize> = 0x50..0x90;

/// The most that Linux takes at once so far.
const TABLE_BYTES: usize = 16 * 1024;
const PAGE_BYTES: usize = 4096;
/// SNP_GUEST_VMM_ERR_INVALID_LEN and SNP_GUEST_VMM_ERR_BUSY.
const TABLE_TOO_SHORT: u32 = 1;
const BUSY: u32 = 2;
/// Longest time from a question to its answer, with a host that says it is busy.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// A host that limits how often it may be asked tells nobody when it may be again.
const ASK_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Report,
    /// With the host's table of certificates.
    Extended,
}

/// What goes to the firmware and comes from it. The table is as long as the request says.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) request: [u8; REQUEST_BYTES],
    pub(super) response: Vec<u8>,
    pub(super) table: Vec<u8>,
    /// Of the host's firmware the lower half, of the host the upper one.
    pub(super) exit_info: u64,
}

/// The driver.
pub(super) trait Firmware: Send + Sync + 'static {
    /// Asks once. What the firmware says of a failure is in the exchange.
    fn call(&self, call: Call, exchange: &mut Exchange) -> io::Result<()>;
}

impl Exchange {
    /// For the guest's most privileged level, which this is.
    fn new(report_data: &ReportData, table_bytes: usize) -> Self {
        let mut request = [0; REQUEST_BYTES];
        request[USER_DATA].copy_from_slice(report_data);
        // A table has no more than 64 KiB.
        let length = u32::try_from(table_bytes).unwrap_or_default();
        request[TABLE_LENGTH].copy_from_slice(&length.to_le_bytes());
        Self {
            request,
            response: vec![0; RESPONSE_BYTES],
            table: vec![0; table_bytes],
            exit_info: 0,
        }
    }

    /// Whether its parts are as long as the driver takes them to be.
    pub(super) fn is_whole(&self) -> bool {
        self.response.len() == RESPONSE_BYTES && self.announced() == self.table.len()
    }

    /// The length that the kernel says the table has.
    fn announced(&self) -> usize {
        usize::try_from(number(&self.request, TABLE_LENGTH)).unwrap_or(usize::MAX)
    }

    /// What the host says of a failure, and what the chip's firmware does.
    fn errors(&self) -> (u32, u32) {
        let bytes = self.exit_info.to_le_bytes();
        (number(&bytes, 4..8), number(&bytes, 0..4))
    }

    fn report(&self, report_data: &ReportData) -> io::Result<Vec<u8>> {
        let (status, size) = (number(&self.response, STATUS), number(&self.response, REPORT_SIZE));
        if status != 0 {
            return Err(io::Error::other(format!(
                "the chip's firmware makes no report: {status:#x}"
            )));
        }
        let report = self.response.get(REPORT).unwrap_or_default();
        if usize::try_from(size) != Ok(REPORT_BYTES) || report.len() != REPORT_BYTES {
            return Err(io::Error::other(format!("a report has {REPORT_BYTES} bytes, not {size}")));
        }
        if report.get(REPORT_DATA) != Some(report_data.as_slice()) {
            return Err(io::Error::other("the report is not over what was asked"));
        }
        Ok(report.to_vec())
    }
}

fn number(bytes: &[u8], at: Range<usize>) -> u32 {
    let bytes = bytes.get(at).and_then(|bytes| bytes.first_chunk());
    bytes.map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes))
}

/// The report over `report_data`, and the host's table of certificates, which may be empty.
fn ask(
    firmware: &impl Firmware,
    report_data: &ReportData,
    every: Duration,
) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let deadline = Instant::now() + ANSWER_MAX;
    let mut call = Call::Extended;
    let mut exchange = Exchange::new(report_data, TABLE_BYTES);
    loop {
        let Err(error) = firmware.call(call, &mut exchange) else {
            let report = exchange.report(report_data)?;
            let table = if call == Call::Extended { exchange.table } else { Vec::new() };
            return Ok((report, table));
        };
        let table_bytes = match (exchange.errors(), call) {
            ((BUSY, _), _) => exchange.table.len(),
            _ if Errno::from_io_error(&error) == Some(Errno::AGAIN) => exchange.table.len(),
            ((TABLE_TOO_SHORT, _), Call::Extended) => {
                exchange = larger(report_data, &exchange)?;
                continue;
            }
            // A host that knows no tables may still have a chip.
            ((host, 0), Call::Extended) if host != 0 => {
                call = Call::Report;
                exchange = Exchange::new(report_data, 0);
                continue;
            }
            ((host, chip), _) => {
                let why =
                    format!("{error}; the chip's firmware says {chip:#x}, the host {host:#x}");
                return Err(io::Error::other(why));
            }
        };
        if Instant::now() + every > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the host says that it is busy"));
        }
        std::thread::sleep(every);
        exchange = Exchange::new(report_data, table_bytes);
    }
}

/// Another exchange, for the table that the host has: larger, or there would be no end.
fn larger(report_data: &ReportData, before: &Exchange) -> io::Result<Exchange> {
    let length = before.announced();
    let fits = length > before.table.len() && length <= TABLE_BYTES_MAX;
    if !fits || !length.is_multiple_of(PAGE_BYTES) {
        return Err(io::Error::other(format!(
            "the host has a table of {length} bytes, which is none"
        )));
    }
    Ok(Exchange::new(report_data, length))
}

/// The driver, and the host for what the driver was not given.
#[derive(Debug)]
pub struct SevGuestReport {
    device: File,
    certificates: ReportPort,
}

impl SevGuestReport {
    /// # Errors
    /// There is no such device here, or it may not be opened.
    pub fn new(certificates: ReportPort) -> Result<Self, EvidenceError> {
        Ok(Self { device: open(Path::new(DEVICE))?, certificates })
    }
}

fn open(path: &Path) -> Result<File, EvidenceError> {
    let device = File::options().read(true).write(true).open(path);
    device.map_err(|error| {
        EvidenceError(format!(
            "{}: {error}: this is no SEV-SNP guest, or its kernel has no sev-guest module",
            path.display()
        ))
    })
}

impl EvidenceSource for SevGuestReport {
    fn evidence(&self, report_data: &ReportData) -> Result<Vec<u8>, EvidenceError> {
        let asked = ask(&self.device, report_data, ASK_EVERY);
        let (report, table) = asked.map_err(EvidenceError::because)?;
        document(report, &table, &self.certificates, report_data)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Mutex};

    use super::*;
    use crate::guest::certificates::tests::whole;

    const ASKED: ReportData = [9; 64];

    /// What the driver does when it is asked once.
    type Step = Box<dyn Fn(Call, &mut Exchange) -> io::Result<()> + Send>;

    struct Told(Mutex<VecDeque<Step>>);

    impl Firmware for Told {
        fn call(&self, call: Call, exchange: &mut Exchange) -> io::Result<()> {
            assert_eq!(exchange.request[..64], ASKED);
            assert_eq!(exchange.request[64..ADDRESS.start], [0; 32], "level 0, and the reserve");
            assert_eq!(exchange.announced(), exchange.table.len());
            assert!(exchange.table.len().is_multiple_of(PAGE_BYTES));
            self.0.lock().unwrap().pop_front().expect("not asked so often")(call, exchange)
        }
    }

    fn told(steps: Vec<Step>) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let firmware = Told(Mutex::new(steps.into()));
        let answer = ask(&firmware, &ASKED, Duration::ZERO);
        assert!(firmware.0.lock().unwrap().is_empty(), "asked too seldom");
        answer
    }

    /// A genuine report, made to be over our question, in the form of MSG_REPORT_RSP.
    fn response(status: u32, size: usize, over: ReportData) -> Vec<u8> {
        let hex = include_str!("../../../../tests/vectors/attestation/report_milan.hex");
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        let mut report: Vec<u8> = digits.chunks(2).map(|pair| byte(pair).unwrap()).collect();
        assert_eq!(report.len(), REPORT_BYTES);
        report[REPORT_DATA].copy_from_slice(&over);
        let size = u32::try_from(size).unwrap().to_le_bytes();
        let mut response = [&status.to_le_bytes()[..], &size, &[0; 24], &report].concat();
        response.resize(RESPONSE_BYTES, 0);
        response
    }

    fn good() -> Vec<u8> {
        response(0, REPORT_BYTES, ASKED)
    }

    fn answers(wanted: Call, response: Vec<u8>, table: Vec<u8>) -> Step {
        Box::new(move |call, exchange| {
            assert_eq!(call, wanted);
            exchange.response.clone_from(&response);
            exchange.table[..table.len()].copy_from_slice(&table);
            Ok(())
        })
    }

    fn fails(error: Errno, host: u32, chip: u32, length: Option<u32>) -> Step {
        Box::new(move |_, exchange| {
            exchange.exit_info = u64::from(host) << 32 | u64::from(chip);
            if let Some(length) = length {
                exchange.request[TABLE_LENGTH].copy_from_slice(&length.to_le_bytes());
            }
            Err(error.into())
        })
    }

    fn refused(steps: Vec<Step>) -> String {
        told(steps).unwrap_err().to_string()
    }

    #[test]
    fn report_and_table_are_what_the_firmware_answers() {
        let (report, table) = told(vec![answers(Call::Extended, good(), whole())]).unwrap();
        assert_eq!(report, good()[REPORT]);
        assert!(table.starts_with(&whole()));
        let table = super::super::certificates::Certificates::parse(&table).unwrap();
        assert!(table.is_whole());
    }

    #[test]
    fn a_longer_table_is_asked_for_once_more_and_within_its_maximum() {
        let longer = 5 * PAGE_BYTES;
        let said = u32::try_from(longer).ok();
        let steps = vec![
            fails(Errno::IO, TABLE_TOO_SHORT, 0, said),
            answers(Call::Extended, good(), vec![0; longer]),
        ];
        assert_eq!(told(steps).unwrap().1.len(), longer);
        for length in [TABLE_BYTES, TABLE_BYTES_MAX + PAGE_BYTES, TABLE_BYTES + 1, 0] {
            let length = u32::try_from(length).ok();
            let why = refused(vec![fails(Errno::IO, TABLE_TOO_SHORT, 0, length)]);
            assert!(why.contains("which is none"), "{why}");
        }
    }

    #[test]
    fn a_busy_host_is_asked_again_and_not_for_ever() {
        let steps = vec![
            fails(Errno::AGAIN, 0, 0, None),
            fails(Errno::IO, BUSY, 0, None),
            answers(Call::Extended, good(), Vec::new()),
        ];
        assert!(told(steps).is_ok());
        let firmware = Told(Mutex::new(vec![fails(Errno::AGAIN, BUSY, 0, None)].into()));
        let late = ask(&firmware, &ASKED, ANSWER_MAX + Duration::from_secs(1)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_host_without_tables_is_asked_for_the_report_alone() {
        let steps = vec![fails(Errno::IO, 7, 0, None), answers(Call::Report, good(), Vec::new())];
        assert_eq!(told(steps).unwrap().1, b"");
        let why = refused(vec![fails(Errno::IO, 7, 0, None), fails(Errno::IO, 7, 0, None)]);
        assert!(why.contains("the host 0x7"), "{why}");
    }

    #[test]
    fn what_is_no_report_over_our_question_is_refused() {
        let why = refused(vec![fails(Errno::IO, 0, 0x16, None)]);
        assert!(why.contains("firmware says 0x16"), "{why}");
        let mut short = good();
        short.truncate(REPORT.end - 1);
        for (response, expected) in [
            (response(0x27, REPORT_BYTES, ASKED), "0x27"),
            (response(0, REPORT_BYTES - 1, ASKED), "not 1183"),
            (response(0, REPORT_BYTES + 1, ASKED), "not 1185"),
            (response(0, 0, ASKED), "not 0"),
            (response(0, REPORT_BYTES, [8; 64]), "over what was asked"),
            (short, "a report has 1184 bytes"),
            (Vec::new(), "makes no report"),
        ] {
            let why = refused(vec![answers(Call::Extended, response, Vec::new())]);
            assert!(why.contains(expected), "{why}");
        }
    }

    #[test]
    fn the_driver_is_not_asked_with_less_room_than_it_writes_to() {
        let device = File::options().read(true).write(true).open("/dev/null").unwrap();
        let mut short = Exchange::new(&ASKED, PAGE_BYTES);
        short.response.truncate(RESPONSE_BYTES - 1);
        let mut other_table = Exchange::new(&ASKED, PAGE_BYTES);
        other_table.table.truncate(PAGE_BYTES - 1);
        for mut exchange in [short, other_table] {
            let error = device.call(Call::Extended, &mut exchange).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn without_the_device_that_is_said() {
        let error = open(Path::new("/nowhere/sev-guest")).unwrap_err();
        assert!(error.0.contains("no SEV-SNP guest"), "{error}");
        // The call itself, on what is no such device.
        let other = File::options().read(true).write(true).open("/dev/null").unwrap();
        let error = ask(&other, &ASKED, Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("ioctl"), "{error}");
    }
}
