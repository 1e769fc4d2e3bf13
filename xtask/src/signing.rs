//! Who signs the image: RSA-3072 with exponent 3, as EINIT asks for (SDM vol. 3D, 38.13).

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use anyhow::{Context, Result, bail};
use rsa::{
    BoxedUint, PrivateKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding},
    traits::PublicKeyParts,
};

use crate::run::step;

const KEY_BITS: usize = 3072;

/// Reads a signing key, PKCS#8 in PEM.
pub(crate) fn read(path: &Path) -> Result<PrivateKey> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let key = PrivateKey::from_pkcs8_pem(&text)
        .with_context(|| format!("{} is no private key in PKCS#8", path.display()))?;
    if key.n().bit_width() as usize != KEY_BITS || key.e() != &BoxedUint::from(3_u8) {
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
