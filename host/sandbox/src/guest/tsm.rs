//! Reports of the guest's own SEV-SNP firmware, as the kernel hands them out from 6.7 on
//! (Documentation/ABI/testing/configfs-tsm): one makes a folder, writes report data, reads a report.
//!
//! Tested against named pipes with a thread behind them in the kernel's place, since plain files
//! neither count what is written nor answer it; not yet run on SEV-SNP hardware.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use toani_attestation::snp::REPORT_BYTES;
use toani_protocol::evidence::ReportData;

use super::{
    certificates::{TABLE_BYTES_MAX, document},
    report_port::ReportPort,
};
use crate::evidence::{EvidenceError, EvidenceSource};

pub(super) const FOLDER: &str = "/sys/kernel/config/tsm/report";
const TRIAL: &str = "toani-trial";
const PROVIDER: &str = "sev_guest";
/// A number, or a provider's name.
const WORD_BYTES_MAX: usize = 64;
/// Where REPORT_DATA stands in a report (AMD, publication 56860).
const REPORT_DATA: std::ops::Range<usize> = 0x50..0x90;

/// The kernel's interface, and the host for what the kernel was not given.
#[derive(Debug)]
pub struct TsmReport {
    folder: PathBuf,
    certificates: ReportPort,
}

impl TsmReport {
    /// # Errors
    /// This kernel hands out no reports.
    pub fn new(certificates: ReportPort) -> Result<Self, EvidenceError> {
        let folder = PathBuf::from(FOLDER);
        if !is_usable(&folder) {
            return Err(EvidenceError(format!(
                "{FOLDER} hands out no reports: this is no SEV-SNP guest, or its kernel is older than \
                 6.7"
            )));
        }
        Ok(Self { folder, certificates })
    }
}

impl EvidenceSource for TsmReport {
    fn evidence(&self, report_data: &ReportData) -> Result<Vec<u8>, EvidenceError> {
        let name = format!("toani-{:016x}", getrandom::u64().map_err(EvidenceError::because)?);
        let asked = Asked::new(&self.folder.join(name)).map_err(EvidenceError::because)?;
        self.document(&asked.0, report_data)
    }
}

impl TsmReport {
    /// Evidence by way of one folder.
    fn document(&self, asked: &Path, report_data: &ReportData) -> Result<Vec<u8>, EvidenceError> {
        let (report, table) = ask(asked, report_data).map_err(EvidenceError::because)?;
        document(report, &table, &self.certificates, report_data)
    }
}

/// Whether a question can be begun: the folder may be there without a driver that makes reports.
pub(super) fn is_usable(folder: &Path) -> bool {
    Asked::new(&folder.join(TRIAL)).is_ok()
}

/// A folder for one question, gone with it.
struct Asked(PathBuf);

impl Asked {
    fn new(path: &Path) -> io::Result<Self> {
        fs::create_dir(path)?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // One that stays costs the kernel some memory.
        let _ = fs::remove_dir(&self.0);
    }
}

/// The report over `report_data`, and the host's table of certificates.
fn ask(folder: &Path, report_data: &ReportData) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let provider = word(&folder.join("provider"))?;
    if provider != PROVIDER {
        return Err(io::Error::other(format!("reports are made by {provider}, not {PROVIDER}")));
    }
    let generation = || word(&folder.join("generation"))?.parse::<u64>().map_err(io::Error::other);
    let before = generation()?;
    File::options().write(true).open(folder.join("inblob"))?.write_all(report_data)?;
    let report = read(&folder.join("outblob"), REPORT_BYTES)?;
    let table = match read(&folder.join("auxblob"), TABLE_BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    // Else the report would be over what somebody else has written.
    if Some(generation()?) != before.checked_add(1) {
        return Err(io::Error::other("somebody else has asked at the same time"));
    }
    if report.get(REPORT_DATA) != Some(report_data.as_slice()) {
        return Err(io::Error::other("the report is not over what was asked"));
    }
    Ok((report, table))
}

fn word(path: &Path) -> io::Result<String> {
    let bytes = read(path, WORD_BYTES_MAX)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// All of a file, which is no larger than this.
fn read(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let most = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        return Err(io::Error::other(format!("{} is too large", path.display())));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        os::{fd::OwnedFd, unix::net::UnixStream},
        thread::JoinHandle,
    };

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use toani_attestation::{
        Evidence, SnpEvidence,
        snp::{self, SnpPolicy, TcbVersion},
    };
    use toani_protocol::sign::Bytes;
    use toani_simulator::{Authority, Guest, SnpRevocations};

    use super::*;
    use crate::{
        evidence::now,
        guest::{certificates::tests::whole, report::answer},
    };

    /// A folder in the kernel's place: what is written is answered, and counted, before the answer
    /// can be read.
    struct Kernel {
        folder: tempfile::TempDir,
        answering: Option<JoinHandle<()>>,
    }

    fn report_over(report_data: [u8; 64]) -> Vec<u8> {
        let mut report = vec![0; REPORT_BYTES];
        report[REPORT_DATA].copy_from_slice(&report_data);
        report
    }

    impl Kernel {
        fn new(provider: &str, writes: u64, report: Vec<u8>, table: &[u8]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = |name: &str| folder.path().join(name);
            fs::write(path("provider"), provider).unwrap();
            fs::write(path("generation"), "4\n").unwrap();
            fs::write(path("auxblob"), table).unwrap();
            for pipe in ["inblob", "outblob"] {
                mknodat(CWD, path(pipe), FileType::Fifo, Mode::RWXU, 0).unwrap();
            }
            let (input, output, counter) = (path("inblob"), path("outblob"), path("generation"));
            let answering = std::thread::spawn(move || {
                let asked = fs::read(input).unwrap();
                assert_eq!(asked, [9; 64]);
                fs::write(counter, (4 + writes).to_string()).unwrap();
                // Nobody may be there any more to read it.
                let _ = fs::write(output, report);
            });
            Self { folder, answering: Some(answering) }
        }

        fn ask(mut self) -> io::Result<(Vec<u8>, Vec<u8>)> {
            let answer = ask(self.folder.path(), &[9; 64]);
            if let Some(answering) = self.answering.take() {
                answering.join().unwrap();
            }
            answer
        }
    }

    #[test]
    fn a_report_is_what_the_kernel_answers() {
        let (report, table) =
            Kernel::new("sev_guest\n", 1, report_over([9; 64]), &whole()).ask().unwrap();
        assert_eq!(report.len(), REPORT_BYTES);
        assert_eq!(table, whole());
    }

    #[test]
    fn a_report_that_is_not_over_our_question_is_none() {
        let error = Kernel::new("sev_guest\n", 2, report_over([9; 64]), b"").ask().unwrap_err();
        assert!(error.to_string().contains("somebody else"), "{error}");
        let error = Kernel::new("sev_guest\n", 1, report_over([8; 64]), b"").ask().unwrap_err();
        assert!(error.to_string().contains("over what was asked"), "{error}");
    }

    /// A chip's report from the kernel, its certificates from the host: together they verify.
    #[test]
    fn what_comes_from_kernel_and_host_is_evidence() {
        let machine = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(machine.path()).unwrap();
        let (chip, guest) = (authority.chip(), Guest::new([5; 48], [9; 64]));
        let revocations = SnpRevocations::none(now());
        let made = authority.snp_evidence(&chip, &guest, &revocations).unwrap();

        let (ours, mut host) = UnixStream::pair().unwrap();
        let none = SnpEvidence { report: Bytes(Vec::new()), ..made.clone() };
        let document = Evidence::Snp(none).encode().unwrap();
        let answering = std::thread::spawn(move || {
            host.read_exact(&mut [0; 64]).unwrap();
            host.write_all(&answer(Ok(document))).unwrap();
        });
        let certificates = ReportPort::new(File::from(OwnedFd::from(ours)));
        let kernel = Kernel::new("sev_guest\n", 1, made.report.0, b"");
        let source = TsmReport { folder: PathBuf::new(), certificates };
        let document = source.document(kernel.folder.path(), &[9; 64]).unwrap();
        answering.join().unwrap();

        let Ok(Evidence::Snp(evidence)) = Evidence::decode(&document) else { panic!() };
        let policy = SnpPolicy {
            chips: vec![Bytes(chip.id.to_vec())],
            launch_digests: vec![Bytes(vec![5; 48])],
            min_tcb: TcbVersion::default(),
            refused_products: vec![],
            min_crl_number: None,
        };
        let roots = [authority.snp_root().unwrap()];
        let verdict = snp::verify(&evidence, &roots, &policy, now()).unwrap();
        assert_eq!(verdict.report_data, [9; 64]);
    }

    #[test]
    fn another_makers_reports_are_not_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("provider"), "tdx_guest\n").unwrap();
        let error = ask(folder.path(), &[9; 64]).unwrap_err();
        assert!(error.to_string().contains("tdx_guest"), "{error}");
    }

    #[test]
    fn what_is_too_large_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("auxblob");
        fs::write(&file, [0; 9]).unwrap();
        assert_eq!(read(&file, 9).unwrap().len(), 9);
        assert!(read(&file, 8).is_err());
    }
}
