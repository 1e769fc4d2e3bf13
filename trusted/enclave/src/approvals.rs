//! Approvals: each person's signature over one statement, counted by person.

use alloc::{boxed::Box, vec::Vec};

use toani_protocol::{
    ActionId, Reason, Time,
    approval::{Evidence, Verdict},
    assurance::ApprovalLevel,
    canonical,
    disclosure::hitl_proof,
    record::{About, RecordKind},
    token,
    wire::{Answer, ApprovalStatus},
};

use crate::{
    actions,
    life::{Action, Endorsement, Stage},
    ready::{Ready, Turn},
};

pub(crate) fn check(ready: &Ready, bytes: &[u8], now: Time) -> Result<Endorsement, Reason> {
    let evidence = Evidence::decode(bytes).map_err(|_| Reason::RequestMalformed)?;
    let action = ready.life.action(&evidence.action_id)?;
    if !matches!(action.stage, Stage::Waiting) {
        return Err(Reason::ApprovalNotOpen);
    }
    if now >= action.ends_at {
        return Err(Reason::ApprovalExpired);
    }
    let level = verify(action, &evidence).ok_or(Reason::ApprovalEvidence)?;
    Ok(Endorsement { evidence, level })
}

/// The level of this person's signature, if it counts.
fn verify(action: &Action, evidence: &Evidence) -> Option<ApprovalLevel> {
    let granted = &action.granted;
    if !granted.approvers.contains(&evidence.person) {
        return None;
    }
    let (_, statement) = action.statement.as_ref()?;
    let policy = action.asked.policy.policy();
    let level = toani_policy::answer_level(policy, evidence, statement, granted.tier)?;
    (level >= granted.least_approval).then_some(level)
}

pub(crate) fn apply(turn: &mut Turn<'_>, checked: Endorsement) -> Result<Answer, Reason> {
    // First of all: an approval that counts without its record would be one that nobody can audit.
    turn.ready.chain.room(RecordKind::Endorsed)?;
    let id = checked.evidence.action_id.clone();
    let action = turn.ready.life.actions.get_mut(&id).ok_or(Reason::ActionNotFound)?;
    // Others may have answered since the check.
    if !matches!(action.stage, Stage::Waiting) || turn.now >= action.ends_at {
        return Err(Reason::ApprovalNotOpen);
    }
    if checked.evidence.verdict == Verdict::Deny {
        let kept = keep(turn, &id, &[&checked.evidence])?;
        actions::deny(turn, &id, Reason::ApprovalDenied, RecordKind::Denied, kept)?;
        return Ok(Answer::Approval { status: ApprovalStatus::Denied });
    }
    let person = &checked.evidence.person;
    if action.endorsements.iter().any(|there| there.evidence.person == *person) {
        return Err(Reason::ApprovalTwice);
    }
    action.endorsements.push(checked);
    let approved = u8::try_from(action.endorsements.len()).unwrap_or(u8::MAX);
    let threshold = action.granted.threshold;
    if approved < threshold {
        let action = turn.ready.life.actions.get(&id).ok_or(Reason::Internal)?;
        let about = actions::about(turn.ready, &id, action);
        turn.write(RecordKind::Endorsed, about, None)?;
        return Ok(Answer::Approval { status: ApprovalStatus::Counted { approved, threshold } });
    }
    approve(turn, &id)?;
    Ok(Answer::Approval { status: ApprovalStatus::Approved })
}

/// Enough persons approved: keeps their evidence and readies the token.
fn approve(turn: &mut Turn<'_>, id: &ActionId) -> Result<(), Reason> {
    let action = turn.ready.life.actions.get(id).ok_or(Reason::Internal)?;
    let evidence: Vec<Evidence> =
        action.endorsements.iter().map(|endorsement| endorsement.evidence.clone()).collect();
    let kept = keep(turn, id, &evidence.iter().collect::<Vec<_>>())?;
    let action = turn.ready.life.actions.get(id).ok_or(Reason::Internal)?;
    let claims = actions::claims(turn.ready, id, action, kept.hitl_proof, turn.now, turn.rng);
    let about = About {
        hitl_proof: kept.hitl_proof,
        blob: kept.blob,
        jti: Some(token::jti_hash(&claims.jti)),
        ..actions::about(turn.ready, id, action)
    };
    turn.write(RecordKind::Approved, about, None)?;
    let ends_at = claims.exp;
    if let Some(action) = turn.ready.life.actions.get_mut(id) {
        action.stage = Stage::Granted(Box::new(claims));
    }
    turn.ready.life.move_end(id, ends_at);
    Ok(())
}

/// Keeps what people signed, sealed, for those who may be told later; a record names it.
fn keep(turn: &mut Turn<'_>, id: &ActionId, evidence: &[&Evidence]) -> Result<About, Reason> {
    let bytes = canonical::encode(evidence).map_err(|_| Reason::Internal)?;
    let hitl_proof = Some(hitl_proof(&bytes));
    let blob = Some(turn.keep_sealed(actions::EVIDENCE, id, &evidence)?);
    Ok(About { hitl_proof, blob, ..About::default() })
}

/// The weakest approval that counted.
pub(crate) fn level(action: &Action) -> ApprovalLevel {
    let levels = action.endorsements.iter().map(|endorsement| endorsement.level);
    levels.min().unwrap_or(ApprovalLevel::None)
}
