//! What a stranger can hold the plane to: proof bundles, offline, under a trust file of his own.
//!
//! Nothing here reads a file or a clock, and nothing is believed that was not verified. The formats
//! are those of `toani_audit`, which the enclave writes by; this crate never links what collects a
//! log or makes a bundle.
#![cfg_attr(
    not(test),
    deny(clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod attested;
mod boots;
mod bundle;
mod disclosure;
pub mod merkle;
mod print;
mod problem;
mod receipts;
mod report;
pub mod tar;

pub use attested::{Attested, AttestedBoot, Told, Unproven, verify_guest};
pub use bundle::{Verified, verify};
pub use disclosure::{Answered, Disclosed};
pub use print::{refused_text, tcb_in_words, to_json, verified_text};
pub use problem::{BundleError, Problem};
pub use report::Report;
