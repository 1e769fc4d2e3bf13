//! Between host and enclave: one call, bytes in and bytes out. Postcard, one version, never stored.
//!
//! Documents travel as the exact bytes that were signed. The host may send anything at any time;
//! the enclave answers each call and keeps no promise that the host could break.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{
    ids::{
        ActionId, AgentId, BootId, CredentialId, ExecutionId, Hash, Namespace, PolicyId, TenantId,
        Time, UserId,
    },
    reason::Reason,
    record::Outcome,
    request::AgentProof,
    sign::PublicKey,
};

/// Grows with every change of this module.
pub const WIRE_VERSION: u16 = 1;

/// One call into the enclave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    pub version: u16,
    /// The host's clock. The enclave never goes below the log's last time.
    pub now: Time,
    pub command: Command,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Makes an instance. `target` is the TARGETINFO of who quotes here. Answer:
    /// [`Answer::Report`].
    Birth { manifest: Vec<u8>, target: Vec<u8> },
    /// Opens an instance. Answer: [`Answer::Report`].
    Boot { manifest: Vec<u8>, sealed_root: Vec<u8>, target: Vec<u8> },
    /// Evidence over the report, which has to hold under the manifest's roots. Answer after
    /// [`Command::Birth`]: [`Answer::Born`]; after [`Command::Boot`]: [`Answer::Done`]. Then comes
    /// [`Command::Replay`] with every record of the log in order, then [`Command::ReplayEnd`].
    Prove { evidence: Vec<u8> },
    /// The next records of the log. Answer: [`Answer::Done`].
    Replay { leaves: Vec<Vec<u8>> },
    /// The log ends here. Answer: [`Answer::Needs`].
    ReplayEnd,
    /// Documents that the log names by hash. Others are ignored. Answer: [`Answer::Done`].
    Blobs { blobs: Vec<Vec<u8>> },
    /// Wrapped salts of today, as [`Effect::PutSalt`] gave them. Answer: [`Answer::Started`].
    Start { salts: Vec<(TenantId, Vec<u8>)> },
    /// Asks for the root of an instance that lives elsewhere. Answer: [`Answer::RootAsked`].
    AskRoot { manifest: Vec<u8>, target: Vec<u8> },
    /// Instead of [`Command::Start`]: gives the root away, by a canonical `Signed<HandOver>` and
    /// the `RootRequest` that it names. Answer: [`Answer::RootGiven`]; this boot does nothing more.
    GiveRoot { statement: Vec<u8>, request: Vec<u8> },
    /// Takes a canonical `RootPackage`, with the sealed key of [`Answer::RootAsked`].
    /// Answer: [`Answer::Born`].
    TakeRoot { manifest: Vec<u8>, sealed_key: Vec<u8>, package: Vec<u8> },

    /// A canonical `Signed<AdmissionList>`.
    Admit { admission: Vec<u8> },
    /// Begins a channel to a supervisor; the one before ends. `target` is the TARGETINFO of who
    /// quotes here. Answer: [`Answer::Link`].
    ConnectSandbox { target: Vec<u8> },
    /// What the supervisor sent, in its order. Answer: [`Answer::Link`].
    SandboxBytes { bytes: Vec<u8> },
    /// Evidence over the report of [`Answer::Link`]. Answer: [`Answer::Link`].
    SandboxEvidence { evidence: Vec<u8> },
    /// The supervisor is gone. What it has not answered ends as unknown. Answer: [`Answer::Done`].
    DisconnectSandbox,
    /// A canonical `Signed<Policy>`. Answer: [`Answer::Done`].
    ActivatePolicy { policy: Vec<u8> },
    /// Ends a policy version at once. Answer: [`Answer::Done`].
    RevokePolicy { tenant: TenantId, policy: PolicyId },
    /// A canonical `Signed<PolicyKeyChange>`.
    ChangePolicyKey { change: Vec<u8> },
    /// A canonical `SealedCredential`.
    PutCredential { credential: Vec<u8> },
    /// Ends a credential at once, whatever its version. Answer: [`Answer::Done`].
    RevokeCredential { tenant: TenantId, namespace: Namespace, owner: PublicKey, id: CredentialId },
    /// Ends an agent under its present key. Answer: [`Answer::Done`].
    RevokeAgent { tenant: TenantId, agent: AgentId },
    /// Voids the token of an action of this boot, issued or not.
    RevokeToken { tenant: TenantId, action: ActionId },

    /// Steps 3 to 5: decide about a canonical `ActionRequest`. Answer: [`Answer::Action`].
    Decide { request: Vec<u8>, proof: AgentProof },
    /// What became of an action. Answer: [`Answer::Action`].
    Poll { action: ActionId, read: Read },
    /// The signed statement of a pending action. Answer: [`Answer::Statement`].
    Statement { action: ActionId },
    /// One person's canonical `Evidence`. Answer: [`Answer::Approval`].
    Approve { evidence: Vec<u8> },
    /// Step 6: redeem a token, or decide and redeem at once where the tier is 0.
    /// Answer: [`Answer::Redeemed`] or [`Answer::Earlier`].
    Execute { token: Option<String>, request: Vec<u8>, proof: AgentProof },
    /// The replay store or the log refused: the execution ends before a job exists.
    Abort { execution: ExecutionId, reason: Reason },
    /// Step 8, once `started` is durable: the job leaves on the channel, as an
    /// [`Effect::Sandbox`]. Answer: [`Answer::Done`].
    Release { execution: ExecutionId },
    /// Step 11. If its outcome has not arrived the execution ends as unknown.
    /// Answer: [`Answer::Finished`].
    Finish { execution: ExecutionId },
    /// Opens a sealed result for the agent that it belongs to. Answer: [`Answer::Result`].
    Open { execution: ExecutionId, blob: Vec<u8>, read: Read },

    /// Opens what is kept of an action, and what people answered, for the tenant's owner.
    /// Answer: [`Answer::Disclosed`].
    Disclose { action: ActionId, kept: Vec<u8>, evidence: Option<Vec<u8>> },
    /// The hash under which a user stands in a tenant's records of a day (days since 1970-01-01),
    /// with the day's wrapped salt. Answer: [`Answer::UserHash`].
    UserHash { tenant: TenantId, day: u64, user: UserId, wrapped: Vec<u8> },
    /// Forgets a tenant's salts of this day and all before, for good. Answer: [`Answer::Done`].
    Forget { tenant: TenantId, through: u64 },
    /// Records up to this size are durable. Answer: [`Answer::Checkpoint`].
    Durable { size: u64 },
    /// Time passes: waits end, refusals are written, and what boots before left pending ends, some
    /// with each call. Answer: [`Answer::Done`].
    Tick,
    /// What a bundle of this tenant covers now; begins an export. Answer: [`Answer::Coverage`].
    Cover { tenant: TenantId },
    /// Signs a bundle's canonical index over what [`Command::Cover`] answered.
    /// Answer: [`Answer::Index`].
    SignIndex { index: Vec<u8> },
    /// Answer: [`Answer::Facts`].
    Status,
}

/// Who reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Read {
    /// A signing agent, by its canonical `ReadRequest`.
    Signed {
        request: Vec<u8>,
        proof: AgentProof,
    },
    /// An agent that repeats its canonical `ActionRequest` and gets the same answer again.
    Asked {
        request: Vec<u8>,
        proof: AgentProof,
    },
    ApiKey {
        tenant: TenantId,
        agent: AgentId,
        key: String,
    },
}

/// The enclave's reply to one call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// To be carried out by the host, in this order, before it acts on the answer.
    pub effects: Vec<Effect>,
    pub answer: Result<Answer, Reason>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Effect {
    /// Append this record. Indices are without gap; the host keeps their order.
    Append { index: u64, leaf: Vec<u8> },
    /// Keep this under its SHA-256, until `delete_after`.
    PutBlob { bytes: Vec<u8>, delete_after: Option<Time> },
    /// Keep this beside the log.
    PutSalt { tenant: TenantId, day: u64, wrapped: Vec<u8> },
    /// The channel to the supervisor has moved.
    Sandbox(LinkStep),
}

/// One step of the channel to a supervisor. Replies may overtake each other on their way to the
/// host, and the bytes of a channel may not: the host takes the steps of a link in their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkStep {
    /// Counts the channels of a boot.
    pub link: u64,
    /// Counts the steps of a link, from 0 on and without gap.
    pub step: u64,
    /// For the supervisor; may be none.
    pub bytes: Vec<u8>,
    /// As it is after this step.
    pub state: LinkState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkState {
    /// The sides prove, for the first time or anew, who they are. No job leaves.
    Binding,
    /// Jobs can leave.
    Open,
    /// For good: another connection has to be begun.
    Ended,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// Nothing more to say.
    Done,
    /// A report of this boot for who quotes here; evidence over it goes to [`Command::Prove`].
    Report { report: Vec<u8> },
    /// L1, wrapped for this platform, for [`Command::Boot`].
    Born { sealed_root: Vec<u8> },
    /// The key that a root is to be sealed to, a report that vouches for it, and its private part,
    /// wrapped for this platform.
    RootAsked { key: [u8; 32], report: Vec<u8>, sealed_key: Vec<u8> },
    /// A canonical `RootPackage`, which may go out once its record is durable.
    RootGiven { package: Vec<u8> },
    /// Hashes of the documents for [`Command::Blobs`].
    Needs { blobs: Vec<Hash> },
    /// The boot is over.
    Started(Facts),
    /// What an action is now.
    Action(ActionStatus),
    /// A canonical `Signed<Statement>`.
    Statement { statement: Vec<u8> },
    /// What a person's answer did.
    Approval { status: ApprovalStatus },
    /// An execution has started.
    Redeemed(Redeemed),
    /// The same idempotency key with the same intent: what it became.
    Earlier(Earlier),
    /// How a channel goes on: a report of this enclave that has to be quoted for
    /// [`Command::SandboxEvidence`], and executions whose outcomes have arrived.
    Link { report: Option<Vec<u8>>, arrived: Vec<ExecutionId> },
    /// An execution has ended.
    Finished(Finished),
    /// Canonical `ExecutionResult`.
    Result { result: Vec<u8> },
    /// A canonical `Kept`, and a canonical `KeptEvidence`.
    Disclosed { kept: Vec<u8>, evidence: Option<Vec<u8>> },
    /// How a user is named in the records of one day.
    UserHash { hash: Hash },
    /// A signed note.
    Checkpoint { size: u64, note: String },
    /// The newest checkpoint, and the tenant's last sequence that it covers.
    Coverage { note: String, size: u64, last_sequence: u64 },
    /// A canonical `Signed<BundleIndex>`.
    Index { index: Vec<u8> },
    /// What the instance says about itself.
    Facts(Facts),
}

/// What became of an action that was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionStatus {
    pub action: ActionId,
    pub state: ActionState,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ActionState {
    /// A token is ready.
    Token { token: String, expires: Time },
    /// People have to approve.
    Pending { approved: u8, threshold: u8, expires: Time },
    /// It was refused, or a person said no, or nobody answered.
    Denied { reason: Reason },
    /// The token was redeemed.
    Executed { execution: ExecutionId },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApprovalStatus {
    /// Counted; more persons are needed.
    Counted { approved: u8, threshold: u8 },
    /// Enough persons approved.
    Approved,
    /// A person said no, which is final.
    Denied,
}

/// A token was redeemed: the host consumes its jti in the replay store, makes the record durable,
/// and asks for the job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Redeemed {
    pub action: ActionId,
    pub execution: ExecutionId,
    /// Key of the replay store.
    pub jti: Hash,
    /// For how long the replay store must remember it.
    pub jti_expires: Time,
    /// The log size that makes the record `started` durable.
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Earlier {
    pub action: ActionId,
    pub execution: ExecutionId,
    /// `None` while it runs.
    pub outcome: Option<Outcome>,
    /// The sealed result, for [`Command::Open`].
    pub blob: Option<Hash>,
}

/// An execution ended: the answer may go out once the log has this size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    pub outcome: Outcome,
    /// Canonical `ExecutionResult`.
    pub result: Vec<u8>,
    pub size: u64,
}

/// What the instance says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    pub instance: Hash,
    pub boot: BootId,
    pub mrenclave: Hash,
    /// This boot's evidence: quote and collateral.
    pub evidence: Vec<u8>,
    pub tee: crate::assurance::Tee,
    pub chain_key: PublicKey,
    pub intake_key: [u8; 32],
    /// SHA-256 of the SubjectPublicKeyInfo of this boot's channel key. Its evidence vouches for it
    /// together with the two keys before.
    pub channel: Hash,
    pub admission: Hash,
    pub admission_version: u64,
    /// Level of the sandbox that is connected.
    pub sandbox: Option<crate::assurance::SandboxLevel>,
    /// Counter of the last hand-over; 0 before the first.
    pub hand_overs: u64,
    /// Records signed.
    pub size: u64,
    /// Of these, known to be durable.
    pub durable: u64,
    pub open_executions: u64,
    pub pending_actions: u64,
}

/// A message that is not of this version or form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message across the enclave's boundary is malformed or too large")]
pub struct WireError;

/// Encodes a call, a reply, a job or an outcome.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    postcard::to_allocvec(message).map_err(|_| WireError)
}

/// Decodes exactly one message of at most `bytes_max`; nothing may follow it.
pub fn decode<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
    bytes_max: usize,
) -> Result<T, WireError> {
    if bytes.len() > bytes_max {
        return Err(WireError);
    }
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        _ => Err(WireError),
    }
}
