//! A signature of one kind of thing used as one of another: every label against every place.

use serde_json::json;
use toani_protocol::{
    Reason, canonical,
    policy::{Policy, PolicyKeyChange},
    request::AgentProof,
    sign::{self, Label, PublicKey, Signed},
    wire::{Command, Read},
};

use crate::{hand_over, world::*};

pub(crate) const ALL: [Label; 13] = [
    Label::Admission,
    Label::HandOver,
    Label::Policy,
    Label::PolicyKey,
    Label::Credential,
    Label::Request,
    Label::Read,
    Label::Statement,
    Label::Approve,
    Label::Deny,
    Label::Receipt,
    Label::Record,
    Label::BundleIndex,
];

/// Tries every label in one place: only its own is taken.
fn one_fits(own: Label, reason: Reason, mut attempt: impl FnMut(Label) -> Result<(), Reason>) {
    for label in ALL {
        let expected = if label == own { Ok(()) } else { Err(reason) };
        assert_eq!(attempt(label), expected, "{label:?} as {own:?}");
    }
}

#[test]
fn no_two_labels_are_alike() {
    for (i, a) in ALL.iter().enumerate() {
        for b in &ALL[..i] {
            // Behind a label comes a zero byte, so that none is the beginning of another's message.
            assert_ne!(a.message(b"x"), b.message(b"x"));
            assert!(!a.as_str().contains('\0'));
        }
    }
}

#[test]
fn documents() {
    let refused = Reason::DocumentSignature;
    one_fits(Label::Policy, refused, |label| {
        let mut world = World::born();
        let policy: Policy = serde_json::from_value(policy_document(1)).unwrap();
        let signed = Signed::by(&policy_key(), label, policy).unwrap();
        let policy = canonical::encode(&signed).unwrap();
        world.call(Command::ActivatePolicy { policy }).map(|_| ())
    });
    one_fits(Label::PolicyKey, refused, |label| {
        let mut world = World::new();
        let key = PublicKey::of(&signing_key(22));
        let change = PolicyKeyChange { tenant: tenant(), sequence: 1, key };
        let signed = Signed::by(&policy_key(), label, change).unwrap();
        let change = canonical::encode(&signed).unwrap();
        world.call(Command::ChangePolicyKey { change }).map(|_| ())
    });
    one_fits(Label::Admission, refused, |label| {
        let mut world = World::born();
        let list = world.admission_list(1);
        let signed = Signed::by(&operator(), label, list).unwrap();
        world.call(Command::Admit { admission: canonical::encode(&signed).unwrap() }).map(|_| ())
    });
    one_fits(Label::HandOver, refused, hand_over::given_under);
    one_fits(Label::Credential, refused, |label| {
        use toani_protocol::credential::SealedCredential;
        let mut world = World::new();
        let mut sealed = world.seal_credential(world.credential_header(2), SECRET, &owner());
        let bytes = SealedCredential::signed_bytes(
            &sealed.header,
            &sealed.encapsulated,
            &sealed.ciphertext,
        );
        sealed.signature = sign::sign(&owner(), label, &bytes.unwrap());
        let credential = canonical::encode(&sealed).unwrap();
        world.call(Command::PutCredential { credential }).map(|_| ())
    });
}

#[test]
fn requests_and_reads() {
    one_fits(Label::Request, Reason::AgentProof, |label| {
        let mut world = World::new();
        let request = world.request("read_balance", json!({"account": "x"}), "k1");
        let request = canonical::encode(&request).unwrap();
        let proof = AgentProof::Signature(sign::sign(&agent(), label, &request));
        world.call(Command::Execute { token: None, request, proof }).map(|_| ())
    });
    one_fits(Label::Read, Reason::AgentProof, |label| {
        let mut world = World::new();
        let request = world.request("move", json!({"amount": 1}), "k1");
        let action = world.decide(&request).unwrap().action;
        let Read::Signed { request, .. } = world.read(action.as_str()) else { panic!() };
        let proof = AgentProof::Signature(sign::sign(&agent(), label, &request));
        world.call(Command::Poll { action, read: Read::Signed { request, proof } }).map(|_| ())
    });
}

/// What the enclave signs is taken for nothing else either: a statement is no receipt.
#[test]
fn the_enclaves_own_signatures() {
    let mut world = World::new();
    let chain = world.facts().chain_key;
    let redeemed = world.started("k1");
    let receipt = world.run(&redeemed, &answered(200, json!({"balance": 1}))).receipt;
    one_fits(Label::Receipt, Reason::DocumentSignature, |label| {
        receipt.verify(label, &[chain], 1).map_err(|_| Reason::DocumentSignature)
    });
    let record = world.last_record();
    let bytes = record.unsigned_bytes().unwrap();
    one_fits(Label::Record, Reason::DocumentSignature, |label| {
        let holds = chain.verify(label, &bytes, &record.chain_signature);
        holds.map_err(|_| Reason::DocumentSignature)
    });
}
