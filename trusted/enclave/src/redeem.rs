//! Step 6 and 7: redeem a token, check everything again, reserve, and write `started`.

use alloc::boxed::Box;

use rand_core::CryptoRng;
use toani_policy::Granted;
use toani_protocol::{
    ActionId, ExecutionId, Hash, Reason, Time,
    assurance::{ApprovalLevel, Assurance},
    disclosure::{self as kept, Kept},
    limits::{OPEN_EXECUTIONS_MAX, TOKEN_LIFE_MS_MAX},
    policy::Tier,
    record::{About, RecordKind},
    request::AgentProof,
    token::{self, Claims},
    wire::{Answer, Earlier, Redeemed},
};

use crate::{
    actions, approvals,
    asked::{self, Asked, Rendered},
    keys::random,
    life::{InFlight, Stage},
    ready::{Ready, Turn},
    refusals::{self, Refusal},
    salts,
    state::{CredentialVersion, SealedField, Used, credential_ref},
    tokens,
};

/// A request that its agent made, and the claims of the token that came with it.
#[derive(Debug)]
pub(crate) struct CheckedExecute {
    asked: Asked,
    /// The token may fail to open and the request still get its earlier answer.
    claims: Option<Result<Claims, Reason>>,
}

pub(crate) fn check(
    ready: &Ready,
    token: Option<&str>,
    request: &[u8],
    proof: &AgentProof,
    now: Time,
) -> Result<CheckedExecute, Refusal> {
    let asked = asked::check(ready, request, proof, now)?;
    let claims = token.map(|token| tokens::open(ready, token, &asked.request));
    Ok(CheckedExecute { asked, claims })
}

/// Proof that everything was checked again at this moment and that the jti was consumed. Made by
/// the two ways to redeem, and nowhere else.
#[derive(Debug)]
struct RedeemedToken {
    action: ActionId,
    jti: Hash,
    expires: Time,
    granted: Granted,
    credential: Option<CredentialVersion>,
    approval: ApprovalLevel,
    hitl_proof: Option<Hash>,
    rendered: Rendered,
}

pub(crate) fn apply(
    turn: &mut Turn<'_>,
    checked: Result<CheckedExecute, Refusal>,
) -> Result<Answer, Reason> {
    let CheckedExecute { asked, claims } =
        checked.map_err(|refusal| refusals::refuse(turn, refusal))?;
    refusals::hear(turn, &asked)?;
    if let Some(used) = turn.ready.state.used_key(&asked.idempotency, turn.now) {
        return earlier(used, asked.intent);
    }
    let redeemed = match claims {
        Some(claims) => claims.and_then(|claims| redeem(turn.ready, &asked, &claims, turn.now)),
        None => redeem_directly(turn.ready, &asked, turn.now, turn.rng),
    };
    match redeemed.and_then(|redeemed| room(turn.ready, &redeemed).map(|()| redeemed)) {
        Ok(redeemed) => start(turn, asked, redeemed),
        Err(reason) => Err(refusals::refuse_of(turn, &asked.request, reason)),
    }
}

/// What an idempotency key became: the same answer for the same intent.
pub(crate) fn earlier(used: &Used, intent: Hash) -> Result<Answer, Reason> {
    if used.intent != intent {
        return Err(Reason::IdempotencyMismatch);
    }
    Ok(Answer::Earlier(Earlier {
        action: used.action.clone(),
        execution: used.execution.clone(),
        outcome: used.outcome,
        blob: used.blob,
    }))
}

fn room(ready: &Ready, redeemed: &RedeemedToken) -> Result<(), Reason> {
    ready.chain.room(RecordKind::Started)?;
    place(ready, redeemed)?;
    let free = ready.state.has_room() && ready.state.open.len() < OPEN_EXECUTIONS_MAX;
    if free { Ok(()) } else { Err(Reason::Busy) }
}

/// The sandbox that runs it, and the root file system there that its class names.
fn place(ready: &Ready, redeemed: &RedeemedToken) -> Result<(Hash, Hash), Reason> {
    let peer = ready.sandbox().ok_or(Reason::SandboxUnavailable)?;
    let root = peer.root_file_system(redeemed.rendered.plan.class.root_file_system);
    Ok((peer.measurement(), root.ok_or(Reason::RootFileSystemUnavailable)?))
}

/// A token with its request: the plan, the policy, the credential, revocations, quotas and times
/// are what they were when it was issued, or it is refused.
fn redeem(
    ready: &Ready,
    asked: &Asked,
    claims: &Claims,
    now: Time,
) -> Result<RedeemedToken, Reason> {
    if ready.life.spent(&claims.action_id).is_some() {
        return Err(Reason::TokenUsed);
    }
    let action = ready.life.actions.get(&claims.action_id).ok_or(Reason::TokenExpired)?;
    let request = &asked.request;
    if action.asked.request.tenant != request.tenant || action.asked.request.agent != request.agent
    {
        return Err(Reason::TokenInvalid);
    }
    match &action.stage {
        Stage::Granted(issued) if **issued == *claims => {}
        Stage::Denied(reason) => return Err(*reason),
        Stage::Granted(_) | Stage::Waiting => return Err(Reason::TokenInvalid),
    }
    if now >= claims.exp {
        return Err(Reason::TokenExpired);
    }
    // The idempotency key as well: under another one, the first would ask for the same anew.
    let same_key = asked.idempotency == action.asked.idempotency;
    if asked.intent != action.asked.intent || asked.level != action.asked.level || !same_key {
        return Err(Reason::TokenMismatch);
    }
    if asked.policy.reference() != action.asked.policy.reference() {
        return Err(Reason::PolicyChanged);
    }
    let (granted, credential) = ready.granted(asked, now)?;
    if granted.tier > claims.risk_tier {
        return Err(Reason::PolicyChanged);
    }
    if credential.as_ref().map(|(_, version)| *version) != claims.credential_version {
        return Err(Reason::CredentialChanged);
    }
    let rendered = asked.render(claims.plan_nonce, action.params_nonce)?;
    if rendered.plan_hash != claims.plan_hash {
        return Err(Reason::TokenMismatch);
    }
    Ok(RedeemedToken {
        action: claims.action_id.clone(),
        jti: token::jti_hash(&claims.jti),
        expires: claims.exp,
        granted,
        credential,
        approval: approvals::level(action),
        hitl_proof: claims.hitl_proof,
        rendered,
    })
}

/// Tier 0: decided, issued and redeemed in one step. The token never leaves the enclave, so it is
/// never encrypted; its jti is consumed like any other.
fn redeem_directly(
    ready: &Ready,
    asked: &Asked,
    now: Time,
    rng: &mut dyn CryptoRng,
) -> Result<RedeemedToken, Reason> {
    if ready.life.by_key.contains_key(&asked.idempotency) {
        // The action was asked for with this key before: its token is the way to go on.
        return Err(Reason::TokenRequired);
    }
    let (granted, credential) = ready.granted(asked, now)?;
    if granted.tier > Tier::Zero {
        return Err(Reason::TokenRequired);
    }
    let (plan_nonce, params_nonce) = (Hash::new(random(rng)), Hash::new(random(rng)));
    let rendered = asked.render(plan_nonce, params_nonce)?;
    Ok(RedeemedToken {
        action: ActionId::from_random(random(rng)),
        jti: token::jti_hash(&tokens::new_jti(rng)),
        expires: now.plus_ms(TOKEN_LIFE_MS_MAX),
        granted,
        credential,
        approval: ApprovalLevel::None,
        hitl_proof: None,
        rendered,
    })
}

/// Writes `started`, which reserves the quotas and the idempotency key, and puts the execution in
/// flight.
fn start(turn: &mut Turn<'_>, asked: Asked, redeemed: RedeemedToken) -> Result<Answer, Reason> {
    let (sandbox, root_file_system) = place(turn.ready, &redeemed)?;
    let assurance = Assurance { approval: redeemed.approval, ..turn.ready.assurance(asked.level) };
    let execution = ExecutionId::from_random(random(turn.rng));
    let user = salts::user_hash(turn, &asked.request.tenant, &asked.request.user)?;
    let sealed = SealedField::Started {
        idempotency: asked.idempotency,
        intent: asked.intent,
        uses: redeemed.granted.uses,
    };
    let flight = InFlight {
        action: redeemed.action.clone(),
        asked,
        user,
        rendered: redeemed.rendered,
        credential: redeemed.credential,
        tier: redeemed.granted.tier,
        hitl_proof: redeemed.hitl_proof,
        jti: redeemed.jti,
        assurance,
        sandbox,
        root_file_system,
        started: turn.ready.chain.size(),
        started_at: turn.now,
        job: None,
    };
    // What was asked for before is kept already.
    let direct = !turn.ready.life.actions.contains_key(&redeemed.action);
    let kept = direct.then(|| Kept {
        params_nonce: flight.rendered.params_nonce,
        asked: kept::Asked::Directly {
            params: flight.asked.request.params.clone(),
            plan: Box::new(flight.rendered.plan.clone()),
        },
    });
    let keep = kept.map(|kept| turn.keep_sealed(actions::KEPT, &redeemed.action, &kept));
    let about = About { blob: keep.transpose()?, ..about(&execution, &flight) };
    let index = turn.write(RecordKind::Started, about, Some(sealed))?;
    turn.ready.life.spend(&redeemed.action, &execution);
    turn.ready.life.in_flight.insert(execution.clone(), flight);
    Ok(Answer::Redeemed(Redeemed {
        action: redeemed.action,
        execution,
        jti: redeemed.jti,
        jti_expires: redeemed.expires,
        size: index.saturating_add(1),
    }))
}

/// What the records of an execution say.
pub(crate) fn about(execution: &ExecutionId, flight: &InFlight) -> About {
    let request = &flight.asked.request;
    About {
        tenant: Some(request.tenant.clone()),
        action_id: Some(flight.action.clone()),
        execution_id: Some(execution.clone()),
        agent: Some(request.agent.clone()),
        user: Some(flight.user),
        service: Some(request.service.clone()),
        action: Some(request.action.clone()),
        params: Some(flight.rendered.params_hash),
        plan: Some(flight.rendered.plan_hash),
        policy: Some(flight.asked.policy.reference()),
        credential: flight.credential.as_ref().map(credential_ref),
        tier: Some(flight.tier),
        hitl_proof: flight.hitl_proof,
        jti: Some(flight.jti),
        assurance: Some(flight.assurance),
        sandbox: Some(flight.sandbox),
        root_file_system: Some(flight.root_file_system),
        ..About::default()
    }
}
