//! Ports of a virtio serial device: the guest's only ways to the host, but for the network.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::messages::CHUNK_BYTES_MAX;

/// The port that stands in the place of a supervisor's descriptor 0.
pub(crate) const CHANNEL_PORT: &str = "toani.channel";

const PORTS: &str = "/sys/class/virtio-ports";
const DEVICES: &str = "/dev";
/// Longest time until the host has named its ports.
const NAMED_MAX: Duration = Duration::from_secs(20);
/// The kernel tells nobody when a port has got its name, so that one has to look.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Opens the port of this name, as soon as it has it.
///
/// # Errors
/// The host has no such port, or it cannot be opened.
pub(super) fn open(name: &str) -> io::Result<File> {
    let deadline = Instant::now() + NAMED_MAX;
    let device = loop {
        if let Some(device) = find(Path::new(PORTS), name) {
            break Path::new(DEVICES).join(device);
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("the host has no port {name}")));
        }
        std::thread::sleep(LOOK_EVERY);
    };
    File::options().read(true).write(true).open(device)
}

fn find(ports: &Path, name: &str) -> Option<PathBuf> {
    let mut entries = fs::read_dir(ports).ok()?.filter_map(Result::ok);
    let named = |entry: &fs::DirEntry| {
        fs::read_to_string(entry.path().join("name")).is_ok_and(|found| found.trim() == name)
    };
    entries.find(named).map(|entry| entry.file_name().into())
}

/// A stream whose other end is the port. A port has no two halves that could be closed one by one:
/// when either side ends, both have.
///
/// # Errors
/// There is no stream or no thread to be had.
pub(super) fn stream_of(port: File) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let output = port.try_clone()?;
    std::thread::Builder::new().name("port".into()).spawn(move || {
        // An end is an end, however it came about.
        let _ = carry(&ours, port, output);
        let _ = ours.shutdown(Shutdown::Both);
    })?;
    Ok(theirs)
}

/// The first write waits until the host is there. A read before would find the port closed: so it
/// is the guest that speaks first.
fn carry(ours: &UnixStream, port: File, mut output: File) -> io::Result<()> {
    let mut source = ours;
    let mut chunk = vec![0; CHUNK_BYTES_MAX];
    let first = source.read(&mut chunk)?;
    output.write_all(chunk.get(..first).unwrap_or_default())?;
    let mut sink = ours.try_clone()?;
    std::thread::Builder::new().name("port".into()).spawn(move || {
        let _ = copy(port, &mut sink);
        let _ = sink.shutdown(Shutdown::Both);
    })?;
    copy(source, &mut output)
}

fn copy(mut from: impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES_MAX];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(chunk.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn a_port_is_found_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        for (port, name) in [("vport1p1", "toani.channel\n"), ("vport1p2", "toani.report\n")] {
            fs::create_dir(folder.path().join(port)).unwrap();
            fs::write(folder.path().join(port).join("name"), name).unwrap();
        }
        fs::create_dir(folder.path().join("vport1p3")).unwrap();
        assert_eq!(find(folder.path(), "toani.report"), Some("vport1p2".into()));
        assert_eq!(find(folder.path(), "toani"), None);
        assert_eq!(find(&folder.path().join("none"), "toani.report"), None);
    }

    #[test]
    fn bytes_go_both_ways_and_an_end_ends_both() {
        let (port, mut host) = UnixStream::pair().unwrap();
        let mut guest = stream_of(File::from(OwnedFd::from(port))).unwrap();
        let mut four = [0; 4];
        guest.write_all(b"here").unwrap();
        host.read_exact(&mut four).unwrap();
        assert_eq!(&four, b"here");
        host.write_all(b"work").unwrap();
        guest.read_exact(&mut four).unwrap();
        assert_eq!(&four, b"work");
        drop(host);
        assert_eq!(guest.read(&mut four).unwrap(), 0);
    }
}
