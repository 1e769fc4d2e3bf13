//! The container's only way out: one connection, to the plan's endpoint.
//!
//! The container asks `CONNECT host:port HTTP/1.1`. There is nothing to parse: either the line is
//! the one that the plan allows, or the door stays shut. The door resolves the name itself, so a
//! name that leads inwards is refused whatever the container believes.

use std::{
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
    mut inside: UnixStream,
    endpoint: Endpoint,
    response_bytes_max: u32,
    meter: Arc<Meter>,
) {
    let answer = match asked(&mut inside, &endpoint).await {
        Ok(()) => match connect(&endpoint).await {
            Ok(outside) => {
                meter.connected.store(true, Ordering::Release);
                if inside.write_all(b"HTTP/1.1 200 open\r\n\r\n").await.is_ok() {
                    relay(inside, outside, response_bytes_max, &meter).await;
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
    if head.starts_with(allowed.as_bytes()) {
        Ok(())
    } else if head.starts_with(b"CONNECT ") {
        Err(Shut::OtherEndpoint)
    } else {
        Err(Shut::Malformed)
    }
}

async fn connect(endpoint: &Endpoint) -> Result<TcpStream, Shut> {
    let connecting = async {
        let host = endpoint.host.trim_start_matches('[').trim_end_matches(']');
        let found = lookup_host((host, endpoint.port)).await;
        let found: Vec<_> = found.map_err(|_| Shut::Unreachable)?.collect();
        let allowed = |to: &SocketAddr| reach(to.ip()).allowed(endpoint.private);
        if !found.is_empty() && !found.iter().any(allowed) {
            return Err(Shut::AddressRefused);
        }
        for to in found.into_iter().filter(allowed).take(ADDRESSES_MAX) {
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    fn endpoint(host: &str, port: u16, private: bool) -> Endpoint {
        Endpoint { host: host.into(), port, private }
    }

    async fn ask(endpoint: Endpoint, request: &[u8]) -> (String, Arc<Meter>) {
        let (inside, mut container) = UnixStream::pair().unwrap();
        let meter = Arc::new(Meter::default());
        let door = tokio::spawn(serve(inside, endpoint, 1024, Arc::clone(&meter)));
        container.write_all(request).await.unwrap();
        container.shutdown().await.unwrap();
        let mut answer = Vec::new();
        container.read_to_end(&mut answer).await.unwrap();
        door.await.unwrap();
        (String::from_utf8_lossy(&answer).into_owned(), meter)
    }

    fn connect_line(endpoint: &Endpoint) -> Vec<u8> {
        format!("CONNECT {endpoint} HTTP/1.1\r\n\r\n").into_bytes()
    }

    #[tokio::test]
    async fn opens_to_the_endpoint_and_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let upstream = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            stream.write_all(b"pong!").await.unwrap();
            all
        });
        let to = endpoint("127.0.0.1", port, true);
        let request = [connect_line(&to), b"ping".to_vec()].concat();
        let (answer, meter) = ask(to.clone(), &request).await;
        assert_eq!(answer, "HTTP/1.1 200 open\r\n\r\npong!");
        assert_eq!(upstream.await.unwrap(), b"ping");
        assert_eq!(
            meter.connections(&to),
            [Connection { host: "127.0.0.1".into(), port, bytes_out: 4, bytes_in: 5 }]
        );
    }

    #[tokio::test]
    async fn stays_shut_for_anything_else() {
        let to = || endpoint("api.example.org", 443, true);
        for (request, status) in [
            ("CONNECT evil.example.org:443 HTTP/1.1\r\n\r\n", "421"),
            ("CONNECT api.example.org:444 HTTP/1.1\r\n\r\n", "421"),
            ("CONNECT api.example.org:443 HTTP/1.0\r\n\r\n", "421"),
            ("CONNECT  api.example.org:443 HTTP/1.1\r\n\r\n", "421"),
            ("CONNECT api.example.org:443.evil HTTP/1.1\r\n\r\n", "421"),
            ("GET / HTTP/1.1\r\n\r\n", "400"),
            ("", "400"),
            ("CONNECT api.example.org:443 HTTP/1.1\r\n", "400"),
        ] {
            let (answer, meter) = ask(to(), request.as_bytes()).await;
            assert_eq!(answer.get(9..12), Some(status), "{request}");
            assert!(!meter.connected());
        }
    }

    #[tokio::test]
    async fn private_addresses_are_refused_unless_the_policy_says_so() {
        for host in ["127.0.0.1", "localhost", "[::1]", "::ffff:127.0.0.1", "10.0.0.1", "0.0.0.0"] {
            let to = endpoint(host, 9, false);
            let line = connect_line(&to);
            assert_eq!(&ask(to, &line).await.0[9..12], "403", "{host}");
        }
        let to = endpoint("0.0.0.0", 9, true);
        let line = connect_line(&to);
        assert_eq!(&ask(to, &line).await.0[9..12], "403");
    }

    #[tokio::test]
    async fn nothing_listens_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = endpoint("127.0.0.1", listener.local_addr().unwrap().port(), true);
        drop(listener);
        let line = connect_line(&to);
        let (answer, meter) = ask(to, &line).await;
        assert_eq!(&answer[9..12], "502");
        assert!(!meter.connected());
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            while stream.write_all(&[b'x'; 65536]).await.is_ok() {}
        });
        let to = endpoint("127.0.0.1", port, true);
        let (answer, meter) = ask(to.clone(), &connect_line(&to)).await;
        let bound = 1024 + 64 + IN_BYTES_EXTRA;
        assert!(meter.connections(&to)[0].bytes_in <= bound);
        assert!(u64::try_from(answer.len()).unwrap() <= bound + 64);
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            let to = endpoint("api.example.org", 443, false);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let end = runtime.block_on(asked(&mut bytes.as_slice(), &to));
            prop_assert!(end.is_err());
        }

        #[test]
        fn a_changed_line_does_not_open(at in 0usize..37, byte in any::<u8>()) {
            let to = endpoint("api.example.org", 443, false);
            let mut line = connect_line(&to);
            prop_assume!(at < line.len() - 4 && line[at] != byte);
            line[at] = byte;
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            prop_assert!(runtime.block_on(asked(&mut line.as_slice(), &to)).is_err());
        }
    }
}
