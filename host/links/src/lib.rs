//! TLS 1.3 (RFC 8446) as every link of the host uses it beyond loopback.
//!
//! Two suites, no older version, no resumption, no tickets, no early data: a connection begins with
//! a whole handshake or not at all. Certificates are X.509 from files in PEM, which are read anew
//! when they change, so that a renewed or revoked certificate counts without a restart.
//!
//! * [`ServerLink`]: a listener's side. A client's certificate is asked for or not, and one that
//!   was verified can be verified again while its connection lives ([`Client::still_holds`]).
//! * [`ClientLink`]: the other side, which believes one CA file and nothing else.

mod client;
mod files;
mod server;

use std::sync::Arc;

use rustls::crypto::{
    CryptoProvider,
    ring::{
        self,
        cipher_suite::{TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256},
    },
};

pub use crate::{
    client::ClientLink,
    files::LinkError,
    server::{Client, Clients, ServerFiles, ServerLink},
};

/// What both sides may use.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256],
        ..ring::default_provider()
    })
}

/// The one application protocol.
const ALPN: &[u8] = b"http/1.1";

#[cfg(test)]
mod tests;
