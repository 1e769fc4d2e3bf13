//! The gateway's side: it starts a supervisor and sends it sealed jobs.

use std::{
    collections::HashMap,
    os::unix::net::UnixStream as StdStream,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use toani_protocol::job::{SandboxHello, SealedJob, SealedOutcome};
use tokio::{
    io::AsyncWriteExt,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use crate::messages::{self, EXECUTIONS_AT_ONCE_MAX, Message, Refusal, Request};

/// Longest time from starting a supervisor to its hello.
const HELLO_MS_MAX: u64 = 20_000;

/// Where the two programs are.
#[derive(Debug, Clone)]
pub struct SupervisorPaths {
    /// `toani-sandbox`.
    pub supervisor: PathBuf,
    /// `toani-connector`, linked statically.
    pub connector: PathBuf,
}

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("the supervisor cannot be started: {0}")]
    Io(#[from] std::io::Error),
    /// The supervisor's own words: what is missing here, and what to allow.
    #[error("{0}")]
    CannotIsolate(String),
    #[error("the supervisor ended or did not answer before it was ready")]
    NoHello,
}

/// Why a job has no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Whether the upstream was called is unknown.
    #[error("the supervisor is gone")]
    SandboxLost,
    /// Whether the upstream was called is unknown.
    #[error("the supervisor did not answer in time")]
    TimedOut,
    /// The job was not run.
    #[error("the supervisor refused the job: {0}")]
    Refused(Refusal),
    /// The job was not sent.
    #[error("the job is larger than a message may be")]
    TooLarge,
}

type Pending = Mutex<Option<HashMap<u64, oneshot::Sender<Result<SealedOutcome, RunError>>>>>;

/// A supervisor that runs. Dropping all clones ends it, and every container with it.
#[derive(Debug, Clone)]
pub struct SupervisorClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pid: u32,
    next: AtomicU64,
    /// `None` once the supervisor is gone.
    pending: Arc<Pending>,
    outgoing: mpsc::Sender<Vec<u8>>,
    gone: watch::Receiver<bool>,
    reader: tokio::task::AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl SupervisorClient {
    /// Starts a supervisor and waits for its hello.
    ///
    /// # Errors
    /// See [`SpawnError`]; nothing is left running then.
    pub async fn spawn(paths: &SupervisorPaths) -> Result<(Self, SandboxHello), SpawnError> {
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let (mut input, output) = UnixStream::from_std(ours)?.into_split();
        let (pid, gone) = start(paths, theirs).await?;
        let hello =
            timeout(Duration::from_millis(HELLO_MS_MAX), messages::read::<Message>(&mut input));
        let hello = match hello.await {
            Ok(Ok(Message::Hello(hello))) => hello,
            Ok(Ok(Message::CannotStart(why))) => return Err(SpawnError::CannotIsolate(why)),
            _ => return Err(SpawnError::NoHello),
        };
        let pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let (outgoing, queue) = mpsc::channel(EXECUTIONS_AT_ONCE_MAX);
        tokio::spawn(write(output, queue));
        let reader = tokio::spawn(read(input, Arc::clone(&pending))).abort_handle();
        let inner = Inner { pid, next: AtomicU64::new(0), pending, outgoing, gone, reader };
        let inner = Arc::new(inner);
        Ok((Self { inner }, hello))
    }

    /// Runs one job. Cancelling the future does not cancel the execution.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run(&self, job: SealedJob, wait_max: Duration) -> Result<SealedOutcome, RunError> {
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let frame = messages::frame(&Request { id, job }).map_err(|_| RunError::TooLarge)?;
        let (sender, receiver) = oneshot::channel();
        match lock(&self.inner.pending).as_mut() {
            Some(pending) => pending.insert(id, sender),
            None => return Err(RunError::SandboxLost),
        };
        let _forget = Forget { pending: &self.inner.pending, id };
        let answer = async {
            if self.inner.outgoing.send(frame).await.is_err() {
                return Err(RunError::SandboxLost);
            }
            receiver.await.unwrap_or(Err(RunError::SandboxLost))
        };
        timeout(wait_max, answer).await.unwrap_or(Err(RunError::TimedOut))
    }

    /// The supervisor's process id, for messages to people.
    pub fn pid(&self) -> u32 {
        self.inner.pid
    }

    /// Returns when the supervisor's process has ended.
    pub async fn gone(&self) {
        let mut gone = self.inner.gone.clone();
        // A sender that is gone without a word ended with its process.
        let _ = gone.wait_for(|gone| *gone).await;
    }
}

/// Forgets a job that nobody waits for any more.
struct Forget<'a> {
    pending: &'a Pending,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(pending) = lock(self.pending).as_mut() {
            pending.remove(&self.id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}

/// Starts the process on a thread that lives as long as it does: the supervisor asks to be killed
/// when the thread that started it ends.
async fn start(
    paths: &SupervisorPaths,
    stream: StdStream,
) -> std::io::Result<(u32, watch::Receiver<bool>)> {
    let mut command = Command::new(&paths.supervisor);
    command
        .arg("supervise")
        .arg(&paths.connector)
        .env_clear()
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(stream)))
        .stdout(Stdio::null());
    let (started, start) = oneshot::channel();
    let (ended, gone) = watch::channel(false);
    std::thread::Builder::new().name("toani-sandbox".into()).spawn(move || {
        let spawned = command.spawn();
        // Else our copy of its end would keep the stream open.
        drop(command);
        match spawned {
            Ok(mut child) => {
                let _ = started.send(Ok(child.id()));
                let _ = child.wait();
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
        ended.send_replace(true);
    })?;
    let pid = start.await.map_err(std::io::Error::other)??;
    Ok((pid, gone))
}

async fn write(mut output: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        if output.write_all(&frame).await.is_err() {
            break;
        }
    }
}

async fn read(mut input: OwnedReadHalf, pending: Arc<Pending>) {
    while let Ok(message) = messages::read::<Message>(&mut input).await {
        let (id, answer) = match message {
            Message::Outcome { id, outcome } => (id, Ok(outcome)),
            Message::Refused { id, reason } => (id, Err(RunError::Refused(reason))),
            Message::Hello(_) | Message::CannotStart(_) => break,
        };
        let waiting = lock(&pending).as_mut().and_then(|all| all.remove(&id));
        if let Some(waiting) = waiting {
            // Whoever waited may have given up.
            let _ = waiting.send(answer);
        }
    }
    // Dropping the senders tells all who wait.
    lock(&pending).take();
}
