//! The border as a hostile host meets it: words in, addresses of its choice, memory that changes.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use common::image;
use toani_enclave_host::runner::{CallFrame, STATUS_REFUSED, STATUS_REPLY};
use toani_protocol::{
    Reason,
    limits::MESSAGE_BYTES_MAX,
    wire::{self, Call, Reply, WIRE_VERSION},
};
use toani_simulator::machine::{self, Mode, Simulator};

/// Tells a child of this test which crime to commit.
const CRIME: &str = "TOANI_TEST_CRIME";

fn loaded(machine: &std::path::Path) -> Simulator {
    let (image, signature) = machine::read(&image()).unwrap();
    Simulator::load(&image, &signature, machine, Mode::Fast).unwrap()
}

fn status_call() -> Vec<u8> {
    let command = wire::Command::Status;
    let now = toani_protocol::Time::from_ms(1);
    wire::encode(&Call { version: WIRE_VERSION, now, command }).unwrap()
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let mut words = vec![0; bytes.len().div_ceil(8)];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut whole = [0; 8];
        whole[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_le_bytes(whole);
    }
    words
}

fn address(words: &[u64]) -> u64 {
    words.as_ptr().expose_provenance() as u64
}

/// One process has one enclave, so its tests are one.
#[test]
fn what_the_host_chooses_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = loaded(folder.path());
    let call = status_call();
    let (input, length) = (words(&call), call.len() as u64);
    let output = vec![0_u64; MESSAGE_BYTES_MAX / 8];
    let room = MESSAGE_BYTES_MAX as u64;
    let enter = |four: [u64; 4]| {
        let mut frame = CallFrame::of_words(four);
        simulator.enter_with(0, &mut frame, 0);
        frame.status()
    };
    assert_eq!(enter([address(&input), length, address(&output), room]), STATUS_REPLY);
    let reply = bytes_of(&output);
    let reply: Reply = postcard::take_from_bytes(&reply).unwrap().0;
    assert_eq!(reply.answer, Err(Reason::NotReady));

    let base = simulator.base() as u64;
    let inside = [base, base + 4096, base + (1 << 29), base + (1 << 30) - 8];
    for hostile in inside {
        assert_eq!(enter([hostile, 8, address(&output), room]), STATUS_REFUSED, "reads inside");
        assert_eq!(enter([address(&input), length, hostile, room]), STATUS_REFUSED, "writes");
    }
    // Begins before the enclave and reaches into it; ends of the address space; nothing.
    for hostile in [base - 8, u64::MAX - 7, u64::MAX, 0, address(&input) + 1] {
        assert_eq!(enter([hostile, 64, address(&output), room]), STATUS_REFUSED);
        assert_eq!(enter([address(&input), length, hostile, room]), STATUS_REFUSED);
    }
    for huge in [room + 1, u64::MAX, 1 << 63] {
        assert_eq!(enter([address(&input), huge, address(&output), room]), STATUS_REFUSED);
    }
    for small in [0, 8, room - 1] {
        assert_eq!(enter([address(&input), length, address(&output), small]), STATUS_REFUSED);
    }
    // One place for both: what comes in is copied before anything goes out.
    let mut both = input.clone();
    both.resize(MESSAGE_BYTES_MAX / 8, 0);
    assert_eq!(enter([address(&both), length, address(&both), room]), STATUS_REPLY);
    let reply: Reply = postcard::take_from_bytes(&bytes_of(&both)).unwrap().0;
    assert_eq!(reply.answer, Err(Reason::NotReady));

    changes_while_it_is_read(&simulator, &output);
    // After all of it the enclave answers as at first.
    assert_eq!(enter([address(&input), length, address(&output), room]), STATUS_REPLY);
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().take(64).flat_map(|word| word.to_le_bytes()).collect()
}

/// Another thread flips the call's bytes the whole time: each reply is a reply.
fn changes_while_it_is_read(simulator: &Simulator, output: &[u64]) {
    let call = status_call();
    let shared: Vec<std::sync::atomic::AtomicU64> =
        words(&[call.clone(), vec![0; 256]].concat()).into_iter().map(Into::into).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for word in &shared {
                    word.fetch_xor(0x00ff_00ff_00ff_00ff, Ordering::Relaxed);
                }
            }
        });
        for _ in 0..2_000 {
            let at = shared.as_ptr().expose_provenance() as u64;
            let room = MESSAGE_BYTES_MAX as u64;
            let four = [at, 256, output.as_ptr().expose_provenance() as u64, room];
            let mut frame = CallFrame::of_words(four);
            simulator.enter_with(1, &mut frame, 0);
            assert_eq!(frame.status(), STATUS_REPLY);
            let reply: Reply = postcard::take_from_bytes(&bytes_of(output)).unwrap().0;
            let (malformed, cold) = (Err(Reason::RequestMalformed), Err(Reason::NotReady));
            assert!(reply.answer == malformed || reply.answer == cold, "{reply:?}");
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Not a test by itself: the child that is dead in the end.
#[test]
fn criminal() {
    let Some(crime) = std::env::var_os(CRIME) else { return };
    let folder = tempfile::tempdir().unwrap();
    let simulator = loaded(folder.path());
    let call = status_call();
    let (input, output) = (words(&call), vec![0_u64; MESSAGE_BYTES_MAX / 8]);
    let room = MESSAGE_BYTES_MAX as u64;
    let four = [address(&input), call.len() as u64, address(&output), room];
    let mut frame = CallFrame::of_words(four);
    let thunk = match crime.to_str() {
        // Into the middle of the image's own code.
        Some("thunk") => simulator.base() + 0x1000,
        Some("first_byte") => simulator.base(),
        Some("last_byte") => simulator.base() + (1 << 30) - 1,
        _ => 0,
    };
    simulator.enter_with(0, &mut frame, thunk);
    println!("it went on");
}

#[test]
fn a_thunk_inside_the_enclave_is_its_end() {
    let run = |crime: &str| {
        Command::new(std::env::current_exe().unwrap())
            .args(["criminal", "--exact", "--nocapture"])
            .env(CRIME, crime)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .unwrap()
    };
    let honest = run("none");
    assert!(honest.status.success());
    assert!(String::from_utf8_lossy(&honest.stdout).contains("it went on"));
    for crime in ["thunk", "first_byte", "last_byte"] {
        let dead = run(crime);
        assert!(dead.status.signal().is_some() || dead.status.code() == Some(128 + 4), "{crime}");
        let said = String::from_utf8_lossy(&dead.stdout).into_owned();
        assert!(!said.contains("it went on"), "{crime}");
        let why = String::from_utf8_lossy(&dead.stderr).into_owned();
        assert!(why.contains("the enclave is dead"), "{crime}: {why}");
    }
}
