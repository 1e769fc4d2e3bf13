//! The native driver: namespaces, no capabilities, a system call filter, a root with nothing in it but
//! `/tmp`, a control group, limits.
//!
//! Mandatory lines, each enforced or the driver does not start: new user, mount, pid, network,
//! ipc, uts and cgroup namespaces; user and group 65534; no capability in any set; no new
//! privileges; Landlock for all but `/tmp`; an allow-list of system calls; a read-only root with
//! nothing in it but `/tmp`, which is memory; no network; no descriptor but the job's stream and the
//! door; a control group that bounds memory and processes; limits; a session of its own; no core,
//! not dumpable.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, memfd_create},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{Signal, pidfd_send_signal},
};
use toani_protocol::{instance::RootFileSystems, job::JobOutcome};
use tokio::{
    io::{AsyncReadExt, Interest, unix::AsyncFd},
    net::UnixStream,
    sync::oneshot,
    time::timeout,
};

use crate::{
    cgroup::{self, Group},
    confinement::{self, Line, Runs},
    driver::{self, Driver, Kind, Parked, PrepareError, Size, Used},
    ending::{END, Ended, Ending},
    execution::{self, Streams, Work},
    lifeline,
    root::{RootError, Roots},
    share::Share,
    workspace::{self, Workspace, WorkspaceError},
};

mod landlock;
mod launch;
mod order;
mod seccomp;
mod step;
mod sys;

pub use launch::launcher;

use order::{Limits, Order, Report};

/// The argument that makes `toani-sandbox` a launcher.
pub const LAUNCHER_MODE: &str = "native-launcher";

/// Longest time from an order to a container that waits.
const PREPARE_MS_MAX: u64 = 10_000;
const REPORT_BYTES_MAX: u64 = 16 * 1024;
/// Longest time from SIGKILL to the end of a container's first process.
const END_MS_MAX: u64 = 5_000;

/// The first copy of the launcher, which is in the container's group until it has made the second.
const THREADS_EXTRA: u32 = 1;

/// Why the driver does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error("the connector cannot be kept in memory: {0}")]
    Memory(Errno),
    #[error("the launcher cannot be started: {0}")]
    Launcher(#[from] io::Error),
    #[error("the native sandbox cannot isolate here: {0}")]
    CannotIsolate(PrepareError),
    #[error("the native sandbox is not as it should be: {0}")]
    NotIsolated(String),
}

/// Starts containers through its launcher.
#[derive(Debug)]
pub struct Native {
    control: AsyncFd<OwnedFd>,
    root_file_systems: RootFileSystems,
    workspace: Arc<Workspace>,
    ending: Ending,
}

impl Native {
    /// Reads the connector, starts a launcher and tries one container. `sandbox` is this program,
    /// and all containers have `share` together.
    /// Returns the driver, a future that ends when the launcher does, and what waits for the end of
    /// all that it has started.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        roots: &Roots,
        sandbox: &Path,
        share: Share,
    ) -> Result<(Self, impl Future<Output = ()> + use<>, Ended), StartError> {
        let workspace = Arc::new(Workspace::create(share)?);
        let (ending, ended) = Ending::start()?;
        let memory = in_memory(&roots.connector.program()?).map_err(StartError::Memory)?;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(io::Error::from)?;
        let lost = start_launcher(sandbox, theirs, memory)?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(io::Error::from)?;
        let control = sys::watch(ours)?;
        let driver = Self { control, root_file_systems: roots.digests(), workspace, ending };
        if let Err(error) = driver.try_out().await {
            drop(driver);
            ended.wait(END);
            return Err(error);
        }
        let lost = async {
            // A sender that is dropped says the same.
            let _ = lost.await;
        };
        Ok((driver, lost, ended))
    }

    /// What a container says of itself in which system calls are not filtered.
    ///
    /// # Errors
    /// It does not start, or says nothing.
    pub async fn report(&self, size: Size) -> Result<String, PrepareError> {
        in_time(async {
            let (_container, streams) = self.launch(size, Runs::Report).await?;
            let mut report = String::new();
            let mut stream = streams.job.take(REPORT_BYTES_MAX);
            match stream.read_to_string(&mut report).await {
                Ok(length) if length > 0 => Ok(report),
                _ => Err(PrepareError("it does not say what it is".into())),
            }
        })
        .await
    }

    async fn launch(&self, size: Size, runs: Runs) -> Result<(Container, Streams), PrepareError> {
        self.try_launch(size, runs).await.map_err(|error| PrepareError(error.to_string()))
    }

    async fn try_launch(&self, size: Size, runs: Runs) -> io::Result<(Container, Streams)> {
        let id = workspace::new_id()?;
        let group = self.workspace.groups().group(&id, group_limits(size))?;
        let entrances = group.open_entrances()?;
        // From here on whatever happens ends where nobody waits for it.
        let mut container = Container {
            process: None,
            left: Some((group, Arc::clone(&self.workspace))),
            ending: self.ending.clone(),
        };
        let (job, their_job) = StdStream::pair()?;
        let (door, their_door) = StdStream::pair()?;
        let (report, their_report) = StdStream::pair()?;
        for stream in [&job, &door, &report] {
            stream.set_nonblocking(true)?;
        }
        let order = Order {
            limits: Limits::of(size),
            runs,
            job: their_job.into(),
            door: their_door.into(),
            report: their_report.into(),
            groups: entrances,
        };
        let send = |control: &OwnedFd| Ok(order.send(control.as_fd())?);
        self.control.async_io(Interest::WRITABLE, send).await?;
        // The container holds the only copies now: their end is its end.
        drop(order);
        container.process = Some(started(UnixStream::from_std(report)?).await?);
        let doors = vec![UnixStream::from_std(door)?];
        let streams = Streams { job: UnixStream::from_std(job)?, doors };
        Ok((container, streams))
    }

    /// One container that says what it is, and one that waits, looked at from outside. The steps
    /// have said that they worked; this checks that together they are what they should be.
    async fn try_out(&self) -> Result<(), StartError> {
        let size = Size::default();
        let report = self.report(size).await.map_err(StartError::CannotIsolate)?;
        confinement::judge(&report, size, lines()).map_err(StartError::NotIsolated)?;
        let parked = self.prepare(Kind::default()).await.map_err(StartError::CannotIsolate)?;
        let status = parked
            .container
            .status()
            .ok_or(StartError::NotIsolated("the container's process ended at once".into()))?;
        let line = |name: &str| {
            let mut lines = status.lines();
            let value = lines.find_map(|line| line.strip_prefix(name));
            value.unwrap_or_default().split_whitespace().collect::<Vec<_>>()
        };
        let empty = |name| matches!(line(name).as_slice(), ["0000000000000000"]);
        let sets = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"];
        let checks = [
            (sets.into_iter().all(empty), "a capability is left"),
            (line("NoNewPrivs:") == ["1"], "new privileges can be gained"),
            (line("Seccomp:") == ["2"], "no system call filter is in force"),
            (line("NSpid:").last() == Some(&"1"), "there is no new pid namespace"),
            (parked.container.group_holds_it(), "its process is not in its control group"),
        ];
        let broken = checks.into_iter().find(|(holds, _)| !holds);
        parked.container.end().await;
        match broken {
            Some((_, what)) => Err(StartError::NotIsolated(what.into())),
            None => Ok(()),
        }
    }
}

impl Driver for Native {
    type Parked = NativeParked;

    fn root_file_systems(&self) -> RootFileSystems {
        self.root_file_systems
    }

    async fn prepare(&self, Kind { size, .. }: Kind) -> Result<NativeParked, PrepareError> {
        in_time(async {
            let (container, mut streams) = self.launch(size, Runs::Connector).await?;
            driver::waits(&mut streams.job).await?;
            Ok(NativeParked { streams, container })
        })
        .await
    }
}

async fn in_time<T>(
    preparing: impl Future<Output = Result<T, PrepareError>>,
) -> Result<T, PrepareError> {
    let prepared = timeout(Duration::from_millis(PREPARE_MS_MAX), preparing).await;
    prepared.unwrap_or_else(|_| Err(PrepareError("the launcher did not answer in time".into())))
}

/// What a container says of itself under this driver: there is no /proc to ask for more.
fn lines() -> Vec<Line> {
    ["environment", "interfaces"].map(|nothing| (nothing, String::new())).into()
}

fn group_limits(size: Size) -> cgroup::Limits {
    let limits = Limits::of(size);
    cgroup::Limits {
        memory_bytes: limits.memory_bytes(),
        threads: size.processes.saturating_add(THREADS_EXTRA),
    }
}

/// Reads a report to its end.
async fn started(report: UnixStream) -> io::Result<Process> {
    let mut process = None;
    let mut failed = None;
    loop {
        let next = || Ok(Report::receive(report.as_fd())?);
        match report.async_io(Interest::READABLE, next).await? {
            Report::Process(pidfd) => process = Some(Process(sys::watch(pidfd)?)),
            Report::Failed(why) => failed = Some(why),
            Report::End => break,
        }
    }
    match (process, failed) {
        (_, Some(why)) => Err(io::Error::other(why)),
        (Some(process), None) => Ok(process),
        (None, None) => Err(io::Error::other("the launcher ended")),
    }
}

/// A container that waits for its job.
#[derive(Debug)]
pub struct NativeParked {
    streams: Streams,
    container: Container,
}

impl Parked for NativeParked {
    fn is_sound(&self) -> bool {
        !self.container.has_ended()
    }

    async fn run(self, work: Work) -> (JobOutcome, Used) {
        let Self { streams, container } = self;
        (execution::run(streams, work).await, Used::new(container))
    }
}

/// A container's first process and its group. Dropping it kills it at once, and lets the rest be
/// cleared away by whoever does that.
#[derive(Debug)]
struct Container {
    process: Option<Process>,
    left: Option<(Group, Arc<Workspace>)>,
    ending: Ending,
}

impl Container {
    /// Kills it and returns when it has ended.
    async fn end(mut self) {
        if let Some(process) = self.process.take() {
            process.end().await;
        }
    }

    fn has_ended(&self) -> bool {
        self.process.as_ref().is_none_or(Process::has_ended)
    }

    fn status(&self) -> Option<String> {
        self.process.as_ref()?.status()
    }

    fn group_holds_it(&self) -> bool {
        self.left.as_ref().is_some_and(|(group, _)| group.processes() >= 1)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.process.take());
        if let Some((group, workspace)) = self.left.take() {
            let name = group.name();
            self.ending.end(&name, (group, workspace));
        }
    }
}

/// A container's first process; with it ends every other. Dropping kills it.
#[derive(Debug)]
struct Process(AsyncFd<OwnedFd>);

impl Process {
    /// Kills it and returns when it has ended.
    async fn end(self) {
        self.kill();
        let wait = Duration::from_millis(END_MS_MAX);
        if timeout(wait, self.0.readable()).await.is_err() {
            crate::supervisor::log("a container did not end after SIGKILL");
        }
    }

    fn has_ended(&self) -> bool {
        // What cannot be asked is not used.
        !matches!(lifeline::has_ended(&self.0), Ok(false))
    }

    fn kill(&self) {
        // That it has ended already is as good.
        let _ = pidfd_send_signal(&self.0, Signal::KILL);
    }

    /// What /proc says about it.
    fn status(&self) -> Option<String> {
        use std::os::fd::AsRawFd;
        let info = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let info = std::fs::read_to_string(info).ok()?;
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
        let pid: u32 = pid.trim().parse().ok()?;
        std::fs::read_to_string(format!("/proc/{pid}/status")).ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program as a sealed memory file: what was measured is what runs, whatever happens to the
/// file. Nobody may read it, which makes the kernel keep what it becomes from being looked into.
fn in_memory(program: &[u8]) -> rustix::io::Result<OwnedFd> {
    let sealing = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match memfd_create("toani-connector", sealing | MemfdFlags::EXEC) {
        // Before 6.3 all memory files can be executed, and the flag is unknown.
        Err(Errno::INVAL) => memfd_create("toani-connector", sealing)?,
        other => other?,
    };
    let mut file = File::from(memory);
    file.write_all(program).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    fchmod(&file, Mode::XUSR | Mode::XGRP | Mode::XOTH)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// Starts the launcher on a thread that lives as long as it does: the launcher asks to be killed
/// when the thread that started it ends.
fn start_launcher(
    sandbox: &Path,
    control: OwnedFd,
    memory: OwnedFd,
) -> io::Result<oneshot::Receiver<()>> {
    let mut command = Command::new(sandbox);
    command
        .arg(LAUNCHER_MODE)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(control))
        .stdout(Stdio::from(memory));
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new().name("launcher".into()).spawn(move || {
        let child = command.spawn();
        // Else our copies would keep the launcher's stream open.
        drop(command);
        match child {
            Ok(mut child) => {
                let _ = child.wait();
            }
            Err(error) => crate::supervisor::log(&format!("no launcher: {error}")),
        }
        // The receiver may be gone, with the whole driver.
        let _ = ended.send(());
    })?;
    Ok(end)
}
