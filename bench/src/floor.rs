//! The floor: what an execution must do whatever its code looks like.

use std::{
    fs::OpenOptions,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{self, CryptoProvider},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use toani_tests::Brokerage;

/// The argument by which this program becomes the floor's process.
pub(crate) const CHILD: &str = "floor-child";

/// Bytes of one record, as measured: a `started` or a `finished`.
const RECORD_BYTES: usize = 1_900;

pub(crate) struct Floor {
    folder: PathBuf,
    port: u16,
    token: String,
}

impl Floor {
    pub(crate) fn new(folder: &Path, upstream: &Brokerage, token: &str) -> Self {
        Self { folder: folder.to_path_buf(), port: upstream.port(), token: token.to_owned() }
    }

    /// So many at once, each in a thread of its own. Like the plane's log, all of them share each
    /// fdatasync: group commit is part of the floor.
    pub(crate) fn run(&self, at_once: usize) -> anyhow::Result<()> {
        self.commit(at_once)?;
        let outcomes: Vec<anyhow::Result<()>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(|| self.process())).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread of the floor died")))
                .collect()
        });
        outcomes.into_iter().collect::<anyhow::Result<()>>()?;
        self.commit(at_once)
    }

    fn commit(&self, records: usize) -> anyhow::Result<()> {
        let path = self.folder.join("floor");
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        file.write_all(&vec![7; RECORD_BYTES * records])?;
        file.sync_data()?;
        Ok(())
    }

    fn process(&self) -> anyhow::Result<()> {
        let status = Command::new(std::env::current_exe()?)
            .args([CHILD, &self.port.to_string(), &self.token])
            .stdin(Stdio::null())
            .status()?;
        ensure!(status.success(), "the floor's process failed");
        Ok(())
    }
}

/// Connects, enters namespaces of its own, and makes one TLS request over the connection.
pub(crate) fn child(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let port: u16 = arguments.next().context("no port")?.parse()?;
    let token = arguments.next().context("no token")?;
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    unshare(
        CloneFlags::CLONE_NEWUSER
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
    )?;
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1")?;
    let connection = ClientConnection::new(Arc::new(config), name)?;
    let mut tls = StreamOwned::new(connection, stream);
    let request = format!(
        "GET /v1/accounts/main/balance HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\
         authorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    tls.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    // The brokerage may close without a close_notify; what counts is the answer.
    let _ = tls.read_to_end(&mut answer);
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "the brokerage refused");
    Ok(())
}

/// Verifies the handshake and not the name: a floor does the least.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
