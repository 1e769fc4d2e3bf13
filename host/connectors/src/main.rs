//! `toani-connector`: a word that it waits, one job in, one reply out.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    process::ExitCode,
};

use rustix::{
    net::{Shutdown, shutdown},
    process::{DumpableBehavior, set_dumpable_behavior},
};
use toani_connectors::{confinement, direct_api, frame, inherited, rehearsal};
use toani_protocol::job::{CONNECTOR_UNCONFINED, CONNECTOR_WAITS};

/// The argument with which a driver asks what the container is.
const REPORT: &str = "confinement";

/// Every block of memory is wiped when it is freed, also those of the libraries that hold the
/// credential and the raw response on their way.
#[global_allocator]
static ALLOCATOR: zeroize::WipingAllocator<std::alloc::System> =
    zeroize::WipingAllocator(std::alloc::System);

fn main() -> ExitCode {
    // A panic's message could hold what it tripped over.
    std::panic::set_hook(Box::new(|_| {}));
    if set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        return ExitCode::FAILURE;
    }
    if std::env::args_os().nth(1).is_some_and(|argument| argument == REPORT) {
        let report = confinement::report();
        return exit(unbuffered(io::stdout()).and_then(|mut out| out.write_all(report.as_bytes())));
    }
    let Some(door) = inherited::take_door() else {
        return ExitCode::FAILURE;
    };
    rehearsal::rehearse();
    let confined = confinement::filter_is_in_force();
    let word = if confined { CONNECTOR_WAITS } else { CONNECTOR_UNCONFINED };
    let said = unbuffered(io::stdout()).and_then(|mut output| output.write_all(&[word]));
    if !confined || said.is_err() {
        return ExitCode::FAILURE;
    }
    let Ok(job) = unbuffered(io::stdin()).and_then(frame::read_job) else {
        return ExitCode::FAILURE;
    };
    let mut reply = direct_api::execute(&job, door);
    drop(job);
    let written = unbuffered(io::stdout()).and_then(|output| {
        frame::write_reply(&output, &reply)?;
        // It ends here, and not when this process has ended, which takes longer.
        Ok(shutdown(&output, Shutdown::Write)?)
    });
    if let toani_protocol::job::JobEnd::Response { body, .. } = &mut reply {
        zeroize::Zeroize::zeroize(body);
    }
    exit(written)
}

fn exit(done: io::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The standard streams of `std` keep copies in buffers that nothing wipes.
fn unbuffered(stream: impl AsFd) -> io::Result<File> {
    stream.as_fd().try_clone_to_owned().map(File::from)
}
