//! The one system call by which the kernel's driver of SEV-SNP guests is asked: the Linux interface
//! `linux/sev-guest.h`. What goes in and what came out is `sev_guest`'s business.
#![allow(unsafe_code, reason = "an ioctl with addresses in its argument has no safe interface")]

use std::{fs::File, io};

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::sev_guest::{ADDRESS, Call, Exchange, Firmware, MESSAGE_VERSION};

/// `struct snp_guest_request_ioctl`.
#[repr(C)]
struct GuestRequest {
    message_version: u8,
    request: u64,
    response: u64,
    exit_info: u64,
}

const REPORT: Opcode = opcode::read_write::<GuestRequest>(b'S', 0);
const EXTENDED_REPORT: Opcode = opcode::read_write::<GuestRequest>(b'S', 2);

// As the header has them for x86-64.
const _: () = assert!(size_of::<GuestRequest>() == 32);
const _: () = assert!(REPORT == 0xc020_5300 && EXTENDED_REPORT == 0xc020_5302);

/// `/dev/sev-guest`.
impl Firmware for File {
    fn call(&self, call: Call, exchange: &mut Exchange) -> io::Result<()> {
        if !exchange.is_whole() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let table = exchange.table.as_mut_ptr().expose_provenance() as u64;
        exchange.request[ADDRESS].copy_from_slice(&table.to_le_bytes());
        let mut request = GuestRequest {
            message_version: MESSAGE_VERSION,
            request: exchange.request.as_mut_ptr().expose_provenance() as u64,
            response: exchange.response.as_mut_ptr().expose_provenance() as u64,
            exit_info: 0,
        };
        // SAFETY: both calls take this structure, and its addresses stay valid over the call. The
        // kernel writes no more than 4,000 bytes to `response`, back to `request` no more than the
        // extended request, whose size it has, and to the table no more than the length in the
        // request: that they are so long was asked above.
        let done = unsafe {
            match call {
                Call::Report => ioctl(self, Updater::<REPORT, _>::new(&mut request)),
                Call::Extended => ioctl(self, Updater::<EXTENDED_REPORT, _>::new(&mut request)),
            }
        };
        exchange.exit_info = request.exit_info;
        Ok(done?)
    }
}
