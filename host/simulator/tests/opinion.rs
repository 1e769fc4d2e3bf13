//! A second opinion on the image: Fortanix's `sgxs` measures the same pages and lays out the same
//! signature structure, by code that shares nothing with ours.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use common::image;
use sgx_isa::{AttributesFlags, Miscselect, PageType, SecinfoFlags, Sigstruct};
use sgxs::{
    crypto::{Hash, SgxHashOps},
    sgxs::{CanonicalSgxsWriter, MeasECreate, SecinfoTruncated},
    sigstruct::{EnclaveHash, Signer},
};
use sha2::{Digest, Sha256};
use toani_enclave_host::image::{Content, Image, Rights, SSA_FRAME_PAGES};

/// SHA-256 for `sgxs`, which brings none that compiles.
struct Hasher(Sha256);

impl SgxHashOps for Hasher {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn finish(self) -> Hash {
        self.0.finalize().into()
    }
}

fn flags(rights: Rights) -> SecinfoFlags {
    let regular = SecinfoFlags::from(PageType::Reg);
    match rights {
        Rights::ReadExecute => regular | SecinfoFlags::R | SecinfoFlags::X,
        Rights::Read => regular | SecinfoFlags::R,
        Rights::ReadWrite => regular | SecinfoFlags::R | SecinfoFlags::W,
        Rights::Tcs => PageType::Tcs.into(),
    }
}

fn measured(image: &Image) -> [u8; 32] {
    let mut stream = Vec::new();
    let create = MeasECreate { ssaframesize: SSA_FRAME_PAGES, size: image.elrange_bytes };
    let mut writer = CanonicalSgxsWriter::new(&mut stream, create, true).unwrap();
    for region in &image.regions {
        let secinfo = SecinfoTruncated { flags: flags(region.rights) };
        let pages = usize::try_from(region.bytes / 4096).unwrap();
        let mut content = match &region.content {
            Content::Measured(bytes) => Some(bytes.as_slice()),
            Content::Zeros => None,
        };
        writer.write_pages(content.as_mut(), pages, Some(region.offset), secinfo).unwrap();
    }
    EnclaveHash::from_stream::<_, Hasher>(&mut stream.as_slice()).unwrap().hash()
}

#[test]
fn mrenclave_is_what_another_tool_computes() {
    let image = Image::read(&std::fs::read(image()).unwrap()).unwrap();
    assert_eq!(measured(&image), image.mrenclave());
    let mut other = image.clone();
    other.regions[0].rights = Rights::Read;
    assert_eq!(measured(&other), other.mrenclave(), "of any other image too");
}

/// All that the signature is over, and where: modulus, signature and quotients are another test's.
#[test]
fn a_signature_structure_is_laid_out_as_another_tool_does_it() {
    let ours = std::fs::read(image().with_extension("sig")).unwrap();
    let image = Image::read(&std::fs::read(image()).unwrap()).unwrap();
    let read = Sigstruct::try_copy_from(&ours).unwrap();
    let mut signer = Signer::new(EnclaveHash::new(image.mrenclave()));
    let day = [read.date >> 16, read.date >> 8 & 0xff, read.date & 0xff].map(decimal);
    signer
        .date(day[0], day[1].try_into().unwrap(), day[2].try_into().unwrap())
        .isvprodid(read.isvprodid)
        .isvsvn(read.isvsvn)
        .miscselect(Miscselect::default(), u32::MAX)
        .attributes_flags(AttributesFlags::MODE64BIT, !AttributesFlags::INIT.bits())
        .attributes_xfrm(7, u64::MAX);
    let mut theirs = signer.unsigned_sig();
    theirs.modulus = read.modulus;
    theirs.signature = read.signature;
    (theirs.q1, theirs.q2) = (read.q1, read.q2);
    assert_eq!(theirs.as_ref(), ours.as_slice());
}

/// Binary-coded decimal.
fn decimal(digits: u32) -> u16 {
    format!("{digits:x}").parse().unwrap()
}
