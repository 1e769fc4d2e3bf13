//! Stands between the gateway and the enclave's process, and asks the test at every message.
//!
//! Copied as `toani-simulator` into a folder that [`toani_tests::Borders`] made,
//! it starts the real program and passes the messages on: the same bytes, in the same order. It
//! ends when the real program ends, or when the test is gone.

#![allow(clippy::exit, reason = "a tap ends with the program behind it")]

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, exit},
};

use anyhow::{Context, bail};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::Value;
use toani_enclave_host::{
    EnclaveHost, Runner,
    frame::{self, Kind, PREFIX_BYTES},
    runner::Control,
};
use toani_protocol::{
    limits::MESSAGE_BYTES_MAX,
    wire::{self, Call, Command as Asked, Effect, Reply},
};
use toani_tests::borders::{self, Crossing, Side};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let own = env::current_exe()?;
    let folder = own.parent().context("no folder")?.to_path_buf();
    let real = std::fs::read_to_string(folder.join(borders::REAL))?;
    let name = own.file_name().context("no name")?;
    let program = Path::new(&real).join(name);
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    match name.to_str() {
        Some("toani-simulator") => enclave(Runner { program, arguments }, folder).await,
        _ => bail!("a tap for no known program"),
    }
}

/// Asks the test; without its word this process ends, and the real program with it.
async fn cross(folder: &Path, crossing: &Crossing) {
    if borders::cross(folder, crossing).await.is_err() {
        exit(1);
    }
}

async fn enclave(runner: Runner, folder: PathBuf) -> anyhow::Result<()> {
    let asks_for_roots = runner.arguments.first().is_some_and(|first| first == "--roots");
    if asks_for_roots {
        // No lanes, no messages: the answer is printed.
        let status = Command::new(&runner.program).args(&runner.arguments).status()?;
        exit(status.code().unwrap_or(1));
    }
    let control = Control::open()?;
    let lanes = control.receive_lanes()?;
    let real = match EnclaveHost::start(&runner).await {
        Ok(real) => real,
        Err(error) => {
            control.refuse(&error.to_string());
            return Ok(());
        }
    };
    for lane in lanes {
        lane.set_nonblocking(true)?;
        let (lane, real, folder) = (UnixStream::from_std(lane)?, real.clone(), folder.clone());
        tokio::spawn(async move {
            // The lane is broken, so the gateway is gone.
            let _ = pass_calls(lane, &real, &folder).await;
            exit(1);
        });
    }
    control.ready()?;
    real.lost().await;
    exit(1);
}

async fn pass_calls(mut lane: UnixStream, real: &EnclaveHost, folder: &Path) -> anyhow::Result<()> {
    loop {
        let mut prefix = [0; PREFIX_BYTES];
        lane.read_exact(&mut prefix).await?;
        let (kind, length) = frame::read_prefix(prefix).context("no frame")?;
        let mut body = vec![0; length];
        lane.read_exact(&mut body).await?;
        let mut crossing = asked(kind, &body)?;
        cross(folder, &crossing).await;
        let (kind, reply) = real.ask(kind, body).await?;
        crossing.side = Side::After;
        crossing.size = crossing.size.or(signed(kind, &reply)?);
        cross(folder, &crossing).await;
        lane.write_all(&frame::prefix(kind, reply.len()).context("too large")?).await?;
        lane.write_all(&reply).await?;
    }
}

fn asked(kind: Kind, body: &[u8]) -> anyhow::Result<Crossing> {
    if kind != Kind::Call {
        return Ok(Crossing { name: format!("{kind:?}"), side: Side::Before, size: None });
    }
    let command = wire::decode::<Call>(body, MESSAGE_BYTES_MAX)?.command;
    let size = if let Asked::Durable { size } = &command { Some(*size) } else { None };
    let name = match serde_json::to_value(&command)? {
        Value::String(name) => name,
        Value::Object(fields) => fields.keys().next().cloned().context("a name")?,
        _ => bail!("a command without a name"),
    };
    Ok(Crossing { name, side: Side::Before, size })
}

/// The log's size with the records of a reply, if it has any.
fn signed(kind: Kind, reply: &[u8]) -> anyhow::Result<Option<u64>> {
    if kind != Kind::Call {
        return Ok(None);
    }
    let effects = wire::decode::<Reply>(reply, MESSAGE_BYTES_MAX)?.effects;
    let sizes = effects.iter().filter_map(|effect| match effect {
        Effect::Append { index, .. } => Some(index + 1),
        _ => None,
    });
    Ok(sizes.max())
}
