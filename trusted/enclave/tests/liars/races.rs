//! The host decides how long a checked call waits before it is applied.

use serde_json::json;
use toani_protocol::{
    Reason, canonical,
    job::JobEnd,
    policy::PolicyKeyChange,
    record::Outcome,
    sign::{Label, PublicKey, Signed},
    wire::{self, Answer, Command},
};

use crate::world::*;

fn execute(world: &World, key: &str) -> Command {
    let (request, proof) = prove(&world.request("read_balance", json!({"account": "x"}), key));
    Command::Execute { token: None, request, proof }
}

#[test]
fn a_revoked_agent_does_not_run_what_was_checked_before() {
    let mut world = World::new();
    let (execute, decide) = (world.check(execute(&world, "k1")), {
        let (request, proof) = prove(&world.request("read_balance", json!({"account": "x"}), "k2"));
        world.check(Command::Decide { request, proof })
    });
    world.ok(Command::RevokeAgent { tenant: tenant(), agent: "trader".parse().unwrap() });
    assert_eq!(world.apply(execute), Err(Reason::AgentRevoked));
    assert_eq!(world.apply(decide), Err(Reason::AgentRevoked));
}

#[test]
fn a_changed_or_revoked_policy_does_not_decide_what_was_checked_before() {
    let mut world = World::new();
    let changed = world.check(execute(&world, "k1"));
    world.activate(policy_document(2)).unwrap();
    assert_eq!(world.apply(changed), Err(Reason::PolicyChanged));
    let revoked = world.check(execute(&world, "k2"));
    world.ok(Command::RevokePolicy { tenant: tenant(), policy: "brokerage".parse().unwrap() });
    assert_eq!(world.apply(revoked), Err(Reason::PolicyRevoked));
}

#[test]
fn a_request_expires_while_it_waits() {
    let mut world = World::new();
    let waiting = world.check(execute(&world, "k1"));
    world.now = world.now.plus_ms(60_000);
    // Any record moves the enclave's time.
    world.record().unwrap();
    assert_eq!(world.apply(waiting), Err(Reason::RequestExpired));
}

#[test]
fn a_job_that_left_meanwhile_is_not_called_aborted() {
    let mut world = World::new();
    let redeemed = world.started("k1");
    let execution = redeemed.execution.clone();
    let finish = world.check(Command::Finish { execution: execution.clone() });
    let release = world.check(Command::Release { execution: execution.clone() });
    assert_eq!(world.apply(release), Ok(Answer::Done));
    let Ok(Answer::Finished(finished)) = world.apply(finish) else { panic!() };
    assert_eq!(finished.outcome, Outcome::Unknown, "and no quota comes back");
}

#[test]
fn of_two_checked_releases_one_job_leaves() {
    let mut world = World::new();
    let execution = world.started("k1").execution;
    let twice: Vec<_> =
        (0..2).map(|_| world.check(Command::Release { execution: execution.clone() })).collect();
    let answers: Vec<_> = twice.into_iter().map(|checked| world.apply(checked)).collect();
    assert!(matches!(answers.as_slice(), [Ok(Answer::Done), Err(Reason::TokenUsed)]));
}

#[test]
fn of_two_checked_ends_one_counts() {
    let mut world = World::new();
    let execution = world.started("k1").execution;
    let job = world.release(&execution).unwrap();
    world
        .supervisor
        .send(&wire::encode(&outcome_of(&job, &ended(JobEnd::Unreachable, false))).unwrap());
    world.carry().unwrap();
    let end = Command::Finish { execution };
    let ends = [world.check(end.clone()), world.check(end)];
    let answers: Vec<_> = ends.into_iter().map(|checked| world.apply(checked)).collect();
    assert!(matches!(answers.as_slice(), [Ok(_), Err(Reason::ExecutionNotFound)]));
}

#[test]
fn a_release_ends_with_its_credential_and_its_sandbox() {
    let mut world = World::new();
    let first = world.started("k1").execution;
    let waiting = world.check(Command::Release { execution: first });
    world.connect();
    assert_eq!(world.apply(waiting), Err(Reason::SandboxUnavailable), "for the channel before");

    let second = world.started("k2").execution;
    let waiting = world.check(Command::Release { execution: second });
    let header = world.credential_header(1);
    let (namespace, owner, id) = (header.namespace, header.owner, header.id);
    world.ok(Command::RevokeCredential { tenant: tenant(), namespace, owner, id });
    assert_eq!(world.apply(waiting), Err(Reason::CredentialRevoked));
}

#[test]
fn an_outcome_that_arrives_after_the_check_is_not_judged_unread() {
    let mut world = World::new();
    let execution = world.started("k1").execution;
    let job = world.release(&execution).unwrap();
    let early = world.check(Command::Finish { execution });
    let outcome = outcome_of(&job, &ended(JobEnd::Unreachable, false));
    world.supervisor.send(&wire::encode(&outcome).unwrap());
    world.carry().unwrap();
    let Ok(Answer::Finished(finished)) = world.apply(early) else { panic!() };
    assert_eq!(finished.outcome, Outcome::Unknown, "the host asked too early");
}

#[test]
fn a_sandbox_that_is_no_longer_admitted_does_not_connect() {
    let mut world = World::new();
    let facts = world.facts().clone();
    world.supervisor.listen(&facts, world.now);
    world.ok(Command::ConnectSandbox { target: quoting_target() });
    world.ok(world.admission(2, vec![digest(b"another")]));
    assert_eq!(world.carry(), Err(Reason::SandboxNotAdmitted));
    assert_eq!(world.refusal("k1"), Reason::SandboxUnavailable);
}

#[test]
fn a_policy_key_that_was_replaced_signs_no_successor() {
    let mut world = World::new();
    let change = |sequence, key: u8| {
        let key = PublicKey::of(&signing_key(key));
        let change = PolicyKeyChange { tenant: tenant(), sequence, key };
        let signed = Signed::by(&policy_key(), Label::PolicyKey, change).unwrap();
        Command::ChangePolicyKey { change: canonical::encode(&signed).unwrap() }
    };
    // The thief of the first key signs the second change in advance.
    let stolen = world.check(change(2, 66));
    world.ok(change(1, 22));
    assert_eq!(world.apply(stolen), Err(Reason::DocumentSignature));
    assert_eq!(world.call(change(2, 66)), Err(Reason::DocumentSignature));
}

#[test]
fn an_approval_counts_for_what_still_waits() {
    let mut world = World::new();
    let request = world.request("buy_stock", json!({"symbol": "ACME", "quantity": 1}), "k1");
    let action = world.decide(&request).unwrap().action;
    let statement = world.statement(&action);
    let yes = |seed, person, software| {
        use toani_protocol::approval::Verdict;
        let yes = Gesture::new(seed, software).evidence(person, &statement, Verdict::Approve);
        Command::Approve { evidence: canonical::encode(&yes).unwrap() }
    };
    let (anna, again) = (world.check(yes(40, "anna", true)), world.check(yes(40, "anna", true)));
    let ben = world.check(yes(41, "ben", false));
    assert!(world.apply(anna).is_ok());
    assert_eq!(world.apply(again), Err(Reason::ApprovalTwice));
    world.ok(Command::RevokeToken { tenant: tenant(), action });
    assert_eq!(world.apply(ben), Err(Reason::ApprovalNotOpen));
}
