//! The host sends anything at any time: every command in every phase ends in an answer.

use serde_json::json;
use toani_protocol::{
    Reason, Time,
    wire::{self, Call, Command, WIRE_VERSION},
};

use crate::world::*;

/// A number for each command. A new command does not compile without one, and
/// [`each_is_there`] fails until [`commands`] has it.
fn number(command: &Command) -> usize {
    match command {
        Command::Birth { .. } => 0,
        Command::Boot { .. } => 1,
        Command::Replay { .. } => 2,
        Command::ReplayEnd => 3,
        Command::Blobs { .. } => 4,
        Command::Start { .. } => 5,
        Command::Admit { .. } => 6,
        Command::ConnectSandbox { .. } => 7,
        Command::DisconnectSandbox => 8,
        Command::ActivatePolicy { .. } => 9,
        Command::RevokePolicy { .. } => 10,
        Command::ChangePolicyKey { .. } => 11,
        Command::PutCredential { .. } => 12,
        Command::RevokeCredential { .. } => 13,
        Command::RevokeAgent { .. } => 14,
        Command::RevokeToken { .. } => 15,
        Command::Decide { .. } => 16,
        Command::Poll { .. } => 17,
        Command::Statement { .. } => 18,
        Command::Approve { .. } => 19,
        Command::Execute { .. } => 20,
        Command::Abort { .. } => 21,
        Command::Release { .. } => 22,
        Command::Finish { .. } => 23,
        Command::Open { .. } => 24,
        Command::Durable { .. } => 25,
        Command::Tick => 26,
        Command::Cover { .. } => 27,
        Command::SignIndex { .. } => 28,
        Command::Status => 29,
        Command::UserHash { .. } => 30,
        Command::Forget { .. } => 31,
        Command::Disclose { .. } => 32,
        Command::Prove { .. } => 33,
        Command::SandboxBytes { .. } => 34,
        Command::SandboxEvidence { .. } => 35,
        Command::AskRoot { .. } => 36,
        Command::GiveRoot { .. } => 37,
        Command::TakeRoot { .. } => 38,
    }
}

/// One of each, well-formed where that is possible.
fn commands(world: &World) -> Vec<Command> {
    let (request, proof) = prove(&world.request("read_balance", json!({"account": "x"}), "p"));
    let header = world.credential_header(9);
    let (action, execution) = ("act_x".parse().unwrap(), "exe_x".parse().unwrap());
    let read = world.read("act_x");
    let Command::Admit { admission } = world.admission(9, vec![]) else { panic!() };
    let Command::PutCredential { credential } = world.credential(9, "x") else { panic!() };
    let policy = sign_policy(policy_document(9), &policy_key());
    let (manifest, sealed_root) = (world.manifest.clone(), world.sealed_root.clone());
    let agent = "nobody".parse().unwrap();
    vec![
        Command::Birth { manifest: manifest.clone(), target: quoting_target() },
        Command::Boot { manifest: manifest.clone(), sealed_root, target: quoting_target() },
        Command::Replay { leaves: vec![b"x".to_vec()] },
        Command::ReplayEnd,
        Command::Blobs { blobs: vec![b"x".to_vec()] },
        Command::Start { salts: vec![(tenant(), vec![1])] },
        Command::Admit { admission },
        Command::ConnectSandbox { target: quoting_target() },
        Command::DisconnectSandbox,
        Command::ActivatePolicy { policy },
        Command::RevokePolicy { tenant: tenant(), policy: "none".parse().unwrap() },
        Command::ChangePolicyKey { change: vec![] },
        Command::PutCredential { credential },
        Command::RevokeCredential {
            tenant: tenant(),
            namespace: header.namespace,
            owner: header.owner,
            id: "none".parse().unwrap(),
        },
        Command::RevokeAgent { tenant: tenant(), agent },
        Command::RevokeToken { tenant: tenant(), action: "act_x".parse().unwrap() },
        Command::Decide { request: request.clone(), proof: proof.clone() },
        Command::Poll { action, read: read.clone() },
        Command::Statement { action: "act_x".parse().unwrap() },
        Command::Approve { evidence: vec![] },
        Command::Execute { token: None, request, proof },
        Command::Abort { execution, reason: Reason::Busy },
        Command::Release { execution: "exe_x".parse().unwrap() },
        Command::Finish { execution: "exe_x".parse().unwrap() },
        Command::Open { execution: "exe_x".parse().unwrap(), blob: vec![], read },
        Command::Durable { size: 0 },
        Command::Tick,
        Command::Cover { tenant: tenant() },
        Command::SignIndex { index: vec![] },
        Command::Status,
        Command::UserHash {
            tenant: tenant(),
            day: world.now.day(),
            user: "customer".parse().unwrap(),
            wrapped: vec![1],
        },
        Command::Forget { tenant: tenant(), through: world.now.day() },
        Command::Disclose { action: "act_x".parse().unwrap(), kept: vec![1], evidence: None },
        Command::Prove { evidence: world.facts().evidence.clone() },
        Command::SandboxBytes { bytes: vec![1] },
        Command::SandboxEvidence { evidence: vec![1] },
        Command::AskRoot { manifest: manifest.clone(), target: quoting_target() },
        Command::GiveRoot { statement: vec![], request: vec![] },
        Command::TakeRoot { manifest, sealed_key: vec![], package: vec![] },
    ]
}

#[test]
fn each_is_there() {
    let numbers: Vec<usize> = commands(&World::new()).iter().map(number).collect();
    assert_eq!(numbers, (0..39).collect::<Vec<_>>());
}

#[test]
fn a_cold_enclave_does_nothing_but_begin() {
    let world = World::new();
    for command in commands(&world) {
        let expected = match &command {
            Command::Birth { .. } | Command::Boot { .. } | Command::AskRoot { .. } => None,
            Command::TakeRoot { .. } => Some(Reason::DocumentMalformed),
            _ => Some(Reason::NotReady),
        };
        let mut cold_world = World::with_log(&world, vec![]);
        let answer = cold_world.call(command.clone());
        assert_eq!(answer.err(), expected, "{command:?}");
        assert!(cold_world.log.is_empty(), "nothing is signed");
    }
}

#[test]
fn an_enclave_that_has_not_proven_itself_serves_nobody() {
    let world = World::new();
    for command in commands(&world) {
        let mut liar = World::with_log(&world, vec![]);
        let (manifest, sealed_root) = (liar.manifest.clone(), liar.sealed_root.clone());
        liar.report(Command::Boot { manifest, sealed_root, target: quoting_target() }).unwrap();
        let proof = matches!(command, Command::Prove { .. });
        // The evidence of another boot is none of this one.
        let expected = if proof { Reason::EvidenceRefused } else { Reason::NotReady };
        assert_eq!(liar.call(command.clone()), Err(expected), "{command:?}");
    }
}

#[test]
fn a_replaying_enclave_serves_nobody() {
    let world = World::new();
    for ended in [false, true] {
        for command in commands(&world) {
            let mut liar = World::with_log(&world, vec![]);
            liar.boot().unwrap();
            if ended {
                liar.ok(Command::ReplayEnd);
            }
            let replays = (2..=5).contains(&number(&command));
            let gives = ended && number(&command) == 37;
            let answer = liar.call(command.clone());
            if !replays {
                let reason = if gives { Reason::DocumentMalformed } else { Reason::NotReady };
                assert_eq!(answer, Err(reason), "{command:?}");
            }
        }
    }
}

#[test]
fn a_ready_enclave_does_not_begin_again() {
    let mut world = World::new();
    for command in commands(&world) {
        let begins = matches!(number(&command), 0..=5 | 33 | 36..=38);
        let answer = world.call(command.clone());
        assert!(!begins || answer == Err(Reason::NotReady), "{command:?}");
    }
    // Whatever was answered, the log is one chain and boots.
    world.try_reboot().unwrap();
}

#[test]
fn a_start_that_fails_starts_nothing() {
    let world = World::new();
    let mut liar = World::with_log(&world, vec![]);
    liar.boot().unwrap();
    assert_eq!(liar.call(Command::Start { salts: vec![] }), Err(Reason::NotReady));
    assert!(liar.log.is_empty());
    assert!(liar.try_reboot().is_ok());
}

#[test]
fn another_version_or_garbage_is_malformed() {
    let mut world = World::new();
    let call = |version| wire::encode(&Call { version, now: Time::MAX, command: Command::Tick });
    for bytes in [
        vec![],
        vec![0xff; 100],
        call(WIRE_VERSION + 1).unwrap(),
        call(0).unwrap(),
        [call(WIRE_VERSION).unwrap(), vec![0]].concat(),
    ] {
        let reply = world.raw(&bytes);
        assert_eq!(reply.answer, Err(Reason::RequestMalformed));
        assert!(reply.effects.is_empty());
    }
}

#[test]
fn a_missing_blob_disables_what_needs_it_alone() {
    let world = World::new();
    let policy = sign_policy(policy_document(1), &policy_key());
    for (hash, blob) in &world.blobs {
        let mut liar = World::with_log(&world, world.log.clone());
        liar.blobs.remove(hash);
        liar.try_reboot().unwrap();
        let connected = liar.try_connect().is_ok();
        let refusal = {
            let request = liar.request("read_balance", json!({"account": "x"}), "k1");
            liar.execute(None, &request).err()
        };
        let expected = if *blob == policy {
            (true, Some(Reason::AgentUnknown))
        } else if *blob == world.facts().evidence {
            (true, None)
        } else if blob.starts_with(b"{") {
            (false, Some(Reason::SandboxUnavailable))
        } else {
            (true, Some(Reason::CredentialMissing))
        };
        assert_eq!((connected, refusal), expected);
        // And it can be mended.
        if *blob == policy {
            liar.ok(Command::ActivatePolicy { policy: policy.clone() });
            assert!(
                liar.redeem(None, &liar.request("read_balance", json!({"account": "x"}), "k2"))
                    .is_ok()
            );
        }
    }
}
