//! A simulated TEE: what SGX and SEV-SNP hardware and its vendors would show, under a test root.
//!
//! ```text
//!   Authority ──quote(Platform, report body)──▶ DCAP quote ─┐
//!      │ ──collateral(Publication)──▶ what Intel publishes ──┴─▶ SgxEvidence
//!      └──snp_evidence(Chip, Guest, SnpRevocations)──▶ SnpEvidence
//! ```
//!
//! The formats are the real ones and whole, so that a verifier has one path for both; nothing but
//! the root tells them apart. What should be refused (a debug enclave, a revoked platform, an old
//! TCB) is described to the simulator as a fact of the platform, and honestly signed.
//!
//! Whoever reads the authority's folder can make evidence for anything.

mod authority;
mod certificate;
mod collateral;
mod der;
mod folder;
pub mod machine;
mod processor;
mod quote;
mod snp;

pub use authority::{Authority, AuthorityError, PCK_CA_SERIAL, TCB_SIGNER_SERIAL};
pub use certificate::Validity;
pub use collateral::Publication;
pub use processor::{EgetkeyError, Identity, Processor};
pub use quote::{Level, Platform};
pub use snp::{ASK_SERIAL, Chip, Guest, SnpRevocations};
