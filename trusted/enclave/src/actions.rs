//! Steps 3 to 5: decide, ask people, issue a token.

use alloc::{boxed::Box, format, string::String, vec::Vec};

use rand_core::CryptoRng;
use toani_protocol::{
    ActionId, AgentId, Hash, Reason, TenantId, Time,
    approval::Statement,
    canonical,
    disclosure::{self as kept, Kept},
    limits::TOKEN_LIFE_MS_MAX,
    plan::Plan,
    policy::Tier,
    record::{About, RecordKind},
    sign::{Label, Signed},
    token::{self, Claims, ISSUER},
    wire::{ActionState, ActionStatus, Answer, Read},
};

use crate::{
    asked::{self, Asked},
    keys::random,
    life::{Action, Spent, Stage},
    ready::{Ready, Turn},
    refusals::{self, Refusal},
    salts,
    state::{Used, credential_ref},
    tokens,
};

/// How long an action is remembered after it has ended, so that its agent can ask.
const ENDED_ACTION_KEPT_MS: u64 = TOKEN_LIFE_MS_MAX;

/// Decides about a request.
pub(crate) fn decide(turn: &mut Turn<'_>, asked: Result<Asked, Refusal>) -> Result<Answer, Reason> {
    let asked = asked.map_err(|refusal| refusals::refuse(turn, refusal))?;
    refusals::hear(turn, &asked)?;
    if let Some(used) = turn.ready.state.used_key(&asked.idempotency, turn.now) {
        return executed(used, asked.intent);
    }
    if let Some(id) = turn.ready.life.by_key.get(&asked.idempotency).cloned() {
        return again(turn.ready, &id, &asked);
    }
    let request = asked.request.clone();
    let status = allow(turn, asked);
    status.map(Answer::Action).map_err(|reason| refusals::refuse_of(turn, &request, reason))
}

/// The same idempotency key again, after its execution has started.
fn executed(used: &Used, intent: Hash) -> Result<Answer, Reason> {
    if used.intent != intent {
        return Err(Reason::IdempotencyMismatch);
    }
    let state = ActionState::Executed { execution: used.execution.clone() };
    Ok(Answer::Action(ActionStatus { action: used.action.clone(), state }))
}

/// The same idempotency key again, in the same boot.
fn again(ready: &Ready, id: &ActionId, asked: &Asked) -> Result<Answer, Reason> {
    let action = ready.life.actions.get(id).ok_or(Reason::Internal)?;
    if action.asked.intent != asked.intent {
        return Err(Reason::IdempotencyMismatch);
    }
    status(ready, id, action).map(Answer::Action)
}

fn allow(turn: &mut Turn<'_>, asked: Asked) -> Result<ActionStatus, Reason> {
    turn.ready.chain.room(RecordKind::Allowed)?;
    if !turn.ready.state.has_room_to_wait() {
        return Err(Reason::Busy);
    }
    let (granted, credential) = turn.ready.granted(&asked, turn.now)?;
    let (plan_nonce, params_nonce) = (Hash::new(random(turn.rng)), Hash::new(random(turn.rng)));
    let rendered = asked.render(plan_nonce, params_nonce)?;
    let id = ActionId::from_random(random(turn.rng));
    let waits = granted.tier > Tier::Zero;
    let life_ms =
        if waits { u64::from(granted.wait_s).saturating_mul(1000) } else { TOKEN_LIFE_MS_MAX };
    let ends_at = turn.now.plus_ms(life_ms);
    let action = Action {
        asked,
        granted,
        credential,
        plan_hash: rendered.plan_hash,
        plan_nonce,
        params_hash: rendered.params_hash,
        params_nonce,
        statement: None,
        endorsements: Vec::new(),
        stage: Stage::Waiting,
        ends_at,
    };
    enter(turn, id, action, rendered.plan)
}

/// Remembers an allowed action, with its statement or its token, and writes its record.
fn enter(
    turn: &mut Turn<'_>,
    id: ActionId,
    mut action: Action,
    plan: Plan,
) -> Result<ActionStatus, Reason> {
    let (kind, asked) = if action.granted.tier > Tier::Zero {
        let (signed, hash) = statement_of(turn.ready, &id, &action, plan, turn.now)?;
        let bytes = canonical::encode(&signed).map_err(|_| Reason::Internal)?;
        action.statement = Some((bytes, hash));
        (RecordKind::Waiting, kept::Asked::Statement(Box::new(signed)))
    } else {
        action.stage =
            Stage::Granted(Box::new(claims(turn.ready, &id, &action, None, turn.now, turn.rng)));
        let params = action.asked.request.params.clone();
        (RecordKind::Allowed, kept::Asked::Directly { params, plan: Box::new(plan) })
    };
    let kept = Kept { params_nonce: action.params_nonce, asked };
    let Asked { request, .. } = &action.asked;
    let user = salts::user_hash(turn, &request.tenant, &request.user)?;
    let jti = match &action.stage {
        Stage::Granted(claims) => Some(token::jti_hash(&claims.jti)),
        _ => None,
    };
    let about = About { user: Some(user), jti, ..about(turn.ready, &id, &action) };
    turn.ready.life.insert(id.clone(), action)?;
    let blob = Some(turn.keep_sealed(KEPT, &id, &kept)?);
    let about = About { blob, ..about };
    turn.write(kind, about, None)?;
    let action = turn.ready.life.actions.get(&id).ok_or(Reason::Internal)?;
    status(turn.ready, &id, action)
}

/// What every record of an action says.
pub(crate) fn about(ready: &Ready, id: &ActionId, action: &Action) -> About {
    let request = &action.asked.request;
    About {
        tenant: Some(request.tenant.clone()),
        action_id: Some(id.clone()),
        agent: Some(request.agent.clone()),
        service: Some(request.service.clone()),
        action: Some(request.action.clone()),
        params: Some(action.params_hash),
        plan: Some(action.plan_hash),
        policy: Some(action.asked.policy.reference()),
        credential: action.credential.as_ref().map(credential_ref),
        tier: Some(action.granted.tier),
        assurance: Some(ready.assurance(action.asked.level)),
        ..About::default()
    }
}

fn statement_of(
    ready: &Ready,
    id: &ActionId,
    action: &Action,
    plan: Plan,
    now: Time,
) -> Result<(Signed<Statement>, Hash), Reason> {
    let request = &action.asked.request;
    let statement = Statement {
        instance: ready.instance,
        boot: ready.boot().clone(),
        action_id: id.clone(),
        tenant: request.tenant.clone(),
        agent: request.agent.clone(),
        user: request.user.clone(),
        service: request.service.clone(),
        action: request.action.clone(),
        params: request.params.clone(),
        plan,
        policy: action.asked.policy.reference(),
        tier: action.granted.tier,
        approvers: action.granted.approvers.clone(),
        threshold: action.granted.threshold,
        issued_at: now,
        expires_at: action.ends_at,
    };
    let bytes = canonical::encode(&statement).map_err(|_| Reason::Internal)?;
    let hash = Statement::hash_of(&bytes);
    let signed = Signed::by(&ready.keys.chain, Label::Statement, statement);
    signed.map(|signed| (signed, hash)).map_err(|_| Reason::Internal)
}

/// The claims of the action's token.
pub(crate) fn claims(
    ready: &Ready,
    id: &ActionId,
    action: &Action,
    confirmed: Option<Hash>,
    now: Time,
    rng: &mut dyn CryptoRng,
) -> Claims {
    let request = &action.asked.request;
    let policy = action.asked.policy.policy();
    Claims {
        jti: tokens::new_jti(rng),
        iss: String::from(ISSUER),
        sub: format!("{}:{}:{}", request.tenant, request.agent, request.user),
        iat: now,
        exp: now.plus_ms(TOKEN_LIFE_MS_MAX).min(policy.expires),
        boot: ready.boot().clone(),
        action_id: id.clone(),
        policy_id: policy.id.clone(),
        policy_version: policy.version,
        service: request.service.clone(),
        action: request.action.clone(),
        params_hash: action.params_hash,
        plan_hash: action.plan_hash,
        plan_nonce: action.plan_nonce,
        credential_version: action.credential.as_ref().map(|(_, version)| *version),
        risk_tier: action.granted.tier,
        hitl_confirmed: confirmed.is_some(),
        hitl_confirmed_at: confirmed.map(|_| now),
        hitl_proof: confirmed,
        tee_mrenclave: ready.standing.mrenclave,
    }
}

/// What an action has become, with its token if there is one.
pub(crate) fn status(
    ready: &Ready,
    id: &ActionId,
    action: &Action,
) -> Result<ActionStatus, Reason> {
    let count = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
    let state = match &action.stage {
        Stage::Waiting => ActionState::Pending {
            approved: count(action.endorsements.len()),
            threshold: action.granted.threshold,
            expires: action.ends_at,
        },
        Stage::Granted(claims) => ActionState::Token {
            token: tokens::seal(ready, claims, &action.asked.request)?,
            expires: claims.exp,
        },
        Stage::Denied(reason) => ActionState::Denied { reason: *reason },
    };
    Ok(ActionStatus { action: id.clone(), state })
}

#[derive(Debug)]
pub(crate) struct CheckedPoll {
    action: ActionId,
    tenant: TenantId,
    agent: AgentId,
}

pub(crate) fn check_poll(
    ready: &Ready,
    action: ActionId,
    read: &Read,
    now: Time,
) -> Result<CheckedPoll, Reason> {
    let (tenant, agent) = asked::check_read(ready, read, action.as_str(), now)?;
    Ok(CheckedPoll { action, tenant, agent })
}

pub(crate) fn poll(turn: &mut Turn<'_>, checked: &CheckedPoll) -> Result<Answer, Reason> {
    expire(turn)?;
    let own = |spent: &&Spent| spent.tenant == checked.tenant && spent.agent == checked.agent;
    if let Some(spent) = turn.ready.life.spent(&checked.action).filter(own) {
        let state = ActionState::Executed { execution: spent.execution.clone() };
        return Ok(Answer::Action(ActionStatus { action: checked.action.clone(), state }));
    }
    let action = turn.ready.life.action(&checked.action)?;
    if action.asked.request.tenant != checked.tenant || action.asked.request.agent != checked.agent
    {
        return Err(Reason::ActionNotFound);
    }
    status(turn.ready, &checked.action, action).map(Answer::Action)
}

/// The statement of an action that waits.
pub(crate) fn statement(ready: &Ready, id: &ActionId) -> Result<Answer, Reason> {
    let action = ready.life.action(id)?;
    let (statement, _) = action.statement.as_ref().ok_or(Reason::ApprovalNotOpen)?;
    Ok(Answer::Statement { statement: statement.clone() })
}

/// What sealed blobs of an action are: what was asked, and what people answered.
pub(crate) const KEPT: &[u8] = b"toani/v1/params";
pub(crate) const EVIDENCE: &[u8] = b"toani/v1/evidence";

/// Opens what is kept of an action. What it says anybody can hold against the records.
pub(crate) fn disclose(
    ready: &Ready,
    action: &ActionId,
    kept: &[u8],
    evidence: Option<&[u8]>,
) -> Result<Answer, Reason> {
    let open = |what, sealed| {
        let opened = ready.keys.open(&[what, action.as_str().as_bytes()], sealed);
        opened.map_err(|_| Reason::ActionNotFound)
    };
    let evidence = evidence.map(|sealed| open(EVIDENCE, sealed)).transpose()?;
    Ok(Answer::Disclosed { kept: open(KEPT, kept)?, evidence })
}

/// Ends a wait or voids a token. `kept` names the signed denial, where there is one.
pub(crate) fn deny(
    turn: &mut Turn<'_>,
    id: &ActionId,
    reason: Reason,
    kind: RecordKind,
    kept: About,
) -> Result<(), Reason> {
    let action = turn.ready.life.action(id)?;
    let About { hitl_proof, blob, .. } = kept;
    let about = About { reason: Some(reason), hitl_proof, blob, ..about(turn.ready, id, action) };
    turn.write(kind, about, None)?;
    if let Some(action) = turn.ready.life.actions.get_mut(id) {
        action.stage = Stage::Denied(reason);
    }
    turn.ready.life.move_end(id, turn.now.plus_ms(ENDED_ACTION_KEPT_MS));
    Ok(())
}

/// Voids the token of an action, issued or still to be issued.
pub(crate) fn revoke_token(
    turn: &mut Turn<'_>,
    tenant: TenantId,
    id: &ActionId,
) -> Result<Answer, Reason> {
    let action = turn.ready.life.action(id)?;
    let open = matches!(action.stage, Stage::Waiting | Stage::Granted(_));
    if action.asked.request.tenant != tenant || !open {
        return Err(Reason::ActionNotFound);
    }
    deny(turn, id, Reason::TokenRevoked, RecordKind::TokenRevoked, About::default())?;
    Ok(Answer::Done)
}

/// Waits that took too long are denials; what ended long ago is forgotten. In bounded steps: the
/// host calls again.
pub(crate) fn expire(turn: &mut Turn<'_>) -> Result<(), Reason> {
    const AT_ONCE_MAX: usize = 256;
    for _ in 0..AT_ONCE_MAX {
        let Some((ends_at, id)) = turn.ready.life.ends.first().cloned() else { break };
        if turn.now < ends_at {
            break;
        }
        let action = turn.ready.life.action(&id);
        let waits = action.is_ok_and(|action| matches!(action.stage, Stage::Waiting));
        if waits {
            deny(turn, &id, Reason::ApprovalExpired, RecordKind::Denied, About::default())?;
        } else {
            turn.ready.life.remove(&id);
        }
    }
    Ok(())
}
