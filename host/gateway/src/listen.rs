//! Sockets: for agents on loopback, or anywhere with TLS; for the owner a Unix socket, and where it
//! is asked for TLS with client certificates. Nothing else is listened on.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use toani_links::{Client, ServerFiles, ServerLink};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};
use tower_service::Service;

use crate::{boot::BootError, impatient::Impatient, problem::Problem};

/// Connections at once, of each listener.
const CONNECTIONS_MAX: usize = 1_024;
/// Request line and headers together.
const HEAD_BYTES_MAX: usize = 32 * 1024;
const HEADERS_MAX: usize = 64;
/// Longest time for a client to send its headers.
const HEAD_MS_MAX: u64 = 10_000;
/// Longest time for a TLS handshake.
const HANDSHAKE_MS_MAX: u64 = 10_000;
/// How long connections may take to end after what they asked for has.
const CLOSE_MS_MAX: u64 = 35_000;

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    Address(IpAddr),
    Owner,
}

/// A TCP port, with TLS or on loopback.
#[derive(Debug)]
pub(crate) struct Port {
    listener: TcpListener,
    tls: Option<Arc<ServerLink>>,
}

impl Port {
    /// Binds. Without TLS, loopback only.
    pub(crate) async fn bind(
        address: SocketAddr,
        tls: Option<ServerFiles>,
    ) -> Result<Self, BootError> {
        if tls.is_none() && !address.ip().is_loopback() {
            return Err(BootError::Listen(format!(
                "{address} is not a loopback address, and without TLS the gateway listens on \
                 loopback only: run `toani cert init` and `toani cert server --name HOST`, then \
                 `toani serve --tls`; or use 127.0.0.1 or [::1] and put nothing in front that \
                 forwards to it"
            )));
        }
        let tls = tls.map(ServerLink::open).transpose();
        let tls = tls.map_err(|error| BootError::Listen(format!("TLS cannot begin: {error}")))?;
        let listener = TcpListener::bind(address).await;
        let listener = listener
            .map_err(|error| BootError::Listen(format!("cannot listen on {address}: {error}")))?;
        Ok(Self { listener, tls: tls.map(Arc::new) })
    }

    pub(crate) fn address(&self) -> Result<SocketAddr, BootError> {
        self.listener.local_addr().map_err(|error| BootError::Listen(error.to_string()))
    }
}

/// Binds for the owner: a socket that nobody else may open.
pub(crate) fn bind_owner(path: &Path) -> Result<UnixListener, BootError> {
    let shown = path.display();
    let failed = |error: io::Error| BootError::Listen(format!("cannot listen on {shown}: {error}"));
    // The data folder's lock is held, so a socket that is there is left over.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// A socket that says of each connection whose it is.
pub(crate) trait Admits: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection; `None` if it is of somebody who may not have one. Cancel safe.
    fn admit(&self) -> impl Future<Output = io::Result<Option<(Self::Stream, Peer)>>> + Send;

    /// What each connection begins with.
    fn tls(&self) -> Option<Arc<ServerLink>> {
        None
    }
}

impl Admits for Port {
    type Stream = TcpStream;

    fn tls(&self) -> Option<Arc<ServerLink>> {
        self.tls.clone()
    }

    async fn admit(&self) -> io::Result<Option<(TcpStream, Peer)>> {
        let (stream, address) = self.listener.accept().await?;
        let _ = stream.set_nodelay(true);
        Ok(Some((stream, Peer::Address(address.ip()))))
    }
}

/// The owner's socket, for the owner and root.
impl Admits for UnixListener {
    type Stream = UnixStream;

    async fn admit(&self) -> io::Result<Option<(UnixStream, Peer)>> {
        let (stream, _) = self.accept().await?;
        if is_owner(&stream) {
            return Ok(Some((stream, Peer::Owner)));
        }
        tracing::warn!("another user tried the administration socket");
        Ok(None)
    }
}

/// Accepts connections until `stop`; then lets what runs come to its end.
pub(crate) async fn serve(listener: impl Admits, router: Router, stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let tls = listener.tls();
    loop {
        while connections.try_join_next().is_some() {}
        let Some(place) = place(&places, stop.clone()).await else {
            break;
        };
        tokio::select! {
            admitted = listener.admit() => match admitted {
                Ok(Some((stream, peer))) => {
                    let served = begin(stream, peer, tls.clone(), router.clone(), stop.clone());
                    connections.spawn(async move {
                        served.await;
                        drop(place);
                    });
                }
                Ok(None) => {}
                Err(error) => pause(&error).await,
            },
            () = stopped(stop.clone()) => break,
        }
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    // What is left then is cut off with the set.
    let _ = tokio::time::timeout(Duration::from_millis(CLOSE_MS_MAX), ended).await;
}

/// The kernel's word on who opened the socket (SO_PEERCRED).
fn is_owner(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

async fn place(
    places: &Arc<Semaphore>,
    stop: watch::Receiver<bool>,
) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        place = places.clone().acquire_owned() => place.ok(),
        () = stopped(stop) => None,
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // Nobody who could stop it means that it is stopped.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Out of descriptors, most likely: accepting at once again would only burn time.
async fn pause(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn begin<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    peer: Peer,
    tls: Option<Arc<ServerLink>>,
    router: Router,
    stop: watch::Receiver<bool>,
) {
    let stream = Impatient::new(stream);
    let Some(tls) = tls else {
        return connection(stream, Whose { peer, link: None, client: None }, router, stop).await;
    };
    let limit = Duration::from_millis(HANDSHAKE_MS_MAX);
    match tokio::time::timeout(limit, tls.handshake(stream)).await {
        Ok(Ok((stream, client))) => {
            connection(stream, Whose { peer, link: Some(tls), client }, router, stop).await;
        }
        // Whoever is not let in is told by an alert, and whoever runs this by the log.
        Ok(Err(error)) => tracing::info!(%error, ?peer, "no TLS connection came to be"),
        Err(_) => tracing::info!(?peer, "a TLS handshake took too long"),
    }
}

/// Where the requests of a connection come from, and how.
#[derive(Debug)]
struct Whose {
    peer: Peer,
    link: Option<Arc<ServerLink>>,
    client: Option<Client>,
}

/// A certificate may end while its connection lives; then so does the connection.
fn ended() -> Response {
    let detail = "The client certificate of this connection has expired or is revoked; connect \
                  anew with one that holds.";
    let mut refusal =
        Problem::new(StatusCode::FORBIDDEN, "certificate_ended", detail).into_response();
    refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    refusal
}

async fn connection<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    whose: Whose,
    router: Router,
    stop: watch::Receiver<bool>,
) {
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(whose.peer);
        if let Some(link) = &whose.link {
            request.extensions_mut().insert(Arc::clone(link));
        }
        let holds = whose.client.as_ref().is_none_or(Client::still_holds);
        let mut router = router.clone();
        async move { if holds { router.call(request.map(Body::new)).await } else { Ok(ended()) } }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(HEAD_MS_MAX))
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    // A client that breaks off is no news.
    tokio::select! {
        _ = served.as_mut() => {}
        () = stopped(stop) => {
            served.as_mut().graceful_shutdown();
            let _ = served.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_loopback_is_bound_without_tls() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
            let refusal = Port::bind(address.parse().unwrap(), None).await.unwrap_err();
            assert!(refusal.to_string().contains("serve --tls"), "{refusal}");
        }
        assert!(Port::bind("127.0.0.1:0".parse().unwrap(), None).await.is_ok());
    }

    #[tokio::test]
    async fn the_owners_socket_is_the_owners() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        drop(bind_owner(&path).unwrap());
        let listener = bind_owner(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let client = UnixStream::connect(&path).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(is_owner(&accepted) && is_owner(&client));
    }
}
