//! What opens the commitments of an action's records, for those to whom the owner shows it.

use alloc::{boxed::Box, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{
    approval::{Evidence, Statement},
    canonical::{self, CanonicalError, Json},
    ids::{ActionId, Hash},
    plan::Plan,
    sign::Signed,
    text::names,
};

/// What was asked for, as it is kept sealed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Opens the records' commitment to the params.
    pub params_nonce: Hash,
    pub asked: Asked,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Asked {
    /// Nobody was asked to approve it.
    Directly { params: Json, plan: Box<Plan> },
    /// What people were asked to approve.
    Statement(Box<Signed<Statement>>),
}

impl Kept {
    pub fn params(&self) -> &Json {
        match &self.asked {
            Asked::Directly { params, .. } => params,
            Asked::Statement(signed) => &signed.payload.params,
        }
    }

    pub fn plan(&self) -> &Plan {
        match &self.asked {
            Asked::Directly { plan, .. } => plan,
            Asked::Statement(signed) => &signed.payload.plan,
        }
    }
}

/// What people answered, as it is kept sealed.
pub type KeptEvidence = Vec<Evidence>;

/// The hash that records carry as `hitl_proof`, over the canonical evidence.
pub fn hitl_proof(evidence: &[u8]) -> Hash {
    Hash::of_labelled("toani/v1/hitl-proof", evidence)
}

/// One action's file in a proof bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disclosure {
    pub format: DisclosureFormat,
    pub action_id: ActionId,
    pub kept: Kept,
    /// Of everybody whose answer ended the wait.
    pub evidence: Option<KeptEvidence>,
}

names! {
    DisclosureFormat { V1 = "toani-disclosure/1", }
}

impl Disclosure {
    /// Reads canonical bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, CanonicalError> {
        canonical::decode(bytes, crate::limits::DISCLOSURE_BYTES_MAX)
    }
}
