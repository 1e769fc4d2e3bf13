//! Who asks, and for what: step 3 before the policy is heard.

use alloc::{sync::Arc, vec::Vec};

use subtle::ConstantTimeEq;
use toani_policy::VerifiedPolicy;
use toani_protocol::{
    AgentId, BootId, Hash, Reason, TenantId, Time,
    assurance::AgentLevel,
    canonical,
    limits::{CLOCK_SKEW_MS_MAX, REQUEST_LIFE_MS_MAX},
    plan::{Plan, params_commitment},
    policy::{AgentKey, api_key_hash},
    request::{ActionRequest, AgentProof, ReadRequest},
    sign::Label,
    wire::Read,
};

use crate::{
    ready::Ready,
    refusals::Refusal,
    state::{PolicySlot, Tenant},
};

/// A request that is well-formed, in time, for this instance and boot, and its agent's own.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: ActionRequest,
    pub(crate) policy: Arc<VerifiedPolicy>,
    pub(crate) level: AgentLevel,
    pub(crate) intent: Hash,
    /// Keyed hash over tenant, agent and idempotency key.
    pub(crate) idempotency: Hash,
}

/// What was asked for as a plan, and what records say of plan and params.
#[derive(Debug)]
pub(crate) struct Rendered {
    pub(crate) plan: Plan,
    pub(crate) plan_bytes: Vec<u8>,
    pub(crate) plan_hash: Hash,
    pub(crate) params_hash: Hash,
    pub(crate) params_nonce: Hash,
}

impl Asked {
    pub(crate) fn render(&self, plan_nonce: Hash, params_nonce: Hash) -> Result<Rendered, Reason> {
        let plan = toani_policy::render(&self.policy, &self.request, plan_nonce)?;
        let (plan_bytes, plan_hash) = plan.seal().map_err(|_| Reason::ParamsUnrenderable)?;
        let params_hash = params_commitment(&params_nonce, &self.request.params)
            .map_err(|_| Reason::ParamsInvalid)?;
        Ok(Rendered { plan, plan_bytes, plan_hash, params_hash, params_nonce })
    }
}

/// Checks a canonical `ActionRequest`.
pub(crate) fn check(
    ready: &Ready,
    bytes: &[u8],
    proof: &AgentProof,
    now: Time,
) -> Result<Asked, Refusal> {
    let Ok(request) = ActionRequest::decode(bytes) else {
        return Err(Refusal::anonymous(Reason::RequestMalformed));
    };
    let refuse = |reason, authentic| Refusal::of(&request, reason, authentic);
    let who = (&request.tenant, &request.agent);
    let (policy, level) = authenticate(ready, who, proof, Label::Request, bytes)
        .map_err(|reason| refuse(reason, false))?;
    let span = (request.issued_at, request.expires_at);
    in_time(ready, &request.instance, &request.boot, span, now).map_err(|r| refuse(r, true))?;
    let intent = request.intent().map_err(|_| refuse(Reason::RequestMalformed, true))?;
    let whose: [&[u8]; 3] = [
        request.tenant.as_str().as_bytes(),
        request.agent.as_str().as_bytes(),
        request.idempotency_key.as_bytes(),
    ];
    let idempotency =
        ready.keys.idempotency_hash(&whose).map_err(|_| refuse(Reason::Internal, true))?;
    Ok(Asked { request, policy, level, intent, idempotency })
}

/// Checks who reads `id`.
pub(crate) fn check_read(
    ready: &Ready,
    read: &Read,
    id: &str,
    now: Time,
) -> Result<(TenantId, AgentId), Reason> {
    match read {
        Read::ApiKey { tenant, agent, key } => {
            let proof = AgentProof::ApiKey(key.clone());
            authenticate(ready, (tenant, agent), &proof, Label::Read, &[])?;
            Ok((tenant.clone(), agent.clone()))
        }
        Read::Asked { request, proof } => {
            let asked = check(ready, request, proof, now).map_err(|refusal| refusal.reason)?;
            // It asks for what it became, not for whatever else is the agent's.
            let used = ready.state.used_key(&asked.idempotency, now);
            let became = used.is_some_and(|used| used.execution.as_str() == id)
                || ready.life.by_key.get(&asked.idempotency).is_some_and(|own| own.as_str() == id);
            if !became {
                return Err(Reason::RequestMalformed);
            }
            Ok((asked.request.tenant, asked.request.agent))
        }
        Read::Signed { request: bytes, proof } => {
            let request = ReadRequest::decode(bytes).map_err(|_| Reason::RequestMalformed)?;
            let who = (&request.tenant, &request.agent);
            authenticate(ready, who, proof, Label::Read, bytes)?;
            let span = (request.issued_at, request.expires_at);
            in_time(ready, &request.instance, &request.boot, span, now)?;
            if request.id != id {
                return Err(Reason::RequestMalformed);
            }
            Ok((request.tenant, request.agent))
        }
    }
}

/// Finds the agent's one active policy and verifies the proof, for a signature over these
/// bytes, under the key that it lists.
fn authenticate(
    ready: &Ready,
    (tenant, agent): (&TenantId, &AgentId),
    proof: &AgentProof,
    label: Label,
    bytes: &[u8],
) -> Result<(Arc<VerifiedPolicy>, AgentLevel), Reason> {
    let tenant = ready.state.tenant(tenant)?;
    let slot = tenant.policy_of(agent).ok_or(Reason::AgentUnknown)?;
    let policy = slot.body.as_ref().ok_or(Reason::PolicyUnavailable)?;
    let listed = policy.policy().agents.get(agent).ok_or(Reason::AgentUnknown)?;
    let (proven, level) = match (&listed.key, proof) {
        (AgentKey::Ed25519(key), AgentProof::Signature(signature)) => {
            (key.verify(label, bytes, signature).is_ok(), AgentLevel::Signed)
        }
        (AgentKey::ApiKey(hash), AgentProof::ApiKey(key)) => {
            let same = api_key_hash(key.as_bytes()).as_bytes().ct_eq(hash.as_bytes());
            (bool::from(same), AgentLevel::Gateway)
        }
        _ => (false, AgentLevel::Gateway),
    };
    if !proven {
        return Err(Reason::AgentProof);
    }
    check_revoked(tenant, slot, agent, &listed.key)?;
    Ok((policy.clone(), level))
}

fn check_revoked(
    tenant: &Tenant,
    slot: &PolicySlot,
    agent: &AgentId,
    key: &AgentKey,
) -> Result<(), Reason> {
    if let Some(revoked) = tenant.revoked_agents.get(agent)
        && *revoked == key_hash(key)?
    {
        return Err(Reason::AgentRevoked);
    }
    if slot.revoked { Err(Reason::PolicyRevoked) } else { Ok(()) }
}

/// Checks again what may have changed since [`check`]: the host decides how long a checked request
/// waits to be applied, and a revocation that is in the log by then holds.
pub(crate) fn check_again(ready: &Ready, asked: &Asked, now: Time) -> Result<(), Reason> {
    let request = &asked.request;
    let tenant = ready.state.tenant(&request.tenant)?;
    let slot = tenant.policy_of(&request.agent).ok_or(Reason::AgentUnknown)?;
    let current = slot.body.as_ref().filter(|policy| Arc::ptr_eq(policy, &asked.policy));
    let policy = current.ok_or(Reason::PolicyChanged)?.policy();
    let listed = policy.agents.get(&request.agent).ok_or(Reason::AgentUnknown)?;
    check_revoked(tenant, slot, &request.agent, &listed.key)?;
    let span = (request.issued_at, request.expires_at);
    in_time(ready, &request.instance, &request.boot, span, now)
}

/// Names an agent's key in a revocation.
pub(crate) fn key_hash(key: &AgentKey) -> Result<Hash, Reason> {
    let bytes = canonical::encode(key).map_err(|_| Reason::Internal)?;
    Ok(Hash::of_labelled("toani/v1/agent-key", &bytes))
}

fn in_time(
    ready: &Ready,
    instance: &Hash,
    boot: &BootId,
    (issued_at, expires_at): (Time, Time),
    now: Time,
) -> Result<(), Reason> {
    if *instance != ready.instance {
        return Err(Reason::RequestInstance);
    }
    if boot != ready.boot() {
        return Err(Reason::RequestBoot);
    }
    if expires_at.ms_since(issued_at) > REQUEST_LIFE_MS_MAX || expires_at <= issued_at {
        return Err(Reason::RequestLife);
    }
    if issued_at > now.plus_ms(CLOCK_SKEW_MS_MAX) {
        return Err(Reason::RequestNotYetValid);
    }
    if now >= expires_at { Err(Reason::RequestExpired) } else { Ok(()) }
}
