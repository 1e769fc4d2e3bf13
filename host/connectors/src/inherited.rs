//! The descriptor that the launcher leaves open for this program.
#![allow(
    unsafe_code,
    reason = "a descriptor's number can only be turned into its owner by assertion"
)]

use std::{
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::atomic::{AtomicBool, Ordering},
};

/// The door's descriptor.
const DOOR_FD: i32 = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The door; `None` from the second call on. To be called before anything opens a descriptor.
pub fn take_door() -> Option<UnixStream> {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return None;
    }
    // SAFETY: the launcher opened this descriptor for this program, nothing else in the program
    // knows its number, and the flag lets one caller have it.
    Some(UnixStream::from(unsafe { OwnedFd::from_raw_fd(DOOR_FD) }))
}
