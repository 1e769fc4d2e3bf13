//! A policy that is signed by its tenant and valid in every place.

use alloc::{collections::BTreeMap, string::String};

use toani_protocol::{
    ActionName, Hash, ServiceId,
    canonical::{self, CanonicalError},
    limits::DOCUMENT_BYTES_MAX,
    policy::{Action, Policy, Service},
    record::PolicyRef,
    sign::{Label, PublicKey, SignatureError, Signed},
};

use crate::{check, schema::Schema, schema::SchemaError, template::CompiledTemplate};

/// Why a policy is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// `place` is a path into the policy, such as `services.broker.actions.buy_stock`.
    #[error("{place}: {problem}")]
    Invalid { place: String, problem: PolicyProblem },
}

/// What can be wrong in one place of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyProblem {
    #[error("expires must lie after not_before, and the version must be at least 1")]
    Validity,
    #[error("more entries than the documented maximum")]
    TooMany,
    #[error("names a person that the policy does not define")]
    UnknownPerson,
    #[error("names a credential that the policy does not define")]
    UnknownCredential,
    #[error("names an action that the policy does not define")]
    UnknownAction,
    #[error("host must be a lower-case DNS name, or an IPv4 address of a private endpoint")]
    Host,
    #[error("an SPKI pin list has 1 to 8 entries")]
    TlsPins,
    #[error("the injection's header or query name is empty or reserved")]
    Injection,
    #[error("params must be the schema of an object")]
    ParamsObject,
    #[error("schema: {0}")]
    Schema(SchemaError),
    #[error("path: absolute, of literal and {{param}} segments, without . and .. and encoding")]
    Path,
    #[error("query: the name is empty or belongs to the credential")]
    Query,
    #[error("header: the name is reserved or not lower-case, or the value is not plain ASCII")]
    Header,
    #[error("placeholder: no such param, an optional one in the path, or not a scalar")]
    Placeholder,
    #[error("a GET or DELETE has no body")]
    Body,
    #[error("success lists 1 to 16 statuses from 200 to 299")]
    Success,
    #[error("result: the pointer is not RFC 6901, or max is 0 or too large")]
    Output,
    #[error("a condition names no param of the schema, or compares by order what is no number")]
    Condition,
    #[error("tier 1 or 2 can be reached, but there is no approval rule")]
    ApprovalMissing,
    #[error("the threshold is 0 or more than there are approvers, or the wait is 0 or too long")]
    Approval,
    #[error("a window ends before it begins")]
    Window,
    #[error("the class asks for nothing, or for more than the documented maximum")]
    Class,
    #[error("the quota's window is 0, or its sum is over a param that is not required and natural")]
    Quota,
    #[error("a key stands twice; each is one person's, and stands there once")]
    KeyTwice,
    #[error("a passkey names no rp_id or no https origin")]
    Passkey,
    #[error("an action that the policy asks for is without agents or services")]
    Empty,
}

/// An action, ready to decide and render. Sits in a [`VerifiedPolicy`] only.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CompiledAction {
    pub(crate) params: Schema,
    pub(crate) template: CompiledTemplate,
}

/// A policy whose signature and rules were checked. There is no other way to have one.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedPolicy {
    policy: Policy,
    hash: Hash,
    compiled: BTreeMap<(ServiceId, ActionName), CompiledAction>,
}

impl VerifiedPolicy {
    /// Verifies `bytes`, a canonical `Signed<Policy>`, under the tenant's policy key.
    pub fn verify(bytes: &[u8], key: &PublicKey) -> Result<Self, PolicyError> {
        let signed: Signed<Policy> = canonical::decode(bytes, DOCUMENT_BYTES_MAX)?;
        signed.verify(Label::Policy, &[*key], 1)?;
        let compiled = check::policy(&signed.payload)?;
        Ok(Self { policy: signed.payload, hash: Hash::of(bytes), compiled })
    }

    /// Checks an unsigned draft as [`Self::verify`] would.
    pub fn check_draft(policy: &Policy) -> Result<(), PolicyError> {
        check::policy(policy).map(|_| ())
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Id, version and hash of the signed document.
    pub fn reference(&self) -> PolicyRef {
        PolicyRef { id: self.policy.id.clone(), version: self.policy.version, hash: self.hash }
    }

    /// One action and its service.
    pub fn action(&self, service: &ServiceId, action: &ActionName) -> Option<(&Service, &Action)> {
        let service = self.policy.services.get(service)?;
        service.actions.get(action).map(|action| (service, action))
    }

    pub(crate) fn compiled(
        &self,
        service: &ServiceId,
        action: &ActionName,
    ) -> Option<&CompiledAction> {
        self.compiled.get(&(service.clone(), action.clone()))
    }
}
