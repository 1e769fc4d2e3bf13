//! One target for each parser of outside bytes, and what must hold of any input.

mod channel;
mod documents;
mod enclave;
mod signed;

use crate::{samples, world};

/// What must hold of these bytes; it panics where it does not.
type Check = Box<dyn FnMut(&[u8])>;

/// A parser, real samples of its input, and what must hold of any bytes.
pub struct Target {
    pub name: &'static str,
    pub samples: Vec<Vec<u8>>,
    /// How many times dearer one execution is than parsing a document: divides the executions.
    pub cost: u64,
    pub check: Check,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} samples)", self.name, self.samples.len())
    }
}

fn target(
    name: &'static str,
    cost: u64,
    samples: Vec<Vec<u8>>,
    check: impl FnMut(&[u8]) + 'static,
) -> Target {
    Target { name, samples, cost, check: Box::new(check) }
}

/// Makes a target.
pub type Make = fn() -> Target;

/// Every target by its name.
pub const ALL: &[(&str, Make)] = &[
    ("canonical", documents::canonical),
    ("action_request", documents::action_request),
    ("read_request", documents::read_request),
    ("evidence", documents::evidence),
    ("manifest", documents::manifest),
    ("trust_file", documents::trust_file),
    ("record", documents::record),
    ("policy_draft", documents::policy_draft),
    ("schema", documents::schema),
    ("frames", documents::frames),
    ("policy", signed::policy),
    ("admission_list", signed::admission_list),
    ("sealed_credential", signed::sealed_credential),
    ("checkpoint", signed::checkpoint),
    ("bundle", signed::bundle),
    ("peer_certificate", channel::peer_certificate),
    ("first_flight", channel::first_flight),
    ("call", enclave::call),
    ("token", enclave::token),
    ("webauthn", enclave::webauthn),
    ("sealed_outcome", enclave::sealed_outcome),
    ("log", enclave::log),
];
