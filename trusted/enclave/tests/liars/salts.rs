//! What is forgotten stays forgotten, whatever the host has kept.

use serde_json::json;
use toani_protocol::{
    Hash, Reason, TenantId,
    record::RecordKind,
    sign::PublicKey,
    wire::{Answer, Command},
};

use crate::world::*;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// One record that names the user of the tests: the user's hash, and the salt that the host has.
fn named(world: &mut World, key: &str) -> (Hash, Vec<u8>) {
    world.started(key);
    let user = world.last_record().about.user.unwrap();
    (user, world.salts.last().unwrap().1.clone())
}

fn look(world: &mut World, day: u64, user: &str, wrapped: &[u8]) -> Result<Hash, Reason> {
    look_of(world, tenant(), day, user, wrapped)
}

fn look_of(
    world: &mut World,
    tenant: TenantId,
    day: u64,
    user: &str,
    wrapped: &[u8],
) -> Result<Hash, Reason> {
    let (user, wrapped) = (user.parse().unwrap(), wrapped.to_vec());
    match world.call(Command::UserHash { tenant, day, user, wrapped })? {
        Answer::UserHash { hash } => Ok(hash),
        other => panic!("{other:?}"),
    }
}

fn forget(world: &mut World, through: u64) -> Result<Answer, Reason> {
    world.call(Command::Forget { tenant: tenant(), through })
}

#[test]
fn a_user_is_found_under_the_salt_of_the_day_and_no_other() {
    let mut world = World::new();
    let monday = world.now.day();
    let (first, salt) = named(&mut world, "k1");
    world.now = world.now.plus_ms(DAY_MS);
    let (second, next) = named(&mut world, "k2");
    assert_ne!(first, second, "days cannot be linked");
    assert_eq!(look(&mut world, monday, "customer", &salt), Ok(first));
    assert_eq!(look(&mut world, monday + 1, "customer", &next), Ok(second));
    assert_ne!(look(&mut world, monday, "else", &salt), Ok(first));
    // Also in a later boot.
    world.reboot();
    assert_eq!(look(&mut world, monday, "customer", &salt), Ok(first));
    let day_unknown = Err(Reason::DayUnknown);
    assert_eq!(look(&mut world, monday, "customer", &next), day_unknown);
    assert_eq!(look(&mut world, monday + 1, "customer", &salt), day_unknown);
    assert_eq!(look(&mut world, monday, "customer", &[]), day_unknown);
    for at in 0..salt.len() {
        let mut altered = salt.clone();
        altered[at] ^= 1;
        assert_eq!(look(&mut world, monday, "customer", &altered), day_unknown, "byte {at}");
    }
    // Another tenant's salt is none.
    let mut document = policy_document(1);
    let key = signing_key(77);
    let other = TenantId::of_first_key(&PublicKey::of(&key));
    document["tenant"] = json!(other);
    world.ok(Command::ActivatePolicy { policy: sign_policy(document, &key) });
    assert_eq!(look_of(&mut world, other, monday, "customer", &salt), day_unknown);
    let nobody = TenantId::of_first_key(&PublicKey::of(&signing_key(78)));
    let unknown = Err(Reason::TenantUnknown);
    assert_eq!(look_of(&mut world, nobody, monday, "customer", &salt), unknown);
}

#[test]
fn a_salt_that_comes_back_after_it_was_forgotten_is_refused() {
    let mut world = World::new();
    let monday = world.now.day();
    let (_, old) = named(&mut world, "k1");
    world.now = world.now.plus_ms(DAY_MS);
    let (today, salt) = named(&mut world, "k2");
    forget(&mut world, monday).unwrap();
    let record = world.last_record();
    assert_eq!((record.kind, record.about.day), (RecordKind::Forgotten, Some(monday)));
    let forgotten = Err(Reason::DayForgotten);
    for _ in 0..2 {
        assert_eq!(look(&mut world, monday, "customer", &old), forgotten);
        assert_eq!(look(&mut world, monday - 1, "customer", &old), forgotten, "and before");
        assert_eq!(look(&mut world, monday + 1, "customer", &salt), Ok(today));
        world.reboot();
    }
    // Nothing goes back, and nothing is forgotten that has not been.
    let size = world.log.len();
    forget(&mut world, monday - 1).unwrap();
    forget(&mut world, monday).unwrap();
    assert_eq!(forget(&mut world, monday + 2), Err(Reason::DayUnknown));
    assert_eq!(world.log.len(), size, "no record for what is so already");
    assert_eq!(look(&mut world, monday, "customer", &old), forgotten);
    assert_eq!(look(&mut world, monday + 1, "customer", &salt), Ok(today));
    let nobody = TenantId::of_first_key(&PublicKey::of(&signing_key(78)));
    let unknown = world.call(Command::Forget { tenant: nobody, through: monday });
    assert_eq!(unknown, Err(Reason::TenantUnknown));
}

#[test]
fn today_can_be_forgotten_in_the_middle() {
    let mut world = World::new();
    let (before, salt) = named(&mut world, "k1");
    let today = world.now.day();
    forget(&mut world, today).unwrap();
    let kept = world.salts.len();
    let (after, _) = named(&mut world, "k2");
    assert_ne!(before, after, "a new salt");
    assert_eq!(named(&mut world, "k3").0, after, "for what is left of this boot");
    assert_eq!(world.salts.len(), kept, "which nobody keeps");
    assert_eq!(look(&mut world, today, "customer", &salt), Err(Reason::DayForgotten));
    // The host gives the old one back as if it were today's.
    world.salts = vec![(tenant(), salt.clone())];
    world.reboot();
    let (again, _) = named(&mut world, "k4");
    assert!(again != before && again != after);
    assert_eq!(look(&mut world, today, "customer", &salt), Err(Reason::DayForgotten));
    // Tomorrow is another day.
    world.now = world.now.plus_ms(DAY_MS);
    let (tomorrow, salt) = named(&mut world, "k5");
    assert_eq!(look(&mut world, today + 1, "customer", &salt), Ok(tomorrow));
}
