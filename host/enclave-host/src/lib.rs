//! Runs the enclave's image and calls it. Nothing else of the host reaches the enclave.
//!
//! A *runner* is a process of its own that maps the image ([`image`]) and enters it ([`runner`]):
//! `toani-sgx` on hardware, `toani-simulator` where that was asked for by name.
//! [`EnclaveHost::start`] spawns one and hands over [`LANES`] sockets; [`EnclaveHost::call`] sends
//! one command over a lane that is free and waits for its reply. A lane carries one call at a time
//! and enters the image on a thread of its own, so that up to [`LANES`] calls are verified in
//! parallel; which of them is applied first is the enclave's choice, and the indices of the
//! records in the replies tell.
//!
//! A call that takes longer than [`CALL_MS_MAX`], a broken lane, or a reply that does not decode
//! means that the enclave is lost: it is ended, and every call from then on fails. Its state is
//! the fold of its records, so starting another one loses nothing but pending approvals and
//! tokens.

pub mod frame;
pub mod image;
mod lane;
pub mod runner;
pub mod sgx;
mod spawn;

use std::{
    ffi::OsString,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use toani_protocol::{
    ids::Time,
    limits::MESSAGE_BYTES_MAX,
    wire::{self, Call, Command, Reply, WIRE_VERSION},
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{frame::Kind, lane::Job, spawn::Process};

/// Calls that are under way at the same time; the image has as many threads.
pub const LANES: usize = 4;
/// Calls that wait for a lane; more wait for a place in this queue.
const QUEUE_MAX: usize = 256;
/// Longest time of one call; replaying a batch of records is the longest that there is.
pub const CALL_MS_MAX: u64 = 60_000;
/// Longest time from spawning the process to its word that it is ready.
pub const START_MS_MAX: u64 = 30_000;

/// Why the enclave did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the enclave's process cannot be started: {0}")]
    Spawn(#[from] std::io::Error),
    /// The enclave's own sentence.
    #[error("the enclave refuses to start: {0}")]
    Refused(String),
    #[error("the enclave ended, or said nothing, while it started; its own words are on stderr")]
    Silent,
}

/// The enclave's process is gone, or broke the protocol and was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the enclave's process is lost; the plane has to start a new boot")]
pub struct EnclaveLost;

/// Why there is no evidence.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QuoteError {
    #[error(transparent)]
    EnclaveLost(#[from] EnclaveLost),
    /// The runner's own sentence.
    #[error("the enclave's report cannot be quoted: {0}")]
    Refused(String),
}

impl QuoteError {
    fn refused(sentence: &[u8]) -> Self {
        Self::Refused(String::from_utf8_lossy(sentence).into_owned())
    }
}

/// A program that runs the image, and its arguments.
#[derive(Debug, Clone)]
pub struct Runner {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
}

/// A running enclave. Clones share it; when the last one is dropped, it ends.
#[derive(Debug, Clone)]
pub struct EnclaveHost {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: mpsc::Sender<Job>,
    process: Arc<Process>,
    lost: watch::Receiver<bool>,
}

impl EnclaveHost {
    /// Starts a runner with its arguments.
    pub async fn start(runner: &Runner) -> Result<Self, StartError> {
        let mut command = std::process::Command::new(&runner.program);
        command.args(&runner.arguments).env_clear();
        Self::start_command(command).await
    }

    /// Starts a prepared command, as another user for example. Its stdin and stdout are taken.
    pub async fn start_command(command: std::process::Command) -> Result<Self, StartError> {
        let limit = Duration::from_millis(START_MS_MAX);
        let (process, lanes) = tokio::time::timeout(limit, spawn::start(command))
            .await
            .map_err(|_| StartError::Silent)??;
        let process = Arc::new(process);
        let lost = process.lost();
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let waiting = Arc::new(tokio::sync::Mutex::new(waiting));
        for stream in lanes {
            tokio::spawn(lane::run(stream, waiting.clone(), process.clone()));
        }
        let inner = Inner { queue, process, lost };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Sends one command, with this wire version and the time of now.
    ///
    /// A call that was sent runs to its end even if this future is dropped; its reply is then
    /// lost, so whoever needs the effects keeps the future alive.
    pub async fn call(&self, command: Command) -> Result<Reply, EnclaveLost> {
        let call = Call { version: WIRE_VERSION, now: now(), command };
        let bytes = wire::encode(&call).map_err(|_| EnclaveLost)?;
        let reply = self.call_bytes(bytes).await?;
        wire::decode(&reply, MESSAGE_BYTES_MAX).map_err(|_| {
            self.stop();
            EnclaveLost
        })
    }

    /// Sends any bytes. For tests that play a hostile host.
    pub async fn call_bytes(&self, bytes: Vec<u8>) -> Result<Vec<u8>, EnclaveLost> {
        match self.ask(Kind::Call, bytes).await? {
            (Kind::Call, reply) => Ok(reply),
            _ => Err(self.broken()),
        }
    }

    /// TARGETINFO of who quotes on this machine.
    pub async fn target_info(&self) -> Result<Vec<u8>, QuoteError> {
        match self.ask(Kind::Target, Vec::new()).await? {
            (Kind::Target, target) => Ok(target),
            (Kind::Refused, sentence) => Err(QuoteError::refused(&sentence)),
            _ => Err(self.broken().into()),
        }
    }

    /// Evidence over a report that the image made for [`Self::target_info`].
    pub async fn quote(&self, report: Vec<u8>) -> Result<Vec<u8>, QuoteError> {
        match self.ask(Kind::Quote, report).await? {
            (Kind::Quote, evidence) => Ok(evidence),
            (Kind::Refused, sentence) => Err(QuoteError::refused(&sentence)),
            _ => Err(self.broken().into()),
        }
    }

    /// One frame, and the one that answers it: also for taps that stand between host and runner.
    pub async fn ask(&self, kind: Kind, bytes: Vec<u8>) -> Result<(Kind, Vec<u8>), EnclaveLost> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(EnclaveLost);
        }
        let (answer, answered) = oneshot::channel();
        let job = Job { kind, bytes, answer };
        self.inner.queue.send(job).await.map_err(|_| EnclaveLost)?;
        tokio::select! {
            reply = answered => reply.map_err(|_| EnclaveLost),
            () = self.lost() => Err(EnclaveLost),
        }
    }

    /// An answer of another kind than was asked for.
    fn broken(&self) -> EnclaveLost {
        self.stop();
        EnclaveLost
    }

    /// Resolves when the process has ended.
    pub async fn lost(&self) {
        let mut lost = self.inner.lost.clone();
        // An error means that the thread that watches the process is gone, and so is the process.
        let _ = lost.wait_for(|lost| *lost).await;
    }

    /// Ends the process at once.
    pub fn stop(&self) {
        self.inner.process.kill();
    }

    /// The process id, for status pages and tests.
    pub fn pid(&self) -> u32 {
        self.inner.process.pid()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.process.kill();
    }
}

/// The host's clock.
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
