//! The container's only way out: connections to the plan's endpoint, each through a door of its own.
//!
//! At a door the container asks `CONNECT host:port HTTP/1.1`, and nothing more. There is nothing to parse:
//! either the bytes are those that the plan allows, or the door stays shut. The door resolves the
//! name itself, once, and judges the addresses that it then connects to: a name that leads inwards
//! is refused whatever the container believes, and whatever the name leads to a moment later. What
//! goes out is TLS with that name.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use toani_protocol::{
    policy::{Endpoint, RootName},
    record::Connection,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream, lookup_host},
    time::timeout,
};

use crate::address::reach;

mod tls;

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
/// What a browser loads beside what is read of it: pages, scripts, pictures.
const IN_BYTES_BROWSER: u64 = 64 * 1024 * 1024;
const COPY_BYTES: usize = 16 * 1024;

/// What may go through all doors of an execution together, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    out: u64,
    back: u64,
}

impl Bounds {
    /// For an answer of so many bytes, up to what framing and encryption add.
    pub fn of(root_file_system: RootName, response_bytes_max: u32) -> Self {
        // TLS adds at most a sixteenth to full records; chunked bodies of tiny chunks add more, and
        // end as too large.
        let body = u64::from(response_bytes_max);
        let extra = match root_file_system {
            RootName::Connector => IN_BYTES_EXTRA,
            RootName::Browser => IN_BYTES_BROWSER,
        };
        let back = body.saturating_add(body / 16).saturating_add(extra);
        Self { out: OUT_BYTES_MAX, back }
    }
}

/// Where the doors of one execution lead, what may still go through them, and what did: the
/// supervisor's own count.
#[derive(Debug)]
pub struct Way {
    endpoint: Endpoint,
    out_left: AtomicU64,
    back_left: AtomicU64,
    opened: Mutex<Vec<Arc<Count>>>,
}

/// Of one connection.
#[derive(Debug, Default)]
struct Count {
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
}

impl Way {
    pub fn new(endpoint: &Endpoint, bounds: Bounds) -> Self {
        Self {
            endpoint: endpoint.clone(),
            out_left: AtomicU64::new(bounds.out),
            back_left: AtomicU64::new(bounds.back),
            opened: Mutex::default(),
        }
    }

    /// What was opened so far.
    pub fn connections(&self) -> Vec<Connection> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = |count: &Arc<Count>| Connection {
            host: self.endpoint.host.clone(),
            port: self.endpoint.port,
            bytes_out: count.bytes_out.load(Ordering::Acquire),
            bytes_in: count.bytes_in.load(Ordering::Acquire),
        };
        opened.iter().map(connection).collect()
    }

    fn open(&self) -> Arc<Count> {
        let count = Arc::new(Count::default());
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&count));
        count
    }
}

/// Serves one door until either side is done. Dropping the future shuts it.
pub async fn serve(inside: UnixStream, way: Arc<Way>) {
    let resolving = resolve(&way.endpoint);
    serve_resolved(inside, resolving, &way).await;
}

/// What a name leads to.
type Found = io::Result<Vec<SocketAddr>>;

async fn resolve(endpoint: &Endpoint) -> Found {
    let host = endpoint.host.trim_start_matches('[').trim_end_matches(']');
    Ok(lookup_host((host, endpoint.port)).await?.collect())
}

async fn serve_resolved(mut inside: UnixStream, resolving: impl Future<Output = Found>, way: &Way) {
    let answer = match asked(&mut inside, &way.endpoint).await {
        Ok(()) => match connect(resolving, way.endpoint.private).await {
            Ok(outside) => {
                let count = way.open();
                return go_on(inside, outside, way, &count).await;
            }
            Err(shut) => shut,
        },
        Err(shut) => shut,
    };
    // The container may be gone; then nobody needs the answer.
    let _ = inside.write_all(answer.line()).await;
}

/// Says that the door is open, and relays if what goes out first may.
async fn go_on(mut inside: UnixStream, mut outside: TcpStream, way: &Way, count: &Count) {
    if inside.write_all(b"HTTP/1.1 200 open\r\n\r\n").await.is_err() {
        return;
    }
    let Some(hello) = tls::hello(&mut inside, &way.endpoint.host).await else { return };
    if pass(&hello, &mut outside, &way.out_left, &count.bytes_out).await.is_some() {
        relay(inside, outside, way, count).await;
    }
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

/// Copies both ways until the upstream has said all, a bound is reached, or what would go out may not.
async fn relay(inside: UnixStream, outside: TcpStream, way: &Way, count: &Count) {
    let (mut inside_read, inside_write) = inside.into_split();
    let (outside_read, mut outside_write) = outside.into_split();
    let out = async {
        loop {
            let next = tls::next(&mut inside_read, &way.endpoint.host).await?;
            let passing = pass(&next, &mut outside_write, &way.out_left, &count.bytes_out);
            if next.is_empty() || passing.await.is_none() {
                break;
            }
        }
        let _ = outside_write.shutdown().await;
        Some(())
    };
    let back = pump(outside_read, inside_write, &way.back_left, &count.bytes_in);
    tokio::pin!(out, back);
    tokio::select! {
        sound = &mut out => if sound.is_some() { back.await },
        () = &mut back => {}
    }
}

/// Copies until the end, an error, or nothing is `left` to copy; then tells the other side that
/// this was all.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    left: &AtomicU64,
    count: &AtomicU64,
) {
    let mut chunk = vec![0; COPY_BYTES];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        let part = chunk.get(..read).unwrap_or_default();
        if pass(part, &mut to, left, count).await.is_none() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// `None` if so much is not left, or nobody takes it.
async fn pass(
    part: &[u8],
    to: &mut (impl AsyncWrite + Unpin),
    left: &AtomicU64,
    count: &AtomicU64,
) -> Option<()> {
    let length = u64::try_from(part.len()).ok()?;
    let less = |left: u64| left.checked_sub(length);
    left.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).ok()?;
    count.fetch_add(length, Ordering::AcqRel);
    to.write_all(part).await.ok()
}

#[cfg(test)]
mod tests;
