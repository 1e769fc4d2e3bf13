//! SEV-SNP: the simulated AMD's chain, and what a simulated chip says of a guest.

use getrandom::SysRng;
use p384::ecdsa::signature::Signer as _;
use rsa::{BoxedUint, pss::SigningKey, traits::PrivateKeyParts as _};
use serde::{Deserialize, Serialize};
use sha2::Sha384;
use toani_attestation::{
    SnpEvidence,
    snp::{Product, REPORT_BYTES, TcbVersion},
};
use toani_protocol::{Hash, Time, sign::Bytes};

use crate::{
    Authority, AuthorityError, Validity,
    certificate::{Issuer, IssuerKey, Subject, ca_extensions, extension, p384_info, rsa_info},
    der,
};

const FILE: &str = "snp-authority.key";
const RSA_BITS: usize = 4096;
const PSS_SALT_BYTES: usize = 48;
const SIGNED_BYTES: usize = 0x2a0;

const ARK: &str = "Simulated ARK";
const ASK: &str = "Simulated SEV CA";
const ARK_SERIAL: u64 = 0x1_0000;
/// Of the ASK, in the ARK's CRL.
pub const ASK_SERIAL: u64 = 0x1_0001;

/// A simulated machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chip {
    pub product: Product,
    /// Turin's ids have 8 bytes, followed by zeros.
    pub id: [u8; 64],
    /// What its VCEK is made for.
    pub tcb: TcbVersion,
    pub vcek_validity: Validity,
    /// What its reports say; another line, id or TCB than the VCEK's only if the chip lies.
    pub reported_product: Product,
    pub reported_id: [u8; 64],
    pub reported_tcb: TcbVersion,
}

impl Chip {
    /// A chip with nothing wrong, told from others by its number.
    pub fn number(product: Product, number: u64) -> Self {
        let mut id = [0; 64];
        id[..8].copy_from_slice(&number.to_be_bytes());
        if product != Product::Turin {
            id[8..].fill(0xc1);
        }
        let fmc = u8::from(product == Product::Turin);
        let tcb = TcbVersion { fmc, boot_loader: 3, tee: 0, snp: 8, microcode: 115 };
        Self {
            product,
            id,
            tcb,
            vcek_validity: Validity::LONG,
            reported_product: product,
            reported_id: id,
            reported_tcb: tcb,
        }
    }

    /// Extensions of a VCEK (AMD, publication 57230).
    fn extensions(&self) -> Vec<Vec<u8>> {
        const AMD: [u64; 8] = [1, 3, 6, 1, 4, 1, 3704, 1];
        let named =
            |arcs: &[u64], value: &[u8]| extension(&[AMD.as_slice(), arcs].concat(), false, value);
        let (name, id) = match self.product {
            Product::Milan => ("Milan-B0", self.id.as_slice()),
            Product::Genoa => ("Genoa-B1", self.id.as_slice()),
            Product::Turin => ("Turin", &self.id[..8]),
        };
        let TcbVersion { fmc, boot_loader, tee, snp, microcode } = self.tcb;
        let mut extensions =
            vec![named(&[1], &der::integer(0)), named(&[2], &der::ia5(name)), named(&[4], id)];
        let svns = [(1, boot_loader), (2, tee), (3, snp), (8, microcode)];
        let fmc = (self.product == Product::Turin).then_some((9, fmc));
        for (arc, svn) in svns.into_iter().chain(fmc) {
            extensions.push(named(&[3, arc], &der::integer(svn.into())));
        }
        extensions
    }
}

/// TCB_VERSION (56860).
fn tcb_bytes(product: Product, tcb: TcbVersion) -> [u8; 8] {
    let TcbVersion { fmc, boot_loader, tee, snp, microcode } = tcb;
    match product {
        Product::Milan | Product::Genoa => [boot_loader, tee, 0, 0, 0, 0, snp, microcode],
        Product::Turin => [fmc, boot_loader, tee, snp, 0, 0, 0, microcode],
    }
}

/// A guest that asks for a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    pub launch_digest: [u8; 48],
    pub report_data: [u8; 64],
    pub host_data: [u8; 32],
    /// GUEST_POLICY.
    pub policy: u64,
    pub vmpl: u32,
    /// Of the report: 2 to 5.
    pub report_version: u32,
}

impl Guest {
    /// SMT allowed; bit 17 is always set.
    pub const POLICY: u64 = 0x3_0000;

    /// A guest that can neither be debugged nor migrated, at VMPL 0.
    pub fn new(launch_digest: [u8; 48], report_data: [u8; 64]) -> Self {
        Self {
            launch_digest,
            report_data,
            host_data: [0; 32],
            policy: Self::POLICY,
            vmpl: 0,
            report_version: 2,
        }
    }

    /// The report (firmware ABI, publication 56860) without its signature.
    fn report(&self, chip: &Chip) -> Vec<u8> {
        let mut report = vec![0; SIGNED_BYTES];
        let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x00, &self.report_version.to_le_bytes());
        put(0x08, &self.policy.to_le_bytes());
        put(0x30, &self.vmpl.to_le_bytes());
        put(0x34, &1u32.to_le_bytes()); // ECDSA P-384 with SHA-384
        put(0x50, &self.report_data);
        put(0x90, &self.launch_digest);
        put(0xc0, &self.host_data);
        put(0x160, &[0xff; 32]); // no migration agent
        // Current, reported, committed, launch.
        for at in [0x38, 0x180, 0x1e0, 0x1f0] {
            put(at, &tcb_bytes(chip.reported_product, chip.reported_tcb));
        }
        if self.report_version > 2 {
            let family_and_model: [u8; 2] = match chip.reported_product {
                Product::Milan => [0x19, 0x01],
                Product::Genoa => [0x19, 0x11],
                Product::Turin => [0x1a, 0x02],
            };
            put(0x188, &family_and_model);
        }
        put(0x1a0, &chip.reported_id);
        report
    }
}

/// A CRL of the simulated AMD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpRevocations {
    pub validity: Validity,
    pub number: u32,
    /// Serials.
    pub revoked: Vec<u64>,
}

impl SnpRevocations {
    /// None, published on the day of `now` for thirty days.
    pub fn none(now: Time) -> Self {
        Self { validity: Validity::month_of(now), number: 1, revoked: Vec::new() }
    }
}

/// The simulated AMD's keys and certificates.
pub(crate) struct SnpAuthority {
    ark_key: IssuerKey,
    ask_key: IssuerKey,
    ark: Vec<u8>,
    ask: Vec<u8>,
}

/// As the folder keeps them: making RSA keys of this size takes seconds, and PSS signatures are
/// never the same twice.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    ark_primes: [Bytes; 2],
    ask_primes: [Bytes; 2],
    ark: Bytes,
    ask: Bytes,
}

impl SnpAuthority {
    fn open(bytes: &[u8]) -> Result<Self, AuthorityError> {
        let damaged = || AuthorityError::Damaged(FILE);
        let kept: Kept = serde_json::from_slice(bytes).map_err(|_| damaged())?;
        Ok(Self {
            ark_key: issuer_key(key_of_primes(&kept.ark_primes).ok_or_else(damaged)?),
            ask_key: issuer_key(key_of_primes(&kept.ask_primes).ok_or_else(damaged)?),
            ark: kept.ark.0,
            ask: kept.ask.0,
        })
    }

    /// Makes both keys, at the same time.
    fn create() -> Result<Vec<u8>, AuthorityError> {
        let make =
            || rsa::PrivateKey::new(&mut SysRng, RSA_BITS).map_err(|_| AuthorityError::Random);
        let (ark_key, ask_key) = std::thread::scope(|scope| {
            let ask_key = scope.spawn(make);
            (make(), ask_key.join().unwrap_or(Err(AuthorityError::Random)))
        });
        let (ark_key, ask_key) = (ark_key?, ask_key?);
        let (ark_primes, ask_primes) = (primes_of(&ark_key), primes_of(&ask_key));
        let (ark_info, ask_info) =
            (rsa_info(ark_key.as_public_key()), rsa_info(ask_key.as_public_key()));
        let ark_key = issuer_key(ark_key);
        let issue = |name, key, serial| {
            let (validity, extensions) = (Validity::LONG, ca_extensions());
            let subject = Subject { name, key, serial, validity, extensions };
            Issuer { name: ARK, key: &ark_key }.certificate(&subject).map(Bytes)
        };
        let kept = Kept {
            ark: issue(ARK, ark_info, ARK_SERIAL)?,
            ask: issue(ASK, ask_info, ASK_SERIAL)?,
            ark_primes,
            ask_primes,
        };
        serde_json::to_vec(&kept).map_err(|_| AuthorityError::Damaged(FILE))
    }
}

fn issuer_key(key: rsa::PrivateKey) -> IssuerKey {
    IssuerKey::Rsa(Box::new(SigningKey::<Sha384>::new_with_salt_len(key, PSS_SALT_BYTES)))
}

fn primes_of(key: &rsa::PrivateKey) -> [Bytes; 2] {
    let prime = |index: usize| key.primes().get(index).map(|prime| prime.to_be_bytes().to_vec());
    [0, 1].map(|index| Bytes(prime(index).unwrap_or_default()))
}

fn key_of_primes([p, q]: &[Bytes; 2]) -> Option<rsa::PrivateKey> {
    let half = u32::try_from(RSA_BITS / 2).ok()?;
    let prime = |bytes: &Bytes| BoxedUint::from_be_slice(&bytes.0, half).ok();
    rsa::PrivateKey::from_p_q(prime(p)?, prime(q)?, BoxedUint::from(65_537u64)).ok()
}

impl Authority {
    /// SHA-256 of the simulated AMD's root, as manifests and trust files name it. The first call in
    /// a new folder makes keys of 4,096 bits, which takes seconds.
    pub fn snp_root(&self) -> Result<Hash, AuthorityError> {
        Ok(Hash::of(&self.snp()?.ark))
    }

    fn snp(&self) -> Result<&SnpAuthority, AuthorityError> {
        if let Some(snp) = self.snp.get() {
            return Ok(snp);
        }
        let bytes = crate::folder::open_or_create(&self.folder, FILE, SnpAuthority::create)?;
        let opened = SnpAuthority::open(&bytes)?;
        Ok(self.snp.get_or_init(|| opened))
    }

    /// What a chip says of a guest, with its chain and the revocations of the day.
    pub fn snp_evidence(
        &self,
        chip: &Chip,
        guest: &Guest,
        revocations: &SnpRevocations,
    ) -> Result<SnpEvidence, AuthorityError> {
        let snp = self.snp()?;
        let vcek_key = self.vcek_key(chip);
        let subject = Subject {
            name: "Simulated SEV-VCEK",
            key: p384_info(vcek_key.verifying_key()),
            serial: 0,
            validity: chip.vcek_validity,
            extensions: chip.extensions(),
        };
        let vcek = Issuer { name: ASK, key: &snp.ask_key }.certificate(&subject)?;
        let SnpRevocations { validity, number, revoked } = revocations;
        let crl = Issuer { name: ARK, key: &snp.ark_key }.crl(*validity, *number, revoked)?;
        Ok(SnpEvidence {
            report: Bytes(signed_report(&guest.report(chip), &vcek_key)),
            vcek: Bytes(vcek),
            ask: Bytes(snp.ask.clone()),
            ark: Bytes(snp.ark.clone()),
            crl: Bytes(crl),
        })
    }

    /// The chip of the machine that this authority's folder stands for.
    pub fn chip(&self) -> Chip {
        Chip::number(Product::Milan, u64::from_be_bytes(self.secret::<8>("chip", 0, &[])))
    }

    /// A chip has one VCEK for each TCB.
    fn vcek_key(&self, chip: &Chip) -> p384::ecdsa::SigningKey {
        let id = [chip.id.as_slice(), &tcb_bytes(chip.product, chip.tcb)].concat();
        let mut attempt = 0u64;
        loop {
            let scalar = self.secret::<48>("vcek", attempt, &id);
            if let Ok(key) = p384::ecdsa::SigningKey::from_slice(&scalar) {
                return key;
            }
            attempt += 1;
        }
    }
}

/// r and s follow little-endian, each in a field of 72 bytes.
fn signed_report(report: &[u8], key: &p384::ecdsa::SigningKey) -> Vec<u8> {
    let signature: p384::ecdsa::Signature = key.sign(report);
    let (r, s) = signature.split_bytes();
    let mut out = report.to_vec();
    for scalar in [r, s] {
        out.extend(scalar.iter().rev());
        out.extend([0; 24]);
    }
    out.resize(REPORT_BYTES, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_ark() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Authority::open_or_create(folder.path()).unwrap();
        let first = open().snp_root().unwrap();
        assert_eq!(open().snp_root().unwrap(), first);

        let path = folder.path().join(FILE);
        std::fs::write(&path, b"{}").unwrap();
        let refusal = open().snp_root().unwrap_err();
        assert!(matches!(refusal, AuthorityError::Damaged(FILE)));
    }
}
