//! What must never leave, and what to look for: derived here as docs/PROTOCOL.md says, from the
//! sealed root and the simulated processor.

use aes_gcm::{Aes256Gcm, KeyInit, Nonce, aead::Aead, aead::Payload};
use data_encoding::{BASE64, BASE64URL, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use ed25519_dalek::SigningKey;
use hkdf::Hkdf;
use memchr::memmem::Finder;
use sha2::Sha256;
use toani_enclave::Platform as _;
use toani_protocol::{
    BootId, Hash, TenantId, canonical, credential::CredentialHeader, sign::PublicKey, wire,
};

use super::{Kind, Watched, breach};
use crate::world::*;

/// Shorter runs of base64 hold no key.
const RUN_LEAST: usize = 40;

/// Secrets in every form in which they could stand somewhere.
#[derive(Default)]
pub(super) struct Watch(Vec<(Kind, String, Finder<'static>)>);

impl Watch {
    pub(super) fn add(&mut self, kind: Kind, name: &str, secret: &[u8]) {
        let mut forms = vec![secret.to_vec()];
        forms.extend([&HEXLOWER, &HEXUPPER].map(|hex| hex.encode(secret).into_bytes()));
        // Base64 depends on where in a group of three bytes the secret begins.
        for skip in 0..3 {
            let whole = &secret[skip..skip + (secret.len() - skip) / 3 * 3];
            forms.extend([&BASE64, &BASE64URL].map(|base| base.encode(whole).into_bytes()));
        }
        forms.dedup();
        let found = |form: Vec<u8>| (kind, name.to_owned(), Finder::new(&form).into_owned());
        self.0.extend(forms.into_iter().map(found));
    }

    /// Also looks into what is itself encoded, such as a token's footer.
    pub(super) fn search(&self, bytes: &[u8]) -> Watched {
        self.plainly(bytes)?;
        let in_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        for run in bytes.split(|byte| !in_base64(byte)).filter(|run| run.len() >= RUN_LEAST) {
            if let Ok(decoded) = BASE64URL_NOPAD.decode(&run[..run.len() / 4 * 4]) {
                self.plainly(&decoded)?;
            }
        }
        Ok(())
    }

    fn plainly(&self, bytes: &[u8]) -> Watched {
        match self.0.iter().find(|(_, _, form)| form.find(bytes).is_some()) {
            Some((kind, name, _)) => breach(*kind, format!("{name} left the enclave")),
            None => Ok(()),
        }
    }
}

fn fields(parts: &[&[u8]]) -> Vec<u8> {
    let prefixed =
        |part: &&[u8]| [&u32::try_from(part.len()).unwrap().to_be_bytes(), *part].concat();
    parts.iter().flat_map(prefixed).collect()
}

fn derive<const N: usize>(key: &[u8], salt: &[u8], info: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    Hkdf::<Sha256>::new(Some(salt), key).expand(&fields(info), &mut out).unwrap();
    out
}

fn decrypt(key: &[u8; 32], nonce: [u8; 12], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let payload = Payload { msg: sealed, aad };
    Aes256Gcm::new(key.into()).decrypt(&Nonce::from(nonce), payload).ok()
}

/// L1, opened by whoever owns the processor.
pub(super) struct Root {
    l1: [u8; 32],
    instance: Hash,
}

type Wrapped = (([u8; 32], [u8; 16], u16), [u8; 12], Vec<u8>);
/// Format and epoch; counter and package of the hand-over that it came by, of which there is none.
type SealedRoot = (u8, u32, (u64, Hash), Wrapped);
type StoredCredential = (u8, Vec<u8>, [u8; 32], [u8; 32], [u8; 12], Vec<u8>);
type WrappedSalt = (u64, [u8; 12], Vec<u8>);

impl Root {
    pub(super) fn open(machine: &Machine, instance: Hash, sealed: &[u8]) -> Option<Self> {
        let (_, epoch, (counter, package), wrapped) =
            wire::decode::<SealedRoot>(sealed, usize::MAX).ok()?;
        let ((key_id, cpu_svn, isv_svn), nonce, ciphertext) = wrapped;
        let mut request = [0; 512];
        request[..4].copy_from_slice(&[4, 0, 1, 0]);
        request[4..6].copy_from_slice(&isv_svn.to_le_bytes());
        request[8..24].copy_from_slice(&cpu_svn);
        request[24..40].fill(0xff);
        request[40..72].copy_from_slice(&key_id);
        request[72..76].fill(0xff);
        let l0: [u8; 32] = derive(machine.egetkey(&request)?.bytes(), b"", &[b"toani/v1/l0"]);
        let (epoch, counter) = (epoch.to_be_bytes(), counter.to_be_bytes());
        let parts: [&[u8]; 5] =
            [b"toani/v1/root", instance.as_bytes(), &epoch, &counter, package.as_bytes()];
        let aad = fields(&parts);
        let l1 = decrypt(&l0, nonce, &aad, &ciphertext)?.try_into().ok()?;
        Some(Self { l1, instance })
    }

    fn derive<const N: usize>(&self, purpose: &str, parts: &[&[u8]]) -> [u8; N] {
        let head: [&[u8]; 2] = [purpose.as_bytes(), self.instance.as_bytes()];
        derive(&self.l1, b"", &[&head, parts].concat())
    }

    fn chain(&self) -> SigningKey {
        SigningKey::from_bytes(&self.derive("toani/v1/chain", &[]))
    }

    pub(super) fn chain_key(&self) -> PublicKey {
        PublicKey::of(&self.chain())
    }

    fn l2(&self, tenant: &TenantId, namespace: &str) -> [u8; 32] {
        let parts: [&[u8]; 3] =
            [tenant.as_str().as_bytes(), namespace.as_bytes(), &1u32.to_be_bytes()];
        self.derive("toani/v1/l2", &parts)
    }

    fn salts(&self, tenant: &TenantId) -> [u8; 32] {
        derive(&self.l2(tenant, ""), b"", &[b"toani/v1/salts"])
    }

    /// The keys that all boots of the instance have.
    pub(super) fn watch(&self, watch: &mut Watch) {
        let intake: [u8; 32] = self.derive("toani/v1/intake", &[]);
        let (private, _) = <hpke::kem::X25519HkdfSha256 as hpke::Kem>::derive_keypair(&intake);
        let private = hpke::Serializable::to_bytes(&private);
        let keys: [(&str, &[u8]); 8] = [
            ("L1", &self.l1),
            ("the chain key", &self.derive::<32>("toani/v1/chain", &[])),
            ("the seed of the intake key", &intake),
            ("the intake key", &private),
            ("the key of idempotency", &self.derive::<32>("toani/v1/idempotency", &[])),
            ("the tenant's L2", &self.l2(&tenant(), "main")),
            ("the L2 of salts", &self.l2(&tenant(), "")),
            ("the key of salts", &self.salts(&tenant())),
        ];
        keys.iter().for_each(|(name, key)| watch.add(Kind::Key, name, key));
    }

    /// The keys of one boot.
    pub(super) fn watch_boot(&self, boot: &BootId, watch: &mut Watch) {
        let boot = boot.as_str().as_bytes();
        let token: [u8; 32] = self.derive("toani/v1/token", &[MEASUREMENT.as_bytes(), boot]);
        watch.add(Kind::Key, "the token key", &token);
        watch.add(Kind::Key, "the boot's seal", &self.derive::<32>("toani/v1/seal", &[boot]));
    }

    /// The L3 of a credential that the host was given to keep.
    pub(super) fn watch_credential(&self, blob: &[u8], watch: &mut Watch) {
        let Ok((_, header, salt, ..)) = wire::decode::<StoredCredential>(blob, usize::MAX) else {
            return;
        };
        let Ok(header) = canonical::decode::<CredentialHeader>(&header, usize::MAX) else { return };
        let l2 = self.l2(&header.tenant, header.namespace.as_str());
        let id = header.id.as_str().as_bytes();
        let version = header.version.to_be_bytes();
        let l3: [u8; 64] =
            derive(&l2, &salt, &[b"toani/v1/l3", header.owner.as_bytes(), id, &version]);
        watch.add(Kind::Key, "a credential's L3", &l3[..32]);
    }

    /// A salt that the host was given to keep: it is under its key, or it is not wrapped.
    pub(super) fn watch_salt(
        &self,
        tenant: &TenantId,
        wrapped: &[u8],
        watch: &mut Watch,
    ) -> Watched {
        let opened = wire::decode::<WrappedSalt>(wrapped, usize::MAX).ok().and_then(
            |(day, nonce, ciphertext)| {
                let aad = fields(&[b"toani/v1/salt", &day.to_be_bytes()]);
                decrypt(&self.salts(tenant), nonce, &aad, &ciphertext)
            },
        );
        match opened {
            Some(salt) => watch.add(Kind::Key, "a salt", &salt),
            None => return breach(Kind::Key, "a salt is not wrapped under its key"),
        }
        Ok(())
    }
}
