//! The image's pages in this process, with the rights that they have in an enclave.

use std::ptr::null_mut;

use anyhow::{Context, Result};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect};
use toani_enclave_host::image::{Content, Image, Rights};

/// The pages of ELRANGE: at an address that is aligned to its size, holes without any right.
#[derive(Debug)]
pub(super) struct Mapping {
    base: usize,
    bytes: usize,
}

impl Mapping {
    pub(super) fn new(image: &Image) -> Result<Self> {
        let bytes = usize::try_from(image.elrange_bytes)?;
        // SAFETY: a new range, nowhere in particular; it is never unmapped.
        let reserved = unsafe {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            mmap_anonymous(null_mut(), bytes * 2, ProtFlags::empty(), flags)
        };
        let reserved = reserved.context("no room for the enclave's range of addresses")?;
        let base = reserved.addr().next_multiple_of(bytes);
        let start = reserved.with_addr(base);
        for region in &image.regions {
            let at = start.wrapping_byte_add(usize::try_from(region.offset)?);
            let length = usize::try_from(region.bytes)?;
            let writable = MprotectFlags::READ | MprotectFlags::WRITE;
            // SAFETY: the region lies in the range (`Image::read` saw to that), which is ours.
            unsafe { mprotect(at, length, writable) }?;
            if let Content::Measured(content) = &region.content {
                // SAFETY: writable, as long as the region, and not yet referred to by anything.
                unsafe {
                    std::ptr::copy_nonoverlapping(content.as_ptr(), at.cast::<u8>(), content.len());
                }
            }
            let rights = match region.rights {
                Rights::ReadExecute => MprotectFlags::READ | MprotectFlags::EXEC,
                Rights::Read => MprotectFlags::READ,
                Rights::ReadWrite => writable,
                Rights::Tcs => MprotectFlags::empty(),
            };
            // SAFETY: as above.
            unsafe { mprotect(at, length, rights) }?;
        }
        // SAFETY: advice about a range of ours; its content stays as it is in this process.
        unsafe { madvise(start, bytes, Advice::LinuxDontDump) }?;
        // SAFETY: as above.
        unsafe { madvise(start, bytes, Advice::LinuxDontFork) }?;
        Ok(Self { base, bytes })
    }

    pub(super) fn base(&self) -> usize {
        self.base
    }

    pub(super) fn holds(&self, address: usize, bytes: usize) -> bool {
        let end = address.checked_add(bytes);
        address >= self.base && end.is_some_and(|end| end <= self.base + self.bytes)
    }
}
