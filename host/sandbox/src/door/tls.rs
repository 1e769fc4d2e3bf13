//! What may go out through a door: records of TLS, of which the first are a ClientHello (RFC 8446,
//! section 4.1.2) that names the endpoint's host (RFC 6066, section 3). So does another one that the
//! upstream asks for. Every plan means TLS to its host: plain text would be another plan, and another
//! name another host on the same address.

use std::{io, net::IpAddr};

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What is read for one, up to its last record.
pub(super) const HELLO_BYTES_MAX: usize = 16 * 1024;
/// A record's type, version and length (RFC 8446, section 5.1).
const HEADER_BYTES: usize = 5;
/// Longest content of one, that of TLS 1.2 (RFC 5246, section 6.2.3).
const CONTENT_BYTES_MAX: usize = 16 * 1024 + 2048;
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const CLIENT_HELLO: u8 = 1;
/// A message's type and length (RFC 8446, section 4).
const MESSAGE_HEADER_BYTES: usize = 4;

/// Reads what goes out first, a ClientHello and nothing more. `None` if it is something else, is for
/// somebody else, or never comes to its end.
pub(super) async fn hello(inside: &mut (impl AsyncRead + Unpin), host: &str) -> Option<Vec<u8>> {
    let first = record(inside).await.ok()??;
    begun(first, inside, host).await
}

/// Reads what goes out next, one record, or nothing at the end. `None` if it is no record, or a
/// ClientHello for somebody else.
pub(super) async fn next(inside: &mut (impl AsyncRead + Unpin), host: &str) -> Option<Vec<u8>> {
    match record(inside).await.ok()? {
        None => Some(Vec::new()),
        Some(next) if is_hello(&next) => begun(next, inside, host).await,
        Some(next) => Some(next),
    }
}

/// Encrypted content is longer, and only by chance looks like this.
fn is_hello(record: &[u8]) -> bool {
    matches!(record, [HANDSHAKE, _, _, _, _, CLIENT_HELLO, content @ ..]
        if content.get(3).is_none_or(|version| *version == 3))
}

/// The one that begins with this record.
async fn begun(
    first: Vec<u8>,
    inside: &mut (impl AsyncRead + Unpin),
    host: &str,
) -> Option<Vec<u8>> {
    let (mut hello, mut message) = (Vec::new(), Vec::new());
    let mut next = first;
    loop {
        if next.first() != Some(&HANDSHAKE) {
            return None;
        }
        message.extend_from_slice(next.get(HEADER_BYTES..)?);
        hello.append(&mut next);
        match length(&message) {
            Some(length) if length == message.len() => break,
            // Another message behind it would go out unseen.
            Some(length) if length < message.len() => return None,
            _ if hello.len() >= HELLO_BYTES_MAX => return None,
            _ => next = record(inside).await.ok()??,
        }
    }
    names(&hello, host).then_some(hello)
}

/// Of a message with its header.
fn length(message: &[u8]) -> Option<usize> {
    let [_, high, middle, low, ..] = *message else { return None };
    let length = u32::from_be_bytes([0, high, middle, low]);
    Some(MESSAGE_HEADER_BYTES + usize::try_from(length).ok()?)
}

/// Reads one record; `None` if there is no more.
async fn record(inside: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut record = vec![0; HEADER_BYTES];
    let (first, rest) = record.split_at_mut(1);
    if inside.read(first).await? == 0 {
        return Ok(None);
    }
    inside.read_exact(rest).await?;
    let [CHANGE_CIPHER_SPEC..=APPLICATION_DATA, 3, _, high, low] = record[..] else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > CONTENT_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    record.resize(HEADER_BYTES + length, 0);
    inside.read_exact(record.get_mut(HEADER_BYTES..).unwrap_or_default()).await?;
    Ok(Some(record))
}

/// Whether this is a ClientHello that names the host. An address has no name to give; another one in
/// a name's place is none to rustls either.
fn names(mut hello: &[u8], host: &str) -> bool {
    let mut acceptor = Acceptor::default();
    while !hello.is_empty() {
        if acceptor.read_tls(&mut hello).is_err() {
            return false;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let client = accepted.client_hello();
                let address = host.trim_start_matches('[').trim_end_matches(']');
                return match address.parse::<IpAddr>() {
                    Ok(_) => client.server_name().is_none(),
                    Err(_) => client.server_name() == Some(host),
                };
            }
            Err(_) => return false,
        }
    }
    false
}
