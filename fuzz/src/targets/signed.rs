//! Signed things: nothing verifies but what was signed, byte for byte.

use toani_audit::checkpoint::Checkpoint;
use toani_policy::VerifiedPolicy;
use toani_protocol::{
    credential::SealedCredential,
    instance::{Manifest, VerifiedAdmission},
    sign::PublicKey,
    wire::Command,
};

use super::{Target, samples, target, world::*};

/// A target in which `holds` is true of the samples and of nothing else.
pub(super) fn nothing_else(
    name: &'static str,
    cost: u64,
    all: Vec<Vec<u8>>,
    mut holds: impl FnMut(&[u8]) -> bool + 'static,
) -> Target {
    let own = all.clone();
    target(name, cost, all, move |bytes| {
        assert_eq!(holds(bytes), own.iter().any(|sample| sample == bytes));
    })
}

pub(super) fn policy() -> Target {
    let key = PublicKey::of(&policy_key());
    let all = (1..3).map(|version| sign_policy(policy_document(version), &policy_key())).collect();
    nothing_else("policy", 2, all, move |bytes| VerifiedPolicy::verify(bytes, &key).is_ok())
}

pub(super) fn admission_list() -> Target {
    let world = World::born();
    let list = |version| match world.admission(version, vec![DIGEST]) {
        Command::Admit { admission } => admission,
        _ => unreachable!("an admission"),
    };
    let all = vec![list(1), list(2)];
    let manifest = Manifest::decode(&world.manifest).unwrap();
    let instance = world.facts().instance;
    nothing_else("admission_list", 1, all, move |bytes| {
        VerifiedAdmission::verify(bytes, &manifest, instance).is_ok()
    })
}

pub(super) fn sealed_credential() -> Target {
    let world = World::born();
    let all = [1, 2].map(|version| match world.credential(version, SECRET) {
        Command::PutCredential { credential } => credential,
        _ => unreachable!("a credential"),
    });
    nothing_else("sealed_credential", 2, all.to_vec(), |bytes| {
        SealedCredential::decode(bytes).is_ok_and(|sealed| sealed.verify().is_ok())
    })
}

/// Lines of witnesses may be added; what the note says of the log may not change.
pub(super) fn checkpoint() -> Target {
    let mut world = samples::lived();
    let note = world.durable();
    let key = world.facts().chain_key;
    let own = Checkpoint::verify(&note, ORIGIN, &key).unwrap();
    target("checkpoint", 1, vec![note.into_bytes()], move |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Ok(checkpoint) = Checkpoint::verify(text, ORIGIN, &key) {
            assert_eq!(checkpoint, own);
        }
    })
}

pub(super) fn bundle() -> Target {
    let mut world = samples::lived();
    let all = vec![samples::bundle(&mut world)];
    let trust = samples::trust(&world);
    nothing_else("bundle", 10, all, move |bytes| toani_verify::verify(bytes, &trust).is_ok())
}
