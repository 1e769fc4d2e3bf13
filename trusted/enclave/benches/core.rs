//! The core alone: decide, render, issue and redeem, over the sum of the cryptographic primitives
//! that they need; and whether the cost stays flat as state grows. One JSON object.
//!
//! `cargo bench -p toani-enclave --bench core`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::{hint::black_box, time::Instant};

use aes_gcm::{
    Aes256Gcm, Key, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use hmac::{Hmac, Mac};
use pasetors::{
    Local,
    keys::SymmetricKey,
    token::UntrustedToken,
    version4::{LocalToken, V4},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use toani_protocol::{
    Hash,
    sign::{self, Label, PublicKey},
    wire::{ActionState, Answer, Call, Command, WIRE_VERSION},
};

#[path = "../tests/world/mod.rs"]
mod world;

use world::*;

const ROUNDS: usize = 400;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let began = Instant::now();
    let value = black_box(work());
    (began.elapsed().as_secs_f64() * 1e6, value)
}

/// Encodes the call outside of the measured time.
fn call(world: &mut World, command: Command) -> (f64, Answer) {
    let call = Call { version: WIRE_VERSION, now: world.now, command };
    let bytes = toani_protocol::wire::encode(&call).unwrap();
    let (us, reply) = timed(|| {
        let checked = world.enclave.check(&bytes, &mut rng());
        world.enclave.apply(checked, &mut rng())
    });
    let reply: toani_protocol::wire::Reply =
        toani_protocol::wire::decode(&reply, usize::MAX).unwrap();
    world.carry_out(reply.effects);
    (us, reply.answer.unwrap())
}

/// Asks, gets a token, redeems it: microseconds within the enclave.
fn once(world: &mut World, key: &str) -> f64 {
    let request = world.request("read_balance", json!({"account": "main"}), key);
    let (bytes, proof) = prove(&request);
    let (decide_us, answer) =
        call(world, Command::Decide { request: bytes.clone(), proof: proof.clone() });
    let Answer::Action(status) = answer else { panic!() };
    let ActionState::Token { token, .. } = status.state else { panic!() };
    let (execute_us, answer) =
        call(world, Command::Execute { token: Some(token), request: bytes, proof });
    let Answer::Redeemed(redeemed) = answer else { panic!() };
    // The rest of the path, so that nothing piles up.
    world.run(&redeemed, &answered(200, json!({"balance": 1})));
    // Quotas and idempotency keys pass with time.
    world.now = world.now.plus_ms(4_000);
    world.ok(Command::Tick);
    decide_us + execute_us
}

/// The primitives of [`once`], on inputs of the same sizes.
fn primitives() -> f64 {
    let key = agent();
    let public = PublicKey::of(&key);
    let (request, record) = (vec![7_u8; 620], vec![7_u8; 1500]);
    let signature = sign::sign(&key, Label::Request, &request);
    let gcm = Aes256Gcm::new(<&Key<Aes256Gcm>>::from(&[7; 32]));
    let token_key = SymmetricKey::<V4>::from(&[7; 32]).unwrap();
    let claims = "x".repeat(1000);
    let hash = |bytes: usize| Hash::new(Sha256::digest(&record[..bytes]).into());
    let (us, ()) = timed(|| {
        for _ in 0..2 {
            public.verify(Label::Request, &request, &signature).unwrap();
            black_box(sign::sign(&key, Label::Record, &record));
            // Chain, plan, intent, jti, and the keyed hashes of user and idempotency key.
            for bytes in [1500, 700, 120, 60] {
                black_box(hash(bytes));
            }
            for _ in 0..2 {
                let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&[7; 32]).unwrap();
                mac.update(&record[..100]);
                black_box(mac.finalize());
            }
        }
        for bytes in [900, 200] {
            let payload = Payload { msg: &record[..bytes], aad: &record[..60] };
            black_box(gcm.encrypt(&Nonce::from([0; 12]), payload).unwrap());
        }
        black_box(hash(900));
        let footer = Some(&b"{\"kid\":\"k4.lid.0123456789012345678901234567890123456789012\"}"[..]);
        let token = LocalToken::encrypt(&token_key, claims.as_bytes(), footer, footer).unwrap();
        let untrusted = UntrustedToken::<Local, V4>::try_from(&token).unwrap();
        black_box(LocalToken::decrypt(&token_key, &untrusted, footer, footer).unwrap());
    });
    us
}

fn core() -> Value {
    let mut world = World::new();
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for i in 0..ROUNDS {
        ours.push(once(&mut world, &format!("core-{i}")));
        floor.push(primitives());
    }
    let (ours, floor) = (median(ours), median(floor));
    json!({"core_us": ours, "primitives_us": floor, "ratio": ours / floor, "goal": 2.0})
}

/// Cost of the path in a small and in a large world, interleaved.
fn flat(name: &str, mut small: World, mut large: World) -> Value {
    let (mut few, mut many) = (Vec::new(), Vec::new());
    for i in 0..ROUNDS / 2 {
        few.push(once(&mut small, &format!("flat-{i}")));
        many.push(once(&mut large, &format!("flat-{i}")));
    }
    let (few, many) = (median(few), median(many));
    json!({"grows": name, "small_us": few, "large_us": many, "ratio": many / few, "goal": 1.3})
}

fn with_policies(count: u64) -> World {
    let mut world = World::new();
    for i in 1..count {
        let mut document = policy_document(1);
        document["id"] = json!(format!("policy-{i}"));
        document["agents"] =
            json!({format!("agent-{i}"): {"key": {"ed25519": PublicKey::of(&agent())}}});
        world.ok(Command::ActivatePolicy { policy: sign_policy(document, &policy_key()) });
        world.durable();
    }
    world
}

fn with_agents(count: usize) -> World {
    let mut world = World::new();
    let mut document = policy_document(2);
    let agents = document["agents"].as_object_mut().unwrap();
    let entry = json!({"key": {"api_key": Hash::of(b"x")}});
    // A document has a maximum of bytes; several policies hold them all.
    for i in agents.len()..count.min(1_000) {
        agents.insert(format!("a{i}"), entry.clone());
    }
    world.ok(Command::ActivatePolicy { policy: sign_policy(document, &policy_key()) });
    for part in 1..count.div_ceil(1_000) {
        let mut document = policy_document(1);
        document["id"] = json!(format!("more-{part}"));
        let names = (0..1_000).map(|i| (format!("p{part}-{i}"), entry.clone()));
        document["agents"] = Value::Object(names.collect());
        world.ok(Command::ActivatePolicy { policy: sign_policy(document, &policy_key()) });
        world.durable();
    }
    world
}

fn with_records(count: usize) -> World {
    let mut world = World::new();
    let mut i = 0;
    while world.log.len() < count {
        once(&mut world, &format!("fill-{i}"));
        i += 1;
    }
    world
}

fn main() {
    let result = json!({
        "core": core(),
        "flat": [
            flat("policies: 1, 1000", with_policies(1), with_policies(1_000)),
            flat("agents: 2, 10000", with_agents(2), with_agents(10_000)),
            flat("records: 10, 100000", World::new(), with_records(100_000)),
        ],
    });
    println!("{result}");
}
