//! Policies, requests and situations at random.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of the world")]

use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use serde_json::{Value, json};
use toani_policy::{CredentialView, Decision, QuotaKey, Situation, Usage, VerifiedPolicy, decide};
use toani_protocol::{
    Hash, TenantId, Time,
    assurance::{AgentLevel, Assurance, SandboxLevel, Tee},
    canonical::{self, Json},
    policy::{Endpoint, Injection, Policy, QuotaWindow, TlsTrust},
    request::ActionRequest,
    sign::{Label, PublicKey, Signed},
};

pub const NOW_MS: u64 = 1_790_000_000_000;

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub fn tenant() -> TenantId {
    TenantId::of_first_key(&PublicKey::of(&key(1)))
}

pub fn verified(document: Value) -> VerifiedPolicy {
    let policy: Policy = serde_json::from_value(document).unwrap();
    let signed = Signed::by(&key(1), Label::Policy, policy).unwrap();
    let bytes = canonical::encode(&signed).unwrap();
    VerifiedPolicy::verify(&bytes, &PublicKey::of(&key(1))).unwrap()
}

fn time(ms: u64) -> Time {
    Time::from_ms(ms)
}

fn person(index: u8) -> Value {
    let passkey = |software: bool| {
        let mut point = vec![4u8];
        point.extend([index; 64]);
        json!({"passkey": {
            "key": format!("es256:{}", base64url(&point)), "rp_id": "a.example",
            "origins": ["https://a.example"], "software": software,
        }})
    };
    let keys = match index % 3 {
        0 => vec![json!({"ed25519": PublicKey::of(&key(100 + index))})],
        1 => vec![passkey(true)],
        _ => vec![passkey(false), json!({"ed25519": PublicKey::of(&key(100 + index))})],
    };
    json!({ "keys": keys })
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=group.len()].copy_from_slice(group);
        let word = u32::from_be_bytes(word);
        for i in 0..=group.len() {
            let index = (word >> (18 - 6 * i)) & 63;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}

prop_compose! {
    /// A policy with one service of two actions, `a` and `b`.
    pub fn documents()(
        tiers in [0u8..3, 0u8..3],
        raise in prop::option::of((0i64..100, 0u8..3)),
        threshold in 1u8..3,
        least in prop::sample::select(vec![
            json!({}), json!({}), json!({}), json!({}), json!({"sandbox": "gvisor"}), json!({"agent": "signed"}),
            json!({"tee": "simulator"}), json!({"approval": "software"}),
            json!({"approval": "passkey"}),
        ]),
        limit in 0u64..200,
        count in 0u64..30,
        window in prop::option::weighted(0.3, (0u64..2000, 1u64..2000)),
        bounds in (0i64..50, 50i64..100),
        behind in prop::bool::ANY,
        least_version in 1u64..3,
        validity in (0u64..1500, 2000u64..4000),
    ) -> Value {
        let around = NOW_MS - 1000;
        let windows = window.map(|(from, long)| {
            json!([{"from": time(around + from), "until": time(around + from + long)}])
        });
        let action = |tier: u8| json!({
            "params": {"type": "object", "properties": {
                "n": {"type": "integer", "minimum": bounds.0, "maximum": bounds.1},
                "s": {"type": "string", "maxLength": 8}}, "required": ["n"]},
            "request": {"method": "POST", "path": "/v1/x", "body": {"n": {"$param": "n"}}},
            "tier": tier,
            "raise": raise.map(|(value, tier)| json!([
                {"when": {"param": "n", "is": "above", "value": value}, "tier": tier}])
            ).unwrap_or(json!([])),
            "approval": {"approvers": ["p0", "p1", "p2", "p3"], "threshold": threshold},
            "least": least,
            "windows": windows,
        });
        json!({
            "format": "toani-policy/1", "tenant": tenant(), "id": "p", "version": 1,
            "not_before": time(around.saturating_sub(1000) + validity.0),
            "expires": time(around.saturating_sub(1000) + validity.0 + validity.1),
            "namespace": "main",
            "persons": {"p0": person(0), "p1": person(1), "p2": person(2), "p3": person(5)},
            "agents": {
                "one": {"key": {"ed25519": PublicKey::of(&key(3))},
                        "behind": if behind { json!(["p2"]) } else { json!([]) }},
                "two": {"key": {"ed25519": PublicKey::of(&key(4))}},
            },
            "credentials": {"c": {"owner": PublicKey::of(&key(2)), "least_version": least_version}},
            "services": {"s": {
                "connector": "direct_api", "endpoint": {"host": "api.example"},
                "auth": {"credential": "c", "injection": "bearer"},
                "actions": {"a": action(tiers[0]), "b": action(tiers[1])},
            }},
            "quotas": {
                "sum": {"measure": {"sum": "n"}, "per": "policy", "limit": limit,
                        "window": {"fixed_s": 60}},
                "count": {"measure": "count", "per": "agent", "limit": count,
                          "window": {"rolling_s": 60}, "actions": ["s.a"]},
            },
        })
    }
}

/// What surrounds a request.
#[derive(Debug, Clone)]
pub struct Around {
    pub now: Time,
    pub assurance: Assurance,
    pub version: u64,
    pub used: u64,
}

prop_compose! {
    pub fn arounds()(
        shift in 0u64..2000, tee in 0u8..2, sandbox in 0u8..2, signed in prop::bool::ANY,
        version in 1u64..5, used in 0u64..30,
    ) -> Around {
        let assurance = Assurance {
            tee: if tee == 0 { Tee::None } else { Tee::Simulator },
            sandbox: if sandbox == 0 { SandboxLevel::Native } else { SandboxLevel::Gvisor },
            agent: if signed { AgentLevel::Signed } else { AgentLevel::Gateway },
            ..Assurance::LOWEST
        };
        Around { now: time(NOW_MS - 1000 + shift), assurance, version, used }
    }
}

pub fn request(params: Value) -> ActionRequest {
    ActionRequest {
        instance: Hash::ZERO,
        boot: "boot_x".parse().unwrap(),
        tenant: tenant(),
        agent: "one".parse().unwrap(),
        user: "customer".parse().unwrap(),
        service: "s".parse().unwrap(),
        action: "a".parse().unwrap(),
        params: Json(params),
        idempotency_key: "k".into(),
        issued_at: time(NOW_MS),
        expires_at: time(NOW_MS + 1),
    }
}

prop_compose! {
    pub fn requests()(
        agent in prop::sample::select(vec!["one", "one", "one", "two", "none"]),
        user in prop::sample::select(vec!["customer", "p1"]),
        action in prop::sample::select(vec!["a", "a", "a", "b", "none"]),
        n in prop_oneof![1 => -5i64..110, 4 => 40i64..60],
        s in prop::option::of("[a-z]{0,10}"),
    ) -> ActionRequest {
        let mut params = json!({ "n": n });
        if let Some(s) = s {
            params["s"] = json!(s);
        }
        ActionRequest {
            agent: agent.parse().unwrap(),
            user: user.parse().unwrap(),
            action: action.parse().unwrap(),
            ..request(params)
        }
    }
}

struct Used(u64);

impl Usage for Used {
    fn used(&self, _: &QuotaKey, _: QuotaWindow, _: Time) -> u64 {
        self.0
    }
}

pub fn decision(policy: &VerifiedPolicy, request: &ActionRequest, around: &Around) -> Decision {
    let endpoints = [Endpoint { host: "api.example".into(), port: 443, private: false }];
    let view = CredentialView {
        owner: PublicKey::of(&key(2)),
        version: around.version,
        revoked: false,
        endpoints: &endpoints,
        tls: &TlsTrust::Public,
        injection: &Injection::Bearer,
    };
    let situation = Situation { assurance: around.assurance, credential: Some(view) };
    decide(policy, request, &Used(around.used), &situation, around.now)
}
