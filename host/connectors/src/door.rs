//! Our side of the door: ask once for the plan's endpoint.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use toani_protocol::{job::JobEnd, policy::Endpoint};

/// Of an answer that has not come to its end, in bytes.
const ANSWER_BYTES_MAX: usize = 256;
const END: &[u8] = b"\r\n\r\n";

/// Asks the door for `endpoint`. What is written next goes there, if the door opens.
///
/// # Errors
/// There is nobody at the door.
pub fn ask(door: &mut UnixStream, endpoint: &Endpoint) -> Result<(), JobEnd> {
    let request = format!("CONNECT {endpoint} HTTP/1.1\r\n\r\n");
    door.write_all(request.as_bytes()).map_err(|_| JobEnd::ConnectorFailed)
}

/// Waits for the door to open. Returns what the endpoint has said already.
///
/// # Errors
/// The definite end of the execution, if the door does not open in time.
pub fn answer(door: &mut UnixStream, deadline: Instant) -> Result<Vec<u8>, JobEnd> {
    let (answer, early) = read_answer(door, deadline)?;
    meaning(&answer)?;
    Ok(early)
}

/// Reads the answer, which ends with an empty line, and what came with it.
fn read_answer(door: &mut UnixStream, deadline: Instant) -> Result<(Vec<u8>, Vec<u8>), JobEnd> {
    let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
    let mut chunk = [0; ANSWER_BYTES_MAX];
    loop {
        if let Some(at) = answer.windows(END.len()).position(|part| part == END) {
            let early = answer.split_off(at + END.len());
            return Ok((answer, early));
        }
        if answer.len() >= ANSWER_BYTES_MAX {
            return Err(JobEnd::ConnectorFailed);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(JobEnd::TimedOut);
        }
        door.set_read_timeout(Some(left.max(Duration::from_millis(1))))
            .map_err(|_| JobEnd::ConnectorFailed)?;
        match door.read(&mut chunk) {
            Ok(read @ 1..) => answer.extend_from_slice(chunk.get(..read).unwrap_or_default()),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            _ => return Err(JobEnd::ConnectorFailed),
        }
    }
}

/// The door answers 200 when it is open, 403 when no address may be connected to, 502 when none
/// could be, and 504 when that took too long.
fn meaning(answer: &[u8]) -> Result<(), JobEnd> {
    match answer.get(..13) {
        Some(b"HTTP/1.1 200 ") => Ok(()),
        Some(b"HTTP/1.1 403 ") => Err(JobEnd::AddressRefused),
        Some(b"HTTP/1.1 502 " | b"HTTP/1.1 504 ") => Err(JobEnd::Unreachable),
        _ => Err(JobEnd::ConnectorFailed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn asked(says: &[u8]) -> (Result<Vec<u8>, JobEnd>, Vec<u8>) {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(says).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let endpoint = Endpoint { host: "example.org".into(), port: 8443, private: false };
        ask(&mut ours, &endpoint).unwrap();
        let end = answer(&mut ours, Instant::now() + Duration::from_secs(5));
        drop(ours);
        let mut request = Vec::new();
        theirs.read_to_end(&mut request).unwrap_or_default();
        (end, request)
    }

    #[test]
    fn each_answer_has_one_meaning() {
        let (end, request) = asked(b"HTTP/1.1 200 open\r\n\r\n");
        assert_eq!(end.unwrap(), b"");
        assert_eq!(request, b"CONNECT example.org:8443 HTTP/1.1\r\n\r\n");
        assert_eq!(asked(b"HTTP/1.1 200 open\r\n\r\nearly").0.unwrap(), b"early");
        for (says, end) in [
            (b"HTTP/1.1 403 x\r\n\r\n".as_slice(), JobEnd::AddressRefused),
            (b"HTTP/1.1 502 x\r\n\r\n", JobEnd::Unreachable),
            (b"HTTP/1.1 504 x\r\n\r\n", JobEnd::Unreachable),
            (b"HTTP/1.1 404 x\r\n\r\n", JobEnd::ConnectorFailed),
            (b"HTTP/1.1 200 ", JobEnd::ConnectorFailed),
            (b"", JobEnd::ConnectorFailed),
            (&[b'x'; 4096], JobEnd::ConnectorFailed),
        ] {
            assert_eq!(asked(says).0, Err(end));
        }
    }

    /// In packets, so that each is read by itself.
    #[test]
    fn what_comes_early_is_kept_however_it_comes() {
        let flags = SocketFlags::CLOEXEC;
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let (mut ours, mut theirs) = (UnixStream::from(pair.0), UnixStream::from(pair.1));
        let (end, early) = (b"open\r\n\r\n", [b'x'; ANSWER_BYTES_MAX - 8]);
        theirs.write_all(b"HTTP/1.1 200 ").unwrap();
        theirs.write_all(&[end.as_slice(), &early].concat()).unwrap();
        assert_eq!(answer(&mut ours, Instant::now() + Duration::from_secs(5)).unwrap(), early);
    }

    #[test]
    fn a_silent_door_ends_in_time() {
        let (mut ours, _theirs) = UnixStream::pair().unwrap();
        let deadline = Instant::now() + Duration::from_millis(30);
        assert_eq!(answer(&mut ours, deadline), Err(JobEnd::TimedOut));
    }
}
