//! `/v1/actions`: an agent asks, and looks what became of it.

use axum::{
    Json,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use toani_enclave_host::now;
use toani_protocol::{
    ActionId, Reason,
    wire::{ActionState, ActionStatus, Answer, Command},
};

use super::{
    Api, earlier,
    views::{ActionView, ProblemView, SignedView, Who},
};
use crate::{
    ask::{self, BODY_BYTES_MAX},
    body, pipeline,
    problem::Problem,
};

/// Asks for an action.
///
/// The body is an ActionRequest, or one with its signature. An `Idempotency-Key` header must be
/// the request's own key, or stands in for it.
#[utoipa::path(
    post,
    path = "/v1/actions",
    request_body(content = SignedView),
    responses(
        (status = 200, description = "Decided: a token is ready", body = ActionView),
        (status = 202, description = "Waits for people", body = ActionView),
        (status = 403, description = "Denied, with the reason as code", body = ProblemView),
        (status = "default", description = "Refused", body = ProblemView)
    )
)]
pub(super) async fn ask(
    State(api): State<Api>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let body = body::read_json(request, BODY_BYTES_MAX).await?;
    let asked = ask::read_action(&body, &headers, &api.here(), now())?;
    let agent = asked.claimed();
    let status = api.within_rate(agent, pipeline::decide(&api.plane, asked)).await?;
    shown(status)
}

/// What became of an action; its agent alone may ask.
#[utoipa::path(
    get,
    path = "/v1/actions/{id}",
    params(("id" = String, Path), Who),
    responses(
        (status = 200, description = "`pending`, `token`, `executed`, `denied` or `ended`", body = ActionView),
        (status = "default", description = "Refused", body = ProblemView)
    )
)]
pub(super) async fn look(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(who): Query<Who>,
    headers: HeaderMap,
) -> Result<Json<ActionView>, Problem> {
    let action = ActionId::new(&id).map_err(|_| Reason::ActionNotFound)?;
    let read = ask::read_read(&headers, who.tenant.as_deref(), who.agent.as_deref())?;
    let poll = Command::Poll { action: action.clone(), read: read.clone() };
    match api.plane.answer(poll).await {
        Ok(Answer::Action(status)) => Ok(Json(status.into())),
        Ok(_) => Err(api.plane.broken()),
        // It has verified who reads, and knows what is pending in this boot alone.
        Err(problem) if problem.code() == Reason::ActionNotFound.code() => {
            earlier::became(&api, action, &read).await.map(Json)
        }
        Err(problem) => Err(problem),
    }
}

fn shown(status: ActionStatus) -> Result<Response, Problem> {
    let action = status.action.clone();
    let code = match &status.state {
        ActionState::Denied { reason } => {
            return Err(Problem::from(*reason).with("action_id", action.as_str()));
        }
        ActionState::Pending { .. } => StatusCode::ACCEPTED,
        ActionState::Token { .. } | ActionState::Executed { .. } => StatusCode::OK,
    };
    let place = format!("/v1/actions/{action}");
    Ok((code, [(header::LOCATION, place)], Json(ActionView::from(status))).into_response())
}
