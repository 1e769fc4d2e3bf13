//! Sockets: loopback for agents, a Unix socket for the owner. Nothing else is listened on.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};
use tower_service::Service;

use crate::{boot::BootError, impatient::Impatient};

/// Connections at once, of each listener.
const CONNECTIONS_MAX: usize = 1_024;
/// Request line and headers together.
const HEAD_BYTES_MAX: usize = 32 * 1024;
const HEADERS_MAX: usize = 64;
/// Longest time for a client to send its headers.
const HEAD_MS_MAX: u64 = 10_000;
/// How long connections may take to end after what they asked for has.
const CLOSE_MS_MAX: u64 = 35_000;

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    Address(IpAddr),
    Owner,
}

/// Binds for agents. Until TLS guards it, loopback only.
pub(crate) async fn bind_loopback(address: SocketAddr) -> Result<TcpListener, BootError> {
    if !address.ip().is_loopback() {
        return Err(BootError::Listen(format!(
            "{address} is not a loopback address; without TLS the gateway listens on loopback \
             only, so use 127.0.0.1 or [::1] and put nothing in front that forwards to it"
        )));
    }
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| BootError::Listen(format!("cannot listen on {address}: {error}")))
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
}

impl Admits for TcpListener {
    type Stream = TcpStream;

    async fn admit(&self) -> io::Result<Option<(TcpStream, Peer)>> {
        let (stream, address) = self.accept().await?;
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
    loop {
        while connections.try_join_next().is_some() {}
        let Some(place) = place(&places, stop.clone()).await else {
            break;
        };
        tokio::select! {
            admitted = listener.admit() => match admitted {
                Ok(Some((stream, peer))) => {
                    let served = connection(stream, peer, router.clone(), stop.clone());
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

async fn connection<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    peer: Peer,
    router: Router,
    stop: watch::Receiver<bool>,
) {
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().call(request.map(Body::new))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(HEAD_MS_MAX))
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Impatient::new(stream)), service);
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
    async fn only_loopback_is_bound() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
            let refusal = bind_loopback(address.parse().unwrap()).await.unwrap_err();
            assert!(refusal.to_string().contains("loopback"), "{refusal}");
        }
        assert!(bind_loopback("127.0.0.1:0".parse().unwrap()).await.is_ok());
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
