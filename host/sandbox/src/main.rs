//! `toani-sandbox`: the supervisor, and the launchers that it starts.

use std::{
    ffi::OsString, num::NonZero, path::PathBuf, pin::Pin, process::ExitCode, sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit},
};
use toani_protocol::instance::LaunchDigest;
use toani_sandbox::{
    DriverKind,
    ending::{END, Ended},
    evidence::{EvidenceSource, SimulatedChip},
    guest::{self, Fits, GuestEvidence},
    gvisor::{self, Gvisor},
    lifeline,
    messages::{self, FromSupervisor},
    native::{self, Native},
    root::Roots,
    share::Share,
    supervisor, vm,
};
use tokio::net::UnixStream;

/// Names the folder of a simulated machine, whose chip vouches for this process.
const SIMULATED_CHIP: &str = "--simulated-chip";
/// MiB that all containers together may use.
const MEMORY: &str = "--memory";
/// This program.
const OWN: &str = "/proc/self/exe";
/// Longest time for tasks to let go of what they hold.
const SHUTDOWN: Duration = Duration::from_millis(1_000);

/// Every block of memory is wiped when it is freed: jobs, credentials, replies.
#[global_allocator]
static ALLOCATOR: zeroize::WipingAllocator<std::alloc::System> =
    zeroize::WipingAllocator(std::alloc::System);

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let done = match arguments.split_first() {
        Some((mode, [])) if mode == native::LAUNCHER_MODE => native::launcher(),
        Some((mode, rest)) if mode == gvisor::LAUNCHER_MODE => gvisor::launcher(rest),
        Some((mode, rest)) if mode == "supervise" => Supervise::read(rest).and_then(supervise),
        Some((mode, rest)) if mode == "guest" => InGuest::read(rest).and_then(in_guest),
        Some((mode, rest)) if mode == "vm" => host_of_guest(rest),
        Some((mode, rest)) if mode == vm::LAUNCHER_MODE => {
            vm::launcher(rest).map(|never| match never {}).context("cannot execute QEMU")
        }
        Some((mode, rest)) if mode == "vm-digest" => digest(rest),
        _ => Err(anyhow::anyhow!(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            supervisor::log(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

const USAGE: &str = "this program is started by toani's gateway, as: toani-sandbox supervise \
    {native | gvisor RUNSC [--browser FILE]} ROOT_FILE_SYSTEM [--memory MIB] --simulated-chip MACHINE";

/// What containers are made of.
struct Containers {
    driver: DriverKind,
    root_file_system: PathBuf,
    share: Share,
}

impl Containers {
    /// And what is said after them.
    fn read(arguments: &[OsString]) -> anyhow::Result<(Self, &[OsString])> {
        let (driver, rest) = match arguments {
            [driver, rest @ ..] if driver == "native" => (DriverKind::Native, rest),
            [driver, runsc, named, browser, rest @ ..]
                if driver == "gvisor" && named == "--browser" =>
            {
                (DriverKind::Gvisor { runsc: runsc.into(), browser: Some(browser.into()) }, rest)
            }
            [driver, runsc, rest @ ..] if driver == "gvisor" => {
                (DriverKind::Gvisor { runsc: runsc.into(), browser: None }, rest)
            }
            _ => bail!(USAGE),
        };
        let (root, rest) = rest.split_first().context(USAGE)?;
        let (share, rest) = match rest {
            [named, memory, rest @ ..] if named == MEMORY => {
                let mib = memory.to_str().and_then(|mib| mib.parse::<NonZero<u32>>().ok());
                let mib = mib.context("--memory is to be a number of MiB, 1 or more")?;
                (Share::of_mib(mib.get()), rest)
            }
            rest => (Share::default(), rest),
        };
        Ok((Self { driver, root_file_system: root.into(), share }, rest))
    }
}

/// What to supervise with.
struct Supervise {
    containers: Containers,
    simulated_chip: Option<PathBuf>,
}

impl Supervise {
    fn read(arguments: &[OsString]) -> anyhow::Result<Self> {
        let (containers, rest) = Containers::read(arguments)?;
        let simulated_chip = match rest {
            [] => None,
            [chip, machine] if chip == SIMULATED_CHIP => Some(machine.into()),
            _ => bail!(USAGE),
        };
        Ok(Self { containers, simulated_chip })
    }
}

/// What a supervisor in a virtual machine works with: `--report port` or `--report snp` comes from
/// the kernel's command line.
struct InGuest {
    containers: Containers,
    report: String,
}

impl InGuest {
    fn read(arguments: &[OsString]) -> anyhow::Result<Self> {
        match Containers::read(arguments)? {
            (containers, [named, report]) if named == "--report" => {
                Ok(Self { containers, report: report.to_string_lossy().into_owned() })
            }
            _ => bail!(USAGE),
        }
    }
}

/// Nobody may look into this process, nor find its memory on a disk.
fn harden() -> rustix::io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none)?;
    // Credentials are in its heap, its stacks and its libraries' buffers: so all of it is kept from
    // the swap, where the system lets this process. Containers start with a limit of 0.
    let all = Rlimit { current: None, maximum: None };
    match setrlimit(Resource::Memlock, all) {
        Ok(()) => mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT),
        Err(_) => Ok(()),
    }
}

fn supervise(what: Supervise) -> anyhow::Result<()> {
    protect()?;
    let stream = gateway()?;
    run(async move |ended| {
        let stream = UnixStream::from_std(stream)?;
        let started = async {
            let machine = what.simulated_chip.as_deref().context(
                "a supervisor has to prove what it is, and this one is in no SEV-SNP guest. Where \
                 the instance lives on a simulated machine, --simulated-chip names it",
            )?;
            let (driver, launch_digest) = start(&what.containers).await?;
            Ok((driver, SimulatedChip::of(machine, launch_digest)?, launch_digest))
        };
        serve(stream, started.await, ended).await
    })
}

/// The guest's part of a supervisor in a virtual machine.
fn in_guest(what: InGuest) -> anyhow::Result<()> {
    protect()?;
    let stream = guest::gateway().context("the gateway's port")?;
    stream.set_nonblocking(true)?;
    run(async move |ended| {
        let stream = UnixStream::from_std(stream)?;
        let started = async {
            let (driver, _) = start(&what.containers).await?;
            Ok((driver.in_guest()?, GuestEvidence::of(&what.report)?, guest::UNKNOWN))
        };
        serve(stream, started.await, ended).await
    })
}

/// The host's part of it.
fn host_of_guest(words: &[OsString]) -> anyhow::Result<()> {
    protect()?;
    let options = vm::Options::read(words);
    let stream = gateway()?;
    run(async move |_| {
        let mut stream = UnixStream::from_std(stream)?;
        match options {
            Ok(options) => Ok(vm::serve(stream, &options).await?),
            Err(error) => refuse(&mut stream, &error.into()).await,
        }
    })
}

/// Prints what a guest is measured as.
fn digest(words: &[OsString]) -> anyhow::Result<()> {
    let (guest, machine) = match words {
        [named, guest] if named == "--guest" => (guest, None),
        [named, guest, with, firmware, ..] if named == "--guest" && with == "--firmware" => {
            // Who measures a guest reads the same words as who starts it.
            let start = [words, &["--snp".into()]].concat();
            (guest, Some((firmware, vm::Options::read(&start)?.machine)))
        }
        _ => bail!(
            "toani-sandbox vm-digest --guest FOLDER [--firmware FILE [--vcpus N] [--processor NAME]]"
        ),
    };
    let mut image = vm::GuestImage::read(guest.as_ref())?;
    let parts = image.parts;
    let print = |name: &str, bytes: &[u8]| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("{name:<10} {hex}");
    };
    print("vmlinuz", parts.kernel.as_bytes());
    print("initrd", parts.initrd.as_bytes());
    print("cmdline", parts.command_line.as_bytes());
    print("simulated", &parts.simulated_digest());
    if let Some((firmware, machine)) = machine {
        print("sev-snp", &image.with_firmware(firmware.as_ref(), &machine)?);
    }
    Ok(())
}

fn protect() -> anyhow::Result<()> {
    harden().context("cannot protect the supervisor's memory")?;
    // A panic's message could hold what it tripped over.
    std::panic::set_hook(Box::new(|_| supervisor::log("a task panicked")));
    Ok(())
}

/// The stream on descriptor 0.
fn gateway() -> anyhow::Result<std::os::unix::net::UnixStream> {
    let stream = rustix::stdio::stdin()
        .try_clone_to_owned()
        .context("descriptor 0 is to be the gateway's stream")?;
    let stream = std::os::unix::net::UnixStream::from(stream);
    // A supervisor does not outlive its gateway.
    lifeline::follow(&stream)?;
    stream.set_nonblocking(true)?;
    let null = std::fs::File::open("/dev/null").context("cannot open /dev/null")?;
    rustix::stdio::dup2_stdin(null)?;
    Ok(stream)
}

fn run(work: impl AsyncFnOnce(&mut Option<Ended>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut ended = None;
    let end = runtime.block_on(work(&mut ended));
    // A name that is still being resolved is nothing to wait for.
    runtime.shutdown_timeout(SHUTDOWN);
    // With the runtime everything that holds a container is gone, and so are they soon.
    if let Some(ended) = ended {
        ended.wait(END);
    }
    end
}

async fn serve<E: EvidenceSource>(
    mut stream: UnixStream,
    started: anyhow::Result<(Started, E, LaunchDigest)>,
    ended: &mut Option<Ended>,
) -> anyhow::Result<()> {
    let (driver, source, launch_digest) = match started {
        Ok(started) => started,
        Err(error) => return refuse(&mut stream, &error).await,
    };
    let source = Arc::new(source);
    match driver {
        Started::Native(driver, lost, after) => {
            *ended = Some(after);
            tokio::select! {
                end = supervisor::serve(stream, Arc::new(driver), source, launch_digest) => {
                    end.context("the gateway's stream")
                }
                () = lost => bail!("the launcher ended"),
            }
        }
        Started::Gvisor(driver, after) => {
            *ended = Some(after);
            let end = supervisor::serve(stream, Arc::new(driver), source, launch_digest);
            end.await.context("the gateway's stream")
        }
    }
}

/// Says to the gateway why nothing can be started.
async fn refuse(stream: &mut UnixStream, error: &anyhow::Error) -> anyhow::Result<()> {
    let why = format!("{error:#}");
    messages::write(stream, &FromSupervisor::CannotStart(why.clone())).await?;
    bail!(why)
}

/// A driver that isolates here.
enum Started {
    /// And what ends with its launcher.
    Native(Fits<Native>, Pin<Box<dyn Future<Output = ()>>>, Ended),
    Gvisor(Fits<Gvisor>, Ended),
}

impl Started {
    /// Only classes that fit into a guest.
    fn in_guest(self) -> anyhow::Result<Self> {
        Ok(match self {
            Self::Native(driver, lost, after) => Self::Native(driver.in_guest()?, lost, after),
            Self::Gvisor(driver, after) => Self::Gvisor(driver.in_guest()?, after),
        })
    }
}

/// And what this program is measured as, as a process.
async fn start(what: &Containers) -> anyhow::Result<(Started, LaunchDigest)> {
    let roots = Roots::open(&what.root_file_system, &what.driver)?;
    let (driver, runs) = match &what.driver {
        DriverKind::Native => {
            let (driver, lost, ended) = Native::start(&roots, OWN.as_ref(), what.share).await?;
            let driver = Fits::anything(driver);
            (Started::Native(driver, Box::pin(lost), ended), DriverKind::Native)
        }
        DriverKind::Gvisor { runsc, .. } => {
            let (driver, ended) = Gvisor::start(&roots, runsc, OWN.as_ref(), what.share).await?;
            let runs = DriverKind::Gvisor { runsc: driver.runtime(), browser: None };
            (Started::Gvisor(Fits::anything(driver), ended), runs)
        }
        DriverKind::Vm(_) => bail!(USAGE),
    };
    let launch_digest = toani_sandbox::launch_digest(OWN.as_ref(), &runs, roots.digests())
        .context("cannot measure what runs")?;
    Ok((driver, launch_digest))
}
