//! What a TEE shows, verified: SGX quotes and SEV-SNP reports, under roots that the caller names.
//!
//! ```text
//!   Evidence ──decode──▶ SgxEvidence ──sgx::verify(roots, policy, now)──▶ SgxVerdict
//!                        SnpEvidence ──snp::verify(roots, policy, now)──▶ SnpVerdict
//! ```
//!
//! A verdict cannot be had in another way than by its verification. Which roots are believed is an
//! argument: inside an enclave it comes from the manifest, outside from the trust file. The same
//! code verifies hardware and simulator, and knows no difference; [`roots`] alone names the
//! vendors' roots, to say afterwards what a verdict's root means.
//!
//! Evidence proves nothing about who sent it or when: that is the business of the channel, which
//! binds `report_data`. Its bytes are no identity either: certificates and documents in it may be
//! replaced by others that verify as well.
//!
//! This crate reads no clock, file or socket.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;

mod crl;
pub mod evidence;
mod key;
mod reader;
pub mod report_body;
pub mod roots;
pub mod sgx;
pub mod snp;
pub mod x509;

pub use evidence::{Evidence, SgxCollateral, SgxEvidence, SnpEvidence};
pub use report_body::ReportBody;
pub use sgx::{SgxError, SgxPolicy, SgxVerdict};
pub use snp::{SnpError, SnpPolicy, SnpVerdict};
