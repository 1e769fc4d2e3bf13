//! Evidence that the host is asked for, over a port of its own: only a simulated chip's, since a
//! host that could vouch for a guest would be no adversary.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use toani_protocol::evidence::ReportData;

use super::report::{HEAD_BYTES, head};
use crate::evidence::{EvidenceError, EvidenceSource};

/// Longest time from a question to the whole of its answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The guest's end of the port.
#[derive(Debug)]
pub struct ReportPort {
    /// Nothing after a question that was not answered as it should be: a late answer would be taken
    /// for the next one's.
    port: Mutex<Option<File>>,
}

impl ReportPort {
    pub fn new(port: File) -> Self {
        Self { port: Mutex::new(Some(port)) }
    }
}

impl EvidenceSource for ReportPort {
    fn evidence(&self, report_data: &ReportData) -> Result<Vec<u8>, EvidenceError> {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = || EvidenceError("the host has not answered before".into());
        let mut open = port.take().ok_or_else(gone)?;
        let (is_evidence, bytes) = ask(&mut open, report_data).map_err(EvidenceError::because)?;
        *port = Some(open);
        if is_evidence {
            return Ok(bytes);
        }
        Err(EvidenceError(format!("the host says: {}", String::from_utf8_lossy(&bytes))))
    }
}

fn ask(port: &mut File, report_data: &ReportData) -> io::Result<(bool, Vec<u8>)> {
    let deadline = Instant::now() + ANSWER_MAX;
    port.write_all(report_data)?;
    let mut announced = [0; HEAD_BYTES];
    read_exact(port, &mut announced, deadline)?;
    let (is_evidence, length) =
        head(announced).ok_or_else(|| io::Error::other("the host's answer is none"))?;
    let mut bytes = vec![0; length];
    read_exact(port, &mut bytes, deadline)?;
    Ok((is_evidence, bytes))
}

fn read_exact(port: &mut File, mut into: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !into.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = [PollFd::from_borrowed_fd(port.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
            Ok(_) => {}
        }
        match port.read(into)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => into = into.get_mut(count..).unwrap_or_default(),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::{fd::OwnedFd, unix::net::UnixStream};

    use super::*;
    use crate::guest::report::answer;

    /// A host that answers each question with the next of these.
    fn port(answers: Vec<Vec<u8>>) -> ReportPort {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let mut asked = [0; 64];
                theirs.read_exact(&mut asked).unwrap();
                assert_eq!(asked, [7; 64]);
                theirs.write_all(&answer).unwrap();
            }
        });
        ReportPort::new(File::from(OwnedFd::from(ours)))
    }

    #[test]
    fn the_hosts_answer_is_the_evidence() {
        let refused = Err(EvidenceError("no chip".into()));
        let port = port(vec![answer(Ok(b"one".to_vec())), answer(refused), answer(Ok(vec![2]))]);
        assert_eq!(port.evidence(&[7; 64]).unwrap(), b"one");
        assert!(port.evidence(&[7; 64]).unwrap_err().0.contains("no chip"));
        assert_eq!(port.evidence(&[7; 64]).unwrap(), [2]);
    }

    #[test]
    fn after_what_is_no_answer_nobody_is_asked() {
        for wrong in [vec![9; 5], vec![0, 3, 0, 0, 0, 1], Vec::new()] {
            let port = port(vec![wrong]);
            assert!(port.evidence(&[7; 64]).is_err());
            assert!(port.evidence(&[7; 64]).unwrap_err().0.contains("before"));
        }
    }
}
