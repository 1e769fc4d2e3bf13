//! The chain over a small log, and every way to break it.
#![allow(clippy::unwrap_used, reason = "a test says so by panicking")]

mod world;

use proptest::prelude::*;
use toani_audit::chain::{ChainError, Links, TenantTip};
use toani_protocol::{Hash, Time, record::Record, sign::PublicKey};
use world::{ChainVerifier, ORIGIN, World, key, tenant};

fn walk(leaves: &[Vec<u8>]) -> Result<Links, ChainError> {
    let mut chain = ChainVerifier::new(ORIGIN, PublicKey::of(&key(1)));
    leaves.iter().try_for_each(|leaf| chain.push(leaf).map(|_| ()))?;
    Ok(chain.links().clone())
}

#[test]
fn a_log_is_walked_and_its_links_known() {
    let world = World::new(b"evidence");
    let links = walk(&world.leaves).unwrap();
    assert_eq!(links.size(), 8);
    assert_eq!(links.head(), Record::hash_of(&world.leaves[7]));
    assert_eq!(links.tenant(&tenant(3)).sequence, 4);
    assert_eq!(links.tenant(&tenant(4)).previous, Record::hash_of(&world.leaves[6]));
    assert_eq!(links.tenant(&tenant(5)), TenantTip::START);
    assert_eq!(&links, world.chain.links());
}

#[test]
fn what_does_not_follow_is_refused_and_changes_nothing() {
    let world = World::new(b"evidence");
    for left_out in 0..world.leaves.len() - 1 {
        let mut leaves = world.leaves.clone();
        leaves.remove(left_out);
        assert_eq!(walk(&leaves), Err(ChainError::Index));
    }
    let mut chain = ChainVerifier::new(ORIGIN, PublicKey::of(&key(1)));
    chain.push(&world.leaves[0]).unwrap();
    let before = chain.links().clone();
    assert_eq!(chain.push(&world.leaves[0]), Err(ChainError::Index));
    assert_eq!(chain.push(b"{}"), Err(ChainError::Malformed));
    assert_eq!(chain.links(), &before);
    let mut other = ChainVerifier::new(ORIGIN, PublicKey::of(&key(2)));
    assert_eq!(other.push(&world.leaves[0]), Err(ChainError::Signature));
    let mut other = ChainVerifier::new("other", PublicKey::of(&key(1)));
    assert_eq!(other.push(&world.leaves[0]), Err(ChainError::Origin));
}

#[test]
fn each_link_is_held_against_the_record_before() {
    let world = World::new(b"evidence");
    let leaf = &world.leaves[4];
    let good = Record::decode(leaf).unwrap();
    let links = walk(&world.leaves[..4]).unwrap();
    let verdict = |change: &dyn Fn(&mut Record)| {
        let mut record = good.clone();
        change(&mut record);
        links.clone().advance(&record, Record::hash_of(leaf))
    };
    assert_eq!(verdict(&|_| {}), Ok(()));
    assert_eq!(verdict(&|r| r.index = 5), Err(ChainError::Index));
    assert_eq!(verdict(&|r| r.previous = Hash::ZERO), Err(ChainError::Previous));
    assert_eq!(verdict(&|r| r.time = Time::from_ms(1)), Err(ChainError::Time));
    let fields = Err(ChainError::TenantFields);
    assert_eq!(verdict(&|r| r.about.tenant = None), fields);
    assert_eq!(verdict(&|r| r.about.tenant_sequence = None), fields);
    let sequence = Err(ChainError::TenantSequence);
    assert_eq!(verdict(&|r| r.about.tenant_sequence = Some(0)), sequence);
    assert_eq!(verdict(&|r| r.about.tenant = Some(tenant(5))), sequence);
    assert_eq!(
        verdict(&|r| r.about.tenant_previous = Some(Hash::ZERO)),
        Err(ChainError::TenantPrevious)
    );
}

proptest! {
    #[test]
    fn a_changed_byte_breaks_the_walk(
        leaf in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(),
        bit in 0u32..8,
    ) {
        let mut leaves = World::new(b"evidence").leaves;
        let leaf = leaf.index(leaves.len());
        let at = at.index(leaves[leaf].len());
        leaves[leaf][at] ^= 1u8 << bit;
        prop_assert!(walk(&leaves).is_err());
    }
}
