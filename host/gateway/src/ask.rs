//! Reading what agents send: bodies and headers become the exact bytes that the enclave verifies.
//!
//! A signing agent sends `{"request": {...}, "signature": "..."}`. An agent that can only hold an
//! API key sends the request alone, and the gateway fills in what such an agent cannot know.

use axum::http::{HeaderMap, header};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde_json::{Map, Value};
use toani_protocol::{
    BootId, Hash, Reason, Time,
    canonical::{self, CanonicalError},
    ids::{AgentId, TenantId},
    limits::{REQUEST_BYTES_MAX, TOKEN_BYTES_MAX},
    request::{ActionRequest, AgentProof, ReadRequest},
    sign::Signature,
    wire::Read,
};

use crate::problem::Problem;

/// A body: a request that may be indented, and a token.
pub(crate) const BODY_BYTES_MAX: usize = 2 * REQUEST_BYTES_MAX + TOKEN_BYTES_MAX;
/// An API key as text.
const API_KEY_BYTES_MAX: usize = 512;
/// How long a request lives that the gateway completes.
const FILLED_LIFE_MS: u64 = 5 * 60 * 1000;

/// Names that a plaintext credential goes by, in lower case and without `_` and `-`. A body that has
/// one is refused before anything is logged, stored or sent. They are compared whole, so that
/// `secret_santa` and `token_id` are names like others.
const CREDENTIAL_NAMES: &[&str] = &[
    "accesstoken",
    "apikey",
    "authorization",
    "clientsecret",
    "credential",
    "credentialvalue",
    "password",
    "passwd",
    "privatekey",
    "refreshtoken",
    "secret",
    "secretkey",
];

/// Whether a field of this name is taken for a plaintext credential, whatever its letters' case.
/// Where it holds `null` or a boolean it passes: these carry none.
pub fn names_credential(name: &str) -> bool {
    let plain: String = name.chars().filter(|c| !"_-".contains(*c)).collect();
    CREDENTIAL_NAMES.contains(&plain.to_ascii_lowercase().as_str())
}

/// What an agent asks for, ready for the enclave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    /// Canonical.
    pub(crate) request: Vec<u8>,
    pub(crate) proof: AgentProof,
    tenant: TenantId,
    agent: AgentId,
}

impl Asked {
    /// Who it says it is from: not verified, good for limits and logs only.
    pub(crate) fn claimed(&self) -> (TenantId, AgentId) {
        (self.tenant.clone(), self.agent.clone())
    }
}

/// The instance that answers: what the gateway fills in.
#[derive(Debug, Clone)]
pub(crate) struct Here {
    pub(crate) instance: Hash,
    pub(crate) boot: BootId,
}

/// Reads the body of `POST /v1/actions`.
pub(crate) fn read_action(
    body: &[u8],
    headers: &HeaderMap,
    here: &Here,
    now: Time,
) -> Result<Asked, Problem> {
    read_asked(read_object(body)?, headers, here, now)
}

/// Reads the body of `POST /v1/executions`: the same, and a token where there is one.
pub(crate) fn read_execution(
    body: &[u8],
    headers: &HeaderMap,
    here: &Here,
    now: Time,
) -> Result<(Option<String>, Asked), Problem> {
    let mut object = read_object(body)?;
    let token = match object.remove("token") {
        None | Some(Value::Null) => None,
        Some(Value::String(token)) if token.len() <= TOKEN_BYTES_MAX => Some(token),
        Some(_) => return Err(Reason::TokenInvalid.into()),
    };
    Ok((token, read_asked(object, headers, here, now)?))
}

fn read_object(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    let value = canonical::parse(body, BODY_BYTES_MAX).map_err(of_canonical)?;
    if holds_credential(&value) {
        return Err(Reason::PlaintextCredential.into());
    }
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(Problem::malformed()),
    }
}

pub(crate) fn of_canonical(error: CanonicalError) -> Problem {
    match error {
        CanonicalError::TooLarge => too_large(),
        _ => Problem::malformed(),
    }
}

pub(crate) fn too_large() -> Problem {
    Problem::new(
        axum::http::StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        "The body is larger than this route takes.",
    )
}

/// Whether any object in it names something as credentials are named.
pub(crate) fn holds_credential(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(name, inner)| {
            let carries = !matches!(inner, Value::Null | Value::Bool(_));
            (carries && names_credential(name)) || holds_credential(inner)
        }),
        Value::Array(items) => items.iter().any(holds_credential),
        _ => false,
    }
}

fn read_asked(
    mut object: Map<String, Value>,
    headers: &HeaderMap,
    here: &Here,
    now: Time,
) -> Result<Asked, Problem> {
    let (request, proof) = match object.remove("request") {
        Some(Value::Object(request)) => {
            let proof = match object.remove("signature") {
                Some(Value::String(text)) => {
                    let signature: Signature = text.parse().map_err(|_| Reason::AgentProof)?;
                    AgentProof::Signature(signature)
                }
                None => AgentProof::ApiKey(bearer(headers)?),
                Some(_) => return Err(Problem::malformed()),
            };
            if !object.is_empty() {
                return Err(Problem::malformed());
            }
            (request, proof)
        }
        None => (object, AgentProof::ApiKey(bearer(headers)?)),
        Some(_) => return Err(Problem::malformed()),
    };
    let request = match proof {
        AgentProof::Signature(_) => request,
        AgentProof::ApiKey(_) => fill(request, headers, here, now)?,
    };
    let bytes = canonical::encode_value(&Value::Object(request)).map_err(of_canonical)?;
    let request = ActionRequest::decode(&bytes).map_err(of_canonical)?;
    let named = headers.get("idempotency-key");
    if named.is_some_and(|key| key.as_bytes() != request.idempotency_key.as_bytes()) {
        return Err(Reason::IdempotencyMismatch.into());
    }
    Ok(Asked { request: bytes, proof, tenant: request.tenant, agent: request.agent })
}

/// Completes the request of an agent that holds an API key only. The record says so:
/// `agent: gateway`.
fn fill(
    mut request: Map<String, Value>,
    headers: &HeaderMap,
    here: &Here,
    now: Time,
) -> Result<Map<String, Value>, Problem> {
    let agent = request.get("agent").cloned().unwrap_or_default();
    let key = match headers.get("idempotency-key") {
        Some(key) => key.to_str().map_err(|_| Problem::malformed())?.to_owned(),
        None => random_key()?,
    };
    let filled = [
        ("instance", Value::from(here.instance.to_string())),
        ("boot", Value::from(here.boot.as_str())),
        ("issued_at", Value::from(now.to_string())),
        ("expires_at", Value::from(now.plus_ms(FILLED_LIFE_MS).to_string())),
        ("user", agent),
        ("idempotency_key", Value::from(key)),
        ("params", Value::Object(Map::new())),
    ];
    for (name, value) in filled {
        request.entry(name).or_insert(value);
    }
    Ok(request)
}

fn random_key() -> Result<String, Problem> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| Problem::from(Reason::Busy))?;
    Ok(format!("gateway-{}", HEXLOWER.encode(&bytes)))
}

/// The API key of `Authorization: Bearer KEY`.
fn bearer(headers: &HeaderMap) -> Result<String, Problem> {
    match authorization(headers) {
        Some(("bearer", key)) if key.len() <= API_KEY_BYTES_MAX => Ok(key.to_owned()),
        _ => Err(Reason::AgentProof.into()),
    }
}

/// Scheme, in lower case where it is one of ours, and the rest.
fn authorization(headers: &HeaderMap) -> Option<(&'static str, &str)> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = text.split_once(' ')?;
    let scheme =
        ["bearer", "toani"].into_iter().find(|known| known.eq_ignore_ascii_case(scheme))?;
    Some((scheme, rest.trim()))
}

/// Who reads: `Authorization: Toani BASE64URL(canonical ReadRequest).SIGNATURE`, or
/// `Authorization: Bearer KEY` with the tenant and the agent in the query.
pub(crate) fn read_read(
    headers: &HeaderMap,
    tenant: Option<&str>,
    agent: Option<&str>,
) -> Result<Read, Problem> {
    let refused = || Problem::from(Reason::AgentProof);
    match authorization(headers).ok_or_else(refused)? {
        ("toani", proof) => {
            let (request, signature) = proof.split_once('.').ok_or_else(refused)?;
            if request.len() > 2 * REQUEST_BYTES_MAX {
                return Err(too_large());
            }
            let request = BASE64URL_NOPAD.decode(request.as_bytes());
            let request = request.map_err(|_| Problem::malformed())?;
            ReadRequest::decode(&request).map_err(of_canonical)?;
            let signature: Signature = signature.parse().map_err(|_| refused())?;
            Ok(Read::Signed { request, proof: AgentProof::Signature(signature) })
        }
        _ => {
            let named = "Say with ?tenant=...&agent=... whose API key this is.";
            let (Some(tenant), Some(agent)) = (tenant, agent) else {
                let status = axum::http::StatusCode::BAD_REQUEST;
                return Err(Problem::new(status, "agent_unnamed", named));
            };
            let (Ok(tenant), Ok(agent)) = (TenantId::new(tenant), AgentId::new(agent)) else {
                return Err(Reason::AgentUnknown.into());
            };
            Ok(Read::ApiKey { tenant, agent, key: bearer(headers)? })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use serde_json::json;

    fn here() -> Here {
        Here { instance: Hash::of(b"instance"), boot: BootId::from_random([1; 16]) }
    }

    fn headers(entries: &[(&'static str, &str)]) -> HeaderMap {
        let entries = entries.iter().map(|(name, value)| {
            let name = axum::http::HeaderName::from_static(name);
            (name, HeaderValue::from_str(value).unwrap())
        });
        entries.collect()
    }

    fn code(result: Result<Asked, Problem>) -> &'static str {
        result.unwrap_err().code()
    }

    fn read(body: &Value, entries: &[(&'static str, &str)]) -> Result<Asked, Problem> {
        let now = Time::from_ms(1_000_000);
        read_action(body.to_string().as_bytes(), &headers(entries), &here(), now)
    }

    fn short() -> Value {
        json!({"tenant": "t1", "agent": "a1", "service": "s", "action": "x", "params": {"b": 1, "a": 2}})
    }

    fn full() -> Value {
        let asked = read(&short(), &[("authorization", "Bearer k")]).unwrap();
        serde_json::from_slice(&asked.request).unwrap()
    }

    #[test]
    fn an_api_key_agent_leaves_out_what_it_cannot_know() {
        let entries = [("authorization", "Bearer k1"), ("idempotency-key", "once")];
        let asked = read(&short(), &entries).unwrap();
        assert_eq!(asked.proof, AgentProof::ApiKey("k1".to_owned()));
        let request = ActionRequest::decode(&asked.request).unwrap();
        assert_eq!(request.idempotency_key, "once");
        assert_eq!(request.user.as_str(), "a1");
        assert_eq!(request.expires_at.ms_since(request.issued_at), FILLED_LIFE_MS);
        let other = read(&short(), &entries[..1]).unwrap();
        assert_ne!(asked.request, other.request, "a random idempotency key");
    }

    #[test]
    fn a_signed_request_is_passed_on_as_it_is() {
        let signature = BASE64URL_NOPAD.encode(&[7; 64]);
        let body = json!({"request": full(), "signature": signature});
        let asked = read(&body, &[]).unwrap();
        assert_eq!(asked.proof, AgentProof::Signature(Signature([7; 64])));
        let mut lacking = full();
        lacking.as_object_mut().unwrap().remove("boot");
        let body = json!({"request": lacking, "signature": signature});
        assert_eq!(code(read(&body, &[])), "request_malformed", "nothing is filled in");
        let body = json!({"request": full(), "signature": "x"});
        assert_eq!(code(read(&body, &[])), "agent_proof");
        let body = json!({"request": full(), "signature": signature, "more": 1});
        assert_eq!(code(read(&body, &[])), "request_malformed");
    }

    #[test]
    fn what_is_not_proven_is_refused() {
        assert_eq!(code(read(&short(), &[])), "agent_proof");
        assert_eq!(code(read(&short(), &[("authorization", "Basic eDp5")])), "agent_proof");
        assert_eq!(code(read(&json!([1]), &[])), "request_malformed");
        let mut more = short();
        more["extra"] = json!(1);
        assert_eq!(code(read(&more, &[("authorization", "Bearer k")])), "request_malformed");
        let mut keyed = short();
        keyed["idempotency_key"] = json!("a");
        let entries = [("authorization", "Bearer k"), ("idempotency-key", "b")];
        assert_eq!(code(read(&keyed, &entries)), "idempotency_mismatch");
    }

    #[test]
    fn a_plaintext_credential_is_refused_wherever_it_stands() {
        for name in ["credential", "API_KEY", "api-key", "clientSecret", "password", "secret"] {
            let mut body = short();
            body[name] = json!("hunter2");
            assert_eq!(code(read(&body, &[])), "plaintext_credential", "{name}");
            let mut body = short();
            body["params"][name] = json!({"x": [1]});
            assert_eq!(code(read(&body, &[])), "plaintext_credential", "{name} in params");
        }
    }

    #[test]
    fn honest_names_pass() {
        let entries = [("authorization", "Bearer k")];
        for (name, value) in [
            ("token_id", json!("t1")),
            ("secret_santa", json!("anna")),
            ("password_reset_url", json!("https://example.com")),
            ("secret", json!(true)),
            ("credential", json!(null)),
        ] {
            let mut body = short();
            body["params"][name] = value;
            assert!(read(&body, &entries).is_ok(), "{name}");
        }
    }

    #[test]
    fn hostile_bodies_end_in_an_answer() {
        let deep = "[".repeat(100);
        let twice = "{\"a\":1,\"a\":2}";
        let long = " ".repeat(BODY_BYTES_MAX + 1);
        let unsafe_number = "{\"a\":9007199254740993}";
        for (body, expected) in [
            (deep.as_str(), "request_malformed"),
            (twice, "request_malformed"),
            (&long, "body_too_large"),
            (unsafe_number, "request_malformed"),
            ("", "request_malformed"),
            ("NaN", "request_malformed"),
        ] {
            let now = Time::from_ms(0);
            let result = read_action(body.as_bytes(), &HeaderMap::new(), &here(), now);
            assert_eq!(code(result), expected, "{}", &body[..body.len().min(20)]);
        }
    }

    #[test]
    fn reads_prove_who_reads() {
        let request = json!({"agent": "a1", "boot": "b", "expires_at": "2026-01-01T00:00:00Z",
            "id": "act_1", "instance": Hash::ZERO.to_string(),
            "issued_at": "2026-01-01T00:00:00Z", "tenant": "t1"});
        let request = canonical::encode_value(&request).unwrap();
        let signature = BASE64URL_NOPAD.encode(&[7; 64]);
        let proof = format!("Toani {}.{signature}", BASE64URL_NOPAD.encode(&request));
        let read = read_read(&headers(&[("authorization", &proof)]), None, None).unwrap();
        assert!(matches!(read, Read::Signed { request: r, .. } if r == request));
        let key = headers(&[("authorization", "Bearer k")]);
        assert!(matches!(read_read(&key, Some("t1"), Some("a1")), Ok(Read::ApiKey { .. })));
        assert_eq!(read_read(&key, None, Some("a1")).unwrap_err().code(), "agent_unnamed");
        assert_eq!(read_read(&HeaderMap::new(), None, None).unwrap_err().code(), "agent_proof");
        let broken = headers(&[("authorization", "Toani e30.x")]);
        assert_eq!(read_read(&broken, None, None).unwrap_err().code(), "request_malformed");
    }
}
