//! The path of one action, from request to receipt, across restarts.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod world;

use serde_json::json;
use toani_audit::chain::{Links, verify_record};
use toani_protocol::{
    Reason,
    approval::Verdict,
    assurance::{AgentLevel, ApprovalLevel, Tee},
    canonical,
    job::JobEnd,
    record::{Outcome, Receipt, Record, RecordKind},
    sign::Label,
    wire::{ActionState, Answer, ApprovalStatus, Command},
};
use world::*;

#[test]
fn tier_0_runs_without_a_human() {
    let mut world = World::new();
    let request = world.request("read_balance", json!({"account": "a/../b"}), "k1");
    let redeemed = world.redeem(None, &request).unwrap();

    assert_eq!(
        world.release(&redeemed.execution).unwrap_err(),
        Reason::LogUnavailable,
        "not durable yet"
    );
    world.durable();
    let message = world.release(&redeemed.execution).unwrap();
    let job = &message.job;
    assert_eq!(job.credential, SECRET.as_bytes());
    let plan: serde_json::Value = serde_json::from_slice(&job.plan).unwrap();
    assert_eq!(plan["path"], "/v1/accounts/a%2F..%2Fb/balance");

    assert_eq!(
        world.release(&redeemed.execution).unwrap_err(),
        Reason::TokenUsed,
        "a job leaves once"
    );
    let outcome = outcome_of(&message, &answered(200, json!({"balance": 42, "more": 1})));
    let (finished, result) = world.finish(&redeemed.execution, Some(outcome)).unwrap();
    assert_eq!(finished.outcome, Outcome::Succeeded);
    assert_eq!(result.result.unwrap().0, json!({"balance": 42}));

    let receipt = result.receipt;
    receipt.verify(Label::Receipt, &[world.facts().chain_key], 1).unwrap();
    let record = world.last_record();
    assert_eq!(record.kind, RecordKind::Finished);
    let hash = Receipt::hash_of(&canonical::encode(&receipt).unwrap());
    assert_eq!(record.about.execution_receipt, Some(hash));
    let assurance = receipt.payload.assurance;
    assert_eq!((assurance.tee, assurance.agent), (Tee::Simulator, AgentLevel::Signed));
    assert_eq!(assurance.approval, ApprovalLevel::None);
}

#[test]
fn tier_2_waits_for_two_persons() {
    let mut world = World::new();
    let request = world.request("buy_stock", json!({"symbol": "ACME", "quantity": 3}), "k1");
    let status = world.decide(&request).unwrap();
    assert!(matches!(status.state, ActionState::Pending { approved: 0, threshold: 2, .. }));
    let statement = world.statement(&status.action);
    assert_eq!(statement.params.0, json!({"symbol": "ACME", "quantity": 3}));
    assert_eq!(statement.approvers, ["anna".parse().unwrap(), "ben".parse().unwrap()]);

    let anna = Gesture::new(40, true).evidence("anna", &statement, Verdict::Approve);
    let counted = ApprovalStatus::Counted { approved: 1, threshold: 2 };
    assert_eq!(world.approve(&anna), Ok(counted));
    assert_eq!(world.approve(&anna), Err(Reason::ApprovalTwice));
    let ben = Gesture::new(41, false).evidence("ben", &statement, Verdict::Approve);
    assert_eq!(world.approve(&ben), Ok(ApprovalStatus::Approved));

    let ActionState::Token { token, .. } = world.poll(&status.action).unwrap() else { panic!() };
    assert!(token.starts_with("v4.local."));
    let redeemed = world.redeem(Some(&token), &request).unwrap();
    let result = world.run(&redeemed, &answered(201, json!({"id": "o-1"})));
    assert_eq!(result.outcome, Outcome::Succeeded);
    let receipt = result.receipt.payload;
    assert_eq!(receipt.assurance.approval, ApprovalLevel::Software, "the weakest that counted");
    assert!(receipt.hitl_proof.is_some());

    let again = world.request("buy_stock", json!({"symbol": "ACME", "quantity": 3}), "k2");
    assert_eq!(world.redeem(Some(&token), &again).unwrap_err(), Reason::TokenUsed);
    assert!(matches!(world.execute(Some(&token), &request), Ok(Answer::Earlier(_))), "a retry");
}

#[test]
fn one_denial_is_final() {
    let mut world = World::new();
    let request = world.request("buy_stock", json!({"symbol": "ACME", "quantity": 3}), "k1");
    let status = world.decide(&request).unwrap();
    let statement = world.statement(&status.action);
    let no = Gesture::new(40, true).evidence("anna", &statement, Verdict::Deny);
    assert_eq!(world.approve(&no), Ok(ApprovalStatus::Denied));
    let about = world.last_record().about;
    assert!(about.hitl_proof.is_some() && world.blobs.contains_key(&about.blob.unwrap()));
    let yes = Gesture::new(41, false).evidence("ben", &statement, Verdict::Approve);
    assert_eq!(world.approve(&yes), Err(Reason::ApprovalNotOpen));
    let state = world.poll(&status.action).unwrap();
    assert_eq!(state, ActionState::Denied { reason: Reason::ApprovalDenied });
}

#[test]
fn waiting_too_long_is_a_denial() {
    let mut world = World::new();
    let request = world.request("buy_stock", json!({"symbol": "ACME", "quantity": 3}), "k1");
    let status = world.decide(&request).unwrap();
    let statement = world.statement(&status.action);
    world.now = world.now.plus_ms(600_000);
    let yes = Gesture::new(41, false).evidence("ben", &statement, Verdict::Approve);
    assert_eq!(world.approve(&yes), Err(Reason::ApprovalExpired));
    world.ok(Command::Tick);
    assert_eq!(world.last_record().about.reason, Some(Reason::ApprovalExpired));
}

#[test]
fn the_same_key_gets_the_same_answer_and_nothing_twice() {
    let mut world = World::new();
    let request = world.request("read_balance", json!({"account": "x"}), "k1");
    let redeemed = world.redeem(None, &request).unwrap();
    let Ok(Answer::Earlier(running)) = world.execute(None, &request) else { panic!() };
    assert_eq!((running.execution.clone(), running.outcome), (redeemed.execution.clone(), None));
    world.run(&redeemed, &answered(200, json!({"balance": 1})));

    world.reboot();
    let request = world.request("read_balance", json!({"account": "x"}), "k1");
    let Ok(Answer::Earlier(earlier)) = world.execute(None, &request) else { panic!() };
    assert_eq!(earlier.outcome, Some(Outcome::Succeeded));
    let blob = world.blobs[&earlier.blob.unwrap()].clone();
    let read = world.read(earlier.execution.as_str());
    let open = Command::Open { execution: earlier.execution, blob, read };
    let Answer::Result { result } = world.ok(open) else { panic!() };
    let result: serde_json::Value = serde_json::from_slice(&result).unwrap();
    assert_eq!(result["result"], json!({"balance": 1}));

    let other = world.request("read_balance", json!({"account": "y"}), "k1");
    assert_eq!(world.execute(None, &other).unwrap_err(), Reason::IdempotencyMismatch);
    world.now = world.now.plus_ms(24 * 60 * 60 * 1000 + 1);
    let other = world.request("read_balance", json!({"account": "y"}), "k1");
    assert!(matches!(world.execute(None, &other), Ok(Answer::Redeemed(_))), "24 hours later");
}

#[test]
fn a_crash_ends_what_was_open_as_unknown() {
    let mut world = World::new();
    let request = world.request("read_balance", json!({"account": "x"}), "k1");
    let redeemed = world.redeem(None, &request).unwrap();
    world.durable();
    world.release(&redeemed.execution).unwrap();
    world.reboot();
    let ended = world.records().into_iter().find(|r| r.kind == RecordKind::Ended).unwrap();
    assert_eq!(ended.about.outcome, Some(Outcome::Unknown));
    assert_eq!(ended.about.execution_id, Some(redeemed.execution.clone()));
    let request = world.request("read_balance", json!({"account": "x"}), "k1");
    let Ok(Answer::Earlier(earlier)) = world.execute(None, &request) else { panic!() };
    assert_eq!(earlier.outcome, Some(Outcome::Unknown), "never retried by itself");
}

#[test]
fn quotas_are_reserved_and_come_back_only_if_nothing_was_connected() {
    let mut world = World::new();
    let ask = |world: &mut World, quantity: u64, key: &str| {
        let params = json!({"symbol": "ACME", "quantity": quantity});
        let request = world.request("buy_stock", params, key);
        let status = world.decide(&request)?;
        let statement = world.statement(&status.action);
        for (seed, person, software) in [(40, "anna", true), (41, "ben", false)] {
            let yes = Gesture::new(seed, software).evidence(person, &statement, Verdict::Approve);
            world.approve(&yes)?;
        }
        match world.poll(&status.action)? {
            ActionState::Token { token, .. } => Ok::<_, Reason>((request, token)),
            other => panic!("{other:?}"),
        }
    };
    // Both are issued before either is redeemed: 100 + 100 of 150.
    let (first, first_token) = ask(&mut world, 100, "k1").unwrap();
    let (second, second_token) = ask(&mut world, 100, "k2").unwrap();
    let redeemed = world.redeem(Some(&first_token), &first).unwrap();
    assert_eq!(world.redeem(Some(&second_token), &second).unwrap_err(), Reason::QuotaExceeded);
    world.run(&redeemed, &ended(JobEnd::Unreachable, false));
    let redeemed = world.redeem(Some(&second_token), &second).unwrap();
    world.run(&redeemed, &ended(JobEnd::TimedOut, true));
    assert_eq!(ask(&mut world, 100, "k3").unwrap_err(), Reason::QuotaExceeded, "it may have run");
    world.reboot();
    assert_eq!(ask(&mut world, 100, "k4").unwrap_err(), Reason::QuotaExceeded, "after a restart");
    world.now = world.now.plus_ms(86_400_000);
    assert!(ask(&mut world, 100, "k5").is_ok(), "a new day");
}

#[test]
fn the_log_is_one_chain_under_one_key() {
    let mut world = World::new();
    for i in 0..5 {
        let request = world.request("read_balance", json!({"account": "x"}), &format!("k{i}"));
        let redeemed = world.redeem(None, &request).unwrap();
        world.run(&redeemed, &answered(200, json!({"balance": i})));
    }
    world.reboot();
    let (mut links, key) = (Links::new(), world.facts().chain_key);
    for leaf in &world.log {
        let record = verify_record(leaf, ORIGIN, &key).unwrap();
        links.advance(&record, Record::hash_of(leaf)).unwrap();
    }
    let note = world.durable();
    let checkpoint = toani_audit::checkpoint::Checkpoint::verify(&note, ORIGIN, &key).unwrap();
    assert_eq!(checkpoint.size, world.log.len() as u64);
}

/// An agent's budget of pending actions is for those that are pending.
#[test]
fn what_was_executed_is_not_pending() {
    let mut world = World::new();
    for i in 0..=toani_protocol::limits::PENDING_ACTIONS_PER_AGENT_MAX {
        // The quota passes with time, and no tick tells the enclave so.
        world.now = world.now.plus_ms(2_000);
        let request = world.request("read_balance", json!({"account": "x"}), &format!("k{i}"));
        let status = world.decide(&request).unwrap();
        let ActionState::Token { token, .. } = status.state else { panic!() };
        let redeemed = world.redeem(Some(&token), &request).unwrap();
        world.run(&redeemed, &answered(200, json!({"balance": 1})));
        let state = world.poll(&status.action).unwrap();
        assert_eq!(state, ActionState::Executed { execution: redeemed.execution });
    }
}
