//! Direct API: one REST call over HTTPS, exactly as the plan says.

use std::{
    future::Future,
    os::unix::net::UnixStream,
    pin::{Pin, pin},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, Uri,
    body::{Body, Bytes, Incoming},
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue},
};
use rustls::ClientConfig;
use toani_protocol::{
    canonical,
    job::{Job, JobEnd},
    limits::{CREDENTIAL_BYTES_MAX, DOCUMENT_BYTES_MAX, EXECUTION_MS_MAX, RESPONSE_BYTES_MAX},
    plan::Plan,
    policy::{Connector, Endpoint, Injection},
};
use zeroize::Zeroizing;

use crate::{door, session::Session, tls};

/// Headers that are ours to write, or that would change how the message is framed or routed.
const RESERVED_HEADERS: &[&str] = &[
    "authorization",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Room for a response's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Executes one job through `door` and says how it ended. The time runs from now.
pub fn execute(job: &Job, door: UnixStream) -> JobEnd {
    execute_inner(job, door).unwrap_or_else(|end| end)
}

/// All that can be wrong with a plan shows in this, before anything is opened.
pub(crate) struct Prepared {
    plan: Plan,
    request: Request<Full<Bytes>>,
    pub(crate) tls: ClientConfig,
}

/// Reads a job; `None` if it cannot be executed.
pub(crate) fn prepare(job: &Job) -> Option<Prepared> {
    let plan: Plan = canonical::decode(&job.plan, DOCUMENT_BYTES_MAX).ok()?;
    let Connector::DirectApi = plan.connector;
    let request = request(&plan, &job.credential)?;
    let tls = tls::client_config(&plan.tls).ok()?;
    Some(Prepared { plan, request, tls })
}

fn execute_inner(job: &Job, mut door: UnixStream) -> Result<JobEnd, JobEnd> {
    let began = Instant::now();
    let Prepared { plan, request, tls } = prepare(job).ok_or(JobEnd::ConnectorFailed)?;
    let timeout = plan.class.timeout_ms.min(EXECUTION_MS_MAX);
    let deadline = began + Duration::from_millis(timeout.into());

    door::ask(&mut door, &plan.endpoint)?;
    let session = Session::open(door, tls, &plan.endpoint.host, deadline)?;
    let body_max = plan.class.response_bytes_max.min(RESPONSE_BYTES_MAX);
    let exchange = exchange(session.clone(), request, usize::try_from(body_max).unwrap_or(0));
    let end = session.run(deadline, exchange)?;
    if session.refused() {
        return Err(JobEnd::TlsRefused);
    }
    Ok(end)
}

/// Sends the request and reads the answer.
async fn exchange(session: Session, request: Request<Full<Bytes>>, body_max: usize) -> JobEnd {
    let handshake = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(session).await;
    let Ok((mut sender, connection)) = handshake else {
        return JobEnd::Malformed;
    };
    let mut connection = pin!(connection);
    let answer = async {
        match sender.send_request(request).await {
            Ok(response) => read(response, body_max).await,
            Err(_) => JobEnd::Malformed,
        }
    };
    beside(&mut connection, answer).await
}

/// Polls the connection, which does the work, until the answer is there.
async fn beside<C: Future, A: Future<Output = JobEnd>>(
    connection: &mut Pin<&mut C>,
    answer: A,
) -> JobEnd {
    let mut answer = pin!(answer);
    let mut open = true;
    std::future::poll_fn(|context| {
        // Whatever the connection ends with, the answer tells it as well.
        if open && connection.as_mut().poll(context).is_ready() {
            open = false;
        }
        answer.as_mut().poll(context)
    })
    .await
}

async fn read(response: Response<Incoming>, body_max: usize) -> JobEnd {
    let status = response.status().as_u16();
    match status {
        300..=399 => return JobEnd::Redirected { status },
        200..=299 | 400..=599 => {}
        _ => return JobEnd::Malformed,
    }
    let mut incoming = response.into_body();
    let announced = incoming.size_hint().lower();
    if announced > u64::try_from(body_max).unwrap_or(u64::MAX) {
        return JobEnd::TooLarge;
    }
    let mut body = Zeroizing::new(Vec::new());
    while let Some(frame) = incoming.frame().await {
        let Ok(frame) = frame else {
            return JobEnd::Malformed;
        };
        let Some(data) = frame.data_ref() else {
            continue;
        };
        if body.len().saturating_add(data.len()) > body_max {
            return JobEnd::TooLarge;
        }
        body.extend_from_slice(data);
    }
    JobEnd::Response { status, body: std::mem::take(&mut *body) }
}

/// The request with the credential in its place; `None` if the plan cannot be one.
fn request(plan: &Plan, credential: &[u8]) -> Option<Request<Full<Bytes>>> {
    let fits = match plan.injection {
        Some(_) => !credential.is_empty() && credential.len() <= CREDENTIAL_BYTES_MAX,
        None => credential.is_empty(),
    };
    if !fits || !plan.path.starts_with('/') {
        return None;
    }
    let mut target = Zeroizing::new(plan.target());
    let mut headers = headers(plan)?;
    match &plan.injection {
        None => {}
        Some(Injection::Bearer) => {
            let value = Zeroizing::new([b"Bearer ".as_slice(), credential].concat());
            headers.insert(AUTHORIZATION, secret(&value)?);
        }
        Some(Injection::Basic) => {
            let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(credential)));
            headers.insert(AUTHORIZATION, secret(value.as_bytes())?);
        }
        Some(Injection::Header(name)) => {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            let framing = name != AUTHORIZATION && RESERVED_HEADERS.contains(&name.as_str());
            if framing || headers.contains_key(&name) {
                return None;
            }
            headers.insert(name, secret(credential)?);
        }
        Some(Injection::Query(name)) => {
            let name = percent_encoded(name.as_bytes());
            if plan.query.iter().any(|(other, _)| *other == *name) {
                return None;
            }
            target.push(if plan.query.is_empty() { '?' } else { '&' });
            target.push_str(&name);
            target.push('=');
            target.push_str(&percent_encoded(credential));
        }
    }
    let body = match &plan.body {
        Some(body) => {
            if !headers.contains_key(CONTENT_TYPE) {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
            canonical::encode(body).ok()?
        }
        None => Vec::new(),
    };
    let mut request = Request::builder()
        .method(plan.method.as_str())
        .uri(Uri::try_from(target.as_str()).ok()?)
        .body(Full::new(Bytes::from(body)))
        .ok()?;
    *request.headers_mut() = headers;
    Some(request)
}

fn headers(plan: &Plan) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::try_from(authority(&plan.endpoint)).ok()?);
    for (name, value) in &plan.headers {
        if RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            return None;
        }
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        headers.insert(name, HeaderValue::from_str(value).ok()?);
    }
    Some(headers)
}

fn authority(endpoint: &Endpoint) -> String {
    match endpoint.port {
        443 => endpoint.host.clone(),
        _ => endpoint.to_string(),
    }
}

fn secret(value: &[u8]) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_bytes(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// RFC 3986: all but unreserved characters.
fn percent_encoded(bytes: &[u8]) -> Zeroizing<String> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Zeroizing::new(String::with_capacity(bytes.len().saturating_mul(3)));
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            out.push('%');
            for nibble in [byte >> 4, byte & 15] {
                out.push(HEX.get(usize::from(nibble)).copied().map_or('0', char::from));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use toani_protocol::{
        canonical::Json,
        ids::Hash,
        policy::{Class, Method, TlsTrust},
    };

    fn plan(injection: Option<Injection>) -> Plan {
        Plan {
            connector: Connector::DirectApi,
            method: Method::Post,
            endpoint: Endpoint { host: "api.example.org".into(), port: 443, private: false },
            path: "/v1/orders".into(),
            query: vec![("a".into(), "1%202".into())],
            headers: [("x-trace".to_owned(), "7".to_owned())].into(),
            body: Some(Json(toani_protocol::canonical::parse(b"{\"b\":1,\"a\":[]}", 64).unwrap())),
            injection,
            tls: TlsTrust::Public,
            success: None,
            class: Class::default(),
            nonce: Hash::ZERO,
        }
    }

    #[test]
    fn the_credential_goes_where_the_plan_says() {
        let header = |injection, credential: &[u8], name: &str| {
            let request = request(&plan(Some(injection)), credential).unwrap();
            request.headers().get(name).cloned().unwrap()
        };
        assert_eq!(header(Injection::Bearer, b"s3cret", "authorization"), "Bearer s3cret");
        assert_eq!(header(Injection::Basic, b"user:pass", "authorization"), "Basic dXNlcjpwYXNz");
        assert_eq!(header(Injection::Header("X-Key".into()), b"s3cret", "x-key"), "s3cret");
        let request = request(&plan(Some(Injection::Query("key".into()))), b"a b&c").unwrap();
        assert_eq!(request.uri(), "/v1/orders?a=1%202&key=a%20b%26c");
        assert!(request.headers().get("authorization").is_none());
    }

    #[test]
    fn the_request_is_the_plan() {
        let request = request(&plan(None), b"").unwrap();
        assert_eq!(request.method(), "POST");
        assert_eq!(request.uri(), "/v1/orders?a=1%202");
        let headers = request.headers();
        assert_eq!(headers.get("host").unwrap(), "api.example.org");
        assert_eq!(headers.get("content-type").unwrap(), "application/json");
        assert_eq!(headers.get("x-trace").unwrap(), "7");
        assert_eq!(headers.len(), 3);
        assert_eq!(request.body().size_hint().exact(), Some(14));
    }

    #[test]
    fn what_would_smuggle_is_refused() {
        let bearer = Some(Injection::Bearer);
        assert!(request(&plan(bearer.clone()), b"").is_none(), "no credential");
        assert!(request(&plan(None), b"x").is_none(), "nowhere to put it");
        assert!(request(&plan(bearer), b"a\r\nx: y").is_none());
        assert!(request(&plan(Some(Injection::Header("host".into()))), b"x").is_none());
        assert!(request(&plan(Some(Injection::Header("x-trace".into()))), b"x").is_none());
        assert!(request(&plan(Some(Injection::Header("a b".into()))), b"x").is_none());
        assert!(request(&plan(Some(Injection::Query("a".into()))), b"x").is_none());
        for name in RESERVED_HEADERS {
            let mut plan = plan(None);
            plan.headers.insert((*name).to_owned(), "x".into());
            assert!(request(&plan, b"").is_none(), "{name}");
        }
        for path in ["", "//evil\r\n", "x", "/a b", "http://other/"] {
            let mut plan = plan(None);
            plan.path = path.into();
            assert!(request(&plan, b"").is_none(), "{path}");
        }
    }
}
