//! Lanes: frame, check under a read lock, apply under a write lock, frame.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    process::ExitCode,
    sync::{Barrier, PoisonError, RwLock},
};

use rand_core::UnwrapErr;
use toani_enclave::{Enclave, Platform, Secret};
use toani_protocol::{
    Reason,
    ids::Hash,
    limits::MESSAGE_BYTES_MAX,
    wire::{self, Reply},
};

use crate::{
    confine,
    control::{Control, LANES, Lanes},
};

/// The random numbers of the system. Where they fail, the process stops.
type Random = UnwrapErr<getrandom::SysRng>;

/// The state machine behind its lock.
pub(crate) struct Machine {
    enclave: RwLock<Enclave>,
}

/// This process as what the enclave runs on: no TEE, a key in a file, its own hash.
struct Process {
    key: Secret<32>,
    measurement: Hash,
}

impl Platform for Process {
    fn sealing_key(&self) -> Secret<32> {
        Secret::filled(|copy| copy.copy_from_slice(self.key.bytes()))
    }

    fn measurement(&self) -> Hash {
        self.measurement
    }
}

impl Machine {
    pub(crate) fn new(key: Secret<32>, measurement: Hash) -> Self {
        let process = Process { key, measurement };
        Self { enclave: RwLock::new(Enclave::new(Box::new(process))) }
    }

    /// Answers one call. A panic inside ends the process before the lock can be taken again, so a
    /// poisoned lock is never met.
    fn answer(&self, call: &[u8]) -> Vec<u8> {
        let mut random: Random = UnwrapErr(getrandom::SysRng);
        let checked = {
            let enclave = self.enclave.read().unwrap_or_else(PoisonError::into_inner);
            enclave.check(call, &mut random)
        };
        let mut enclave = self.enclave.write().unwrap_or_else(PoisonError::into_inner);
        enclave.apply(checked, &mut random)
    }
}

/// Serves all lanes; returns when one of them closes, because then the host is gone.
pub(crate) fn run(machine: &Machine, lanes: Lanes, control: Control) -> ExitCode {
    let (closed, wait_for_close) = std::sync::mpsc::channel();
    let gate = Barrier::new(LANES + 1);
    std::thread::scope(|scope| {
        for mut lane in lanes {
            let closed = closed.clone();
            let gate = &gate;
            scope.spawn(move || {
                gate.wait();
                let end = serve(machine, &mut lane);
                let _ = closed.send(end);
            });
        }
        // All threads exist: none can be made from here on, and nothing can be opened.
        let sealed = confine::seal();
        if let Err(error) = sealed {
            control.refuse(&format!("{error:#}"));
            std::process::exit(1);
        }
        if control.ready().is_err() {
            std::process::exit(1);
        }
        gate.wait();
        // A lane may be in the middle of a call; its answer has nobody to go to.
        let _ = wait_for_close.recv();
        std::process::exit(0)
    })
}

fn serve(machine: &Machine, lane: &mut UnixStream) -> io::Result<()> {
    loop {
        let mut prefix = [0; 4];
        lane.read_exact(&mut prefix)?;
        let length = u32::from_le_bytes(prefix);
        let reply = if usize::try_from(length).is_ok_and(|length| length <= MESSAGE_BYTES_MAX) {
            let mut call = Vec::new();
            lane.take(length.into()).read_to_end(&mut call)?;
            if call.len() != usize::try_from(length).unwrap_or(usize::MAX) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            machine.answer(&call)
        } else {
            // Skipped, so that the lane can go on.
            io::copy(&mut lane.take(length.into()), &mut io::sink())?;
            refusal()
        };
        let length = u32::try_from(reply.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        lane.write_all(&length.to_le_bytes())?;
        lane.write_all(&reply)?;
    }
}

fn refusal() -> Vec<u8> {
    let reply = Reply { effects: Vec::new(), answer: Err(Reason::RequestMalformed) };
    wire::encode(&reply).unwrap_or_default()
}
