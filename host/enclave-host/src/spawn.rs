//! The enclave's process: starting it, handing over the lanes, noticing its end.
//!
//! Its stdin is a control socket. The first message there carries the lanes' sockets
//! (`SCM_RIGHTS`), so that no other child of this process can inherit them by accident; the first
//! message back is one byte 0 for ready, or 1 and a sentence.

use std::{
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    process::{Command, Stdio},
    thread,
};

use rustix::{
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::{io::AsyncReadExt, net::UnixStream, sync::oneshot, sync::watch};

use crate::{LANES, StartError};

/// Longest sentence of an enclave that refuses to start.
const REFUSAL_BYTES_MAX: u64 = 4 * 1024;

/// The process, from its start to its end.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    /// Names this very process even when its id is used again.
    handle: OwnedFd,
    lost: watch::Receiver<bool>,
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn lost(&self) -> watch::Receiver<bool> {
        self.lost.clone()
    }

    pub(crate) fn kill(&self) {
        // It has ended already, which is what was wanted.
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the process and waits for its word.
pub(crate) async fn start(command: Command) -> Result<(Process, Vec<UnixStream>), StartError> {
    let (control, theirs) = StdStream::pair()?;
    let mut lanes = Vec::with_capacity(LANES);
    let mut their_lanes = Vec::with_capacity(LANES);
    for _ in 0..LANES {
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        lanes.push(UnixStream::from_std(ours)?);
        their_lanes.push(theirs);
    }
    let process = spawn(command, theirs).await?;
    // It may have ended already; then its silence is what there is to tell.
    send_sockets(&control, &their_lanes).map_err(|_| StartError::Silent)?;
    drop(their_lanes);

    control.set_nonblocking(true)?;
    let mut word = Vec::new();
    let mut control = UnixStream::from_std(control)?.take(REFUSAL_BYTES_MAX);
    control.read_to_end(&mut word).await.map_err(|_| StartError::Silent)?;
    match word.split_first() {
        Some((0, [])) => Ok((process, lanes)),
        Some((1, sentence)) => {
            Err(StartError::Refused(String::from_utf8_lossy(sentence).into_owned()))
        }
        _ => Err(StartError::Silent),
    }
}

/// Spawns the child from a thread that lives as long as the child.
///
/// The child asks to be killed when its parent *thread* dies (`PR_SET_PDEATHSIG`), and a worker
/// of the runtime may die at any time. The same thread waits for the child's end.
async fn spawn(mut command: Command, control: StdStream) -> Result<Process, StartError> {
    let (started, start) = oneshot::channel();
    let (ended, lost) = watch::channel(false);
    thread::Builder::new().name("enclave-keeper".to_owned()).spawn(move || {
        command.stdin(Stdio::from(OwnedFd::from(control))).stdout(Stdio::null());
        match command.spawn() {
            Ok(mut child) => {
                // Closes our copy of the child's end of the control socket.
                drop(command);
                let _ = started.send(Ok(child.id()));
                let _ = child.wait();
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
        ended.send_replace(true);
    })?;
    let pid = start.await.map_err(|_| StartError::Silent)??;
    // The keeper waits for the child, so its id may be free again only once it has ended; then
    // opening fails or `kill` misses, and `lost` says so in either case.
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.ok_or(StartError::Silent)?;
    let handle = pidfd_open(raw, PidfdFlags::empty()).map_err(io::Error::from)?;
    Ok(Process { pid, handle, lost })
}

fn send_sockets(control: &StdStream, lanes: &[StdStream]) -> io::Result<()> {
    let lanes: Vec<BorrowedFd<'_>> = lanes.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LANES))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !rights.push(SendAncillaryMessage::ScmRights(&lanes)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let message = [io::IoSlice::new(&[0])];
    sendmsg(control, &message, &mut rights, SendFlags::NOSIGNAL)?;
    Ok(())
}
