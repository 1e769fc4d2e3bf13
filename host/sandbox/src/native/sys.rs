//! The few system calls that safe Rust has no words for.
#![allow(
    unsafe_code,
    reason = "clone, execveat, unshare, signals and descriptors by number have no safe interface"
)]

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use rustix::thread::UnshareFlags;
use tokio::io::unix::AsyncFd;

/// Which side of [`clone`] this is.
#[derive(Debug)]
pub(super) enum Side {
    /// The caller, with a descriptor of the new process.
    Caller(OwnedFd),
    New,
}

/// Copies this process, which must have one thread only. With `sibling` the new process becomes
/// a child of our parent instead of our own.
pub(super) fn clone(sibling: bool) -> io::Result<Side> {
    let mut pidfd: libc::c_int = -1;
    let parent = if sibling { libc::CLONE_PARENT } else { 0 };
    let flags = libc::c_long::from(libc::CLONE_PIDFD | parent | libc::SIGCHLD);
    // SAFETY: without CLONE_VM and with no stack given, the new process goes on with its own copy
    // of all memory, like after fork. The launcher has one thread, so no lock is held by another.
    // CLONE_PIDFD makes the kernel write one int through the third argument, which outlives the
    // call.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::New),
        // SAFETY: the kernel opened this descriptor for us a moment ago; nobody else knows it.
        _ => Ok(Side::Caller(unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// Leaves the namespaces named by `flags` for new ones.
pub(super) fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    if flags.contains(UnshareFlags::FILES) {
        return Err(rustix::io::Errno::INVAL);
    }
    // SAFETY: the only condition is about descriptor tables, and those stay shared.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Puts a copy of `fd` at `number`, closing what was there.
///
/// Only for a process that is about to execute another program: `number` may belong to somebody.
pub(super) fn place(fd: impl AsFd, number: i32, close_on_exec: bool) -> io::Result<()> {
    let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
    // SAFETY: dup3 takes numbers and touches no memory. The owner of `number`, if there is one,
    // gets another file behind it, which the caller accepts.
    match unsafe { libc::dup3(fd.as_fd().as_raw_fd(), number, flags) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Marks all descriptors from `first` on to be closed by the next exec.
pub(super) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: takes numbers and touches no memory; nothing is closed yet.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Executes what stands behind descriptor `fd`, with its name, at most one argument and no
/// environment. Returns only if that fails.
pub(super) fn execute(fd: i32, name: &CStr, argument: Option<&CStr>) -> io::Error {
    let argument = argument.map_or(std::ptr::null(), CStr::as_ptr);
    let arguments = [name.as_ptr(), argument, std::ptr::null()];
    let environment = [std::ptr::null::<libc::c_char>()];
    // SAFETY: the path is empty and terminated, both arrays end with a null pointer, and all of
    // it lives until the call returns or this program's image is gone.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd,
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// Whether the kernel is to reap our children by itself, or to keep them for us.
pub(super) fn reap_children(automatically: bool) -> io::Result<()> {
    let action = if automatically { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: neither of the two dispositions is a function of ours.
    if unsafe { libc::signal(libc::SIGCHLD, action) } == libc::SIG_ERR {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Waits for `fd` on the runtime.
pub(super) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is open, and the same one, for as long as it lives.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}
