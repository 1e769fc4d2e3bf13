//! Anyone floods the plane with what will be refused.

use serde_json::json;
use toani_protocol::{
    Reason, canonical,
    limits::{
        REFUSAL_WINDOW_MS, REFUSALS_PER_AGENT_MAX, UNDURABLE_RECORDS_MAX, UNDURABLE_RECORDS_RESERVE,
    },
    record::{Outcome, RecordKind},
    request::AgentProof,
    sign::Signature,
    wire::{Answer, Command},
};

use crate::world::*;

/// Makes records until nothing more may begin.
pub(crate) fn fill_log(world: &mut World) {
    for _ in 0..=UNDURABLE_RECORDS_MAX - UNDURABLE_RECORDS_RESERVE {
        match world.record() {
            Ok(_) => {}
            Err(reason) => return assert_eq!(reason, Reason::LogUnavailable),
        }
    }
    panic!("the log takes more than it says");
}

/// Someone who can prove nothing says to be the agent.
fn stranger(world: &mut World) -> Reason {
    let request = world.request("read_balance", json!({"account": "x"}), "k1");
    let request = canonical::encode(&request).unwrap();
    let proof = AgentProof::Signature(Signature([1; 64]));
    world.call(Command::Execute { token: None, request, proof }).unwrap_err()
}

/// The agent itself asks for what it may not have.
fn refused(world: &mut World) -> Reason {
    let request = world.request("read_balance", json!({}), "bad");
    world.execute(None, &request).unwrap_err()
}

fn count(world: &World, kind: RecordKind) -> usize {
    world.records().iter().filter(|record| record.kind == kind).count()
}

#[test]
fn an_agent_has_a_budget_of_refusals() {
    let mut world = World::new();
    for _ in 0..REFUSALS_PER_AGENT_MAX {
        assert_eq!(refused(&mut world), Reason::ParamsInvalid);
    }
    let size = world.log.len();
    for _ in 0..100 {
        assert_eq!(refused(&mut world), Reason::RefusalBudget);
    }
    assert_eq!(world.refusal("good"), Reason::RefusalBudget, "not heard at all");
    assert_eq!(world.log.len(), size, "and nothing is written");
    world.now = world.now.plus_ms(REFUSAL_WINDOW_MS);
    world.ok(Command::Tick);
    assert!(
        world.redeem(None, &world.request("read_balance", json!({"account": "x"}), "k2")).is_ok()
    );
}

#[test]
fn strangers_do_not_use_up_an_agents_budget() {
    let mut world = World::new();
    for _ in 0..1000 {
        assert_eq!(stranger(&mut world), Reason::AgentProof);
    }
    assert_eq!(count(&world, RecordKind::Refused), 20, "the rest is counted");
    world.started("k1");
    assert_eq!(refused(&mut world), Reason::ParamsInvalid, "its own budget is whole");
    world.now = world.now.plus_ms(REFUSAL_WINDOW_MS);
    world.ok(Command::Tick);
    let summary = world.records().into_iter().find(|r| r.kind == RecordKind::Refusals).unwrap();
    assert_eq!(summary.about.count, Some(980));
    assert_eq!(summary.about.agent, Some("trader".parse().unwrap()));
    world.ok(Command::Tick);
    assert_eq!(count(&world, RecordKind::Refusals), 1, "said once");
}

#[test]
fn nobody_makes_up_entries_of_others() {
    let mut world = World::new();
    let sequence = |world: &World| {
        let own = world.records().into_iter().filter(|record| record.about.tenant.is_some());
        own.count()
    };
    let before = sequence(&world);
    for i in 0..50 {
        let mut request = world.request("read_balance", json!({"account": "x"}), "k1");
        request.agent = format!("made-up-{i}").parse().unwrap();
        let request = canonical::encode(&request).unwrap();
        let proof = AgentProof::ApiKey("guess".into());
        let execute = Command::Execute { token: None, request, proof };
        assert_eq!(world.call(execute), Err(Reason::AgentUnknown));
        let garbage = Command::Decide { request: vec![i], proof: AgentProof::ApiKey("x".into()) };
        assert_eq!(world.call(garbage), Err(Reason::RequestMalformed));
    }
    assert_eq!(sequence(&world), before, "no tenant's sequence grew");
    assert_eq!(count(&world, RecordKind::Refused), 20);
}

#[test]
fn a_window_ends_without_a_tick() {
    let mut world = World::new();
    for _ in 0..30 {
        stranger(&mut world);
    }
    world.now = world.now.plus_ms(REFUSAL_WINDOW_MS);
    stranger(&mut world);
    assert_eq!(count(&world, RecordKind::Refusals), 1);
    assert_eq!(count(&world, RecordKind::Refused), 21);
}

#[test]
fn there_is_room_for_every_end() {
    let mut world = World::new();
    let open: Vec<_> = (0..20).map(|i| world.started(&format!("k{i}"))).collect();
    for redeemed in &open {
        world.release(&redeemed.execution).unwrap();
    }
    for _ in 0..30 {
        stranger(&mut world);
    }
    fill_log(&mut world);
    let request = world.request("read_balance", json!({"account": "x"}), "late");
    assert_eq!(world.execute(None, &request), Err(Reason::LogUnavailable));
    for redeemed in &open {
        let (finished, _) = world.finish(&redeemed.execution, None).unwrap();
        assert_eq!(finished.outcome, Outcome::Unknown);
    }
    // What cannot be written now is not forgotten.
    world.now = world.now.plus_ms(REFUSAL_WINDOW_MS);
    world.ok(Command::Tick);
    world.durable();
    world.ok(Command::Tick);
    let summary = world.records().into_iter().find(|r| r.kind == RecordKind::Refusals).unwrap();
    assert_eq!(summary.about.count, Some(10));
    let request = world.request("read_balance", json!({"account": "x"}), "later");
    assert!(matches!(world.execute(None, &request), Ok(Answer::Redeemed(_))));
}
