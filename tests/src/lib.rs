//! Drives the shipped programs through their public interfaces only.

pub mod borders;
pub mod brokerage;
pub mod guest;
pub mod image;
pub mod liar;
pub mod ovmf;
pub mod plane;
pub mod policy;
pub mod redis;

pub use borders::Borders;
pub use brokerage::Brokerage;
pub use liar::Liar;
pub use plane::{Plane, Said};
pub use redis::Redis;
