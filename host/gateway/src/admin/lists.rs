//! What the owner looks at: projections of the log, and the documents that it names.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::header,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use toani_protocol::{
    Hash, Reason,
    ids::TenantId,
    wire::{Answer, Command},
};

use crate::{api::instance_view, plane::Plane, problem::Problem};

type Shared = State<Arc<Plane>>;

/// Rows of one answer, unless it is asked for more.
const ROWS: u32 = 100;

#[derive(Debug, Deserialize)]
pub(super) struct OfTenant {
    tenant: Option<TenantId>,
    limit: Option<u32>,
    /// The record `started` of the last execution of the page before.
    before: Option<u64>,
}

pub(super) async fn status(State(plane): Shared) -> Result<Json<Value>, Problem> {
    let Answer::Facts(facts) = plane.answer(Command::Status).await? else {
        return Err(plane.broken());
    };
    let instance = instance_view(&plane, facts)?;
    let log = plane.log();
    Ok(Json(json!({
        "tee_means": instance.tee.means(),
        "sandbox_means": instance.sandbox.map(|level| level.means()),
        "instance": instance,
        "proven_at": *plane.proven().borrow(),
        "ready": plane.is_sound() && plane.sandbox().is_connected(),
        "sandbox_connected": plane.sandbox().is_connected(),
        "log": {
            "durable": log.size(),
            "signatures_verified": log.signatures_verified(),
            "failure": log.failure().map(|failure| failure.to_string()),
        },
    })))
}

pub(super) async fn policies(
    State(plane): Shared,
    Query(of): Query<OfTenant>,
) -> Result<Json<Value>, Problem> {
    plane.lists_are_current().await;
    let rows = plane.keep().policies(of.tenant).await;
    Ok(Json(json!({ "policies": rows.map_err(|_| Problem::busy())? })))
}

#[derive(Debug, Deserialize)]
pub(super) struct PolicyKeysOf {
    tenant: TenantId,
}

/// The tenant's policy keys, newest first.
pub(super) async fn policy_keys(
    State(plane): Shared,
    Query(of): Query<PolicyKeysOf>,
) -> Result<Json<Value>, Problem> {
    plane.lists_are_current().await;
    let rows = plane.keep().policy_keys(of.tenant).await;
    Ok(Json(json!({ "keys": rows.map_err(|_| Problem::busy())? })))
}

pub(super) async fn credentials(
    State(plane): Shared,
    Query(of): Query<OfTenant>,
) -> Result<Json<Value>, Problem> {
    plane.lists_are_current().await;
    let rows = plane.keep().credentials(of.tenant).await;
    Ok(Json(json!({ "credentials": rows.map_err(|_| Problem::busy())? })))
}

/// Executions, newest first.
pub(super) async fn executions(
    State(plane): Shared,
    Query(of): Query<OfTenant>,
) -> Result<Json<Value>, Problem> {
    plane.lists_are_current().await;
    let limit = of.limit.unwrap_or(ROWS);
    let rows = plane.keep().executions(of.tenant, of.before, limit).await;
    Ok(Json(json!({ "executions": rows.map_err(|_| Problem::busy())? })))
}

/// The actions that wait for people, oldest first.
pub(super) async fn approvals(
    State(plane): Shared,
    Query(of): Query<OfTenant>,
) -> Result<Json<Value>, Problem> {
    plane.lists_are_current().await;
    let rows = plane.keep().waiting(of.tenant, of.limit.unwrap_or(ROWS)).await;
    Ok(Json(json!({ "approvals": rows.map_err(|_| Problem::busy())? })))
}

/// A document that a record names: a policy, an admission list.
pub(super) async fn document(
    State(plane): Shared,
    Path(hash): Path<String>,
) -> Result<Response, Problem> {
    let hash: Hash = hash.parse().map_err(|_| Reason::DocumentMalformed)?;
    let blob = plane.keep().blob(hash).await.map_err(|_| Problem::busy())?;
    let blob = blob.ok_or(Reason::PolicyUnavailable)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], blob).into_response())
}
