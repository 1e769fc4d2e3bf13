//! The enclave image: what is measured, and runs in SGX or byte for byte in a simulator.
//!
//! One way in: `runtime.rs` copies a call in and hands it to [`answer`]; everything that the call
//! may ask for is one exhaustive match in `toani_enclave::Enclave::check`. Nothing in these bytes
//! knows whether they run on hardware.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

mod machine;
mod runtime;

use alloc::vec::Vec;

/// Answers one encoded call. Up to as many threads at once as the image has.
fn answer(call: &[u8]) -> Vec<u8> {
    machine::the_machine().answer(call)
}
