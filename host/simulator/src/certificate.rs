//! Certificates and CRLs (RFC 5280), as Intel and AMD shape theirs.

use getrandom::SysRng;
use p256::ecdsa::signature::Signer as _;
use rsa::{
    pss,
    signature::{RandomizedSigner as _, SignatureEncoding as _},
    traits::PublicKeyParts as _,
};
use sha2::Sha384;
use toani_protocol::Time;

use crate::der;

const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
const ORGANIZATION: &[u64] = &[2, 5, 4, 10];
const ECDSA_WITH_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];
const EC_PUBLIC_KEY: &[u64] = &[1, 2, 840, 10045, 2, 1];
const PRIME256V1: &[u64] = &[1, 2, 840, 10045, 3, 1, 7];
const SECP384R1: &[u64] = &[1, 3, 132, 0, 34];
const RSA_ENCRYPTION: &[u64] = &[1, 2, 840, 113_549, 1, 1, 1];
const RSASSA_PSS: &[u64] = &[1, 2, 840, 113_549, 1, 1, 10];
const MGF1: &[u64] = &[1, 2, 840, 113_549, 1, 1, 8];
const SHA384: &[u64] = &[2, 16, 840, 1, 101, 3, 4, 2, 2];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const CRL_NUMBER: &[u64] = &[2, 5, 29, 20];

const PSS_SALT_BYTES: u8 = 48;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const MONTH_MS: u64 = 30 * DAY_MS;

/// From when until when something is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub from: Time,
    pub until: Time,
}

impl Validity {
    /// 2020-01-01 to 2049-12-31: of what outlives every test.
    pub const LONG: Self =
        Self { from: Time::from_ms(1_577_836_800_000), until: Time::from_ms(2_524_607_999_000) };

    /// Thirty days, from the beginning of the day of `now`: of what is published anew.
    pub fn month_of(now: Time) -> Self {
        let from = Time::from_ms(now.day().saturating_mul(DAY_MS));
        Self { from, until: from.plus_ms(MONTH_MS) }
    }
}

/// A key that signs certificates and CRLs.
pub(crate) enum IssuerKey {
    P256(p256::ecdsa::SigningKey),
    Rsa(Box<pss::SigningKey<Sha384>>),
}

impl IssuerKey {
    fn algorithm(&self) -> Vec<u8> {
        match self {
            Self::P256(_) => der::sequence(&[&der::oid(ECDSA_WITH_SHA256)]),
            Self::Rsa(_) => der::sequence(&[&der::oid(RSASSA_PSS), &pss_parameters()]),
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rsa::signature::Error> {
        match self {
            Self::P256(key) => Ok(ecdsa_value(&key.sign(message))),
            Self::Rsa(key) => Ok(key.try_sign_with_rng(&mut SysRng, message)?.to_vec()),
        }
    }
}

/// ECDSA-Sig-Value (RFC 5480, appendix A).
fn ecdsa_value(signature: &p256::ecdsa::Signature) -> Vec<u8> {
    let (r, s) = signature.split_bytes();
    der::sequence(&[&der::unsigned(&r), &der::unsigned(&s)])
}

/// RSASSA-PSS-params as AMD has them, with the default trailer field spelt out.
fn pss_parameters() -> Vec<u8> {
    let sha384 = der::sequence(&[&der::oid(SHA384), &der::null()]);
    der::sequence(&[
        &der::explicit(0, &sha384),
        &der::explicit(1, &der::sequence(&[&der::oid(MGF1), &sha384])),
        &der::explicit(2, &der::integer(PSS_SALT_BYTES.into())),
        &der::explicit(3, &der::integer(1)),
    ])
}

/// Who issues: a name and a key.
pub(crate) struct Issuer<'a> {
    pub(crate) name: &'a str,
    pub(crate) key: &'a IssuerKey,
}

/// What a certificate says of its subject.
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    /// SubjectPublicKeyInfo.
    pub(crate) key: Vec<u8>,
    pub(crate) serial: u64,
    pub(crate) validity: Validity,
    pub(crate) extensions: Vec<Vec<u8>>,
}

impl Issuer<'_> {
    /// A certificate in DER.
    pub(crate) fn certificate(
        &self,
        subject: &Subject<'_>,
    ) -> Result<Vec<u8>, rsa::signature::Error> {
        let extensions: Vec<u8> = subject.extensions.concat();
        self.signed(&[
            &der::explicit(0, &der::integer(2)),
            &der::integer(subject.serial),
            &self.key.algorithm(),
            &name(self.name),
            &der::sequence(&[
                &der::time(subject.validity.from),
                &der::time(subject.validity.until),
            ]),
            &name(subject.name),
            &subject.key,
            &der::explicit(3, &der::sequence(&[&extensions])),
        ])
    }

    /// A CRL in DER.
    pub(crate) fn crl(
        &self,
        validity: Validity,
        number: u32,
        revoked: &[u64],
    ) -> Result<Vec<u8>, rsa::signature::Error> {
        let entries: Vec<u8> = revoked
            .iter()
            .flat_map(|serial| der::sequence(&[&der::integer(*serial), &der::time(validity.from)]))
            .collect();
        // An empty list has to be absent.
        let entries = if entries.is_empty() { entries } else { der::sequence(&[&entries]) };
        let number = extension(CRL_NUMBER, false, &der::integer(number.into()));
        self.signed(&[
            &der::integer(1),
            &self.key.algorithm(),
            &name(self.name),
            &der::time(validity.from),
            &der::time(validity.until),
            &entries,
            &der::explicit(0, &der::sequence(&[&number])),
        ])
    }

    fn signed(&self, parts: &[&[u8]]) -> Result<Vec<u8>, rsa::signature::Error> {
        let body = der::sequence(parts);
        let signature = der::bits(0, &self.key.sign(&body)?);
        Ok(der::sequence(&[&body, &self.key.algorithm(), &signature]))
    }
}

fn name(common_name: &str) -> Vec<u8> {
    let part = |kind, text| der::set(&der::sequence(&[&der::oid(kind), &der::utf8(text)]));
    der::sequence(&[&part(COMMON_NAME, common_name), &part(ORGANIZATION, "toani simulator")])
}

pub(crate) fn extension(id: &[u64], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { der::boolean(true) } else { Vec::new() };
    der::sequence(&[&der::oid(id), &critical, &der::octets(value)])
}

/// The extensions of a CA: keyCertSign and cRLSign.
pub(crate) fn ca_extensions() -> Vec<Vec<u8>> {
    let constraints = der::sequence(&[&der::boolean(true)]);
    vec![
        extension(KEY_USAGE, true, &der::bits(1, &[0b0000_0110])),
        extension(BASIC_CONSTRAINTS, true, &constraints),
    ]
}

/// The extensions of a signer that is no CA: digitalSignature and nonRepudiation.
pub(crate) fn leaf_extensions() -> Vec<Vec<u8>> {
    vec![
        extension(KEY_USAGE, true, &der::bits(6, &[0b1100_0000])),
        extension(BASIC_CONSTRAINTS, true, &der::sequence(&[])),
    ]
}

pub(crate) fn p256_info(key: &p256::ecdsa::VerifyingKey) -> Vec<u8> {
    ec_info(PRIME256V1, key.to_sec1_point(false).as_bytes())
}

pub(crate) fn p384_info(key: &p384::ecdsa::VerifyingKey) -> Vec<u8> {
    ec_info(SECP384R1, key.to_sec1_point(false).as_bytes())
}

fn ec_info(curve: &[u64], point: &[u8]) -> Vec<u8> {
    let algorithm = der::sequence(&[&der::oid(EC_PUBLIC_KEY), &der::oid(curve)]);
    der::sequence(&[&algorithm, &der::bits(0, point)])
}

pub(crate) fn rsa_info(key: &rsa::PublicKey) -> Vec<u8> {
    let algorithm = der::sequence(&[&der::oid(RSA_ENCRYPTION), &der::null()]);
    let integers = [key.n_bytes(), key.e_bytes()].map(|bytes| der::unsigned(&bytes));
    let key = der::sequence(&[&integers[0], &integers[1]]);
    der::sequence(&[&algorithm, &der::bits(0, &key)])
}
