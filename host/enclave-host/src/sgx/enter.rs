//! `__vdso_sgx_enter_enclave`: EENTER, and what comes back (asm/sgx.h, `struct sgx_enclave_run`).

use std::ffi::CStr;

use anyhow::{Context, Result};

use crate::runner::CallFrame;

const VDSO: &CStr = c"linux-vdso.so.1";
const SYMBOL: &CStr = c"__vdso_sgx_enter_enclave";

const EENTER: u32 = 2;
const EEXIT: u32 = 4;

/// `struct sgx_enclave_run`.
#[repr(C)]
struct Run {
    tcs: u64,
    function: u32,
    exception_vector: u16,
    exception_error_code: u16,
    exception_addr: u64,
    user_handler: u64,
    user_data: u64,
    reserved: [u8; 216],
}

/// `vdso_sgx_enter_enclave_t`: RDI, RSI and RDX as the enclave gets them; function; R8 and R9.
type Function = unsafe extern "C" fn(u64, u64, u64, u32, u64, u64, *mut Run) -> i32;

/// The kernel's way in.
#[derive(Debug, Clone, Copy)]
pub(super) struct EnterEnclave(Function);

/// The enclave did not leave by EEXIT: it is dead, or the kernel refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the enclave left by {function} with result {result}: vector {vector}, error {code}, at {at:#x}"
)]
pub(super) struct Fault {
    result: i32,
    function: u32,
    vector: u16,
    code: u16,
    at: u64,
}

impl EnterEnclave {
    /// Finds the function in the vDSO that every process has.
    pub(super) fn of_vdso() -> Result<Self> {
        // SAFETY: names of a loaded library and of a symbol; nothing is run.
        let symbol = unsafe {
            let vdso = libc::dlopen(VDSO.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_LAZY);
            libc::dlsym(vdso, SYMBOL.as_ptr())
        };
        let symbol = std::ptr::NonNull::new(symbol).context(
            "this kernel has no __vdso_sgx_enter_enclave; SGX needs Linux 5.11 or newer",
        )?;
        // SAFETY: the kernel's symbol of this name has this type (asm/sgx.h).
        Ok(Self(unsafe { std::mem::transmute::<*mut libc::c_void, Function>(symbol.as_ptr()) }))
    }

    /// One entry. R9 = 0: the image leaves by EEXIT.
    pub(super) fn enter(self, tcs: usize, frame: &mut CallFrame) -> Result<(), Fault> {
        let mut run = Run {
            tcs: tcs as u64,
            function: 0,
            exception_vector: 0,
            exception_error_code: 0,
            exception_addr: 0,
            user_handler: 0,
            user_data: 0,
            reserved: [0; 216],
        };
        let call = std::ptr::from_mut(frame).expose_provenance() as u64;
        // SAFETY: the TCS is one of a loaded enclave; the image writes to the frame and to the
        // exchange behind it, both borrowed mutably for this call.
        let result = unsafe { (self.0)(call, 0, 0, EENTER, 0, 0, &raw mut run) };
        if result == 0 && run.function == EEXIT {
            return Ok(());
        }
        Err(Fault {
            result,
            function: run.function,
            vector: run.exception_vector,
            code: run.exception_error_code,
            at: run.exception_addr,
        })
    }
}

/// For the comparison with the kernel's header.
#[cfg(test)]
pub(super) fn offsets() -> String {
    use std::mem::offset_of;
    assert_eq!(size_of::<Run>(), 256);
    format!(
        "{} {} {}",
        offset_of!(Run, function),
        offset_of!(Run, exception_vector),
        offset_of!(Run, user_handler)
    )
}
