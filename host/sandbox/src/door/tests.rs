//! What the door opens for, and every trick that it does not open for.

use super::*;
use proptest::prelude::*;
use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring};
use tokio::net::TcpListener;

mod tls;

fn endpoint(host: &str, port: u16, private: bool) -> Endpoint {
    Endpoint { host: host.into(), port, private }
}

/// For an answer of 1,024 bytes.
fn way(endpoint: &Endpoint) -> Arc<Way> {
    Arc::new(Way::new(endpoint, Bounds::of(RootName::Connector, 1024)))
}

async fn ask(endpoint: Endpoint, request: &[u8]) -> (String, Arc<Way>) {
    let way = way(&endpoint);
    (ask_at_a_door(&way, request).await, way)
}

async fn ask_at_a_door(way: &Arc<Way>, request: &[u8]) -> String {
    let (inside, mut container) = UnixStream::pair().unwrap();
    let door = tokio::spawn(serve(inside, Arc::clone(way)));
    container.write_all(request).await.unwrap();
    container.shutdown().await.unwrap();
    let mut answer = Vec::new();
    container.read_to_end(&mut answer).await.unwrap();
    door.await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn connect_line(endpoint: &Endpoint) -> Vec<u8> {
    format!("CONNECT {endpoint} HTTP/1.1\r\n\r\n").into_bytes()
}

/// The first message of a TLS client that means to speak to `host`.
fn hello(host: &'static str) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), host.try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[kind, 3, 3, high, low], content].concat()
}

/// A record of data, which is encrypted to whoever is no peer.
fn data(content: &[u8]) -> Vec<u8> {
    record(23, content)
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
    let out = [hello("127.0.0.1"), data(b"ping")].concat();
    let (answer, way) = ask(to.clone(), &[connect_line(&to), out.clone()].concat()).await;
    assert_eq!(answer, "HTTP/1.1 200 open\r\n\r\npong!");
    assert_eq!(upstream.await.unwrap(), out, "byte for byte");
    let bytes_out = u64::try_from(out.len()).unwrap();
    assert_eq!(
        way.connections(),
        [Connection { host: "127.0.0.1".into(), port, bytes_out, bytes_in: 5 }]
    );
}

#[tokio::test]
async fn an_endless_question_is_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = endpoint("127.0.0.1", listener.local_addr().unwrap().port(), true);
    let taken = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap_or_default()
    });
    let (inside, mut container) = UnixStream::pair().unwrap();
    let way = way(&to);
    let door = tokio::spawn(serve(inside, Arc::clone(&way)));
    container.write_all(&[connect_line(&to), hello("127.0.0.1")].concat()).await.unwrap();
    let data = data(&[b'x'; 16 * 1024]);
    let endless = async { while container.write_all(&data).await.is_ok() {} };
    let ((), taken, door) = tokio::join!(endless, taken, door);
    door.unwrap();
    assert!(taken.unwrap() <= OUT_BYTES_MAX);
    assert!(way.connections()[0].bytes_out <= OUT_BYTES_MAX);
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
        let (answer, way) = ask(to(), request.as_bytes()).await;
        assert_eq!(answer.get(9..12), Some(status), "{request}");
        assert!(way.connections().is_empty());
    }
}

/// The same endpoint to somebody else, perhaps; to the door it is another, or no request.
#[tokio::test]
async fn the_endpoint_has_one_spelling() {
    for (what, asked, status) in [
        ("an address", "CONNECT 93.184.215.14:443 HTTP/1.1", "421"),
        ("an IPv6 address", "CONNECT [2606:4700::1111]:443 HTTP/1.1", "421"),
        ("loopback", "CONNECT 127.0.0.1:443 HTTP/1.1", "421"),
        ("a trailing dot", "CONNECT api.example.org.:443 HTTP/1.1", "421"),
        ("upper case", "CONNECT API.example.org:443 HTTP/1.1", "421"),
        ("a letter that looks alike", "CONNECT api.ex\u{430}mple.org:443 HTTP/1.1", "421"),
        ("that letter in IDNA", "CONNECT api.xn--exmple-4nf.org:443 HTTP/1.1", "421"),
        ("an ideographic full stop", "CONNECT api\u{3002}example.org:443 HTTP/1.1", "421"),
        ("a soft hyphen", "CONNECT api.exam\u{ad}ple.org:443 HTTP/1.1", "421"),
        ("an encoded dot", "CONNECT api%2eexample.org:443 HTTP/1.1", "421"),
        ("a user", "CONNECT user@api.example.org:443 HTTP/1.1", "421"),
        ("the endpoint as a user", "CONNECT api.example.org:443@evil.org:443 HTTP/1.1", "421"),
        ("a path", "CONNECT api.example.org:443/ HTTP/1.1", "421"),
        ("a fragment", "CONNECT api.example.org:443#@evil.org HTTP/1.1", "421"),
        ("a scheme", "CONNECT https://api.example.org:443 HTTP/1.1", "421"),
        ("an octal port", "CONNECT api.example.org:0443 HTTP/1.1", "421"),
        ("a signed port", "CONNECT api.example.org:+443 HTTP/1.1", "421"),
        ("a port of 17 bits", "CONNECT api.example.org:65979 HTTP/1.1", "421"),
        ("a space behind the port", "CONNECT api.example.org:443  HTTP/1.1", "421"),
        ("a tab behind the port", "CONNECT api.example.org:443\tHTTP/1.1", "421"),
        ("no port", "CONNECT api.example.org HTTP/1.1", "421"),
        ("an empty port", "CONNECT api.example.org: HTTP/1.1", "421"),
        ("another service's name", "CONNECT api.example.org:https HTTP/1.1", "421"),
        ("NUL in the host", "CONNECT api.example.org\0.evil.org:443 HTTP/1.1", "421"),
        ("NUL behind the port", "CONNECT api.example.org:443\0 HTTP/1.1", "421"),
        ("a space behind the version", "CONNECT api.example.org:443 HTTP/1.1 ", "421"),
        ("HTTP/2", "CONNECT api.example.org:443 HTTP/2", "421"),
        ("HTTP/0.9", "CONNECT api.example.org:443", "421"),
        ("lower case of the method", "connect api.example.org:443 HTTP/1.1", "400"),
        ("a space before the method", " CONNECT api.example.org:443 HTTP/1.1", "400"),
        ("an empty line before it", "\r\nCONNECT api.example.org:443 HTTP/1.1", "400"),
        ("NUL before the method", "\0CONNECT api.example.org:443 HTTP/1.1", "400"),
        ("the absolute form", "GET https://api.example.org:443/ HTTP/1.1", "400"),
        ("the absolute form to within", "GET http://169.254.169.254/ HTTP/1.1", "400"),
    ] {
        let to = endpoint("api.example.org", 443, true);
        let (answer, way) = ask(to, format!("{asked}\r\n\r\n").as_bytes()).await;
        assert_eq!(answer.get(9..12), Some(status), "{what}");
        assert!(way.connections().is_empty(), "{what}");
    }
}

/// The endpoint's own line, and something that others might take for a second request or for
/// another end of the head.
#[tokio::test]
async fn the_head_is_one_line() {
    const LINE: &str = "CONNECT api.example.org:443 HTTP/1.1";
    let evil = "CONNECT evil.org:443 HTTP/1.1";
    for (what, head, status) in [
        ("another CONNECT behind it", format!("{LINE}\r\n{evil}\r\n\r\n"), "400"),
        ("another CONNECT before it", format!("{evil}\r\n{LINE}\r\n\r\n"), "421"),
        ("the same twice", format!("{LINE}\r\n{LINE}\r\n\r\n"), "400"),
        ("a host", format!("{LINE}\r\nHost: evil.org\r\n\r\n"), "400"),
        ("a length", format!("{LINE}\r\nContent-Length: 9\r\n\r\n"), "400"),
        ("chunks", format!("{LINE}\r\nTransfer-Encoding: chunked\r\n\r\n"), "400"),
        ("a folded line", format!("{LINE}\r\n {evil}\r\n\r\n"), "400"),
        ("NUL", format!("{LINE}\r\n\0\r\n\r\n"), "400"),
        ("a bare LF behind the line", format!("{LINE}\n{evil}\r\n\r\n"), "421"),
        ("bare LFs alone", format!("{LINE}\n\n"), "400"),
        ("a bare CR behind the line", format!("{LINE}\r{evil}\r\n\r\n"), "421"),
        ("a bare LF in a line", format!("{LINE}\r\nA: b\n{evil}\r\n\r\n"), "400"),
    ] {
        let (answer, way) = ask(endpoint("api.example.org", 443, true), head.as_bytes()).await;
        assert_eq!(answer.get(9..12), Some(status), "{what}");
        assert!(way.connections().is_empty(), "{what}");
    }
}

/// Nobody has connected to it, and nobody waits to.
fn is_alone(listener: &std::net::TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    listener.accept().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[tokio::test]
async fn what_follows_the_head_is_the_upstreams_and_opens_nothing() {
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let [to, evil] = [&upstream, &other]
        .map(|there| endpoint("127.0.0.1", there.local_addr().unwrap().port(), true));
    let requests = [connect_line(&evil), connect_line(&to)].concat();
    let smuggled = [hello("127.0.0.1"), data(&requests)].concat();
    let request = [connect_line(&to), smuggled.clone()].concat();
    let taken = std::thread::spawn(move || {
        let (mut stream, _) = upstream.accept().unwrap();
        let mut all = Vec::new();
        io::Read::read_to_end(&mut stream, &mut all).unwrap();
        (upstream, all)
    });
    let (answer, way) = ask(to.clone(), &request).await;
    let (upstream, all) = taken.join().unwrap();
    assert_eq!(answer, "HTTP/1.1 200 open\r\n\r\n");
    assert_eq!(all, smuggled, "byte for byte");
    assert!(is_alone(&upstream), "one connection");
    assert!(is_alone(&other), "to one endpoint");
    assert_eq!(way.connections().len(), 1);
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

/// No policy may name these. If one could, the system's resolver takes some for loopback.
#[tokio::test]
async fn an_inward_address_is_refused_in_every_spelling() {
    for (what, host) in [
        ("decimal", "2130706433"),
        ("hexadecimal", "0x7f000001"),
        ("hexadecimal and short", "0x7f.1"),
        ("octal", "0177.0.0.1"),
        ("octal alone", "017700000001"),
        ("short", "127.1"),
        ("three parts", "127.0.1"),
        ("mixed", "0x7f.0.0.01"),
        ("metadata, decimal", "2852039166"),
        ("metadata, hexadecimal", "0xa9fea9fe"),
        ("metadata, octal", "0251.0376.0251.0376"),
        ("metadata", "169.254.169.254"),
        ("metadata, IPv6", "[fd00:ec2::254]"),
        ("IPv4-mapped", "[::ffff:127.0.0.1]"),
        ("IPv4-mapped metadata", "[::ffff:a9fe:a9fe]"),
        ("IPv4-compatible", "[::127.0.0.1]"),
        ("IPv4-translated", "[::ffff:0:10.0.0.1]"),
        ("NAT64", "[64:ff9b::10.0.0.1]"),
        ("local NAT64", "[64:ff9b:1::a9fe:a9fe]"),
        ("6to4", "[2002:a00:1::]"),
        ("Teredo", "[2001:0:a00:1::f5ff:fffe]"),
        ("unique local", "[fd00::1]"),
        ("link-local", "[fe80::1]"),
        ("site-local", "[fec0::1]"),
        ("loopback, IPv6", "[::1]"),
        ("unspecified, IPv6", "[::]"),
        ("unspecified, IPv4-mapped", "[::ffff:0.0.0.0]"),
        ("zero", "0"),
    ] {
        let to = endpoint(host, 9, false);
        let line = connect_line(&to);
        let (answer, way) = ask(to, &line).await;
        assert_eq!(answer.get(9..12), Some("403"), "{what}: {host}");
        assert!(way.connections().is_empty(), "{what}");
    }
}

fn addresses(found: &[&str]) -> Vec<SocketAddr> {
    found.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 443)).collect()
}

/// Whoever answers for the name answers what he likes, and each time something else.
#[test]
fn of_a_resolvers_answer_only_what_leads_outwards_is_tried() {
    const PUBLIC: &str = "93.184.215.14";
    for (what, found) in [
        ("public first", [PUBLIC, "127.0.0.1"]),
        ("private first", ["10.0.0.1", PUBLIC]),
        ("metadata", [PUBLIC, "169.254.169.254"]),
        ("IPv6 loopback", ["::1", PUBLIC]),
        ("IPv4-mapped", [PUBLIC, "::ffff:192.168.0.1"]),
        ("unspecified", ["0.0.0.0", PUBLIC]),
    ] {
        assert_eq!(allowed(addresses(&found), false), Ok(addresses(&[PUBLIC])), "{what}");
    }
    let inwards = addresses(&["127.0.0.1", "::1", "10.0.0.1"]);
    assert_eq!(allowed(inwards.clone(), false), Err(Shut::AddressRefused));
    assert_eq!(allowed(inwards.clone(), true), Ok(inwards));
    let never = addresses(&["0.0.0.0", "224.0.0.1", "::"]);
    assert_eq!(allowed(never, true), Err(Shut::AddressRefused));
    // However many inward ones come first, they take no place of those that are tried.
    let mut many = addresses(&["10.0.0.1"; ADDRESSES_MAX]);
    many.extend(addresses(&[PUBLIC; ADDRESSES_MAX + 1]));
    assert_eq!(allowed(many, false), Ok(addresses(&[PUBLIC; ADDRESSES_MAX])));
}

#[tokio::test]
async fn a_name_that_was_rebound_to_within_reaches_nothing() {
    let within = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let there = within.local_addr().unwrap();
    for (private, status) in [(false, "403"), (true, "200")] {
        assert!(is_alone(&within));
        let to = endpoint("api.example.org", there.port(), private);
        let (inside, mut container) = UnixStream::pair().unwrap();
        container.write_all(&connect_line(&to)).await.unwrap();
        container.shutdown().await.unwrap();
        let (way, found) = (way(&to), std::future::ready(Ok(vec![there])));
        let door = serve_resolved(inside, found, &way);
        let upstream = async {
            if private {
                within.set_nonblocking(true).unwrap();
                let within = TcpListener::from_std(within.try_clone().unwrap()).unwrap();
                drop(within.accept().await.unwrap());
            }
        };
        tokio::join!(door, upstream);
        let mut answer = String::new();
        container.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer.get(9..12), Some(status), "{private}");
        assert_eq!(way.connections().len(), usize::from(private));
    }
}

#[tokio::test]
async fn nothing_listens_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = endpoint("127.0.0.1", listener.local_addr().unwrap().port(), true);
    drop(listener);
    let line = connect_line(&to);
    let (answer, way) = ask(to, &line).await;
    assert_eq!(&answer[9..12], "502");
    assert!(way.connections().is_empty());
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
    let request = [connect_line(&to), hello("127.0.0.1")].concat();
    let (answer, way) = ask(to, &request).await;
    let bound = 1024 + 64 + IN_BYTES_EXTRA;
    assert!(way.connections()[0].bytes_in <= bound);
    assert!(u64::try_from(answer.len()).unwrap() <= bound + 64);
}

/// An execution with several doors has several connections, and the bound of one.
#[tokio::test]
async fn doors_of_one_execution_are_counted_each_and_bounded_together() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = endpoint("127.0.0.1", listener.local_addr().unwrap().port(), true);
    let half = usize::try_from(IN_BYTES_EXTRA / 2).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
            stream.write_all(&vec![b'x'; half]).await.unwrap();
        }
    });
    let way = way(&to);
    let request = [connect_line(&to), hello("127.0.0.1")].concat();
    for _ in 0..2 {
        let answer = ask_at_a_door(&way, &request).await;
        assert_eq!(answer.len(), half + b"HTTP/1.1 200 open\r\n\r\n".len());
    }
    let cut = ask_at_a_door(&way, &request).await;
    assert!(cut.len() < half, "{}", cut.len());
    let bytes: Vec<_> = way.connections().iter().map(|opened| opened.bytes_in).collect();
    let half = u64::try_from(half).unwrap();
    assert_eq!(bytes.get(..2), Some([half, half].as_slice()));
    assert!(bytes.iter().sum::<u64>() <= Bounds::of(RootName::Connector, 1024).back);
    // At no door of it is another endpoint to be had.
    let other = ask_at_a_door(&way, b"CONNECT evil.org:443 HTTP/1.1\r\n\r\n").await;
    assert_eq!(other.get(9..12), Some("421"));
    assert_eq!(way.connections().len(), 3);
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
    fn a_changed_line_does_not_open(at in 0usize..40, byte in any::<u8>()) {
        let to = endpoint("api.example.org", 443, false);
        let mut line = connect_line(&to);
        prop_assume!(line[at] != byte);
        line[at] = byte;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        prop_assert!(runtime.block_on(asked(&mut line.as_slice(), &to)).is_err());
    }
}
