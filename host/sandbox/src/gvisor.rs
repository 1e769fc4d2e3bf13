//! The gVisor driver: each container is a runtime of its own (`runsc`) with a kernel in user space,
//! no network, a read-only root, a control group, and the filter of system calls besides.
//!
//! Mandatory lines, each enforced or the driver does not start; `confinement` asks for them from
//! inside. Containers share the image of their root, which is read-only. Each has a runtime, a folder,
//! a group, a stream for the job and a door of its own.

use std::{
    ffi::OsString,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixStream as StdStream},
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use rustix::process::geteuid;
use toani_protocol::{instance::RootFileSystems, job::JobOutcome, policy::RootName};
use tokio::{
    io::AsyncReadExt,
    net::UnixStream,
    process::{Child, Command},
    time::timeout,
};

use crate::{
    cgroup::{Group, Limits},
    confinement::{self, Line, Runs},
    driver::{self, Driver, Kind, NOBODY, Parked, PrepareError, Size, Used},
    ending::{END, Ended, Ending},
    execution::{self, Streams, Work},
    root::{RootError, Roots},
    share::Share,
    workspace::{self, Workspace, WorkspaceError},
};

mod bundle;
mod files;
mod launch;

pub use launch::{LAUNCHER_MODE, launcher};

use files::Remains;
use launch::{Launcher, Order};

/// Longest time from an order to a container that waits.
const PREPARE: Duration = Duration::from_secs(20);
/// Longest time for a runtime to say its version.
const VERSION: Duration = Duration::from_secs(10);
/// Below this not even the runtime's own kernel fits.
const MEMORY_MIB_MIN: u32 = 64;
const MEMORY_MIB_MAX: u32 = 8192;
/// The runtime's own threads, beside those of what runs in it.
const THREADS_EXTRA: u32 = 256;
const REPORT_BYTES_MAX: u64 = 16 * 1024;
/// Of what a runtime says before it ends.
const WORDS_BYTES_MAX: usize = 512;
/// The first runtime whose platform does without ptrace, and that can pass descriptors.
pub const RUNTIME_LEAST: u32 = 20_240_729;

/// Why the driver does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error("the gVisor sandbox cannot be prepared: {0}")]
    Io(#[from] io::Error),
    #[error(
        "there is no gVisor runtime {0} ({1}); ./x setup builds one, or install runsc and name it \
         by --runsc"
    )]
    NoRuntime(PathBuf, io::Error),
    #[error(
        "{0}, a copy of the gVisor runtime, cannot be executed ({1}): is its folder mounted noexec?"
    )]
    CannotExecute(PathBuf, io::Error),
    #[error("{0} is no gVisor runtime of {RUNTIME_LEAST} or later; ./x setup builds one")]
    OldRuntime(PathBuf),
    #[error("the gVisor sandbox cannot isolate here: {0}")]
    CannotIsolate(PrepareError),
    #[error("the gVisor sandbox is not as it should be: {0}")]
    NotIsolated(String),
}

/// Starts one runtime for each container.
#[derive(Debug)]
pub struct Gvisor {
    workspace: Arc<Workspace>,
    root_file_systems: RootFileSystems,
    launcher: Launcher,
    ending: Ending,
    /// Of the runtime, up to its command, but for the folder of a container's state.
    runtime: Vec<OsString>,
}

impl Gvisor {
    /// Copies the root file systems and the runtime, and tries containers. `sandbox` is this
    /// program, which starts them, and all have `share` together. Returns the driver, and what waits
    /// for the end of all that it has started.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        roots: &Roots,
        runsc: &Path,
        sandbox: &Path,
        share: Share,
    ) -> Result<(Self, Ended), StartError> {
        let workspace = Arc::new(Workspace::create(share)?);
        workspace.make_folders()?;
        let runtime = workspace.runtime();
        copy_runtime(runsc, &runtime)
            .map_err(|error| StartError::NoRuntime(runsc.to_path_buf(), error))?;
        match version(&runtime).await {
            Ok(Some(RUNTIME_LEAST..)) => {}
            Ok(_) => return Err(StartError::OldRuntime(runsc.to_path_buf())),
            Err(error) => return Err(StartError::CannotExecute(runtime, error)),
        }
        for (name, root) in roots.named() {
            root.copy(&workspace.root(name))?;
        }
        let (ending, ended) = Ending::start()?;
        let driver = Self {
            launcher: Launcher::start(sandbox)?,
            ending,
            runtime: options(&runtime),
            root_file_systems: roots.digests(),
            workspace,
        };
        if let Err(error) = driver.try_out().await {
            drop(driver);
            ended.wait(END);
            return Err(error);
        }
        Ok((driver, ended))
    }

    /// The copy of the runtime, for whoever measures what runs.
    pub fn runtime(&self) -> PathBuf {
        self.workspace.runtime()
    }

    /// Of each root file system one container that says what it is, and one that waits.
    async fn try_out(&self) -> Result<(), StartError> {
        let browser = self.root_file_systems.browser.map(|_| RootName::Browser);
        for root_file_system in [RootName::Connector].into_iter().chain(browser) {
            let kind = Kind { root_file_system, ..Kind::default() };
            let report = self.report(kind).await.map_err(StartError::CannotIsolate)?;
            confinement::judge(&report, kind.size, lines()).map_err(StartError::NotIsolated)?;
            let parked = self.prepare(kind).await.map_err(StartError::CannotIsolate)?;
            // What starts it, and the container's kernel.
            if parked.container.processes() < 2 {
                let why = "its kernel is not in its control group";
                return Err(StartError::NotIsolated(why.into()));
            }
        }
        Ok(())
    }

    /// What a container says of itself in which system calls are not filtered.
    ///
    /// # Errors
    /// It does not start, or says nothing.
    pub async fn report(&self, kind: Kind) -> Result<String, PrepareError> {
        let (container, streams) = self.launch(kind, Runs::Report).await?;
        let mut report = String::new();
        let mut stream = streams.job.take(REPORT_BYTES_MAX);
        match timeout(PREPARE, stream.read_to_string(&mut report)).await {
            Ok(Ok(length)) if length > 0 => Ok(report),
            _ => Err(container.failure("it does not say what it is")),
        }
    }

    async fn launch(&self, kind: Kind, runs: Runs) -> Result<(Container, Streams), PrepareError> {
        self.try_launch(kind, runs).await.map_err(|error| PrepareError(error.to_string()))
    }

    async fn try_launch(&self, kind: Kind, runs: Runs) -> io::Result<(Container, Streams)> {
        let id = workspace::new_id()?;
        let remains = Remains::create(&self.workspace, &id)?;
        let folder = remains.folder().to_path_buf();
        bundle::write(&folder, &self.workspace, kind, runs)?;
        let group = self.workspace.groups().group(&id, limits(kind.size))?;
        let (job, their_job) = StdStream::pair()?;
        job.set_nonblocking(true)?;
        let (doors, their_doors) = doors(kind.doors())?;
        let mut runtime = self.runtime.clone();
        for (option, name) in [("--root", "state"), ("--log", "log")] {
            runtime.extend([option.into(), folder.join(name).into()]);
        }
        let order = Order {
            entrances: group.entrances().collect(),
            runtime,
            bundle: folder,
            id,
            job: their_job.into(),
            doors: their_doors,
        };
        // From here on whatever happens ends where nobody waits for it.
        let ending = self.ending.clone();
        let mut container = Container { inner: Some((None, group, remains)), ending };
        let process = self.launcher.launch(order).await?;
        if let Some((started, ..)) = &mut container.inner {
            *started = Some(process);
        }
        Ok((container, Streams { job: UnixStream::from_std(job)?, doors }))
    }
}

/// New doors: our sides, and theirs.
fn doors(count: usize) -> io::Result<(Vec<UnixStream>, Vec<OwnedFd>)> {
    let door = |_| {
        let (door, theirs) = StdStream::pair()?;
        door.set_nonblocking(true)?;
        Ok((UnixStream::from_std(door)?, theirs.into()))
    };
    let doors: io::Result<Vec<_>> = (0..count).map(door).collect();
    Ok(doors?.into_iter().unzip())
}

/// What a container says of itself under this driver.
fn lines() -> Vec<Line> {
    let nobody = [NOBODY.to_string().as_str(); 4].join(" ");
    let none = || "0000000000000000".to_owned();
    vec![
        ("environment", "HOME=/".to_owned()),
        ("Uid:", nobody.clone()),
        ("Gid:", nobody),
        ("Groups:", NOBODY.to_string()),
        // The ambient set is within the permitted one.
        ("CapInh:", none()),
        ("CapPrm:", none()),
        ("CapEff:", none()),
        ("CapBnd:", none()),
        ("interfaces", "lo".to_owned()),
    ]
}

/// Copies the runtime: what is measured is what runs.
fn copy_runtime(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    fs::set_permissions(to, PermissionsExt::from_mode(0o555))
}

/// The date by which a runtime names its version: 20260518, or release-20260518.0.
async fn version(runtime: &Path) -> io::Result<Option<u32>> {
    let mut command = Command::new(runtime);
    command.arg("--version").env_clear().stdin(Stdio::null()).stderr(Stdio::null());
    let output = timeout(VERSION, command.kill_on_drop(true).output()).await??;
    let text = String::from_utf8(output.stdout).unwrap_or_default();
    Ok(text.lines().next().and_then(date))
}

/// The date in the first line of what `runsc --version` prints, as a number.
pub fn date(line: &str) -> Option<u32> {
    let dates = line.split(|byte: char| !byte.is_ascii_digit());
    dates.filter(|digits| digits.len() == 8).find_map(|digits| digits.parse().ok())
}

fn options(runtime: &Path) -> Vec<OsString> {
    let mut options = vec![runtime.into()];
    let given = [
        "--network=none",
        "--platform=systrap",
        "--oci-seccomp",
        "--host-uds=none",
        "--host-fifo=none",
        "--overlay2=none",
        // Else the container's kernel keeps the capabilities to open files by itself. It needs no
        // files but its root's image, and so no process that opens them for it either.
        "--directfs=false",
        // The groups are our own.
        "--ignore-cgroups",
    ];
    options.extend(given.map(OsString::from));
    if !geteuid().is_root() {
        options.push("--rootless".into());
    }
    options
}

fn limits(size: Size) -> Limits {
    let memory_mib = size.memory_mib.clamp(MEMORY_MIB_MIN, MEMORY_MIB_MAX);
    Limits {
        memory_bytes: u64::from(memory_mib) << 20,
        threads: size.processes.saturating_add(THREADS_EXTRA),
    }
}

impl Driver for Gvisor {
    type Parked = GvisorParked;

    fn root_file_systems(&self) -> RootFileSystems {
        self.root_file_systems
    }

    async fn prepare(&self, kind: Kind) -> Result<GvisorParked, PrepareError> {
        let (container, mut streams) = self.launch(kind, Runs::Connector).await?;
        match timeout(PREPARE, driver::waits(&mut streams.job)).await {
            Ok(Ok(())) => Ok(GvisorParked { container, streams }),
            Ok(Err(PrepareError(why))) => Err(container.failure(&why)),
            Err(_) => Err(container.failure("it did not wait in time")),
        }
    }
}

/// A container that waits for its job.
#[derive(Debug)]
pub struct GvisorParked {
    // The container ends first: nothing answers on a stream whose other side is gone.
    container: Container,
    streams: Streams,
}

impl Parked for GvisorParked {
    fn is_sound(&self) -> bool {
        // With its last process the stream ends.
        driver::is_silent(&self.streams.job)
    }

    async fn run(self, work: Work) -> (JobOutcome, Used) {
        let Self { container, streams } = self;
        (execution::run(streams, work).await, Used::new(container))
    }
}

/// A runtime with its group and its folder. Dropping it kills it at once, and lets the rest be
/// cleared away by whoever does that.
#[derive(Debug)]
struct Container {
    inner: Option<(Option<Child>, Group, Remains)>,
    ending: Ending,
}

impl Container {
    fn processes(&self) -> usize {
        self.inner.as_ref().map_or(0, |(_, group, _)| group.processes())
    }

    /// What was missed, with the runtime's own words.
    fn failure(&self, why: &str) -> PrepareError {
        let words = self.inner.as_ref().map(|(_, _, remains)| remains.words(WORDS_BYTES_MAX));
        match words.as_deref() {
            None | Some("") => PrepareError(why.to_owned()),
            Some(words) => PrepareError(format!("{why}; runsc says: {words}")),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let Some((mut process, group, remains)) = self.inner.take() else { return };
        if let Some(process) = &mut process {
            // Its sandbox has asked to be killed with it. That it has ended already is as good.
            let _ = process.start_kill();
        }
        let name = group.name();
        // In this order: killed with all that it has started, then its folder.
        self.ending.end(&name, (group, process, remains));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_name_their_date() {
        assert_eq!(date("runsc version 20260518"), Some(20_260_518));
        assert_eq!(date("runsc version release-20240729.0-12-gabcdef012345"), Some(20_240_729));
        assert_eq!(date("runsc version 0.0~20221219.0"), Some(20_221_219));
        assert_eq!(date("runsc version unknown"), None);
    }
}
