//! The instance's own CA: what it issues, remembers and revokes.
//!
//! Its ledger (`ca.json`) is the truth, and the revocation list is made of it; so the ledger is
//! written first, and every change writes the list anew.

use std::{fs, path::PathBuf};

use anyhow::{Context, bail};
use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevocationReason, RevokedCertParams, SerialNumber,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use toani_protocol::Time;
use zeroize::Zeroizing;

use crate::{
    home::{self, Home},
    keys,
};

/// Lives of certificates, in days.
pub(crate) const CA_DAYS: u64 = 1_825;
pub(crate) const SERVER_DAYS: u64 = 90;
pub(crate) const ADMIN_DAYS: u64 = 30;
/// How far the clocks of two machines may differ.
const SKEW_MS: u64 = 5 * 60 * 1_000;
const DAY_MS: u64 = 86_400_000;
/// Certificates that have not expired.
const ISSUED_MAX: usize = 1_000;

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// For the plane's ports.
    Server,
    /// For one who administers.
    Admin,
}

/// A certificate that was issued and has not expired.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Issued {
    pub(crate) serial: String,
    pub(crate) kind: Kind,
    pub(crate) name: String,
    /// DNS names and addresses of a server.
    pub(crate) hosts: Vec<String>,
    pub(crate) ends: Time,
    pub(crate) revoked: Option<Time>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Format {
    #[serde(rename = "toani-ca/1")]
    V1,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ledger {
    format: Format,
    /// The CA's own name in its certificates.
    name: String,
    /// Number of the last revocation list.
    lists: u64,
    issued: Vec<Issued>,
}

/// The CA, held by this process alone.
pub(crate) struct Ca {
    home: Home,
    ledger: Ledger,
    issuer: Issuer<'static, KeyPair>,
    _lock: fs::File,
}

fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let ms = since.map_or(0, |since| since.as_millis());
    Time::from_ms(u64::try_from(ms).unwrap_or(u64::MAX))
}

/// A certificate's time; X.509 knows seconds only.
fn x509(time: Time) -> anyhow::Result<OffsetDateTime> {
    let seconds = i64::try_from(time.ms() / 1_000).context("a time beyond all calendars")?;
    Ok(OffsetDateTime::from_unix_timestamp(seconds)?)
}

fn serial(text: &str) -> anyhow::Result<SerialNumber> {
    let bytes = HEXLOWER.decode(text.as_bytes()).context("the ledger holds a broken serial")?;
    Ok(SerialNumber::from(bytes))
}

/// The parameters of the CA's certificate, which say the same every time but for its dates.
fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// One at a time: a change that is lost could be a revocation.
fn lock(home: &Home) -> anyhow::Result<fs::File> {
    let path = home.tls("");
    let locked = fs::File::open(&path).and_then(|folder| {
        rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive)?;
        Ok(folder)
    });
    locked.with_context(|| format!("cannot lock {}", path.display()))
}

impl Ca {
    /// Makes a CA where there is none.
    pub(crate) fn create(home: &Home) -> anyhow::Result<(Self, Time)> {
        let name = format!("toani {}", HEXLOWER.encode(&*keys::random::<4>()?));
        let key = KeyPair::generate().context("no key can be made")?;
        home::create(&home.tls("ca.key"), Zeroizing::new(key.serialize_pem()).as_bytes())?;
        let lock = lock(home)?;
        let mut params = params(&name);
        let ends = now().plus_ms(CA_DAYS * DAY_MS);
        params.not_before = x509(Time::from_ms(now().ms().saturating_sub(SKEW_MS)))?;
        params.not_after = x509(ends)?;
        let certificate = params.self_signed(&key)?;
        home::create(&home.tls("ca.pem"), certificate.pem().as_bytes())?;
        let ledger = Ledger { format: Format::V1, name, lists: 0, issued: Vec::new() };
        let issuer = Issuer::new(params, key);
        let mut ca = Self { home: home.clone(), ledger, issuer, _lock: lock };
        ca.save()?;
        Ok((ca, ends))
    }

    pub(crate) fn open(home: &Home) -> anyhow::Result<Self> {
        let path = home.tls("ca.key");
        if !path.exists() {
            bail!("there is no {}; `toani cert init` makes a CA", path.display());
        }
        let lock = lock(home)?;
        let ledger: Ledger = serde_json::from_slice(&home::read(&home.tls("ca.json"))?)
            .context("the CA's ledger is broken")?;
        let pem = Zeroizing::new(String::from_utf8(home::read(&path)?)?);
        let key =
            KeyPair::from_pem(&pem).with_context(|| format!("{} is no key", path.display()))?;
        let issuer = Issuer::new(params(&ledger.name), key);
        Ok(Self { home: home.clone(), ledger, issuer, _lock: lock })
    }

    /// What has not expired, the oldest first.
    pub(crate) fn issued(&self) -> &[Issued] {
        &self.ledger.issued
    }

    /// The certificate that a name uses: the newest that is not revoked.
    pub(crate) fn current(&self, name: &str) -> Option<&Issued> {
        let now = now();
        let holds = |one: &&Issued| one.name == name && one.revoked.is_none() && one.ends > now;
        self.ledger.issued.iter().rev().find(holds)
    }

    /// The newest certificate of a name, whether it holds or not.
    pub(crate) fn newest(&self, name: &str) -> Option<&Issued> {
        self.ledger.issued.iter().rev().find(|one| one.name == name)
    }

    /// Where the certificate and key of a name are written.
    pub(crate) fn file(&self, kind: Kind, name: &str) -> PathBuf {
        match kind {
            Kind::Server => self.home.tls("server.pem"),
            Kind::Admin => self.home.tls(&format!("admins/{name}.pem")),
        }
    }

    /// Makes a key and a certificate in one file, in the place of those before. What the name had
    /// until now is revoked.
    pub(crate) fn issue(
        &mut self,
        kind: Kind,
        name: &str,
        hosts: Vec<String>,
    ) -> anyhow::Result<Issued> {
        let (days, usage) = match kind {
            Kind::Server => (SERVER_DAYS, ExtendedKeyUsagePurpose::ServerAuth),
            Kind::Admin => (ADMIN_DAYS, ExtendedKeyUsagePurpose::ClientAuth),
        };
        // Positive, as RFC 5280 wants it (section 4.1.2.2), and of a fixed length.
        let mut bytes = keys::random::<16>()?;
        bytes[0] = bytes[0] & 0x3f | 0x40;
        let issued = Issued {
            serial: HEXLOWER.encode(&*bytes),
            kind,
            name: name.to_owned(),
            hosts,
            ends: now().plus_ms(days * DAY_MS),
            revoked: None,
        };
        let mut params = CertificateParams::new(issued.hosts.clone())
            .context("a host is a DNS name or an address")?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(serial(&issued.serial)?);
        params.not_before = x509(Time::from_ms(now().ms().saturating_sub(SKEW_MS)))?;
        params.not_after = x509(issued.ends)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("no key can be made")?;
        let certificate = params.signed_by(&key, &self.issuer)?;

        self.revoke(name);
        let now = now();
        self.ledger.issued.retain(|one| one.ends > now);
        if self.ledger.issued.len() >= ISSUED_MAX {
            bail!("{ISSUED_MAX} certificates have not expired; wait until some have");
        }
        self.ledger.issued.push(issued.clone());
        self.save()?;
        let pem = Zeroizing::new(certificate.pem() + &Zeroizing::new(key.serialize_pem()));
        home::write(&self.file(kind, name), pem.as_bytes())?;
        Ok(issued)
    }

    /// Revokes what a name has, in memory; returns the serials.
    fn revoke(&mut self, name: &str) -> Vec<String> {
        let now = now();
        let of_name = |one: &&mut Issued| one.name == name && one.revoked.is_none();
        let revoked = self.ledger.issued.iter_mut().filter(of_name).map(|one| {
            one.revoked = Some(now);
            one.serial.clone()
        });
        revoked.collect()
    }

    /// Revokes all that a name has.
    pub(crate) fn revoke_all(&mut self, name: &str) -> anyhow::Result<Vec<String>> {
        let serials = self.revoke(name);
        self.save()?;
        Ok(serials)
    }

    fn save(&mut self) -> anyhow::Result<()> {
        self.ledger.lists += 1;
        home::write(&self.home.tls("ca.json"), &serde_json::to_vec_pretty(&self.ledger)?)?;
        let revoked = |one: &Issued| -> Option<anyhow::Result<RevokedCertParams>> {
            let since = one.revoked?;
            Some(serial(&one.serial).and_then(|serial_number| {
                Ok(RevokedCertParams {
                    serial_number,
                    revocation_time: x509(since)?,
                    reason_code: Some(RevocationReason::Unspecified),
                    invalidity_date: None,
                })
            }))
        };
        let list = CertificateRevocationListParams {
            this_update: x509(now())?,
            // The newest list counts however old it is: the plane reads it from this folder.
            next_update: x509(now().plus_ms(CA_DAYS * DAY_MS))?,
            crl_number: SerialNumber::from(self.ledger.lists),
            issuing_distribution_point: None,
            revoked_certs: self
                .ledger
                .issued
                .iter()
                .filter_map(revoked)
                .collect::<Result<_, _>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer)?.pem()?;
        home::write(&self.home.tls("revoked.pem"), list.as_bytes())
    }
}
