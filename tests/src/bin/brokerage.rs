//! A brokerage over HTTPS, for the demo and the tests: it knows a hash of the right token only, and
//! counts what was ordered. The count is the oracle: what it says happened, happened.
//!
//! On standard output, one JSON object a line: first `{"port", "spki"}`, then `{"orders"}` after
//! each order.

use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use clap::Parser;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const BODY_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Parser)]
struct Arguments {
    /// SHA-256 of the right token, in hexadecimal.
    #[arg(long)]
    token_sha256: String,
    /// How long an order takes before it is answered, in milliseconds.
    #[arg(long, default_value_t = 0)]
    order_ms: u64,
}

#[derive(Debug)]
struct Brokerage {
    token_hash: Vec<u8>,
    orders: AtomicU64,
    order_time: Duration,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let brokerage = Arc::new(Brokerage {
        token_hash: data_encoding::HEXLOWER.decode(arguments.token_sha256.as_bytes())?,
        orders: AtomicU64::new(0),
        order_time: Duration::from_millis(arguments.order_ms),
    });
    let (acceptor, spki) = tls()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    say(&json!({"port": listener.local_addr()?.port(), "spki": spki}));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, brokerage) = (acceptor.clone(), brokerage.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request| answer(brokerage.clone(), request));
            let http = hyper::server::conn::http1::Builder::new();
            // A client that goes away is no concern of a brokerage.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// A self-signed certificate, new each time, and the pin of its key.
fn tls() -> anyhow::Result<(TlsAcceptor, String)> {
    let names = ["localhost", "127.0.0.1", toani_tests::brokerage::HOST_OF_GUESTS];
    let certified = rcgen::generate_simple_self_signed(names.map(str::to_owned))?;
    let spki = x509_spki(certified.cert.der())?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der())
        .map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)?;
    Ok((TlsAcceptor::from(Arc::new(config)), spki))
}

fn x509_spki(certificate: &[u8]) -> anyhow::Result<String> {
    use x509_cert::der::{Decode, Encode};
    let certificate = x509_cert::Certificate::from_der(certificate)?;
    let spki = certificate.tbs_certificate().subject_public_key_info().to_der()?;
    Ok(format!("sha256:{}", data_encoding::HEXLOWER.encode(&Sha256::digest(spki))))
}

#[allow(clippy::print_stdout, reason = "the lines are this program's interface")]
fn say(line: &Value) {
    println!("{line}");
}

async fn answer(
    brokerage: Arc<Brokerage>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match route(&brokerage, request).await {
        Ok(answer) => answer,
        Err(error) => (StatusCode::BAD_REQUEST, json!({"error": format!("{error:#}")})),
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

async fn route(
    brokerage: &Brokerage,
    request: Request<Incoming>,
) -> anyhow::Result<(StatusCode, Value)> {
    if !authorized(brokerage, &request) {
        return Ok((StatusCode::UNAUTHORIZED, json!({"error": "wrong token"})));
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let segments: Vec<&str> = path.split('/').collect();
    match (method, segments.as_slice()) {
        (Method::GET, ["", "v1", "accounts", account, "balance"]) => Ok((
            StatusCode::OK,
            json!({"account": account, "balance": 1250, "internal": "not for agents"}),
        )),
        (Method::POST, ["", "v1", "orders"]) => order(brokerage, request).await,
        _ => Ok((StatusCode::NOT_FOUND, json!({"error": "no such thing"}))),
    }
}

fn authorized(brokerage: &Brokerage, request: &Request<Incoming>) -> bool {
    let value = request.headers().get(header::AUTHORIZATION);
    let token = value.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    token.is_some_and(|token| {
        Sha256::digest(token.as_bytes()).as_slice().ct_eq(&brokerage.token_hash).into()
    })
}

async fn order(
    brokerage: &Brokerage,
    request: Request<Incoming>,
) -> anyhow::Result<(StatusCode, Value)> {
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
    let order: Value = serde_json::from_slice(&body)?;
    let symbol = order.get("symbol").and_then(Value::as_str).context("symbol")?;
    let quantity = order.get("quantity").and_then(Value::as_u64).context("quantity")?;
    // From here on the order is placed, whoever goes away meanwhile.
    let number = brokerage.orders.fetch_add(1, Ordering::SeqCst).saturating_add(1);
    say(&json!({ "orders": number }));
    if !brokerage.order_time.is_zero() {
        // The market takes its time; a client may lose patience or its life.
        tokio::time::sleep(brokerage.order_time).await;
    }
    let order = json!({"order": format!("o-{number}"), "symbol": symbol, "quantity": quantity});
    Ok((StatusCode::CREATED, order))
}
