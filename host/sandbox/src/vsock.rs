//! Sockets between a host and its guest (AF_VSOCK), the channel's way where the host's kernel has
//! them. Both sides' calls are here; who listens and who connects is the guest's and the host's part.
//!
//! Not yet run: no machine with `/dev/vhost-vsock` was at hand.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, connect, getpeername, listen,
    socket,
};

/// Where a guest's supervisor listens.
const CHANNEL_PORT: u32 = 8470;
/// VMADDR_CID_ANY and VMADDR_CID_HOST.
const ANY: u32 = u32::MAX;
const HOST: u32 = 2;
/// Numbers up to here are the host's own, or nobody's.
pub(crate) const RESERVED_MAX: u32 = HOST;

fn stream() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

/// In a guest: a socket to which its host connects.
pub(crate) fn listening() -> io::Result<OwnedFd> {
    let socket = stream()?;
    bind(socket.as_raw_fd(), &VsockAddr::new(ANY, CHANNEL_PORT))?;
    listen(&socket, Backlog::new(1)?)?;
    Ok(socket)
}

/// In a guest: whether the other side is the host itself.
pub(crate) fn is_from_host(stream: BorrowedFd<'_>) -> bool {
    getpeername::<VsockAddr>(stream.as_raw_fd()).is_ok_and(|peer| peer.cid() == HOST)
}

/// On a host: a stream to the guest of this number.
pub(crate) fn connected(guest: u32) -> io::Result<OwnedFd> {
    let socket = stream()?;
    connect(socket.as_fd().as_raw_fd(), &VsockAddr::new(guest, CHANNEL_PORT))?;
    Ok(socket)
}
