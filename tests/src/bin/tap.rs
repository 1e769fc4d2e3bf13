//! Stands between the gateway and one of its processes, and asks the test at every message.
//!
//! Copied as `toani-enclave` or `toani-sandbox` into a folder that [`toani_tests::Borders`] made,
//! it starts the real program and passes the messages on: the same bytes, in the same order. It
//! ends when the real program ends, or when the test is gone.

#![allow(clippy::exit, reason = "a tap ends with the program behind it")]

use std::{
    env,
    path::{Path, PathBuf},
    process::exit,
    sync::Arc,
};

use anyhow::{Context, bail};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::Value;
use toani_enclave_host::EnclaveHost;
use toani_protocol::{
    limits::MESSAGE_BYTES_MAX,
    wire::{self, Call},
};
use toani_sandbox::{
    RunError, SupervisorClient, SupervisorPaths,
    messages::{self, Message, Request},
};
use toani_tests::borders::{self, Side};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::Mutex,
};

/// How the enclave's process takes its sockets; the tap takes them in its place.
#[path = "../../../host/enclave-process/src/control.rs"]
mod control;

/// Longest that one outcome may take; the test kills or answers long before.
const OUTCOME_MAX: std::time::Duration = std::time::Duration::from_secs(60);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let own = env::current_exe()?;
    let folder = own.parent().context("no folder")?.to_path_buf();
    let real = std::fs::read_to_string(folder.join(borders::REAL))?;
    let name = own.file_name().context("no name")?;
    let program = Path::new(&real).join(name);
    let argument = env::args_os().next_back().context("no argument")?;
    match name.to_str() {
        Some("toani-enclave") => enclave(&program, argument.as_ref(), folder).await,
        Some("toani-sandbox") => sandbox(program, argument.into(), folder).await,
        _ => bail!("a tap for no known program"),
    }
}

/// Asks the test; without its word this process ends, and the real program with it.
async fn cross(folder: &Path, border: &str, side: Side) {
    if borders::cross(folder, border, side).await.is_err() {
        exit(1);
    }
}

async fn enclave(program: &Path, data: &Path, folder: PathBuf) -> anyhow::Result<()> {
    let control = control::Control::open()?;
    let lanes = control.receive_lanes()?;
    let real = match EnclaveHost::start(program, data).await {
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
        let mut call = vec![0; usize::try_from(lane.read_u32_le().await?)?];
        lane.read_exact(&mut call).await?;
        let command = wire::decode::<Call>(&call, MESSAGE_BYTES_MAX)?.command;
        let command = match serde_json::to_value(&command)? {
            Value::String(name) => name,
            Value::Object(fields) => fields.keys().next().cloned().context("a name")?,
            _ => bail!("a command without a name"),
        };
        cross(folder, &command, Side::Before).await;
        let reply = real.call_bytes(call).await?;
        cross(folder, &command, Side::After).await;
        lane.write_u32_le(u32::try_from(reply.len())?).await?;
        lane.write_all(&reply).await?;
    }
}

async fn sandbox(supervisor: PathBuf, connector: PathBuf, folder: PathBuf) -> anyhow::Result<()> {
    let gateway = rustix::stdio::stdin().try_clone_to_owned()?;
    let gateway = std::os::unix::net::UnixStream::from(gateway);
    gateway.set_nonblocking(true)?;
    let (mut input, output) = UnixStream::from_std(gateway)?.into_split();
    let output = Arc::new(Mutex::new(output));
    let paths = SupervisorPaths { supervisor, connector };
    let (real, hello) = SupervisorClient::spawn(&paths).await?;
    messages::write(&mut *output.lock().await, &Message::Hello(hello)).await?;
    let ended = real.clone();
    tokio::spawn(async move {
        ended.gone().await;
        exit(1);
    });
    loop {
        let Request { id, job } = messages::read(&mut input).await?;
        let (real, folder, output) = (real.clone(), folder.clone(), Arc::clone(&output));
        tokio::spawn(async move {
            cross(&folder, borders::JOB, Side::Before).await;
            let message = match real.run(job, OUTCOME_MAX).await {
                Ok(outcome) => Message::Outcome { id, outcome },
                Err(RunError::Refused(reason)) => Message::Refused { id, reason },
                Err(_) => exit(1),
            };
            cross(&folder, borders::JOB, Side::After).await;
            if messages::write(&mut *output.lock().await, &message).await.is_err() {
                exit(1);
            }
        });
    }
}
