//! What goes over the wire in JSON, where it is not a document of toani-protocol.

use serde::{Deserialize, Serialize};
use toani_protocol::{
    ActionId, Reason,
    wire::{ActionState, ActionStatus, ApprovalStatus},
};
use utoipa::{IntoParams, ToSchema};

/// A refusal (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemView {
    pub(crate) r#type: String,
    pub(crate) title: String,
    pub(crate) status: u16,
    /// Stable.
    pub(crate) code: String,
    /// What it means and what to do.
    pub(crate) detail: String,
}

/// What an agent asks for. A signing agent sends it canonical within [`Signed`]; an agent with an
/// API key may leave out `instance`, `boot`, `user`, `idempotency_key` and the times.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ActionRequest)]
#[allow(dead_code, reason = "describes; canonical::parse reads")]
pub(crate) struct RequestView {
    pub(crate) instance: Option<String>,
    pub(crate) boot: Option<String>,
    pub(crate) tenant: String,
    pub(crate) agent: String,
    pub(crate) user: Option<String>,
    pub(crate) service: String,
    pub(crate) action: String,
    #[schema(value_type = Object)]
    pub(crate) params: serde_json::Value,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) issued_at: Option<String>,
    pub(crate) expires_at: Option<String>,
}

/// A request with its agent's Ed25519 signature, in base64url, over label and canonical request.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = SignedRequest)]
#[allow(dead_code, reason = "describes; canonical::parse reads")]
pub(crate) struct SignedView {
    pub(crate) request: RequestView,
    /// Left out by an agent with an API key.
    pub(crate) signature: Option<String>,
}

/// A redemption: the same request, and the token where the action's tier asks for one.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ExecutionRequest)]
#[allow(dead_code, reason = "describes; canonical::parse reads")]
pub(crate) struct ExecutionRequestView {
    pub(crate) token: Option<String>,
    pub(crate) request: RequestView,
    pub(crate) signature: Option<String>,
}

/// What became of an action.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Action)]
pub(crate) struct ActionView {
    pub(crate) action_id: String,
    /// `token`, `pending`, `denied`, `executed`, or `ended` with the boot.
    pub(crate) state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<String>,
    /// Persons who approved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) approved: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) threshold: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) execution_id: Option<String>,
}

impl ActionView {
    pub(crate) fn new(action: &ActionId, state: &'static str) -> Self {
        Self {
            action_id: action.to_string(),
            state,
            token: None,
            expires_at: None,
            approved: None,
            threshold: None,
            reason: None,
            detail: None,
            execution_id: None,
        }
    }

    /// An action that came to nothing.
    pub(crate) fn over(action: &ActionId, state: &'static str, reason: Reason) -> Self {
        let (code, sentence) = (Some(reason.code()), Some(reason.sentence()));
        Self { reason: code, detail: sentence, ..Self::new(action, state) }
    }
}

impl From<ActionStatus> for ActionView {
    fn from(status: ActionStatus) -> Self {
        let view = Self::new(&status.action, "token");
        match status.state {
            ActionState::Token { token, expires } => {
                Self { token: Some(token), expires_at: Some(expires.to_string()), ..view }
            }
            ActionState::Pending { approved, threshold, expires } => Self {
                state: "pending",
                approved: Some(approved),
                threshold: Some(threshold),
                expires_at: Some(expires.to_string()),
                ..view
            },
            ActionState::Denied { reason } => Self::over(&status.action, "denied", reason),
            ActionState::Executed { execution } => {
                Self { state: "executed", execution_id: Some(execution.to_string()), ..view }
            }
        }
    }
}

/// An execution whose result is told elsewhere, or that runs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExecutionSummary)]
pub(crate) struct ExecutionView {
    pub(crate) action_id: Option<String>,
    pub(crate) execution_id: String,
    /// `running`, or how it ended.
    pub(crate) outcome: String,
}

/// What an approver's answer led to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Approval)]
pub(crate) struct ApprovalView {
    /// `counted`, `approved` or `denied`.
    pub(crate) status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) approved: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) threshold: Option<u8>,
}

impl From<ApprovalStatus> for ApprovalView {
    fn from(status: ApprovalStatus) -> Self {
        let (status, counts) = match status {
            ApprovalStatus::Counted { approved, threshold } => {
                ("counted", Some((approved, threshold)))
            }
            ApprovalStatus::Approved => ("approved", None),
            ApprovalStatus::Denied => ("denied", None),
        };
        Self {
            status,
            approved: counts.map(|(approved, _)| approved),
            threshold: counts.map(|(_, threshold)| threshold),
        }
    }
}

/// Whose API key it is that reads; a signing agent says so in its signed ReadRequest instead.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Who {
    pub(crate) tenant: Option<String>,
    pub(crate) agent: Option<String>,
}

/// A tenant's things.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OfTenant {
    pub(crate) tenant: String,
}

/// Which records.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct RecordsQuery {
    /// The first index; with a tenant, the tenant's first sequence.
    #[serde(default)]
    pub(crate) from: u64,
    /// At most 1000.
    pub(crate) limit: Option<u16>,
    pub(crate) tenant: Option<String>,
}

/// Which proof: of the inclusion of `index`, or of consistency with the size `old`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ProofQuery {
    pub(crate) index: Option<u64>,
    pub(crate) old: Option<u64>,
    /// Of the tree; without it, that of the latest checkpoint.
    pub(crate) size: Option<u64>,
}

/// A proof, and the checkpoint that it leads to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Proof)]
pub(crate) struct ProofView {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) old: Option<u64>,
    pub(crate) size: u64,
    /// RFC 6962, as `sha256:HEX`.
    pub(crate) hashes: Vec<String>,
    pub(crate) root: String,
    pub(crate) checkpoint: Option<String>,
}

/// What the instance says about itself.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Instance)]
pub(crate) struct InstanceView {
    #[schema(value_type = Object)]
    pub(crate) manifest: serde_json::Value,
    pub(crate) instance: String,
    pub(crate) boot: String,
    pub(crate) mrenclave: String,
    /// `simulator` or `sgx`, by the root of the evidence. Whoever does not verify the evidence has
    /// the plane's word for it.
    #[schema(value_type = String)]
    pub(crate) tee: toani_protocol::assurance::Tee,
    /// This boot's evidence, quote and collateral: a `toani-evidence/1`. The SHA-256 of its canonical
    /// form is the `evidence` of records and receipts. It vouches for manifest, boot, `chain_key` and
    /// `intake_key`.
    #[schema(value_type = Object)]
    pub(crate) evidence: serde_json::Value,
    pub(crate) chain_key: String,
    /// Base64url, X25519: credentials are sealed to it.
    pub(crate) intake_key: String,
    /// SHA-256 of the SubjectPublicKeyInfo of the key for channels to supervisors. The evidence
    /// vouches for it, with the two keys before.
    pub(crate) channel: String,
    pub(crate) log_origin: String,
    pub(crate) admission: String,
    pub(crate) admission_version: u64,
    /// How often the instance was handed over.
    pub(crate) hand_overs: u64,
    #[schema(value_type = Option<String>)]
    pub(crate) sandbox: Option<toani_protocol::assurance::SandboxLevel>,
    /// Records signed, and of these durable.
    pub(crate) size: u64,
    pub(crate) durable: u64,
    pub(crate) open_executions: u64,
    pub(crate) pending_actions: u64,
}
