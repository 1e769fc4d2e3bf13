//! `/v1/executions`: a token is redeemed, and its result told again.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use toani_enclave_host::now;
use toani_protocol::{
    AgentId, ExecutionId, Hash, Reason, TenantId,
    wire::{Answer, Command, Earlier, Read},
};
use toani_store::ExecutionRow;

use super::{
    Api, earlier,
    views::{ExecutionRequestView, ExecutionView, ProblemView, Who},
};
use crate::{
    ask::{self, BODY_BYTES_MAX},
    body,
    pipeline::{self, Executed},
    problem::Problem,
};

/// A record that is on its way is in the log within this time.
const KEPT_WITHIN: Duration = Duration::from_secs(2);

/// Says that nothing was done for this answer: the same request came before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Executes: redeems a token with its request, or a request alone where the tier is 0.
///
/// It runs to its end even if the client goes away. The same idempotency key gets the same answer.
#[utoipa::path(
    post,
    path = "/v1/executions",
    request_body(content = ExecutionRequestView),
    responses(
        (status = 200, description = "It ended: an ExecutionResult with outcome, result and receipt; for a signing agent that asks again, or where the result is lost, a summary", body = ExecutionView),
        (status = 409, description = "The same request still executes", body = ProblemView),
        (status = "default", description = "Refused", body = ProblemView)
    )
)]
pub(super) async fn execute(
    State(api): State<Api>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let body = body::read_json(request, BODY_BYTES_MAX).await?;
    let (token, asked) = ask::read_execution(&body, &headers, &api.here(), now())?;
    let agent = asked.claimed();
    let executed = async {
        let running = tokio::spawn(pipeline::execute(api.plane.clone(), token, asked));
        running.await.map_err(|_| api.plane.broken())?
    };
    match api.within_rate(agent, executed).await? {
        Executed::Now(execution, finished) => {
            let place = format!("/v1/executions/{execution}");
            let headers =
                [(header::CONTENT_TYPE, "application/json".to_owned()), (header::LOCATION, place)];
            Ok((headers, finished.result).into_response())
        }
        Executed::Before(earlier, read) => replayed(&api, earlier, read).await,
    }
}

async fn replayed(api: &Api, earlier: Earlier, read: Read) -> Result<Response, Problem> {
    let Some(outcome) = earlier.outcome else {
        return Err(Problem::from(Reason::IdempotencyInProgress)
            .with("action_id", earlier.action.as_str())
            .with("execution_id", earlier.execution.as_str()));
    };
    if let Some(blob) = earlier.blob
        && let Some(result) = open(api, &earlier.execution, blob, read).await?
    {
        let headers = [(header::CONTENT_TYPE, "application/json")];
        return Ok((headers, [(REPLAYED, "true")], result).into_response());
    }
    let summary = ExecutionView {
        action_id: Some(earlier.action.to_string()),
        execution_id: earlier.execution.to_string(),
        outcome: outcome.as_str().to_owned(),
    };
    let place = format!("/v1/executions/{}", earlier.execution);
    Ok(([(REPLAYED, "true".to_owned()), (header::LOCATION, place)], Json(summary)).into_response())
}

/// The result of an execution, for its agent alone.
#[utoipa::path(
    get,
    path = "/v1/executions/{id}",
    params(("id" = String, Path), Who),
    responses(
        (status = 200, description = "An ExecutionResult: outcome, result and receipt; where no result is kept, a summary", body = ExecutionView),
        (status = 202, description = "It runs", body = ExecutionView),
        (status = "default", description = "Refused", body = ProblemView)
    )
)]
pub(super) async fn look(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(who): Query<Who>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let execution = ExecutionId::new(&id).map_err(|_| Reason::ExecutionNotFound)?;
    let read = ask::read_read(&headers, who.tenant.as_deref(), who.agent.as_deref())?;
    api.plane.lists_are_current().await;
    let found = api.plane.keep().execution(execution.clone()).await;
    let found = found.map_err(|_| Problem::busy())?;
    let found = found.ok_or(Reason::ExecutionNotFound)?;
    if let Some(blob) = found.result
        && let Some(result) = open(&api, &execution, blob, read.clone()).await?
    {
        return Ok(([(header::CONTENT_TYPE, "application/json")], result).into_response());
    }
    is_its_agents(&api, &found, read).await?;
    let summary = ExecutionView {
        action_id: found.action_id.map(|action| action.to_string()),
        execution_id: id,
        outcome: found.outcome.unwrap_or_else(|| "running".to_owned()),
    };
    let status = if found.ended.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(summary)).into_response())
}

/// Refuses a reader that is not the execution's agent. Where a result is kept, opening it does so.
async fn is_its_agents(api: &Api, found: &ExecutionRow, read: Read) -> Result<(), Problem> {
    let reader = earlier::reader(&read);
    // Nothing opens, but before it says so the enclave verifies who reads.
    let command = Command::Open { execution: found.id.clone(), blob: Vec::new(), read };
    match api.plane.answer(command).await {
        Err(problem) if problem.code() == Reason::ExecutionNotFound.code() => {}
        Err(problem) => return Err(problem),
        Ok(_) => return Err(api.plane.broken()),
    }
    let own = |(tenant, agent): (TenantId, AgentId)| {
        tenant == found.tenant && found.agent.as_deref() == Some(agent.as_str())
    };
    if reader.is_some_and(own) { Ok(()) } else { Err(Reason::ExecutionNotFound.into()) }
}

/// A blob that the enclave has named. Its record may be on its way to the log just now, and the
/// blob with it: then a commit brings it. None was deleted after its time, or lost when the machine
/// lost power.
async fn kept(api: &Api, blob: Hash) -> Result<Option<Vec<u8>>, Problem> {
    let mut commits = api.plane.log().commits();
    let found = async {
        loop {
            // The lists and the blobs are written in one order: what is listed is kept.
            api.plane.lists_are_current().await;
            let found = api.plane.keep().blob(blob).await.map_err(|_| Problem::busy())?;
            if found.is_some() {
                return Ok(found);
            }
            commits.changed().await.map_err(|_| Problem::busy())?;
        }
    };
    tokio::time::timeout(KEPT_WITHIN, found).await.unwrap_or(Ok(None))
}

/// The enclave opens a sealed result, if it is still kept, for whom it belongs to.
async fn open(
    api: &Api,
    execution: &ExecutionId,
    blob: Hash,
    read: Read,
) -> Result<Option<Vec<u8>>, Problem> {
    let Some(blob) = kept(api, blob).await? else {
        return Ok(None);
    };
    let command = Command::Open { execution: execution.clone(), blob, read };
    match api.plane.answer(command).await? {
        Answer::Result { result } => Ok(Some(result)),
        _ => Err(api.plane.broken()),
    }
}
