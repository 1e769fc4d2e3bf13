//! The host lies about who it is, what it runs, and who asked.

use serde_json::json;
use toani_protocol::{
    Hash, Reason, TenantId,
    approval::Verdict,
    assurance::AgentLevel,
    canonical,
    instance::Manifest,
    policy::PolicyKeyChange,
    request::{ActionRequest, AgentProof},
    sign::{self, Label, PublicKey, Signed},
    wire::{Answer, Command},
};

use crate::world::*;

#[test]
fn another_manifest_opens_no_root() {
    let mut world = World::new();
    let mut manifest: Manifest = canonical::decode(&world.manifest, usize::MAX).unwrap();
    manifest.operators = vec![PublicKey::of(&signing_key(66))];
    let own = canonical::encode(&manifest).unwrap();
    world.enclave = cold([7; 32], MEASUREMENT);
    assert_eq!(world.boot_under(own.clone()), Err(Reason::RootUnopened));
    assert_eq!(world.boot(), Ok(Answer::Done), "the true one does");

    // A root of the host's own is another instance: what was sealed for the first stays closed.
    let credential = world.credential(2, SECRET);
    let mut own_world =
        World { enclave: cold([7; 32], MEASUREMENT), manifest: own, ..World::born() };
    let own = own_world.manifest.clone();
    assert!(matches!(own_world.birth(own), Ok(Answer::Born { .. })));
    own_world.log.clear();
    own_world.try_finish_boot().unwrap();
    own_world.activate(policy_document(1)).unwrap();
    assert_eq!(own_world.call(credential), Err(Reason::CredentialEnvelope));
}

#[test]
fn another_machine_opens_no_root() {
    let mut world = World::new();
    world.enclave = cold([8; 32], MEASUREMENT);
    assert_eq!(world.boot(), Err(Reason::RootUnopened));
}

#[test]
fn a_root_with_any_byte_changed_does_not_open() {
    let world = World::new();
    for at in 0..world.sealed_root.len() {
        let mut liar = World::with_log(&world, vec![]);
        liar.sealed_root[at] ^= 1;
        assert_eq!(liar.boot(), Err(Reason::RootUnopened), "byte {at}");
    }
    let mut longer = World::with_log(&world, vec![]);
    longer.sealed_root.truncate(10);
    assert_eq!(longer.boot(), Err(Reason::RootUnopened));
}

#[test]
fn another_measurement_or_boot_opens_no_token() {
    for measurement in [MEASUREMENT, Hash::of(b"another program")] {
        let mut world = World::new();
        let (request, token) = world.approved(1, "k1").unwrap();
        world.enclave = cold([7; 32], measurement);
        if measurement != MEASUREMENT {
            // Another program does not even open the root.
            assert_eq!(world.boot(), Err(Reason::RootUnopened));
            continue;
        }
        world.boot().unwrap();
        let leaves = world.log.clone();
        world.ok(Command::Replay { leaves });
        world.try_finish_boot().unwrap();
        world.connect();
        assert_eq!(world.execute(Some(&token), &request), Err(Reason::RequestBoot));
        let request = world.request("buy_stock", request.params.0, "k1");
        assert_eq!(world.execute(Some(&token), &request), Err(Reason::TokenInvalid));
    }
}

#[test]
fn an_approval_does_not_outlive_its_boot() {
    let mut world = World::new();
    let params = json!({"symbol": "ACME", "quantity": 1});
    let action = world.decide(&world.request("buy_stock", params.clone(), "k1")).unwrap().action;
    let statement = world.statement(&action);
    let old = Gesture::new(40, true).evidence("anna", &statement, Verdict::Approve);
    world.reboot();
    assert_eq!(world.approve(&old), Err(Reason::ActionNotFound));
    // The same request again has another statement: the old signature is none over it.
    let action = world.decide(&world.request("buy_stock", params, "k1")).unwrap().action;
    let renamed = toani_protocol::approval::Evidence { action_id: action, ..old };
    assert_eq!(world.approve(&renamed), Err(Reason::ApprovalEvidence));
}

#[test]
fn nobody_is_born_again_under_a_tenants_name() {
    let mut world = World::born();
    let own = sign_policy(policy_document(1), &signing_key(66));
    assert_eq!(world.call(Command::ActivatePolicy { policy: own }), Err(Reason::DocumentSignature));

    world.activate(policy_document(1)).unwrap();
    let own = sign_policy(policy_document(2), &signing_key(66));
    assert_eq!(world.call(Command::ActivatePolicy { policy: own }), Err(Reason::DocumentSignature));

    // After a change of keys the first key is a stranger's, although the name comes from it.
    let key = PublicKey::of(&signing_key(22));
    let change = PolicyKeyChange { tenant: tenant(), sequence: 1, key };
    let signed = Signed::by(&policy_key(), Label::PolicyKey, change).unwrap();
    let change = canonical::encode(&signed).unwrap();
    world.ok(Command::ChangePolicyKey { change: change.clone() });
    assert_eq!(world.activate(policy_document(2)), Err(Reason::DocumentSignature));
    assert_eq!(world.call(Command::ChangePolicyKey { change }), Err(Reason::DocumentSignature));
    let new = sign_policy(policy_document(2), &signing_key(22));
    assert_eq!(world.call(Command::ActivatePolicy { policy: new }), Ok(Answer::Done));
    world.try_reboot().unwrap();
    let own = sign_policy(policy_document(3), &policy_key());
    assert_eq!(world.call(Command::ActivatePolicy { policy: own }), Err(Reason::DocumentSignature));
}

#[test]
fn a_policy_of_an_older_version_does_not_come_back() {
    let mut world = World::new();
    world.activate(policy_document(3)).unwrap();
    for old in [1, 2, 3] {
        assert_eq!(world.activate(policy_document(old)), Err(Reason::DocumentVersion));
    }
    world.reboot();
    assert_eq!(world.activate(policy_document(3)), Err(Reason::DocumentVersion));
    // Not even when the host has lost the newer one.
    world.blobs.clear();
    world.try_reboot().unwrap();
    assert_eq!(world.activate(policy_document(2)), Err(Reason::DocumentVersion));
    assert_eq!(world.activate(policy_document(3)), Ok(Answer::Done), "the lost one again");
}

#[test]
fn a_lost_policy_keeps_its_agents() {
    let mut world = World::new();
    world.blobs.clear();
    world.try_reboot().unwrap();
    let mut other = policy_document(1);
    other["id"] = json!("other");
    assert_eq!(world.activate(other.clone()), Err(Reason::PolicyUnavailable));
    world.activate(policy_document(1)).unwrap();
    assert_eq!(world.activate(other), Err(Reason::PolicyAgentTaken));
}

#[test]
fn an_older_admission_list_does_not_come_back() {
    let mut world = World::new();
    let (bad, good) = (DIGEST, digest(b"mended"));
    let old = world.admission(1, vec![bad]);
    let new = world.admission(2, vec![good]);
    world.ok(new.clone());
    assert_eq!(world.call(old.clone()), Err(Reason::DocumentVersion));
    // The host withholds the newer list at boot, so that its version is not known.
    let kept = std::mem::take(&mut world.blobs);
    world.try_reboot().unwrap();
    assert_eq!(world.call(old), Err(Reason::DocumentVersion));
    assert_eq!(world.try_connect(), Err(Reason::SandboxNotAdmitted));
    // The list itself mends what was lost.
    assert_eq!(world.call(new), Ok(Answer::Done));
    assert_eq!(world.try_connect(), Err(Reason::SandboxNotAdmitted));
    let evidence = world.facts().evidence.clone();
    assert!(world.blobs.iter().all(|(hash, blob)| kept.contains_key(hash) || *blob == evidence));
}

#[test]
fn an_invented_request_of_a_signing_agent_is_refused() {
    let mut world = World::new();
    let request = world.request("read_balance", json!({"account": "x"}), "k1");
    let bytes = canonical::encode(&request).unwrap();
    for proof in [
        AgentProof::Signature(sign::sign(&signing_key(66), Label::Request, &bytes)),
        AgentProof::Signature(sign::Signature([0; 64])),
        AgentProof::ApiKey(String::new()),
        AgentProof::ApiKey("tk_simple".into()),
    ] {
        let request = bytes.clone();
        let execute =
            Command::Execute { token: None, request: request.clone(), proof: proof.clone() };
        assert_eq!(world.call(execute), Err(Reason::AgentProof));
        assert_eq!(world.call(Command::Decide { request, proof }), Err(Reason::AgentProof));
    }
}

/// Once the gateway has seen an API key it can ask for whatever the agent may: the record says
/// `agent: gateway`, and a policy may insist on more.
#[test]
fn what_an_api_key_asks_for_is_called_the_gateways_word() {
    let mut world = World::new();
    let request = ActionRequest {
        agent: "simple".parse().unwrap(),
        ..world.request("read_balance", json!({"account": "x"}), "k1")
    };
    let command = |request: &ActionRequest| Command::Execute {
        token: None,
        request: canonical::encode(request).unwrap(),
        proof: AgentProof::ApiKey("tk_simple".into()),
    };
    let Ok(Answer::Redeemed(redeemed)) = world.call(command(&request)) else { panic!() };
    assert_eq!(world.last_record().about.assurance.unwrap().agent, AgentLevel::Gateway);
    let result = world.run(&redeemed, &answered(200, json!({"balance": 1})));
    assert_eq!(result.receipt.payload.assurance.agent, AgentLevel::Gateway);

    let mut document = policy_document(2);
    document["services"]["broker"]["actions"]["read_balance"]["least"] = json!({"agent": "signed"});
    world.activate(document).unwrap();
    let request = ActionRequest { idempotency_key: "k2".into(), ..request };
    assert_eq!(world.call(command(&request)), Err(Reason::AssuranceAgent));
    assert!(
        world.redeem(None, &world.request("read_balance", json!({"account": "x"}), "k3")).is_ok()
    );
}

#[test]
fn a_stranger_reads_nothing() {
    let mut world = World::new();
    let redeemed = world.started("k1");
    world.run(&redeemed, &answered(200, json!({"balance": 1})));
    let blob = world.blobs[&world.last_record().about.blob.unwrap()].clone();
    let simple = toani_protocol::wire::Read::ApiKey {
        tenant: tenant(),
        agent: "simple".parse().unwrap(),
        key: "tk_simple".into(),
    };
    let execution = redeemed.execution.clone();
    let open = |read, blob| Command::Open { execution: execution.clone(), blob, read };
    let own = world.read(execution.as_str());
    assert_eq!(world.call(open(simple.clone(), blob.clone())), Err(Reason::ExecutionNotFound));
    assert_eq!(world.call(open(own.clone(), b"x".to_vec())), Err(Reason::ExecutionNotFound));
    let other = world.read("exe_another");
    assert_eq!(world.call(open(other, blob.clone())), Err(Reason::RequestMalformed));
    assert!(world.call(open(own, blob)).is_ok());
    let action = redeemed.action;
    assert_eq!(world.call(Command::Poll { action, read: simple }), Err(Reason::ActionNotFound));
}

/// A request that passed here opens what it became, and nothing else of its agent.
#[test]
fn a_request_is_no_key_to_other_results() {
    use toani_protocol::wire::Read;
    let mut world = World::new();
    let mut results = vec![];
    for key in ["k1", "k2"] {
        let redeemed = world.started(key);
        world.run(&redeemed, &answered(200, json!({"balance": 1})));
        let blob = world.blobs[&world.last_record().about.blob.unwrap()].clone();
        results.push((redeemed.execution, blob));
    }
    let (request, proof) = prove(&world.request("read_balance", json!({"account": "x"}), "k2"));
    let read = Read::Asked { request, proof };
    let opened: Vec<bool> = results
        .into_iter()
        .map(|(execution, blob)| {
            world.call(Command::Open { execution, blob, read: read.clone() }).is_ok()
        })
        .collect();
    assert_eq!(opened, [false, true]);
}

#[test]
fn an_export_claims_no_more_than_it_covers() {
    use toani_audit::bundle::{BundleFormat, BundleIndex, FileEntry};
    let mut world = World::new();
    let note = world.durable();
    let Answer::Coverage { last_sequence, .. } = world.ok(Command::Cover { tenant: tenant() })
    else {
        panic!()
    };
    let file = FileEntry { sha256: Hash::of(note.as_bytes()), bytes: note.len() as u64 };
    let index = BundleIndex {
        format: BundleFormat::V1,
        instance: world.facts().instance,
        boot: world.facts().boot.clone(),
        tenant: tenant(),
        from_sequence: 0,
        tenant_last_sequence: last_sequence,
        checkpoint: Hash::of(note.as_bytes()),
        made_at: world.now,
        files: [(String::from("checkpoint"), file)].into(),
    };
    let sign =
        |index: &BundleIndex| Command::SignIndex { index: canonical::encode(index).unwrap() };
    let lies = [
        BundleIndex { tenant_last_sequence: last_sequence - 1, ..index.clone() },
        BundleIndex { tenant_last_sequence: last_sequence + 1, ..index.clone() },
        BundleIndex { checkpoint: Hash::of(b"another"), ..index.clone() },
        BundleIndex { instance: Hash::ZERO, ..index.clone() },
        BundleIndex { tenant: TenantId::of_first_key(&PublicKey::of(&agent())), ..index },
    ];
    for lie in lies {
        let answer = world.call(sign(&lie));
        let refused = [Err(Reason::DocumentVersion), Err(Reason::DocumentMalformed)];
        assert!(refused.contains(&answer), "{lie:?}: {answer:?}");
    }
}
