//! `toani serve`: one boot after the other, until it is told to stop.

use std::{io::IsTerminal, net::SocketAddr, num::NonZero, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use toani_gateway::{
    AdminPort, Clients, Config, Exit, Ready, RedisAddress, RedisConfig, Replay, ServerFiles,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    client::ADDRESS_FILE,
    home::{self, Home},
    output::Output,
    sandbox::{Runtime, Sandbox, expect_agreement},
    tee,
};

/// A boot that lived for so long may be followed by another at once.
const STEADY: Duration = Duration::from_secs(30);
/// Boots that end sooner are followed by at most so many others.
const QUICK_ENDS_MAX: u32 = 5;

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where agents ask. Beyond loopback only with --tls.
    #[arg(long, default_value = "127.0.0.1:8470")]
    listen: SocketAddr,
    #[command(flatten)]
    tls: TlsArguments,
    /// Where the plane's programs are; by default beside this one.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// The simulated machine's folder, if the instance lives on one; by default one of this user's.
    #[arg(long, env = "TOANI_MACHINE")]
    machine: Option<PathBuf>,
    /// What holds connectors. The operators admit each by itself, and nothing weaker runs instead.
    #[arg(long, value_enum, default_value_t = Sandbox::Gvisor)]
    sandbox: Sandbox,
    #[command(flatten)]
    runtime: Runtime,
    /// Memory of all containers together; by default three quarters of the machine's. A virtual
    /// machine's is --guest-memory.
    #[arg(long, value_name = "MIB")]
    memory: Option<NonZero<u32>>,
    /// Executions that run at once.
    #[arg(long, default_value_t = 64)]
    executions: u32,
    #[command(flatten)]
    replay: ReplayArguments,
}

#[derive(Debug, Args)]
struct TlsArguments {
    /// Agents ask over TLS 1.3, with the certificate of `toani cert server`.
    #[arg(long)]
    tls: bool,
    /// Agents may show certificates, which must lead to this CA.
    #[arg(long, value_name = "FILE", requires = "tls")]
    client_ca: Option<PathBuf>,
    /// What that CA has revoked.
    #[arg(long, value_name = "FILE", requires = "client_ca")]
    client_crl: Option<PathBuf>,
    /// Agents must show certificates.
    #[arg(long, requires = "client_ca")]
    require_client_certificate: bool,
    /// Administration over TLS 1.3 too, with certificates of `toani cert admin`.
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
}

impl TlsArguments {
    fn choose(self, home: &Home, config: &mut Config) -> anyhow::Result<()> {
        let identity = home.tls("server.pem");
        if (self.tls || self.admin_listen.is_some()) && !identity.exists() {
            bail!(
                "there is no {}; run `toani cert init` and `toani cert server --name HOST`",
                identity.display()
            );
        }
        let (crl, required) = (self.client_crl, self.require_client_certificate);
        let clients = self.client_ca.map(|ca| Clients { ca, crl, required });
        config.tls = self.tls.then(|| ServerFiles { identity: identity.clone(), clients });
        config.admin = self.admin_listen.map(|listen| AdminPort {
            listen,
            identity,
            ca: home.tls("ca.pem"),
            crl: home.tls("revoked.pem"),
        });
        Ok(())
    }
}

#[derive(Debug, Args)]
struct ReplayArguments {
    /// A Redis 7 that remembers redeemed tokens: redis:// on loopback, rediss:// (TLS 1.3), or
    /// unix:///PATH. Without it they are remembered in this process.
    #[arg(long, value_name = "URL")]
    replay: Option<RedisAddress>,
    /// The CA that a rediss:// is believed by, in PEM.
    #[arg(long, value_name = "FILE", requires = "replay")]
    replay_ca: Option<PathBuf>,
    /// Holds the password of the Redis, for its owner alone.
    #[arg(long, value_name = "FILE", requires = "replay")]
    replay_password_file: Option<PathBuf>,
}

impl ReplayArguments {
    fn chosen(self) -> Replay {
        let (ca, password_file) = (self.replay_ca, self.replay_password_file);
        self.replay.map_or(Replay::Embedded, |address| {
            Replay::Redis(RedisConfig { address, ca, password_file })
        })
    }
}

/// The folder of the plane's programs.
pub(crate) fn programs(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let folder = match given {
        Some(folder) => folder,
        None => {
            let own = std::env::current_exe().context("cannot find this program's own folder")?;
            own.parent().context("this program stands in no folder")?.to_path_buf()
        }
    };
    for program in [tee::IMAGE, tee::SIMULATOR, tee::SGX, "toani-sandbox"] {
        if !folder.join(program).is_file() {
            bail!(
                "there is no {program} in {}; --programs names the folder with the plane's programs",
                folder.display()
            );
        }
    }
    Ok(folder)
}

pub(crate) async fn run(command: Serve, home: &Home, output: &Output) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TOANI_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let colours = std::env::var_os("NO_COLOR").is_none() && std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .init();
    let programs = programs(command.programs)?;
    let manifest = toani_gateway::manifest(&home.data())?;
    let simulated_chip = tee::simulated_chip(&manifest.snp_roots, command.machine.clone());
    let runner = tee::runner(&programs, command.machine, &home.data(), &manifest)?;
    let mut config = Config::new(&home.data(), &programs, runner);
    config.driver = command.runtime.driver(command.sandbox, &programs)?;
    expect_agreement(&config.driver, &manifest.snp_roots)?;
    if command.memory.is_some() && command.sandbox == Sandbox::Vm {
        bail!("--memory is for containers on this machine; a virtual machine has --guest-memory");
    }
    config.containers_memory_mib = command.memory;
    config.simulated_chip = simulated_chip;
    config.listen = command.listen;
    config.executions_at_once = command.executions;
    config.replay = command.replay.chosen();
    command.tls.choose(home, &mut config)?;

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        stop.send_replace(true);
    });
    let mut quick_ends = 0;
    loop {
        let began = std::time::Instant::now();
        let mut stopped = stopped.clone();
        let stop = async move {
            // A closed channel cannot be: the sender lives as long as this program.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let address_file = home.data().join(ADDRESS_FILE);
        let ready = |ready: Ready| announce(&ready, &address_file, output);
        let exit = toani_gateway::serve(config.clone(), stop, ready).await?;
        let why = match exit {
            Exit::Stopped => return Ok(()),
            Exit::StoppedInTheMiddle => {
                bail!("stopped while executions ran; the next start ends them as unknown")
            }
            Exit::EnclaveLost => "the enclave's process is gone",
            Exit::LogFailed => "the audit log cannot be written",
            Exit::StoreFailed => "the store cannot be written",
        };
        quick_ends = if began.elapsed() < STEADY { quick_ends + 1 } else { 0 };
        if quick_ends > QUICK_ENDS_MAX {
            bail!("{why}, {quick_ends} times in a row; see the messages above");
        }
        output.progress(&format!("{why}; a new boot begins"));
    }
}

/// Where commands on this machine reach the plane. A server certificate of ours names localhost.
fn url(ready: &Ready) -> String {
    let address = ready.address;
    match (ready.tls, address.ip()) {
        (false, _) => format!("http://{address}"),
        (true, ip) if ip.is_loopback() || ip.is_unspecified() => {
            format!("https://localhost:{}", address.port())
        }
        (true, _) => format!("https://{address}"),
    }
}

fn announce(ready: &Ready, address_file: &std::path::Path, output: &Output) {
    let url = url(ready);
    // Without the file, clients need --url; that is said, and the plane goes on.
    if let Err(error) = home::write(address_file, format!("{url}\n").as_bytes()) {
        output.progress(&format!("{error:#}; clients need --url {url}"));
    }
    let admin_url = ready.admin_address.map(|address| format!("https://{address}"));
    let value = json!({
        "url": url,
        "admin": ready.admin_socket,
        "admin_url": admin_url,
        "boot": ready.boot,
        "tee": ready.tee,
    });
    output.result(&value, |output| {
        let socket = ready.admin_socket.display();
        let admin = admin_url.map_or_else(|| socket.to_string(), |url| format!("{socket}, {url}"));
        format!(
            "{} {url} (boot {})\n{}\nadministration: {admin}",
            output.good("Ready:"),
            ready.boot,
            tee::in_words(ready.tee),
        )
    });
}
