//! What goes out first through a door: a TLS ClientHello (RFC 8446, section 4.1.2) that names the
//! endpoint's host (RFC 6066, section 3). Every plan means TLS to its host: plain text would be another
//! plan, and another name another host on the same address.

use std::net::IpAddr;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What is read for one, up to its last piece.
pub(super) const HELLO_BYTES_MAX: usize = 16 * 1024;
const CHUNK_BYTES: usize = 4096;

/// Reads one, and whatever has come with its end. `None` if it is something else, is for somebody
/// else, or never comes to its end.
pub(super) async fn read(inside: &mut (impl AsyncRead + Unpin), host: &str) -> Option<Vec<u8>> {
    let mut acceptor = Acceptor::default();
    let mut hello = Vec::new();
    let mut chunk = [0; CHUNK_BYTES];
    while hello.len() < HELLO_BYTES_MAX {
        let read = inside.read(&mut chunk).await.ok().filter(|read| *read > 0)?;
        let mut unread = chunk.get(..read)?;
        hello.extend_from_slice(unread);
        while !unread.is_empty() {
            acceptor.read_tls(&mut unread).ok()?;
            if let Some(accepted) = acceptor.accept().ok()? {
                return names(accepted.client_hello().server_name(), host).then_some(hello);
            }
        }
    }
    None
}

/// An address has no name to give. Another one in a name's place is none to rustls either.
fn names(name: Option<&str>, host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(_) => name.is_none(),
        Err(_) => name == Some(host),
    }
}
