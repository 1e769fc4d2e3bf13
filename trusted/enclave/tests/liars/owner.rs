//! The vault's slots: who puts what into whose, and who sends it where.

use serde_json::json;
use toani_protocol::{
    Hash, Reason, TenantId, canonical,
    credential::{CredentialHeader, SealedCredential},
    policy::{Endpoint, Injection},
    sign::{self, Bytes, Label, PublicKey},
    wire::{Answer, Command},
};

use crate::world::*;

fn put(world: &mut World, sealed: &SealedCredential) -> Result<Answer, Reason> {
    world.call(Command::PutCredential { credential: canonical::encode(sealed).unwrap() })
}

/// Seals under a changed header, as the header's owner would.
fn changed(world: &mut World, change: impl Fn(&mut CredentialHeader)) -> Result<Answer, Reason> {
    let mut header = world.credential_header(2);
    change(&mut header);
    let sealed = world.seal_credential(header, "another-value", &owner());
    put(world, &sealed)
}

/// The credential that a read gets.
fn used(world: &mut World, key: &str) -> Result<Vec<u8>, Reason> {
    let request = world.request("read_balance", json!({"account": "x"}), key);
    let redeemed = world.redeem(None, &request)?;
    world.durable();
    let job = world.release(&redeemed.execution)?;
    Ok(job.job.credential.clone())
}

#[test]
fn another_owner_fills_a_slot_of_his_own() {
    let mut world = World::new();
    let thief = signing_key(66);
    // In the owner's name: the signature is not his.
    let header = world.credential_header(2);
    let forged = world.seal_credential(header.clone(), "evil", &thief);
    assert_eq!(put(&mut world, &forged), Err(Reason::DocumentSignature));
    // In his own: it is stored, and no policy means it.
    let own = CredentialHeader { owner: PublicKey::of(&thief), ..header };
    let sealed = world.seal_credential(own, "evil", &thief);
    assert_eq!(put(&mut world, &sealed), Ok(Answer::Done));
    assert_eq!(used(&mut world, "k1").unwrap(), SECRET.as_bytes());
}

#[test]
fn a_ciphertext_stays_under_its_header() {
    let mut world = World::new();
    let sealed = world.seal_credential(world.credential_header(2), "value", &owner());
    // The owner's signature is made anew: the ciphertext is bound by HPKE, not by it alone.
    let moved = |change: &dyn Fn(&mut SealedCredential)| {
        let mut moved = sealed.clone();
        change(&mut moved);
        let (header, encapsulated, ciphertext) =
            (&moved.header, &moved.encapsulated, &moved.ciphertext);
        let bytes = SealedCredential::signed_bytes(header, encapsulated, ciphertext).unwrap();
        moved.signature = sign::sign(&owner(), Label::Credential, &bytes);
        moved
    };
    let evil = || Endpoint { host: "evil.example".into(), port: 443, private: false };
    for changed in [
        moved(&|sealed| sealed.header.version = 3),
        moved(&|sealed| sealed.header.id = "other".parse().unwrap()),
        moved(&|sealed| sealed.header.namespace = "other".parse().unwrap()),
        moved(&|sealed| sealed.header.endpoints.push(evil())),
        moved(&|sealed| sealed.header.injection = Injection::Basic),
        moved(&|sealed| sealed.header.rotate = true),
        moved(&|sealed| sealed.header.instance = Hash::ZERO),
        moved(&|sealed| sealed.ciphertext.0[0] ^= 1),
        moved(&|sealed| *sealed.ciphertext.0.last_mut().unwrap() ^= 1),
        moved(&|sealed| sealed.ciphertext = Bytes(vec![])),
        moved(&|sealed| sealed.encapsulated.0[0] ^= 1),
        moved(&|sealed| sealed.encapsulated = Bytes(vec![0; 32])),
        moved(&|sealed| sealed.encapsulated = Bytes(vec![0; 31])),
    ] {
        assert_eq!(put(&mut world, &changed), Err(Reason::CredentialEnvelope));
    }
    // A thief who signs the owner's ciphertext as his own.
    let thief = signing_key(66);
    let mut stolen = sealed.clone();
    stolen.header.owner = PublicKey::of(&thief);
    let bytes =
        SealedCredential::signed_bytes(&stolen.header, &stolen.encapsulated, &stolen.ciphertext);
    stolen.signature = sign::sign(&thief, Label::Credential, &bytes.unwrap());
    assert_eq!(put(&mut world, &stolen), Err(Reason::CredentialEnvelope));
}

#[test]
fn what_the_owner_did_not_sign_is_refused() {
    let mut world = World::new();
    let sealed = world.seal_credential(world.credential_header(2), "value", &owner());
    let mut longer = sealed.clone();
    longer.header.version = 9;
    assert_eq!(put(&mut world, &longer), Err(Reason::DocumentSignature));
    let mut bytes = canonical::encode(&sealed).unwrap();
    bytes.push(b' ');
    let put = |bytes: &[u8]| Command::PutCredential { credential: bytes.to_vec() };
    assert_eq!(world.call(put(&bytes)), Err(Reason::DocumentMalformed));
    assert_eq!(world.call(put(b"")), Err(Reason::DocumentMalformed));
}

#[test]
fn an_older_version_does_not_come_back() {
    let mut world = World::new();
    let first = world.credential(1, SECRET);
    world.ok(world.credential(3, "third"));
    let second = world.credential(2, "second");
    for old in [first.clone(), second, world.credential(3, "third again")] {
        assert_eq!(world.call(old), Err(Reason::DocumentVersion));
    }
    world.reboot();
    assert_eq!(world.call(first.clone()), Err(Reason::DocumentVersion));
    assert_eq!(used(&mut world, "k1").unwrap(), b"third");
    // Not even when the host has lost the newer one.
    world.blobs.retain(|_, bytes| !is_credential(bytes));
    world.try_reboot().unwrap();
    world.connect();
    assert_eq!(world.call(first), Err(Reason::DocumentVersion));
    assert_eq!(used(&mut world, "k2"), Err(Reason::CredentialMissing));
}

/// A stored credential holds its canonical header in the clear.
fn is_credential(blob: &[u8]) -> bool {
    blob.windows(13).any(|part| part == b"\"encapsulated" || part == b"\"injection\":\"")
        && !blob.starts_with(b"{")
}

#[test]
fn a_policy_may_ask_for_a_newer_version_than_there_is() {
    let mut world = World::new();
    let mut document = policy_document(2);
    document["credentials"]["broker"]["least_version"] = json!(2);
    world.activate(document).unwrap();
    assert_eq!(used(&mut world, "k1"), Err(Reason::CredentialVersion));
    world.ok(world.credential(2, "newer"));
    assert_eq!(used(&mut world, "k2").unwrap(), b"newer");
}

#[test]
fn a_credential_of_another_place_is_not_this_one() {
    let mut world = World::new();
    let stranger = TenantId::of_first_key(&PublicKey::of(&agent()));
    let elsewhere = changed(&mut world, |header| header.instance = Hash::of(b"elsewhere"));
    assert_eq!(elsewhere, Err(Reason::CredentialEnvelope));
    let unknown = changed(&mut world, |header| header.tenant = stranger.clone());
    assert_eq!(unknown, Err(Reason::TenantUnknown));
    // Another namespace is another slot, although tenant, owner and id are the same.
    let other = changed(&mut world, |header| header.namespace = "other".parse().unwrap());
    assert_eq!(other, Ok(Answer::Done));
    assert_eq!(used(&mut world, "k1").unwrap(), SECRET.as_bytes());
}

#[test]
fn the_host_cannot_swap_what_is_stored() {
    let mut world = World::new();
    world.ok(world.credential(2, "second"));
    // Every credential's blob is given the bytes of the first.
    let (mut first, mut all) = (None, vec![]);
    for (hash, bytes) in &world.blobs {
        if is_credential(bytes) {
            first.get_or_insert_with(|| bytes.clone());
            all.push(*hash);
        }
    }
    assert_eq!(all.len(), 2);
    for hash in all {
        world.blobs.insert(hash, first.clone().unwrap());
    }
    world.reboot();
    let got = used(&mut world, "k1");
    assert!(matches!(got.as_deref(), Ok(b"second") | Err(Reason::CredentialMissing)), "{got:?}");
}

#[test]
fn no_byte_of_a_stored_credential_can_be_changed() {
    let world = World::new();
    let (hash, bytes) = world.blobs.iter().find(|(_, bytes)| is_credential(bytes)).unwrap();
    for at in (0..bytes.len()).step_by(23) {
        let mut liar = World::with_log(&world, world.log.clone());
        liar.blobs.get_mut(hash).unwrap()[at] ^= 1;
        liar.reboot();
        assert_eq!(used(&mut liar, "k1"), Err(Reason::CredentialMissing), "byte {at}");
    }
}

/// The policy's author names another owner's credential and a host of his own.
#[test]
fn a_credential_goes_where_its_owner_allows() {
    let mut world = World::new();
    let mut version = 1;
    let mut with = |world: &mut World, change: &dyn Fn(&mut serde_json::Value)| {
        version += 1;
        let mut document = policy_document(version);
        change(&mut document["services"]["broker"]);
        world.activate(document).unwrap();
        used(world, &format!("k{version}"))
    };
    let scope = Err(Reason::CredentialScope);
    let endpoint = |host: &str, port: u16, private: bool| json!({"host": host, "port": port, "private": private});
    for other in [
        endpoint("evil.example", 443, false),
        endpoint("api.broker.example", 444, false),
        endpoint("api.broker.example", 443, true),
        endpoint("x.api.broker.example", 443, false),
    ] {
        let got = with(&mut world, &|service| service["endpoint"] = other.clone());
        assert_eq!(got, scope, "{other}");
    }
    for other in [json!("basic"), json!({"header": "x-key"}), json!({"query": "key"})] {
        let got = with(&mut world, &|service| service["auth"]["injection"] = other.clone());
        assert_eq!(got, scope, "{other}");
    }
    // A key of the author's own, for a host that leads the owner's name elsewhere.
    let pin = json!({"spki_sha256": [toani_protocol::Hash::of(b"the author's key")]});
    assert_eq!(with(&mut world, &|service| service["tls"] = pin.clone()), scope);
    assert_eq!(with(&mut world, &|_| ()).unwrap(), SECRET.as_bytes());
}

#[test]
fn a_policy_uses_its_own_namespace() {
    let mut world = World::new();
    let mut document = policy_document(2);
    document["namespace"] = json!("other");
    world.activate(document).unwrap();
    assert_eq!(used(&mut world, "k1"), Err(Reason::CredentialMissing));
}

#[test]
fn a_size_that_does_not_fit_is_refused() {
    let mut world = World::new();
    let largest = "x".repeat(8 * 1024);
    let sealed = world.seal_credential(world.credential_header(2), &largest, &owner());
    assert_eq!(put(&mut world, &sealed), Ok(Answer::Done));
    assert_eq!(used(&mut world, "k1").unwrap().len(), largest.len());
    for bad in [String::new(), "x".repeat(8 * 1024 + 1)] {
        let sealed = world.seal_credential(world.credential_header(3), &bad, &owner());
        assert_eq!(put(&mut world, &sealed), Err(Reason::CredentialEnvelope));
    }
}
