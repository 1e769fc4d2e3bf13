//! The gateway: REST for agents, administration for the owner, and the pipeline of one action.
//!
//! It is trusted for availability only. It holds no key, decides nothing and never sees a
//! credential; what it passes on is verified by the enclave, and what it answers with is signed.
//!
//! * `pipeline` is the product on one screen: the steps of one action.
//! * `plane` is one boot: an enclave, a log, a store, a sandbox. Its `call` is the only way to the
//!   enclave; it carries out the enclave's effects, and no answer goes out before the log that it
//!   depends on is durable.
//! * `ask` turns bodies and headers into the bytes that the enclave verifies.
//! * `api` and `admin` are the routes; HTTP types do not leave this crate.
//!
//! [`serve`] runs one boot, from opening the data folder to an [`Exit`].

mod admin;
mod api;
mod ask;
#[cfg(test)]
mod ask_fuzz;
mod body;
mod boot;
mod commits;
mod hand_over;
mod impatient;
mod keep;
mod limits;
mod listen;
mod pipeline;
mod plane;
mod problem;
mod sandbox;

use std::{
    net::SocketAddr,
    num::NonZero,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use toani_enclave_host::Runner;
use toani_protocol::{BootId, assurance::Tee, limits::OUTCOME_WAIT_MS_MAX, wire::Command};
use toani_sandbox::DriverKind;
use toani_store::{RedisReplay, ReplayError};
use tokio::sync::{oneshot, watch};

pub use toani_links::{ClientLink, Clients, LinkError, ServerFiles};
pub use toani_store::{RedisAddress, RedisConfig};

pub use crate::{
    api::openapi,
    ask::names_credential,
    boot::{BootError, MANIFEST, birth, manifest},
    hand_over::{Asked, ask_root, asked_key, give_root, take_root},
    limits::Rate,
};
use crate::{limits::Buckets, plane::Plane};

/// The administration's socket within the data folder.
pub const ADMIN_SOCKET: &str = "admin.sock";

/// How often the enclave is told that time passes.
const TICK: Duration = Duration::from_secs(1);
/// How often blobs whose time is over are deleted.
const DELETE: Duration = Duration::from_secs(600);
/// How long answers and open calls may take to end when a boot is over.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Where redeemed tokens are remembered.
#[derive(Debug, Clone, Default)]
pub enum Replay {
    /// In this process, which is enough for one gateway.
    #[default]
    Embedded,
    Redis(RedisConfig),
}

impl Replay {
    async fn keep(&self, keep: keep::Keep) -> Result<keep::Keep, ReplayError> {
        match self {
            Self::Embedded => Ok(keep),
            Self::Redis(redis) => {
                let redis = RedisReplay::open(redis.clone()).await?;
                Ok(keep.with_replay(Arc::new(redis)))
            }
        }
    }
}

/// Administration over TCP: TLS, and nobody without a client certificate.
#[derive(Debug, Clone)]
pub struct AdminPort {
    pub listen: SocketAddr,
    /// The server's certificate and key.
    pub identity: PathBuf,
    /// The CA of those who administer. Whoever has a certificate of it may.
    pub ca: PathBuf,
    /// Whom it has revoked.
    pub crl: PathBuf,
}

impl AdminPort {
    fn files(self) -> ServerFiles {
        let clients = Clients { ca: self.ca, crl: Some(self.crl), required: true };
        ServerFiles { identity: self.identity, clients: Some(clients) }
    }
}

/// What one boot needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Holds the manifest, the sealed root, the log, the store and the administration's socket.
    pub data: PathBuf,
    /// For agents; without TLS loopback only.
    pub listen: SocketAddr,
    /// What runs the enclave's image.
    pub runner: Runner,
    /// For agents, who may be asked for certificates. Their requests prove themselves as without.
    pub tls: Option<ServerFiles>,
    /// For the owner, beside the Unix socket.
    pub admin: Option<AdminPort>,
    /// `toani-sandbox`.
    pub sandbox_program: PathBuf,
    /// What holds connectors.
    pub driver: DriverKind,
    /// Memory of all containers together; of the supervisor's choice if nothing is said.
    pub containers_memory_mib: Option<NonZero<u32>>,
    /// Where the file is that containers run.
    pub programs: PathBuf,
    /// The folder of a simulated machine, whose chip is to vouch for the supervisor. Without it
    /// the supervisor has to have hardware that does.
    pub simulated_chip: Option<PathBuf>,
    pub replay: Replay,
    /// How often the enclave proves itself once more: collateral mostly lasts thirty days.
    pub renew_every: Duration,
    /// Executions that run at once; more of them wait.
    pub executions_at_once: u32,
    /// Requests of one agent.
    pub rate_per_agent: Rate,
    /// Requests of one address, whoever they claim to be from.
    pub rate_per_peer: Rate,
    /// How long a supervisor may take to say how an execution ended; then nobody knows.
    pub outcome_ms_max: u64,
    /// How long running executions may take to end when the plane is stopped.
    pub stop_ms_max: u64,
}

impl Config {
    /// Programs beside each other in one folder, and usual numbers.
    pub fn new(data: &Path, programs: &Path, runner: Runner) -> Self {
        Self {
            data: data.to_path_buf(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8470)),
            runner,
            tls: None,
            admin: None,
            sandbox_program: programs.join("toani-sandbox"),
            driver: DriverKind::Gvisor { runsc: programs.join("runsc"), browser: None },
            containers_memory_mib: None,
            programs: programs.to_path_buf(),
            simulated_chip: None,
            replay: Replay::Embedded,
            renew_every: Duration::from_secs(24 * 3600),
            executions_at_once: 64,
            rate_per_agent: Rate { per_second: 1_000, burst: 2_000 },
            rate_per_peer: Rate { per_second: 5_000, burst: 10_000 },
            outcome_ms_max: OUTCOME_WAIT_MS_MAX,
            stop_ms_max: 30_000,
        }
    }

    /// Where the owner administers.
    pub fn admin_socket(&self) -> PathBuf {
        self.data.join(ADMIN_SOCKET)
    }
}

/// Why a boot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to stop, and what ran came to its end.
    Stopped,
    /// It was asked to stop, and some executions did not end in time; the next boot ends them as
    /// unknown.
    StoppedInTheMiddle,
    /// The enclave's process is gone: begin a new boot.
    EnclaveLost,
    /// The audit log cannot be written: nothing may start. Opening it anew may help.
    LogFailed,
    /// The store cannot be written. Opening it anew may help.
    StoreFailed,
}

/// A plane that answers.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Where agents ask; the port is the real one.
    pub address: SocketAddr,
    /// Whether they ask over TLS.
    pub tls: bool,
    pub admin_socket: PathBuf,
    /// Where else the owner administers.
    pub admin_address: Option<SocketAddr>,
    pub boot: BootId,
    pub tee: Tee,
}

/// Runs one boot until `stop` resolves or something that it stands on is lost.
///
/// `ready` is called once, when requests are answered. After [`Exit::EnclaveLost`],
/// [`Exit::LogFailed`] and [`Exit::StoreFailed`] the caller begins a new boot by calling this
/// again.
pub async fn serve(
    config: Config,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(Ready),
) -> Result<Exit, BootError> {
    let agents = listen::Port::bind(config.listen, config.tls.clone()).await?;
    let address = agents.address()?;
    let admins = match config.admin.clone() {
        Some(admin) => Some(listen::Port::bind(admin.listen, Some(admin.files())).await?),
        None => None,
    };
    let admin_address = admins.as_ref().map(listen::Port::address).transpose()?;
    let paths = toani_sandbox::SupervisorPaths {
        supervisor: config.sandbox_program.clone(),
        driver: config.driver.clone(),
        root_file_system: config.programs.join(config.driver.root_file_system()),
        memory_mib: config.containers_memory_mib,
        simulated_chip: config.simulated_chip.clone(),
    };
    let (alive, gone) = oneshot::channel();
    let (plane, listed) = boot::boot(&config, alive).await?;
    let first = sandbox::first(&paths).await?;
    let owner = listen::bind_owner(&config.admin_socket())?;

    let (stopping, stopped) = watch::channel(false);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(plane.clone().tell_of_commits());
    tasks.spawn(plane.clone().list_commits(listed));
    tasks.spawn(tick(plane.clone()));
    tasks.spawn(renew(plane.clone(), config.renew_every));
    tasks.spawn(delete_expired(plane.clone()));
    tasks.spawn(notice_loss(plane.clone()));
    let (over, is_over) = watch::channel(false);
    let mut sandbox = tokio::spawn(sandbox::keep(plane.clone(), paths, first, is_over));
    let limits = Arc::new(api::Limits {
        agents: Buckets::new(config.rate_per_agent),
        peers: Buckets::new(config.rate_per_peer),
    });
    let public = api::router(plane.clone(), limits);
    let private = admin::router(plane.clone());
    let mut listeners = tokio::task::JoinSet::new();
    listeners.spawn(listen::serve(agents, public, stopped.clone()));
    if let Some(admins) = admins {
        listeners.spawn(listen::serve(admins, private.clone(), stopped.clone()));
    }
    listeners.spawn(listen::serve(owner, private, stopped));
    let facts = plane.facts();
    ready(Ready {
        address,
        tls: config.tls.is_some(),
        admin_socket: config.admin_socket(),
        admin_address,
        boot: facts.boot.clone(),
        tee: facts.tee,
    });

    let exit = tokio::select! {
        () = stop => None,
        exit = plane.failed() => Some(exit),
    };
    stopping.send_replace(true);
    let exit = match exit {
        Some(exit) => exit,
        None => drain(&plane, config.stop_ms_max).await,
    };
    let closed = async { while listeners.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(CLOSE_LIMIT, closed).await;
    listeners.shutdown().await;
    tasks.shutdown().await;
    over.send_replace(true);
    if tokio::time::timeout(CLOSE_LIMIT, &mut sandbox).await.is_err() {
        sandbox.abort();
    }
    plane.enclave().stop();
    drop(plane);
    // Whoever begins the next boot finds log and data folder free.
    let _ = tokio::time::timeout(CLOSE_LIMIT, gone).await;
    // The socket is of this boot; a leftover would only refuse connections.
    let _ = std::fs::remove_file(config.admin_socket());
    Ok(exit)
}

/// Lets what runs come to its end, for a while.
async fn drain(plane: &Plane, limit_ms: u64) -> Exit {
    let limit = Duration::from_millis(limit_ms);
    tokio::select! {
        drained = tokio::time::timeout(limit, plane.drained()) => match drained {
            Ok(()) => Exit::Stopped,
            Err(_) => Exit::StoppedInTheMiddle,
        },
        exit = plane.failed() => exit,
    }
}

async fn tick(plane: Arc<Plane>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A plane that has failed ends this task.
        let _ = plane.call(Command::Tick).await;
        plane.save_checkpoint().await;
    }
}

async fn renew(plane: Arc<Plane>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        if let Err(error) = boot::renew(&plane).await {
            tracing::warn!(
                %error,
                "the enclave has not proven itself once more; what it has shown before expires"
            );
        }
    }
}

async fn delete_expired(plane: Arc<Plane>) {
    let mut times = tokio::time::interval(DELETE);
    loop {
        times.tick().await;
        let deleted = plane.keep().store().delete_expired(toani_enclave_host::now());
        match deleted.await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "blobs whose time was over are deleted"),
            Err(error) => tracing::warn!(%error, "old blobs cannot be deleted"),
        }
    }
}

async fn notice_loss(plane: Arc<Plane>) {
    plane.enclave().lost().await;
    plane.fail(Exit::EnclaveLost);
}
