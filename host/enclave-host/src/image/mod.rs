//! The enclave image: from the linked file to the pages that are loaded and measured.
//!
//! ```text
//! 0            text (r-x) · read-only (r--) · data (rw-)       from the ELF file, measured
//! image end    heap (rw-)                                      zeros, added but not measured
//! then for each thread:
//!              64 KiB that are not there                       where a stack overflow ends
//!              stack (rw-)                                     zeros, added but not measured
//!              SSA frames (rw-), TCS                           measured
//! ELRANGE end
//! ```
//!
//! What a page is *added as* is always measured (EADD), so that no page can be left out, moved or
//! given other rights. What *stands in* heap and stack is not (no EEXTEND): the image writes there
//! before it reads, and measuring half a gigabyte of zeros at each start would buy nothing.

mod elf;
mod measure;
mod signing;
mod sigstruct;

pub use self::{
    elf::ImageError,
    measure::Measurement,
    signing::{SigningError, sign},
    sigstruct::{SIGSTRUCT_BYTES, SigStruct, SigStructError, Signing},
};

pub const PAGE_BYTES: u64 = 4096;
/// The hole below each stack.
const GUARD_BYTES: u64 = 16 * PAGE_BYTES;
/// SSA frames of one page: enough for XFRM = 7 (x87, SSE, AVX).
pub const SSA_FRAME_PAGES: u32 = 1;

/// What an enclave is made of, before it has an address.
#[derive(Debug, Clone)]
pub struct Image {
    /// Size of ELRANGE in bytes, a power of two: the enclave's base is aligned to it.
    pub elrange_bytes: u64,
    /// Ascending, without overlap; each begins and ends at a page.
    pub regions: Vec<Region>,
    /// Offsets of the TCS pages.
    pub threads: Vec<u64>,
}

/// Neighbouring pages that are alike.
#[derive(Debug, Clone)]
pub struct Region {
    pub offset: u64,
    pub bytes: u64,
    pub rights: Rights,
    pub content: Content,
}

/// Of a page, as SECINFO.FLAGS has it (SDM vol. 3D, 38.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    ReadExecute,
    Read,
    ReadWrite,
    /// A thread control structure, which no program may touch.
    Tcs,
}

impl Rights {
    /// R, W, X in bits 0 to 2; the page type in bits 8 to 15: 1 is TCS, 2 is a regular page.
    pub fn secinfo_flags(self) -> u64 {
        match self {
            Self::ReadExecute => 0x205,
            Self::Read => 0x201,
            Self::ReadWrite => 0x203,
            Self::Tcs => 0x100,
        }
    }
}

/// What stands in a region at first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// As many bytes as the region has; added and measured.
    Measured(Vec<u8>),
    /// Zeros; added, not measured.
    Zeros,
}

/// What the image says of itself in its section `.toani.layout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    elrange_bytes: u64,
    heap_bytes: u64,
    stack_bytes: u64,
    ssa_frames: u64,
    threads: u64,
}

impl Image {
    /// Reads a linked image.
    pub fn read(file: &[u8]) -> Result<Self, ImageError> {
        let (layout, mut regions) = elf::read(file)?;
        let end = regions.last().map_or(0, |last| last.offset + last.bytes);
        let mut place = Place { at: end, regions: &mut regions };
        place.add(layout.heap_bytes, Rights::ReadWrite, None);
        let mut threads = Vec::new();
        for _ in 0..layout.threads {
            place.at += GUARD_BYTES;
            place.add(layout.stack_bytes, Rights::ReadWrite, None);
            let ssa = place.at;
            let frames = layout.ssa_frames * u64::from(SSA_FRAME_PAGES) * PAGE_BYTES;
            place.add(frames, Rights::ReadWrite, Some(Vec::new()));
            threads.push(place.at);
            place.add(PAGE_BYTES, Rights::Tcs, Some(tcs(ssa, layout.ssa_frames)));
        }
        if place.at > layout.elrange_bytes {
            return Err(ImageError::Layout);
        }
        Ok(Self { elrange_bytes: layout.elrange_bytes, regions, threads })
    }
}

struct Place<'a> {
    at: u64,
    regions: &'a mut Vec<Region>,
}

impl Place<'_> {
    /// Adds a region; what its content lacks to its size is zero.
    fn add(&mut self, bytes: u64, rights: Rights, content: Option<Vec<u8>>) {
        let content = match content {
            Some(mut content) => {
                content.resize(usize::try_from(bytes).unwrap_or(usize::MAX), 0);
                Content::Measured(content)
            }
            None => Content::Zeros,
        };
        self.regions.push(Region { offset: self.at, bytes, rights, content });
        self.at += bytes;
    }
}

/// A TCS (SDM vol. 3D, 38.8). The entry is at offset 0 of the image.
fn tcs(ssa: u64, frames: u64) -> Vec<u8> {
    let mut tcs = vec![0; 4096];
    tcs[16..24].copy_from_slice(&ssa.to_le_bytes());
    let frames = u32::try_from(frames).unwrap_or(u32::MAX);
    tcs[28..32].copy_from_slice(&frames.to_le_bytes());
    // FSLIMIT and GSLIMIT, which 64-bit mode does not use.
    tcs[64..72].fill(0xff);
    tcs
}
