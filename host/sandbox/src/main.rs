//! `toani-sandbox`: the supervisor, and the launcher that it starts.

use std::{path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context, bail};
use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{
        DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior,
        set_parent_process_death_signal, setrlimit,
    },
};
use toani_protocol::instance::LaunchDigest;
use toani_sandbox::{
    evidence::SimulatedChip,
    messages::{self, FromSupervisor},
    native::{self, Native},
    supervisor,
};
use tokio::net::UnixStream;

/// Names the folder of a simulated machine, whose chip vouches for this process.
const SIMULATED_CHIP: &str = "--simulated-chip";

/// Every block of memory is wiped when it is freed: jobs, credentials, replies.
#[global_allocator]
static ALLOCATOR: zeroize::WipingAllocator<std::alloc::System> =
    zeroize::WipingAllocator(std::alloc::System);

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let done = match arguments.as_slice() {
        [mode] if mode == native::LAUNCHER_MODE => native::launcher(),
        [mode, connector, chip, machine] if mode == "supervise" && chip == SIMULATED_CHIP => {
            supervise(connector.as_ref(), Some(machine.as_ref()))
        }
        [mode, connector] if mode == "supervise" => supervise(connector.as_ref(), None),
        _ => Err(anyhow::anyhow!(
            "this program is started by toani's gateway, as: \
             toani-sandbox supervise CONNECTOR {SIMULATED_CHIP} MACHINE"
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            supervisor::log(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Nobody may look into this process, nor find its memory on a disk, and it does not outlive the
/// gateway.
fn harden() -> rustix::io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
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

fn supervise(connector: &Path, simulated: Option<&Path>) -> anyhow::Result<()> {
    harden().context("cannot protect the supervisor's memory")?;
    // A panic's message could hold what it tripped over.
    std::panic::set_hook(Box::new(|_| supervisor::log("a task panicked")));
    let stream = rustix::stdio::stdin()
        .try_clone_to_owned()
        .context("descriptor 0 is to be the gateway's stream")?;
    let stream = std::os::unix::net::UnixStream::from(stream);
    stream.set_nonblocking(true)?;
    let null = std::fs::File::open("/dev/null").context("cannot open /dev/null")?;
    rustix::stdio::dup2_stdin(null)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let end = runtime.block_on(serve(stream, connector, simulated));
    // A name that is still being resolved is nothing to wait for.
    runtime.shutdown_background();
    end
}

async fn serve(
    stream: std::os::unix::net::UnixStream,
    connector: &Path,
    simulated: Option<&Path>,
) -> anyhow::Result<()> {
    let mut stream = UnixStream::from_std(stream)?;
    match start(connector, simulated).await {
        Ok((driver, lost, source, launch_digest)) => tokio::select! {
            end = supervisor::serve(stream, Arc::new(driver), Arc::new(source), launch_digest) => {
                end.context("the gateway's stream")
            }
            () = lost => bail!("the launcher ended"),
        },
        Err(error) => {
            let why = format!("{error:#}");
            messages::write(&mut stream, &FromSupervisor::CannotStart(why.clone())).await?;
            bail!(why)
        }
    }
}

async fn start(
    connector: &Path,
    simulated: Option<&Path>,
) -> anyhow::Result<(Native, impl Future<Output = ()> + use<>, SimulatedChip, LaunchDigest)> {
    let machine = simulated.context(
        "a supervisor has to prove what it is, and the native sandbox is in no SEV-SNP guest. \
         Where the instance lives on a simulated machine, --simulated-chip names it",
    )?;
    let (driver, lost, launch_digest) = Native::start(connector).await?;
    let source = SimulatedChip::of(machine, launch_digest)?;
    Ok((driver, lost, source, launch_digest))
}
