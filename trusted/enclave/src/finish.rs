//! Step 11: judge the outcome, sign receipt and record.

use alloc::vec::Vec;

use toani_protocol::{
    ExecutionId, Hash, Reason, Time,
    canonical::{self, Json, SAFE_INTEGER_MAX},
    job::{JobEnd, JobOutcome, OutcomeMessage},
    limits::{CONNECTIONS_MAX, MESSAGE_BYTES_MAX, RESULT_RETENTION_MS},
    policy::Endpoint,
    record::{About, Connection, ExecutionResult, Outcome, Receipt, ReceiptFormat, RecordKind},
    sign::{Label, Signed},
    wire::{self, Answer, Finished, Read},
};

use crate::{
    asked, cut,
    life::InFlight,
    ready::{Ready, Turn},
    redeem,
    state::{SealedField, credential_ref},
};

/// What came of a job, as it stood when this was checked.
#[derive(Debug)]
pub(crate) struct CheckedFinish {
    execution: ExecutionId,
    stage: Stage,
    judged: Judged,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Here,
    Released,
    Answered,
}

impl Stage {
    fn of(flight: &InFlight) -> Self {
        match &flight.job {
            None => Self::Here,
            Some(job) if job.outcome.is_none() => Self::Released,
            Some(_) => Self::Answered,
        }
    }
}

/// What an outcome means.
#[derive(Debug, PartialEq)]
struct Judged {
    outcome: Outcome,
    upstream_status: Option<u16>,
    result: Option<Json>,
    connections: Vec<Connection>,
    /// The supervisor says that nothing was connected, or no job was released.
    give_back: bool,
}

impl Judged {
    fn bare(outcome: Outcome, give_back: bool) -> Self {
        Self { outcome, upstream_status: None, result: None, connections: Vec::new(), give_back }
    }
}

pub(crate) fn check(ready: &Ready, execution: ExecutionId) -> Result<CheckedFinish, Reason> {
    let flight = ready.life.flight(&execution)?;
    let judged = match &flight.job {
        // No job ever left: nothing can have happened.
        None => Judged::bare(Outcome::Aborted, true),
        Some(job) => match job.outcome.as_ref().and_then(|bytes| read(bytes, flight)) {
            Some(outcome) => judge(flight, outcome),
            // What cannot be read or true tells nothing, and what happened is not known.
            None => Judged::bare(Outcome::Unknown, false),
        },
    };
    Ok(CheckedFinish { execution, stage: Stage::of(flight), judged })
}

fn read(message: &[u8], flight: &InFlight) -> Option<JobOutcome> {
    // A list without end would fill the memory before it could be refused.
    let head = postcard::take_from_bytes::<(ExecutionId, Hash, usize)>(message);
    head.ok().filter(|((.., count), _)| *count <= CONNECTIONS_MAX)?;
    let message = wire::decode::<OutcomeMessage>(message, MESSAGE_BYTES_MAX);
    let outcome = message.ok()?.outcome;
    let endpoint = &flight.rendered.plan.endpoint;
    let possible = |connection: &Connection| is_possible(connection, endpoint);
    outcome.connections.iter().all(possible).then_some(outcome)
}

/// The plan allows no other endpoint, and canonical JSON no larger count.
fn is_possible(connection: &Connection, endpoint: &Endpoint) -> bool {
    let Connection { host, port, bytes_out, bytes_in } = connection;
    let countable = |bytes: u64| i64::try_from(bytes).is_ok_and(|bytes| bytes <= SAFE_INTEGER_MAX);
    (host, port) == (&endpoint.host, &endpoint.port)
        && countable(*bytes_out)
        && countable(*bytes_in)
}

fn judge(flight: &InFlight, outcome: JobOutcome) -> Judged {
    let give_back = !outcome.connected();
    let judged = if outcome.secret_seen {
        Judged::bare(Outcome::SecretSeen, false)
    } else {
        judge_end(flight, outcome.end, give_back)
    };
    Judged { connections: outcome.connections, ..judged }
}

fn judge_end(flight: &InFlight, end: JobEnd, give_back: bool) -> Judged {
    match end {
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
            upstream_status,
            result: Some(result),
            ..Judged::bare(Outcome::Succeeded, false)
        },
        _ => Judged { upstream_status, ..Judged::bare(Outcome::ResponseUnusable, false) },
    }
}

pub(crate) fn apply(turn: &mut Turn<'_>, checked: CheckedFinish) -> Result<Answer, Reason> {
    let flight = turn.ready.life.flight(&checked.execution)?;
    // A job that left after the check: "nothing can have happened" holds no longer.
    let judged = if Stage::of(flight) == checked.stage {
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
    let flight = turn.ready.life.land(execution)?;
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
        connections: Some(judged.connections).filter(|opened| !opened.is_empty()),
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
        root_file_system: flight.root_file_system,
        connections: judged.connections.clone(),
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
