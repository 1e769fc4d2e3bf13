//! SGX evidence, genuine and simulated, through the one verifier.
#![allow(clippy::unwrap_used, reason = "a test says so by panicking")]

mod bits;
mod verify;
mod world;
