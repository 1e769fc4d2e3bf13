//! Quotes: what the simulated quoting enclave of a platform makes of a report.

use data_encoding::BASE64;
use p256::ecdsa::signature::Signer as _;
use sha2::{Digest, Sha256};
use toani_attestation::report_body::REPORT_BODY_BYTES;
use toani_protocol::{Hash, Time, sign::Bytes};

use crate::{
    Authority, AuthorityError, Publication,
    certificate::{Subject, Validity, extension, leaf_extensions, p256_info},
    collateral::{QE_ATTRIBUTES, QE_ISV_PROD_ID, QE_MRSIGNER},
    der,
};
use toani_attestation::SgxEvidence;

/// Of the published TCB levels, the one that a platform or its quoting enclave reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// `UpToDate`.
    Current,
    /// `ConfigurationNeeded`; for a quoting enclave as `Current`.
    Misconfigured,
    /// `OutOfDate`.
    Outdated,
    /// `Revoked`.
    Broken,
    /// Below all that is published.
    Unknown,
}

impl Level {
    pub(crate) const fn svn(self) -> u8 {
        match self {
            Self::Current => 5,
            Self::Misconfigured => 4,
            Self::Outdated => 3,
            Self::Broken => 2,
            Self::Unknown => 1,
        }
    }
}

/// A simulated machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// The machine's own id.
    pub ppid: [u8; 16],
    /// The kind of machine: what TCB info is about.
    pub fmspc: [u8; 6],
    pub pce_id: [u8; 2],
    pub level: Level,
    pub qe_level: Level,
    /// FLAGS and XFRM of its quoting enclave.
    pub qe_attributes: [u8; 16],
    /// Of its PCK certificate, in the PCK CA's CRL.
    pub pck_serial: u64,
    pub pck_validity: Validity,
}

impl Platform {
    pub const FMSPC: [u8; 6] = [0x00, 0x60, 0x6a, 0x00, 0x00, 0x00];

    /// A machine with nothing wrong, told from others by its number.
    pub fn number(number: u64) -> Self {
        let mut ppid = [0; 16];
        ppid[8..].copy_from_slice(&number.to_be_bytes());
        Self {
            ppid,
            fmspc: Self::FMSPC,
            pce_id: [0; 2],
            level: Level::Current,
            qe_level: Level::Current,
            qe_attributes: QE_ATTRIBUTES,
            pck_serial: number.saturating_add(1),
            pck_validity: Validity::LONG,
        }
    }

    /// The SGX extensions of a PCK certificate (Intel SGX PCK Certificate and CRL Profile, 1.5).
    fn sgx_extensions(&self) -> Vec<u8> {
        const SGX: [u64; 7] = [1, 2, 840, 113_741, 1, 13, 1];
        let entry = |arcs: &[u64], value: &[u8]| {
            der::sequence(&[&der::oid(&[SGX.as_slice(), arcs].concat()), value])
        };
        let svn = self.level.svn();
        let mut tcb: Vec<u8> =
            (1..=16).flat_map(|arc| entry(&[2, arc], &der::integer(svn.into()))).collect();
        tcb.extend(entry(&[2, 17], &der::integer(svn.into())));
        tcb.extend(entry(&[2, 18], &der::octets(&[svn; 16])));
        der::sequence(&[
            &entry(&[1], &der::octets(&self.ppid)),
            &entry(&[2], &der::sequence(&[&tcb])),
            &entry(&[3], &der::octets(&self.pce_id)),
            &entry(&[4], &der::octets(&self.fmspc)),
            &entry(&[5], &der::enumerated(0)),
        ])
    }

    fn qe_report(&self, report_data: &[u8]) -> Vec<u8> {
        let mut report = vec![0; REPORT_BODY_BYTES];
        report[..16].fill(self.level.svn());
        report[48..64].copy_from_slice(&self.qe_attributes);
        report[64..96].copy_from_slice(Hash::of(b"simulated quoting enclave").as_bytes());
        report[128..160].copy_from_slice(&QE_MRSIGNER);
        report[256..258].copy_from_slice(&QE_ISV_PROD_ID.to_le_bytes());
        report[258..260].copy_from_slice(&u16::from(self.qe_level.svn()).to_le_bytes());
        report[320..320 + report_data.len()].copy_from_slice(report_data);
        report
    }
}

impl Authority {
    /// A DCAP quote, version 3 (Intel SGX ECDSA QuoteGenReference, appendix A), over the body of a
    /// REPORT.
    pub fn quote(
        &self,
        platform: &Platform,
        report_body: &[u8; REPORT_BODY_BYTES],
    ) -> Result<Vec<u8>, AuthorityError> {
        const INTEL_QE_VENDOR: [u8; 16] = [
            0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f,
            0x06, 0x07,
        ];
        let attestation_key = self.key_of("attestation", &platform.ppid);
        let mut quote = Vec::new();
        quote.extend_from_slice(&3u16.to_le_bytes());
        quote.extend_from_slice(&2u16.to_le_bytes()); // ECDSA P-256
        quote.extend_from_slice(&[0; 4]);
        quote.extend_from_slice(&u16::from(platform.qe_level.svn()).to_le_bytes());
        quote.extend_from_slice(&u16::from(platform.level.svn()).to_le_bytes());
        quote.extend_from_slice(&INTEL_QE_VENDOR);
        quote.extend_from_slice(&[0; 20]);
        quote.extend_from_slice(report_body);

        let signature: p256::ecdsa::Signature = attestation_key.sign(&quote);
        let point = attestation_key.verifying_key().to_sec1_point(false);
        let point = point.as_bytes().get(1..).unwrap_or_default();
        let mut signature_data = signature.to_bytes().to_vec();
        signature_data.extend_from_slice(point);
        signature_data.extend_from_slice(&self.certification(platform, point)?);
        quote.extend_from_slice(&length32(&signature_data));
        quote.extend_from_slice(&signature_data);
        Ok(quote)
    }

    /// The quoting enclave's report on the attestation key, signed by the PCK, with its chain.
    fn certification(&self, platform: &Platform, point: &[u8]) -> Result<Vec<u8>, AuthorityError> {
        let pck = self.key_of("pck", &platform.ppid);
        let authentication: Vec<u8> = (0..32).collect();
        let vouched = Sha256::new_with_prefix(point).chain_update(&authentication).finalize();
        let mut out = platform.qe_report(&vouched);
        let signature: p256::ecdsa::Signature = pck.sign(&out);
        out.extend_from_slice(&signature.to_bytes());
        out.extend_from_slice(&32u16.to_le_bytes());
        out.extend_from_slice(&authentication);

        let pck = self.pck_certificate(platform, pck.verifying_key())?;
        let chain = [pck.as_slice(), self.pck_ca_certificate(), self.root_certificate()];
        let mut chain: String = chain.map(pem).concat();
        chain.push('\0');
        out.extend_from_slice(&5u16.to_le_bytes());
        out.extend_from_slice(&length32(chain.as_bytes()));
        out.extend_from_slice(chain.as_bytes());
        Ok(out)
    }

    fn pck_certificate(
        &self,
        platform: &Platform,
        key: &p256::ecdsa::VerifyingKey,
    ) -> Result<Vec<u8>, AuthorityError> {
        const SGX_EXTENSIONS: &[u64] = &[1, 2, 840, 113_741, 1, 13, 1];
        let mut extensions = leaf_extensions();
        extensions.push(extension(SGX_EXTENSIONS, false, &platform.sgx_extensions()));
        let subject = Subject {
            name: "Simulated SGX PCK Certificate",
            key: p256_info(key),
            serial: platform.pck_serial,
            validity: platform.pck_validity,
            extensions,
        };
        Ok(self.pck_ca().certificate(&subject)?)
    }

    /// A quote with the collateral that is published at `now`.
    pub fn sgx_evidence(
        &self,
        platform: &Platform,
        report_body: &[u8; REPORT_BODY_BYTES],
        now: Time,
    ) -> Result<SgxEvidence, AuthorityError> {
        let quote = Bytes(self.quote(platform, report_body)?);
        let collateral = self.collateral(&Publication::about(platform, now))?;
        Ok(SgxEvidence { quote, collateral })
    }
}

fn length32(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

/// RFC 7468, with lines of 64 characters.
fn pem(der: &[u8]) -> String {
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in der.chunks(48) {
        out.push_str(&BASE64.encode(line));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}
