//! Receipts and audit records.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{
    assurance::Assurance,
    canonical::{self, CanonicalError, Json},
    ids::{
        ActionId, ActionName, AgentId, BootId, CredentialId, ExecutionId, Hash, PolicyId,
        ServiceId, TenantId, Time, UserId,
    },
    limits::RECORD_BYTES_MAX,
    policy::Tier,
    reason::Reason,
    sign::{Bytes, Label, PublicKey, Signature, SignatureError, Signed},
    text::names,
};

/// One version of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRef {
    pub id: PolicyId,
    pub version: u64,
    pub hash: Hash,
}

/// One version of a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialRef {
    pub owner: PublicKey,
    pub id: CredentialId,
    pub version: u64,
}

/// One connection of an execution, as the supervisor's door counted it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    pub host: String,
    pub port: u16,
    /// Through the door, encryption included.
    pub bytes_out: u64,
    pub bytes_in: u64,
}

names! {
    /// How an execution ended.
    Outcome {
        /// The upstream answered as the policy expects, and the result went out.
        Succeeded = "succeeded",
        /// The upstream answered otherwise.
        UpstreamRefused = "upstream_refused",
        /// The upstream's answer lacked what the policy requires, or was too large or no JSON.
        ResponseUnusable = "response_unusable",
        /// The answer held the credential and was withheld.
        SecretSeen = "secret_seen",
        /// The upstream redirected; redirects are not followed.
        Redirected = "redirected",
        /// The upstream's certificate is not what the policy trusts.
        TlsRefused = "tls_refused",
        /// The upstream's name has no address that may be connected to.
        AddressRefused = "address_refused",
        /// Nothing was connected.
        Unreachable = "unreachable",
        /// The time was up after something was connected.
        TimedOut = "timed_out",
        /// The connector died or answered garbage.
        ConnectorFailed = "connector_failed",
        /// The execution was given up before a job was released.
        Aborted = "aborted",
        /// What happened is not known; the upstream may have acted. Never retried by itself.
        Unknown = "unknown",
    }
}

/// What the agent keeps: signed by the enclave, verifiable offline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    pub format: ReceiptFormat,
    pub instance: Hash,
    pub boot: BootId,
    pub action_id: ActionId,
    pub execution_id: ExecutionId,
    pub tenant: TenantId,
    pub agent: AgentId,
    pub user: UserId,
    pub service: ServiceId,
    pub action: ActionName,
    pub params_hash: Hash,
    /// Opens the commitment `params_hash`.
    pub params_nonce: Hash,
    pub plan_hash: Hash,
    pub policy: PolicyRef,
    pub credential: Option<CredentialRef>,
    pub tier: Tier,
    pub hitl_proof: Option<Hash>,
    pub jti_hash: Hash,
    pub outcome: Outcome,
    pub upstream_status: Option<u16>,
    /// SHA-256 of the canonical result, if one went out.
    pub result_hash: Option<Hash>,
    pub assurance: Assurance,
    pub admission: Hash,
    pub tee_mrenclave: Hash,
    /// SHA-256 of the boot's evidence, which proves measurement and chain key.
    pub evidence: Hash,
    pub sandbox: Hash,
    /// The root file system that its container ran, by the admission list.
    pub root_file_system: Hash,
    /// None: left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connections: Vec<Connection>,
    /// Index of the record `started`.
    pub started: u64,
    pub started_at: Time,
    pub finished_at: Time,
}

names! {
    ReceiptFormat { V1 = "toani-receipt/1", }
}

impl Receipt {
    /// The hash that the record `finished` carries: over the canonical signed receipt.
    pub fn hash_of(signed_bytes: &[u8]) -> Hash {
        Hash::of_labelled(Label::Receipt.as_str(), signed_bytes)
    }
}

/// What the agent gets when an execution has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutionResult {
    pub action_id: ActionId,
    pub execution_id: ExecutionId,
    pub outcome: Outcome,
    pub upstream_status: Option<u16>,
    /// What the policy lets out of the upstream's answer.
    pub result: Option<Json>,
    pub receipt: Signed<Receipt>,
}

names! {
    /// What a record tells of.
    RecordKind {
        /// The instance was born. Always index 0.
        Birth = "birth",
        /// The enclave began a life.
        Boot = "boot",
        /// The root was given away. Nothing follows but another boot: the one that has taken it, or
        /// the one that gives it again.
        HandedOver = "handed_over",
        /// An admission list was activated.
        Admission = "admission",
        /// A sandbox was connected.
        Sandbox = "sandbox",
        PolicyActivated = "policy_activated",
        PolicyRevoked = "policy_revoked",
        PolicyKeyChanged = "policy_key_changed",
        CredentialSealed = "credential_sealed",
        CredentialRevoked = "credential_revoked",
        AgentRevoked = "agent_revoked",
        TokenRevoked = "token_revoked",
        /// The tenant's salts of this day and all before are forgotten.
        Forgotten = "forgotten",
        /// An action was allowed without a human; a token was issued.
        Allowed = "allowed",
        /// An action waits for approval.
        Waiting = "waiting",
        /// One person approved; more are needed.
        Endorsed = "endorsed",
        /// Enough persons approved; a token was issued.
        Approved = "approved",
        /// A person denied, or nobody approved in time.
        Denied = "denied",
        /// A token was redeemed and the job may be released once this is durable.
        Started = "started",
        Finished = "finished",
        /// A pending approval or an open execution that the boot before left behind.
        Ended = "ended",
        /// One request was refused.
        Refused = "refused",
        /// Many requests of one agent were refused.
        Refusals = "refusals",
    }
}

/// One entry of the log. Absent fields are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub index: u64,
    pub origin: String,
    /// Hash of the entry before; zero for the first.
    pub previous: Hash,
    pub time: Time,
    pub boot: BootId,
    pub kind: RecordKind,
    pub tee_mrenclave: Hash,
    /// SHA-256 of the boot's evidence.
    pub evidence: Hash,
    pub admission: Hash,
    #[serde(flatten)]
    pub about: About,
    pub chain_signature: Signature,
}

macro_rules! about {
    ($($(#[$doc:meta])* $field:ident: $kind:ty,)*) => {
        /// What a record is about: whatever of these its kind has.
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        pub struct About {
            $(
                $(#[$doc])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$kind>,
            )*
        }
    };
}

about! {
    tenant: TenantId,
    /// Counts the tenant's own records from 0.
    tenant_sequence: u64,
    /// Hash of the tenant's record before; zero for its first.
    tenant_previous: Hash,
    action_id: ActionId,
    execution_id: ExecutionId,
    agent: AgentId,
    /// HMAC-SHA-256 of the claimed user under the tenant's salt of the day.
    user: Hash,
    service: ServiceId,
    action: ActionName,
    /// Commitment to the params.
    params: Hash,
    plan: Hash,
    policy: PolicyRef,
    credential: CredentialRef,
    tier: Tier,
    /// Hash of the approvals' evidence.
    hitl_proof: Hash,
    jti: Hash,
    /// How an execution ended.
    outcome: Outcome,
    /// Why something was refused, denied or ended.
    reason: Reason,
    /// How many refusals one record stands for; of a hand-over, its counter.
    count: u64,
    /// Days since 1970-01-01.
    day: u64,
    execution_receipt: Hash,
    assurance: Assurance,
    /// The supervisor's measurement.
    sandbox: Hash,
    /// The root file system that the sandbox's containers run.
    root_file_system: Hash,
    /// What the door opened for an execution; left out if nothing.
    connections: Vec<Connection>,
    /// Hash of the document, sealed credential, statement, result or root package that this record
    /// is about; of a boot, of its channel key.
    blob: Hash,
    /// A public key that this record is about.
    key: PublicKey,
    /// What the enclave alone reads again.
    sealed: Bytes,
}

impl Record {
    /// The entry's hash: RFC 6962 leaf hash, which the chain and the tree share.
    pub fn hash_of(leaf: &[u8]) -> Hash {
        use sha2::{Digest, Sha256};
        let mut hasher = Sha256::new();
        hasher.update([0]);
        hasher.update(leaf);
        Hash::new(hasher.finalize().into())
    }

    /// What is signed: the canonical record with its signature left empty.
    pub fn unsigned_bytes(&self) -> Result<Vec<u8>, CanonicalError> {
        let unsigned = Self { chain_signature: Signature([0; 64]), ..self.clone() };
        canonical::encode(&unsigned)
    }

    /// Reads a leaf, verifying neither signature nor place.
    pub fn decode(leaf: &[u8]) -> Result<Self, CanonicalError> {
        canonical::decode(leaf, RECORD_BYTES_MAX)
    }

    /// Reads a leaf that a later one vouches for by its hash: that hash says that it is canonical and
    /// of bounded size, since its signer writes no other.
    pub fn decode_vouched(leaf: &[u8]) -> Result<Self, CanonicalError> {
        serde_json::from_slice(leaf).map_err(|_| CanonicalError::Malformed)
    }

    /// Verifies the signature.
    pub fn verify(&self, key: &PublicKey) -> Result<(), SignatureError> {
        let bytes = self.unsigned_bytes().map_err(|_| SignatureError)?;
        key.verify(Label::Record, &bytes, &self.chain_signature)
    }
}
