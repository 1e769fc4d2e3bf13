//! SIGSTRUCT: who signed the image, and with which attributes it may run (SDM vol. 3D, 38.13).

use rsa::{BoxedUint, Pkcs1v15Sign, PublicKey};
use sha2::{Digest, Sha256};

use super::Measurement;

pub const SIGSTRUCT_BYTES: usize = 1808;
pub(super) const KEY_BYTES: usize = 384;

const HEADER: [u8; 16] = [6, 0, 0, 0, 0xe1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0];
const HEADER_2: [u8; 16] = [1, 1, 0, 0, 0x60, 0, 0, 0, 0x60, 0, 0, 0, 1, 0, 0, 0];

const DATE: usize = 20;
const MODULUS: usize = 128;
const EXPONENT: usize = 512;
const SIGNATURE: usize = 516;
const MISC_MASK: usize = 904;
const BODY: usize = 900;
const ATTRIBUTES: usize = 928;
const ATTRIBUTES_MASK: usize = 944;
const ENCLAVE_HASH: usize = 960;
const ISV_PROD_ID: usize = 1024;
const ISV_SVN: usize = 1026;
const BODY_END: usize = 1028;
const Q1: usize = 1040;
const Q2: usize = 1424;

/// 64-bit mode; neither debug nor any key but its own. INIT is set by EINIT and not part of this.
const FLAGS: u64 = 4;
/// x87, SSE and AVX, exactly: no other state is saved, so none may be used.
const XFRM: u64 = 7;

/// A signature structure whose signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigStruct(Box<[u8; SIGSTRUCT_BYTES]>);

/// Bytes that are no SIGSTRUCT, or whose signature does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the image's signature structure is malformed, or its signature does not hold")]
pub struct SigStructError;

/// What a signer says of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signing {
    pub mrenclave: Measurement,
    pub isv_prod_id: u16,
    pub isv_svn: u16,
    /// The day of signing as YYYYMMDD in binary-coded decimal.
    pub date: u32,
}

impl Signing {
    /// The structure without signature, and the bytes to sign (RSA-3072, exponent 3, PKCS#1 v1.5,
    /// SHA-256).
    pub(super) fn unsigned(&self, modulus: &[u8; KEY_BYTES]) -> ([u8; SIGSTRUCT_BYTES], Vec<u8>) {
        let mut bytes = [0; SIGSTRUCT_BYTES];
        let mut put = |at: usize, field: &[u8]| {
            bytes.iter_mut().skip(at).zip(field).for_each(|(place, byte)| *place = *byte);
        };
        put(0, &HEADER);
        put(DATE, &self.date.to_le_bytes());
        put(24, &HEADER_2);
        put(MODULUS, modulus);
        put(EXPONENT, &3_u32.to_le_bytes());
        put(MISC_MASK, &u32::MAX.to_le_bytes());
        put(ATTRIBUTES, &FLAGS.to_le_bytes());
        put(ATTRIBUTES + 8, &XFRM.to_le_bytes());
        // INIT is not the signer's to say; all else is exactly as signed.
        put(ATTRIBUTES_MASK, &(!1_u64).to_le_bytes());
        put(ATTRIBUTES_MASK + 8, &u64::MAX.to_le_bytes());
        put(ENCLAVE_HASH, &self.mrenclave);
        put(ISV_PROD_ID, &self.isv_prod_id.to_le_bytes());
        put(ISV_SVN, &self.isv_svn.to_le_bytes());
        let signed = signed_part(&bytes);
        (bytes, signed)
    }
}

/// Puts a signature in, and the two quotients that spare the processor a division: little-endian.
pub(super) fn put_signature(
    bytes: &mut [u8; SIGSTRUCT_BYTES],
    [signature, q1, q2]: &[[u8; KEY_BYTES]; 3],
) {
    for (at, field) in [(SIGNATURE, signature), (Q1, q1), (Q2, q2)] {
        bytes.iter_mut().skip(at).zip(field).for_each(|(place, byte)| *place = *byte);
    }
}

fn signed_part(bytes: &[u8; SIGSTRUCT_BYTES]) -> Vec<u8> {
    [&bytes[..MODULUS], &bytes[BODY..BODY_END]].concat()
}

impl SigStruct {
    /// Reads and verifies.
    pub fn read(bytes: &[u8]) -> Result<Self, SigStructError> {
        let bytes: Box<[u8; SIGSTRUCT_BYTES]> =
            Box::new(bytes.try_into().map_err(|_| SigStructError)?);
        if bytes[..16] != HEADER || bytes[24..40] != HEADER_2 {
            return Err(SigStructError);
        }
        let number = |at: usize| {
            let big_endian: Vec<u8> = bytes[at..at + KEY_BYTES].iter().rev().copied().collect();
            big_endian
        };
        let modulus =
            BoxedUint::from_be_slice(&number(MODULUS), 3072).map_err(|_| SigStructError)?;
        let key = PublicKey::new(modulus, BoxedUint::from(3_u8)).map_err(|_| SigStructError)?;
        let digest = Sha256::digest(signed_part(&bytes));
        key.verify(Pkcs1v15Sign::new::<Sha256>(), &digest, &number(SIGNATURE))
            .map_err(|_| SigStructError)?;
        Ok(Self(bytes))
    }

    pub fn bytes(&self) -> &[u8; SIGSTRUCT_BYTES] {
        &self.0
    }

    /// The measurement that is signed.
    pub fn mrenclave(&self) -> Measurement {
        self.field(ENCLAVE_HASH)
    }

    /// The hash of the signer's key.
    pub fn mrsigner(&self) -> [u8; 32] {
        Sha256::digest(&self.0[MODULUS..MODULUS + KEY_BYTES]).into()
    }

    /// ATTRIBUTES of SECS: what is signed.
    pub fn attributes(&self) -> [u8; 16] {
        self.field(ATTRIBUTES)
    }

    pub fn isv_prod_id(&self) -> u16 {
        u16::from_le_bytes(self.field(ISV_PROD_ID))
    }

    pub fn isv_svn(&self) -> u16 {
        u16::from_le_bytes(self.field(ISV_SVN))
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut field = [0; N];
        field.iter_mut().zip(self.0.iter().skip(at)).for_each(|(to, from)| *to = *from);
        field
    }
}
