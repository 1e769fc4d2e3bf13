//! The plane through its interfaces: real processes, a real log, and clients of all kinds.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::time::Duration;

use common::{Instance, LIMIT, Running, policy, request, tenant, with_key};
use serde_json::{Value, json};
use toani_gateway::Exit;
use toani_protocol::{
    approval::{Statement, Verdict},
    canonical,
    instance::SgxPolicy,
    limits::EVIDENCE_RETENTION_MS,
    sign::{self, PublicKey},
    trust::TrustFile,
};

/// A port that nobody listens on.
fn closed_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// What a stranger would have been given, made up from what the plane says.
async fn trust(plane: &Running) -> TrustFile {
    let facts = plane.ask("GET", "/v1/instance", &[], None).await.json();
    let trust = json!({
        "format": "toani-trust/1",
        "instance": facts["instance"],
        "tenant": tenant(),
        "mrenclaves": [facts["mrenclave"]],
        "log": {"origin": facts["log_origin"], "key": facts["chain_key"]},
        "intake_key": facts["intake_key"],
        "sgx_roots": [common::sgx_root()], "sgx_policy": SgxPolicy::up_to_date(),
        "snp_roots": [], "witnesses": [], "witness_quorum": 0
    });
    serde_json::from_value(trust).unwrap()
}

async fn post(plane: &Running, path: &str, key: &str, body: &Value) -> common::Answer {
    let headers = with_key(key);
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    plane.ask("POST", path, &headers, Some(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_action_from_birth_to_bundle_and_across_a_restart() {
    let instance = Instance::born().await;
    let plane = Running::start(instance.config()).await;
    assert_eq!(plane.ask("GET", "/healthz", &[], None).await.status, 200);
    plane.set_up(&instance, &policy(1, closed_port())).await;

    // Decide, redeem, and redeem again.
    let decided = post(&plane, "/v1/actions", "k1", &request("look")).await;
    assert_eq!(decided.status, 200, "{decided:?}");
    let token = decided.json()["token"].clone();
    let redeem = json!({"token": token, "request": request("look")});
    // The token is bound to its request, which the gateway completed; asked anew it is another.
    let other = post(&plane, "/v1/executions", "k1", &redeem).await;
    assert!([200, 403].contains(&other.status), "{other:?}");

    // Tier 0 alone, then the same key again.
    let first = post(&plane, "/v1/executions", "k2", &request("look")).await;
    assert_eq!(first.status, 200, "{first:?}");
    let result = first.json();
    assert_eq!(result["outcome"], "unreachable", "{result}");
    let again = post(&plane, "/v1/executions", "k2", &request("look")).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert!(again.head.to_lowercase().contains("idempotent-replayed: true"), "{again:?}");
    assert_eq!(again.body, first.body, "the same answer");
    let id = result["execution_id"].as_str().unwrap();
    let who = format!("?tenant={}&agent=simple", tenant());
    let headers = with_key("x");
    let read = [(headers[0].0, headers[0].1.as_str())];
    let path = format!("/v1/executions/{id}{who}");
    let looked = plane.ask("GET", &path, &read, None).await;
    assert_eq!(looked.body, first.body, "{looked:?}");

    // Denied, with a reason.
    let denied = post(&plane, "/v1/actions", "k3", &request("steal")).await;
    assert_eq!((denied.status, denied.code().as_str()), (403, "action_unknown"), "{denied:?}");

    // Lists, proofs and a bundle.
    let rows = plane.administer("GET", "/admin/v1/executions", None).await.json();
    assert!(!rows["executions"].as_array().unwrap().is_empty(), "{rows}");
    let rows = plane.ask("GET", &format!("/v1/policies?tenant={}", tenant()), &[], None).await;
    assert_eq!(rows.json()["policies"][0]["state"], "active");
    let proof = plane.ask("GET", "/v1/audit/proof?index=0", &[], None).await;
    assert_eq!(proof.status, 200, "{proof:?}");
    let wanted = json!({"tenant": tenant()});
    let bundle = plane.administer("POST", "/admin/v1/audit/export", Some(&wanted)).await;
    assert_eq!(bundle.status, 200, "{bundle:?}");
    assert!(bundle.head.contains("application/x-tar"));
    let verified = toani_verify::verify(&bundle.body, &trust(&plane).await).unwrap();
    assert!(verified.report().receipts >= 1, "{:?}", verified.report());

    // A new boot: the same key still gets the same answer.
    assert_eq!(plane.stop().await, Exit::Stopped);
    let plane = Running::start(instance.config()).await;
    plane.until("/readyz", 200).await;
    let again = post(&plane, "/v1/executions", "k2", &request("look")).await;
    assert_eq!(again.body, first.body, "{again:?}");
    assert_eq!(plane.stop().await, Exit::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hostile_or_too_much_is_refused() {
    let instance = Instance::born().await;
    let mut config = instance.config();
    config.rate_per_agent = toani_gateway::Rate { per_second: 1, burst: 3 };
    let plane = Running::start(config).await;
    plane.set_up(&instance, &policy(1, closed_port())).await;

    let rebound = b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(plane.raw(rebound).await.code(), "host");
    let form = b"POST /v1/actions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(plane.raw(form).await.code(), "content_type");
    let long =
        format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(70_000));
    assert_eq!(plane.raw(long.as_bytes()).await.status, 431);
    let big = json!({"params": "a".repeat(300_000)});
    assert_eq!(post(&plane, "/v1/actions", "k", &big).await.code(), "body_too_large");
    let plain = json!({"value": "hunter2"});
    let refused = plane.ask("POST", "/v1/vault/credentials", &[], Some(&plain)).await;
    assert_eq!(refused.code(), "plaintext_credential");
    let refused = plane.administer("PUT", "/admin/v1/credentials", Some(&plain)).await;
    assert_eq!(refused.code(), "plaintext_credential");
    let unsigned = json!({"payload": {}, "signatures": []});
    let refused = plane.administer("PUT", "/admin/v1/policies", Some(&unsigned)).await;
    assert_eq!(refused.code(), "document_malformed");
    assert_eq!(plane.ask("GET", "/v2", &[], None).await.code(), "route_not_found");
    assert_eq!(plane.ask("DELETE", "/v1/actions", &[], None).await.code(), "method_not_allowed");
    let proof = plane.ask("GET", "/v1/audit/proof?index=99999999&size=1", &[], None).await;
    assert_eq!(proof.status, 400, "{proof:?}");

    // Strangers do not use up an agent's rate.
    for _ in 0..6 {
        let stranger = [("Authorization", "Bearer not-its-key"), ("Idempotency-Key", "s")];
        let refused = plane.ask("POST", "/v1/actions", &stranger, Some(&request("look"))).await;
        assert_eq!(refused.code(), "agent_proof", "{refused:?}");
    }
    let mut codes = Vec::new();
    for i in 0..6 {
        let answer = post(&plane, "/v1/actions", &format!("r{i}"), &request("look")).await;
        codes.push(answer.status);
        if answer.status == 429 {
            assert!(answer.head.to_lowercase().contains("retry-after: "), "{answer:?}");
        }
    }
    assert!(codes.contains(&429) && codes.contains(&200), "{codes:?}");
    let document = plane.ask("GET", "/openapi.json", &[], None).await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(document["paths"]["/v1/executions"]["post"].is_object());
    assert_eq!(plane.stop().await, Exit::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_without_a_result_is_its_agents() {
    // It takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let instance = Instance::born().await;
    let plane = Running::start(instance.config()).await;
    plane.set_up(&instance, &policy(1, port)).await;
    let headers = with_key("waits");
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let stream = plane.begin("POST", "/v1/executions", &headers, &request("look")).await;
    plane.until_execution("state", "started").await;

    let rows = plane.administer("GET", "/admin/v1/executions", None).await.json();
    let id = rows["executions"][0]["execution_id"].as_str().unwrap();
    let path = format!("/v1/executions/{id}?tenant={}&agent=simple", tenant());
    let own = plane.ask("GET", &path, &headers[..1], None).await;
    assert_eq!((own.status, own.json()["outcome"].clone()), (202, json!("running")), "{own:?}");
    let stranger = [("Authorization", "Bearer not-its-key")];
    let refused = plane.ask("GET", &path, &stranger, None).await;
    assert_eq!(refused.code(), "agent_proof", "{refused:?}");
    drop(stream);
    assert_eq!(plane.stop().await, Exit::Stopped);
}

/// Else who ends the process in between leaves the record of a result that nobody has. And where
/// power is lost, which takes the last blobs with it, the same request is still told its outcome.
#[tokio::test(flavor = "multi_thread")]
async fn no_record_is_in_the_log_before_what_it_names_is_kept() {
    let instance = Instance::born().await;
    let plane = Running::start(instance.config()).await;
    plane.set_up(&instance, &policy(1, closed_port())).await;
    let logged = async || {
        let records = plane.ask("GET", "/v1/audit/records?from=0", &[], None).await.json();
        records["records"].as_array().unwrap().len()
    };
    // The day's salt is there from then on.
    post(&plane, "/v1/executions", "before", &request("look")).await;
    let store = rusqlite::Connection::open(instance.data.path().join("store.sqlite")).unwrap();
    let before = logged().await;
    let keep = |sql| store.execute_batch(sql).unwrap();

    // Nothing can be written to the store for a while.
    keep("BEGIN IMMEDIATE");
    let body = request("look");
    let mut asked = Box::pin(post(&plane, "/v1/executions", "k", &body));
    let early = tokio::time::timeout(Duration::from_millis(500), asked.as_mut()).await;
    assert!(early.is_err(), "{early:?}");
    assert_eq!(logged().await, before);
    keep("ROLLBACK");
    let answer = asked.await;
    assert_eq!((answer.status, answer.json()["outcome"].clone()), (200, json!("unreachable")));
    assert!(logged().await > before);

    keep("DELETE FROM blobs WHERE delete_after IS NOT NULL");
    let again = post(&plane, "/v1/executions", "k", &body).await;
    let summary = json!({
        "action_id": answer.json()["action_id"],
        "execution_id": answer.json()["execution_id"],
        "outcome": "unreachable",
    });
    assert_eq!((again.status, again.json()), (200, summary.clone()), "{again:?}");
    assert!(again.head.to_lowercase().contains("idempotent-replayed: true"), "{again:?}");
    let id = summary["execution_id"].as_str().unwrap();
    let path = format!("/v1/executions/{id}?tenant={}&agent=simple", tenant());
    let headers = with_key("k");
    let read = |key| [(headers[0].0, key)];
    let looked = plane.ask("GET", &path, &read(headers[0].1.as_str()), None).await;
    assert_eq!((looked.status, looked.json()), (200, summary), "{looked:?}");
    let refused = plane.ask("GET", &path, &read("Bearer not-its-key"), None).await;
    assert_eq!(refused.code(), "agent_proof", "{refused:?}");
    assert_eq!(plane.stop().await, Exit::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_enclave_ends_the_boot_and_the_next_one_goes_on() {
    let instance = Instance::born().await;
    let mut plane = Running::start(instance.config()).await;
    plane.set_up(&instance, &policy(1, closed_port())).await;
    common::kill_child("toani-simulator", instance.data.path().to_str().unwrap());
    assert_eq!(plane.exit().await, Exit::EnclaveLost);
    let plane = Running::start(instance.config()).await;
    tokio::time::timeout(LIMIT, plane.until("/readyz", 200)).await.unwrap();
    let answer = post(&plane, "/v1/executions", "k", &request("look")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(plane.stop().await, Exit::Stopped);
}

/// A store of another log, or an empty one, disables everything: then nothing starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_does_not_start_with_a_store_that_knows_none_of_it() {
    let instance = Instance::born().await;
    let plane = Running::start(instance.config()).await;
    plane.set_up(&instance, &policy(1, closed_port())).await;
    assert_eq!(plane.stop().await, Exit::Stopped);
    for entry in std::fs::read_dir(instance.data.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("store.sqlite") {
            std::fs::remove_file(path).unwrap();
        }
    }
    std::fs::write(instance.data.path().join("store.sqlite"), b"").unwrap();
    let started = toani_gateway::serve(instance.config(), std::future::pending(), |_| {});
    let refused = tokio::time::timeout(LIMIT, started).await.unwrap();
    assert!(matches!(refused, Err(toani_gateway::BootError::StoreLost)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_lasts_proves_itself_again() {
    let instance = Instance::born().await;
    let mut config = instance.config();
    config.renew_every = std::time::Duration::from_millis(20);
    let plane = Running::start(config).await;
    plane.set_up(&instance, &policy(1, closed_port())).await;
    let proven = async || {
        let status = plane.administer("GET", "/admin/v1/status", None).await.json();
        status["proven_at"].as_str().unwrap().to_owned()
    };
    let first = proven().await;
    let renewed = async {
        while proven().await == first {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, renewed).await.unwrap();
    let answer = post(&plane, "/v1/executions", "k", &request("look")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(plane.stop().await, Exit::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_are_each_answered_once() {
    const AGENTS: usize = 48;
    let instance = Instance::born().await;
    let mut config = instance.config();
    config.executions_at_once = 8;
    let plane = std::sync::Arc::new(Running::start(config).await);
    plane.set_up(&instance, &policy(1, closed_port())).await;
    let mut asking = tokio::task::JoinSet::new();
    for i in 0..AGENTS {
        let plane = plane.clone();
        asking.spawn(async move {
            // Every key comes twice.
            let key = format!("k{}", i / 2);
            let answer = post(&plane, "/v1/executions", &key, &request("look")).await;
            (answer.status, answer.json())
        });
    }
    let mut executions = std::collections::BTreeSet::new();
    while let Some(answer) = asking.join_next().await {
        let (status, body) = answer.unwrap();
        assert!([200, 409].contains(&status), "{body}");
        executions.insert(body["execution_id"].as_str().unwrap().to_owned());
    }
    assert_eq!(executions.len(), AGENTS / 2, "one execution for each key");
    let plane = std::sync::Arc::into_inner(plane).unwrap();
    assert_eq!(plane.stop().await, Exit::Stopped);
}

/// More than the enclave ends in one step. Every one has a definite end after the restart, for its
/// agent and for its approvers.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_ends_with_its_boot_and_says_so() {
    const EACH: usize = 550;
    let instance = Instance::born().await;
    let plane = std::sync::Arc::new(Running::start(instance.config()).await);
    plane.set_up(&instance, &policy(1, closed_port())).await;
    let mut asking = tokio::task::JoinSet::new();
    let at_once = std::sync::Arc::new(tokio::sync::Semaphore::new(64));
    for n in 0..2 * EACH {
        let (plane, at_once) = (plane.clone(), at_once.clone());
        asking.spawn(async move {
            let _place = at_once.acquire().await.unwrap();
            let agent = if n % 2 == 0 { "simple" } else { "other" };
            let mut request = request("buy");
            request["agent"] = json!(agent);
            let asked = post(&plane, "/v1/actions", &format!("k{n}"), &request).await;
            assert_eq!(asked.status, 202, "{asked:?}");
            (agent, asked.json()["action_id"].as_str().unwrap().to_owned())
        });
    }
    let pending = asking.join_all().await;
    let with_token = post(&plane, "/v1/actions", "token", &request("look")).await.json();
    let asked = post(&plane, "/v1/actions", "spent", &request("look")).await.json();
    let redeem = json!({"token": asked["token"], "request": request("look")});
    let spent = post(&plane, "/v1/executions", "spent", &redeem).await;
    assert_eq!(spent.status, 200, "{spent:?}");
    let plane = std::sync::Arc::into_inner(plane).unwrap();
    assert_eq!(plane.stop().await, Exit::Stopped);

    let plane = Running::start(instance.config()).await;
    let headers = with_key("x");
    let read = [(headers[0].0, headers[0].1.as_str())];
    let path =
        |agent: &str, id: &str| format!("/v1/actions/{id}?tenant={}&agent={agent}", tenant());
    for (agent, id) in pending.iter().step_by(97) {
        let looked = plane.ask("GET", &path(agent, id), &read, None).await;
        assert_eq!(looked.status, 200, "{looked:?}");
        let (state, reason) = (looked.json()["state"].clone(), looked.json()["reason"].clone());
        assert_eq!((state, reason), (json!("ended"), json!("boot_ended")));
        assert!(looked.json()["detail"].as_str().unwrap().ends_with('.'), "{looked:?}");
        let shown = plane.ask("GET", &format!("/v1/approvals/{id}"), &[], None).await;
        assert_eq!((shown.status, shown.code().as_str()), (503, "boot_ended"), "{shown:?}");
        // It is its agent's alone, with its key.
        let other = if *agent == "simple" { "other" } else { "simple" };
        let looked = plane.ask("GET", &path(other, id), &read, None).await;
        assert_eq!(looked.code(), "action_not_found", "{looked:?}");
        let wrong = [("Authorization", "Bearer wrong")];
        let looked = plane.ask("GET", &path(agent, id), &wrong, None).await;
        assert_eq!(looked.code(), "agent_proof", "{looked:?}");
    }
    let id = with_token["action_id"].as_str().unwrap();
    let looked = plane.ask("GET", &path("simple", id), &read, None).await;
    assert_eq!(looked.json()["reason"], "boot_ended", "{looked:?}");
    let shown = plane.ask("GET", &format!("/v1/approvals/{id}"), &[], None).await;
    assert_eq!(shown.code(), "boot_ended", "{shown:?}");
    // What was redeemed did not end with the boot.
    let id = asked["action_id"].as_str().unwrap();
    let looked = plane.ask("GET", &path("simple", id), &read, None).await;
    assert_eq!(looked.json()["state"], "executed", "{looked:?}");
    assert_eq!(looked.json()["execution_id"], spent.json()["execution_id"], "{looked:?}");

    // A stranger reads the same in the records, one for each.
    let wanted = json!({"tenant": tenant()});
    let bundle = plane.administer("POST", "/admin/v1/audit/export", Some(&wanted)).await;
    toani_verify::verify(&bundle.body, &trust(&plane).await).unwrap();
    let ends = bundle.body.windows(10).filter(|word| word == b"boot_ended").count();
    assert_eq!(ends, 2 * EACH + 1);
    let waits = plane.administer("GET", "/admin/v1/approvals", None).await.json();
    assert_eq!(waits["approvals"], json!([]));
    assert_eq!(plane.stop().await, Exit::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_found_by_day_until_they_are_forgotten() {
    let instance = Instance::born().await;
    let plane = Running::start(instance.config()).await;
    plane.set_up(&instance, &policy(1, closed_port())).await;
    let asked = post(&plane, "/v1/actions", "k1", &request("buy")).await;
    assert_eq!(asked.status, 202, "{asked:?}");
    let records = plane.ask("GET", "/v1/audit/records?limit=1000", &[], None).await.json();
    let record = records["records"].as_array().unwrap().last().unwrap().clone();
    let day = &record["time"].as_str().unwrap()[..10];
    let find = async |plane: &Running, day: &str| {
        let body = json!({"tenant": tenant(), "user": "simple", "day": day});
        plane.administer("POST", "/admin/v1/audit/user", Some(&body)).await
    };
    let forget = async |plane: &Running, through: &str| {
        let body = json!({"tenant": tenant(), "through": through});
        plane.administer("POST", "/admin/v1/audit/forget", Some(&body)).await
    };
    assert_eq!(find(&plane, day).await.json()["user"], record["user"]);
    assert_eq!(find(&plane, "2020-02-30").await.code(), "document_malformed");
    assert_eq!(find(&plane, "2020-02-02").await.code(), "day_unknown");
    assert_eq!(forget(&plane, "9999-01-01").await.code(), "day_unknown");
    assert_eq!(forget(&plane, day).await.status, 200);
    assert_eq!(find(&plane, day).await.code(), "day_forgotten");
    assert_eq!(find(&plane, "2020-02-02").await.code(), "day_forgotten");
    let public = plane.ask("POST", "/admin/v1/audit/forget", &[], Some(&json!({}))).await;
    assert_eq!(public.status, 404, "{public:?}");
    assert_eq!(plane.stop().await, Exit::Stopped);

    let plane = Running::start(instance.config()).await;
    assert_eq!(find(&plane, day).await.code(), "day_forgotten");
    assert_eq!(plane.stop().await, Exit::Stopped);
}

/// What opens the records' commitments goes into a bundle when it is asked for, and a stranger sees
/// what was asked and who said yes or no.
#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_is_shown_what_was_asked_and_who_answered() {
    let instance = Instance::born().await;
    let plane = Running::start(instance.config()).await;
    plane.set_up(&instance, &policy(1, closed_port())).await;
    let mut wanted = vec![];
    for (key, verdict) in [("yes", Verdict::Approve), ("no", Verdict::Deny)] {
        let asked = post(&plane, "/v1/actions", key, &request("buy")).await.json();
        let id = asked["action_id"].as_str().unwrap().to_owned();
        let path = format!("/v1/approvals/{id}");
        let statement = plane.ask("GET", &path, &[], None).await.json();
        let statement = canonical::encode_value(&statement["payload"]).unwrap();
        let hash = Statement::hash_of(&statement);
        let signature = sign::sign(&common::operator(), verdict.label(), hash.as_bytes());
        let evidence = json!({
            "action_id": id, "person": "clara", "verdict": verdict,
            "key": {"ed25519": PublicKey::of(&common::operator())}, "proof": {"ed25519": signature}
        });
        let answered = plane.ask("POST", &path, &[], Some(&evidence)).await;
        assert_eq!(answered.status, 200, "{answered:?}");
        wanted.push(id);
    }
    let direct = post(&plane, "/v1/executions", "direct", &request("look")).await.json();
    wanted.push(direct["execution_id"].as_str().unwrap().to_owned());
    let export = async |plane: &Running, disclose: &[String]| {
        let body = json!({"tenant": tenant(), "disclose": disclose});
        plane.administer("POST", "/admin/v1/audit/export", Some(&body)).await
    };
    let bundle = export(&plane, &wanted).await;
    assert_eq!(bundle.status, 200, "{bundle:?}");
    let verified = toani_verify::verify(&bundle.body, &trust(&plane).await).unwrap();
    let mut said: Vec<_> = verified
        .report()
        .disclosed
        .iter()
        .map(|shown| {
            let answers =
                shown.answers.iter().map(|answer| (answer.person.to_string(), answer.verdict));
            (shown.action.as_ref().unwrap().to_string(), answers.collect::<Vec<_>>())
        })
        .collect();
    said.sort_by_key(|(action, answers)| {
        (action.clone(), answers.first().map(|(_, verdict)| *verdict == Verdict::Deny))
    });
    let clara = |verdict| ("buy".to_owned(), vec![("clara".to_owned(), verdict)]);
    let expected = [clara(Verdict::Approve), clara(Verdict::Deny), ("look".to_owned(), vec![])];
    assert_eq!(said, expected);
    let text = toani_verify::verified_text(verified.report());
    assert!(
        text.contains("approved by clara (key)") && text.contains("denied by clara (key)"),
        "{text}"
    );
    let without = export(&plane, &[]).await;
    let verified = toani_verify::verify(&without.body, &trust(&plane).await).unwrap();
    assert_eq!(verified.report().disclosed, []);
    let unknown = export(&plane, &["act_unknown".to_owned()]).await;
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "disclosure_not_found"));
    assert_eq!(plane.stop().await, Exit::Stopped);

    // Its time is over.
    let later = toani_enclave_host::now().plus_ms(EVIDENCE_RETENTION_MS + 1_000);
    let held = toani_store::DataFolder::open(instance.data.path()).unwrap();
    let store = toani_store::Store::open(&held).unwrap();
    assert!(store.delete_expired(later).await.unwrap() > 0);
    drop((store, held));
    let plane = Running::start(instance.config()).await;
    let deleted = export(&plane, &wanted).await;
    assert_eq!((deleted.status, deleted.code().as_str()), (410, "disclosure_deleted"));
    assert_eq!(plane.stop().await, Exit::Stopped);
}
