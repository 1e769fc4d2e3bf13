//! Vectors for other languages, in tests/vectors, and official ones for what we build upon.
//!
//! Our own files hold inputs and what comes of them. They are compared with what this computes;
//! after a deliberate change of a format, `TOANI_WRITE_VECTORS=1` writes them anew.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{fs, path::PathBuf};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use ed25519_dalek::SigningKey;
use pasetors::{
    Local,
    keys::SymmetricKey,
    token::UntrustedToken,
    version4::{LocalToken, V4},
};
use serde_json::{Value, json};
use toani_audit::{checkpoint, tree::Frontier};
use toani_protocol::{
    Hash, TenantId, Time,
    approval::{Statement, Verdict},
    canonical::{self, Json},
    instance::Manifest,
    plan::{Plan, params_commitment},
    policy::{
        AgentKey, Class, Connector, Endpoint, Injection, Method, Tier, TlsTrust, api_key_hash,
    },
    record::{About, Connection, Outcome, PolicyRef, Record, RecordKind},
    request::ActionRequest,
    sign::{self, Label, PublicKey, Signature},
    token,
};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(name)
}

fn read(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(path(name)).unwrap()).unwrap()
}

/// Compares a file with what it should be.
fn pinned(name: &str, expected: Value) {
    if std::env::var_os("TOANI_WRITE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&expected).unwrap();
        fs::write(path(name), format!("{text}\n")).unwrap();
    }
    assert_eq!(read(name), expected, "{name} differs from what this version computes");
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn canonical_json() {
    let mut file = read("canonical.json");
    for case in file["accepted"].as_array_mut().unwrap() {
        let value = canonical::parse(case["input"].as_str().unwrap().as_bytes(), 4096).unwrap();
        let bytes = canonical::encode_value(&value).unwrap();
        let again: Json = canonical::decode(&bytes, 4096).unwrap();
        assert_eq!(canonical::encode_value(&again.0).unwrap(), bytes, "{case}");
        case["canonical"] = json!(text(&bytes));
    }
    for case in file["refused"].as_array().unwrap() {
        let input = case["input"].as_str().unwrap().as_bytes();
        assert!(canonical::parse(input, 4096).is_err(), "{case}");
        assert!(canonical::decode::<Json>(input, 4096).is_err(), "{case}");
    }
    pinned("canonical.json", file);
}

#[test]
fn labels_and_hashes() {
    let labels = [
        Label::Admission,
        Label::HandOver,
        Label::Policy,
        Label::PolicyKey,
        Label::Credential,
        Label::Request,
        Label::Read,
        Label::Statement,
        Label::Approve,
        Label::Deny,
        Label::Receipt,
        Label::Record,
        Label::BundleIndex,
    ];
    let signed: Vec<Value> = labels
        .into_iter()
        .map(|label| {
            json!({
                "label": label.as_str(),
                "message_hex": HEXLOWER.encode(&label.message(b"{}")),
                "signature": sign::sign(&key(7), label, b"{}"),
            })
        })
        .collect();
    let public = PublicKey::of(&key(7));
    let agent_key = canonical::encode(&AgentKey::Ed25519(public)).unwrap();
    pinned(
        "hashes.json",
        json!({
            "seed_hex": HEXLOWER.encode(&[7; 32]),
            "public_key": public,
            "document": "{}",
            "signatures": signed,
            "tenant": TenantId::of_first_key(&public),
            "sha256_of_empty": Hash::of(b""),
            "labelled": {"label": "toani/v1/example", "bytes": "abc",
                         "hash": Hash::of_labelled("toani/v1/example", b"abc")},
            "api_key": {"key": "tk_example", "hash": api_key_hash(b"tk_example")},
            "agent_key": {"canonical": text(&agent_key),
                          "hash": Hash::of_labelled("toani/v1/agent-key", &agent_key)},
            "jti": {"jti": "0b6d9b4c-0000-4000-8000-000000000000",
                    "hash": token::jti_hash("0b6d9b4c-0000-4000-8000-000000000000")},
            "manifest": {"bytes": "{}", "id": Manifest::id_of(b"{}")},
            "times": [
                {"ms": 0, "text": Time::from_ms(0)},
                {"ms": 1_790_000_000_001u64, "text": Time::from_ms(1_790_000_000_001)},
                {"ms": 1_790_000_000_100u64, "text": Time::from_ms(1_790_000_000_100)},
                {"ms": Time::MAX.ms(), "text": Time::MAX},
            ],
        }),
    );
}

fn plan() -> Plan {
    Plan {
        connector: Connector::DirectApi,
        method: Method::Post,
        endpoint: Endpoint { host: "api.example".into(), port: 443, private: false },
        path: "/v1/a%2Fb/orders".into(),
        query: vec![("dry".into(), "1".into()), ("q".into(), "%C3%A9".into())],
        headers: [("x-note".into(), "plain".into())].into(),
        body: Some(Json(
            json!({"quantity": 3, "symbol": "ACME", "price": 12.5, "who": "é\u{202e}"}),
        )),
        injection: Some(Injection::Header("x-key".into())),
        tls: TlsTrust::SpkiSha256(vec![Hash::of(b"key")]),
        success: Some(vec![200, 201]),
        class: Class::default(),
        nonce: Hash::new([9; 32]),
    }
}

fn request() -> ActionRequest {
    ActionRequest {
        instance: Hash::of(b"instance"),
        boot: "boot_example".parse().unwrap(),
        tenant: TenantId::of_first_key(&PublicKey::of(&key(2))),
        agent: "trader".parse().unwrap(),
        user: "customer".parse().unwrap(),
        service: "broker".parse().unwrap(),
        action: "buy_stock".parse().unwrap(),
        params: Json(json!({"symbol": "ACME", "quantity": 3})),
        idempotency_key: "key-1".into(),
        issued_at: Time::from_ms(1_790_000_000_000),
        expires_at: Time::from_ms(1_790_000_060_000),
    }
}

#[test]
fn plans_and_params() {
    let (bytes, hash) = plan().seal().unwrap();
    let params = Json(json!({"symbol": "ACME", "quantity": 3}));
    let nonce = Hash::new([5; 32]);
    let asked = canonical::encode(&request()).unwrap();
    pinned(
        "plan.json",
        json!({
            "plan": {"canonical": text(&bytes), "hash": hash, "target": plan().target()},
            "params": {"params": params, "nonce": nonce,
                       "commitment": params_commitment(&nonce, &params).unwrap()},
            "request": {"canonical": text(&asked), "intent": request().intent().unwrap(),
                        "seed_hex": HEXLOWER.encode(&[4; 32]),
                        "signature": sign::sign(&key(4), Label::Request, &asked)},
        }),
    );
}

#[test]
fn approvals() {
    let request = request();
    let statement = Statement {
        instance: request.instance,
        boot: request.boot,
        action_id: "act_example".parse().unwrap(),
        tenant: request.tenant,
        agent: request.agent,
        user: request.user,
        service: request.service,
        action: request.action,
        params: request.params,
        plan: plan(),
        policy: PolicyRef { id: "p".parse().unwrap(), version: 3, hash: Hash::of(b"policy") },
        tier: Tier::Two,
        approvers: vec!["anna".parse().unwrap(), "ben".parse().unwrap()],
        threshold: 2,
        issued_at: Time::from_ms(1_790_000_000_000),
        expires_at: Time::from_ms(1_790_000_600_000),
    };
    let bytes = canonical::encode(&statement).unwrap();
    let hash = Statement::hash_of(&bytes);
    let answer = |verdict: Verdict| {
        json!({
            "challenge": BASE64URL_NOPAD.encode(verdict.challenge(&hash).as_bytes()),
            "ed25519": sign::sign(&key(5), verdict.label(), hash.as_bytes()),
        })
    };
    pinned(
        "approval.json",
        json!({
            "statement": text(&bytes),
            "hash": hash,
            "seed_hex": HEXLOWER.encode(&[5; 32]),
            "approve": answer(Verdict::Approve),
            "deny": answer(Verdict::Deny),
        }),
    );
}

fn record(index: u64, previous: Hash) -> Vec<u8> {
    let host = "api.example".into();
    let opened =
        Connection { host, port: 443, bytes_out: 700 + index, bytes_in: 9_007_199_254_740_991 };
    let about = About {
        outcome: Some(Outcome::Succeeded),
        count: Some(index),
        root_file_system: Some(Hash::of(b"archive")),
        // The first opened nothing.
        connections: (index > 0).then(|| vec![opened]),
        ..About::default()
    };
    let mut record = Record {
        index,
        origin: "log.example/1".into(),
        previous,
        time: Time::from_ms(1_790_000_000_000 + index),
        boot: "boot_example".parse().unwrap(),
        kind: RecordKind::Finished,
        tee_mrenclave: Hash::of(b"program"),
        evidence: Hash::of(b""),
        admission: Hash::ZERO,
        about,
        chain_signature: Signature([0; 64]),
    };
    let unsigned = record.unsigned_bytes().unwrap();
    record.chain_signature = sign::sign(&key(6), Label::Record, &unsigned);
    canonical::encode(&record).unwrap()
}

#[test]
fn records_and_checkpoints() {
    let (mut frontier, mut previous) = (Frontier::new(), Hash::ZERO);
    let mut records = vec![];
    for index in 0..7 {
        let leaf = record(index, previous);
        previous = Record::hash_of(&leaf);
        frontier.push(previous);
        let note = checkpoint::sign("log.example/1", index + 1, &frontier.root(), &key(6));
        records.push(json!({
            "leaf": text(&leaf), "hash": previous, "root": frontier.root(), "checkpoint": note,
        }));
    }
    pinned(
        "audit.json",
        json!({
            "origin": "log.example/1",
            "seed_hex": HEXLOWER.encode(&[6; 32]),
            "public_key": PublicKey::of(&key(6)),
            "key_id_hex": HEXLOWER.encode(&checkpoint::key_id("log.example/1", &PublicKey::of(&key(6)))),
            "empty_root": toani_audit::tree::empty_root(),
            "records": records,
        }),
    );
}

/// The official vectors, opened as Action Tokens are: footer and implicit assertion are given, and
/// what must fail fails.
#[test]
fn paseto_v4_local() {
    let file = read("paseto-v4.json");
    let cases = file["tests"].as_array().unwrap();
    let must_fail = cases.iter().filter(|case| case["expect-fail"] == true).count();
    assert!(cases.len() - must_fail >= 9 && must_fail >= 3, "the vectors are there");
    for case in cases {
        let field = |name: &str| case[name].as_str().unwrap_or_default();
        let key = HEXLOWER.decode(field("key").as_bytes()).unwrap();
        let key = SymmetricKey::<V4>::from(&key).unwrap();
        // A part that is empty is absent.
        let part = |name| Some(field(name).as_bytes()).filter(|bytes| !bytes.is_empty());
        let (footer, assertion) = (part("footer"), part("implicit-assertion"));
        let payload = UntrustedToken::<Local, V4>::try_from(field("token")).and_then(|token| {
            let trusted = LocalToken::decrypt(&key, &token, footer, assertion)?;
            Ok(trusted.payload().to_owned())
        });
        match case["expect-fail"].as_bool().unwrap() {
            true => assert!(payload.is_err(), "{}", case["name"]),
            false => assert_eq!(payload.unwrap(), field("payload"), "{}", case["name"]),
        }
    }
}

/// And none of them opens with a byte changed, or under another footer or assertion.
#[test]
fn paseto_v4_local_is_bound_to_all_of_its_parts() {
    for case in read("paseto-v4.json")["tests"].as_array().unwrap() {
        let field = |name: &str| case[name].as_str().unwrap_or_default().to_owned();
        let key = HEXLOWER.decode(field("key").as_bytes()).unwrap();
        let key = SymmetricKey::<V4>::from(&key).unwrap();
        let opens = |token: &str, footer: &str, assertion: &str| {
            UntrustedToken::<Local, V4>::try_from(token).is_ok_and(|token| {
                let (footer, assertion) = (footer.as_bytes(), assertion.as_bytes());
                LocalToken::decrypt(&key, &token, Some(footer), Some(assertion)).is_ok()
            })
        };
        let (token, footer, assertion) =
            (field("token"), field("footer"), field("implicit-assertion"));
        assert!(!opens(&token, &format!("{footer} "), &assertion));
        assert!(!opens(&token, &footer, &format!("{assertion} ")));
        for at in 9..token.len() {
            let mut altered = token.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'Q' } else { b'A' };
            let altered = String::from_utf8(altered).unwrap();
            assert!(!opens(&altered, &footer, &assertion), "{}, byte {at}", case["name"]);
        }
    }
}
