//! The Key Manager and Token Signer: a state machine without input or output.
//!
//! ```text
//!            bytes in                                        bytes out
//! host ──────────────▶ check(&self) ──Checked──▶ apply(&mut self) ──────────────▶ host
//!                      verifies, in parallel      decides and signs, serial and short
//! ```
//!
//! [`Enclave::check`] does what costs time and changes nothing: signatures, opening, deriving.
//! [`Enclave::apply`] decides, signs records and returns what the host has to do. What outlives a
//! boot is the fold of the enclave's own records (`state.rs`); what dies with it is `life.rs`.
//!
//! It holds no clock, no socket, no file and no randomness of its own, with one exception that is
//! written down: the PASETO library draws its nonces from `getrandom`.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;

mod actions;
mod admin;
mod approvals;
mod asked;
mod boot;
mod chain;
mod channel;
mod cut;
mod enclave;
mod finish;
mod hand_over;
mod keys;
mod life;
mod platform;
mod ready;
mod redeem;
mod refusals;
mod release;
mod root;
mod salts;
mod secret;
mod state;
mod tokens;
mod vault;

pub use enclave::{Checked, Enclave};
pub use platform::{KEYREQUEST_BYTES, Platform, REPORT_BYTES, TARGETINFO_BYTES};
pub use secret::Secret;
