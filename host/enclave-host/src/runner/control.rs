//! The control socket on stdin: lanes come in, one word goes out.

use std::{
    io::{IoSliceMut, Write},
    mem::MaybeUninit,
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
};

use anyhow::{Context, Result, bail};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::LANES;

/// The sockets over which calls come.
pub type Lanes = Vec<UnixStream>;

/// The control socket.
#[derive(Debug)]
pub struct Control {
    stream: UnixStream,
}

impl Control {
    pub fn open() -> Result<Self> {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().context("stdin is closed")?;
        let stream = UnixStream::from(stdin);
        stream
            .local_addr()
            .context("stdin is not a socket; this program is started by `toani serve`")?;
        Ok(Self { stream })
    }

    /// Takes the lanes from the first message.
    pub fn receive_lanes(&self) -> Result<Lanes> {
        let mut byte = [0; 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LANES))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let mut message = [IoSliceMut::new(&mut byte)];
        recvmsg(&self.stream, &mut message, &mut rights, RecvFlags::CMSG_CLOEXEC)
            .context("the host sent no lanes")?;
        let mut lanes = Vec::with_capacity(LANES);
        for message in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                lanes.extend(sockets.map(UnixStream::from));
            }
        }
        if lanes.len() != LANES {
            bail!("the host sent {} lanes instead of {LANES}", lanes.len());
        }
        Ok(lanes)
    }

    /// Says that calls are answered from now on, and nothing more.
    pub fn ready(mut self) -> std::io::Result<()> {
        self.stream.write_all(&[0])?;
        self.stream.shutdown(Shutdown::Both)
    }

    /// Says why not. The host may be gone, and then there is nobody to tell.
    pub fn refuse(mut self, sentence: &str) {
        let _ = self.stream.write_all(&[1]);
        let _ = self.stream.write_all(sentence.as_bytes());
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
