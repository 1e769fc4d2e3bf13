//! An attestation report (SEV-SNP firmware ABI, publication 56860, ATTESTATION_REPORT), versions 2
//! to 5.

use toani_protocol::{
    instance::{Product, TcbVersion},
    sign::Bytes,
};

use crate::reader::Reader;

/// Length of a report.
pub const REPORT_BYTES: usize = 1184;
/// What the signature is over: everything before it.
pub(super) const SIGNED_BYTES: usize = 0x2a0;

const VERSIONS: core::ops::RangeInclusive<u32> = 2..=5;
const ECDSA_P384_SHA384: u32 = 1;
/// KEY flags: bit 1 MASK_CHIP_KEY, bits 2 to 4 SIGNING_KEY, 0 for a VCEK.
const NO_VCEK: u32 = 0b11110;
/// A component of a signature: 48 bytes, little-endian, in a field of 72.
const SCALAR_BYTES: usize = 48;
const SCALAR_FIELD_BYTES: usize = 72;

/// The line that a VCEK's product name, such as `Milan-B0`, belongs to.
pub(super) fn product_of_name(name: &str) -> Option<Product> {
    match name.split_once('-').map_or(name, |(line, _stepping)| line) {
        "Milan" => Some(Product::Milan),
        "Genoa" => Some(Product::Genoa),
        "Turin" => Some(Product::Turin),
        _ => None,
    }
}

/// CPUID families: 19h up to Genoa, 1Ah from Turin on.
const fn family(product: Product) -> u8 {
    match product {
        Product::Milan | Product::Genoa => 0x19,
        Product::Turin => 0x1a,
    }
}

fn parse_tcb(bytes: [u8; 8], product: Product) -> TcbVersion {
    match product {
        Product::Milan | Product::Genoa => {
            let [boot_loader, tee, _, _, _, _, snp, microcode] = bytes;
            TcbVersion { fmc: 0, boot_loader, tee, snp, microcode }
        }
        Product::Turin => {
            let [fmc, boot_loader, tee, snp, _, _, _, microcode] = bytes;
            TcbVersion { fmc, boot_loader, tee, snp, microcode }
        }
    }
}

/// A report's fields. Having them proves nothing yet.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) signed: &'a [u8],
    pub(super) signature: p384::ecdsa::Signature,
    pub(super) guest_policy: u64,
    pub(super) vmpl: u32,
    pub(super) report_data: [u8; 64],
    pub(super) measurement: [u8; 48],
    pub(super) host_data: [u8; 32],
    pub(super) chip_id: [u8; 64],
    reported_tcb: [u8; 8],
    /// From version 3 on.
    family: Option<u8>,
}

impl<'a> Report<'a> {
    /// `None` for what is no report of a known version, signed with a VCEK that names its chip.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let version = reader.u32()?;
        reader.skip(4)?; // GUEST_SVN
        let guest_policy = reader.u64()?;
        reader.skip(32)?; // FAMILY_ID, IMAGE_ID
        let vmpl = reader.u32()?;
        let algorithm = reader.u32()?;
        reader.skip(16)?; // CURRENT_TCB, PLATFORM_INFO
        let key = reader.u32()?;
        reader.skip(4)?;
        let report_data = *reader.array()?;
        let measurement = *reader.array()?;
        let host_data = *reader.array()?;
        reader.skip(160)?; // ID_KEY_DIGEST, AUTHOR_KEY_DIGEST, REPORT_ID, REPORT_ID_MA
        let reported_tcb = *reader.array()?;
        let family = reader.u8()?;
        reader.skip(23)?;
        let chip_id = *reader.array()?;
        let (signed, signature) = bytes.split_at_checked(SIGNED_BYTES)?;
        if !VERSIONS.contains(&version) || algorithm != ECDSA_P384_SHA384 || key & NO_VCEK != 0 {
            return None;
        }
        Some(Self {
            signed,
            signature: signature_of(signature)?,
            guest_policy,
            vmpl,
            report_data,
            measurement,
            host_data,
            chip_id,
            reported_tcb,
            family: (version > 2).then_some(family),
        })
    }

    pub(super) fn reported_tcb(&self, product: Product) -> TcbVersion {
        parse_tcb(self.reported_tcb, product)
    }

    /// Whether the report, as far as it says so, is from this line of processors.
    pub(super) fn is_from(&self, product: Product) -> bool {
        self.family.is_none_or(|family| family == self::family(product))
    }
}

/// r and s; what follows them, to the end of the report, is zero.
fn signature_of(bytes: &[u8]) -> Option<p384::ecdsa::Signature> {
    let mut reader = Reader(bytes);
    let mut scalar = || {
        let mut scalar: [u8; SCALAR_BYTES] = *reader.array()?;
        scalar.reverse();
        let rest = reader.slice(SCALAR_FIELD_BYTES.checked_sub(SCALAR_BYTES)?)?;
        rest.iter().all(|byte| *byte == 0).then_some(scalar)
    };
    let (r, s) = (scalar()?, scalar()?);
    let whole = reader.0.len() == 368 && reader.0.iter().all(|byte| *byte == 0);
    whole.then(|| p384::ecdsa::Signature::from_scalars(r, s).ok())?
}

/// Whether a list of a policy names these bytes.
pub(super) fn named(list: &[Bytes], bytes: &[u8]) -> bool {
    list.iter().any(|named| named.0 == bytes)
}
