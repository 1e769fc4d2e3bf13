//! `/v1/approvals`: people see what waits, and answer.

use axum::{
    Json,
    extract::{Path, Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use toani_protocol::{
    ActionId, Reason,
    approval::Evidence,
    limits::EVIDENCE_BYTES_MAX,
    wire::{Answer, Command},
};

use super::{
    Api, earlier,
    views::{ApprovalView, ProblemView},
};
use crate::{body, problem::Problem};

/// The statement that the enclave signed: what will be done, complete and readable.
#[utoipa::path(
    get,
    path = "/v1/approvals/{id}",
    params(("id" = String, Path, description = "The action's id")),
    responses(
        (status = 200, description = "A Signed<Statement>, canonical"),
        (status = "default", description = "Refused", body = ProblemView)
    )
)]
pub(super) async fn statement(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let action = ActionId::new(&id).map_err(|_| Reason::ActionNotFound)?;
    match api.plane.answer(Command::Statement { action: action.clone() }).await {
        Ok(Answer::Statement { statement }) => {
            Ok(([(header::CONTENT_TYPE, "application/json")], statement).into_response())
        }
        Ok(_) => Err(api.plane.broken()),
        Err(problem) => Err(earlier::not_open(&api, action, problem).await),
    }
}

/// One person's answer: an Evidence, which carries a signature over yes or no.
#[utoipa::path(
    post,
    path = "/v1/approvals/{id}",
    params(("id" = String, Path, description = "The action's id")),
    request_body(description = "An Evidence", content_type = "application/json"),
    responses(
        (status = 200, description = "It counts", body = ApprovalView),
        (status = "default", description = "Refused", body = ProblemView)
    )
)]
pub(super) async fn answer(
    State(api): State<Api>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<ApprovalView>, Problem> {
    let (bytes, _) = body::read_canonical(request, EVIDENCE_BYTES_MAX).await?;
    let evidence = Evidence::decode(&bytes).map_err(|_| Reason::DocumentMalformed)?;
    if evidence.action_id.as_str() != id {
        return Err(Reason::DocumentMalformed.into());
    }
    match api.plane.answer(Command::Approve { evidence: bytes }).await {
        Ok(Answer::Approval { status }) => Ok(Json(status.into())),
        Ok(_) => Err(api.plane.broken()),
        Err(problem) => Err(earlier::not_open(&api, evidence.action_id, problem).await),
    }
}
