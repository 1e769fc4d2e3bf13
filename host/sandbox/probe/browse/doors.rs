//! The descriptors that the launcher leaves open for this program.
#![allow(
    unsafe_code,
    reason = "a descriptor's number can only be turned into its owner by assertion"
)]

use std::{
    io,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::io::{FdFlags, fcntl_setfd};
use toani_protocol::limits::CONNECTIONS_MAX;

/// The first door's descriptor.
const DOOR_FD: i32 = 3;

/// All doors, for this process alone. To be called once, before anything opens a descriptor.
pub(crate) fn take() -> io::Result<Vec<UnixStream>> {
    let doors = (DOOR_FD..).take(CONNECTIONS_MAX).map(|descriptor| {
        // SAFETY: the launcher opened these descriptors for this program, and nothing else in the
        // program knows their numbers.
        let door = unsafe { OwnedFd::from_raw_fd(descriptor) };
        fcntl_setfd(&door, FdFlags::CLOEXEC)?;
        Ok(UnixStream::from(door))
    });
    doors.collect()
}
