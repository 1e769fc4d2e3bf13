//! `/dev/sgx_enclave`: ECREATE, EADD with EEXTEND, EINIT, as the kernel offers them
//! (Documentation/arch/x86/sgx.rst, asm/sgx.h).

use std::{
    fs::{File, OpenOptions},
    os::fd::AsFd,
    ptr::null_mut,
};

use anyhow::{Context, Result};
use rustix::{
    ioctl::{Opcode, Updater, ioctl, opcode},
    mm::{MapFlags, ProtFlags, mmap, mmap_anonymous},
};

use crate::image::{Content, Image, Region, Rights, SSA_FRAME_PAGES, SigStruct};

const DEVICE: &str = "/dev/sgx_enclave";
const MAGIC: u8 = 0xa4;
/// `SGX_PAGE_MEASURE`: EEXTEND what is added.
const PAGE_MEASURE: u64 = 1;

/// `struct sgx_enclave_create`.
#[repr(C)]
struct Create {
    src: u64,
}

/// `struct sgx_enclave_add_pages`.
#[repr(C)]
struct AddPages {
    src: u64,
    offset: u64,
    length: u64,
    secinfo: u64,
    flags: u64,
    count: u64,
}

/// `struct sgx_enclave_init`.
#[repr(C)]
struct Init {
    sigstruct: u64,
}

const CREATE: Opcode = opcode::write::<Create>(MAGIC, 0);
const ADD_PAGES: Opcode = opcode::read_write::<AddPages>(MAGIC, 1);
const INIT: Opcode = opcode::write::<Init>(MAGIC, 2);

#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// SECINFO (SDM vol. 3D, 38.11).
#[repr(C, align(64))]
struct SecInfo {
    flags: u64,
    reserved: [u64; 7],
}

/// An enclave that EINIT has accepted. It lives as long as the process.
#[derive(Debug)]
pub(super) struct Loaded {
    /// Addresses of the TCSs.
    pub(super) threads: Vec<usize>,
    _device: File,
}

pub(super) fn load(image: &Image, signature: &SigStruct) -> Result<Loaded> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE).with_context(|| {
        format!("cannot open {DEVICE}: this machine has no SGX, its driver is off, or it is closed to this user")
    })?;
    let bytes = usize::try_from(image.elrange_bytes)?;
    // SAFETY: a new range, nowhere in particular; it is never unmapped.
    let reserved = unsafe {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        mmap_anonymous(null_mut(), bytes * 2, ProtFlags::empty(), flags)
    };
    let reserved = reserved.context("no room for the enclave's range of addresses")?;
    let base = reserved.addr().next_multiple_of(bytes);

    let secs = secs(image, base as u64, signature);
    let mut create = Create { src: address(&secs) };
    // SAFETY: the request's number and structure are the kernel's (tests/sgx_abi.rs); it reads one
    // page at `src`.
    unsafe { request::<CREATE, _>(&device, &mut create) }.context("ECREATE")?;
    for region in &image.regions {
        add(&device, region).with_context(|| format!("EADD at offset {:#x}", region.offset))?;
    }
    let mut init = Init { sigstruct: signature_page(signature) };
    // SAFETY: as above; it reads 1,808 bytes.
    unsafe { request::<INIT, _>(&device, &mut init) }
        .context("EINIT; is the image signed by a key that this machine's policy allows?")?;
    for region in &image.regions {
        let at = reserved.with_addr(base + usize::try_from(region.offset)?);
        let length = usize::try_from(region.bytes)?;
        // SAFETY: within the range reserved above, of which nothing else is made.
        unsafe {
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            mmap(at, length, protection(region.rights), flags, device.as_fd(), 0)
        }
        .with_context(|| format!("cannot map the enclave at offset {:#x}", region.offset))?;
    }
    let offsets = image.threads.iter().map(|offset| usize::try_from(*offset));
    let threads = offsets.map(|offset| Ok(base + offset?)).collect::<Result<_>>()?;
    Ok(Loaded { threads, _device: device })
}

fn protection(rights: Rights) -> ProtFlags {
    match rights {
        Rights::ReadExecute => ProtFlags::READ | ProtFlags::EXEC,
        Rights::Read => ProtFlags::READ,
        // The processor reads and writes a TCS through these.
        Rights::ReadWrite | Rights::Tcs => ProtFlags::READ | ProtFlags::WRITE,
    }
}

/// SECS (SDM vol. 3D, 38.7): what ECREATE is told.
fn secs(image: &Image, base: u64, signature: &SigStruct) -> Box<Page> {
    let mut secs = Box::new(Page([0; 4096]));
    secs.0[..8].copy_from_slice(&image.elrange_bytes.to_le_bytes());
    secs.0[8..16].copy_from_slice(&base.to_le_bytes());
    secs.0[16..20].copy_from_slice(&SSA_FRAME_PAGES.to_le_bytes());
    secs.0[48..64].copy_from_slice(&signature.attributes());
    secs
}

fn add(device: &File, region: &Region) -> Result<()> {
    let secinfo = SecInfo { flags: region.rights.secinfo_flags(), reserved: [0; 7] };
    match &region.content {
        Content::Measured(content) => {
            for (index, page) in content.as_chunks::<4096>().0.iter().enumerate() {
                let offset = region.offset + index as u64 * 4096;
                add_page(device, &Page(*page), offset, &secinfo, PAGE_MEASURE)?;
            }
        }
        Content::Zeros => {
            let zeros = Page([0; 4096]);
            for offset in (region.offset..region.offset + region.bytes).step_by(4096) {
                add_page(device, &zeros, offset, &secinfo, 0)?;
            }
        }
    }
    Ok(())
}

fn add_page(device: &File, page: &Page, offset: u64, secinfo: &SecInfo, flags: u64) -> Result<()> {
    let secinfo = address(secinfo);
    let mut add = AddPages { src: address(page), offset, length: 4096, secinfo, flags, count: 0 };
    // SAFETY: as in `load`; it reads one page and one SECINFO.
    unsafe { request::<ADD_PAGES, _>(device, &mut add) }?;
    Ok(())
}

/// # Safety
/// `OPCODE` must be the kernel's request for `structure`, and the addresses in it must hold what the
/// request reads.
unsafe fn request<const OPCODE: Opcode, T>(
    device: &File,
    structure: &mut T,
) -> rustix::io::Result<()> {
    // SAFETY: the caller's promise.
    unsafe { ioctl(device, Updater::<OPCODE, T>::new(structure)) }
}

fn address<T>(of: &T) -> u64 {
    std::ptr::from_ref(of).expose_provenance() as u64
}

/// EINIT wants the structure in one page.
fn signature_page(signature: &SigStruct) -> u64 {
    let mut page = Box::new(Page([0; 4096]));
    page.0.iter_mut().zip(signature.bytes()).for_each(|(to, from)| *to = *from);
    address(Box::leak(page))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        mem::{offset_of, size_of},
        process::{Command, Stdio},
    };

    use super::*;

    /// The kernel's own header, read by a C compiler.
    #[test]
    fn structures_and_requests_are_those_of_the_kernels_header() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("abi");
        let source = r#"
            #include <stdio.h>
            #include <stddef.h>
            #include <asm/sgx.h>
            int main(void) {
                printf("%zu %zu %zu %zu\n", sizeof(struct sgx_enclave_create),
                    sizeof(struct sgx_enclave_add_pages), sizeof(struct sgx_enclave_init),
                    sizeof(struct sgx_enclave_run));
                printf("%lu %lu %lu %d\n", (unsigned long)SGX_IOC_ENCLAVE_CREATE,
                    (unsigned long)SGX_IOC_ENCLAVE_ADD_PAGES, (unsigned long)SGX_IOC_ENCLAVE_INIT,
                    SGX_PAGE_MEASURE);
                printf("%zu %zu %zu %zu\n", offsetof(struct sgx_enclave_add_pages, offset),
                    offsetof(struct sgx_enclave_add_pages, secinfo),
                    offsetof(struct sgx_enclave_add_pages, flags),
                    offsetof(struct sgx_enclave_add_pages, count));
                printf("%zu %zu %zu\n", offsetof(struct sgx_enclave_run, function),
                    offsetof(struct sgx_enclave_run, exception_vector),
                    offsetof(struct sgx_enclave_run, user_handler));
                return 0;
            }"#;
        let mut compiler = Command::new("cc")
            .args(["-x", "c", "-", "-o"])
            .arg(&program)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        compiler.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
        assert!(compiler.wait().unwrap().success(), "the kernel's headers are missing");
        let said = String::from_utf8(Command::new(program).output().unwrap().stdout).unwrap();
        let own = [
            format!("{} {} {} 256", size_of::<Create>(), size_of::<AddPages>(), size_of::<Init>()),
            format!("{CREATE} {ADD_PAGES} {INIT} {PAGE_MEASURE}"),
            format!(
                "{} {} {} {}",
                offset_of!(AddPages, offset),
                offset_of!(AddPages, secinfo),
                offset_of!(AddPages, flags),
                offset_of!(AddPages, count)
            ),
            super::super::enter::offsets(),
        ];
        assert_eq!(said.trim().lines().collect::<Vec<_>>(), own);
    }
}
