//! Why the enclave said no: one stable code each, and a sentence that says what to do.

use core::fmt;

use serde::{Deserialize, Serialize};

/// Who has to act for the same call to succeed. Interfaces map this to their own statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The call is not well-formed, or says two things.
    Caller,
    /// The caller is not who may do this.
    Identity,
    /// The policy, a person or a revocation says no.
    Policy,
    /// The thing that is named does not exist.
    Missing,
    /// The call collides with an earlier one.
    Conflict,
    /// A budget is used up; later it may pass.
    Budget,
    /// The plane cannot do it now.
    Plane,
}

macro_rules! reasons {
    ($($name:ident = $code:literal, $blame:ident, $sentence:literal;)*) => {
        /// A stable reason. The codes never change their meaning; new ones may be added.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $(#[doc = $sentence] #[serde(rename = $code)] $name),*
        }

        impl Reason {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable code.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// What it means and what to do.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence),* }
            }

            pub const fn blame(self) -> Blame {
                match self { $(Self::$name => Blame::$blame),* }
            }
        }
    };
}

reasons! {
    RequestMalformed = "request_malformed", Caller, "The request is not canonical JSON of the documented shape; compare it with the ActionRequest of docs/PROTOCOL.md.";
    RequestInstance = "request_instance", Caller, "The request names another instance; read GET /v1/instance and compare it with your trust file.";
    RequestBoot = "request_boot", Caller, "The request names another boot of the enclave; read GET /v1/instance and sign the request again.";
    RequestExpired = "request_expired", Caller, "The request has expired; sign a new one.";
    RequestNotYetValid = "request_not_yet_valid", Caller, "The request is issued in the future; check the clock of the agent.";
    RequestLife = "request_life", Caller, "The request lives for more than an hour; sign one with a nearer expiry.";
    AgentUnknown = "agent_unknown", Identity, "No active policy of this tenant lists this agent; add it to a policy and activate that.";
    AgentProof = "agent_proof", Identity, "The signature or API key is not this agent's; check which key the policy lists.";
    AgentRevoked = "agent_revoked", Identity, "This agent is revoked; activate a policy version that lists it with a new key.";
    TenantUnknown = "tenant_unknown", Missing, "This tenant has no policy here; sign and activate one first.";
    PolicyNotYetValid = "policy_not_yet_valid", Policy, "The agent's policy is not valid yet.";
    PolicyExpired = "policy_expired", Policy, "The agent's policy has expired; sign and activate a new version.";
    PolicyRevoked = "policy_revoked", Policy, "The agent's policy is revoked; sign and activate a new version.";
    PolicyUnavailable = "policy_unavailable", Plane, "The store has lost the policy's document; activate the same or a newer version again.";
    PolicyChanged = "policy_changed", Policy, "The policy has changed since the token was issued; ask for the action again.";
    ServiceUnknown = "service_unknown", Policy, "The policy defines no such service.";
    ActionUnknown = "action_unknown", Policy, "The policy allows no such action on this service.";
    ParamsInvalid = "params_invalid", Policy, "The params do not satisfy the action's schema.";
    ParamsUnrenderable = "params_unrenderable", Policy, "A param cannot stand where the template puts it (an empty or dotted path segment, or a control character in a header).";
    OutsideWindow = "outside_window", Policy, "The policy allows this action at other times only.";
    QuotaExceeded = "quota_exceeded", Budget, "A quota of the policy is used up; wait for its window to pass.";
    AssuranceTee = "assurance_tee", Policy, "The policy asks for a stronger tee than the enclave runs in here.";
    AssuranceSandbox = "assurance_sandbox", Policy, "The policy asks for a stronger sandbox than the one that is connected.";
    AssuranceAgent = "assurance_agent", Policy, "The policy asks the agent to sign its requests with a key of its own.";
    AssuranceApproval = "assurance_approval", Policy, "The policy asks for a stronger kind of approval than its own approvers can give.";
    AssuranceDurability = "assurance_durability", Policy, "The policy asks for records whose durability a witness has cosigned; no witness is configured.";
    AssuranceFreshness = "assurance_freshness", Policy, "The policy asks for a witness against rollback; no witness is configured.";
    AssuranceTime = "assurance_time", Policy, "The policy asks for a witnessed time; no witness is configured.";
    ApproversInsufficient = "approvers_insufficient", Policy, "Without those behind the agent and the claimed user, fewer approvers are left than the policy asks for.";
    CredentialMissing = "credential_missing", Policy, "The vault holds no such credential of the owner whom the policy names; its owner must seal and send it.";
    CredentialRevoked = "credential_revoked", Policy, "The credential is revoked; its owner must seal and send a new version.";
    CredentialVersion = "credential_version", Policy, "The vault's version of the credential is older than the least that the policy accepts.";
    CredentialScope = "credential_scope", Policy, "The credential's owner allows it for other endpoints, other certificates or another injection than the policy names.";
    CredentialChanged = "credential_changed", Policy, "The credential has changed since the token was issued; ask for the action again.";
    TokenRequired = "token_required", Caller, "This action's tier asks for an Action Token; send POST /v1/actions first.";
    TokenInvalid = "token_invalid", Identity, "The token was not issued by this boot of this enclave, or was altered.";
    TokenExpired = "token_expired", Identity, "The token has expired; ask for the action again.";
    TokenRevoked = "token_revoked", Identity, "The token is revoked; ask for the action again.";
    TokenUsed = "token_used", Identity, "The token was redeemed before; each token executes once. Ask for the action again.";
    TokenMismatch = "token_mismatch", Identity, "The token was issued for another request than the one it came with.";
    IdempotencyMismatch = "idempotency_mismatch", Conflict, "The idempotency key was used with another request within 24 hours; use a new key.";
    IdempotencyInProgress = "idempotency_in_progress", Conflict, "The request with this idempotency key is still executing; ask for its execution.";
    ActionNotFound = "action_not_found", Missing, "No such action in this boot of the enclave, or it is another agent's.";
    ExecutionNotFound = "execution_not_found", Missing, "No such execution, or it is another agent's.";
    ApprovalNotOpen = "approval_not_open", Conflict, "The action does not wait for an approval (any more).";
    ApprovalEvidence = "approval_evidence", Identity, "The approval is not a valid signature of an approver whom the policy names for this action.";
    ApprovalTwice = "approval_twice", Conflict, "This person has approved already; thresholds count persons.";
    ApprovalDenied = "approval_denied", Policy, "A person denied the action; that is final.";
    ApprovalExpired = "approval_expired", Policy, "Nobody approved in time, which is a denial; ask for the action again.";
    BootEnded = "boot_ended", Plane, "The enclave was restarted meanwhile; tokens and pending approvals ended with that boot. Ask again.";
    DayForgotten = "day_forgotten", Missing, "The tenant's salts of this day are forgotten; nobody can say any more whose its user hashes are.";
    DayUnknown = "day_unknown", Missing, "There is no salt of this day: it is still to come, or no record of it names a user of this tenant.";
    PlaintextCredential = "plaintext_credential", Caller, "A plaintext credential never passes here; seal it on its owner's side with `toani credential add`.";
    DocumentMalformed = "document_malformed", Caller, "The document is not canonical JSON of the documented shape.";
    DocumentSignature = "document_signature", Identity, "The document is not signed by the key or the quorum that may sign it.";
    DocumentVersion = "document_version", Conflict, "Versions only grow: the active version is the same or newer.";
    PolicyInvalid = "policy_invalid", Caller, "The policy is signed, but not valid; `toani policy check` names the place.";
    PolicyAgentTaken = "policy_agent_taken", Conflict, "An agent of this policy stands in another active policy of the tenant; an agent stands in exactly one.";
    EvidenceRefused = "evidence_refused", Identity, "The evidence does not hold: check the manifest's roots and TCB policy, the age of the collateral, and the clock; `toani attestation verify` names the place.";
    RootUnopened = "root_unopened", Identity, "The sealed root does not open: it was sealed on another machine (--machine names a simulated one), by another image, or under another manifest; a hand-over moves it, and a package opens with the key of its own request alone.";
    HandOverRefused = "hand_over_refused", Identity, "The hand-over is not for this enclave, this request or this moment: the statement names chain key, from, to, least ISVSVN, the request's key, expiry and the next counter; `toani hand-over ask` and `sign` make new ones.";
    HandedOver = "handed_over", Conflict, "The instance was handed over: it goes on where its root was taken (`toani hand-over take`), and here only a hand-over with the next counter is left.";
    LogBehind = "log_behind", Conflict, "The log does not know of the hand-over by which this root came: bring audit/ and store.sqlite* of the side that gave it.";
    CredentialEnvelope = "credential_envelope", Caller, "The sealed credential does not open: it was sealed for another instance, or altered.";
    SandboxNotAdmitted = "sandbox_not_admitted", Identity, "The admission list does not name this sandbox's measurement; sign and activate a list that does.";
    RootFileSystemUnavailable = "root_file_system_unavailable", Plane, "The sandbox is not admitted with the root file system that the action's class names; start it with one, and admit it.";
    SandboxUnavailable = "sandbox_unavailable", Plane, "No sandbox is connected; see `toani status`.";
    RefusalBudget = "refusal_budget", Budget, "This agent was refused too often; wait a minute.";
    Busy = "busy", Plane, "A limit of the plane is reached; try again after the time that Retry-After names.";
    ReplayUnavailable = "replay_unavailable", Plane, "The replay store gave no definite answer, so nothing was done, and a token is spent; ask for the action again, with a new idempotency key.";
    LogUnavailable = "log_unavailable", Plane, "The audit log cannot be written, so nothing may start; see `toani status`.";
    NotReady = "not_ready", Plane, "The enclave has not finished its boot.";
    Internal = "internal", Plane, "The enclave refused to go on; its log says where.";
}

impl Reason {
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.code() == code)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl core::error::Error for Reason {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_sentences_are_sentences() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(Reason::from_code(reason.code()), Some(*reason));
            assert!(Reason::ALL[i + 1..].iter().all(|other| other.code() != reason.code()));
            assert!(reason.sentence().ends_with('.'), "{reason}");
        }
    }
}
