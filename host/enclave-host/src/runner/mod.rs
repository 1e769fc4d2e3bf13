//! What the programs share that run an image: lanes in, the image's replies out.
//!
//! A runner is a process of its own. It maps the image (in SGX, or as a simulator), takes the
//! lanes' sockets over its stdin, confines itself, and then enters the image once for each call: one
//! thread of the image for each lane.

mod confine;
mod control;

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    process::ExitCode,
    sync::Barrier,
};

use toani_protocol::limits::MESSAGE_BYTES_MAX;

pub use self::control::{Control, Lanes};
use crate::{
    LANES,
    frame::{self, Kind},
};

/// Why a runner does not start, as a sentence for people.
pub type Refusal = anyhow::Error;

/// An enclave that is loaded.
pub trait Machine: Sync {
    /// Enters the image on one of its threads.
    fn enter(&self, thread: usize, exchange: &mut Exchange) -> Result<(), Dead>;

    /// TARGETINFO of who quotes here: reports for it are what [`Machine::quote`] takes.
    fn target_info(&self) -> Result<Vec<u8>, Refusal>;

    /// Evidence over one of the image's reports: canonical, with all collateral.
    fn quote(&self, report: &[u8]) -> Result<Vec<u8>, Refusal>;
}

/// The image has panicked, or its memory was not as it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dead;

/// The host's memory of one call, in whole words, as the image copies it.
#[derive(Debug)]
pub struct Exchange {
    input: Vec<u64>,
    input_bytes: usize,
    output: Vec<u64>,
    output_bytes: usize,
}

/// What the image sees of a call (image/src/runtime.rs, `Call`).
#[repr(C)]
#[derive(Debug)]
pub struct CallFrame {
    input: u64,
    input_bytes: u64,
    output: u64,
    output_capacity: u64,
    output_bytes: u64,
    status: u64,
}

impl CallFrame {
    /// Any four words. For tests that play a hostile host.
    pub fn of_words([input, input_bytes, output, output_capacity]: [u64; 4]) -> Self {
        Self { input, input_bytes, output, output_capacity, output_bytes: 0, status: 0 }
    }

    /// What the image has said: 0 is nothing at all.
    pub fn status(&self) -> u64 {
        self.status
    }
}

/// The image's word that the output holds a reply.
pub const STATUS_REPLY: u64 = 1;
/// Its word that the call's memory is not as it asks for, and that nothing was done.
pub const STATUS_REFUSED: u64 = 2;

impl Exchange {
    fn new() -> Self {
        let words = MESSAGE_BYTES_MAX.div_ceil(8);
        Self { input: Vec::new(), input_bytes: 0, output: vec![0; words], output_bytes: 0 }
    }

    /// Takes a call to make. For benchmarks and tests that enter without a lane.
    pub fn with_input(call: &[u8]) -> Self {
        let mut exchange = Self::new();
        exchange.take(call);
        exchange
    }

    /// Takes another call to make.
    pub fn take(&mut self, call: &[u8]) {
        self.input_of(call.len()).copy_from_slice(call);
    }

    /// Room for a call of so many bytes.
    fn input_of(&mut self, bytes: usize) -> &mut [u8] {
        self.input.clear();
        self.input.resize(bytes.div_ceil(8), 0);
        self.input_bytes = bytes;
        bytemuck::cast_slice_mut(&mut self.input).get_mut(..bytes).unwrap_or_default()
    }

    /// What to hand to the image: addresses in this exchange, which stays where it is meanwhile.
    pub fn frame(&mut self) -> CallFrame {
        CallFrame {
            input: self.input.as_ptr().expose_provenance() as u64,
            input_bytes: self.input_bytes as u64,
            output: self.output.as_mut_ptr().expose_provenance() as u64,
            output_capacity: (self.output.len() * 8) as u64,
            output_bytes: 0,
            status: 0,
        }
    }

    /// Reads what the image has written into the frame.
    pub fn settle(&mut self, frame: &CallFrame) -> Result<(), Dead> {
        let bytes = usize::try_from(frame.output_bytes).map_err(|_| Dead)?;
        if frame.status != STATUS_REPLY || bytes > MESSAGE_BYTES_MAX {
            return Err(Dead);
        }
        self.output_bytes = bytes;
        Ok(())
    }

    /// The image's reply.
    pub fn reply(&self) -> &[u8] {
        bytemuck::cast_slice(&self.output).get(..self.output_bytes).unwrap_or_default()
    }
}

/// Who keeps the enclave's memory from the rest of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// SGX does; the runner itself holds no secret, and asks AESM for quotes.
    OfTheProcessor,
    /// Nobody but this process, which for that reason gives up everything that it can.
    OfTheProcess,
}

/// The whole life of a runner: `load` runs once the process is hardened and may still open files.
pub fn main<M: Machine>(
    protection: Protection,
    load: impl FnOnce() -> Result<M, Refusal>,
) -> ExitCode {
    confine::no_dumps_of_panics();
    let control = match Control::open() {
        Ok(control) => control,
        Err(error) => {
            eprintln!("toani: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    // Lanes first, because a socket that is closed with bytes unread loses its last word.
    let prepared = control.receive_lanes().and_then(|lanes| {
        confine::harden()?;
        let machine = load()?;
        if protection == Protection::OfTheProcess {
            confine::leave_network();
            // Entering a namespace may have undone some of it.
            confine::harden()?;
        }
        Ok((machine, lanes))
    });
    match prepared {
        Ok((machine, lanes)) => serve_all(&machine, protection, lanes, control),
        Err(error) => {
            eprintln!("toani: {error:#}");
            control.refuse(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Serves all lanes; returns when one of them closes, because then the host is gone.
fn serve_all(
    machine: &impl Machine,
    protection: Protection,
    lanes: Lanes,
    control: Control,
) -> ExitCode {
    let (closed, wait_for_close) = std::sync::mpsc::channel();
    let gate = Barrier::new(LANES + 1);
    std::thread::scope(|scope| {
        for (thread, mut lane) in lanes.into_iter().enumerate() {
            let closed = closed.clone();
            let gate = &gate;
            scope.spawn(move || {
                gate.wait();
                let end = serve(machine, thread, &mut lane);
                let _ = closed.send(end);
            });
        }
        // All threads exist: none can be made from here on, and nothing can be opened.
        let sealed = match protection {
            Protection::OfTheProcess => confine::seal(),
            Protection::OfTheProcessor => Ok(()),
        };
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

fn serve(machine: &impl Machine, thread: usize, lane: &mut UnixStream) -> io::Result<()> {
    let mut exchange = Exchange::new();
    loop {
        let mut prefix = [0; frame::PREFIX_BYTES];
        lane.read_exact(&mut prefix)?;
        let (kind, length) = frame::read_prefix(prefix).ok_or(io::ErrorKind::InvalidData)?;
        lane.read_exact(exchange.input_of(length))?;
        match kind {
            Kind::Call => {
                let entered = machine.enter(thread, &mut exchange);
                entered.map_err(|Dead| io::Error::other("the enclave is dead"))?;
                answer(lane, Kind::Call, exchange.reply())?;
            }
            Kind::Target => match machine.target_info() {
                Ok(target) => answer(lane, Kind::Target, &target)?,
                Err(refusal) => answer(lane, Kind::Refused, format!("{refusal:#}").as_bytes())?,
            },
            Kind::Quote => {
                let report: &[u8] = bytemuck::cast_slice(&exchange.input);
                let report = report.get(..exchange.input_bytes).unwrap_or_default();
                match machine.quote(report) {
                    Ok(evidence) => answer(lane, Kind::Quote, &evidence)?,
                    Err(refusal) => {
                        answer(lane, Kind::Refused, format!("{refusal:#}").as_bytes())?;
                    }
                }
            }
            Kind::Refused => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn answer(lane: &mut UnixStream, kind: Kind, body: &[u8]) -> io::Result<()> {
    let prefix = frame::prefix(kind, body.len()).ok_or(io::ErrorKind::InvalidData)?;
    lane.write_all(&prefix)?;
    lane.write_all(body)
}
