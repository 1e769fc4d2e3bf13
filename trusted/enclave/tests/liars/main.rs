//! Who lies, and what meets him: each test attacks the real state machine as one liar would.
//!
//! docs/THREAT-MODEL.md names these tests.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod agent;
mod approver;
mod attestation;
mod canary;
mod channel;
mod disclosure;
mod floods;
mod fold;
mod hand_over;
mod host;
mod labels;
mod log;
mod owner;
mod pending;
mod phases;
mod quotas;
mod races;
mod salts;
mod sandbox;
#[path = "../world/mod.rs"]
mod world;
