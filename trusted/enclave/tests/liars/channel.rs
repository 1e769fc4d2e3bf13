//! The host lies about who is at the other end of the channel. The oracle is the liar himself: he
//! holds the keys of his end of the connection, and no job ever comes out of it.

use std::sync::{Arc, Mutex};

use toani_attestation::Evidence;
use toani_protocol::{
    ExecutionId, Hash, Reason, Time,
    assurance::SandboxLevel,
    evidence::{ReportData, Role, report_data, sandbox_report_data},
    instance::{AdmissionList, Product, TcbVersion},
    limits::JOBS_PER_ATTESTATION_MAX,
    record::RecordKind,
    wire::{Answer, Command, LinkState},
};
use toani_simulator::{Chip, Guest, Platform, SnpRevocations, Validity};

use crate::world::*;

const DAY_MS: u64 = 24 * 3_600_000;

/// A world with an execution whose job waits for a channel.
fn waiting() -> (World, ExecutionId) {
    let mut world = World::new();
    let execution = world.started("waiting").execution;
    world.ok(Command::DisconnectSandbox);
    (world, execution)
}

/// Connects a liar: he is refused, and gets nothing.
fn refused(world: &mut World, execution: &ExecutionId, liar: Supervisor, what: &str) {
    world.supervisor = liar;
    let records = world.log.len();
    assert_eq!(world.try_connect(), Err(Reason::SandboxNotAdmitted), "{what}");
    nothing_left(world, execution, what);
    assert_eq!(world.log.len(), records, "{what}: no record says that he was there");
}

fn nothing_left(world: &mut World, execution: &ExecutionId, what: &str) {
    assert_eq!(world.link, LinkState::Ended, "{what}");
    let release = Command::Release { execution: execution.clone() };
    assert_eq!(world.call(release), Err(Reason::SandboxUnavailable), "{what}");
    let _ = world.carry();
    assert!(world.supervisor.jobs.is_empty(), "{what}");
    assert!(!world.supervisor.is_open(), "{what}");
}

/// An honest supervisor gets the job that no liar got.
fn told_the_truth(world: &mut World, execution: &ExecutionId) {
    world.supervisor = Supervisor::new();
    world.connect();
    let job = world.release(execution).unwrap();
    assert_eq!(job.job.credential, SECRET.as_bytes());
}

/// A guest with something about it changed.
fn guest(change: impl Fn(&mut Guest) + Send + Sync + 'static) -> Supervisor {
    Supervisor::showing(move |_, data, now| {
        let mut guest = Guest::new(DIGEST, data);
        change(&mut guest);
        shown(&chip(), &guest, now)
    })
}

/// A machine with something about it changed.
fn machine(chip: Chip) -> Supervisor {
    Supervisor::showing(move |_, data, now| shown(&chip, &Guest::new(DIGEST, data), now))
}

#[test]
fn a_guest_that_is_not_what_was_admitted_gets_nothing() {
    let (mut world, execution) = waiting();
    let was_over = Validity { from: Time::from_ms(0), until: Time::from_ms(DAY_MS) };
    let lies = [
        ("another launch digest", guest(|guest| guest.launch_digest[47] ^= 1)),
        ("a debug guest", guest(|guest| guest.policy |= 1 << 19)),
        ("a migration agent", guest(|guest| guest.policy |= 1 << 18)),
        ("not at VMPL 0", guest(|guest| guest.vmpl = 1)),
        ("an unlisted chip", machine(Chip::number(Product::Milan, 2))),
        (
            "another's VCEK",
            machine(Chip { reported_id: chip().id, ..Chip::number(Product::Milan, 2) }),
        ),
        ("an expired VCEK", machine(Chip { vcek_validity: was_over, ..chip() })),
        (
            "expired revocations",
            Supervisor::showing(|_, data, now| {
                let old = Time::from_ms(now.ms() - 40 * DAY_MS);
                let revocations = SnpRevocations::none(old);
                shown_with(&chip(), &Guest::new(DIGEST, data), &revocations)
            }),
        ),
        (
            "a revoked signer",
            Supervisor::showing(|_, data, now| {
                let revoked = vec![toani_simulator::ASK_SERIAL];
                let revocations = SnpRevocations { revoked, ..SnpRevocations::none(now) };
                shown_with(&chip(), &Guest::new(DIGEST, data), &revocations)
            }),
        ),
        ("no evidence", Supervisor::showing(|_, _, _| Vec::new())),
    ];
    for (what, liar) in lies {
        refused(&mut world, &execution, liar, what);
    }
    told_the_truth(&mut world, &execution);
}

/// The first stage is honest: what is refused is refused by the second.
#[test]
fn the_second_stage_is_judged_like_the_first() {
    let (mut world, execution) = waiting();
    let second = |change: fn(&mut Guest)| {
        Supervisor::showing(move |stage, data, now| {
            let mut guest = Guest::new(DIGEST, data);
            if stage == Stage::Channel {
                change(&mut guest);
            }
            shown(&chip(), &guest, now)
        })
    };
    for (what, liar) in [
        ("another launch digest", second(|guest| guest.launch_digest[0] ^= 1)),
        ("a debug guest", second(|guest| guest.policy |= 1 << 19)),
        ("other report data", second(|guest| guest.report_data[63] ^= 1)),
    ] {
        refused(&mut world, &execution, liar, what);
    }
    told_the_truth(&mut world, &execution);
}

/// What is changed in a list; with a TCB that is newer than the chip's.
type Change = fn(AdmissionList, TcbVersion) -> AdmissionList;

#[test]
fn a_list_that_asks_for_more_is_kept_to() {
    let (mut world, execution) = waiting();
    let base = |world: &World, version| world.admission_list(version);
    let newer = TcbVersion { microcode: 116, ..chip().tcb };
    let lists: [(&str, Change); 6] = [
        ("no sandbox", |list, _| AdmissionList { sandboxes: vec![], ..list }),
        ("no chip", |list, _| AdmissionList { chips: vec![], ..list }),
        ("a newer TCB", |list, newer| AdmissionList { min_tcb: newer, ..list }),
        ("a refused line", |list, _| AdmissionList {
            refused_products: vec![Product::Milan],
            ..list
        }),
        ("newer revocations", |list, _| AdmissionList { min_crl_number: Some(2), ..list }),
        ("no level that this proves", |list, _| AdmissionList {
            sandboxes: vec![admitted(DIGEST, SandboxLevel::Snp)],
            ..list
        }),
    ];
    let mut version = 1;
    for (what, change) in lists {
        version += 1;
        let list = change(base(&world, version), newer);
        world.ok(admit(list));
        refused(&mut world, &execution, Supervisor::new(), what);
    }
    world.ok(admit(base(&world, version + 1)));
    told_the_truth(&mut world, &execution);
}

/// The host shows an honest supervisor's evidence beside a key of its own.
#[test]
fn a_key_that_the_evidence_does_not_name_is_refused() {
    let (mut world, execution) = waiting();
    let instance = world.facts().instance;
    let honest = Supervisor::new();
    let named = honest.key.spki_hash();
    let liar = Supervisor::showing(move |stage, data, now| {
        let named = sandbox_report_data(&instance, &named);
        let data = if stage == Stage::Certificate { named } else { data };
        shown(&chip(), &Guest::new(DIGEST, data), now)
    });
    refused(&mut world, &execution, liar, "another's evidence");
    told_the_truth(&mut world, &execution);
}

/// Evidence of an admitted guest, for the wrong role or the wrong instance.
#[test]
fn swapped_roles_and_other_instances_are_refused() {
    let (mut world, execution) = waiting();
    let instance = world.facts().instance;
    for (what, role, of) in [
        ("the enclave's role", Role::Enclave, instance),
        ("another instance", Role::Sandbox, Hash::of(b"elsewhere")),
    ] {
        let key = Arc::new(Mutex::new(Hash::ZERO));
        let shared = key.clone();
        let liar = Supervisor::showing(move |stage, data, now| {
            let wrong = report_data(role, &of, "", &shared.lock().unwrap());
            let data = if stage == Stage::Certificate { wrong } else { data };
            shown(&chip(), &Guest::new(DIGEST, data), now)
        });
        *key.lock().unwrap() = liar.key.spki_hash();
        refused(&mut world, &execution, liar, what);
    }
    told_the_truth(&mut world, &execution);
}

/// Fresh evidence of the same key and chip, for a connection that is over, or one beside.
#[test]
fn evidence_of_another_connection_is_refused() {
    let (mut world, execution) = waiting();
    let recorded: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let record = recorded.clone();
    let honest = Supervisor::showing(move |stage, data, now| {
        let evidence = shown(&chip(), &Guest::new(DIGEST, data), now);
        if stage == Stage::Channel {
            record.lock().unwrap().push(evidence.clone());
        }
        evidence
    });
    let key = honest.key.clone();
    world.supervisor = honest;
    world.connect();
    let replayed = recorded.lock().unwrap()[0].clone();
    let mut liar = Supervisor::showing(move |stage, data, now| match stage {
        Stage::Certificate => shown(&chip(), &Guest::new(DIGEST, data), now),
        Stage::Channel => replayed.clone(),
    });
    // Even with the key of the one who was honest.
    liar.key = key;
    refused(&mut world, &execution, liar, "replayed");
    told_the_truth(&mut world, &execution);
}

/// The host holds a key of its own on the enclave's side and relays to an honest supervisor: what
/// that one shows is for the connection that it sees.
#[test]
fn a_relay_is_refused() {
    let (mut world, execution) = waiting();
    // Another connection of an honest supervisor, which the host has opened from another life of
    // the enclave.
    let mut beside = World::with_log(&world, world.log.clone());
    beside.try_reboot().unwrap();
    beside.connect();
    let relayed = beside.supervisor.asked[0];
    let liar = Supervisor::showing(move |stage, data, now| {
        let data: ReportData = if stage == Stage::Channel { relayed } else { data };
        shown(&chip(), &Guest::new(DIGEST, data), now)
    });
    refused(&mut world, &execution, liar, "relayed");
    told_the_truth(&mut world, &execution);
}

/// The enclave's own report, or its own evidence, comes back as the supervisor's.
#[test]
fn a_reflection_is_refused() {
    let (mut world, execution) = waiting();
    let own = world.facts().evidence.clone();
    let liar = Supervisor::showing(move |_, _, _| own.clone());
    refused(&mut world, &execution, liar, "its own certificate's evidence");

    for as_snp in [true, false] {
        // Whatever the enclave asks to have quoted, the liar shows.
        let reflected: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
        let shows = reflected.clone();
        world.supervisor = Supervisor::showing(move |stage, data, now| match stage {
            Stage::Certificate => shown(&chip(), &Guest::new(DIGEST, data), now),
            Stage::Channel => shows.lock().unwrap().clone().unwrap_or_default(),
        });
        let facts = world.facts().clone();
        world.supervisor.listen(&facts, world.now);
        world.ok(Command::ConnectSandbox { target: quoting_target() });
        let mut answer = Ok(Answer::Done);
        while answer.is_ok() {
            let to_supervisor = std::mem::take(&mut world.supervisor.inbox);
            // The enclave's report has to be known before the supervisor shows anything.
            if let Ok(Answer::Link { report: Some(report), .. }) = &answer {
                let data = *report[320..].first_chunk::<64>().unwrap();
                let evidence = if as_snp {
                    shown(&chip(), &Guest::new(DIGEST, data), world.now)
                } else {
                    encoded(quoted(&Platform::number(1), report, world.now))
                };
                assert!(Evidence::decode(&evidence).is_ok());
                *reflected.lock().unwrap() = Some(evidence);
            }
            let now = world.now;
            world.supervisor.receive(&to_supervisor, now);
            let bytes = std::mem::take(&mut world.supervisor.outbox);
            answer = world.call(Command::SandboxBytes { bytes });
        }
        assert_eq!(answer, Err(Reason::SandboxNotAdmitted));
        assert_eq!(world.supervisor.asked.len(), 1);
        nothing_left(&mut world, &execution, "reflected");
    }
    told_the_truth(&mut world, &execution);
}

/// A server that speaks TLS 1.2 only: ServerHello with TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256.
#[test]
fn a_downgrade_is_refused() {
    let (mut world, execution) = waiting();
    let hello = [[3, 3].as_slice(), &[7; 32], &[0], &[0xc0, 0x2b], &[0]].concat();
    let length = u8::try_from(hello.len()).unwrap();
    let handshake = [[2, 0, 0, length].as_slice(), &hello].concat();
    let record = [[22, 3, 3, 0, length + 4].as_slice(), &handshake].concat();
    world.supervisor = Supervisor::new();
    world.ok(Command::ConnectSandbox { target: quoting_target() });
    let answer = world.call(Command::SandboxBytes { bytes: record });
    assert_eq!(answer, Err(Reason::SandboxUnavailable));
    nothing_left(&mut world, &execution, "TLS 1.2");
    told_the_truth(&mut world, &execution);
}

/// What a host can do without any key: drop, repeat, reorder and change bytes.
#[test]
fn bytes_that_the_host_changes_end_the_channel() {
    let (mut world, execution) = waiting();
    for _ in 0..8 {
        world.supervisor = Supervisor::new();
        world.connect();
        world.supervisor.send(b"not even an outcome");
        let mut bytes = std::mem::take(&mut world.supervisor.outbox);
        let at = bytes.len() - 1;
        bytes[at] ^= 1;
        assert_eq!(world.call(Command::SandboxBytes { bytes }), Err(Reason::SandboxUnavailable));
        nothing_left(&mut world, &execution, "changed");
    }
    told_the_truth(&mut world, &execution);
}

/// Jobs wait from the change on until both sides have proven again who they are.
#[test]
fn a_change_of_list_or_policy_asks_for_new_evidence() {
    let mut world = World::new();
    let changes: [fn(&World) -> Command; 2] = [
        |world| admit(world.admission_list(2)),
        |_| Command::ActivatePolicy { policy: sign_policy(policy_document(2), &policy_key()) },
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let execution = world.started(&format!("k{i}")).execution;
        let asked = world.supervisor.asked.len();
        world.ok(change(&world));
        let release = Command::Release { execution: execution.clone() };
        assert_eq!(world.link, LinkState::Binding);
        assert_eq!(world.call(release), Err(Reason::SandboxUnavailable), "not yet");
        world.carry().unwrap();
        assert_eq!(world.link, LinkState::Open);
        assert_eq!(world.supervisor.asked.len(), asked + 1);
        world.release(&execution).unwrap();
    }
    // A guest that has become another one meanwhile is out.
    let execution = world.started("last").execution;
    world.supervisor.show = guest(|guest| guest.policy |= 1 << 19).show;
    world.ok(admit(world.admission_list(3)));
    assert_eq!(world.carry(), Err(Reason::SandboxNotAdmitted));
    nothing_left(&mut world, &execution, "no longer itself");
}

#[test]
fn the_supervisor_may_ask_for_new_evidence_too() {
    let mut world = World::new();
    let now = world.now;
    world.supervisor.reattest(now);
    world.carry().unwrap();
    assert_eq!(world.link, LinkState::Open);
    let execution = world.started("k").execution;
    world.release(&execution).unwrap();
    let sandboxes = world.records().iter().filter(|r| r.kind == RecordKind::Sandbox).count();
    assert_eq!(sandboxes, 1, "one connection, one record");
}

#[test]
fn evidence_that_expires_is_asked_for_anew() {
    let mut world = World::new();
    world.now = world.now.plus_ms(31 * DAY_MS);
    let asked = world.supervisor.asked.len();
    world.ok(Command::Tick);
    assert_eq!(world.link, LinkState::Binding, "what proved the supervisor is over");
    world.carry().unwrap();
    assert_eq!((world.link, world.supervisor.asked.len()), (LinkState::Open, asked + 1));
}

#[test]
fn so_many_jobs_and_then_new_evidence() {
    let mut world = World::new();
    let mut document = policy_document(2);
    document["quotas"] = serde_json::json!({});
    world.activate(document).unwrap();
    world.carry().unwrap();
    let asked = world.supervisor.asked.len();
    for i in 1..=JOBS_PER_ATTESTATION_MAX {
        let execution = world.started(&format!("k{i}")).execution;
        world.ok(Command::Release { execution: execution.clone() });
        world.ok(Command::Finish { execution });
        let due = i == JOBS_PER_ATTESTATION_MAX;
        assert_eq!(world.link, if due { LinkState::Binding } else { LinkState::Open }, "{i}");
    }
    let execution = world.started("one-more").execution;
    let release = Command::Release { execution: execution.clone() };
    assert_eq!(world.call(release), Err(Reason::SandboxUnavailable));
    world.carry().unwrap();
    assert_eq!(world.supervisor.asked.len(), asked + 1);
    world.release(&execution).unwrap();
}
