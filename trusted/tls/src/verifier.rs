//! What TLS itself checks of a peer's certificate: its shape, and that the peer has its key.
//!
//! Whose key it is, the caller's [`PeerCheck`] says, by the evidence.

use alloc::vec::Vec;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::verify_tls13_signature_with_raw_key,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use toani_protocol::evidence::{ReportData, Role};

use crate::{certificate::PeerCertificate, error::Refused, provider::ALGORITHMS};

/// Whether evidence proves what it should. The enclave and the supervisor each have one; whatever
/// it needs to decide, collateral above all, it must have already: nothing here can wait.
pub trait PeerCheck {
    /// Who the peer has been shown to be.
    type Peer;

    /// Stage 1, in the role of the peer: does the evidence vouch for the key beside it? Its report
    /// data is [`toani_protocol::evidence::report_data`] of the peer's boot.
    fn certificate(&self, role: Role, certificate: &PeerCertificate<'_>) -> Result<(), Refused>;

    /// Stage 2: does this fresh evidence prove exactly this report data? It names the certificate's
    /// key, which no TEE but the key's own vouches for.
    fn channel(
        &self,
        role: Role,
        certificate: &PeerCertificate<'_>,
        report_data: &ReportData,
        evidence: &[u8],
    ) -> Result<Self::Peer, Refused>;
}

/// Accepts one certificate of our shape, and the handshake signature of its key.
#[derive(Debug)]
pub(crate) struct ShapeVerifier;

fn shape(end_entity: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
    match PeerCertificate::verify(end_entity) {
        Some(_) if others.is_empty() => Ok(()),
        _ => Err(CertificateError::BadEncoding.into()),
    }
}

fn possession(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    // rustls verifies the certificate first.
    let certificate = PeerCertificate::of_verified(certificate);
    let spki = certificate.ok_or(CertificateError::BadEncoding)?.spki;
    verify_tls13_signature_with_raw_key(message, &spki.into(), signature, &ALGORITHMS)
}

/// The same for both sides: TLS 1.3, and the peer has the certificate's key.
macro_rules! handshake_signature {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(PeerIncompatible::SupportedVersionsExtensionRequired.into())
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
            ALGORITHMS.supported_schemes()
        }
    };
}

impl ServerCertVerifier for ShapeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        shape(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    handshake_signature!();
}

impl ClientCertVerifier for ShapeVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        shape(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    handshake_signature!();
}
