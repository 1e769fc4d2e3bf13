//! What a signed policy decides about a request, and the exact plan that it renders.
//!
//! Nothing here knows a clock, a key or a store. [`VerifiedPolicy`] exists only after the tenant's
//! signature and every rule of the document were checked; [`decide`] is pure and total: the same
//! policy, request, usage, situation and time give the same [`Decision`]; [`render`] turns a
//! request into the one [`Plan`](toani_protocol::plan::Plan) that is approved, hashed and run.
//!
//! ```text
//! Signed<Policy> ──verify──▶ VerifiedPolicy ──decide(request, usage, situation, now)──▶ Decision
//!                                          └──render(request, nonce)──▶ Plan
//! ```
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;

mod approval;
mod check;
mod decide;
mod quota;
mod render;
mod schema;
mod template;
mod verified;
mod webauthn;

pub use approval::answer_level;
pub use decide::{CredentialView, Decision, Granted, Situation, Usage, decide, key_level};
pub use quota::{QuotaKey, QuotaUse, Window};
pub use render::render;
pub use schema::{Schema, SchemaError};
pub use verified::{PolicyError, PolicyProblem, VerifiedPolicy};
