//! What agents send.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::{
    canonical::{self, CanonicalError, Json},
    ids::{ActionName, AgentId, BootId, Hash, ServiceId, TenantId, Time, UserId},
    limits::REQUEST_BYTES_MAX,
    sign::Signature,
};

/// An agent asks for an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionRequest {
    pub instance: Hash,
    pub boot: BootId,
    pub tenant: TenantId,
    pub agent: AgentId,
    /// Whom the agent claims to act for.
    pub user: UserId,
    pub service: ServiceId,
    pub action: ActionName,
    pub params: Json,
    /// 1 to 128 visible ASCII characters; remembered for 24 hours.
    pub idempotency_key: String,
    pub issued_at: Time,
    pub expires_at: Time,
}

impl ActionRequest {
    /// Reads canonical bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, CanonicalError> {
        let request: Self = canonical::decode(bytes, REQUEST_BYTES_MAX)?;
        let key = &request.idempotency_key;
        let visible = key.bytes().all(|b| b.is_ascii_graphic());
        if key.is_empty() || key.len() > 128 || !visible || !request.params.0.is_object() {
            return Err(CanonicalError::Malformed);
        }
        Ok(request)
    }

    /// Hash of what the agent wants, without when and in which boot it said so: the same
    /// idempotency key must come with the same intent.
    pub fn intent(&self) -> Result<Hash, CanonicalError> {
        let what = (&self.user, &self.service, &self.action, &self.params);
        Ok(Hash::of_labelled("toani/v1/intent", &canonical::encode(&what)?))
    }
}

/// A signing agent asks for what is its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadRequest {
    pub instance: Hash,
    pub boot: BootId,
    pub tenant: TenantId,
    pub agent: AgentId,
    /// An action id or an execution id.
    pub id: String,
    pub issued_at: Time,
    pub expires_at: Time,
}

impl ReadRequest {
    /// Reads canonical bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, CanonicalError> {
        canonical::decode(bytes, REQUEST_BYTES_MAX)
    }
}

/// How the agent proves that a request is its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum AgentProof {
    /// Over the canonical request.
    Signature(Signature),
    /// The key itself, as the gateway found it in the header.
    ApiKey(String),
}
