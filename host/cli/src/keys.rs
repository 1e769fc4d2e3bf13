//! Key files: one line of text, for their owner alone.

use std::{os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, bail};
use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use crate::home;

/// What a key file holds.
pub(crate) enum Key {
    Ed25519(SigningKey),
    /// A P-256 key of a software passkey.
    Passkey(Box<p256::ecdsa::SigningKey>),
    /// An agent's API key.
    Api(Zeroizing<String>),
}

const ED25519: &str = "toani-key ed25519 ";
const PASSKEY: &str = "toani-key software-passkey ";
const API: &str = "toani-key api ";

pub(crate) fn random<const N: usize>() -> anyhow::Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice()).context("the system gives no random bytes")?;
    Ok(bytes)
}

pub(crate) fn new_ed25519(path: &Path) -> anyhow::Result<SigningKey> {
    let key = SigningKey::from_bytes(&*random::<32>()?);
    save(path, ED25519, key.as_bytes())?;
    Ok(key)
}

pub(crate) fn new_passkey(path: &Path) -> anyhow::Result<p256::ecdsa::SigningKey> {
    // A random number is no key with a chance of 2^-32 or less; then this says so.
    let key = p256::ecdsa::SigningKey::from_slice(random::<32>()?.as_slice())
        .context("try again: the random number is no P-256 key")?;
    save(path, PASSKEY, &Zeroizing::new(<[u8; 32]>::from(key.to_bytes()))[..])?;
    Ok(key)
}

pub(crate) fn new_api(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let key = Zeroizing::new(format!("tk_{}", BASE64URL_NOPAD.encode(&*random::<32>()?)));
    home::create(path, Zeroizing::new(format!("{API}{}\n", *key)).as_bytes())?;
    Ok(key)
}

fn save(path: &Path, kind: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let text = Zeroizing::new(format!("{kind}{}\n", BASE64URL_NOPAD.encode(bytes)));
    home::create(path, text.as_bytes())
}

/// Reads a key file that only its owner can read.
pub(crate) fn read(path: &Path) -> anyhow::Result<Key> {
    if !path.exists() {
        bail!(
            "there is no key {}; `toani init`, `agent add` and `approver add` make keys, --home \
             names another folder",
            path.display()
        );
    }
    let text = Zeroizing::new(
        String::from_utf8(home::read(path)?)
            .with_context(|| format!("{} is no key file", path.display()))?,
    );
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        bail!("{} can be read by others; run: chmod 600 {}", path.display(), path.display());
    }
    let line = text.trim_end();
    let bytes = |body: &str| -> Option<Zeroizing<[u8; 32]>> {
        let decoded = Zeroizing::new(BASE64URL_NOPAD.decode(body.as_bytes()).ok()?);
        Some(Zeroizing::new(decoded.as_slice().try_into().ok()?))
    };
    let key = if let Some(body) = line.strip_prefix(ED25519) {
        bytes(body).map(|bytes| Key::Ed25519(SigningKey::from_bytes(&bytes)))
    } else if let Some(body) = line.strip_prefix(PASSKEY) {
        bytes(body)
            .and_then(|bytes| p256::ecdsa::SigningKey::from_slice(bytes.as_slice()).ok())
            .map(|key| Key::Passkey(Box::new(key)))
    } else {
        line.strip_prefix(API).map(|body| Key::Api(Zeroizing::new(body.to_owned())))
    };
    key.with_context(|| format!("{} is no key file", path.display()))
}

/// Reads a key file that must hold an Ed25519 key.
pub(crate) fn read_ed25519(path: &Path) -> anyhow::Result<SigningKey> {
    match read(path)? {
        Key::Ed25519(key) => Ok(key),
        _ => bail!("{} holds another kind of key than Ed25519", path.display()),
    }
}
