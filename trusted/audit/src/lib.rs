//! The audit log's mathematics: continuing it and verifying it, without input or output.
//!
//! The enclave signs records ([`toani_protocol::record`]). They form a chain ([`chain`]) and are
//! the leaves of a Merkle tree ([`tree`]), whose root the enclave signs as a C2SP checkpoint
//! ([`checkpoint`]). A proof bundle ([`bundle`]) is one file with the records of a tenant and all
//! that a stranger needs to verify them against a trust file of his own.
//!
//! This crate reads no file and no clock, and it believes nothing that it did not verify. It does
//! not store the log or collect proofs and bundles either: host/audit-log does, and it is not
//! believed.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod bundle;
pub mod chain;
pub mod checkpoint;
pub mod tree;
