//! Evidence that the host is asked for, over a port of its own: only a simulated chip's, since a
//! host that could vouch for a guest would be no adversary.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
};
use toani_protocol::evidence::ReportData;

use super::report::{HEAD_BYTES, head};
use crate::evidence::{EvidenceError, EvidenceSource};

/// Longest time from a question to the whole of its answer: the supervisor waits a little longer.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// The kernel tells nobody when a host has opened its end, so that one has to look.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The guest's end of the port.
#[derive(Debug)]
pub struct ReportPort {
    /// Nothing after a question that was not answered as it should be: a late answer would be taken
    /// for the next one's.
    port: Mutex<Option<File>>,
    answer_max: Duration,
}

impl ReportPort {
    pub fn new(port: File) -> Self {
        Self { port: Mutex::new(Some(port)), answer_max: ANSWER_MAX }
    }
}

impl EvidenceSource for ReportPort {
    fn evidence(&self, report_data: &ReportData) -> Result<Vec<u8>, EvidenceError> {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = || EvidenceError("the host has not answered before".into());
        let mut open = port.take().ok_or_else(gone)?;
        let deadline = Instant::now() + self.answer_max;
        let answer = ask(&mut open, report_data, deadline).map_err(EvidenceError::because);
        let (is_evidence, bytes) = answer?;
        *port = Some(open);
        if is_evidence {
            return Ok(bytes);
        }
        Err(EvidenceError(format!("the host says: {}", String::from_utf8_lossy(&bytes))))
    }
}

fn ask(
    port: &mut File,
    report_data: &ReportData,
    deadline: Instant,
) -> io::Result<(bool, Vec<u8>)> {
    // A port that blocks is written to until the host has taken it, whatever its state was before.
    let flags = fcntl_getfl(&*port)?;
    fcntl_setfl(&*port, flags | OFlags::NONBLOCK)?;
    write_all(port, report_data, deadline)?;
    let mut announced = [0; HEAD_BYTES];
    read_exact(port, &mut announced, deadline)?;
    let (is_evidence, length) =
        head(announced).ok_or_else(|| io::Error::other("the host's answer is none"))?;
    let mut bytes = vec![0; length];
    read_exact(port, &mut bytes, deadline)?;
    Ok((is_evidence, bytes))
}

fn write_all(port: &mut File, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        // Before the host has opened its end, the port is as if it were closed.
        if !wait(port, PollFlags::OUT, deadline)?.contains(PollFlags::OUT) {
            std::thread::sleep(LOOK_EVERY);
            continue;
        }
        match port.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_exact(port: &mut File, mut into: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !into.is_empty() {
        wait(port, PollFlags::IN, deadline)?;
        match port.read(into) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => into = into.get_mut(count..).unwrap_or_default(),
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// Returns when the port is ready for this, or has ended.
fn wait(port: &File, wanted: PollFlags, deadline: Instant) -> io::Result<PollFlags> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = [PollFd::from_borrowed_fd(port.as_fd(), wanted)];
        match poll(&mut fds, Some(&left)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => return Ok(fds.first().map_or(PollFlags::empty(), PollFd::revents)),
        }
    }
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

    /// One that waits a shorter time.
    fn impatient(port: UnixStream) -> ReportPort {
        let port = ReportPort::new(File::from(OwnedFd::from(port)));
        ReportPort { answer_max: Duration::from_millis(50), ..port }
    }

    #[test]
    fn a_host_that_does_not_answer_is_not_waited_for() {
        let (ours, _silent) = UnixStream::pair().unwrap();
        let port = impatient(ours);
        let why = port.evidence(&[7; 64]).unwrap_err().0;
        assert!(why.contains("timed out"), "{why}");
        assert!(port.evidence(&[7; 64]).unwrap_err().0.contains("before"));
    }

    #[test]
    fn a_host_that_does_not_read_is_not_waited_for() {
        let (mut ours, _full) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        while ours.write(&[0; 4096]).is_ok() {}
        ours.set_nonblocking(false).unwrap();
        let why = impatient(ours).evidence(&[7; 64]).unwrap_err().0;
        assert!(why.contains("timed out"), "{why}");
    }
}
