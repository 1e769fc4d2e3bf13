//! What a boot leaves pending ends in records of the next one, once each, whatever the host does
//! between.

use std::collections::BTreeMap;

use serde_json::json;
use toani_protocol::{
    ActionId, Reason,
    approval::Verdict,
    limits::{MESSAGE_BYTES_MAX, TOKEN_LIFE_MS_MAX},
    record::{About, RecordKind},
    wire::{self, Call, Command, Reply, WIRE_VERSION},
};

use crate::world::*;

/// How often each action ended with its boot, by the log.
fn ended(world: &World) -> BTreeMap<ActionId, u32> {
    let mut ended = BTreeMap::new();
    for record in world.records() {
        if record.kind == RecordKind::Ended && record.about.execution_id.is_none() {
            let expected = About {
                tenant: Some(tenant()),
                tenant_sequence: record.about.tenant_sequence,
                tenant_previous: record.about.tenant_previous,
                agent: record.about.agent.clone(),
                action_id: record.about.action_id.clone(),
                reason: Some(Reason::BootEnded),
                ..About::default()
            };
            assert_eq!(record.about, expected, "it names no outcome: nothing was executed");
            *ended.entry(record.about.action_id.unwrap()).or_default() += 1;
        }
    }
    ended
}

fn once(actions: &[ActionId]) -> BTreeMap<ActionId, u32> {
    actions.iter().map(|id| (id.clone(), 1)).collect()
}

/// Ticks as the host does at boot; returns how many records the largest step wrote.
fn end_all(world: &mut World) -> usize {
    let mut largest = 0;
    loop {
        let command = Command::Tick;
        let call = Call { version: WIRE_VERSION, now: world.now, command };
        let checked = world.enclave.check(&wire::encode(&call).unwrap(), &mut rng());
        let reply = world.enclave.apply(checked, &mut rng());
        assert!(reply.len() < MESSAGE_BYTES_MAX);
        let reply: Reply = wire::decode(&reply, MESSAGE_BYTES_MAX).unwrap();
        reply.answer.unwrap();
        if reply.effects.is_empty() {
            return largest;
        }
        largest = largest.max(reply.effects.len());
        world.carry_out(reply.effects);
        world.durable();
    }
}

/// An action that waits for two persons.
fn waiting(world: &mut World, key: &str) -> ActionId {
    let request = world.request("buy_stock", json!({"symbol": "ACME", "quantity": 1}), key);
    world.decide(&request).unwrap().action
}

/// An action with a token.
fn allowed(world: &mut World, key: &str) -> ActionId {
    let request = world.request("read_balance", json!({"account": "x"}), key);
    world.decide(&request).unwrap().action
}

#[test]
fn what_is_pending_ends_with_its_boot_and_nothing_else_does() {
    let mut world = World::new();
    let late = allowed(&mut world, "late");
    world.now = world.now.plus_ms(TOKEN_LIFE_MS_MAX - 60_000);
    let pending = [waiting(&mut world, "w"), allowed(&mut world, "a")];
    let (request, approved) = world.approved(1, "approved").unwrap();
    let approved_id = world.last_record().about.action_id.unwrap();
    let (spent_request, spent) = world.approved(1, "spent").unwrap();
    let spent = world.redeem(Some(&spent), &spent_request).unwrap();
    world.run(&spent, &answered(200, json!({"id": "o"})));
    let denied = waiting(&mut world, "denied");
    let statement = world.statement(&denied);
    let no = Gesture::new(40, true).evidence("anna", &statement, Verdict::Deny);
    world.approve(&no).unwrap();
    let revoked = waiting(&mut world, "revoked");
    world.ok(Command::RevokeToken { tenant: tenant(), action: revoked });
    let statement = world.statement(&pending[0]);

    // The first token is void by now, which the log says by itself.
    world.now = world.now.plus_ms(60_000);
    world.reboot();
    assert_eq!(ended(&world), once(&[]), "not before the host calls");
    end_all(&mut world);
    let expected = once(&[pending[0].clone(), pending[1].clone(), approved_id]);
    assert_eq!(ended(&world), expected);
    assert!(!expected.contains_key(&late));

    // They have ended: nobody brings them back.
    let yes = Gesture::new(40, true).evidence("anna", &statement, Verdict::Approve);
    assert_eq!(world.approve(&yes), Err(Reason::ActionNotFound));
    let mut again = request.clone();
    again.boot = world.facts().boot.clone();
    (again.issued_at, again.expires_at) = (world.now, world.now.plus_ms(1_000));
    assert_eq!(world.redeem(Some(&approved), &again).unwrap_err(), Reason::TokenInvalid);

    world.reboot();
    end_all(&mut world);
    assert_eq!(ended(&world), expected, "once");
}

#[test]
fn what_the_host_does_between_ends_nothing_twice_and_loses_nothing() {
    let mut world = World::new();
    let pending: Vec<_> = (0..3).map(|n| waiting(&mut world, &format!("w{n}"))).collect();
    world.durable();
    // It drops what a boot wrote, and begins again from the log before.
    let before = world.log.clone();
    world.reboot();
    end_all(&mut world);
    let mut liar = World::with_log(&world, before.clone());
    liar.reboot();
    end_all(&mut liar);
    assert_eq!(ended(&liar), once(&pending));
    // It keeps a part of them.
    let mut log = liar.log.clone();
    let first = log.iter().rposition(|leaf| !String::from_utf8_lossy(leaf).contains("boot_ended"));
    log.truncate(first.unwrap() + 2);
    let mut liar = World::with_log(&liar, log);
    assert_eq!(ended(&liar).len(), 1);
    liar.reboot();
    end_all(&mut liar);
    assert_eq!(ended(&liar), once(&pending));
    // It never calls, for boots on end.
    let mut liar = World::with_log(&world, before);
    for _ in 0..3 {
        liar.reboot();
        assert_eq!(ended(&liar), once(&[]));
        waiting(&mut liar, "again");
    }
    end_all(&mut liar);
    assert_eq!(ended(&liar).len(), pending.len() + 2);
    // A second copy of an end does not boot.
    let double = liar.log.last().unwrap().clone();
    liar.log.push(double);
    assert_eq!(liar.try_reboot(), Err(Reason::LogUnavailable));
}

#[test]
fn thousands_end_in_bounded_steps() {
    const AGENTS: usize = 3;
    const EACH: usize = 900;
    let mut world = World::new();
    let mut document = policy_document(2);
    document["quotas"].as_object_mut().unwrap().clear();
    for n in 0..AGENTS {
        document["agents"][format!("agent{n}")] = document["agents"]["trader"].clone();
    }
    world.activate(document).unwrap();
    let mut pending = vec![];
    for n in 0..AGENTS * EACH {
        let params = json!({"symbol": "ACME", "quantity": 1});
        let mut request = world.request("buy_stock", params, &format!("k{n}"));
        request.agent = format!("agent{}", n % AGENTS).parse().unwrap();
        pending.push(world.decide(&request).unwrap().action);
        if n % 1_000 == 0 {
            world.durable();
        }
    }
    world.durable();
    world.reboot();
    // A crash after the first step.
    world.ok(Command::Tick);
    let first = ended(&world).len();
    assert!(first > 0 && first < pending.len(), "{first} at once");
    world.reboot();
    assert!(end_all(&mut world) <= first);
    assert_eq!(ended(&world), once(&pending));
}

/// Without a word that anything is durable, ends of what was pending leave the room that is kept
/// for those of executions.
#[test]
fn the_dead_do_not_take_the_room_of_the_living() {
    let mut world = World::new();
    for n in 0..3 {
        waiting(&mut world, &format!("w{n}"));
    }
    world.reboot();
    let redeemed = world.started("k1");
    let job = world.release(&redeemed.execution).unwrap();
    let revoke = Command::RevokePolicy { tenant: tenant(), policy: "brokerage".parse().unwrap() };
    while world.call(revoke.clone()).is_ok() {}
    world.ok(Command::Tick);
    assert_eq!(ended(&world).len(), 0, "it waits");
    let outcome = outcome_of(&job, &answered(200, json!({"balance": 1})));
    world.finish(&redeemed.execution, Some(outcome)).unwrap();
    world.durable();
    end_all(&mut world);
    assert_eq!(ended(&world).len(), 3);
}
