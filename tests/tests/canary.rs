//! A canary credential: after a full run it is nowhere but where it must be.

#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use data_encoding::{BASE64, HEXLOWER};
use serde_json::json;
use toani_tests::{
    Brokerage, Plane,
    plane::{descendants, finished, programs},
};

const CANARY: &str = "canary-9f1b6a2e-the-token-that-must-not-be-seen";
const ORDER: &str = r#"{"symbol": "ACME", "quantity": 1}"#;

#[test]
fn no_byte_of_the_credential_stays_behind() {
    let home = tempfile::tempdir().unwrap();
    let programs = programs().unwrap();
    let mut upstream = Brokerage::start(&programs, CANARY, 0).unwrap();
    let mut plane = Plane::init(&programs, &home.path().join("home")).unwrap();
    plane.serve().unwrap();
    plane.furnish(&upstream, CANARY).unwrap();

    let mut answers = String::new();
    for i in 0..5 {
        let key = format!("k{i}");
        let more = ["--idempotency-key", key.as_str()];
        let said = plane.run("broker.order_direct", ORDER, &more).unwrap().ok().unwrap();
        answers.push_str(&said.to_string());
    }
    let agent = plane.begin(&["run", "broker.buy_stock", "--params", ORDER]).unwrap();
    let action = plane.wait_for_approval().unwrap();
    plane.approve(&action).unwrap().ok().unwrap();
    answers.push_str(&finished(agent).unwrap().ok().unwrap().to_string());
    upstream.wait_for_orders(6).unwrap();
    assert!(!holds(answers.as_bytes()), "in the agent's answers");

    let pid = plane.pid().unwrap();
    assert!(!memory_holds(pid), "in the gateway's memory");
    for (pid, name) in descendants(pid).unwrap() {
        // Undumpable to its own user, the enclave can be read by root alone, who is out of scope
        // here; between executions it holds no plaintext all the same.
        if fs::metadata(format!("/proc/{pid}/mem")).is_ok() && name == "toani-simulator" {
            assert!(!memory_holds(pid), "in the memory of {name}");
        }
    }
    assert_eq!(plane.stop().unwrap(), 0);
    nowhere_below(plane.home());
}

/// Plain, in base64 and in hexadecimal.
fn holds(bytes: &[u8]) -> bool {
    let forms = [
        CANARY.as_bytes().to_vec(),
        BASE64.encode(CANARY.as_bytes()).trim_end_matches('=').as_bytes()[..40].to_vec(),
        HEXLOWER.encode(CANARY.as_bytes()).into_bytes(),
    ];
    forms.iter().any(|form| bytes.windows(form.len()).any(|part| part == form))
}

fn nowhere_below(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            nowhere_below(&path);
        } else if path.is_file() {
            assert!(!holds(&fs::read(&path).unwrap()), "in {}", path.display());
        }
    }
}

/// Reads every readable mapping of a process. A process that cannot be read holds nothing that
/// this user could find.
fn memory_holds(pid: u32) -> bool {
    let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/maps")) else { return false };
    let Ok(mut memory) = fs::File::open(format!("/proc/{pid}/mem")) else { return false };
    let mut searched = 0_u64;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let Some((from, to)) = line.split(' ').next().and_then(|range| range.split_once('-'))
        else {
            continue;
        };
        let (from, to) =
            (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        if memory.seek(SeekFrom::Start(from)).is_ok() && memory.read_exact(&mut bytes).is_ok() {
            searched += to - from;
            if holds(&bytes) {
                return true;
            }
        }
    }
    assert!(searched > 0, "nothing of process {pid} could be read: {}", json!({ "pid": pid }));
    false
}
