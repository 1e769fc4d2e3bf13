//! Cryptography for rustls on the crates that the trusted side uses anyway: no ring, no libc.
//!
//! TLS 1.3 only, two suites (RFC 8446, B.4), X25519, ECDSA over P-256 with SHA-256.
//!
//! Randomness is drawn through `getrandom`, whose backend the image defines (RDRAND) and the
//! operating system elsewhere: rustls takes a `'static` generator and gives key exchange none at
//! all, so a generator that the caller owns cannot reach it.

mod aead;
mod hash;
mod key_exchange;
mod sign;

use alloc::{sync::Arc, vec};

use rustls::{
    CipherSuite, CipherSuiteCommon, Error, SignatureScheme, SupportedCipherSuite, Tls13CipherSuite,
    crypto::{
        CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, WebPkiSupportedAlgorithms,
    },
    pki_types::{PrivateKeyDer, UnixTime},
    sign::SigningKey,
    time_provider::TimeProvider,
};

pub(crate) use sign::{EcdsaKey, verify};

/// The two suites in order of preference, X25519, ECDSA P-256.
///
/// It loads no private keys from files: a [`SigningKey`] is made inside, see
/// [`crate::ChannelKey::signing_key`].
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256],
        kx_groups: vec![&key_exchange::X25519],
        signature_verification_algorithms: ALGORITHMS,
        secure_random: &Random,
        key_provider: &NoKeyFiles,
    }
}

/// What a peer's signatures may be.
pub(crate) const ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[&sign::EcdsaP256Sha256],
    mapping: &[(SignatureScheme::ECDSA_NISTP256_SHA256, &[&sign::EcdsaP256Sha256])],
};

const TLS13_AES_256_GCM_SHA384: SupportedCipherSuite =
    SupportedCipherSuite::Tls13(&Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: CipherSuite::TLS13_AES_256_GCM_SHA384,
            hash_provider: &hash::Sha384,
            // RFC 8446, 5.5: 2^24.5 full records under one key; rustls then updates it.
            confidentiality_limit: 1 << 24,
        },
        hkdf_provider: &hash::Hkdf(&hash::Sha384),
        aead_alg: aead::AES_256_GCM,
        quic: None,
    });

const TLS13_CHACHA20_POLY1305_SHA256: SupportedCipherSuite =
    SupportedCipherSuite::Tls13(&Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            hash_provider: &hash::Sha256,
            // RFC 8446, 5.5: the sequence number ends first.
            confidentiality_limit: u64::MAX,
        },
        hkdf_provider: &hash::Hkdf(&hash::Sha256),
        aead_alg: aead::CHACHA20_POLY1305,
        quic: None,
    });

/// Random bytes from `getrandom`.
#[derive(Debug)]
struct Random;

impl SecureRandom for Random {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        getrandom::fill(bytes).map_err(|_| GetRandomFailed)
    }
}

/// 32 random bytes: a nonce, or a private key of X25519.
pub(crate) fn random() -> Result<[u8; 32], GetRandomFailed> {
    let mut bytes = [0; 32];
    Random.fill(&mut bytes)?;
    Ok(bytes)
}

/// Private keys are made inside and never leave; there is no file to load one from.
#[derive(Debug)]
struct NoKeyFiles;

impl KeyProvider for NoKeyFiles {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        Err(Error::General("private keys are not loaded from files".into()))
    }
}

/// The epoch, always. The trusted side has no clock, and nothing that the endpoint checks has a
/// date; rustls asks for the time before it calls a verifier, and takes no for a failure.
#[derive(Debug)]
pub(crate) struct NoClock;

impl TimeProvider for NoClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(core::time::Duration::ZERO))
    }
}
