//! No param changes endpoint, method or number of path segments, nor adds anything beside itself.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod world;

use proptest::prelude::*;
use serde_json::{Value, json};
use toani_policy::{PolicyError, PolicyProblem, VerifiedPolicy, render};
use toani_protocol::{Hash, Reason, canonical, plan::Plan};
use world::*;

/// A template that has params in every place.
fn policy() -> VerifiedPolicy {
    let params = json!({"type": "object", "properties": {
        "id": {"type": "string"}, "n": {"type": "integer"}, "q": {"type": "string"},
        "h": {"type": "string"}, "b": {"type": "string"},
        "list": {"type": "array", "items": {"type": "string"}},
    }, "required": ["id", "n"]});
    verified(json!({
        "format": "toani-policy/1", "tenant": tenant(), "id": "p", "version": 1,
        "not_before": "2026-01-01T00:00:00Z", "expires": "2027-01-01T00:00:00Z",
        "namespace": "main",
        "agents": {"one": {"key": {"api_key": Hash::ZERO}}},
        "services": {"s": {
            "connector": "direct_api", "endpoint": {"host": "api.example"},
            "actions": {"a": {
                "params": params,
                "request": {
                    "method": "POST", "path": "/v1/{id}/x/{n}/y",
                    "query": {"q": {"$param": "q"}, "fixed": "1"},
                    "headers": {"x-h": {"$param": "h"}, "x-fixed": "1"},
                    "body": {"b": {"$param": "b"}, "list": {"$param": "list"}, "in": [{"$param": "n"}]},
                },
                "tier": 0,
            }},
        }},
    }))
}

/// Texts that parsers stumble over, and any others.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,12}",
        ".{0,6}",
        prop::collection::vec(
            prop::sample::select(vec![
                "..", ".", "/", "\\", "%2f", "%", "?", "#", "&", "=", ";", "\r", "\n", "\0", ":",
                "@", "//", " ", "\u{85}", "\u{2028}", "{id}", "$param", "é", "\u{202e}", "a", "+",
            ]),
            0..6,
        )
        .prop_map(|parts| parts.concat()),
    ]
}

fn rendered(params: Value) -> Result<Plan, Reason> {
    render(&policy(), &request(params), Hash::ZERO)
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> String {
    let mut bytes = vec![];
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let hex = std::str::from_utf8(&tail[..2]).unwrap();
            bytes.push(u8::from_str_radix(hex, 16).unwrap());
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3000, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn params_stay_in_their_places(
        id in texts(), q in prop::option::of(texts()), h in prop::option::of(texts()),
        b in prop::option::of(texts()), n in -1000i64..1000,
    ) {
        let mut params = json!({"id": id, "n": n});
        for (name, value) in [("q", &q), ("h", &h), ("b", &b)] {
            if let Some(value) = value {
                params[name] = json!(value);
            }
        }
        let plan = match rendered(params) {
            Ok(plan) => plan,
            Err(reason) => {
                prop_assert_eq!(reason, Reason::ParamsUnrenderable);
                return Ok(());
            }
        };
        prop_assert_eq!(plan.method.as_str(), "POST");
        prop_assert_eq!(plan.endpoint.to_string(), "api.example:443");
        let segments: Vec<&str> = plan.path.split('/').collect();
        prop_assert_eq!(segments.len(), 6);
        prop_assert_eq!((segments[1], segments[3], segments[5]), ("v1", "x", "y"));
        prop_assert!(segments.iter().skip(1).all(|s| !s.is_empty() && *s != "." && *s != ".."));
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~%/".contains(&b);
        prop_assert!(plan.path.bytes().all(plain), "{}", plan.path);
        prop_assert_eq!(decoded(segments[2]), id);

        let names: Vec<&str> = plan.query.iter().map(|(name, _)| name.as_str()).collect();
        prop_assert_eq!(names, if q.is_some() { vec!["fixed", "q"] } else { vec!["fixed"] });
        let target = plan.target();
        prop_assert_eq!(target.matches('?').count(), 1);
        prop_assert_eq!(target.matches(['&', '#', ' ', '\r', '\n']).count(), usize::from(q.is_some()));
        if let Some(q) = q {
            prop_assert_eq!(decoded(&plan.query[1].1), q);
        }
        let headers: Vec<&str> = plan.headers.keys().map(String::as_str).collect();
        prop_assert_eq!(headers, if h.is_some() { vec!["x-fixed", "x-h"] } else { vec!["x-fixed"] });
        let visible = |b: u8| b == b' ' || b.is_ascii_graphic();
        prop_assert!(plan.headers.values().all(|value| value.bytes().all(visible)));

        let mut body = json!({"in": [n]});
        if let Some(b) = b {
            body["b"] = json!(b);
        }
        prop_assert_eq!(&plan.body.as_ref().unwrap().0, &body);
        // One plan, one spelling: it survives its own encoding.
        let (bytes, hash) = plan.seal().unwrap();
        let again: Plan = canonical::decode(&bytes, usize::MAX).unwrap();
        prop_assert_eq!(Plan::hash_of(&bytes), hash);
        prop_assert_eq!(again, plan);
    }
}

#[test]
fn a_placeholder_in_a_param_is_text() {
    let plan =
        rendered(json!({"id": "{n}", "n": 1, "b": "{\"$param\":\"id\"}", "list": ["$param"]}));
    let plan = plan.unwrap();
    assert_eq!(plan.path, "/v1/%7Bn%7D/x/1/y");
    let body = json!({"b": "{\"$param\":\"id\"}", "list": ["$param"], "in": [1]});
    assert_eq!(plan.body.unwrap().0, body);
}

/// The error names the place and says what a host may be.
#[test]
fn a_host_in_another_spelling_is_no_policy() {
    for host in ["API.example.com", "api.example.com.", "ex\u{e4}mple.com", "0x7f.1", "2130706433"]
    {
        let mut draft = policy().policy().clone();
        let (id, service) = draft.services.iter_mut().next().unwrap();
        let place = format!("services.{id}");
        service.endpoint.host = host.into();
        service.endpoint.private = true;
        let error = VerifiedPolicy::check_draft(&draft).unwrap_err();
        let problem = PolicyProblem::Host;
        assert_eq!(error, PolicyError::Invalid { place: place.clone(), problem }, "{host}");
        assert!(error.to_string().starts_with(&format!("{place}: host must be ")), "{error}");
    }
}
