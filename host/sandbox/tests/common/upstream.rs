//! A real HTTPS server on this machine that does what its path says, and counts.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use toani_protocol::ids::Hash;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::{Count, Shared};

pub(crate) struct Upstream {
    pub(crate) port: u16,
    /// Of its certificate.
    pub(crate) pin: Hash,
    /// Requests, head and body.
    pub(crate) requests: Shared<Vec<String>>,
    /// Connections.
    pub(crate) accepted: Count,
    /// Connections that have ended.
    pub(crate) closed: Count,
}

/// What a certificate says.
pub(crate) struct Identity {
    pub(crate) name: &'static str,
    pub(crate) expired: bool,
    /// Issued by an authority that nobody knows, instead of by itself.
    pub(crate) issued: bool,
    /// The certificate is shown without having its key.
    pub(crate) stolen: bool,
}

impl Default for Identity {
    fn default() -> Self {
        Self { name: "localhost", expired: false, issued: false, stolen: false }
    }
}

fn certificate(
    identity: &Identity,
) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, Hash) {
    let mut params = rcgen::CertificateParams::new([identity.name.to_owned()]).unwrap();
    if identity.expired {
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = if identity.issued {
        let mut authority = rcgen::CertificateParams::new([]).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        params.signed_by(&key, &issuer).unwrap()
    } else {
        params.self_signed(&key).unwrap()
    };
    let pin = Hash::of(&rcgen::PublicKeyData::subject_public_key_info(&key));
    let own = if identity.stolen { rcgen::KeyPair::generate().unwrap() } else { key };
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.serialize_der()));
    (vec![cert.der().clone()], key, pin)
}

/// Shows a certificate without asking whether the key is its own.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        Self::with(Identity::default(), rustls::DEFAULT_VERSIONS).await
    }

    pub(crate) async fn with(
        identity: Identity,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let (chain, key, pin) = certificate(&identity);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shown(Arc::new(CertifiedKey::new(
                chain,
                rustls::crypto::ring::sign::any_supported_type(&key).unwrap(),
            )))));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            port: listener.local_addr().unwrap().port(),
            pin,
            requests: Arc::new(Mutex::new(Vec::new())),
            accepted: Arc::new(AtomicUsize::new(0)),
            closed: Arc::new(AtomicUsize::new(0)),
        };
        let requests = Arc::clone(&upstream.requests);
        let accepted = Arc::clone(&upstream.accepted);
        let closed = Arc::clone(&upstream.closed);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Ordering::SeqCst);
                let acceptor = acceptor.clone();
                let (requests, closed) = (Arc::clone(&requests), Arc::clone(&closed));
                tokio::spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        if let Some(request) = request(&mut stream).await {
                            requests.lock().unwrap().push(request.clone());
                            answer(&mut stream, &request).await;
                        }
                        let _ = stream.shutdown().await;
                    }
                    closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        upstream
    }

    pub(crate) fn last_request(&self) -> String {
        self.requests.lock().unwrap().last().cloned().unwrap()
    }

    pub(crate) fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    pub(crate) fn plan(
        &self,
        path: &str,
        injection: Option<toani_protocol::policy::Injection>,
    ) -> toani_protocol::plan::Plan {
        super::plan(self.port, self.pin, path, injection)
    }
}

async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse::<usize>().unwrap());
            if body.len() >= length {
                return Some(text);
            }
        }
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

/// The credential, from wherever it stands.
fn secret(request: &str) -> String {
    let bearer = request.lines().find_map(|l| l.strip_prefix("authorization: Bearer "));
    bearer.unwrap_or_default().to_owned()
}

async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) {
    let target = request.split(' ').nth(1).unwrap();
    let path = target.split('?').next().unwrap();
    let secret = secret(request);
    let bytes = secret.as_bytes();
    let hex = |byte: &u8| format!("{byte:02x}");
    let body = match path {
        "/ok" => "{\"ok\":true}".to_owned(),
        "/sign-in" => {
            "<html><form action=/welcome><input name=user><button>Go</button></form>".to_owned()
        }
        "/welcome" => {
            let user = target.split_once("user=").unwrap().1;
            format!("<html><h1>Welcome, {user}</h1>")
        }
        "/redirect" => {
            let head = "HTTP/1.1 302 Found\r\nlocation: https://evil/\r\ncontent-length: 0\r\n\r\n";
            return write(stream, head.as_bytes()).await;
        }
        "/garbage" => return write(stream, b"\x00\x01not http at all\r\n\r\n").await,
        "/short" => {
            return write(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc").await;
        }
        "/nothing" => return,
        "/head" => loop {
            // An endless head.
            if stream.write_all(&[b'x'; 65536]).await.is_err() {
                return;
            }
        },
        "/endless" => {
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            write(stream, head).await;
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(65536));
            while stream.write_all(chunk.as_bytes()).await.is_ok() {}
            return;
        }
        "/announced" => {
            return write(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\nx").await;
        }
        "/slow" => {
            // Until the other side gives up.
            let _ = tokio::time::timeout(Duration::from_secs(120), stream.read_u8()).await;
            return;
        }
        "/echo/plain" => secret,
        "/echo/base64" => STANDARD.encode(format!("x{secret}y")),
        "/echo/base64url" => URL_SAFE_NO_PAD.encode(format!("xy{secret}")),
        "/echo/hex" => bytes.iter().map(hex).collect(),
        "/echo/url" => bytes.iter().map(|byte| format!("%{byte:02X}")).collect(),
        "/echo/json" => bytes.iter().map(|byte| format!("\\u{byte:04x}")).collect(),
        "/echo/chunks" => {
            write(stream, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            for byte in bytes {
                write(stream, &[b'1', b'\r', b'\n', *byte, b'\r', b'\n']).await;
            }
            return write(stream, b"0\r\n\r\n").await;
        }
        _ => return write(stream, b"HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\n{}").await,
    };
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    write(stream, format!("{head}{body}").as_bytes()).await;
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    // The other side may have enough.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
}
