//! What runs inside the container: it executes one plan with one credential, and ends.
//!
//! The program says on descriptor 1 that it waits, reads one frame from descriptor 0, reaches the world through descriptor 3 alone
//! (the door, a connected Unix stream that opens to the plan's endpoint), and writes one frame to
//! descriptor 1. It has no files, no threads, no runtime and no parser of its own: TLS is rustls,
//! HTTP is hyper, certificates are webpki's and x509-cert's.
//!
//! One file a connector; [`direct_api`] is the only one so far.

pub mod confinement;
pub mod direct_api;
pub mod door;
pub mod frame;
pub mod inherited;
pub mod rehearsal;
pub mod session;
pub mod tls;
