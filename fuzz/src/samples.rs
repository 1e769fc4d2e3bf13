//! Samples: what a whole instance sends, stores and signs.

use serde_json::json;
use toani_audit::tree::{Frontier, node_hash};
use toani_audit_log::bundle::{Draft, Entry};
use toani_protocol::{
    Hash,
    approval::{Evidence, Verdict},
    canonical,
    instance::SgxPolicy,
    record::Record,
    sign::{Bytes, PublicKey},
    trust::{IntakeKey, LogTrust, TrustFile, TrustFormat},
    wire::{Answer, Command},
};

use crate::world::*;

/// A world with some history, whose log ends in a checkpoint.
pub(crate) fn lived() -> World {
    let mut world = World::new();
    for key in ["k1", "k2"] {
        let redeemed = world.started(key);
        world.run(&redeemed, &answered(200, json!({"balance": 1})));
    }
    let (request, token) = world.approved(3, "k3").unwrap();
    let redeemed = world.redeem(Some(&token), &request).unwrap();
    world.run(&redeemed, &answered(201, json!({"id": "o-1"})));
    world
}

/// The evidence of two persons over a fresh statement, one with a passkey, one with a key.
pub(crate) fn evidence(world: &mut World, key: &str) -> Vec<Evidence> {
    let request = world.request("move", json!({"amount": 5}), key);
    let action = world.decide(&request).unwrap().action;
    let statement = world.statement(&action);
    vec![
        Gesture::new(40, true).evidence("anna", &statement, Verdict::Approve),
        key_evidence("clara", &clerk(), &statement, Verdict::Approve),
    ]
}

pub(crate) fn trust(world: &World) -> TrustFile {
    let facts = world.facts();
    TrustFile {
        format: TrustFormat::V1,
        instance: facts.instance,
        tenant: Some(tenant()),
        mrenclaves: vec![facts.mrenclave],
        log: LogTrust { origin: ORIGIN.into(), key: facts.chain_key },
        intake_key: IntakeKey(Bytes(facts.intake_key.to_vec())),
        sgx_roots: vec![authority().sgx_root()],
        sgx_policy: SgxPolicy::up_to_date(),
        snp_roots: vec![],
        witnesses: vec![LogTrust { origin: "witness".into(), key: PublicKey::of(&operator()) }],
        witness_quorum: 0,
    }
}

/// RFC 6962, section 2.1.1: the audit path of leaf `index` among `leaves`.
fn path(leaves: &[Hash], index: usize) -> Vec<Hash> {
    if leaves.len() < 2 {
        return vec![];
    }
    let split = leaves.len().next_power_of_two() / 2;
    let (left, right) = leaves.split_at(split);
    let (mut path, sibling) = if index < split {
        (path(left, index), root(right))
    } else {
        (path(right, index - split), root(left))
    };
    path.push(sibling);
    path
}

fn root(leaves: &[Hash]) -> Hash {
    let split = leaves.len().next_power_of_two() / 2;
    match leaves {
        [leaf] => *leaf,
        _ => node_hash(&root(&leaves[..split]), &root(&leaves[split..])),
    }
}

/// A whole proof bundle of the world's tenant.
pub(crate) fn bundle(world: &mut World) -> Vec<u8> {
    let note = world.durable();
    let covered = world.ok(Command::Cover { tenant: tenant() });
    let Answer::Coverage { last_sequence, .. } = covered else { panic!() };
    let hashes: Vec<Hash> = world.log.iter().map(|leaf| Record::hash_of(leaf)).collect();
    let mut frontier = Frontier::new();
    hashes.iter().for_each(|hash| frontier.push(*hash));
    assert_eq!(frontier.root(), root(&hashes));
    let mut draft = Draft::new(&world.manifest, &note).unwrap();
    for (i, leaf) in world.log.iter().enumerate() {
        let proof = path(&hashes, i);
        let index = u64::try_from(i).unwrap();
        draft.record(&Entry { index, leaf, proof: &proof }).unwrap();
    }
    for hash in draft.missing() {
        draft.document(&world.blobs[&hash]).unwrap();
    }
    let facts = world.facts();
    let (instance, boot) = (facts.instance, facts.boot.clone());
    let index = draft.index(instance, boot, tenant(), 0..=last_sequence, world.now).unwrap();
    let Answer::Index { index } = world.ok(Command::SignIndex { index }) else { panic!() };
    draft.finish(index).unwrap()
}

pub(crate) fn bytes<T: serde::Serialize>(document: &T) -> Vec<u8> {
    canonical::encode(document).unwrap()
}
