//! The channel over vsock, where this kernel has it and this user may: the device is opened here and
//! handed to QEMU, which could not open it.
//!
//! Not yet run: no machine with such a device was at hand. The other way is a port of QEMU's own.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::Duration,
};

use tokio::{net::UnixStream, task::spawn_blocking, time::sleep};

use crate::vsock::{RESERVED_MAX, connected};

pub(super) const DEVICE: &str = "/dev/vhost-vsock";
/// Nobody is told when a guest begins to listen, so that one has to try.
const TRY_EVERY: Duration = Duration::from_millis(50);

/// The device, and the number that the guest will have.
#[derive(Debug)]
pub(super) struct Vsock {
    device: File,
    pub(super) guest: u32,
}

impl Vsock {
    /// Nothing where there is no such device that this user may open.
    pub(super) fn find(device: &Path) -> io::Result<Option<Self>> {
        let Ok(device) = File::options().read(true).write(true).open(device) else {
            return Ok(None);
        };
        Ok(Some(Self { device, guest: number()? }))
    }

    pub(super) fn device(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// Any that a guest may have. If another has it already, QEMU ends and says so.
fn number() -> io::Result<u32> {
    let random = getrandom::u32().map_err(io::Error::other)?;
    // Neither the host's numbers nor the one that stands for any.
    Ok((random & (u32::MAX >> 1)).max(RESERVED_MAX + 1))
}

/// A stream to the guest, as soon as it listens; the caller bounds the time.
pub(super) async fn connect(guest: u32) -> io::Result<UnixStream> {
    loop {
        match spawn_blocking(move || connected(guest)).await.map_err(io::Error::other)? {
            Ok(stream) => {
                // Of another family, and a stream socket with the same calls.
                let stream = std::os::unix::net::UnixStream::from(stream);
                stream.set_nonblocking(true)?;
                return UnixStream::from_std(stream);
            }
            // This kernel has no such sockets at all.
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Err(error),
            Err(_) => sleep(TRY_EVERY).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_device_it_is_the_port() {
        assert!(Vsock::find(Path::new("/nowhere/vhost-vsock")).unwrap().is_none());
        let found = Vsock::find(Path::new("/dev/null")).unwrap().unwrap();
        assert!(found.guest > RESERVED_MAX && found.guest < u32::MAX);
    }
}
