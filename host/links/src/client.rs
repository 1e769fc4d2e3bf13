//! Who begins a link.

use std::{io, path::Path, sync::Arc};

use rustls::{
    ClientConfig,
    client::{Resumption, WebPkiServerVerifier},
    version::TLS13,
};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    ALPN, LinkError,
    files::{self, Identity},
    provider,
};

/// Believes servers whose certificate one CA file leads to, for their names and at their time.
#[derive(Clone)]
pub struct ClientLink {
    connector: TlsConnector,
}

impl std::fmt::Debug for ClientLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientLink").finish_non_exhaustive()
    }
}

impl ClientLink {
    /// Speaks HTTP/1.1. `identity` is this side's certificate and key in one file.
    ///
    /// # Errors
    /// A file that cannot be read or does not hold what it should.
    pub fn http(ca: &Path, identity: Option<&Path>) -> Result<Self, LinkError> {
        Self::new(ca, identity, vec![ALPN.to_vec()])
    }

    /// Speaks a protocol without a name in ALPN.
    ///
    /// # Errors
    /// As [`Self::http`].
    pub fn unnamed(ca: &Path) -> Result<Self, LinkError> {
        Self::new(ca, None, Vec::new())
    }

    fn new(ca: &Path, identity: Option<&Path>, alpn: Vec<Vec<u8>>) -> Result<Self, LinkError> {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(files::roots(ca)?.into(), provider())
                .build()
                .map_err(|error| LinkError::unusable(ca, error))?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| LinkError::unusable(ca, error))?
            .with_webpki_verifier(verifier);
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some(path) => {
                let Identity { chain, key } = Identity::read(path)?;
                config
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| LinkError::unusable(path, error))?
            }
        };
        config.alpn_protocols = alpn;
        config.resumption = Resumption::disabled();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)) })
    }

    /// A whole handshake with the server of this name: a DNS name, or an address without brackets.
    ///
    /// # Errors
    /// A name that is none, a server that is not believed, or a stream that breaks. A server that
    /// refuses this side's certificate says so at the first read after the handshake (RFC 8446,
    /// section 4.4.4).
    pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        name: &str,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        self.connector.connect(name, stream).await
    }
}
