//! The supervisor takes jobs from an enclave of the instance that the operators admit, and from
//! nobody else. The oracle is the upstream: a job that was taken would reach it.
#![cfg(test)]

mod common;

use common::{
    Bench, connector,
    enclave::{Enclave, Link, Stage, list, operator, signed},
    paths,
    upstream::Upstream,
};
use ed25519_dalek::SigningKey;
use toani_protocol::{
    evidence::Role, ids::Hash, instance::AdmissionList, job::JobEnd, policy::Injection,
};
use toani_sandbox::{SpawnError, SupervisorClient, SupervisorPaths, messages::ToSupervisor};
use toani_simulator::{Level, Platform};

async fn refused(enclave: Enclave, what: &str) {
    let upstream = Upstream::start().await;
    let bench = Bench::with(paths(connector()), enclave).await;
    assert_eq!(bench.link.settled().await, Stage::Ended, "{what}");
    let plan = upstream.plan("/ok", Some(Injection::Bearer));
    assert!(bench.try_run(&plan, b"secret").await.is_err(), "{what}");
    assert_eq!(upstream.count(), 0, "{what}");
}

#[tokio::test]
async fn an_enclave_that_is_not_admitted_gives_no_jobs() {
    let honest = Enclave::honest;
    let own = |list: AdmissionList| signed(list, &operator());
    refused(Enclave { mrenclave: [1; 32], ..honest() }, "another program").await;
    refused(Enclave { debug: true, ..honest() }, "a debug enclave").await;
    let platform = Platform { level: Level::Outdated, ..Platform::number(1) };
    refused(Enclave { platform, ..honest() }, "an outdated platform").await;
    let none = own(AdmissionList { enclaves: vec![], ..list(1) });
    refused(Enclave { admission: none, ..honest() }, "no enclave is admitted").await;
}

#[tokio::test]
async fn a_list_or_manifest_that_does_not_hold_begins_nothing() {
    let honest = Enclave::honest;
    let thief = SigningKey::from_bytes(&[66; 32]);
    refused(Enclave { admission: signed(list(1), &thief), ..honest() }, "a thief's list").await;
    let elsewhere = AdmissionList { instance: Hash::of(b"elsewhere"), ..list(1) };
    let elsewhere = signed(elsewhere, &operator());
    refused(Enclave { admission: elsewhere, ..honest() }, "another instance's list").await;
    refused(Enclave { admission: Vec::new(), ..honest() }, "no list").await;
    refused(Enclave { manifest: b"{}".to_vec(), ..honest() }, "no manifest").await;
}

#[tokio::test]
async fn evidence_for_another_role_key_or_connection_is_refused() {
    let honest = Enclave::honest;
    let other_key = Some((Role::Enclave, Hash::of(b"another key")));
    refused(Enclave { stage_1: other_key, ..honest() }, "another key").await;
    let swapped = Some((Role::Sandbox, Hash::of(b"any key")));
    refused(Enclave { stage_1: swapped, ..honest() }, "another role").await;
    let stage_2 = |_| [7; 64];
    refused(Enclave { stage_2, ..honest() }, "another connection").await;
}

/// A newer list asks an open channel for new evidence, and an enclave that it does not name is out.
#[tokio::test]
async fn a_newer_list_is_kept_to() {
    let upstream = Upstream::start().await;
    let bench = Bench::connector().await;
    let plan = upstream.plan("/ok", None);
    let bindings = bench.link.bindings.subscribe();
    assert_eq!(*bindings.borrow(), 1);

    bench.client.send(ToSupervisor::Admission(signed(list(2), &operator()))).unwrap();
    bench.link.bindings.subscribe().wait_for(|count| *count == 2).await.unwrap();
    assert!(matches!(bench.run(&plan, b"").await.end, JobEnd::Response { status: 200, .. }));

    // An older one, or one that nobody has signed, changes nothing.
    bench.client.send(ToSupervisor::Admission(signed(list(1), &operator()))).unwrap();
    bench.client.send(ToSupervisor::Admission(Vec::new())).unwrap();
    assert!(matches!(bench.run(&plan, b"").await.end, JobEnd::Response { status: 200, .. }));
    assert_eq!(*bindings.borrow(), 2);

    let without = AdmissionList { enclaves: vec![Hash::new([1; 32])], ..list(3) };
    bench.client.send(ToSupervisor::Admission(signed(without, &operator()))).unwrap();
    bench.link.bindings.subscribe().wait_for(|count| *count == 3).await.unwrap();
    assert_eq!(bench.link.settled().await, Stage::Ended);
    assert_eq!(upstream.count(), 2);
}

/// Within one life of the supervisor an older list does not come back with a new connection.
#[tokio::test]
async fn an_older_list_does_not_come_back() {
    let started = SupervisorClient::spawn(&paths(connector())).await.unwrap();
    let launch_digest = started.launch_digest.try_into().unwrap();
    let mut messages = started.messages;
    for (connection, version, expected) in
        [(1, 2, Stage::Open), (2, 1, Stage::Ended), (3, 2, Stage::Open)]
    {
        let admission = signed(list(version), &operator());
        let enclave = Enclave { admission, ..Enclave::honest() };
        let link = Link::begin(enclave, connection, started.client.clone(), launch_digest);
        tokio::select! {
            stage = link.settled() => assert_eq!(stage, expected, "version {version}"),
            () = link.clone().take_all(&mut messages) => panic!("the supervisor is gone"),
        }
    }
}

#[tokio::test]
async fn what_is_no_job_ends_the_channel() {
    let bench = Bench::connector().await;
    bench.link.send(b"\xff\xff\xff").await.unwrap();
    let mut ended = bench.link.stages();
    ended.wait_for(|stage| *stage == Stage::Ended).await.unwrap();
}

#[tokio::test]
async fn nobody_vouches_for_a_supervisor_by_default() {
    let paths = SupervisorPaths { simulated_chip: None, ..paths(connector()) };
    match SupervisorClient::spawn(&paths).await {
        Err(SpawnError::CannotStart(why)) => assert!(why.contains("--simulated-chip"), "{why}"),
        other => panic!("{other:?}"),
    }
}
