//! The decision: deny, ask people, or go. Pure and total.

use alloc::{format, string::String, vec::Vec};

use serde_json::Value;
use toani_protocol::{
    CredentialId, PersonId, Reason, Time,
    assurance::{ApprovalLevel, Assurance},
    policy::{
        Action, ApproverKey, Comparison, Condition, Endpoint, Injection, Measure, Person, Policy,
        QuotaScope, QuotaWindow, Service, Tier, TlsTrust,
    },
    request::ActionRequest,
    sign::PublicKey,
};

use crate::{
    check::counts,
    quota::{self, QuotaKey, QuotaUse},
    verified::VerifiedPolicy,
};

/// What was used of each counter.
pub trait Usage {
    fn used(&self, key: &QuotaKey, window: QuotaWindow, now: Time) -> u64;
}

/// What is true around the request.
#[derive(Debug)]
pub struct Situation<'a> {
    /// All levels but `approval`, which depends on the action.
    pub assurance: Assurance,
    /// Looks up the vault: the owner's newest version under this name.
    pub credential: Option<CredentialView<'a>>,
}

/// What the vault knows about a credential. Nothing of its value.
#[derive(Debug, Clone)]
pub struct CredentialView<'a> {
    pub owner: PublicKey,
    pub version: u64,
    pub revoked: bool,
    pub endpoints: &'a [Endpoint],
    pub tls: &'a TlsTrust,
    pub injection: &'a Injection,
}

/// What the policy says to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Deny(Reason),
    /// Allowed; where the tier is above 0, once enough people approve.
    Allow(Granted),
}

/// What was allowed, and under which conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    pub tier: Tier,
    /// Who may approve: those of the rule, without those behind the agent and the claimed user.
    pub approvers: Vec<PersonId>,
    pub threshold: u8,
    pub wait_s: u32,
    /// The least kind of approval that counts.
    pub least_approval: ApprovalLevel,
    /// To be reserved when the token is redeemed.
    pub uses: Vec<QuotaUse>,
    pub credential: Option<CredentialId>,
}

/// Decides. The request's form, times and proof were checked before; everything that the policy
/// says is checked here.
pub fn decide(
    verified: &VerifiedPolicy,
    request: &ActionRequest,
    usage: &dyn Usage,
    situation: &Situation<'_>,
    now: Time,
) -> Decision {
    match grant(verified, request, usage, situation, now) {
        Ok(granted) => Decision::Allow(granted),
        Err(reason) => Decision::Deny(reason),
    }
}

fn grant(
    verified: &VerifiedPolicy,
    request: &ActionRequest,
    usage: &dyn Usage,
    situation: &Situation<'_>,
    now: Time,
) -> Result<Granted, Reason> {
    let policy = verified.policy();
    if now < policy.not_before {
        return Err(Reason::PolicyNotYetValid);
    }
    if now >= policy.expires {
        return Err(Reason::PolicyExpired);
    }
    let agent = policy.agents.get(&request.agent).ok_or(Reason::AgentUnknown)?;
    let service = policy.services.get(&request.service).ok_or(Reason::ServiceUnknown)?;
    let action = service.actions.get(&request.action).ok_or(Reason::ActionUnknown)?;
    let compiled =
        verified.compiled(&request.service, &request.action).ok_or(Reason::ActionUnknown)?;
    if !compiled.params.accepts(&request.params.0) {
        return Err(Reason::ParamsInvalid);
    }
    if !in_window(action, now) {
        return Err(Reason::OutsideWindow);
    }
    let tier = tier(action, &request.params.0);
    let approvers = eligible(policy, action, tier, &agent.behind, request)?;
    check_assurance(action, tier, situation)?;
    check_credential(policy, service, situation)?;
    let uses = uses(policy, request, usage, now)?;
    let rule = action.approval.as_ref().filter(|_| tier > Tier::Zero);
    Ok(Granted {
        tier,
        approvers,
        threshold: rule.map_or(0, |rule| rule.threshold),
        wait_s: rule.map_or(0, |rule| rule.wait_s),
        least_approval: action.least.approval,
        uses,
        credential: service.auth.as_ref().map(|auth| auth.credential.clone()),
    })
}

fn in_window(action: &Action, now: Time) -> bool {
    let open = |windows: &Vec<toani_protocol::policy::Window>| {
        windows.iter().any(|window| window.from <= now && now < window.until)
    };
    action.windows.as_ref().is_none_or(open)
}

/// The action's tier, raised by every condition that holds.
fn tier(action: &Action, params: &Value) -> Tier {
    let raised = action.raise.iter().filter(|raise| holds(&raise.when, params));
    raised.map(|raise| raise.tier).fold(action.tier, Tier::max)
}

/// What cannot be compared holds: a missing param never lowers a tier.
fn holds(condition: &Condition, params: &Value) -> bool {
    let constant = &condition.value.0;
    let Some(value) = params.get(&condition.param) else { return true };
    let same_kind = matches!(
        (value, constant),
        (Value::Number(_), Value::Number(_))
            | (Value::String(_), Value::String(_))
            | (Value::Bool(_), Value::Bool(_))
    );
    if !same_kind {
        return true;
    }
    // Safe integers and their comparisons are exact in doubles.
    let order = match (value.as_f64(), constant.as_f64()) {
        (Some(value), Some(constant)) => value.partial_cmp(&constant),
        _ => None,
    };
    match condition.is {
        Comparison::Equal => order.map_or(value == constant, core::cmp::Ordering::is_eq),
        Comparison::NotEqual => order.map_or(value != constant, core::cmp::Ordering::is_ne),
        Comparison::Above => order.is_none_or(core::cmp::Ordering::is_gt),
        Comparison::AtLeast => order.is_none_or(core::cmp::Ordering::is_ge),
        Comparison::Below => order.is_none_or(core::cmp::Ordering::is_lt),
        Comparison::AtMost => order.is_none_or(core::cmp::Ordering::is_le),
    }
}

/// The kind of approval that a key gives at a tier; nothing if it is not enough for the tier.
pub fn key_level(key: &ApproverKey, tier: Tier) -> Option<ApprovalLevel> {
    match key {
        ApproverKey::Ed25519(_) if tier <= Tier::One => Some(ApprovalLevel::Key),
        ApproverKey::Ed25519(_) => None,
        ApproverKey::Passkey(passkey) if passkey.software => Some(ApprovalLevel::Software),
        ApproverKey::Passkey(_) => Some(ApprovalLevel::Passkey),
    }
}

fn can_approve(person: &Person, tier: Tier, least: ApprovalLevel) -> bool {
    person.keys.iter().any(|key| key_level(key, tier).is_some_and(|level| level >= least))
}

/// Those of the rule who may and can approve this request.
fn eligible(
    policy: &Policy,
    action: &Action,
    tier: Tier,
    behind: &[PersonId],
    request: &ActionRequest,
) -> Result<Vec<PersonId>, Reason> {
    let Some(rule) = action.approval.as_ref().filter(|_| tier > Tier::Zero) else {
        return Ok(Vec::new());
    };
    let free = |id: &&PersonId| !behind.contains(id) && id.as_str() != request.user.as_str();
    let able = |id: &&PersonId, least| {
        policy.persons.get(*id).is_some_and(|person| can_approve(person, tier, least))
    };
    let at_all: Vec<_> =
        rule.approvers.iter().filter(free).filter(|id| able(id, ApprovalLevel::None)).collect();
    let threshold = usize::from(rule.threshold);
    if at_all.len() < threshold {
        return Err(Reason::ApproversInsufficient);
    }
    let enough: Vec<_> =
        at_all.into_iter().filter(|id| able(id, action.least.approval)).cloned().collect();
    if enough.len() < threshold { Err(Reason::AssuranceApproval) } else { Ok(enough) }
}

/// All levels but `approval` are as they are; `approval` will be at least the least, if there is
/// one at all: [`eligible`] has left out who could not give it.
fn check_assurance(action: &Action, tier: Tier, situation: &Situation<'_>) -> Result<(), Reason> {
    let approval = if tier > Tier::Zero { ApprovalLevel::Passkey } else { ApprovalLevel::None };
    let reachable = Assurance { approval, ..situation.assurance };
    reachable.shortfall(&action.least).map_or(Ok(()), Err)
}

/// What may happen is what owner and policy both allow.
fn check_credential(
    policy: &Policy,
    service: &Service,
    situation: &Situation<'_>,
) -> Result<(), Reason> {
    let Some(auth) = &service.auth else { return Ok(()) };
    let rule = policy.credentials.get(&auth.credential).ok_or(Reason::CredentialMissing)?;
    let view = situation.credential.as_ref().ok_or(Reason::CredentialMissing)?;
    if view.owner != rule.owner {
        return Err(Reason::CredentialMissing);
    }
    if view.revoked {
        return Err(Reason::CredentialRevoked);
    }
    if view.version < rule.least_version {
        return Err(Reason::CredentialVersion);
    }
    let sent_there = view.endpoints.contains(&service.endpoint) && service.tls.is_within(view.tls);
    if !sent_there || *view.injection != auth.injection {
        return Err(Reason::CredentialScope);
    }
    Ok(())
}

fn uses(
    policy: &Policy,
    request: &ActionRequest,
    usage: &dyn Usage,
    now: Time,
) -> Result<Vec<QuotaUse>, Reason> {
    let mut uses = Vec::new();
    for (id, quota) in &policy.quotas {
        if !counts(quota, &request.service, &request.action) {
            continue;
        }
        let whose = match quota.per {
            QuotaScope::Agent => format!("agent {}", request.agent),
            QuotaScope::Action => format!("action {}.{}", request.service, request.action),
            QuotaScope::Policy => String::from("policy"),
        };
        let amount = match &quota.measure {
            Measure::Count => 1,
            Measure::Sum(param) => {
                let value = request.params.0.get(param).and_then(Value::as_u64);
                value.ok_or(Reason::ParamsInvalid)?
            }
        };
        let key = quota::key(&policy.tenant, &policy.id, id, quota, &whose);
        let sum = usage.used(&key, quota.window, now).checked_add(amount);
        if sum.is_none_or(|sum| sum > quota.limit) {
            return Err(Reason::QuotaExceeded);
        }
        uses.push(QuotaUse { key, window: quota.window, amount, limit: quota.limit });
    }
    Ok(uses)
}
