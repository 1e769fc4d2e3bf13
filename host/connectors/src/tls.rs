//! Whom we believe to be the upstream.
//!
//! Public: a chain to one of the compiled-in roots. Pinned: the leaf's key is one of the plan's;
//! then the chain says nothing more, but name and validity are verified all the same, and the
//! handshake's signature proves possession of that key.

use std::{sync::Arc, time::Duration};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use toani_protocol::{ids::Hash, policy::TlsTrust};
use x509_cert::{Certificate, der::Decode};

/// A TLS client's configuration for `trust`: TLS 1.2 and 1.3, HTTP/1.1, no resumption, no client
/// certificate.
///
/// # Errors
/// A list of pins that is empty, or a provider that cannot do TLS.
pub fn client_config(trust: &TlsTrust) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        TlsTrust::Public => {
            let mut roots = RootCertStore::empty();
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
                .build()
                .map_err(|error| Error::Other(OtherError(Arc::new(error))))?
        }
        TlsTrust::SpkiSha256(pins) if pins.is_empty() => {
            return Err(Error::General("no pin".into()));
        }
        TlsTrust::SpkiSha256(pins) => {
            Arc::new(PinnedKey { pins: pins.clone(), provider: Arc::clone(&provider) })
        }
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Believes a leaf whose key is pinned, whose name is the endpoint's and whose time is now.
#[derive(Debug)]
struct PinnedKey {
    pins: Vec<Hash>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let pin = Hash::of(parsed.subject_public_key_info().as_ref());
        if !self.pins.contains(&pin) {
            return Err(CertificateError::UnknownIssuer.into());
        }
        verify_server_name(&parsed, server_name)?;
        verify_validity(end_entity, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Both ends of RFC 5280's validity are inclusive.
fn verify_validity(cert: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let cert = Certificate::from_der(cert).map_err(|_| CertificateError::BadEncoding)?;
    let validity = cert.tbs_certificate().validity();
    let now = Duration::from_secs(now.as_secs());
    if now < validity.not_before.to_unix_duration() {
        Err(CertificateError::NotValidYet.into())
    } else if now > validity.not_after.to_unix_duration() {
        Err(CertificateError::Expired.into())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf() -> (CertificateDer<'static>, Hash) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let cert = params.self_signed(&key).unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        (cert.der().clone(), Hash::of(&spki))
    }

    fn verify(pin: Hash, cert: &[u8], name: &'static str, at_s: u64) -> Result<(), Error> {
        let verifier = PinnedKey { pins: vec![pin], provider: Arc::new(ring::default_provider()) };
        let cert = CertificateDer::from(cert.to_vec());
        let name = ServerName::try_from(name).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(at_s));
        verifier.verify_server_cert(&cert, &[], &name, &[], now).map(|_| ())
    }

    /// Within the validity that rcgen gives by default, 1975 to 4096.
    const NOW_S: u64 = 1_800_000_000;

    #[test]
    fn key_name_and_time_must_all_be_right() {
        let (cert, pin) = leaf();
        assert_eq!(verify(pin, &cert, "localhost", NOW_S), Ok(()));
        assert!(verify(Hash::ZERO, &cert, "localhost", NOW_S).is_err());
        assert!(verify(pin, &cert, "localhost.evil", NOW_S).is_err());
        assert!(verify(pin, &cert, "localhost", 0).is_err());
        assert!(verify(pin, &cert, "localhost", 100_000_000_000).is_err());
        assert!(client_config(&TlsTrust::SpkiSha256(Vec::new())).is_err());
    }

    #[test]
    fn changed_certificates_end_in_an_answer() {
        let (cert, pin) = leaf();
        for at in 0..cert.len() {
            for bit in 0..8 {
                let mut changed = cert.to_vec();
                changed[at] ^= 1 << bit;
                // Its own signature says nothing about a pinned leaf; its key does.
                if verify(pin, &changed, "localhost", NOW_S).is_ok() {
                    let changed = CertificateDer::from(changed);
                    let parsed = ParsedCertificate::try_from(&changed).unwrap();
                    assert_eq!(Hash::of(&parsed.subject_public_key_info()), pin);
                }
            }
            assert!(verify(pin, &cert[..at], "localhost", NOW_S).is_err());
        }
    }
}
