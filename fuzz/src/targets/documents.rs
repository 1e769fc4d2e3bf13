//! Documents: what is read encodes to the bytes that were read.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use toani_policy::{Schema, VerifiedPolicy};
use toani_protocol::{
    approval::Evidence,
    canonical::{self, CanonicalError, Json},
    instance::Manifest,
    job::{ConnectorFrame, ConnectorReply, Job, JobEnd, JobOutcome},
    limits::{DOCUMENT_BYTES_MAX, FRAME_BYTES_MAX, REQUEST_BYTES_MAX},
    policy::Policy,
    record::Record,
    request::{ActionRequest, ReadRequest},
    trust::TrustFile,
    wire,
};

use super::{Target, samples, target, world::*};

/// One spelling: what `read` accepts is what `T` encodes to.
fn one_spelling<T: Serialize>(bytes: &[u8], read: impl Fn(&[u8]) -> Option<T>) {
    if let Some(document) = read(bytes) {
        assert_eq!(samples::bytes(&document), bytes);
    }
}

pub(super) fn canonical() -> Target {
    let world = samples::lived();
    let mut all: Vec<Vec<u8>> = world.log.iter().take(4).cloned().collect();
    all.push(b"[1.5,-0.0,1e-7,{\"\\u20ac\":[],\"\\ufb33\":null}]".to_vec());
    target("canonical", 1, all, |bytes| {
        let parsed = canonical::parse(bytes, DOCUMENT_BYTES_MAX);
        let decoded: Result<Json, CanonicalError> = canonical::decode(bytes, DOCUMENT_BYTES_MAX);
        if let Ok(value) = &parsed {
            let encoded = canonical::encode_value(value).expect("what was parsed can be encoded");
            let again: Json = canonical::decode(&encoded, usize::MAX).expect("and is canonical");
            assert_eq!(canonical::encode_value(&again.0).unwrap(), encoded);
        }
        if let Ok(document) = decoded {
            assert_eq!(canonical::encode(&document).unwrap(), bytes);
            assert!(parsed.is_ok(), "canonical and not JSON");
        }
    })
}

pub(super) fn action_request() -> Target {
    let world = World::new();
    let request = world.request("buy_stock", json!({"symbol": "ACME", "quantity": 3}), "k1");
    let other = world.request("read_balance", json!({"account": "../x"}), "k2");
    let all = vec![samples::bytes(&request), samples::bytes(&other)];
    target("action_request", 1, all, |bytes| {
        one_spelling(bytes, |bytes| ActionRequest::decode(bytes).ok());
        if let Ok(request) = ActionRequest::decode(bytes) {
            assert!(bytes.len() <= REQUEST_BYTES_MAX && request.params.0.is_object());
            request.intent().expect("what was read can be hashed");
        }
    })
}

pub(super) fn read_request() -> Target {
    let world = World::new();
    let wire::Read::Signed { request, .. } = world.read("exe_x") else { panic!() };
    let check = |bytes: &[u8]| one_spelling(bytes, |bytes| ReadRequest::decode(bytes).ok());
    target("read_request", 1, vec![request], check)
}

pub(super) fn evidence() -> Target {
    let mut world = World::new();
    let all = samples::evidence(&mut world, "k1").iter().map(samples::bytes).collect();
    let check = |bytes: &[u8]| one_spelling(bytes, |bytes| Evidence::decode(bytes).ok());
    target("evidence", 1, all, check)
}

pub(super) fn manifest() -> Target {
    let world = World::born();
    let instance = world.facts().instance;
    let own = world.manifest.clone();
    target("manifest", 1, vec![world.manifest], move |bytes| {
        one_spelling(bytes, |bytes| Manifest::decode(bytes).ok());
        assert_eq!(Manifest::id_of(bytes) == instance, bytes == own.as_slice());
    })
}

pub(super) fn trust_file() -> Target {
    let mut world = samples::lived();
    let bundle = samples::bundle(&mut world);
    let trust = samples::trust(&world);
    target("trust_file", 4, vec![samples::bytes(&trust)], move |bytes| {
        let read = |bytes: &[u8]| -> Option<TrustFile> {
            canonical::decode(bytes, DOCUMENT_BYTES_MAX).ok()
        };
        one_spelling(bytes, read);
        let Some(changed) = read(bytes) else { return };
        let believed = toani_verify::verify(&bundle, &changed).is_ok();
        let same = changed.instance == trust.instance
            && changed.log == trust.log
            && changed.mrenclaves.contains(&trust.mrenclaves[0])
            && changed.tenant.is_none_or(|tenant| Some(tenant) == trust.tenant);
        assert!(!believed || same, "a bundle is believed under the trust file of another");
    })
}

pub(super) fn record() -> Target {
    let world = samples::lived();
    let key = world.facts().chain_key;
    let own = world.log.clone();
    target("record", 2, world.log, move |bytes| {
        one_spelling(bytes, |bytes| Record::decode(bytes).ok());
        let Ok(record) = Record::decode(bytes) else { return };
        let signed = record.verify(&key).is_ok();
        assert_eq!(signed, own.iter().any(|leaf| leaf == bytes), "a record of no one's hand");
    })
}

/// Drafts are what people write: any JSON. A valid one can be signed, decides and renders.
pub(super) fn policy_draft() -> Target {
    let world = World::born();
    let request = world.request("buy_stock", json!({"symbol": "ACME", "quantity": 3}), "k1");
    let all = vec![serde_json::to_vec(&policy_document(1)).unwrap()];
    target("policy_draft", 4, all, move |bytes| {
        let Ok(value) = canonical::parse(bytes, DOCUMENT_BYTES_MAX) else { return };
        let Ok(policy) = serde_json::from_value::<Policy>(value) else { return };
        if VerifiedPolicy::check_draft(&policy).is_err() {
            return;
        }
        let Ok(signed) = toani_protocol::sign::Signed::by(
            &policy_key(),
            toani_protocol::sign::Label::Policy,
            policy,
        ) else {
            return;
        };
        let key = toani_protocol::sign::PublicKey::of(&policy_key());
        let bytes = samples::bytes(&signed);
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return;
        }
        let verified = VerifiedPolicy::verify(&bytes, &key).expect("a valid draft is a policy");
        if let Ok(plan) = toani_policy::render(&verified, &request, toani_protocol::Hash::ZERO) {
            let service = &verified.policy().services[&request.service];
            assert_eq!(plan.endpoint, service.endpoint);
            let template = &service.actions[&request.action].request.path;
            assert_eq!(plan.path.matches('/').count(), template.matches('/').count());
        }
    })
}

pub(super) fn schema() -> Target {
    let actions = &policy_document(1)["services"]["broker"]["actions"];
    let mut all: Vec<Vec<u8>> = actions
        .as_object()
        .unwrap()
        .values()
        .map(|action| serde_json::to_vec(&action["params"]).unwrap())
        .collect();
    all.push(
        br#"{"type":"array","minItems":1,"maxItems":3,"items":{"type":"number","minimum":0.5,"enum":[1,2.5]}}"#
            .to_vec(),
    );
    let values: Vec<Value> = vec![
        json!(null),
        json!(1),
        json!(2.5),
        json!("ACME"),
        json!([1, 2.5]),
        json!(true),
        json!({"amount": 1}),
        json!({"symbol": "ACME", "quantity": 1}),
        json!({"account": "x"}),
    ];
    target("schema", 1, all, move |bytes| {
        let Ok(document) = canonical::parse(bytes, DOCUMENT_BYTES_MAX) else { return };
        let Ok(schema) = Schema::compile(&document) else { return };
        for value in &values {
            assert_eq!(schema.accepts(value), schema.accepts(&value.clone()));
        }
        assert!(!schema.accepts(&json!({"no such property": 1})), "objects are closed");
        assert!(!schema.accepts(&json!(null)), "nothing is nullable");
        assert!(!(schema.is_object() && schema.is_scalar()));
    })
}

/// Reads postcard; what is read survives its own encoding.
fn framed<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(message) = wire::decode::<T>(bytes, FRAME_BYTES_MAX) {
        let encoded = wire::encode(&message).expect("what was read can be encoded");
        assert_eq!(wire::decode::<T>(&encoded, usize::MAX).as_ref(), Ok(&message));
    }
}

pub(super) fn frames() -> Target {
    let job = Job { plan: b"{}".to_vec(), credential: SECRET.as_bytes().to_vec() };
    let outcome = answered(200, json!({"balance": 1}));
    let all = vec![
        wire::encode(&job).unwrap(),
        wire::encode(&outcome.end).unwrap(),
        wire::encode(&outcome).unwrap(),
        wire::encode(&ended(JobEnd::TimedOut, true)).unwrap(),
    ];
    target("frames", 1, all, |bytes| {
        framed::<ConnectorFrame>(bytes);
        framed::<ConnectorReply>(bytes);
        framed::<JobOutcome>(bytes);
        framed::<wire::Call>(bytes);
        framed::<wire::Reply>(bytes);
    })
}
