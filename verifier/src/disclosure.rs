//! Disclosed actions: what was asked, and who answered, held against the records' commitments.

use std::collections::BTreeSet;

use serde::Serialize;
use toani_audit::bundle::FileKind;
use toani_policy::answer_level;
use toani_protocol::{
    ActionId, ActionName, AgentId, Hash, PersonId, ServiceId, TenantId, UserId,
    approval::{Evidence, Statement, Verdict},
    assurance::ApprovalLevel,
    canonical::{self, Json},
    disclosure::{Asked, Disclosure, hitl_proof},
    plan::params_commitment,
    policy::Policy,
    record::{Record, RecordKind},
    sign::{Label, Signed},
    trust::TrustFile,
};

use crate::problem::Problem;

/// One action that was shown: everything here is what the records commit to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Disclosed {
    pub action_id: ActionId,
    pub agent: Option<AgentId>,
    pub service: Option<ServiceId>,
    pub action: Option<ActionName>,
    /// Whom the agent claimed to act for, where people were asked.
    pub user: Option<UserId>,
    pub params: Json,
    /// `METHOD https://host/path`.
    pub target: String,
    /// Whose answers ended the wait.
    pub answers: Vec<Answered>,
}

/// One person's answer; its signature holds under a key of the policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answered {
    pub person: PersonId,
    pub verdict: Verdict,
    pub key: ApprovalLevel,
}

/// What a disclosure is held against.
pub(crate) struct Held<'a> {
    pub(crate) trust: &'a TrustFile,
    pub(crate) tenant: &'a TenantId,
    /// The records of the action that are in the bundle.
    pub(crate) records: Vec<&'a Record>,
    /// A policy of the bundle by its hash.
    pub(crate) policy: &'a dyn Fn(&Hash) -> Option<Policy>,
}

pub(crate) fn read(bytes: &[u8], kind: &FileKind) -> Result<Disclosure, Problem> {
    let disclosure = Disclosure::decode(bytes).map_err(|_| Problem::Disclosure)?;
    match kind {
        FileKind::Disclosure(action) if *action == disclosure.action_id => Ok(disclosure),
        _ => Err(Problem::Disclosure),
    }
}

/// Holds a disclosure against the records of its action.
pub(crate) fn verify(disclosure: &Disclosure, held: &Held<'_>) -> Result<Disclosed, Problem> {
    let kept = &disclosure.kept;
    let commitment = params_commitment(&kept.params_nonce, kept.params());
    let params = commitment.map_err(|_| Problem::Disclosure)?;
    let (_, plan) = kept.plan().seal().map_err(|_| Problem::Disclosure)?;
    // A record that ends what a boot left says neither; all others of an action say both.
    let asked = held.records.iter().find(|record| record.about.params.is_some());
    let asked = asked.ok_or(Problem::DisclosureRecord)?;
    let opened = |record: &&Record| {
        record.about.params.is_none_or(|stated| stated == params)
            && record.about.plan.is_none_or(|stated| stated == plan)
    };
    if asked.about.plan.is_none() || !held.records.iter().all(opened) {
        return Err(Problem::DisclosureRecord);
    }
    let (user, answers) = match &kept.asked {
        Asked::Statement(signed) => {
            (Some(signed.payload.user.clone()), answers(disclosure, signed, held)?)
        }
        Asked::Directly { .. } => {
            let asks_people = |record: &&Record| {
                record.kind == RecordKind::Waiting || record.about.hitl_proof.is_some()
            };
            if disclosure.evidence.is_some() || held.records.iter().any(asks_people) {
                return Err(Problem::DisclosureRecord);
            }
            (None, Vec::new())
        }
    };
    let plan = kept.plan();
    Ok(Disclosed {
        action_id: disclosure.action_id.clone(),
        agent: asked.about.agent.clone(),
        service: asked.about.service.clone(),
        action: asked.about.action.clone(),
        user,
        params: kept.params().clone(),
        target: format!("{} https://{}{}", plan.method.as_str(), plan.endpoint, plan.target()),
        answers,
    })
}

/// The statement is the log key's and tells what the records tell; the evidence is what they hash,
/// and each answer is by a person and key of the policy.
fn answers(
    disclosure: &Disclosure,
    signed: &Signed<Statement>,
    held: &Held<'_>,
) -> Result<Vec<Answered>, Problem> {
    let statement = &signed.payload;
    let own = signed.verify(Label::Statement, &[held.trust.log.key], 1).is_ok()
        && statement.instance == held.trust.instance
        && statement.tenant == *held.tenant
        && statement.action_id == disclosure.action_id;
    if !own || !held.records.iter().all(|record| agrees(statement, record)) {
        return Err(Problem::DisclosureRecord);
    }
    let evidence = disclosure.evidence.as_deref();
    let bytes = evidence.map(canonical::encode).transpose().map_err(|_| Problem::Disclosure)?;
    let opened = bytes.map(|bytes| hitl_proof(&bytes));
    let proofs: BTreeSet<Hash> =
        held.records.iter().filter_map(|record| record.about.hitl_proof).collect();
    if proofs != opened.into_iter().collect() {
        return Err(Problem::DisclosureRecord);
    }
    let Some(evidence) = evidence else { return Ok(Vec::new()) };
    let policy = (held.policy)(&statement.policy.hash).ok_or(Problem::DisclosureRecord)?;
    let hash = canonical::encode(statement).map_err(|_| Problem::Disclosure)?;
    let hash = Statement::hash_of(&hash);
    let answered = |evidence: &Evidence| {
        let own = evidence.action_id == disclosure.action_id
            && statement.approvers.contains(&evidence.person);
        let key = answer_level(&policy, evidence, &hash, statement.tier).filter(|_| own)?;
        Some(Answered { person: evidence.person.clone(), verdict: evidence.verdict, key })
    };
    let answers: Option<Vec<Answered>> = evidence.iter().map(answered).collect();
    let answers = answers.ok_or(Problem::DisclosureApproval)?;
    if decided(&answers, statement, held) { Ok(answers) } else { Err(Problem::DisclosureApproval) }
}

/// Whether the answers lead to what the records say: enough different persons said yes, or one
/// said no.
fn decided(answers: &[Answered], statement: &Statement, held: &Held<'_>) -> bool {
    let denied = held.records.iter().any(|record| record.kind == RecordKind::Denied);
    if denied {
        return matches!(answers, [one] if one.verdict == Verdict::Deny);
    }
    let persons: BTreeSet<&PersonId> = answers.iter().map(|answer| &answer.person).collect();
    persons.len() == answers.len()
        && persons.len() >= usize::from(statement.threshold)
        && answers.iter().all(|answer| answer.verdict == Verdict::Approve)
}

/// Whether a statement and a record of its action tell the same, where the record tells.
fn agrees(statement: &Statement, record: &Record) -> bool {
    fn same<T: PartialEq>(stated: &Option<T>, value: &T) -> bool {
        stated.as_ref().is_none_or(|stated| stated == value)
    }
    let about = &record.about;
    // What a boot left is ended by a later one.
    (record.kind == RecordKind::Ended || record.boot == statement.boot)
        && same(&about.agent, &statement.agent)
        && same(&about.service, &statement.service)
        && same(&about.action, &statement.action)
        && same(&about.policy, &statement.policy)
        && same(&about.tier, &statement.tier)
}

#[cfg(test)]
mod tests;
