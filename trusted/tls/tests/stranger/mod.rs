//! A peer on rustls's buffered connections with ring's cryptography, and the frames by hand: it
//! shares no code with what is tested, neither above TLS nor below.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use p256::{ecdsa::SigningKey, elliptic_curve::Generate, pkcs8::EncodePrivateKey};
use rand_core::{Infallible, TryCryptoRng, TryRng};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, Connection, DigitallySignedStruct,
    DistinguishedName, Error, NamedGroup, ServerConfig, ServerConnection, SignatureScheme,
    SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::{CertifiedKey, SigningKey as TlsSigningKey, SingleCertAndKey},
    version::TLS13,
};
use toani_protocol::{
    Hash,
    evidence::{ChannelTranscript, ReportData, Role, channel_report_data, report_data},
};
use toani_tls::{ChannelKey, PeerCertificate};

use crate::world::{AUTHORITY, Boot, MANIFEST, Side};

pub(crate) const STRANGER: &str = "boot_stranger";

const TLS13_ONLY: &[&SupportedProtocolVersion] = &[&TLS13];

pub(crate) const TLS12_SUITES: &[CipherSuite] =
    &[CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384];

/// A generator that says the same again, so that two libraries get one key.
struct Repeated(u8);

impl TryRng for Repeated {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes([self.0; 4]))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes([self.0; 8]))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.fill(self.0);
        Ok(())
    }
}

impl TryCryptoRng for Repeated {}

const SEED: u8 = 0x55;

/// What a stranger offers and shows.
#[derive(Clone, Copy)]
pub(crate) struct Offer<'a> {
    pub(crate) versions: &'a [&'static SupportedProtocolVersion],
    pub(crate) suites: &'a [CipherSuite],
    pub(crate) groups: &'a [NamedGroup],
    /// How many certificates; the first is of our shape and vouched for.
    pub(crate) certificates: usize,
    /// The certificate is one of another shape.
    pub(crate) foreign_shape: bool,
    /// A key that is not the certificate's.
    pub(crate) signs_with: Option<&'a ChannelKey>,
}

impl Default for Offer<'_> {
    fn default() -> Self {
        Self {
            versions: TLS13_ONLY,
            suites: &[CipherSuite::TLS13_AES_256_GCM_SHA384],
            groups: &[NamedGroup::X25519],
            certificates: 1,
            foreign_shape: false,
            signs_with: None,
        }
    }
}

impl Offer<'_> {
    fn provider(&self) -> CryptoProvider {
        let mut provider = ring::default_provider();
        provider.cipher_suites.retain(|suite| self.suites.contains(&suite.suite()));
        provider.kx_groups.retain(|group| self.groups.contains(&group.name()));
        provider
    }

    fn certified_key(&self, role: Role) -> CertifiedKey {
        let key = ChannelKey::generate(&mut Repeated(SEED));
        let data = report_data(role, &MANIFEST, STRANGER, &key.spki_hash());
        let certificate = key.certificate(&AUTHORITY.prove(STRANGER, &data)).unwrap();
        let mut der = certificate.der().to_vec();
        if self.foreign_shape {
            // Another name in it, and so a signature that is none; webpki still reads it.
            let at = der.windows(5).position(|bytes| bytes == b"toani").unwrap();
            der[at] = b'T';
        }
        let chain = vec![CertificateDer::from(der); self.certificates];
        let signing_key: Arc<dyn TlsSigningKey> = match self.signs_with {
            Some(key) => key.signing_key(),
            None => {
                let same = SigningKey::generate_from_rng(&mut Repeated(SEED));
                let der = same.to_pkcs8_der().unwrap();
                let der = PrivateKeyDer::Pkcs8(der.as_bytes().to_vec().into());
                ring::sign::any_supported_type(&der).unwrap()
            }
        };
        CertifiedKey::new(chain, signing_key)
    }

    /// Plays `role`.
    pub(crate) fn stranger(&self, role: Role) -> Stranger {
        let provider = Arc::new(self.provider());
        let resolver = Arc::new(SingleCertAndKey::from(self.certified_key(role)));
        let tls = match role {
            Role::Enclave => {
                let config = ClientConfig::builder_with_provider(provider)
                    .with_protocol_versions(self.versions)
                    .unwrap()
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(AnyCertificate));
                let config = match self.certificates {
                    0 => config.with_no_client_auth(),
                    _ => config.with_client_cert_resolver(resolver),
                };
                let name = ServerName::try_from("example.com").unwrap();
                ClientConnection::new(config.into(), name).unwrap().into()
            }
            Role::Sandbox => {
                let config = ServerConfig::builder_with_provider(provider)
                    .with_protocol_versions(self.versions)
                    .unwrap()
                    .with_client_cert_verifier(Arc::new(AnyCertificate))
                    .with_cert_resolver(resolver);
                ServerConnection::new(config.into()).unwrap().into()
            }
        };
        Stranger { tls, plaintext: Vec::new() }
    }
}

pub(crate) struct Stranger {
    pub(crate) tls: Connection,
    plaintext: Vec<u8>,
}

impl Stranger {
    pub(crate) fn send(&mut self, plaintext: &[u8]) {
        self.tls.writer().write_all(plaintext).unwrap();
    }

    /// Carries bytes until neither has any. The stranger's error, if it had one.
    pub(crate) fn speak(&mut self, side: &mut Side) -> Result<(), Error> {
        let mut result = Ok(());
        loop {
            let mut bytes = Vec::new();
            while self.tls.wants_write() {
                self.tls.write_tls(&mut bytes).unwrap();
            }
            let answer = std::mem::take(&mut side.output);
            if bytes.is_empty() && answer.is_empty() {
                return result;
            }
            side.receive(&bytes);
            let mut answer = answer.as_slice();
            while !answer.is_empty() && result.is_ok() {
                self.tls.read_tls(&mut answer).unwrap();
                match self.tls.process_new_packets() {
                    Ok(state) => {
                        let mut plaintext = vec![0; state.plaintext_bytes_to_read()];
                        self.tls.reader().read_exact(&mut plaintext).unwrap();
                        self.plaintext.extend(plaintext);
                        if state.peer_has_closed() {
                            return Ok(());
                        }
                    }
                    Err(error) => result = Err(error),
                }
            }
        }
    }

    /// What has come so far: kind and body of each frame.
    pub(crate) fn frames(&self) -> Vec<(u8, Vec<u8>)> {
        let mut rest = self.plaintext.as_slice();
        let mut frames = Vec::new();
        while let Some(([kind, length @ ..], after)) = rest.split_first_chunk::<5>() {
            let (body, after) = after.split_at(u32::from_le_bytes(*length) as usize);
            frames.push((*kind, body.to_vec()));
            rest = after;
        }
        frames
    }

    /// The connection as the stranger sees it, in `role`, once nonces are exchanged.
    pub(crate) fn transcript(&self, role: Role, side: &Side) -> ChannelTranscript {
        assert_eq!(side.boot, "boot_ours");
        let frames = self.frames();
        assert_eq!(frames[0].0, 1);
        let theirs: [u8; 32] = frames[0].1.as_slice().try_into().unwrap();
        let own_key = ChannelKey::generate(&mut Repeated(SEED)).spki_hash();
        let their_certificate = &self.tls.peer_certificates().unwrap()[0];
        let their_key = Hash::of(PeerCertificate::verify(their_certificate).unwrap().spki);
        let exporter = [0; 32];
        let label = b"EXPORTER-toani-ra-tls-v1";
        let exporter = self.tls.export_keying_material(exporter, label, None).unwrap();
        let (own, their) = ((own_key, crate::NONCE), (their_key, theirs));
        let (enclave, sandbox) = match role {
            Role::Enclave => (own, their),
            Role::Sandbox => (their, own),
        };
        ChannelTranscript {
            manifest: MANIFEST,
            enclave_key: enclave.0,
            sandbox_key: sandbox.0,
            enclave_nonce: enclave.1,
            sandbox_nonce: sandbox.1,
            exporter,
        }
    }
}

pub(crate) fn proven(role: Role, transcript: &ChannelTranscript) -> ReportData {
    channel_report_data(role, transcript)
}

/// Our sandbox's side and a stranger in the role of the enclave, with the channel open.
pub(crate) fn bound() -> (Side, Stranger) {
    let role = Role::Enclave;
    let mut side = Boot::new(role.peer(), "boot_ours").side();
    let mut stranger = Offer::default().stranger(role);
    stranger.speak(&mut side).unwrap();
    stranger.send(&frame(1, &crate::NONCE));
    stranger.speak(&mut side).unwrap();
    let data = proven(role, &stranger.transcript(role, &side));
    stranger.send(&frame(2, &AUTHORITY.prove(STRANGER, &data)));
    stranger.send(&frame(3, &[]));
    stranger.speak(&mut side).unwrap();
    assert!(side.is_open(), "{:?}", side.error());
    (side, stranger)
}

/// A frame as docs and not code say it is.
pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [&[kind][..], &length.to_le_bytes(), body].concat()
}

/// Accepts whoever has the key of the certificate that it shows.
#[derive(Debug)]
struct AnyCertificate;

fn possession(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = ring::default_provider().signature_verification_algorithms;
    verify_tls13_signature(message, certificate, signature, &algorithms)
}

fn schemes() -> Vec<SignatureScheme> {
    ring::default_provider().signature_verification_algorithms.supported_schemes()
}

impl ServerCertVerifier for AnyCertificate {
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
        possession(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        possession(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for AnyCertificate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        possession(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        possession(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}
