//! The channel between two attested sides: RA-TLS as a byte pump, and the cryptography under it.
//!
//! It does no input or output. Bytes from the peer go in, bytes for the peer come out, and a state
//! that says by its type what may be done next:
//!
//! ```text
//!  Endpoint::start -> Handshake --- TLS 1.3, both sides with a certificate
//!                        |          stage 1: PeerCheck::certificate
//!                        v
//!                     Binding <---------.   stage 2: nonces, fresh evidence over this connection,
//!                        |              |   PeerCheck::channel, and each side's word that it
//!                        v              |   has verified the other
//!                     Channel ----------'   messages; reattest
//! ```
//!
//! Evidence in a certificate alone proves that the key was made inside; a quote of another time
//! can stand beside it, and whoever relays a handshake relays its evidence too. The second stage
//! ends that: its evidence names role, both keys, both nonces and the exporter of this connection.
//!
//! Whether evidence is good is not decided here: the caller brings a [`PeerCheck`]. Nor is evidence
//! made here: [`Next::NeedEvidence`] says over what, [`Binding::evidence`] takes it.
//!
//! rustls updates a traffic key before it has sealed more records than it may; the peer's updates
//! are followed. An error ends the connection, for good: it takes the state along.
//!
//! Plaintext is wiped where this crate has it, and messages wipe themselves. rustls copies each
//! received record once into memory that it frees without wiping, so a program that links this
//! needs an allocator that wipes what is freed.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;

mod binding;
mod certificate;
mod channel;
mod der;
mod endpoint;
mod error;
mod exporter;
mod frame;
mod provider;
mod pump;
mod verifier;

pub use binding::Binding;
pub use certificate::{Certificate, ChannelKey, PeerCertificate};
pub use channel::{Channel, Handshake, Message, Next, Step};
pub use endpoint::Endpoint;
pub use error::{CertificateError, ChannelError, Failure, Refused};
pub use provider::provider;
pub use verifier::PeerCheck;
