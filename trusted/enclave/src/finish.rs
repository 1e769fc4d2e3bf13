//! Step 11: judge the outcome, sign receipt and record.

use toani_protocol::{
    ExecutionId, Hash, Reason, Time,
    canonical::{self, Json},
    job::{JobEnd, JobOutcome, SealedOutcome},
    limits::{FRAME_BYTES_MAX, RESULT_RETENTION_MS},
    record::{About, ExecutionResult, Outcome, Receipt, ReceiptFormat, RecordKind},
    sign::{Label, Signed},
    wire::{self, Answer, Finished, Read},
};

use crate::{
    asked, cut,
    keys::{self, CryptoError, NONCE_BYTES},
    life::InFlight,
    ready::{Ready, Turn},
    redeem,
    state::{SealedField, credential_ref},
};

/// An outcome that came back under the job's own key, or none.
#[derive(Debug)]
pub(crate) struct CheckedFinish {
    execution: ExecutionId,
    /// Whether a job had left when this was checked.
    released: bool,
    judged: Judged,
}

/// What an outcome means.
#[derive(Debug, PartialEq)]
struct Judged {
    outcome: Outcome,
    upstream_status: Option<u16>,
    result: Option<Json>,
    /// The supervisor says that nothing was connected, or no job was released.
    give_back: bool,
}

impl Judged {
    fn bare(outcome: Outcome, give_back: bool) -> Self {
        Self { outcome, upstream_status: None, result: None, give_back }
    }
}

pub(crate) fn check(
    ready: &Ready,
    execution: ExecutionId,
    sealed: Option<SealedOutcome>,
) -> Result<CheckedFinish, Reason> {
    let flight = ready.life.flight(&execution)?;
    let judged = match (&flight.job, sealed) {
        // No job ever left: nothing can have happened.
        (None, _) => Judged::bare(Outcome::Aborted, true),
        (Some(_), None) => Judged::bare(Outcome::Unknown, false),
        (Some(_), Some(sealed)) => match open_outcome(flight, &sealed) {
            Ok(outcome) => judge(flight, outcome),
            // What does not open tells nothing, and what happened is not known.
            Err(CryptoError) => Judged::bare(Outcome::Unknown, false),
        },
    };
    Ok(CheckedFinish { execution, released: flight.job.is_some(), judged })
}

fn open_outcome(flight: &InFlight, sealed: &SealedOutcome) -> Result<JobOutcome, CryptoError> {
    let job = flight.job.as_ref().ok_or(CryptoError)?;
    let aad = wire::encode(&job.header)?;
    // The key is exported for this one message, so that its nonce can be zero.
    let nonce = [0; NONCE_BYTES];
    let bytes = keys::decrypt(job.outcome_key.bytes(), &nonce, &aad, &sealed.ciphertext)?;
    Ok(wire::decode(&bytes, FRAME_BYTES_MAX)?)
}

fn judge(flight: &InFlight, outcome: JobOutcome) -> Judged {
    let give_back = !outcome.connected;
    if outcome.secret_seen {
        return Judged::bare(Outcome::SecretSeen, false);
    }
    match outcome.end {
        JobEnd::Response { status, body } => response(flight, status, &body),
        JobEnd::Redirected { status } => {
            let upstream_status = Some(status);
            Judged { upstream_status, ..Judged::bare(Outcome::Redirected, give_back) }
        }
        JobEnd::TooLarge | JobEnd::Malformed => Judged::bare(Outcome::ResponseUnusable, give_back),
        JobEnd::TlsRefused => Judged::bare(Outcome::TlsRefused, give_back),
        JobEnd::AddressRefused => Judged::bare(Outcome::AddressRefused, give_back),
        JobEnd::Unreachable => Judged::bare(Outcome::Unreachable, give_back),
        JobEnd::TimedOut if give_back => Judged::bare(Outcome::Unreachable, true),
        JobEnd::TimedOut => Judged::bare(Outcome::TimedOut, false),
        JobEnd::ConnectorFailed if give_back => Judged::bare(Outcome::ConnectorFailed, true),
        // It died after it had connected: the upstream may have acted.
        JobEnd::ConnectorFailed => Judged::bare(Outcome::Unknown, false),
    }
}

fn response(flight: &InFlight, status: u16, body: &[u8]) -> Judged {
    let upstream_status = Some(status);
    let expected = match &flight.rendered.plan.success {
        Some(statuses) => statuses.contains(&status),
        None => (200..300).contains(&status),
    };
    if !expected {
        return Judged { upstream_status, ..Judged::bare(Outcome::UpstreamRefused, false) };
    }
    let request = &flight.asked.request;
    let action = flight.asked.policy.action(&request.service, &request.action);
    match action.map(|(_, action)| cut::cut(body, &action.result)) {
        Some(Ok(result)) => Judged {
            outcome: Outcome::Succeeded,
            upstream_status,
            result: Some(result),
            give_back: false,
        },
        _ => Judged { upstream_status, ..Judged::bare(Outcome::ResponseUnusable, false) },
    }
}

pub(crate) fn apply(turn: &mut Turn<'_>, checked: CheckedFinish) -> Result<Answer, Reason> {
    let flight = turn.ready.life.flight(&checked.execution)?;
    // A job that left after the check: "nothing can have happened" holds no longer.
    let judged = if flight.job.is_some() == checked.released {
        checked.judged
    } else {
        Judged::bare(Outcome::Unknown, false)
    };
    end(turn, &checked.execution, judged, None)
}

/// The host gives an execution up before a job exists.
pub(crate) fn abort(
    turn: &mut Turn<'_>,
    execution: &ExecutionId,
    reason: Reason,
) -> Result<Answer, Reason> {
    let flight = turn.ready.life.flight(execution)?;
    if flight.job.is_some() {
        return Err(Reason::IdempotencyInProgress);
    }
    end(turn, execution, Judged::bare(Outcome::Aborted, true), Some(reason))
}

/// Signs the receipt, keeps the result sealed, and writes `finished`.
fn end(
    turn: &mut Turn<'_>,
    execution: &ExecutionId,
    judged: Judged,
    reason: Option<Reason>,
) -> Result<Answer, Reason> {
    let flight = turn.ready.life.in_flight.remove(execution).ok_or(Reason::ExecutionNotFound)?;
    let receipt = receipt(turn.ready, execution, &flight, &judged, turn.now)?;
    let receipt_bytes = canonical::encode(&receipt).map_err(|_| Reason::Internal)?;
    let request = &flight.asked.request;
    let about = redeem::about(execution, &flight);
    let result = ExecutionResult {
        action_id: flight.action.clone(),
        execution_id: execution.clone(),
        outcome: judged.outcome,
        upstream_status: judged.upstream_status,
        result: judged.result,
        receipt,
    };
    let result = canonical::encode(&result).map_err(|_| Reason::Internal)?;
    let bound = result_blob(execution, request.tenant.as_str(), request.agent.as_str());
    let sealed = turn.ready.keys.seal(&bound, &result)?;
    let about = About {
        outcome: Some(judged.outcome),
        reason,
        execution_receipt: Some(Receipt::hash_of(&receipt_bytes)),
        blob: Some(turn.keep(sealed, Some(RESULT_RETENTION_MS))),
        ..about
    };
    let field = SealedField::Finished { give_back: judged.give_back };
    let index = turn.write(RecordKind::Finished, about, Some(field))?;
    let size = index.saturating_add(1);
    Ok(Answer::Finished(Finished { outcome: judged.outcome, result, size }))
}

fn receipt(
    ready: &Ready,
    execution: &ExecutionId,
    flight: &InFlight,
    judged: &Judged,
    now: Time,
) -> Result<Signed<Receipt>, Reason> {
    let result_hash = match &judged.result {
        Some(result) => Some(Hash::of(&canonical::encode(result).map_err(|_| Reason::Internal)?)),
        None => None,
    };
    let request = &flight.asked.request;
    let receipt = Receipt {
        format: ReceiptFormat::V1,
        instance: ready.instance,
        boot: ready.boot().clone(),
        action_id: flight.action.clone(),
        execution_id: execution.clone(),
        tenant: request.tenant.clone(),
        agent: request.agent.clone(),
        user: request.user.clone(),
        service: request.service.clone(),
        action: request.action.clone(),
        params_hash: flight.rendered.params_hash,
        params_nonce: flight.rendered.params_nonce,
        plan_hash: flight.rendered.plan_hash,
        policy: flight.asked.policy.reference(),
        credential: flight.credential.as_ref().map(credential_ref),
        tier: flight.tier,
        hitl_proof: flight.hitl_proof,
        jti_hash: flight.jti,
        outcome: judged.outcome,
        upstream_status: judged.upstream_status,
        result_hash,
        assurance: flight.assurance,
        admission: ready.standing.admission,
        tee_mrenclave: ready.standing.mrenclave,
        evidence: ready.standing.evidence,
        sandbox: flight.sandbox,
        started: flight.started,
        started_at: flight.started_at,
        finished_at: now,
    };
    Signed::by(&ready.keys.chain, Label::Receipt, receipt).map_err(|_| Reason::Internal)
}

/// What a sealed result is bound to.
fn result_blob<'a>(execution: &'a ExecutionId, tenant: &'a str, agent: &'a str) -> [&'a [u8]; 4] {
    [b"toani/v1/result", execution.as_str().as_bytes(), tenant.as_bytes(), agent.as_bytes()]
}

/// Opens a sealed result for the agent that it belongs to.
pub(crate) fn open(
    ready: &Ready,
    execution: &ExecutionId,
    blob: &[u8],
    read: &Read,
    now: Time,
) -> Result<Answer, Reason> {
    let (tenant, agent) = asked::check_read(ready, read, execution.as_str(), now)?;
    let bound = result_blob(execution, tenant.as_str(), agent.as_str());
    let result = ready.keys.open(&bound, blob).map_err(|_| Reason::ExecutionNotFound)?;
    Ok(Answer::Result { result })
}
