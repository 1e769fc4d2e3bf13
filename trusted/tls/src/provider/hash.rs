//! SHA-2, HMAC (RFC 2104) and HKDF (RFC 5869).

use alloc::boxed::Box;
use core::iter::once;

use hmac::{Hmac, KeyInit, Mac};
use rustls::crypto::{
    hash::{Context, Hash, HashAlgorithm, Output},
    hmac::{self as tls, Tag},
    tls13::{self, HkdfExpander, HkdfUsingHmac, OkmBlock},
};
use sha2::Digest;
use zeroize::Zeroizing;

macro_rules! hashes {
    ($($name:ident: $algorithm:ident, $output_bytes:literal, $block_bytes:literal;)*) => {$(
        #[derive(Debug)]
        pub(super) struct $name;

        impl Hash for $name {
            fn start(&self) -> Box<dyn Context> {
                Box::new(Running(sha2::$name::new()))
            }

            fn hash(&self, data: &[u8]) -> Output {
                Output::new(&sha2::$name::digest(data))
            }

            fn output_len(&self) -> usize {
                $output_bytes
            }

            fn algorithm(&self) -> HashAlgorithm {
                HashAlgorithm::$algorithm
            }
        }

        impl tls::Hmac for $name {
            /// RFC 2104, 2: a key is padded with zeros to the size of a block, one that is longer
            /// is hashed before. Padding it here leaves no error for which there is no way out.
            fn with_key(&self, key: &[u8]) -> Box<dyn tls::Key> {
                let mut block = Zeroizing::new([0; $block_bytes]);
                let hashed = (key.len() > $block_bytes).then(|| sha2::$name::digest(key));
                let key = hashed.as_deref().unwrap_or(key);
                block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
                Box::new(Keyed(Hmac::<sha2::$name>::new((&*block).into())))
            }

            fn hash_output_len(&self) -> usize {
                $output_bytes
            }
        }
    )*};
}

hashes! {
    Sha256: SHA256, 32, 64;
    Sha384: SHA384, 48, 128;
}

/// A hash that has taken some input.
struct Running<D>(D);

impl<D: Digest + Clone + Send + Sync + 'static> Context for Running<D> {
    fn fork_finish(&self) -> Output {
        Output::new(&self.0.clone().finalize())
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(Self(self.0.clone()))
    }

    fn finish(self: Box<Self>) -> Output {
        Output::new(&self.0.finalize())
    }

    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }
}

/// HMAC under one key, which zeroes itself when dropped.
struct Keyed<M>(M);

impl<M: Mac + Clone + Send + Sync> tls::Key for Keyed<M> {
    fn sign_concat(&self, first: &[u8], middle: &[&[u8]], last: &[u8]) -> Tag {
        let mut mac = self.0.clone();
        once(&first).chain(middle).chain(once(&last)).for_each(|part| mac.update(part));
        Tag::new(&mac.finalize().into_bytes())
    }

    fn tag_len(&self) -> usize {
        M::output_size()
    }
}

/// rustls's own HKDF, but for extraction: there it leaves each pseudo-random key in memory.
pub(super) struct Hkdf(pub(super) &'static dyn tls::Hmac);

impl tls13::Hkdf for Hkdf {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        let zeros = Tag::new(&[0; Tag::MAX_LEN]);
        let zeros = zeros.as_ref().get(..self.0.hash_output_len()).unwrap_or_default();
        self.extract_from_secret(salt, zeros)
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        // No salt is a salt of zeros, and HMAC pads its key with zeros.
        let key = self.0.with_key(salt.unwrap_or_default()).sign(&[secret]);
        self.expander_for_okm(&OkmBlock::new(key.as_ref()))
    }

    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        HkdfUsingHmac(self.0).expander_for_okm(okm)
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> Tag {
        self.0.with_key(key.as_ref()).sign(&[message])
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::tls13::Hkdf as _;

    use super::*;

    /// RFC 8448, 3: the first steps of a handshake's key schedule.
    #[test]
    fn the_key_schedule_of_rfc_8448() {
        let hkdf = Hkdf(&Sha256);
        let early = hkdf.extract_from_zero_ikm(None);
        let empty = Sha256.hash(&[]);
        let info: [&[u8]; 5] = [&[0, 32], &[13], b"tls13 derived", &[32], empty.as_ref()];
        let derived = early.expand_block(&info);
        let expected = [
            0x6f, 0x26, 0x15, 0xa1, 0x08, 0xc7, 0x02, 0xc5, 0x67, 0x8f, 0x54, 0xfc, 0x9d, 0xba,
            0xb6, 0x97, 0x16, 0xc0, 0x76, 0x18, 0x9c, 0x48, 0x25, 0x0c, 0xeb, 0xea, 0xc3, 0x57,
            0x6c, 0x36, 0x11, 0xba,
        ];
        assert_eq!(derived.as_ref(), expected);
    }

    /// RFC 4231, 4.7 (test case 6): a key longer than the block of both hashes.
    #[test]
    fn a_long_key_is_hashed_first() {
        let data = b"Test Using Larger Than Block-Size Key - Hash Key First";
        let tag = tls::Hmac::with_key(&Sha256, &[0xaa; 131]).sign(&[data]);
        let begin = [0x60, 0xe4, 0x31, 0x59, 0x1e, 0xe0, 0xb6, 0x7f];
        assert_eq!(tag.as_ref().first_chunk(), Some(&begin));
        let tag = tls::Hmac::with_key(&Sha384, &[0xaa; 131]).sign(&[data]);
        let begin = [0x4e, 0xce, 0x08, 0x44, 0x85, 0x81, 0x3e, 0x90];
        assert_eq!(tag.as_ref().first_chunk(), Some(&begin));
    }
}
