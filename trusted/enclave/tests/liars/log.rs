//! The host lies about the log: it keeps it, and gives it back at boot.

use serde_json::json;
use toani_protocol::{
    Reason, Time,
    assurance::Freshness,
    canonical,
    record::{About, Outcome, Record, RecordKind},
    sign::{self, Label},
    wire::{Answer, Command},
};

use crate::world::*;

/// A world with some history.
fn lived() -> World {
    let mut world = World::new();
    for key in ["k1", "k2", "k3"] {
        let redeemed = world.started(key);
        world.run(&redeemed, &answered(200, json!({"balance": 1})));
    }
    world
}

/// Whether the enclave works after a boot from this log.
fn boots(world: &World, log: Vec<Vec<u8>>) -> Result<World, Reason> {
    let mut liar = World::with_log(world, log);
    liar.try_reboot()?;
    Ok(liar)
}

#[test]
fn a_log_that_was_tampered_with_does_not_boot() {
    let world = lived();
    let log = &world.log;
    let middle = log.len() / 2;
    let changed = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut log = log.clone();
        change(&mut log);
        boots(&world, log).map(|_| ())
    };
    let refused = Err(Reason::LogUnavailable);
    assert_eq!(changed(&|_| ()), Ok(()), "the honest log boots");
    assert_eq!(changed(&|log| drop(log.remove(0))), refused, "the birth dropped");
    assert_eq!(changed(&|log| drop(log.remove(middle))), refused, "one dropped");
    assert_eq!(changed(&|log| log.insert(middle, log[middle].clone())), refused, "one doubled");
    assert_eq!(changed(&|log| log.push(log[0].clone())), refused, "the first again at the end");
    assert_eq!(changed(&|log| log.swap(middle, middle + 1)), refused, "two reordered");
    assert_eq!(changed(&|log| log[middle].clear()), refused, "one emptied");
    assert_eq!(changed(&|log| log[middle].truncate(100)), refused, "one torn");
    assert_eq!(changed(&|log| log.push(vec![b'x'; 70_000])), refused, "one too large");
    // The same record in other bytes, which a reader of JSON takes for it.
    assert_eq!(changed(&|log| log[middle].push(b' ')), refused, "one with white space");
    assert_eq!(changed(&|log| log.last_mut().unwrap().push(b' ')), refused, "the last one as well");
}

#[test]
fn no_byte_of_a_record_can_be_edited() {
    let world = lived();
    let last = world.log.len() - 1;
    for (record, step) in [(last, 7), (last / 2, 29), (0, 29)] {
        for at in (0..world.log[record].len()).step_by(step) {
            let mut log = world.log.clone();
            log[record][at] ^= 1;
            let refused = boots(&world, log).map(|_| ());
            assert_eq!(refused, Err(Reason::LogUnavailable), "record {record}, byte {at}");
        }
    }
}

#[test]
fn a_record_of_the_hosts_own_hand_does_not_boot() {
    let world = lived();
    let own = |change: &dyn Fn(&mut Record)| {
        let mut log = world.log.clone();
        let mut record = Record::decode(log.last().unwrap()).unwrap();
        change(&mut record);
        // Signed well, but by a key of the host's.
        let bytes = record.unsigned_bytes().unwrap();
        record.chain_signature = sign::sign(&signing_key(99), Label::Record, &bytes);
        *log.last_mut().unwrap() = canonical::encode(&record).unwrap();
        boots(&world, log).map(|_| ())
    };
    assert_eq!(own(&|_| ()), Err(Reason::LogUnavailable));
    let succeeded = |record: &mut Record| record.about.outcome = Some(Outcome::Aborted);
    assert_eq!(own(&succeeded), Err(Reason::LogUnavailable));
}

#[test]
fn a_log_goes_on_behind_no_record_that_was_refused() {
    let mut world = lived();
    let log = world.log.clone();
    // It names the last record, fits behind it, and is refused: nobody has signed what it means.
    let last = Record::decode(log.last().unwrap()).unwrap();
    let own = Record {
        index: last.index + 1,
        previous: Record::hash_of(log.last().unwrap()),
        kind: RecordKind::Admission,
        about: About::default(),
        ..last
    };
    let own = canonical::encode(&own).unwrap();
    world.enclave = cold([7; 32], MEASUREMENT);
    world.boot().unwrap();
    world.ok(Command::Replay { leaves: log });
    let refused = Err(Reason::LogUnavailable);
    assert_eq!(world.call(Command::Replay { leaves: vec![own] }), refused);
    assert_eq!(world.call(Command::Replay { leaves: vec![] }), Err(Reason::NotReady));
    assert_eq!(world.call(Command::ReplayEnd), refused, "or the boot's record would vouch for it");
}

#[test]
fn a_log_of_another_instance_does_not_boot() {
    let (world, other) = (lived(), lived());
    assert_eq!(boots(&world, other.log.clone()).map(|_| ()), Err(Reason::LogUnavailable));
    // Its records do not fit in the middle either.
    let mut mixed = world.log.clone();
    let at = mixed.len() - 1;
    mixed[at] = other.log[at].clone();
    assert_eq!(boots(&world, mixed).map(|_| ()), Err(Reason::LogUnavailable));
}

#[test]
fn a_log_comes_in_order_and_once() {
    let mut world = lived();
    world.enclave = cold([7; 32], MEASUREMENT);
    let leaves = world.log.clone();
    world.boot().unwrap();
    let refused = Err(Reason::NotReady);
    assert_eq!(world.call(Command::Blobs { blobs: vec![] }), refused, "before the end");
    world.ok(Command::Replay { leaves: leaves.clone() });
    world.ok(Command::ReplayEnd);
    assert_eq!(world.call(Command::Replay { leaves }), refused, "after the end");
}

/// Not detectable without a witness: every prefix of the log is a log. `freshness: host` says so
/// in each record and receipt, and an action that asks for `witnessed` does not run.
#[test]
fn a_plain_rollback_is_not_seen_and_freshness_says_so() {
    let world = lived();
    let rolled_back: Vec<_> = world.log[..world.log.len() - 2].to_vec();
    let mut liar = boots(&world, rolled_back).unwrap();
    liar.connect();
    // The same key gets the last read a second time.
    let request = liar.request("read_balance", json!({"account": "x"}), "k3");
    assert!(matches!(liar.execute(None, &request), Ok(Answer::Redeemed(_))));
    let assurance = liar.last_record().about.assurance.unwrap();
    assert_eq!(assurance.freshness, Freshness::Host);

    let mut document = policy_document(2);
    document["services"]["broker"]["actions"]["read_balance"]["least"] =
        json!({"freshness": "witnessed"});
    liar.activate(document).unwrap();
    let request = liar.request("read_balance", json!({"account": "x"}), "k4");
    assert_eq!(liar.execute(None, &request), Err(Reason::AssuranceFreshness));
}

/// As above: an empty log is a prefix as well. The second birth stands at index 0 under the same
/// key, so that whoever has seen the first holds the proof of the fork.
#[test]
fn a_rollback_to_nothing_shows_two_births() {
    let world = lived();
    let liar = boots(&world, vec![]).unwrap();
    let (first, second) = (&world.records()[0], &liar.records()[0]);
    assert_eq!((first.kind, second.kind), (RecordKind::Birth, RecordKind::Birth));
    assert_ne!(Record::hash_of(&world.log[0]), Record::hash_of(&liar.log[0]));
    for birth in [first, second] {
        assert!(birth.verify(&world.facts().chain_key).is_ok());
    }
}

#[test]
fn two_copies_make_two_logs_of_two_boots() {
    let world = lived();
    let copies: Vec<_> = (0..2).map(|_| boots(&world, world.log.clone()).unwrap()).collect();
    assert_ne!(copies[0].facts().boot, copies[1].facts().boot);
    let heads: Vec<_> =
        copies.iter().map(|copy| Record::hash_of(copy.log.last().unwrap())).collect();
    assert_ne!(heads[0], heads[1], "a witness cosigns one of them");
    // What one of them sealed under its boot's key never meets a nonce of the other.
    let request = copies[0].request("read_balance", json!({"account": "x"}), "k9");
    let mut second = World::with_log(&copies[1], copies[1].log.clone());
    second.try_reboot().unwrap();
    assert_eq!(second.execute(None, &request), Err(Reason::RequestBoot));
}

#[test]
fn durable_is_the_hosts_word_within_what_was_signed() {
    let mut world = World::new();
    let request = world.request("read_balance", json!({"account": "x"}), "k1");
    let redeemed = world.redeem(None, &request).unwrap();
    let size = world.log.len() as u64;
    for lie in [size + 1, u64::MAX, 0] {
        let answer = world.call(Command::Durable { size: lie });
        assert_eq!(answer, Err(Reason::LogUnavailable), "{lie}");
    }
    assert_eq!(world.release(&redeemed.execution).unwrap_err(), Reason::LogUnavailable);
    // It says so and drops the record: `durability: host` is all that the record claims.
    world.durable();
    let back = Command::Durable { size: size - 1 };
    assert_eq!(world.call(back), Err(Reason::LogUnavailable), "durable is for good");
    assert!(world.release(&redeemed.execution).is_ok());
    use toani_protocol::assurance::Durability;
    assert_eq!(world.last_record().about.assurance.unwrap().durability, Durability::Host);
}

#[test]
fn who_asks_for_a_witness_is_refused_without_one() {
    let mut world = World::new();
    for (version, aspect, reason) in [
        (2, "durability", Reason::AssuranceDurability),
        (3, "freshness", Reason::AssuranceFreshness),
        (4, "time", Reason::AssuranceTime),
    ] {
        let mut document = policy_document(version);
        document["services"]["broker"]["actions"]["read_balance"]["least"] =
            json!({ aspect: "witnessed" });
        world.activate(document).unwrap();
        let request = world.request("read_balance", json!({"account": "x"}), aspect);
        assert_eq!(world.execute(None, &request), Err(reason));
    }
}

#[test]
fn the_clock_never_goes_below_the_log() {
    let mut world = World::new();
    let (request, token) = world.approved(1, "k1").unwrap();
    let before = world.now;
    world.now = before.plus_ms(16 * 60_000);
    world.record().unwrap();
    // Back to when the token was young.
    world.now = before;
    let renewed = toani_protocol::request::ActionRequest {
        expires_at: before.plus_ms(40 * 60_000),
        ..request
    };
    assert_eq!(world.execute(Some(&token), &renewed), Err(Reason::TokenExpired));
    world.now = Time::from_ms(0);
    world.record().unwrap();
    assert!(world.last_record().time >= before.plus_ms(16 * 60_000));
    assert_eq!(world.try_reboot(), Err(Reason::EvidenceRefused), "no evidence is that old");
    world.now = before;
    world.try_reboot().unwrap();
    assert!(world.last_record().time >= before.plus_ms(16 * 60_000), "nor after a restart");
}

/// Forward, the host's clock is believed: `time: host`. It can only end things sooner.
#[test]
fn a_clock_turned_forward_ends_things_for_good() {
    let mut world = World::new();
    let request = world.request("read_balance", json!({"account": "x"}), "k1");
    world.now = Time::MAX;
    world.record().unwrap();
    world.now = Time::from_ms(START_MS);
    assert_eq!(world.execute(None, &request), Err(Reason::RequestExpired));
    let late = world.request("read_balance", json!({"account": "x"}), "k2");
    let late = toani_protocol::request::ActionRequest {
        issued_at: Time::from_ms(Time::MAX.ms() - 1000),
        expires_at: Time::MAX,
        ..late
    };
    assert_eq!(world.execute(None, &late), Err(Reason::RequestExpired), "the end of all time");
    assert!(world.try_reboot().is_ok(), "and still it boots");
}

#[test]
fn a_document_of_other_bytes_is_not_the_one_that_is_named() {
    let mut world = lived();
    world.blobs.values_mut().for_each(|bytes| bytes.push(b' '));
    world.try_reboot().unwrap();
    assert_eq!(world.try_connect(), Err(Reason::SandboxNotAdmitted), "no list, no sandbox");
    let request = world.request("read_balance", json!({"account": "x"}), "k9");
    assert_eq!(world.execute(None, &request), Err(Reason::AgentUnknown));
}
