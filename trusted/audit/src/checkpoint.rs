//! Checkpoints: C2SP tlog-checkpoint, which is a C2SP signed-note, by the log's Ed25519 key.
//!
//! ```text
//! example.org/log/1
//! 42
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
//!
//! — example.org/log/1 AAAAAHXl...
//! ```

use alloc::{format, string::String, vec::Vec};

use data_encoding::BASE64;
use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};
use toani_protocol::{
    Hash,
    instance::is_origin,
    sign::{PublicKey, Signature},
};

/// A checkpoint with the signatures of all its witnesses.
pub const NOTE_BYTES_MAX: usize = 32 * 1024;
/// Signature lines of one note.
pub const NOTE_SIGNATURES_MAX: usize = 64;

/// Signed-note's signature type of plain Ed25519.
const TYPE_ED25519: u8 = 1;

/// What a log says of itself: so many records, with this root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub origin: String,
    pub size: u64,
    pub root: Hash,
}

/// Why a checkpoint is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    #[error("the checkpoint is not a signed note of three lines")]
    Malformed,
    #[error("the checkpoint is of another log")]
    Origin,
    #[error("the checkpoint lacks a valid signature of the log")]
    Signature,
}

/// The note's text: what is signed.
pub fn body(origin: &str, size: u64, root: &Hash) -> String {
    format!("{origin}\n{size}\n{}\n", BASE64.encode(root.as_bytes()))
}

/// Makes the signed note. `origin` is one that `instance::is_origin` accepts.
pub fn sign(origin: &str, size: u64, root: &Hash, key: &SigningKey) -> String {
    let text = body(origin, size, root);
    let line = signature_line(&text, origin, key);
    format!("{text}\n{line}")
}

fn signature_line(text: &str, name: &str, key: &SigningKey) -> String {
    let mut blob = Vec::with_capacity(68);
    blob.extend_from_slice(&key_id(name, &PublicKey::of(key)));
    blob.extend_from_slice(&key.sign(text.as_bytes()).to_bytes());
    format!("\u{2014} {name} {}\n", BASE64.encode(&blob))
}

/// Signed-note's key id: SHA-256 over name, line feed, type and key, cut to four bytes.
pub fn key_id(name: &str, key: &PublicKey) -> [u8; 4] {
    let mut hasher = Sha256::new();
    hasher.update(name.as_bytes());
    hasher.update([b'\n', TYPE_ED25519]);
    hasher.update(key.as_bytes());
    let digest: [u8; 32] = hasher.finalize().into();
    let [a, b, c, d, ..] = digest;
    [a, b, c, d]
}

impl Checkpoint {
    /// Verifies a note under the log's origin and key. There must be no extension line and
    /// exactly one line of the log itself; lines of other names, as of witnesses, are let be.
    pub fn verify(note: &str, origin: &str, key: &PublicKey) -> Result<Self, CheckpointError> {
        if note.len() > NOTE_BYTES_MAX || !is_origin(origin) {
            return Err(CheckpointError::Malformed);
        }
        let (text, signatures) = split(note)?;
        let checkpoint = Self::parse(text)?;
        if checkpoint.origin != origin {
            return Err(CheckpointError::Origin);
        }
        let mut own = signatures.iter().filter(|line| line.name == origin);
        match (own.next(), own.next()) {
            (Some(line), None) => line.verify(text, key)?,
            _ => return Err(CheckpointError::Signature),
        }
        Ok(checkpoint)
    }

    /// Reads the three lines; what is read must make the same text again.
    fn parse(text: &str) -> Result<Self, CheckpointError> {
        let error = CheckpointError::Malformed;
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next())
        else {
            return Err(error);
        };
        let root = BASE64.decode(root.as_bytes()).map_err(|_| error)?;
        let checkpoint = Self {
            origin: String::from(origin),
            size: size.parse().map_err(|_| error)?,
            root: Hash::new(root.try_into().map_err(|_| error)?),
        };
        let same = body(origin, checkpoint.size, &checkpoint.root) == text;
        if same && is_origin(origin) { Ok(checkpoint) } else { Err(error) }
    }
}

/// One line of signed-note: `— name base64(key id || signature)`.
struct SignatureLine<'a> {
    name: &'a str,
    blob: Vec<u8>,
}

impl SignatureLine<'_> {
    fn verify(&self, text: &str, key: &PublicKey) -> Result<(), CheckpointError> {
        let error = CheckpointError::Signature;
        let (id, signature) = self.blob.split_at_checked(4).ok_or(error)?;
        if id != key_id(self.name, key) {
            return Err(error);
        }
        let signature = Signature(signature.try_into().map_err(|_| error)?);
        key.verify_message(text.as_bytes(), &signature).map_err(|_| error)
    }
}

/// Divides a note into its text, with the last line feed, and its signature lines.
fn split(note: &str) -> Result<(&str, Vec<SignatureLine<'_>>), CheckpointError> {
    let error = CheckpointError::Malformed;
    let gap = note.rfind("\n\n").ok_or(error)?;
    let (text, rest) = note.split_at_checked(gap.saturating_add(1)).ok_or(error)?;
    let rest = rest.strip_prefix('\n').ok_or(error)?;
    let lines = rest.strip_suffix('\n').ok_or(error)?;
    let mut signatures = Vec::new();
    for line in lines.split('\n') {
        let line = line.strip_prefix("\u{2014} ").ok_or(error)?;
        let (name, blob) = line.split_once(' ').ok_or(error)?;
        let blob = BASE64.decode(blob.as_bytes()).map_err(|_| error)?;
        let named = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '+');
        if !named || blob.len() < 5 || signatures.len() >= NOTE_SIGNATURES_MAX {
            return Err(error);
        }
        signatures.push(SignatureLine { name, blob });
    }
    Ok((text, signatures))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ORIGIN: &str = "example.org/log/1";

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn note() -> String {
        sign(ORIGIN, 42, &Hash::of(b"root"), &key())
    }

    fn verify(note: &str) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::verify(note, ORIGIN, &PublicKey::of(&key()))
    }

    /// The example of golang.org/x/mod/sumdb/note, where the format comes from.
    #[test]
    fn the_note_of_the_reference_implementation() {
        const TEXT: &str = "If you think cryptography is the answer to your problem,\n\
                            then you don't know what your problem is.\n";
        let blob = BASE64.decode(b"AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz").unwrap();
        assert_eq!(blob[0], TYPE_ED25519);
        let key = SigningKey::from_bytes(&blob[1..].try_into().unwrap());
        let public = BASE64.decode(b"ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW").unwrap();
        assert_eq!(PublicKey::of(&key).as_bytes(), &public[1..]);
        let id = key_id("PeterNeumann", &PublicKey::of(&key));
        assert_eq!(id, 0xc74f_20a3_u32.to_be_bytes());
        let line = signature_line(TEXT, "PeterNeumann", &key);
        assert_eq!(
            line,
            "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
        );
        let note = format!("{TEXT}\n{line}");
        let (text, lines) = split(&note).unwrap();
        assert_eq!(text, TEXT);
        assert_eq!(lines[0].verify(text, &PublicKey::of(&key)), Ok(()));
    }

    #[test]
    fn what_was_signed_comes_back() {
        let checkpoint = verify(&note()).unwrap();
        assert_eq!((checkpoint.size, checkpoint.root), (42, Hash::of(b"root")));
        assert_eq!(
            Checkpoint::verify(&note(), "example.org/log/2", &PublicKey::of(&key())),
            Err(CheckpointError::Origin)
        );
        let other = PublicKey::of(&SigningKey::from_bytes(&[8; 32]));
        assert_eq!(Checkpoint::verify(&note(), ORIGIN, &other), Err(CheckpointError::Signature));
    }

    #[test]
    fn witnesses_may_sign_beside_the_log_and_the_log_once() {
        let text = body(ORIGIN, 42, &Hash::of(b"root"));
        let witness = signature_line(&text, "witness.example", &SigningKey::from_bytes(&[9; 32]));
        let own = signature_line(&text, ORIGIN, &key());
        let impostor = signature_line(&text, ORIGIN, &SigningKey::from_bytes(&[9; 32]));
        assert!(verify(&format!("{text}\n{own}{witness}")).is_ok());
        assert!(verify(&format!("{text}\n{witness}{own}")).is_ok());
        for wrong in [
            format!("{text}\n{witness}"),
            format!("{text}\n{own}{own}"),
            format!("{text}\n{impostor}"),
            format!("{text}\n{own}{impostor}"),
            format!("{text}\n"),
            text.clone(),
        ] {
            assert!(verify(&wrong).is_err());
        }
    }

    #[test]
    fn one_text_only() {
        let root = BASE64.encode(Hash::of(b"root").as_bytes());
        for text in [
            format!("{ORIGIN}\n042\n{root}\n"),
            format!("{ORIGIN}\n+42\n{root}\n"),
            format!("{ORIGIN}\n42\n{root}\nextension\n"),
            format!("{ORIGIN}\n42\n{root}\n\n"),
            format!("{ORIGIN}\n42\r\n{root}\n"),
            format!("{ORIGIN}\n42\n{}\n", root.trim_end_matches('=')),
            format!("{ORIGIN}\n99999999999999999999\n{root}\n"),
            format!("\n{ORIGIN}\n42\n{root}\n"),
        ] {
            let note = format!("{text}\n{}", signature_line(&text, ORIGIN, &key()));
            assert_eq!(verify(&note), Err(CheckpointError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn every_changed_bit_is_refused() {
        let note = note();
        for at in 0..note.len() {
            for bit in 0..8 {
                let mut bytes = note.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                if let Ok(text) = core::str::from_utf8(&bytes) {
                    assert!(verify(text).is_err(), "{text:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_ends_in_an_answer(text in "(\u{2014} |[a-z0-9+/= \n])*") {
            prop_assert!(verify(&text).is_err());
        }
    }
}
