//! What the instance says about itself, its policies and its vault.

use axum::{
    Json,
    extract::{Query, Request, State},
    http::StatusCode,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use toani_protocol::{
    Reason,
    ids::TenantId,
    instance::Manifest,
    wire::{Answer, Command, Facts},
};

use super::{
    Api,
    views::{InstanceView, OfTenant, ProblemView},
};
use crate::{ask, body, plane::Plane, problem::Problem};

/// Manifest, boot, keys, and the evidence that vouches for them.
#[utoipa::path(
    get,
    path = "/v1/instance",
    responses(
        (status = 200, description = "What the instance says; `toani instance show` verifies its evidence against a trust file", body = InstanceView),
        (status = "default", description = "Refused", body = ProblemView)
    )
)]
pub(super) async fn instance(State(api): State<Api>) -> Result<Json<InstanceView>, Problem> {
    match api.plane.answer(Command::Status).await? {
        Answer::Facts(facts) => Ok(Json(view(&api.plane, facts)?)),
        _ => Err(api.plane.broken()),
    }
}

pub(crate) fn view(plane: &Plane, facts: Facts) -> Result<InstanceView, Problem> {
    let manifest = plane.manifest();
    let log_origin = Manifest::decode(manifest).map_err(|_| Reason::Internal)?.log_origin;
    Ok(InstanceView {
        manifest: serde_json::from_slice(manifest).map_err(|_| Reason::Internal)?,
        instance: facts.instance.to_string(),
        boot: facts.boot.to_string(),
        mrenclave: facts.mrenclave.to_string(),
        tee: facts.tee,
        evidence: serde_json::from_slice(&facts.evidence).map_err(|_| Reason::Internal)?,
        chain_key: facts.chain_key.to_string(),
        intake_key: BASE64URL_NOPAD.encode(&facts.intake_key),
        channel: facts.channel.to_string(),
        log_origin,
        admission: facts.admission.to_string(),
        admission_version: facts.admission_version,
        hand_overs: facts.hand_overs,
        sandbox: facts.sandbox,
        size: facts.size,
        durable: facts.durable,
        open_executions: facts.open_executions,
        pending_actions: facts.pending_actions,
    })
}

/// The tenant's policies, without their content.
#[utoipa::path(
    get,
    path = "/v1/policies",
    params(OfTenant),
    responses(
        (status = 200, description = "`{\"policies\": [...]}`"),
        (status = "default", description = "Refused", body = ProblemView)
    )
)]
pub(super) async fn policies(
    State(api): State<Api>,
    Query(of): Query<OfTenant>,
) -> Result<Json<Value>, Problem> {
    let tenant = TenantId::new(&of.tenant).map_err(|_| Reason::TenantUnknown)?;
    api.plane.lists_are_current().await;
    let policies = api.plane.keep().policies(Some(tenant)).await;
    Ok(Json(json!({ "policies": policies.map_err(|_| Problem::busy())? })))
}

/// The tenant's sealed credentials, by name; nobody can read one out.
#[utoipa::path(
    get,
    path = "/v1/vault/credentials",
    params(OfTenant),
    responses(
        (status = 200, description = "`{\"credentials\": [...]}`"),
        (status = "default", description = "Refused", body = ProblemView)
    )
)]
pub(super) async fn credentials(
    State(api): State<Api>,
    Query(of): Query<OfTenant>,
) -> Result<Json<Value>, Problem> {
    let tenant = TenantId::new(&of.tenant).map_err(|_| Reason::TenantUnknown)?;
    api.plane.lists_are_current().await;
    let credentials = api.plane.keep().credentials(Some(tenant)).await;
    Ok(Json(json!({ "credentials": credentials.map_err(|_| Problem::busy())? })))
}

/// No credential comes in here, plain or sealed; the refusal says where.
#[utoipa::path(
    post,
    path = "/v1/vault/credentials",
    responses((status = "default", description = "Always refused", body = ProblemView))
)]
pub(super) async fn no_credential(request: Request) -> Problem {
    let body = body::read_json(request, ask::BODY_BYTES_MAX).await;
    let value = body.ok().and_then(|body| serde_json::from_slice::<Value>(&body).ok());
    let plain = value.is_some_and(|value| {
        ask::holds_credential(&value) || value.get("value").is_some_and(|value| !value.is_null())
    });
    if plain {
        return Reason::PlaintextCredential.into();
    }
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "Sealed credentials come in by the administration socket: `toani credential add`.",
    )
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", responses((status = 200, description = "It answers")))]
pub(super) async fn healthy() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// Actions can be executed: enclave, log and sandbox are there, and containers come in time.
#[utoipa::path(
    get,
    path = "/readyz",
    responses(
        (status = 200, description = "Ready"),
        (status = 503, description = "Something is missing", body = ProblemView)
    )
)]
pub(super) async fn ready(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    if !api.plane.is_sound() {
        return Err(Reason::NotReady.into());
    }
    if !api.plane.sandbox().is_connected() {
        return Err(Reason::SandboxUnavailable.into());
    }
    if api.plane.sandbox().is_exhausted() {
        return Err(Reason::Busy.into());
    }
    Ok(Json(json!({ "status": "ready", "boot": api.plane.facts().boot })))
}
