//! The gateway's stream where the host has given the machine a vsock device. Which of both ways it
//! is, is seen by the device: the host can choose it, and can only keep itself from being heard.

use std::{
    fs,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{SocketFlags, accept_with},
};

pub(super) const DEVICES: &str = "/sys/bus/virtio/devices";
/// VIRTIO_ID_VSOCK, as its device says it.
const VSOCK: &str = "0x0013";
/// Longest time until the host has connected.
const CONNECTED_MAX: Duration = Duration::from_secs(20);

/// Whether there is such a device.
pub(super) fn is_there(devices: &Path) -> bool {
    let mut entries = fs::read_dir(devices).into_iter().flatten().flatten();
    entries.any(|entry| {
        fs::read_to_string(entry.path().join("device")).is_ok_and(|id| id.trim() == VSOCK)
    })
}

/// The host's stream.
pub(super) fn gateway() -> io::Result<UnixStream> {
    let deadline = Instant::now() + CONNECTED_MAX;
    accept(&crate::vsock::listening()?, crate::vsock::is_from_host, deadline)
}

/// The first connection that is the host's. Nobody else is answered, and nothing is said to him.
fn accept(
    listener: impl AsFd,
    is_from_host: impl Fn(BorrowedFd<'_>) -> bool,
    deadline: Instant,
) -> io::Result<UnixStream> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&listener, PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Ok(0) => return Err(io::Error::new(ErrorKind::TimedOut, "the host does not connect")),
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let stream = accept_with(&listener, SocketFlags::CLOEXEC)?;
        if is_from_host(stream.as_fd()) {
            // Of another family, and a stream socket with the same calls.
            return Ok(stream.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixListener,
        sync::atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[test]
    fn the_device_says_which_way_it_is() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_there(&folder.path().join("none")));
        for (name, id) in [("virtio0", "0x0003\n"), ("virtio1", "0x0001\n")] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("device"), id).unwrap();
        }
        assert!(!is_there(folder.path()));
        fs::write(folder.path().join("virtio1/device"), "0x0013\n").unwrap();
        assert!(is_there(folder.path()));
    }

    #[test]
    fn the_first_connection_of_the_host_is_taken_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut other = UnixStream::connect(&path).unwrap();
        let mut host = UnixStream::connect(&path).unwrap();
        let asked = AtomicU32::new(0);
        let deadline = Instant::now() + CONNECTED_MAX;
        let second = |_: BorrowedFd<'_>| asked.fetch_add(1, Ordering::Relaxed) == 1;
        let mut guest = accept(&listener, second, deadline).unwrap();
        guest.write_all(b"here").unwrap();
        let mut four = [0; 4];
        host.read_exact(&mut four).unwrap();
        assert_eq!(&four, b"here");
        assert_eq!(other.read(&mut four).unwrap(), 0, "nobody else is answered");
    }

    #[test]
    fn a_host_that_does_not_connect_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let error = accept(&listener, |_| true, Instant::now()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
