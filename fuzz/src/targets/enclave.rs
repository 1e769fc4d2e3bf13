//! What the host sends into the enclave: always an answer, never more than was allowed.

use serde_json::json;
use toani_protocol::{
    Reason,
    approval::{ApprovalProof, Assertion, Evidence, Verdict},
    limits::MESSAGE_BYTES_MAX,
    record::{Outcome, Record},
    sign::Bytes,
    wire::{self, Answer, Call, Command, Effect, WIRE_VERSION},
};

use super::{Target, samples, target, world::*};

/// A world is replaced after so many executions, so that its state stays small.
const WORLD_LIFE: u64 = 2_000;

/// A world that is made anew now and then.
struct Renewed<T> {
    made: T,
    make: fn() -> T,
    used: u64,
}

impl<T> Renewed<T> {
    fn new(make: fn() -> T) -> Self {
        Self { made: make(), make, used: 0 }
    }

    fn get(&mut self) -> &mut T {
        self.used += 1;
        if self.used.is_multiple_of(WORLD_LIFE) {
            self.made = (self.make)();
        }
        &mut self.made
    }
}

fn calls(world: &mut World) -> Vec<Vec<u8>> {
    let (request, proof) = prove(&world.request("read_balance", json!({"account": "x"}), "f"));
    let evidence = samples::evidence(world, "e");
    let execution = world.started("s").execution;
    let read = world.read("act_x");
    let commands = [
        Command::ActivatePolicy { policy: sign_policy(policy_document(2), &policy_key()) },
        Command::Decide { request: request.clone(), proof: proof.clone() },
        Command::Execute { token: Some("v4.local.AAAA".into()), request, proof },
        Command::Poll { action: "act_x".parse().unwrap(), read },
        Command::Approve { evidence: samples::bytes(&evidence[0]) },
        Command::Release { execution: execution.clone() },
        Command::Finish { execution },
        world.credential(2, SECRET),
        world.admission(2, vec![]),
        Command::ConnectSandbox { target: quoting_target() },
        Command::SandboxBytes { bytes: vec![23, 3, 3, 0, 1, 0] },
        Command::SandboxEvidence { evidence: world.facts().evidence.clone() },
        Command::RevokeAgent { tenant: tenant(), agent: "simple".parse().unwrap() },
        Command::Replay { leaves: world.log.clone() },
        Command::Birth { manifest: world.manifest.clone(), target: quoting_target() },
        Command::Prove { evidence: world.facts().evidence.clone() },
        Command::Durable { size: 5 },
        Command::Tick,
        Command::Cover { tenant: tenant() },
        Command::Status,
    ];
    commands
        .map(|command| {
            wire::encode(&Call { version: WIRE_VERSION, now: world.now, command }).unwrap()
        })
        .to_vec()
}

/// Whatever the host sends, the reply can be read and the log stays one chain.
pub(super) fn call() -> Target {
    let mut world = Renewed::new(World::new);
    let all = calls(&mut world.made);
    target("call", 4, all, move |bytes| {
        let world = world.get();
        let reply = world.raw(bytes);
        let refused = wire::decode::<Call>(bytes, MESSAGE_BYTES_MAX).is_err();
        assert!(!refused || (reply.answer.is_err() && reply.effects.is_empty()));
        for effect in &reply.effects {
            if let Effect::Append { leaf, .. } = effect {
                let record = Record::decode(leaf).expect("a record that the enclave signed");
                assert_eq!(record.index, u64::try_from(world.log.len()).unwrap());
                let last = world.log.last().map(|leaf| Record::hash_of(leaf));
                assert_eq!(Some(record.previous), last);
                world.log.push(leaf.clone());
            }
        }
    })
}

/// A world with a token that is out.
fn granted() -> (World, String) {
    let mut world = World::new();
    let (_, token) = world.approved(3, "k1").unwrap();
    (world, token)
}

/// What was changed in `from`, changed in `to`: where the bytes still agree they become those of
/// `to`, from both ends.
fn transplanted(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let same = bytes.iter().zip(from).take_while(|(a, b)| a == b).count().min(to.len());
    out[..same].copy_from_slice(&to[..same]);
    let tail = bytes.iter().rev().zip(from.iter().rev()).take_while(|(a, b)| a == b).count();
    let tail = tail.min(to.len()).min(out.len() - same);
    let start = out.len() - tail;
    out[start..].copy_from_slice(&to[to.len() - tail..]);
    out
}

/// Refusals have a budget of twenty a minute, and the token lives for a quarter of an hour.
const TRIES_PER_MINUTE: u64 = 15;
const MINUTES: u64 = 13;

/// No text but the token itself is redeemed. The mutations are of the first world's token; later
/// worlds, where its twin is out, take them over by their differences.
pub(super) fn token() -> Target {
    let (mut world, mut token) = granted();
    let all = vec![token.clone().into_bytes()];
    let first = token.clone();
    let mut used = 0u64;
    target("token", 8, all, move |bytes| {
        let bytes = transplanted(bytes, first.as_bytes(), token.as_bytes());
        let Ok(text) = String::from_utf8(bytes) else { return };
        if text == token {
            return;
        }
        used += 1;
        if used.is_multiple_of(TRIES_PER_MINUTE) {
            world.now = world.now.plus_ms(60_000);
            world.ok(Command::Tick);
        }
        if used.is_multiple_of(TRIES_PER_MINUTE * MINUTES) {
            (world, token) = granted();
        }
        let params = json!({"symbol": "ACME", "quantity": 3});
        let (request, proof) = prove(&world.request("buy_stock", params, "k1"));
        let execute = Command::Execute { token: Some(text), request, proof };
        assert_eq!(world.call(execute), Err(Reason::TokenInvalid));
    })
}

/// Puts bytes into the three parts of an assertion: their lengths stand in front.
fn assertion(bytes: &[u8]) -> Option<Assertion> {
    let (parts, rest) = bytes.split_first_chunk::<2>()?;
    let (first, rest) = rest.split_at_checked(usize::from(parts[0]))?;
    let (second, third) = rest.split_at_checked(usize::from(parts[1]))?;
    Some(Assertion {
        authenticator_data: Bytes(first.to_vec()),
        client_data_json: Bytes(second.to_vec()),
        signature: Bytes(third.to_vec()),
    })
}

/// No assertion but the authenticator's own counts.
pub(super) fn webauthn() -> Target {
    let mut world = World::new();
    let request = world.request("buy_stock", json!({"symbol": "ACME", "quantity": 3}), "k1");
    let action = world.decide(&request).unwrap().action;
    let statement = world.statement(&action);
    let own = Gesture::new(40, true).evidence("anna", &statement, Verdict::Approve);
    let ApprovalProof::Webauthn(good) = own.proof.clone() else { panic!() };
    let parts = [&good.authenticator_data.0, &good.client_data_json.0, &good.signature.0];
    let mut sample: Vec<u8> =
        parts[..2].iter().map(|part| u8::try_from(part.len()).unwrap()).collect();
    parts.iter().for_each(|part| sample.extend_from_slice(part));
    assert_eq!(assertion(&sample), Some(good.clone()));
    target("webauthn", 4, vec![sample], move |bytes| {
        let Some(changed) = assertion(bytes) else { return };
        let same = changed == good;
        let proof = ApprovalProof::Webauthn(changed);
        let evidence = samples::bytes(&Evidence { proof, ..own.clone() });
        let checked = world.check(Command::Approve { evidence });
        if !same {
            assert!(world.apply(checked).is_err());
        }
    })
}

/// Under the right key: any plaintext ends the execution, and success means a real response.
pub(super) fn sealed_outcome() -> Target {
    let all = vec![
        wire::encode(&answered(200, json!({"balance": 1}))).unwrap(),
        wire::encode(&answered(500, json!({"error": [1, 2]}))).unwrap(),
    ];
    let mut world = Renewed::new(World::new);
    let mut number = 0u64;
    target("sealed_outcome", 40, all, move |bytes| {
        let world = world.get();
        number += 1;
        world.now = world.now.plus_ms(2_000);
        let execution = world.started(&format!("k{number}")).execution;
        let job = world.release(&execution).unwrap();
        let name = wire::encode(&(&job.execution, job.jti)).unwrap();
        world.supervisor.send(&[&name, bytes].concat());
        world.carry().unwrap();
        let (finished, result) = world.finish(&execution, None).unwrap();
        let succeeded = finished.outcome == Outcome::Succeeded;
        assert_eq!(succeeded, result.result.is_some());
        if let Some(result) = result.result {
            let balance = result.0.get("balance").expect("what the policy requires");
            assert!(balance.is_i64() && result.0.as_object().is_some_and(|map| map.len() == 1));
        }
    })
}

/// A log with any byte changed is a prefix of the true one, or it does not boot.
pub(super) fn log() -> Target {
    let world = samples::lived();
    let all = vec![wire::encode(&world.log).unwrap()];
    target("log", 100, all, move |bytes| {
        let Ok(leaves) = wire::decode::<Vec<Vec<u8>>>(bytes, MESSAGE_BYTES_MAX) else { return };
        let prefix = world.log.starts_with(&leaves);
        let mut liar = World::with_log(&world, leaves);
        assert_eq!(liar.try_reboot().is_ok(), prefix);
        if let Ok(answer) = liar.call(Command::Status) {
            assert!(matches!(answer, Answer::Facts(_)));
        }
    })
}
