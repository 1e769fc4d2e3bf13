//! What goes out through an open door, and what does not.

use proptest::prelude::*;

use super::*;
use crate::door::tls;

/// What comes out at `upstream` of what goes in, where `host` leads there.
async fn let_through(host: &str, out: &[u8], upstream: &TcpListener) -> Vec<u8> {
    let there = upstream.local_addr().unwrap();
    let to = endpoint(host, there.port(), true);
    let (inside, mut container) = UnixStream::pair().unwrap();
    container.write_all(&connect_line(&to)).await.unwrap();
    container.write_all(out).await.unwrap();
    container.shutdown().await.unwrap();
    let way = way(&to);
    let door = serve_resolved(inside, std::future::ready(Ok(vec![there])), &way);
    let mut come = Vec::new();
    let reading = async {
        let (mut stream, _) = upstream.accept().await.unwrap();
        stream.read_to_end(&mut come).await.unwrap();
    };
    tokio::join!(door, reading);
    let [Connection { bytes_out, .. }] = way.connections()[..] else { panic!("one connection") };
    assert_eq!(bytes_out, u64::try_from(come.len()).unwrap());
    come
}

/// The hello with one more entry behind its only name.
fn with_entry(hello: &[u8], host: &str, entry: &[u8]) -> Vec<u8> {
    let name = hello.windows(host.len()).position(|part| part == host.as_bytes()).unwrap();
    let after = |at: usize, bytes: usize| {
        let length =
            hello[at..at + bytes].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        at + bytes + length
    };
    // Record and handshake, then version, random, session, suites and compression.
    let extensions = after(after(after(43, 1), 2), 1);
    let mut longer = hello.to_vec();
    for low in [4, 8, extensions + 1, name - 6, name - 4] {
        let length = [longer[low - 1], longer[low]];
        let length = u16::from_be_bytes(length) + u16::try_from(entry.len()).unwrap();
        longer[low - 1..=low].copy_from_slice(&length.to_be_bytes());
    }
    longer.splice(name + host.len()..name + host.len(), entry.iter().copied());
    longer
}

/// One address may be several hosts', and only TLS says which is meant.
#[tokio::test]
async fn nothing_goes_out_before_tls_that_names_the_endpoint() {
    const HOST: &str = "api.example.org";
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let spoken = hello(HOST);
    assert_eq!(let_through(HOST, &spoken, &upstream).await, spoken);
    // What is no name is the upstream's to judge.
    let no_name = with_entry(&spoken, HOST, b"\x09\0\x01x");
    assert_eq!(let_through(HOST, &no_name, &upstream).await, no_name);
    let nameless = hello("127.0.0.1");
    assert_eq!(let_through("127.0.0.1", &nameless, &upstream).await, nameless);

    let short = spoken.get(..spoken.len() - 1).unwrap().to_vec();
    let mut longer = spoken.clone();
    // The record's own length.
    longer[3..5].copy_from_slice(&u16::MAX.to_be_bytes());
    let other = [b"\0\0\x08".as_slice(), b"evil.org"].concat();
    for (what, host, out) in [
        ("another name", HOST, hello("evil.example.org")),
        ("a name above it", HOST, hello("example.org")),
        ("no name", HOST, hello("127.0.0.1")),
        ("a name for an address", "127.0.0.1", hello(HOST)),
        ("a name for an IPv6 address", "[::1]", hello(HOST)),
        ("another name behind it", HOST, with_entry(&spoken, HOST, &other)),
        ("half an entry behind it", HOST, with_entry(&spoken, HOST, &other[..2])),
        ("half of one", HOST, short),
        ("a record that is too long", HOST, longer),
        ("plain HTTP", HOST, format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").into_bytes()),
        ("HTTP/2 without TLS", HOST, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("another protocol", HOST, b"SSH-2.0-any\r\n".to_vec()),
        ("a byte before it", HOST, [b"\0".as_slice(), &spoken].concat()),
        ("a line before it", HOST, [b"\r\n".as_slice(), &spoken].concat()),
        ("an alert before it", HOST, [b"\x15\x03\x03\0\x02\x01\0".as_slice(), &spoken].concat()),
        ("nothing", HOST, Vec::new()),
    ] {
        assert_eq!(let_through(host, &out, &upstream).await, b"", "{what}");
    }
}

/// An upstream may ask for a second hello, and take its name from that.
#[tokio::test]
async fn what_goes_out_behind_it_is_tls_that_names_the_endpoint() {
    const HOST: &str = "api.example.org";
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (first, evil) = (hello(HOST), hello("evil.example.org"));
    let content = |hello: &[u8]| hello[5..].to_vec();
    let (changing, early) = (record(20, &[1]), data(b"early"));
    let sound = [&*first, &changing, &first, &early, &record(22, &[0; 40])].concat();
    assert_eq!(let_through(HOST, &sound, &upstream).await, sound);
    let pieces = content(&evil).iter().flat_map(|byte| record(22, &[*byte])).collect();
    for (what, then) in [
        ("another name", evil.clone()),
        ("another name in pieces", pieces),
        ("another name behind this one", record(22, &[content(&first), content(&evil)].concat())),
        ("a hello that is cut", first[..first.len() - 1].to_vec()),
        ("plain HTTP", b"GET / HTTP/1.1\r\nHost: evil.example.org\r\n\r\n".to_vec()),
        ("a record that is too long", record(23, &[0; 19_000])),
    ] {
        for before in [first.clone(), [&*first, &changing].concat(), [&*first, &early].concat()] {
            let come = let_through(HOST, &[&*before, &then].concat(), &upstream).await;
            assert_eq!(come, before, "{what}");
        }
    }
    let both = record(22, &[content(&first), content(&evil)].concat());
    assert_eq!(let_through(HOST, &both, &upstream).await, b"", "two in one");
}

/// In as many pieces as there are bytes.
#[tokio::test]
async fn a_hello_may_come_byte_by_byte() {
    let spoken = hello("api.example.org");
    let (mut inside, mut container) = UnixStream::pair().unwrap();
    let writing = async {
        for byte in &spoken {
            container.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let (read, ()) = tokio::join!(tls::hello(&mut inside, "api.example.org"), writing);
    assert_eq!(read, Some(spoken));
}

#[tokio::test]
async fn a_hello_without_end_is_cut() {
    let (mut inside, mut container) = UnixStream::pair().unwrap();
    // It is to have 61,440 bytes, in records of two, and is not waited for.
    let began = b"\x16\x03\x01\0\x04\x01\0\xf0\0";
    let goes_on = b"\x16\x03\x01\0\x02\x03\x03".repeat(tls::HELLO_BYTES_MAX / 7);
    container.write_all(&[began.as_slice(), &goes_on].concat()).await.unwrap();
    let reading = tls::hello(&mut inside, "api.example.org");
    let read = timeout(Duration::from_secs(10), reading).await.expect("more is waited for");
    assert_eq!(read, None);
}

proptest! {
    #[test]
    fn a_changed_hello_goes_out_as_it_is_or_not_at_all(at in any::<prop::sample::Index>(), byte: u8) {
        const HOST: &str = "api.example.org";
        let mut changed = hello(HOST);
        let name = changed.windows(HOST.len()).position(|part| part == HOST.as_bytes()).unwrap();
        let at = at.index(changed.len());
        let same = changed[at].eq_ignore_ascii_case(&byte);
        changed[at] = byte;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = runtime.block_on(tls::hello(&mut changed.as_slice(), HOST));
        if (name..name + HOST.len()).contains(&at) && !same {
            prop_assert!(read.is_none());
        } else {
            prop_assert!(read.is_none_or(|read| read == changed));
        }
    }
}
