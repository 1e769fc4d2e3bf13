//! The container's only way out: one connection, to the plan's endpoint.
//!
//! The container asks `CONNECT host:port HTTP/1.1`, and nothing more. There is nothing to parse:
//! either the bytes are those that the plan allows, or the door stays shut. The door resolves the
//! name itself, once, and judges the addresses that it then connects to: a name that leads inwards
//! is refused whatever the container believes, and whatever the name leads to a moment later.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use toani_protocol::{policy::Endpoint, record::Connection};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream, lookup_host},
    time::timeout,
};

use crate::address::reach;

/// The request for the door, with its headers.
const HEAD_BYTES_MAX: usize = 1024;
/// Resolving and connecting, all addresses together.
const CONNECT_MS_MAX: u64 = 10_000;
/// One address of several.
const CONNECT_ONE_MS_MAX: u64 = 4_000;
/// Addresses that are tried.
const ADDRESSES_MAX: usize = 8;
/// What one execution may send. A request is far smaller.
const OUT_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// What comes in beside the body: handshake, heads, record and chunk framing.
const IN_BYTES_EXTRA: u64 = 1024 * 1024;
const COPY_BYTES: usize = 16 * 1024;

/// What went through the door. The supervisor's own count.
#[derive(Debug, Default)]
pub struct Meter {
    connected: AtomicBool,
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
}

impl Meter {
    /// A connection was opened.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// What was opened: one connection to the endpoint, or none.
    pub fn connections(&self, endpoint: &Endpoint) -> Vec<Connection> {
        let opened = self.connected().then(|| Connection {
            host: endpoint.host.clone(),
            port: endpoint.port,
            bytes_out: self.bytes_out.load(Ordering::Acquire),
            bytes_in: self.bytes_in.load(Ordering::Acquire),
        });
        opened.into_iter().collect()
    }
}

/// Serves one container until either side is done. Dropping the future shuts the door.
///
/// `response_bytes_max` bounds what comes in, up to what framing and encryption add.
pub async fn serve(
    inside: UnixStream,
    endpoint: Endpoint,
    response_bytes_max: u32,
    meter: Arc<Meter>,
) {
    serve_resolved(inside, &endpoint, resolve(&endpoint), response_bytes_max, &meter).await;
}

/// What a name leads to.
type Found = io::Result<Vec<SocketAddr>>;

async fn resolve(endpoint: &Endpoint) -> Found {
    let host = endpoint.host.trim_start_matches('[').trim_end_matches(']');
    Ok(lookup_host((host, endpoint.port)).await?.collect())
}

async fn serve_resolved(
    mut inside: UnixStream,
    endpoint: &Endpoint,
    resolving: impl Future<Output = Found>,
    response_bytes_max: u32,
    meter: &Meter,
) {
    let answer = match asked(&mut inside, endpoint).await {
        Ok(()) => match connect(resolving, endpoint.private).await {
            Ok(outside) => {
                meter.connected.store(true, Ordering::Release);
                if inside.write_all(b"HTTP/1.1 200 open\r\n\r\n").await.is_ok() {
                    relay(inside, outside, response_bytes_max, meter).await;
                }
                return;
            }
            Err(shut) => shut,
        },
        Err(shut) => shut,
    };
    // The container may be gone; then nobody needs the answer.
    let _ = inside.write_all(answer.line()).await;
}

/// Why the door stays shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shut {
    Malformed,
    OtherEndpoint,
    AddressRefused,
    Unreachable,
    TimedOut,
}

impl Shut {
    fn line(self) -> &'static [u8] {
        match self {
            Self::Malformed => b"HTTP/1.1 400 malformed\r\n\r\n",
            Self::OtherEndpoint => b"HTTP/1.1 421 not the plan's endpoint\r\n\r\n",
            Self::AddressRefused => b"HTTP/1.1 403 address refused\r\n\r\n",
            Self::Unreachable => b"HTTP/1.1 502 unreachable\r\n\r\n",
            Self::TimedOut => b"HTTP/1.1 504 timed out\r\n\r\n",
        }
    }
}

/// Reads one head and compares it. Byte by byte, because what follows it is not ours.
async fn asked(inside: &mut (impl AsyncRead + Unpin), endpoint: &Endpoint) -> Result<(), Shut> {
    let mut head = Vec::with_capacity(128);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return Err(Shut::Malformed);
        }
        head.push(inside.read_u8().await.map_err(|_| Shut::Malformed)?);
    }
    let allowed = format!("CONNECT {endpoint} HTTP/1.1\r\n");
    match head.strip_prefix(allowed.as_bytes()) {
        Some(b"\r\n") => Ok(()),
        None if head.starts_with(b"CONNECT ") => Err(Shut::OtherEndpoint),
        // A header may be another request to somebody who reads it otherwise.
        _ => Err(Shut::Malformed),
    }
}

/// Where the door may lead of what a name leads to.
fn allowed(found: Vec<SocketAddr>, private: bool) -> Result<Vec<SocketAddr>, Shut> {
    let none = found.is_empty();
    let allowed = found.into_iter().filter(|to| reach(to.ip()).allowed(private));
    let allowed: Vec<_> = allowed.take(ADDRESSES_MAX).collect();
    if allowed.is_empty() && !none { Err(Shut::AddressRefused) } else { Ok(allowed) }
}

/// Resolves once: a future has one answer.
async fn connect(resolving: impl Future<Output = Found>, private: bool) -> Result<TcpStream, Shut> {
    let connecting = async {
        let found = resolving.await.map_err(|_| Shut::Unreachable)?;
        for to in allowed(found, private)? {
            let one = Duration::from_millis(CONNECT_ONE_MS_MAX);
            if let Ok(Ok(stream)) = timeout(one, TcpStream::connect(to)).await {
                // Small requests must not wait for an acknowledgement; without it they are slower.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
        }
        Err(Shut::Unreachable)
    };
    timeout(Duration::from_millis(CONNECT_MS_MAX), connecting).await.unwrap_or(Err(Shut::TimedOut))
}

/// Copies both ways until the upstream has said all, or a bound is reached.
async fn relay(inside: UnixStream, outside: TcpStream, response_bytes_max: u32, meter: &Meter) {
    let (inside_read, inside_write) = inside.into_split();
    let (outside_read, outside_write) = outside.into_split();
    // TLS adds at most a sixteenth to full records; chunked bodies of tiny chunks add more, and
    // end as too large.
    let body = u64::from(response_bytes_max);
    let in_max = body.saturating_add(body / 16).saturating_add(IN_BYTES_EXTRA);
    let out = pump(inside_read, outside_write, OUT_BYTES_MAX, &meter.bytes_out);
    let back = pump(outside_read, inside_write, in_max, &meter.bytes_in);
    tokio::pin!(out, back);
    tokio::select! {
        () = &mut out => back.await,
        () = &mut back => {}
    }
}

/// Copies until the end, an error or `bytes_max`; then tells the other side that this was all.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    bytes_max: u64,
    count: &AtomicU64,
) {
    let mut chunk = vec![0; COPY_BYTES];
    let mut total = 0u64;
    while let Ok(read) = from.read(&mut chunk).await {
        let length = u64::try_from(read).unwrap_or(u64::MAX);
        total = total.saturating_add(length);
        if read == 0 || total > bytes_max {
            break;
        }
        count.fetch_add(length, Ordering::AcqRel);
        let part = chunk.get(..read).unwrap_or_default();
        if to.write_all(part).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests;
