//! The simulated vendors: a root each, and every key below it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use getrandom::{SysRng, rand_core::TryRng as _};
use p256::ecdsa::SigningKey;
use sha2::{Digest, Sha512};
use toani_protocol::Hash;

use crate::{
    certificate::{
        Issuer, IssuerKey, Subject, Validity, ca_extensions, leaf_extensions, p256_info,
    },
    folder,
    snp::SnpAuthority,
};

const SEED_FILE: &str = "sgx-authority.key";
const SEED_BYTES: usize = 32;

const ROOT: &str = "Simulated SGX Root CA";
const PCK_CA: &str = "Simulated SGX PCK Platform CA";
const TCB_SIGNER: &str = "Simulated SGX TCB Signing";

pub(crate) const ROOT_SERIAL: u64 = 1;
/// Of the PCK CA, in the root's CRL.
pub const PCK_CA_SERIAL: u64 = 2;
/// Of the TCB signing certificate, in the root's CRL.
pub const TCB_SIGNER_SERIAL: u64 = 3;

/// Why there is no authority, or why it signs nothing.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot use the authority's folder: {0}")]
    Folder(#[from] io::Error),
    #[error("the authority's key file {0} is damaged")]
    Damaged(&'static str),
    #[error("the system gives no random bytes")]
    Random,
    #[error("cannot sign")]
    Signature(#[from] rsa::signature::Error),
}

/// The simulated Intel and AMD of one folder.
///
/// Intel's side is a function of one seed, signatures included: the same folder shows the same
/// certificates, byte by byte.
pub struct Authority {
    seed: [u8; SEED_BYTES],
    root_key: IssuerKey,
    root: Vec<u8>,
    pck_ca_key: IssuerKey,
    pck_ca: Vec<u8>,
    tcb_signing_key: SigningKey,
    tcb_signer: Vec<u8>,
    pub(crate) folder: PathBuf,
    /// The simulated AMD, once somebody asks for it.
    pub(crate) snp: OnceLock<SnpAuthority>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("sgx_root", &self.sgx_root()).finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the authority of a folder, or makes it at first use. The folder has to exist.
    pub fn open_or_create(folder: &Path) -> Result<Self, AuthorityError> {
        let seed = folder::open_or_create(folder, SEED_FILE, || {
            let mut seed = vec![0; SEED_BYTES];
            SysRng.try_fill_bytes(&mut seed).map_err(|_| AuthorityError::Random)?;
            Ok::<_, AuthorityError>(seed)
        })?;
        let seed = seed.try_into().map_err(|_| AuthorityError::Damaged(SEED_FILE))?;
        Self::of_seed(seed, folder)
    }

    fn of_seed(seed: [u8; SEED_BYTES], folder: &Path) -> Result<Self, AuthorityError> {
        let (root_key, pck_ca_key) = (p256_key(&seed, "root", &[]), p256_key(&seed, "pck-ca", &[]));
        let tcb_signing_key = p256_key(&seed, "tcb-signing", &[]);
        let root_info = p256_info(root_key.verifying_key());
        let pck_ca_info = p256_info(pck_ca_key.verifying_key());
        let root_key = IssuerKey::P256(root_key);
        let issue = |name, key, serial, extensions| {
            let validity = Validity::LONG;
            let subject = Subject { name, key, serial, validity, extensions };
            Issuer { name: ROOT, key: &root_key }.certificate(&subject)
        };
        let root = issue(ROOT, root_info, ROOT_SERIAL, ca_extensions())?;
        let pck_ca = issue(PCK_CA, pck_ca_info, PCK_CA_SERIAL, ca_extensions())?;
        let tcb_info = p256_info(tcb_signing_key.verifying_key());
        let tcb_signer = issue(TCB_SIGNER, tcb_info, TCB_SIGNER_SERIAL, leaf_extensions())?;
        let pck_ca_key = IssuerKey::P256(pck_ca_key);
        Ok(Self {
            seed,
            root_key,
            root,
            pck_ca_key,
            pck_ca,
            tcb_signing_key,
            tcb_signer,
            folder: folder.to_path_buf(),
            snp: OnceLock::new(),
        })
    }

    /// SHA-256 of the simulated Intel's root, as manifests and trust files name it.
    pub fn sgx_root(&self) -> Hash {
        Hash::of(&self.root)
    }

    /// The simulated Intel's root in DER.
    pub fn root_certificate(&self) -> &[u8] {
        &self.root
    }

    pub(crate) fn root(&self) -> Issuer<'_> {
        Issuer { name: ROOT, key: &self.root_key }
    }

    pub(crate) fn pck_ca(&self) -> Issuer<'_> {
        Issuer { name: PCK_CA, key: &self.pck_ca_key }
    }

    pub(crate) fn pck_ca_certificate(&self) -> &[u8] {
        &self.pck_ca
    }

    pub(crate) fn tcb_signing_key(&self) -> &SigningKey {
        &self.tcb_signing_key
    }

    pub(crate) fn tcb_signer_certificate(&self) -> &[u8] {
        &self.tcb_signer
    }

    pub(crate) fn secret<const N: usize>(&self, purpose: &str, attempt: u64, id: &[u8]) -> [u8; N] {
        secret(&self.seed, purpose, attempt, id)
    }

    /// A key that belongs to this authority and to `id`.
    pub(crate) fn key_of(&self, purpose: &str, id: &[u8]) -> SigningKey {
        p256_key(&self.seed, purpose, id)
    }
}

/// The first scalar that the seed, a purpose and an id yield; nearly every hash is one.
fn p256_key(seed: &[u8; SEED_BYTES], purpose: &str, id: &[u8]) -> SigningKey {
    let mut attempt = 0u64;
    loop {
        let scalar = secret::<32>(seed, purpose, attempt, id);
        if let Ok(key) = SigningKey::from_slice(&scalar) {
            return key;
        }
        attempt += 1;
    }
}

/// Up to 64 bytes that only the seed's owner can know, of a purpose and an id.
fn secret<const N: usize>(
    seed: &[u8; SEED_BYTES],
    purpose: &str,
    attempt: u64,
    id: &[u8],
) -> [u8; N] {
    let hash = Sha512::new_with_prefix(seed)
        .chain_update(purpose)
        .chain_update([0])
        .chain_update(attempt.to_be_bytes())
        .chain_update(id)
        .finalize();
    let mut secret = [0; N];
    secret.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    secret
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_authority() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = Authority::open_or_create(folder.path()).unwrap();
        let again = Authority::open_or_create(folder.path()).unwrap();
        assert_eq!(first.root, again.root);
        assert_eq!(first.pck_ca, again.pck_ca);
        assert_eq!(first.tcb_signer, again.tcb_signer);
        let stranger = Authority::open_or_create(other.path()).unwrap();
        assert_ne!(first.sgx_root(), stranger.sgx_root());
        assert!(!format!("{first:?}").contains("seed"));
    }

    #[test]
    fn half_a_seed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        folder::open_or_create(folder.path(), SEED_FILE, || Ok::<_, io::Error>(vec![1; 31]))
            .unwrap();
        let refusal = Authority::open_or_create(folder.path()).unwrap_err();
        assert!(matches!(refusal, AuthorityError::Damaged(SEED_FILE)));
    }
}
