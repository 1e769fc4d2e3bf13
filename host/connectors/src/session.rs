//! A TLS session over the door, driven by `poll(2)` on one descriptor and one deadline.
//!
//! A runtime would bring threads, epoll and timers into the container, and each system call that
//! it needs into the allow-list. One connection needs none of them.

use std::{
    cell::RefCell,
    future::Future,
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use toani_protocol::job::JobEnd;

use crate::door;

/// Plaintext taken out of a session at once.
const CHUNK_BYTES: usize = 16 * 1024;

struct Inner {
    tls: ClientConnection,
    socket: UnixStream,
    /// Came with the door's answer, before what is in the socket.
    early: Vec<u8>,
    /// The upstream broke TLS itself, in the handshake or later.
    refused: bool,
}

/// One TLS connection. Clones share it.
#[derive(Clone)]
pub struct Session(Rc<RefCell<Inner>>);

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    /// Completes the handshake with `host` through a door that has been asked to lead there. The
    /// first message goes out before the door has answered: to be woken in between is dear where a
    /// kernel in user space does it, and nothing in that message is secret.
    ///
    /// # Errors
    /// What the door's answer means; [`JobEnd::TlsRefused`] if the upstream is not who it should be or
    /// does not speak TLS, [`JobEnd::TimedOut`] if that takes too long.
    pub fn open(
        mut socket: UnixStream,
        config: ClientConfig,
        host: &str,
        deadline: Instant,
    ) -> Result<Self, JobEnd> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| JobEnd::TlsRefused)?;
        let mut tls =
            ClientConnection::new(Arc::new(config), name).map_err(|_| JobEnd::ConnectorFailed)?;
        // A door that does not open is no reader. Why it does not is in its answer.
        let _ = tls.write_tls(&mut socket);
        let early = door::answer(&mut socket, deadline)?;
        socket.set_nonblocking(true).map_err(|_| JobEnd::ConnectorFailed)?;
        let session = Self(Rc::new(RefCell::new(Inner { tls, socket, early, refused: false })));
        let handshake = std::future::poll_fn(|_| session.0.borrow_mut().shake());
        match session.run(deadline, handshake)? {
            Ok(()) => Ok(session),
            Err(_) => Err(JobEnd::TlsRefused),
        }
    }

    /// Whether the upstream broke TLS after the handshake.
    pub fn refused(&self) -> bool {
        self.0.borrow().refused
    }

    /// Runs `future`, which waits for nothing but this session, until `deadline`.
    ///
    /// # Errors
    /// [`JobEnd::TimedOut`]; [`JobEnd::ConnectorFailed`] if the descriptor cannot be polled.
    pub fn run<F: Future>(&self, deadline: Instant, future: F) -> Result<F::Output, JobEnd> {
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return Ok(output);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(JobEnd::TimedOut);
            }
            if !woken.0.swap(false, Ordering::AcqRel) {
                self.wait(left)?;
            }
        }
    }

    fn wait(&self, left: Duration) -> Result<(), JobEnd> {
        let inner = self.0.borrow();
        let mut events = PollFlags::IN;
        events.set(PollFlags::OUT, inner.tls.wants_write());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut polled = [PollFd::new(&inner.socket, events)];
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(_) => Err(JobEnd::ConnectorFailed),
        }
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Inner {
    fn shake(&mut self) -> Poll<io::Result<()>> {
        while self.tls.is_handshaking() {
            match self.send() {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            match self.receive() {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ErrorKind::UnexpectedEof.into())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends all records that are ready.
    fn send(&mut self) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Poll::Pending,
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes in records; 0 is the end of the stream.
    fn receive(&mut self) -> Poll<io::Result<usize>> {
        loop {
            // Less than two answers of the door, so less than rustls takes at once.
            let early = std::mem::take(&mut self.early);
            match self.tls.read_tls(&mut early.as_slice().chain(&mut self.socket)) {
                Ok(count) => {
                    if self.tls.process_new_packets().is_err() {
                        self.refused = true;
                        // The alert that says why; whether it arrives changes nothing.
                        let _ = self.send();
                        return Poll::Ready(Err(ErrorKind::InvalidData.into()));
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Poll::Pending,
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    fn read(&mut self, out: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.tls.reader().read(out) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                // With plaintext, a clean end, or an end without close_notify, which is an error:
                // a body that is delimited by the end of the stream may have been cut.
                other => return Poll::Ready(other),
            }
            match self.receive() {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Read for Session {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut chunk = [0; CHUNK_BYTES];
        let length = buffer.remaining().min(CHUNK_BYTES);
        let Some(part) = chunk.get_mut(..length) else {
            return Poll::Ready(Ok(()));
        };
        match self.0.borrow_mut().read(part) {
            Poll::Ready(Ok(count)) => {
                buffer.put_slice(part.get(..count).unwrap_or_default());
                zeroize::Zeroize::zeroize(part);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Write for Session {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        // Room first: rustls bounds what it buffers.
        if let Poll::Ready(Err(error)) = inner.send() {
            return Poll::Ready(Err(error));
        }
        match inner.tls.writer().write(bytes) {
            Ok(0) if !bytes.is_empty() => Poll::Pending,
            other => Poll::Ready(other),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().send()
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        inner.tls.send_close_notify();
        inner.send()
    }
}
