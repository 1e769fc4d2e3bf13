//! A signing agent.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::SigningKey;
use http_body_util::Full;
use hyper::{Request, body::Bytes, header};
use serde_json::{Value, json};
use toani_protocol::{
    canonical::{self, Json},
    ids::Time,
    request::ActionRequest,
    sign::{self, Label},
};
use toani_tests::Plane;

use crate::connections::{self, Connections};

pub(crate) struct Agent {
    connections: Connections,
    key: SigningKey,
    template: ActionRequest,
    count: AtomicU64,
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
        Ok(Self { connections: Connections::to(address), key, template, count: AtomicU64::new(0) })
    }

    /// So many executions at once.
    pub(crate) async fn run(&self, at_once: usize) -> anyhow::Result<()> {
        connections::at_once(at_once, || self.one()).await
    }

    async fn one(&self) -> anyhow::Result<()> {
        let request = Request::post("/v1/executions")
            .header(header::HOST, self.connections.address())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(self.body()?)))?;
        let result: Value = serde_json::from_slice(&self.connections.ask(request).await?)?;
        ensure!(result.get("outcome") == Some(&json!("succeeded")), "{result}");
        Ok(())
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
