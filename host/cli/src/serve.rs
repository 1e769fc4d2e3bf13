//! `toani serve`: one boot after the other, until it is told to stop.

use std::{io::IsTerminal, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use toani_gateway::{Config, Exit, Ready};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    client::ADDRESS_FILE,
    home::{self, Home},
    output::Output,
};

/// A boot that lived for so long may be followed by another at once.
const STEADY: Duration = Duration::from_secs(30);
/// Boots that end sooner are followed by at most so many others.
const QUICK_ENDS_MAX: u32 = 5;

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where agents ask. Loopback only, until TLS guards it.
    #[arg(long, default_value = "127.0.0.1:8470")]
    listen: SocketAddr,
    /// Where the plane's programs are; by default beside this one.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Executions that run at once.
    #[arg(long, default_value_t = 64)]
    executions: u32,
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
    for program in ["toani-enclave", "toani-sandbox", "toani-connector"] {
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
    let mut config = Config::new(&home.data(), &programs(command.programs)?);
    config.listen = command.listen;
    config.executions_at_once = command.executions;

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

fn announce(ready: &Ready, address_file: &std::path::Path, output: &Output) {
    // Without the file, clients need --url; that is said, and the plane goes on.
    if let Err(error) = home::write(address_file, format!("{}\n", ready.address).as_bytes()) {
        output.progress(&format!("{error:#}; clients need --url http://{}", ready.address));
    }
    let value = json!({
        "url": format!("http://{}", ready.address),
        "admin": ready.admin_socket,
        "boot": ready.boot,
        "tee": "none",
    });
    output.result(&value, |output| {
        format!(
            "{} http://{} (boot {}; tee: none)\nadministration: {}",
            output.good("Ready:"),
            ready.address,
            ready.boot,
            ready.admin_socket.display(),
        )
    });
}
