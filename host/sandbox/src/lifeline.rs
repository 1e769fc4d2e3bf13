//! A process that ends with the one that started it.
//!
//! The kernel's word for it (PR_SET_PDEATHSIG) holds from when it is asked: a parent that is gone by
//! then is never noticed. So each looks afterwards whether its parent is still there. Not by the
//! parent's number, which is 0 for all that are outside of a new pid namespace, but by what a parent
//! lets go of before it is gone.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Signal, set_parent_process_death_signal},
};

/// The parent ended before this process could ask to end with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("who started this process was gone before it could follow: start toani anew")]
pub struct Orphan;

/// Asks to be killed with the parent, which alone holds the other end of `stream`.
///
/// # Errors
/// [`Orphan`], or the kernel refuses.
pub fn follow(stream: impl AsFd) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if is_closed(stream)? { Err(io::Error::other(Orphan)) } else { Ok(()) }
}

/// The same for a child in another pid namespace, by a descriptor of its parent's process.
pub(crate) fn follow_process(parent: &OwnedFd) -> rustix::io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if has_ended(parent)? { Err(Errno::SRCH) } else { Ok(()) }
}

/// Whether nobody is at the other end any more.
fn is_closed(stream: impl AsFd) -> rustix::io::Result<bool> {
    let gone = PollFlags::HUP | PollFlags::RDHUP;
    let mut fds = [PollFd::new(&stream, PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec::default()))?;
    Ok(fds.iter().any(|fd| fd.revents().intersects(gone)))
}

/// A process's descriptor becomes readable with its end.
pub(crate) fn has_ended(process: impl AsFd) -> rustix::io::Result<bool> {
    let mut fds = [PollFd::new(&process, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&Timespec::default()))? != 0)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, process::Command};

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn a_parent_that_is_gone_is_noticed() {
        let (stream, parents) = UnixStream::pair().unwrap();
        assert_eq!(is_closed(&stream), Ok(false));
        // What it has said before does not hide that it is gone.
        io::Write::write_all(&mut &parents, b"x").unwrap();
        drop(parents);
        assert_eq!(is_closed(&stream), Ok(true));

        let mut process = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let handle = pidfd_open(Pid::from_child(&process), PidfdFlags::empty()).unwrap();
        assert_eq!(has_ended(&handle), Ok(false));
        drop(process.stdin.take());
        process.wait().unwrap();
        assert_eq!(has_ended(&handle), Ok(true));
    }
}
