//! The host lies about the sandbox and about what came of a job.

use serde_json::json;
use toani_protocol::{
    ExecutionId, Hash, Reason,
    assurance::SandboxLevel,
    canonical,
    instance::{AdmissionFormat, AdmissionList, AdmittedSandbox},
    job::{JobEnd, JobOutcome, SandboxHello, SealedOutcome},
    record::Outcome,
    sign::{Label, Signed},
    wire::{Answer, Command},
};

use crate::world::*;

fn admit(world: &World, version: u64, level: SandboxLevel) -> Command {
    let list = AdmissionList {
        format: AdmissionFormat::V1,
        instance: world.facts().instance,
        version,
        sandboxes: vec![AdmittedSandbox { measurement: world.hello.measurement, level }],
    };
    let signed = Signed::by(&operator(), Label::Admission, list).unwrap();
    Command::Admit { admission: canonical::encode(&signed).unwrap() }
}

#[test]
fn a_sandbox_that_is_not_admitted_does_not_connect() {
    let mut world = World::new();
    let hello = SandboxHello { measurement: Hash::of(b"another"), ..world.hello.clone() };
    assert_eq!(world.call(Command::ConnectSandbox { hello }), Err(Reason::SandboxNotAdmitted));
}

#[test]
fn a_level_that_nothing_proves_is_not_believed() {
    for level in [SandboxLevel::Gvisor, SandboxLevel::Vm, SandboxLevel::Snp] {
        let mut world = World::born();
        world.ok(admit(&world, 1, level));
        let hello = Command::ConnectSandbox { hello: world.hello.clone() };
        assert_eq!(world.call(hello), Err(Reason::SandboxNotAdmitted), "{level:?}");
    }
}

#[test]
fn a_policy_that_asks_for_more_than_there_is_is_not_served() {
    let mut world = World::new();
    for (version, least, reason) in [
        (2, json!({"sandbox": "gvisor"}), Reason::AssuranceSandbox),
        (3, json!({"sandbox": "snp"}), Reason::AssuranceSandbox),
        (4, json!({"tee": "sgx"}), Reason::AssuranceTee),
    ] {
        let mut document = policy_document(version);
        document["services"]["broker"]["actions"]["read_balance"]["least"] = least;
        world.activate(document).unwrap();
        assert_eq!(world.refusal(&format!("k{version}")), reason);
    }
}

#[test]
fn an_admission_list_needs_the_operators_and_the_instance() {
    let mut world = World::born();
    let list = |instance| AdmissionList {
        format: AdmissionFormat::V1,
        instance,
        version: 1,
        sandboxes: vec![],
    };
    let here = world.facts().instance;
    for (key, instance) in [(signing_key(66), here), (operator(), Hash::of(b"elsewhere"))] {
        let signed = Signed::by(&key, Label::Admission, list(instance)).unwrap();
        let admit = Command::Admit { admission: canonical::encode(&signed).unwrap() };
        assert_eq!(world.call(admit), Err(Reason::DocumentSignature));
    }
}

#[test]
fn a_job_goes_to_the_sandbox_that_was_promised() {
    let mut world = World::new();
    let other = Hash::of(b"other");
    world.ok(world.admission(2, vec![world.hello.measurement, other]));
    let execution = world.started("k1").execution;
    let swapped = SandboxHello { measurement: other, ..world.hello.clone() };
    world.ok(Command::ConnectSandbox { hello: swapped });
    assert_eq!(world.release(&execution), Err(Reason::SandboxUnavailable));
    world.ok(Command::DisconnectSandbox);
    assert_eq!(world.release(&execution), Err(Reason::SandboxUnavailable));
    // No longer admitted: disconnected at once.
    world.connect();
    world.ok(world.admission(3, vec![other]));
    assert_eq!(world.release(&execution), Err(Reason::SandboxUnavailable));
    let (finished, _) = world.finish(&execution, None).unwrap();
    assert_eq!(finished.outcome, Outcome::Aborted, "nothing ever left");
}

#[test]
fn nothing_starts_without_a_sandbox() {
    let mut world = World::new();
    world.ok(Command::DisconnectSandbox);
    assert_eq!(world.refusal("k1"), Reason::SandboxUnavailable);
}

#[test]
fn an_outcome_that_does_not_open_is_unknown() {
    let good = answered(200, json!({"balance": 1}));
    let forged: [fn(&mut World) -> Option<SealedOutcome>; 4] = [
        |_| None,
        |_| Some(SealedOutcome { ciphertext: vec![] }),
        |_| Some(SealedOutcome { ciphertext: vec![0; 64] }),
        // Of another job, which did succeed.
        |world| {
            let execution = world.started("other").execution;
            let job = world.release(&execution).unwrap();
            let (_, key) = world.open_job(&job);
            Some(seal_outcome(&job, &key, &answered(200, json!({"balance": 1}))))
        },
    ];
    for forge in forged {
        let mut world = World::new();
        let execution = world.started("k1").execution;
        world.release(&execution).unwrap();
        let outcome = forge(&mut world);
        let (finished, result) = world.finish(&execution, outcome).unwrap();
        assert_eq!((finished.outcome, result.result), (Outcome::Unknown, None));
    }
    // Every byte of a true one counts.
    let mut world = World::new();
    for at in 0..20 {
        let execution = world.started(&format!("k{at}")).execution;
        let job = world.release(&execution).unwrap();
        let (_, key) = world.open_job(&job);
        let mut outcome = seal_outcome(&job, &key, &good);
        let place = at * outcome.ciphertext.len() / 20;
        outcome.ciphertext[place] ^= 1;
        assert_eq!(world.finish(&execution, Some(outcome)).unwrap().0.outcome, Outcome::Unknown);
    }
}

#[test]
fn what_opens_and_is_garbage_is_unknown() {
    let mut world = World::new();
    let execution = world.started("k1").execution;
    let job = world.release(&execution).unwrap();
    let (_, key) = world.open_job(&job);
    let outcome = seal_bytes(&job, &key, b"\xff\xff\xff");
    let (finished, _) = world.finish(&execution, Some(outcome)).unwrap();
    assert_eq!(finished.outcome, Outcome::Unknown);
}

#[test]
fn a_job_leaves_once_and_ends_once() {
    let mut world = World::new();
    let execution = world.started("k1").execution;
    let job = world.release(&execution).unwrap();
    assert_eq!(world.release(&execution), Err(Reason::TokenUsed));
    let abort = Command::Abort { execution: execution.clone(), reason: Reason::TokenUsed };
    assert_eq!(world.call(abort.clone()), Err(Reason::IdempotencyInProgress));
    let (_, key) = world.open_job(&job);
    let outcome = Some(seal_outcome(&job, &key, &answered(200, json!({"balance": 1}))));
    assert!(world.finish(&execution, outcome.clone()).is_ok());
    let gone = Reason::ExecutionNotFound;
    assert_eq!(world.finish(&execution, outcome).unwrap_err(), gone);
    assert_eq!(world.release(&execution), Err(gone));
    assert_eq!(world.call(abort), Err(gone));
    let unknown: ExecutionId = "exe_none".parse().unwrap();
    assert_eq!(world.release(&unknown), Err(gone));
}

#[test]
fn an_aborted_execution_releases_nothing() {
    let mut world = World::new();
    let execution = world.started("k1").execution;
    let abort = Command::Abort { execution: execution.clone(), reason: Reason::LogUnavailable };
    let Ok(Answer::Finished(finished)) = world.call(abort) else { panic!() };
    assert_eq!(finished.outcome, Outcome::Aborted);
    assert_eq!(world.release(&execution), Err(Reason::ExecutionNotFound));
}

#[test]
fn an_answer_that_held_the_secret_is_withheld() {
    let mut world = World::new();
    let redeemed = world.started("k1");
    let outcome = JobOutcome { secret_seen: true, ..answered(200, json!({"balance": 1})) };
    let result = world.run(&redeemed, &outcome);
    assert_eq!((result.outcome, result.result), (Outcome::SecretSeen, None));
    assert_eq!(world.last_record().about.outcome, Some(Outcome::SecretSeen));
}

#[test]
fn a_connector_that_died_after_it_connected_is_unknown() {
    let mut world = World::new();
    for (end, connected, expected) in [
        (JobEnd::ConnectorFailed, true, Outcome::Unknown),
        (JobEnd::ConnectorFailed, false, Outcome::ConnectorFailed),
        (JobEnd::TimedOut, true, Outcome::TimedOut),
        (JobEnd::TimedOut, false, Outcome::Unreachable),
        (JobEnd::Redirected { status: 302 }, true, Outcome::Redirected),
    ] {
        let redeemed = world.started(&format!("{end:?}{connected}").replace(' ', ""));
        assert_eq!(world.run(&redeemed, &ended(end, connected)).outcome, expected);
    }
}
