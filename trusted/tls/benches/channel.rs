//! What the channel costs over plain TLS and over the bare AEAD. One JSON object, in microseconds;
//! medians of rounds in which both sides of each comparison take turns.
//!
//! * `handshake`: both ends of an attested channel until it is open, with evidence that costs one
//!   hash to make and to verify, over both ends of a mutual TLS handshake by rustls with the same
//!   provider, certificates issued by one authority.
//! * `message`: sealing and receiving one message, over AES-256-GCM in place, there and back.
//!
//! `cargo bench -p toani-tls --bench channel`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::{hint::black_box, sync::Arc, time::Instant};

use aes_gcm::{Aes256Gcm, KeyInit, aead::AeadInOut};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SignatureAlgorithm,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    crypto::CryptoProvider,
    pki_types::ServerName,
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};
use serde_json::{Value, json};
use toani_tls::ChannelKey;

#[path = "../tests/world/mod.rs"]
mod world;

use world::*;

const ROUNDS: usize = 300;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn timed<T>(work: impl FnOnce() -> T) -> f64 {
    let began = Instant::now();
    black_box(work());
    began.elapsed().as_secs_f64() * 1e6
}

/// A SubjectPublicKeyInfo of P-256, of which rcgen wants the point alone.
struct PublicPoint(Vec<u8>);

impl PublicKeyData for PublicPoint {
    fn der_bytes(&self) -> &[u8] {
        &self.0[self.0.len() - 65..]
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// Mutual TLS by rustls alone.
struct Plain {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Plain {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let roots = Arc::new(roots);
        let issued = || {
            let key = ChannelKey::generate(&mut rng());
            let public = PublicPoint(key.spki());
            let params = CertificateParams::new(vec!["example.com".to_owned()]).unwrap();
            let certificate = params.signed_by(&public, &authority).unwrap();
            let certified = CertifiedKey::new(vec![certificate.der().clone()], key.signing_key());
            Arc::new(SingleCertAndKey::from(certified))
        };
        let provider: Arc<CryptoProvider> = toani_tls::provider().into();
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_client_cert_resolver(issued());
        client.resumption = rustls::client::Resumption::disabled();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_cert_resolver(issued());
        server.send_tls13_tickets = 0;
        Self { client: client.into(), server: server.into() }
    }

    fn handshake(&self) {
        let name = ServerName::try_from("example.com").unwrap();
        let mut client = ClientConnection::new(self.client.clone(), name).unwrap();
        let mut server = ServerConnection::new(self.server.clone()).unwrap();
        let mut bytes = Vec::new();
        while client.is_handshaking() || server.is_handshaking() {
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets().unwrap();
            bytes.clear();
        }
    }
}

fn handshakes() -> Value {
    let (plain, enclave, sandbox) = (Plain::new(), enclave(), sandbox());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(timed(|| plain.handshake()));
        ours.push(timed(|| {
            let (mut a, mut b) = (enclave.side(), sandbox.side());
            carry(&mut a, &mut b);
            assert!(a.is_open() && b.is_open());
        }));
    }
    let (channel, plain) = (median(ours), median(theirs));
    json!({"channel_us": channel, "plain_us": plain, "ratio": channel / plain, "ratio_max": 1.5})
}

fn messages(bytes: usize) -> Value {
    let (mut a, mut b) = open();
    let message = vec![7; bytes];
    let cipher = Aes256Gcm::new(&[9; 32].into());
    let nonce = [3; 12].into();
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut buffer = message.clone();
        bare.push(timed(|| {
            let sealed = cipher.encrypt_inout_detached(&nonce, &[], buffer.as_mut_slice().into());
            let tag = sealed.unwrap();
            let opened =
                cipher.decrypt_inout_detached(&nonce, &[], buffer.as_mut_slice().into(), &tag);
            opened.unwrap();
        }));
        ours.push(timed(|| {
            let sealed = a.channel().seal(&message).unwrap();
            b.receive(&sealed);
        }));
        assert_eq!(b.messages.pop().unwrap().len(), bytes);
    }
    let (channel, aead) = (median(ours), median(bare));
    json!({
        "bytes": bytes, "channel_us": channel, "aead_us": aead,
        "over_us": channel - aead, "over_us_max": 50,
    })
}

fn main() {
    let messages: Vec<Value> = [256, 4 * 1024, 16 * 1024, 64 * 1024].map(messages).into();
    let result = json!({"rounds": ROUNDS, "handshake": handshakes(), "message": messages});
    println!("{result:#}");
}
