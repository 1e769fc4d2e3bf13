//! The enclave's state machine in a process of its own: bytes in, bytes out.
//!
//! `toani-enclave DATA` is started by `toani-enclave-host` only. It confines itself, reads its
//! sealing key, takes the lanes' sockets from its stdin, gives up every way to open anything else,
//! and answers calls until a lane closes. The measured image replaces this program; its boundary
//! is as narrow as that one's will be.

mod arena;
mod confine;
mod control;
mod sealing_key;
mod serve;

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use toani_protocol::ids::Hash;

use crate::{control::Control, serve::Machine};

/// Secrets are of types that are aligned to a cache line, and so come from the locked arena.
#[global_allocator]
static ALLOCATOR: arena::Allocator = arena::Allocator::new();

fn main() -> ExitCode {
    confine::no_dumps_of_panics();
    let mut control = match Control::open() {
        Ok(control) => control,
        Err(error) => {
            eprintln!("toani-enclave: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match prepare(&mut control) {
        Ok((machine, lanes)) => serve::run(&machine, lanes, control),
        Err(error) => {
            eprintln!("toani-enclave: {error:#}");
            control.refuse(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// All that needs files, in an order that confines before it reads secrets.
fn prepare(control: &mut Control) -> Result<(Machine, control::Lanes)> {
    // First of all, because a socket that is closed with bytes unread loses its last word.
    let lanes = control.receive_lanes()?;
    confine::harden()?;
    ALLOCATOR.lock()?;
    let data = data_folder()?;
    let measurement = measure(Path::new("/proc/self/exe"))?;
    let key = sealing_key::open_or_create(&data)?;
    confine::leave_network();
    // Entering a namespace may have undone some of it.
    confine::harden()?;
    Ok((Machine::new(key, measurement), lanes))
}

fn data_folder() -> Result<PathBuf> {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(folder), None) => Ok(PathBuf::from(folder)),
        _ => bail!("usage: toani-enclave DATA_FOLDER; it is started by `toani serve`"),
    }
}

/// Without a TEE the measurement is the SHA-256 of the program's own file.
fn measure(program: &Path) -> Result<Hash> {
    let mut file = std::fs::File::open(program).context("cannot read the program's own file")?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Hash::new(hasher.finalize().into())),
            read => hasher.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}
