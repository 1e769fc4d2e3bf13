//! The gateway's side: it starts a supervisor and carries messages to and from it.

use std::{
    num::NonZero,
    os::unix::net::UnixStream as StdStream,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use crate::{
    driver::DriverKind,
    messages::{self, FromSupervisor, ToSupervisor},
    vm,
};

/// Longest time from starting a supervisor to its word that it is ready, where it is a process.
const READY_MS_MAX: u64 = 20_000;
/// Messages that wait for the supervisor; more is a supervisor that has stopped reading.
const OUTGOING_MAX: usize = 4_096;
/// Messages from the supervisor that nobody has taken; more wait in the stream.
const INCOMING_MAX: usize = 64;

/// What a supervisor is made of, and what vouches for it.
#[derive(Debug, Clone)]
pub struct SupervisorPaths {
    /// `toani-sandbox`.
    pub supervisor: PathBuf,
    pub driver: DriverKind,
    /// What containers run, see [`root`](crate::root). A virtual machine has its own.
    pub root_file_system: PathBuf,
    /// Of all containers together, if not what the supervisor takes by itself. A virtual machine
    /// has its own.
    pub memory_mib: Option<NonZero<u32>>,
    /// The folder of a simulated machine, whose chip is to vouch for the supervisor.
    pub simulated_chip: Option<PathBuf>,
}

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("the supervisor cannot be started: {0}")]
    Io(#[from] std::io::Error),
    /// The supervisor's own words: what is missing here, and what to allow.
    #[error("{0}")]
    CannotStart(String),
    #[error("the supervisor ended or did not answer before it was ready")]
    NotReady,
}

/// The supervisor is gone, or does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the supervisor is gone")]
pub struct SupervisorLost;

/// A supervisor that has just started.
#[derive(Debug)]
pub struct Started {
    pub client: SupervisorClient,
    /// What it says next; closed when it is gone.
    pub messages: mpsc::Receiver<FromSupervisor>,
    /// What it says of itself, for people to compare. Nothing is believed of it without evidence.
    pub launch_digest: Vec<u8>,
}

/// A supervisor that runs. Dropping all clones ends it, and every container with it.
#[derive(Debug, Clone)]
pub struct SupervisorClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pid: u32,
    outgoing: mpsc::Sender<ToSupervisor>,
    gone: watch::Receiver<bool>,
    reader: tokio::task::AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl SupervisorClient {
    /// Starts a supervisor and waits until it is ready.
    ///
    /// # Errors
    /// See [`SpawnError`]; nothing is left running then.
    pub async fn spawn(paths: &SupervisorPaths) -> Result<Started, SpawnError> {
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let (mut input, output) = UnixStream::from_std(ours)?.into_split();
        let (pid, gone) = start(command(paths), theirs).await?;
        let first = messages::read::<FromSupervisor>(&mut input);
        let launch_digest = match timeout(ready_max(&paths.driver), first).await {
            Ok(Ok(FromSupervisor::Ready { launch_digest })) => launch_digest,
            Ok(Ok(FromSupervisor::CannotStart(why))) => return Err(SpawnError::CannotStart(why)),
            _ => return Err(SpawnError::NotReady),
        };
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        let (incoming, messages) = mpsc::channel(INCOMING_MAX);
        tokio::spawn(write(output, queue));
        let reader = tokio::spawn(read(input, incoming)).abort_handle();
        let inner = Inner { pid, outgoing, gone, reader };
        let client = Self { inner: Arc::new(inner) };
        Ok(Started { client, messages, launch_digest })
    }

    /// Sends a message after those before it, without waiting.
    ///
    /// # Errors
    /// The supervisor is gone, or too much waits for it already.
    pub fn send(&self, message: ToSupervisor) -> Result<(), SupervisorLost> {
        self.inner.outgoing.try_send(message).map_err(|_| SupervisorLost)
    }

    /// The supervisor's process id, for messages to people.
    pub fn pid(&self) -> u32 {
        self.inner.pid
    }

    /// Returns when the supervisor's process has ended. Keeps nothing alive meanwhile.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut gone = self.inner.gone.clone();
        async move {
            // A sender that is gone without a word ended with its process.
            let _ = gone.wait_for(|gone| *gone).await;
        }
    }
}

fn command(paths: &SupervisorPaths) -> Command {
    let mut command = Command::new(&paths.supervisor);
    match &paths.driver {
        DriverKind::Native => {
            command.args(["supervise", "native"]);
        }
        DriverKind::Gvisor { runsc, browser } => {
            command.args(["supervise", "gvisor"]).arg(runsc);
            if let Some(browser) = browser {
                command.arg("--browser").arg(browser);
            }
        }
        DriverKind::Vm(guest) => {
            command.args(guest.arguments());
        }
    }
    if !matches!(paths.driver, DriverKind::Vm(_)) {
        command.arg(&paths.root_file_system);
        if let Some(mib) = paths.memory_mib {
            command.args(["--memory", &mib.to_string()]);
        }
    }
    if let Some(machine) = &paths.simulated_chip {
        command.arg("--simulated-chip").arg(machine);
    }
    command
}

fn ready_max(driver: &DriverKind) -> Duration {
    match driver {
        DriverKind::Native => Duration::from_millis(READY_MS_MAX),
        // It copies a runtime and a root file system, and clears away what others have left.
        DriverKind::Gvisor { .. } => Duration::from_millis(3 * READY_MS_MAX),
        DriverKind::Vm(_) => vm::READY_WITH_HOST,
    }
}

/// Starts the process on a thread that lives as long as it does: the supervisor asks to be killed
/// when the thread that started it ends.
async fn start(
    mut command: Command,
    stream: StdStream,
) -> std::io::Result<(u32, watch::Receiver<bool>)> {
    command
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

async fn write(mut output: OwnedWriteHalf, mut queue: mpsc::Receiver<ToSupervisor>) {
    while let Some(message) = queue.recv().await {
        let Ok(frame) = messages::frame(&message) else { break };
        if output.write_all(&frame).await.is_err() {
            break;
        }
    }
}

async fn read(mut input: OwnedReadHalf, incoming: mpsc::Sender<FromSupervisor>) {
    while let Ok(message) = messages::read(&mut input).await {
        if incoming.send(message).await.is_err() {
            break;
        }
    }
}
