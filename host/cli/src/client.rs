//! The gateway's client: loopback for agents and approvers, the Unix socket for the owner.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use toani_protocol::limits::BUNDLE_BYTES_MAX;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::{failure::Failure, home::Home};

/// An execution may take two minutes upstream.
const ANSWER_LIMIT: Duration = Duration::from_secs(240);

/// The file in which `toani serve` leaves its address.
pub(crate) const ADDRESS_FILE: &str = "address";

#[derive(Debug)]
pub(crate) struct Client {
    url: Option<String>,
    data: PathBuf,
}

/// An answer of the gateway.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// Whom a call is for.
#[derive(Debug, Clone, Copy)]
enum Side {
    Public,
    Owner,
}

impl Client {
    pub(crate) fn new(home: &Home, url: Option<String>) -> Self {
        Self { url, data: home.data() }
    }

    /// A call on the public interface; refusals are failures.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(Side::Public, Method::GET, path, None, None).await?.json()
    }

    pub(crate) async fn get_as(&self, path: &str, authorization: &str) -> anyhow::Result<Answer> {
        self.send(Side::Public, Method::GET, path, Some(authorization), None).await
    }

    pub(crate) async fn post(
        &self,
        path: &str,
        authorization: Option<&str>,
        body: Vec<u8>,
    ) -> anyhow::Result<Answer> {
        self.send(Side::Public, Method::POST, path, authorization, Some(body)).await
    }

    /// A call on the owner's interface.
    pub(crate) async fn admin_get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(Side::Owner, Method::GET, path, None, None).await?.json()
    }

    pub(crate) async fn admin_put(&self, path: &str, body: Vec<u8>) -> anyhow::Result<Value> {
        self.send(Side::Owner, Method::PUT, path, None, Some(body)).await?.json()
    }

    pub(crate) async fn admin_post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let body = Some(body.to_string().into_bytes());
        self.send(Side::Owner, Method::POST, path, None, body).await
    }

    async fn send(
        &self,
        side: Side,
        method: Method,
        path: &str,
        authorization: Option<&str>,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<Answer> {
        let exchange = self.exchange(side, method, path, authorization, body);
        let answer = tokio::time::timeout(ANSWER_LIMIT, exchange)
            .await
            .map_err(|_| Failure::Unreachable("the plane took too long to answer".to_owned()))??;
        if answer.status.is_success() { Ok(answer) } else { Err(answer.refusal().into()) }
    }

    async fn exchange(
        &self,
        side: Side,
        method: Method,
        path: &str,
        authorization: Option<&str>,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        match side {
            Side::Public => {
                let authority = self.authority()?;
                let stream = TcpStream::connect(&authority).await.map_err(|error| {
                    Failure::Unreachable(format!(
                        "nothing answers at {authority} ({error}); is `toani serve` running?"
                    ))
                })?;
                let request = request.header(header::HOST, authority).body(body)?;
                exchange(stream, request).await
            }
            Side::Owner => {
                let socket = self.data.join(toani_gateway::ADMIN_SOCKET);
                let stream = UnixStream::connect(&socket).await.map_err(|error| {
                    Failure::Unreachable(format!(
                        "nothing answers at {} ({error}); is `toani serve` running, with the same --home?",
                        socket.display()
                    ))
                })?;
                let request = request.header(header::HOST, "localhost").body(body)?;
                exchange(stream, request).await
            }
        }
    }

    fn authority(&self) -> anyhow::Result<String> {
        let Some(url) = &self.url else {
            let path = self.data.join(ADDRESS_FILE);
            return std::fs::read_to_string(&path).map(|text| text.trim().to_owned()).map_err(
                |_| {
                    let hint = "no plane has left its address; start `toani serve`, or give --url";
                    Failure::Unreachable(hint.to_owned()).into()
                },
            );
        };
        let authority = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        let hint = || Failure::Usage("--url is http://HOST:PORT on this machine".to_owned());
        Ok(authority.ok_or_else(hint)?.to_owned())
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Answer> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let answered = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BUNDLE_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
        anyhow::Ok(Answer { status, body: body.to_bytes() })
    };
    let answer = answered.await.map_err(|error| {
        Failure::Unreachable(format!("the plane did not answer: {error:#}")).into()
    });
    driver.abort();
    answer
}

impl Answer {
    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).context("the plane's answer is no JSON")
    }

    fn refusal(&self) -> Failure {
        let problem: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let text = |name: &str| problem.get(name).and_then(Value::as_str).map(str::to_owned);
        Failure::Refused {
            code: text("code").unwrap_or_else(|| self.status.as_str().to_owned()),
            detail: text("detail").unwrap_or_else(|| format!("the plane answered {}", self.status)),
        }
    }
}
