//! A DCAP quote, version 3 (Intel SGX ECDSA QuoteGenReference, appendix A), read strictly.

use alloc::vec::Vec;

use data_encoding::BASE64;

use crate::{
    reader::Reader,
    report_body::{REPORT_BODY_BYTES, ReportBody},
};

const VERSION: u16 = 3;
const ATTESTATION_KEY_ECDSA_P256: u16 = 2;
/// 939a7233-f79c-4ca9-940a-0db3957f0607: Intel's quoting enclave.
const INTEL_QE_VENDOR: [u8; 16] = [
    0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07,
];
const PCK_CERTIFICATE_CHAIN: u16 = 5;
const HEADER_BYTES: usize = 48;
const QE_AUTHENTICATION_BYTES_MAX: usize = 1024;
const PCK_CHAIN_BYTES_MAX: usize = 16 * 1024;

/// A quote's parts. Having one proves nothing yet.
#[derive(Debug)]
pub(super) struct Quote<'a> {
    /// Header and report body: what the attestation key signs.
    pub(super) signed: &'a [u8],
    pub(super) body: ReportBody,
    pub(super) signature: &'a [u8; 64],
    pub(super) attestation_key: &'a [u8; 64],
    /// What the PCK signs.
    pub(super) qe_report: &'a [u8; REPORT_BODY_BYTES],
    pub(super) qe_body: ReportBody,
    pub(super) qe_signature: &'a [u8; 64],
    pub(super) qe_authentication: &'a [u8],
    /// DER: leaf, CA, root.
    pub(super) pck_chain: [Vec<u8>; 3],
}

impl<'a> Quote<'a> {
    /// `None` for whatever is not exactly one quote of version 3 by Intel's quoting enclave.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let header = reader.slice(HEADER_BYTES)?;
        check_header(header)?;
        let body = ReportBody::parse(reader.slice(REPORT_BODY_BYTES)?)?;
        let signed = bytes.get(..HEADER_BYTES.checked_add(REPORT_BODY_BYTES)?)?;

        let length = usize::try_from(reader.u32()?).ok()?;
        if length != reader.0.len() {
            return None;
        }
        let signature = reader.array()?;
        let attestation_key = reader.array()?;
        let qe_report = reader.array()?;
        let qe_signature = reader.array()?;
        let length = usize::from(reader.u16()?);
        if length > QE_AUTHENTICATION_BYTES_MAX {
            return None;
        }
        let qe_authentication = reader.slice(length)?;
        if reader.u16()? != PCK_CERTIFICATE_CHAIN {
            return None;
        }
        let length = usize::try_from(reader.u32()?).ok()?;
        if length > PCK_CHAIN_BYTES_MAX {
            return None;
        }
        let pck_chain = chain_of_pem(reader.slice(length)?)?;
        reader.end()?;
        let qe_body = ReportBody::parse(qe_report)?;
        Some(Self {
            signed,
            body,
            signature,
            attestation_key,
            qe_report,
            qe_body,
            qe_signature,
            qe_authentication,
            pck_chain,
        })
    }
}

fn check_header(bytes: &[u8]) -> Option<()> {
    let mut reader = Reader(bytes);
    let version = reader.u16()?;
    let key_type = reader.u16()?;
    let reserved = reader.u32()?;
    reader.skip(4)?; // QE SVN and PCE SVN: the QE's word; the PCK certificate and QE report decide
    let vendor = *reader.array()?;
    let known = (VERSION, ATTESTATION_KEY_ECDSA_P256, 0, INTEL_QE_VENDOR);
    ((version, key_type, reserved, vendor) == known).then_some(())
}

/// Exactly three certificates in PEM (RFC 7468). Intel ends them with a zero byte.
fn chain_of_pem(bytes: &[u8]) -> Option<[Vec<u8>; 3]> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----\n";
    const END: &str = "\n-----END CERTIFICATE-----";
    let mut text = core::str::from_utf8(bytes).ok()?;
    text = text.strip_suffix('\0').unwrap_or(text);
    let mut next = || {
        let (base64, rest) = text.strip_prefix(BEGIN)?.split_once(END)?;
        text = rest.strip_prefix('\n').unwrap_or(rest);
        let base64: Vec<u8> = base64.bytes().filter(|byte| *byte != b'\n').collect();
        BASE64.decode(&base64).ok()
    };
    let chain = [next()?, next()?, next()?];
    text.is_empty().then_some(chain)
}
