//! A canary: the credential's bytes are in nothing that leaves the enclave but the
//! records of the channel.

use data_encoding::{BASE32, BASE64, BASE64URL, HEXLOWER, HEXUPPER};
use serde_json::json;
use toani_protocol::{
    job::{JobEnd, JobOutcome},
    wire::{Answer, Command},
};

use crate::world::*;

/// The secret in the encodings in which it could stand somewhere: base64 depends on where in a
/// group of three bytes it begins.
fn traces() -> Vec<Vec<u8>> {
    let secret = SECRET.as_bytes();
    let mut traces = vec![
        secret.to_vec(),
        secret.iter().rev().copied().collect(),
        HEXLOWER.encode(secret).into_bytes(),
        HEXUPPER.encode(secret).into_bytes(),
    ];
    for skip in 0..3 {
        let whole = &secret[skip..skip + (secret.len() - skip) / 3 * 3];
        traces.push(BASE64.encode(whole).into_bytes());
        traces.push(BASE64URL.encode(whole).into_bytes());
    }
    for skip in 0..5 {
        let whole = &secret[skip..skip + (secret.len() - skip) / 5 * 5];
        traces.push(BASE32.encode(whole).into_bytes());
    }
    traces
}

fn holds_a_trace(bytes: &[u8]) -> bool {
    traces().iter().any(|trace| bytes.windows(trace.len()).any(|part| part == trace))
}

#[test]
fn the_search_finds_what_it_should() {
    let secret = SECRET.as_bytes();
    for pad in ["", "a", "ab", "abc", "abcd"] {
        let padded = [pad.as_bytes(), secret].concat();
        assert!(holds_a_trace(&padded));
        assert!(holds_a_trace(BASE64.encode(&padded).as_bytes()));
        assert!(holds_a_trace(BASE64URL.encode(&padded).as_bytes()));
        assert!(holds_a_trace(BASE32.encode(&padded).as_bytes()));
        assert!(holds_a_trace(HEXLOWER.encode(&padded).as_bytes()));
    }
    assert!(!holds_a_trace(b"another value of the same length, somewhere"));
}

#[test]
fn the_secret_leaves_on_the_channel_alone() {
    let mut world = World::new();
    let ends = [
        answered(200, json!({"balance": 1})),
        answered(500, json!({"error": "no"})),
        JobOutcome { secret_seen: true, ..answered(200, json!({"balance": 1})) },
        ended(JobEnd::ConnectorFailed, true),
        ended(JobEnd::TlsRefused, false),
    ];
    for (i, end) in ends.iter().enumerate() {
        let redeemed = world.started(&format!("k{i}"));
        let job = world.release(&redeemed.execution).unwrap();
        assert_eq!(job.job.credential, SECRET.as_bytes(), "it does leave, on the channel");
        let outcome = outcome_of(&job, end);
        world.finish(&redeemed.execution, Some(outcome)).unwrap();
    }
    let (request, token) = world.approved(3, "buy").unwrap();
    let redeemed = world.redeem(Some(&token), &request).unwrap();
    world.run(&redeemed, &answered(201, json!({"id": "o-1"})));
    let open = world.started("left-open").execution;
    world.release(&open).unwrap();
    world.ok(world.credential(2, SECRET));
    world.reboot();
    let Answer::Facts(_) = world.ok(Command::Status) else { panic!() };

    assert!(world.transcript.len() > 50_000, "every reply is in it");
    assert!(!holds_a_trace(&world.transcript), "replies: effects, jobs, answers");
    assert!(world.log.iter().all(|leaf| !holds_a_trace(leaf)));
    assert!(world.blobs.values().all(|blob| !holds_a_trace(blob)));
    assert!(!holds_a_trace(&world.sealed_root));
    // What is for people to read says nothing either.
    assert!(!holds_a_trace(format!("{:?}", world.enclave).as_bytes()));
}
