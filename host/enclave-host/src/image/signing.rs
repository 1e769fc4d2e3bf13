//! Signing an image: what `./x image` does, and tests that run an image of their own.

use num_bigint::BigUint;
use rsa::{Pkcs1v15Sign, PrivateKey, traits::PublicKeyParts};
use sha2::{Digest, Sha256};

use super::sigstruct::{KEY_BYTES, SIGSTRUCT_BYTES, SigStruct, Signing, put_signature};

/// The key is not RSA-3072 with exponent 3, or does not sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an image is signed by an RSA key of 3,072 bits with exponent 3")]
pub struct SigningError;

/// Signs what was measured.
pub fn sign(key: &PrivateKey, signing: &Signing) -> Result<[u8; SIGSTRUCT_BYTES], SigningError> {
    let modulus = BigUint::from_bytes_be(&key.n().to_be_bytes());
    let (mut bytes, signed) = signing.unsigned(&little_endian(&modulus)?);
    let signature = key
        .sign(Pkcs1v15Sign::new::<Sha256>(), &Sha256::digest(signed))
        .map_err(|_| SigningError)?;
    let signature = BigUint::from_bytes_be(&signature);
    let square = &signature * &signature;
    let q1 = &square / &modulus;
    let q2 = (&square - &q1 * &modulus) * &signature / &modulus;
    let numbers = [little_endian(&signature)?, little_endian(&q1)?, little_endian(&q2)?];
    put_signature(&mut bytes, &numbers);
    SigStruct::read(&bytes).map(|_| bytes).map_err(|_| SigningError)
}

fn little_endian(number: &BigUint) -> Result<[u8; KEY_BYTES], SigningError> {
    let mut bytes = number.to_bytes_le();
    bytes.resize(KEY_BYTES, 0);
    bytes.try_into().map_err(|_| SigningError)
}
