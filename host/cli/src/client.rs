//! The gateway's client: HTTP on loopback and HTTPS anywhere for agents and approvers, the Unix
//! socket or HTTPS for the owner.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use toani_gateway::ClientLink;
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

/// How the plane is reached.
#[derive(Debug, Args)]
pub(crate) struct Links {
    /// The gateway: http:// on this machine, https:// anywhere. Without it, the one that `toani
    /// serve` has left in the data folder.
    #[arg(long, global = true, env = "TOANI_URL")]
    url: Option<String>,
    /// The administration over the network, https://. Without it, the Unix socket in the data
    /// folder.
    #[arg(long, global = true, env = "TOANI_ADMIN_URL")]
    admin_url: Option<String>,
    /// The CA that an https:// is believed by, and no other; by default tls/ca.pem.
    #[arg(long, global = true, env = "TOANI_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A certificate of one's own with its key, in PEM.
    #[arg(long, global = true, env = "TOANI_IDENTITY", value_name = "FILE")]
    identity: Option<PathBuf>,
}

#[derive(Debug)]
pub(crate) struct Client {
    links: Links,
    home: Home,
}

/// A stream of whatever kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

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
    pub(crate) fn new(home: &Home, links: Links) -> Self {
        Self { links, home: home.clone() }
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
        let (stream, host) = match (side, &self.links.admin_url) {
            (Side::Public, _) => self.connect(&self.url()?).await?,
            (Side::Owner, Some(url)) => {
                let identity = self.links.identity.is_some();
                if !url.starts_with("https://") || !identity {
                    let hint = "--admin-url is https://HOST:PORT, with --identity FILE from \
                                `toani cert admin`";
                    return Err(Failure::Usage(hint.to_owned()).into());
                }
                self.connect(url).await?
            }
            (Side::Owner, None) => (self.owners_socket().await?, "localhost".to_owned()),
        };
        exchange(stream, request.header(header::HOST, host).body(body)?).await
    }

    /// The stream to a URL, and the host that requests name.
    async fn connect(&self, url: &str) -> anyhow::Result<(Box<dyn Stream>, String)> {
        let hint = || {
            let form = "--url is http://HOST:PORT on this machine, or https://HOST:PORT";
            Failure::Usage(form.to_owned())
        };
        let (scheme, authority) = url.split_once("://").ok_or_else(hint)?;
        let authority = authority.trim_end_matches('/');
        let (name, _) = authority.rsplit_once(':').ok_or_else(hint)?;
        if !["http", "https"].contains(&scheme) {
            return Err(hint().into());
        }
        let unreachable = |error: std::io::Error| {
            Failure::Unreachable(format!(
                "nothing answers at {authority} ({error}); is `toani serve` running?"
            ))
        };
        let stream = TcpStream::connect(authority).await.map_err(unreachable)?;
        if scheme == "http" {
            // A signed request is no secret; an API key and a result are.
            if !stream.peer_addr().map_err(unreachable)?.ip().is_loopback() {
                return Err(hint().into());
            }
            return Ok((Box::new(stream), authority.to_owned()));
        }
        let own = self.home.tls("ca.pem");
        let ca = self.links.ca.as_deref().unwrap_or(&own);
        let link = ClientLink::http(ca, self.links.identity.as_deref())?;
        let stream = link.handshake(name.trim_matches(['[', ']']), stream).await;
        let stream = stream.map_err(|error| {
            Failure::Unreachable(format!(
                "{authority} is not believed ({error}); --ca names the CA that signed for it"
            ))
        })?;
        Ok((Box::new(stream), authority.to_owned()))
    }

    async fn owners_socket(&self) -> anyhow::Result<Box<dyn Stream>> {
        let socket = self.home.data().join(toani_gateway::ADMIN_SOCKET);
        let stream = UnixStream::connect(&socket).await.map_err(|error| {
            Failure::Unreachable(format!(
                "nothing answers at {} ({error}); is `toani serve` running, with the same --home?",
                socket.display()
            ))
        })?;
        Ok(Box::new(stream))
    }

    fn url(&self) -> anyhow::Result<String> {
        if let Some(url) = &self.links.url {
            return Ok(url.clone());
        }
        let path = self.home.data().join(ADDRESS_FILE);
        std::fs::read_to_string(&path).map(|text| text.trim().to_owned()).map_err(|_| {
            let hint = "no plane has left its address; start `toani serve`, or give --url";
            Failure::Unreachable(hint.to_owned()).into()
        })
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
