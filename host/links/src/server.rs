//! Who is called on a link.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ServerConfig,
    client::verify_server_name,
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    ALPN, LinkError,
    files::{self, Identity, Stamp},
    provider,
};

/// Whom a listener believes to be a client.
#[derive(Debug, Clone)]
pub struct Clients {
    /// Certificates that lead to one of these are verified.
    pub ca: PathBuf,
    /// Revoked certificates (RFC 5280, section 5), signed by that CA. Where it is given, a
    /// certificate whose issuer has no list in it is refused.
    pub crl: Option<PathBuf>,
    /// Whether a client without a certificate is refused. One that presents a certificate that
    /// does not hold always is.
    pub required: bool,
}

/// The files of a listener.
#[derive(Debug, Clone)]
pub struct ServerFiles {
    /// Its certificate and key.
    pub identity: PathBuf,
    /// Without it no client is asked for a certificate.
    pub clients: Option<Clients>,
}

/// A listener's side of TLS. Its files are looked at before each handshake, and read if they have
/// changed; while they cannot be read or do not fit together, no handshake succeeds.
#[derive(Debug)]
pub struct ServerLink {
    files: ServerFiles,
    loaded: Mutex<Arc<Loaded>>,
}

struct Loaded {
    stamps: Vec<Stamp>,
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("stamps", &self.stamps).finish_non_exhaustive()
    }
}

impl ServerFiles {
    fn stamps(&self) -> Result<Vec<Stamp>, LinkError> {
        let clients =
            self.clients.iter().flat_map(|clients| [Some(&clients.ca), clients.crl.as_ref()]);
        let paths = std::iter::once(&self.identity).chain(clients.flatten());
        paths.map(|path| Stamp::of(path)).collect()
    }

    fn load(&self) -> Result<Loaded, LinkError> {
        // Before the files are read: what changes meanwhile is read the next time.
        let stamps = self.stamps()?;
        let unusable = |error| LinkError::unusable(&self.identity, error);
        let Identity { chain, key } = Identity::read(&self.identity)?;
        let certificate = chain.first().cloned();
        let certificate =
            certificate.ok_or_else(|| unusable(rustls::Error::NoCertificatesPresented))?;
        let verifier = self.clients.as_ref().map(verifier).transpose()?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?;
        let config = match &verifier {
            Some(verifier) => config.with_client_cert_verifier(Arc::clone(verifier)),
            None => config.with_no_client_auth(),
        };
        let mut config = config.with_single_cert(chain, key).map_err(unusable)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Loaded { stamps, config: Arc::new(config), certificate, verifier })
    }
}

fn verifier(clients: &Clients) -> Result<Arc<dyn ClientCertVerifier>, LinkError> {
    let roots = files::roots(&clients.ca)?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider());
    if let Some(crl) = &clients.crl {
        builder = builder.with_crls(files::revocations(crl)?);
    }
    if !clients.required {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| LinkError::unusable(&clients.ca, error))
}

impl ServerLink {
    /// # Errors
    /// A file that cannot be read or does not hold what it should.
    pub fn open(files: ServerFiles) -> Result<Self, LinkError> {
        let loaded = Mutex::new(Arc::new(files.load()?));
        Ok(Self { files, loaded })
    }

    /// What the files say now.
    fn current(&self) -> Result<Arc<Loaded>, LinkError> {
        let stamps = self.files.stamps()?;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.stamps != stamps {
            *loaded = Arc::new(self.files.load()?);
        }
        Ok(Arc::clone(&loaded))
    }

    /// A whole handshake. The client comes with it if it has presented a certificate, which is
    /// verified then.
    ///
    /// # Errors
    /// Files that do not hold, or a client that cannot be spoken to or is not let in.
    pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        self: &Arc<Self>,
        stream: S,
    ) -> io::Result<(TlsStream<S>, Option<Client>)> {
        let config = Arc::clone(&self.current().map_err(io::Error::other)?.config);
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let chain = stream.get_ref().1.peer_certificates();
        let client = chain.map(|chain| Client {
            link: Arc::clone(self),
            chain: chain.iter().map(|one| one.clone().into_owned()).collect(),
        });
        Ok((stream, client))
    }

    /// Whether this server's certificate names `host`: a DNS name, or an address without brackets.
    pub fn is_named(&self, host: &str) -> bool {
        let Ok(loaded) = self.current() else { return false };
        let parsed = ParsedCertificate::try_from(&loaded.certificate);
        let name = ServerName::try_from(host);
        matches!((parsed, name), (Ok(parsed), Ok(name)) if verify_server_name(&parsed, &name).is_ok())
    }
}

/// A client whose certificate was verified when its connection began.
#[derive(Debug, Clone)]
pub struct Client {
    link: Arc<ServerLink>,
    chain: Vec<CertificateDer<'static>>,
}

impl Client {
    /// Whether the certificate would be accepted in a handshake now: it has not expired, and is
    /// not revoked.
    pub fn still_holds(&self) -> bool {
        let Ok(loaded) = self.link.current() else { return false };
        let (Some(verifier), Some((leaf, between))) = (&loaded.verifier, self.chain.split_first())
        else {
            return false;
        };
        verifier.verify_client_cert(leaf, between, UnixTime::now()).is_ok()
    }
}
