//! Everything that toani signs, hashes or sends: types, canonical bytes, limits.
//!
//! This crate decides nothing and does no input or output. It says what a manifest, a policy, a
//! request, a plan, a statement, a token, a receipt and a record *are*, down to the byte, so that
//! the enclave, the host and a stranger's verifier mean the same thing by the same bytes.
//!
//! * Public and signed documents are JSON in the canonical form of RFC 8785 ([`canonical`]); every
//!   signature is over a [`sign::Label`], a zero byte and those bytes.
//! * Messages between host and enclave ([`wire`]) and between enclave, supervisor and connector
//!   ([`job`]) are postcard; they are never stored.
//!
//! docs/PROTOCOL.md describes the same bytes for other languages.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;

pub mod approval;
pub mod assurance;
pub mod canonical;
pub mod credential;
pub mod disclosure;
pub mod evidence;
pub mod hand_over;
pub mod ids;
pub mod instance;
pub mod job;
pub mod limits;
pub mod plan;
pub mod policy;
pub mod reason;
pub mod record;
pub mod request;
pub mod sign;
mod text;
pub mod token;
pub mod trust;
pub mod wire;

pub use ids::{
    ActionId, ActionName, AgentId, BootId, CredentialId, ExecutionId, Hash, Namespace, PersonId,
    PolicyId, QuotaId, ServiceId, TenantId, Time, UserId,
};
pub use reason::Reason;
