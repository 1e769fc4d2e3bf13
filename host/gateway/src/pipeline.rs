//! One action, step by step, as docs/ARCHITECTURE.md tells it. Steps 1 and 2 are in `ask.rs`.
//!
//! Whoever asks may go away at any time: what is written here runs in a task of its own, to its
//! definite end.

use std::{sync::Arc, time::Duration};

use toani_enclave_host::now;
use toani_protocol::{
    ExecutionId, Reason, canonical,
    limits::EVIDENCE_RETENTION_MS,
    record::ExecutionResult,
    wire::{ActionStatus, Answer, Command, Earlier, Finished, Read, Redeemed},
};

use crate::{
    ask::Asked,
    plane::{Plane, Settled},
    problem::Problem,
    sandbox::Arrival,
};

/// How long a job may wait for the channel to be open.
const RELEASE_MAX: Duration = Duration::from_secs(10);

/// What an execution became.
#[derive(Debug)]
pub(crate) enum Executed {
    Now(ExecutionId, Finished),
    /// The same idempotency key came before, and nothing was done twice.
    /// With the proof by which its result may be read again.
    Before(Earlier, Read),
}

/// Steps 3 to 5: the enclave verifies, renders and decides; a token is ready, people are asked, or
/// the answer is no.
pub(crate) async fn decide(plane: &Arc<Plane>, asked: Asked) -> Result<ActionStatus, Problem> {
    let Asked { request, proof, .. } = asked;
    match plane.answer(Command::Decide { request, proof }).await? {
        Answer::Action(status) => Ok(status),
        _ => Err(plane.broken()),
    }
}

/// Steps 6 to 12: redeem, record, release, run, record, answer.
pub(crate) async fn execute(
    plane: Arc<Plane>,
    token: Option<String>,
    asked: Asked,
) -> Result<Executed, Problem> {
    let _place = plane.place_for_execution().await?;
    // Before anything is used up: the same token may come again.
    if plane.sandbox().is_exhausted() {
        return Err(Problem::busy());
    }
    let Asked { request, proof, .. } = asked;

    // 6. The enclave checks everything again, reserves quota and consumes the token.
    let again = Read::Asked { request: request.clone(), proof: proof.clone() };
    let command = Command::Execute { token, request, proof };
    let redeemed = match plane.call(command).await?.answer? {
        Answer::Redeemed(redeemed) => redeemed,
        Answer::Earlier(earlier) => return Ok(Executed::Before(earlier, again)),
        _ => return Err(plane.broken()),
    };
    // From here on the execution is open, and each way out of this function ends it.
    match run(&plane, &redeemed).await {
        Ok(finished) => Ok(Executed::Now(redeemed.execution, finished)),
        Err(Ended(problem)) => Err(problem
            .with("action_id", redeemed.action.as_str())
            .with("execution_id", redeemed.execution.as_str())),
    }
}

/// The execution has ended, and this is why.
struct Ended(Problem);

async fn run(plane: &Arc<Plane>, redeemed: &Redeemed) -> Result<Finished, Ended> {
    let execution = &redeemed.execution;
    // 6. The replay store consumes the token's id a second time, against an older enclave.
    if let Err(reason) = plane.consume(redeemed).await {
        return Err(abort(plane, execution, reason).await);
    }
    // 7. The record `started` is durable, and the enclave knows.
    if let Err(reason) = plane.acknowledged(redeemed.size).await {
        return Err(abort(plane, execution, reason).await);
    }
    // 8. The credential is opened, and leaves the enclave on the channel to the supervisor.
    let arrival = match release(plane, execution).await {
        Ok(arrival) => arrival,
        Err(reason) => return Err(abort(plane, execution, reason).await),
    };
    // 9 and 10. A new container acts, and dies; the supervisor scrubs what it says, and answers.
    tokio::select! {
        () = arrival.wait(plane.outcome_wait()) => {}
        _ = plane.failed() => {}
    }
    // 11 and 12. Receipt and record `finished`; the answer waits until that is durable.
    finish(plane, execution).await.map_err(Ended)
}

/// Lets the job out. While both sides of the channel prove anew who they are, it waits.
async fn release(plane: &Arc<Plane>, execution: &ExecutionId) -> Result<Arrival, Reason> {
    let mut standing = plane.sandbox().standing();
    let limit = tokio::time::sleep(RELEASE_MAX);
    tokio::pin!(limit);
    loop {
        let before = *standing.borrow_and_update();
        let arrival = plane.sandbox().expect(execution.clone());
        let release = Command::Release { execution: execution.clone() };
        match plane.answer(release).await {
            Ok(Answer::Done) => return Ok(arrival),
            Ok(_) => return Err(Reason::Internal),
            Err(problem) => match Reason::from_code(problem.code()) {
                Some(Reason::SandboxUnavailable) => {}
                reason => return Err(reason.unwrap_or(Reason::Internal)),
            },
        }
        tokio::select! {
            _ = standing.wait_for(|now| now.opened_after(&before)) => {}
            () = &mut limit => return Err(Reason::SandboxUnavailable),
            _ = plane.failed() => return Err(Reason::SandboxUnavailable),
        }
    }
}

/// Without an outcome nobody knows what happened, and the record says so.
async fn finish(plane: &Arc<Plane>, execution: &ExecutionId) -> Result<Finished, Problem> {
    let execution = execution.clone();
    let Settled { answer, size } = plane.call(Command::Finish { execution }).await?;
    // Log and store sync at the same time.
    let (durable, ()) = tokio::join!(plane.durable(size), keep_receipt(plane, &answer));
    durable?;
    match answer? {
        Answer::Finished(finished) => Ok(finished),
        _ => Err(plane.broken()),
    }
}

/// Keeps a copy of the receipt for proof bundles. The agent's own is the one that counts.
async fn keep_receipt(plane: &Arc<Plane>, answer: &Result<Answer, Reason>) {
    let Ok(Answer::Finished(finished)) = answer else {
        return;
    };
    let result = serde_json::from_slice::<ExecutionResult>(&finished.result).ok();
    let receipt = result.and_then(|result| canonical::encode(&result.receipt).ok());
    let Some(receipt) = receipt else {
        return;
    };
    let until = now().plus_ms(EVIDENCE_RETENTION_MS);
    if let Err(error) = plane.keep().put_receipt(&receipt, until).await {
        tracing::warn!(%error, "a receipt could not be kept for bundles");
    }
}

/// Ends an execution for which no job was released.
async fn abort(plane: &Arc<Plane>, execution: &ExecutionId, reason: Reason) -> Ended {
    let execution = execution.clone();
    let command = Command::Abort { execution, reason };
    match plane.answer(command).await {
        Ok(_) => Ended(reason.into()),
        Err(problem) => Ended(problem),
    }
}
