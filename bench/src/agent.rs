//! A signing agent that keeps its connections.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::SigningKey;
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http1::SendRequest, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use toani_protocol::{
    canonical::{self, Json},
    ids::Time,
    request::ActionRequest,
    sign::{self, Label},
};
use toani_tests::Plane;
use tokio::{net::TcpStream, sync::Mutex};

pub(crate) struct Agent {
    address: String,
    key: SigningKey,
    template: ActionRequest,
    count: AtomicU64,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Agent {
    pub(crate) fn new(plane: &Plane) -> anyhow::Result<Self> {
        let line = fs::read_to_string(plane.home().join("agents/agent.key"))?;
        let text = line.trim().rsplit(' ').next().context("no key")?;
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes())?;
        let key = SigningKey::from_bytes(bytes.as_slice().try_into()?);
        let url = fs::read_to_string(plane.data().join("address"))?;
        let address = url.trim().strip_prefix("http://").context("no http:// address")?.to_owned();
        let status = plane.toani(&["status"])?.ok()?;
        let trust: Value = serde_json::from_slice(&fs::read(plane.trust())?)?;
        let text = |value: Option<&Value>| {
            value.and_then(Value::as_str).map(str::to_owned).context("not in the status")
        };
        let template = ActionRequest {
            instance: text(trust.get("instance"))?.parse()?,
            boot: text(status.pointer("/instance/boot"))?.parse()?,
            tenant: text(trust.get("tenant"))?.parse()?,
            agent: "agent".parse()?,
            user: "customer".parse()?,
            service: "broker".parse()?,
            action: "read_balance".parse()?,
            params: Json(json!({"account": "main"})),
            idempotency_key: String::new(),
            issued_at: Time::default(),
            expires_at: Time::default(),
        };
        let idle = Mutex::new(Vec::new());
        Ok(Self { address, key, template, count: AtomicU64::new(0), idle })
    }

    /// So many executions at once.
    pub(crate) async fn run(&self, at_once: usize) -> anyhow::Result<()> {
        let all = (0..at_once).map(|_| self.one());
        // Each of them must succeed.
        for outcome in join_all(all).await {
            outcome?;
        }
        Ok(())
    }

    async fn one(&self) -> anyhow::Result<()> {
        let idle = self.idle.lock().await.pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let request = Request::post("/v1/executions")
            .header(header::HOST, &self.address)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(self.body()?)))?;
        connection.ready().await?;
        let answer = connection.send_request(request).await?;
        let body = answer.into_body().collect().await?.to_bytes();
        let result: Value = serde_json::from_slice(&body)?;
        ensure!(result.get("outcome") == Some(&json!("succeeded")), "{result}");
        self.idle.lock().await.push(connection);
        Ok(())
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn body(&self) -> anyhow::Result<Vec<u8>> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let issued_at = Time::from_ms(u64::try_from(now)?);
        let request = ActionRequest {
            idempotency_key: format!("bench-{count}"),
            issued_at,
            expires_at: issued_at.plus_ms(60_000),
            ..self.template.clone()
        };
        let signature = sign::sign(&self.key, Label::Request, &canonical::encode(&request)?);
        Ok(json!({"request": request, "signature": signature}).to_string().into_bytes())
    }
}

/// Polls all at once and gives their outputs in order.
async fn join_all<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = all.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut done = true;
        for (future, output) in &mut futures {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => done = false,
                }
            }
        }
        if done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}
