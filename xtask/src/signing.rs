//! Who signs the image: RSA-3072 with exponent 3, as EINIT asks for (SDM vol. 3D, 38.13).

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use anyhow::{Context, Result, bail, ensure};
use num_bigint::BigUint;
use rsa::{
    BoxedUint, Pkcs1v15Sign, PrivateKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding},
    traits::PublicKeyParts,
};
use sha2::{Digest, Sha256};
use toani_enclave_host::image::{self, SIGSTRUCT_BYTES, SigStruct, Signing};

use crate::run::step;

const KEY_BITS: usize = 3072;
const KEY_BYTES: usize = 384;

/// Reads a signing key, PKCS#8 in PEM.
pub(crate) fn read(path: &Path) -> Result<PrivateKey> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let key = PrivateKey::from_pkcs8_pem(&text)
        .with_context(|| format!("{} is no private key in PKCS#8", path.display()))?;
    if key.n().bits() as usize != KEY_BITS || key.e() != &BoxedUint::from(3_u8) {
        bail!("{} is not an RSA key of 3072 bits with exponent 3", path.display());
    }
    Ok(key)
}

/// The key of this checkout, made at its first use. It says nothing about anybody.
pub(crate) fn development(path: &Path) -> Result<PrivateKey> {
    if !path.exists() {
        step("making a development key for signing images (some seconds)");
        let mut random = rand_core::UnwrapErr(getrandom::SysRng);
        let key = PrivateKey::new_with_exp(&mut random, KEY_BITS, BoxedUint::from(3_u8))?;
        let text = key.to_pkcs8_pem(LineEnding::LF)?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let aside = path.with_extension(format!("{}.new", std::process::id()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&aside, path)?;
    }
    read(path)
}

/// Signs what was measured.
pub(crate) fn sign(key: &PrivateKey, signing: &Signing) -> Result<[u8; SIGSTRUCT_BYTES]> {
    let modulus = BigUint::from_bytes_be(&key.n().to_be_bytes());
    let (mut bytes, signed) = signing.unsigned(&little_endian(&modulus)?);
    let signature = key.sign(Pkcs1v15Sign::new::<Sha256>(), &Sha256::digest(signed))?;
    let signature = BigUint::from_bytes_be(&signature);
    let square = &signature * &signature;
    let q1 = &square / &modulus;
    let q2 = (&square - &q1 * &modulus) * &signature / &modulus;
    image::put_signature(
        &mut bytes,
        &little_endian(&signature)?,
        &little_endian(&q1)?,
        &little_endian(&q2)?,
    );
    ensure!(SigStruct::read(&bytes).is_ok(), "the signature just made does not hold");
    Ok(bytes)
}

fn little_endian(number: &BigUint) -> Result<[u8; KEY_BYTES]> {
    let mut bytes = number.to_bytes_le();
    bytes.resize(KEY_BYTES, 0);
    bytes.try_into().ok().context("a number is larger than the key")
}
