//! Drives the shipped programs through their public interfaces only.

pub mod borders;
pub mod brokerage;
pub mod plane;
pub mod policy;

pub use borders::Borders;
pub use brokerage::Brokerage;
pub use plane::{Plane, Said};
