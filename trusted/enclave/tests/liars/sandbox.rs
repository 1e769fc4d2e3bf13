//! The host lies about the sandbox and about what came of a job.

use serde_json::json;
use toani_protocol::{
    ExecutionId, Hash, Reason,
    assurance::SandboxLevel,
    canonical,
    instance::{AdmissionList, AdmittedSandbox, RootFileSystems},
    job::{JobEnd, JobOutcome, OutcomeMessage},
    limits::{ARRIVED_BYTES_MAX, CONNECTIONS_MAX},
    record::{Connection, Outcome},
    sign::{Bytes, Label, Signed},
    wire::{self, Answer, Command, LinkState},
};

use crate::world::*;

#[test]
fn a_sandbox_that_is_not_admitted_does_not_connect() {
    let mut world = World::new();
    world.ok(world.admission(2, vec![digest(b"another")]));
    assert_eq!(world.try_connect(), Err(Reason::SandboxNotAdmitted));
}

/// `snp` is AMD's word, and the roots here are a simulator's.
#[test]
fn a_level_that_nothing_proves_is_not_believed() {
    let mut world = World::born();
    let sandboxes = vec![admitted(DIGEST, SandboxLevel::Snp)];
    world.ok(admit(AdmissionList { sandboxes, ..world.admission_list(1) }));
    assert_eq!(world.try_connect(), Err(Reason::SandboxNotAdmitted));
}

/// Below `snp` a level is the operators' word for a launch digest: no less counts as it, and no
/// more than it is believed.
#[test]
fn a_sandbox_is_at_the_level_of_its_own_entry() {
    let levels = [
        ("native", SandboxLevel::Native),
        ("gvisor", SandboxLevel::Gvisor),
        ("vm", SandboxLevel::Vm),
    ];
    for (_, level) in levels {
        let mut world = World::new();
        // Another entry says nothing of this one.
        let other = admitted(digest(b"other"), SandboxLevel::Vm);
        let sandboxes = vec![other, admitted(DIGEST, level)];
        world.ok(admit(AdmissionList { sandboxes, ..world.admission_list(2) }));
        world.connect();
        for (version, (name, least)) in (2..).zip(levels) {
            let mut document = policy_document(version);
            let read = &mut document["services"]["broker"]["actions"]["read_balance"];
            read["least"] = json!({"sandbox": name});
            world.activate(document).unwrap();
            let key = format!("k{version}");
            if level < least {
                assert_eq!(world.refusal(&key), Reason::AssuranceSandbox, "{level:?} as {name}");
            } else {
                let redeemed = world.started(&key);
                let result = world.run(&redeemed, &answered(200, json!({"balance": 1})));
                assert_eq!(result.receipt.payload.assurance.sandbox, level);
            }
        }
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
    let list = |instance| AdmissionList { instance, ..world.admission_list(1) };
    let here = world.facts().instance;
    let mut lists = Vec::new();
    for (key, instance) in [(signing_key(66), here), (operator(), Hash::of(b"elsewhere"))] {
        let signed = Signed::by(&key, Label::Admission, list(instance)).unwrap();
        lists.push(Command::Admit { admission: canonical::encode(&signed).unwrap() });
    }
    // Ids of other lengths name nothing.
    let short = || vec![Bytes(vec![7; 47])];
    lists.push(admit(AdmissionList { chips: short(), ..list(here) }));
    let sandbox =
        |launch_digest| AdmittedSandbox { launch_digest, ..admitted(DIGEST, SandboxLevel::Native) };
    let sandboxes = short().into_iter().map(sandbox).collect();
    lists.push(admit(AdmissionList { sandboxes, ..list(here) }));
    // Of two entries for one sandbox nobody would know which is meant.
    let levels = [SandboxLevel::Native, SandboxLevel::Vm];
    let sandboxes = levels.map(|level| admitted(DIGEST, level)).to_vec();
    lists.push(admit(AdmissionList { sandboxes, ..list(here) }));
    for list in lists {
        assert_eq!(world.call(list), Err(Reason::DocumentSignature));
    }
}

#[test]
fn a_job_goes_to_the_sandbox_that_was_promised() {
    let mut world = World::new();
    let other = digest(b"other");
    world.ok(world.admission(2, vec![DIGEST, other]));
    let execution = world.started("k1").execution;
    world.supervisor = Supervisor::showing(move |_, data, now| {
        shown(&chip(), &toani_simulator::Guest::new(other, data), now)
    });
    world.connect();
    assert_eq!(world.release(&execution).unwrap_err(), Reason::SandboxUnavailable);
    world.ok(Command::DisconnectSandbox);
    assert_eq!(world.release(&execution).unwrap_err(), Reason::SandboxUnavailable);
    world.supervisor = Supervisor::new();
    // No longer admitted: disconnected at once.
    world.connect();
    world.ok(world.admission(3, vec![other]));
    assert_eq!(world.link, LinkState::Ended);
    assert_eq!(world.release(&execution).unwrap_err(), Reason::SandboxUnavailable);
    let (finished, _) = world.finish(&execution, None).unwrap();
    assert_eq!(finished.outcome, Outcome::Aborted, "nothing ever left");
}

/// The list admits the same sandbox with another root file system before the job has left: what was
/// promised is not what would run.
#[test]
fn a_job_goes_with_the_root_file_system_that_was_promised() {
    let mut world = World::new();
    let execution = world.started("k1").execution;
    world.durable();
    let root_file_system = Hash::of(b"another");
    let root_file_systems = RootFileSystems { connector: root_file_system, browser: None };
    let other = AdmittedSandbox { root_file_systems, ..admitted(DIGEST, SandboxLevel::Native) };
    world.ok(admit(AdmissionList { sandboxes: vec![other], ..world.admission_list(2) }));
    assert_eq!(world.link, LinkState::Ended, "it is not admitted as what it was");
    world.connect();
    assert_eq!(world.release(&execution).unwrap_err(), Reason::SandboxUnavailable);
    // A new execution is promised the new one.
    let redeemed = world.started("k2");
    assert_eq!(world.last_record().about.root_file_system, Some(root_file_system));
    world.durable();
    let job = world.release(&redeemed.execution).unwrap();
    assert_eq!(job.root_file_system, root_file_system);
    // With the old one back, so is the way of the job.
    world.ok(world.admission(3, vec![DIGEST]));
    world.connect();
    assert_eq!(world.release(&execution).unwrap().root_file_system, ROOT_FILE_SYSTEM);
}

/// The policy's class names it, the operators say which bytes it is.
#[test]
fn the_class_names_the_root_file_system_and_the_admission_list_says_which_it_is() {
    let mut world = World::new();
    let mut document = policy_document(2);
    document["services"]["broker"]["actions"]["read_balance"]["class"] =
        json!({"root_file_system": "browser"});
    world.activate(document).unwrap();
    assert_eq!(world.refusal("k1"), Reason::RootFileSystemUnavailable);

    let browser = Hash::of(b"browser");
    let admit_browser = |world: &mut World, version, browser| {
        let root_file_systems = RootFileSystems { connector: ROOT_FILE_SYSTEM, browser };
        let with = AdmittedSandbox { root_file_systems, ..admitted(DIGEST, SandboxLevel::Native) };
        world.ok(admit(AdmissionList { sandboxes: vec![with], ..world.admission_list(version) }));
        world.connect();
    };
    admit_browser(&mut world, 2, Some(browser));
    let (one, other) = (world.started("k2"), world.started("k3").execution);
    assert_eq!(world.last_record().about.root_file_system, Some(browser));
    let result = world.run(&one, &answered(200, json!({"balance": 1})));
    assert_eq!(result.receipt.payload.root_file_system, browser);
    // It is taken away before the other job has left.
    admit_browser(&mut world, 3, None);
    assert_eq!(world.release(&other).unwrap_err(), Reason::SandboxUnavailable);
}

#[test]
fn nothing_starts_without_a_sandbox() {
    let mut world = World::new();
    world.ok(Command::DisconnectSandbox);
    assert_eq!(world.refusal("k1"), Reason::SandboxUnavailable);
}

/// A supervisor that is admitted and lies: what it says of one job counts for no other, and it is
/// not spoken to any more.
#[test]
fn an_outcome_that_was_not_asked_for_ends_the_channel() {
    let lies: [fn(&mut World, OutcomeMessage) -> Vec<u8>; 4] = [
        // Of another token.
        |_, outcome| wire::encode(&OutcomeMessage { jti: Hash::of(b"x"), ..outcome }).unwrap(),
        // Of an execution that has not been released.
        |world, outcome| {
            let execution = world.started("other").execution;
            wire::encode(&OutcomeMessage { execution, ..outcome }).unwrap()
        },
        |_, _| Vec::new(),
        |_, _| vec![0xff; 64],
    ];
    for lie in lies {
        let mut world = World::new();
        let execution = world.started("k1").execution;
        let job = world.release(&execution).unwrap();
        let outcome = outcome_of(&job, &answered(200, json!({"balance": 1})));
        let message = lie(&mut world, outcome);
        world.supervisor.send(&message);
        world.carry().unwrap();
        assert_eq!(world.link, LinkState::Ended);
        let (finished, result) = world.finish(&execution, None).unwrap();
        assert_eq!((finished.outcome, result.result), (Outcome::Unknown, None));
    }
}

#[test]
fn the_first_outcome_of_a_job_is_its_only_one() {
    let mut world = World::new();
    let execution = world.started("k1").execution;
    let job = world.release(&execution).unwrap();
    for _ in 0..2 {
        let outcome = outcome_of(&job, &answered(200, json!({"balance": 1})));
        world.supervisor.send(&wire::encode(&outcome).unwrap());
    }
    world.carry().unwrap();
    assert_eq!(world.link, LinkState::Ended);
    let (finished, _) = world.finish(&execution, None).unwrap();
    assert_eq!(finished.outcome, Outcome::Succeeded, "the first one stands");
}

/// The host may have given up an execution when its outcome comes: that is nobody's fault.
#[test]
fn an_outcome_that_comes_too_late_changes_nothing() {
    let mut world = World::new();
    let execution = world.started("k1").execution;
    let job = world.release(&execution).unwrap();
    let (finished, _) = world.finish(&execution, None).unwrap();
    assert_eq!(finished.outcome, Outcome::Unknown);
    let outcome = outcome_of(&job, &answered(200, json!({"balance": 1})));
    world.supervisor.send(&wire::encode(&outcome).unwrap());
    world.carry().unwrap();
    assert_eq!(world.link, LinkState::Open);
    assert_eq!(world.finish(&execution, None).unwrap_err(), Reason::ExecutionNotFound);
}

/// A job's outcome comes on the channel on which the job left, or not at all.
#[test]
fn an_outcome_on_another_channel_counts_for_nothing() {
    let mut world = World::new();
    let execution = world.started("k1").execution;
    let job = world.release(&execution).unwrap();
    world.connect();
    let outcome = outcome_of(&job, &answered(200, json!({"balance": 1})));
    let (finished, _) = world.finish(&execution, Some(outcome)).unwrap();
    assert_eq!(finished.outcome, Outcome::Unknown);
    assert_eq!(world.link, LinkState::Ended);
}

/// An outcome stays when its channel ends before the host asks for it.
#[test]
fn an_outcome_that_has_arrived_outlives_its_channel() {
    let mut world = World::new();
    let execution = world.started("k1").execution;
    let job = world.release(&execution).unwrap();
    let outcome = outcome_of(&job, &answered(200, json!({"balance": 1})));
    world.supervisor.send(&wire::encode(&outcome).unwrap());
    world.carry().unwrap();
    world.ok(Command::DisconnectSandbox);
    assert_eq!(world.finish(&execution, None).unwrap().0.outcome, Outcome::Succeeded);
}

#[test]
fn what_is_garbage_behind_its_name_is_unknown() {
    let mut world = World::new();
    let execution = world.started("k1").execution;
    let job = world.release(&execution).unwrap();
    let name = wire::encode(&(&job.execution, job.jti)).unwrap();
    world.supervisor.send(&[name, vec![0xff; 3]].concat());
    world.carry().unwrap();
    let (finished, _) = world.finish(&execution, None).unwrap();
    assert_eq!(finished.outcome, Outcome::Unknown);
}

/// A host that never asks for outcomes does not fill the enclave's memory.
#[test]
fn outcomes_that_nobody_asks_for_have_a_maximum() {
    let mut world = World::new();
    let body = vec![b'0'; 4 * 1024 * 1024];
    let fit = ARRIVED_BYTES_MAX / body.len() - 1;
    let mut executions = Vec::new();
    for i in 0..fit + 2 {
        let execution = world.started(&format!("k{i}")).execution;
        let job = world.release(&execution).unwrap();
        let end = JobEnd::Response { status: 500, body: body.clone() };
        world.supervisor.send(&wire::encode(&outcome_of(&job, &ended(end, true))).unwrap());
        world.carry().unwrap();
        executions.push(execution);
    }
    let outcomes: Vec<_> = executions
        .iter()
        .map(|execution| world.finish(execution, None).unwrap().0.outcome)
        .collect();
    assert!(outcomes[..fit].iter().all(|outcome| *outcome == Outcome::UpstreamRefused));
    assert_eq!(outcomes[fit + 1], Outcome::Unknown);
    // Asked for, they are no longer kept.
    let redeemed = world.started("after");
    let result = world.run(&redeemed, &answered(200, json!({"balance": 1})));
    assert_eq!(result.outcome, Outcome::Succeeded);
}

#[test]
fn a_job_leaves_once_and_ends_once() {
    let mut world = World::new();
    let execution = world.started("k1").execution;
    let job = world.release(&execution).unwrap();
    assert_eq!(world.release(&execution).unwrap_err(), Reason::TokenUsed);
    let abort = Command::Abort { execution: execution.clone(), reason: Reason::TokenUsed };
    assert_eq!(world.call(abort.clone()), Err(Reason::IdempotencyInProgress));
    let outcome = outcome_of(&job, &answered(200, json!({"balance": 1})));
    assert!(world.finish(&execution, Some(outcome)).is_ok());
    let gone = Reason::ExecutionNotFound;
    assert_eq!(world.finish(&execution, None).unwrap_err(), gone);
    assert_eq!(world.release(&execution).unwrap_err(), gone);
    assert_eq!(world.call(abort), Err(gone));
    let unknown: ExecutionId = "exe_none".parse().unwrap();
    assert_eq!(world.release(&unknown).unwrap_err(), gone);
}

#[test]
fn an_aborted_execution_releases_nothing() {
    let mut world = World::new();
    let execution = world.started("k1").execution;
    let abort = Command::Abort { execution: execution.clone(), reason: Reason::LogUnavailable };
    let Ok(Answer::Finished(finished)) = world.call(abort) else { panic!() };
    assert_eq!(finished.outcome, Outcome::Aborted);
    assert_eq!(world.release(&execution).unwrap_err(), Reason::ExecutionNotFound);
}

/// An outcome with connections that cannot have been is not believed, whatever else it says.
#[test]
fn connections_that_cannot_have_been_make_an_outcome_unknown() {
    type Lie = fn(&mut Vec<Connection>);
    let lies: [(&str, Lie); 6] = [
        ("another host", |opened| opened[0].host = "evil.example".into()),
        ("another spelling", |opened| opened[0].host = "api.broker.example.".into()),
        ("another port", |opened| opened[0].port = 444),
        ("a second one elsewhere", |opened| {
            opened.push(Connection { port: 80, ..connection() });
        }),
        ("too many", |opened| opened.resize(CONNECTIONS_MAX + 1, connection())),
        ("more bytes than numbers", |opened| opened[0].bytes_in = 1 << 53),
    ];
    let mut world = World::new();
    for (what, lie) in lies {
        let redeemed = world.started(&what.replace(' ', ""));
        let mut outcome = answered(200, json!({"balance": 1}));
        lie(&mut outcome.connections);
        let result = world.run(&redeemed, &outcome);
        assert_eq!((result.outcome, result.result), (Outcome::Unknown, None), "{what}");
        assert_eq!(result.receipt.payload.connections, [], "{what}");
        assert_eq!(world.last_record().about.connections, None, "{what}");
    }
    // As many as there may be, with as many bytes.
    let redeemed = world.started("most");
    let most = Connection { bytes_out: (1 << 53) - 1, ..connection() };
    let outcome = JobOutcome {
        connections: vec![most; CONNECTIONS_MAX],
        ..answered(200, json!({"balance": 1}))
    };
    let result = world.run(&redeemed, &outcome);
    assert_eq!(result.outcome, Outcome::Succeeded);
    assert_eq!(result.receipt.payload.connections, outcome.connections);
}

#[test]
fn receipt_and_record_count_the_connections() {
    let mut world = World::new();
    for (outcome, expected) in [
        (answered(200, json!({"balance": 1})), Some(vec![connection()])),
        (JobOutcome { secret_seen: true, ..answered(200, json!({})) }, Some(vec![connection()])),
        (ended(JobEnd::TimedOut, true), Some(vec![connection()])),
        (ended(JobEnd::Unreachable, false), None),
    ] {
        let redeemed = world.started(&format!("k{}", world.log.len()));
        let receipt = world.run(&redeemed, &outcome).receipt.payload;
        let about = world.last_record().about;
        assert_eq!(about.connections, expected);
        assert_eq!(receipt.connections, expected.unwrap_or_default());
        assert_eq!(receipt.root_file_system, ROOT_FILE_SYSTEM);
        let leaf = String::from_utf8(world.log.last().unwrap().clone()).unwrap();
        assert_eq!(leaf.contains("connections"), outcome.connected(), "left out if there is none");
        let records = world.records();
        let started = &records[usize::try_from(receipt.started).unwrap()].about;
        assert_eq!(started.root_file_system, Some(ROOT_FILE_SYSTEM));
        assert_eq!(about.root_file_system, Some(ROOT_FILE_SYSTEM));
    }
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
