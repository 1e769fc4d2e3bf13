//! From the supervisor to a runtime that runs: a thread that starts processes, and the first thing
//! that each of them does, before it becomes the runtime.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    ffi::OsString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
};

use anyhow::{Context, bail};
use rustix::{
    io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{Resource, Rlimit, setrlimit},
    thread::set_no_new_privs,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use tokio::{
    process::{Child, Command as TokioCommand},
    runtime::Handle,
    sync::oneshot,
};

use crate::{descriptors, driver::DOOR_FD, lifeline};

/// The argument that makes `toani-sandbox` start a runtime.
pub const LAUNCHER_MODE: &str = "gvisor-launcher";
/// Ends the list of entrances.
const END_OF_ENTRANCES: &str = "--";
/// Comes with the doors.
const DOORS: &[u8] = b"doors";
/// The runtime's kernel puts its own streams at 256 and the next two numbers. When a process of
/// several threads needs more room for that, the host lets it wait for all processors (a grace
/// period, often 10 ms): so the room is inherited.
const HIGH_FD: i32 = 320;
/// Orders that wait for the thread.
const QUEUE_MAX: usize = 64;

/// One runtime to start.
#[derive(Debug)]
pub(super) struct Order {
    /// Of its groups.
    pub(super) entrances: Vec<PathBuf>,
    /// With its options, up to the command.
    pub(super) runtime: Vec<OsString>,
    pub(super) bundle: PathBuf,
    pub(super) id: String,
    pub(super) job: OwnedFd,
    pub(super) doors: Vec<OwnedFd>,
}

type Started = oneshot::Sender<io::Result<Child>>;

/// Starts processes on a thread that lives as long as it does: each asks to be killed when the
/// thread that started it ends.
#[derive(Debug, Clone)]
pub(super) struct Launcher(mpsc::SyncSender<(Order, Started)>);

impl Launcher {
    /// `sandbox` is this program.
    pub(super) fn start(sandbox: &Path) -> io::Result<Self> {
        let sandbox = sandbox.to_path_buf();
        let (orders, ordered) = mpsc::sync_channel::<(Order, Started)>(QUEUE_MAX);
        let runtime = Handle::current();
        std::thread::Builder::new().name("launcher".into()).spawn(move || {
            let _runtime = runtime.enter();
            for (order, started) in ordered {
                // Nobody waits any more if this fails, and the child ends with its handle.
                let _ = started.send(order.spawn(&sandbox));
            }
        })?;
        Ok(Self(orders))
    }

    pub(super) async fn launch(&self, order: Order) -> io::Result<Child> {
        let (started, child) = oneshot::channel();
        self.0.try_send((order, started)).map_err(|_| io::Error::other("too much is started"))?;
        child.await.map_err(io::Error::other)?
    }
}

impl Order {
    fn spawn(self, sandbox: &Path) -> io::Result<Child> {
        let output = self.job.try_clone()?;
        let doors = sent(&self.doors)?;
        let mut command = Command::new(sandbox);
        command
            .arg(LAUNCHER_MODE)
            .args(&self.entrances)
            .arg(END_OF_ENTRANCES)
            .args(&self.runtime)
            .arg("run")
            .arg("--bundle")
            .arg(&self.bundle)
            .arg(&self.id)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(self.job))
            .stdout(Stdio::from(output))
            // Until they have found their places.
            .stderr(Stdio::from(doors));
        TokioCommand::from(command).kill_on_drop(true).spawn()
    }
}

/// A socket from which the doors can be received.
fn sent(doors: &[OwnedFd]) -> io::Result<OwnedFd> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let doors: Vec<_> = doors.iter().map(AsFd::as_fd).collect();
    descriptors::send(ours.as_fd(), DOORS, &doors)?;
    Ok(theirs)
}

/// The launcher's main: enters its groups and becomes the runtime. Descriptors 0 and 1 are the
/// job's stream, and from 2 come the doors.
///
/// # Errors
/// A group cannot be entered, or the runtime is not there.
pub fn launcher(arguments: &[OsString]) -> anyhow::Result<()> {
    let Err(error) = become_runtime(arguments);
    // Where the supervisor looks for the runtime's own words.
    if let [.., bundle, _] = arguments {
        let _ = fs::write(Path::new(bundle).join("log"), format!("{error:#}"));
    }
    Err(error)
}

fn become_runtime(arguments: &[OsString]) -> anyhow::Result<Infallible> {
    lifeline::follow(rustix::stdio::stdin())?;
    let end = arguments.iter().position(|argument| argument == END_OF_ENTRANCES);
    let (entrances, rest) = arguments.split_at(end.context("no groups are named")?);
    let [_, program, options @ .., bundle_option, bundle, id] = rest else {
        bail!("no runtime is named");
    };
    for entrance in entrances {
        fs::write(entrance, "0").with_context(|| format!("cannot enter {}", entrance.display()))?;
    }
    // Where all of the machine's memory is used up, a container goes before the plane. The runtime
    // does not do it by its bundle's word.
    fs::write("/proc/self/oom_score_adj", "1000").context("cannot become the first to go")?;
    set_no_new_privs(true)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    let (_, doors) = descriptors::receive(rustix::stdio::stderr(), &mut [0; DOORS.len()])?;
    rustix::stdio::dup2_stderr(File::options().write(true).open("/dev/null")?)?;
    let doors: Result<Vec<OwnedFd>, _> = doors.iter().map(moved_up).collect();
    let doors = doors.with_context(|| format!("more than {HIGH_FD} descriptors are needed"))?;
    without_membarrier()?;
    let passed = doors.iter().zip(DOOR_FD..).flat_map(|(door, inside)| {
        ["--pass-fd".to_owned(), format!("{}:{inside}", door.as_raw_fd())]
    });
    let error =
        Command::new(program).args(options).args(passed).args([bundle_option, bundle, id]).exec();
    Err(error).with_context(|| format!("cannot execute {}", Path::new(program).display()))
}

/// A descriptor under a number from [`HIGH_FD`] on, under which the runtime finds it.
fn moved_up(door: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let door = fcntl_dupfd_cloexec(door, HIGH_FD)?;
    fcntl_setfd(&door, FdFlags::empty())?;
    Ok(door)
}

/// From here on membarrier(2) is not there, and a call of another architecture ends the process. The
/// runtime registers for membarrier at each of its four starts, and waits for a grace period each
/// time, for the sake of programs that use it.
fn without_membarrier() -> Result<(), seccompiler::Error> {
    let filter = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_membarrier, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        std::env::consts::ARCH.try_into()?,
    )?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)
}
