//! Administration, for the owner of the data folder alone: a Unix socket of mode 0600, whose
//! clients are of the same user, or root.
//!
//! Documents come signed by their own authors; the enclave verifies them. This interface adds
//! nothing to what a signature allows, but revocations need none: stopping is always allowed.

mod documents;
mod export;
mod lists;
mod users;

use std::sync::Arc;

use axum::{
    Router,
    http::StatusCode,
    routing::{get, post, put},
};

use crate::{plane::Plane, problem::Problem};

pub(crate) fn router(plane: Arc<Plane>) -> Router {
    Router::new()
        .route("/admin/v1/status", get(lists::status))
        .route("/admin/v1/admission", put(documents::admit))
        .route("/admin/v1/policies", put(documents::activate_policy).get(lists::policies))
        .route("/admin/v1/policies/revoke", post(documents::revoke_policy))
        .route("/admin/v1/policy-keys", put(documents::change_policy_key).get(lists::policy_keys))
        .route("/admin/v1/credentials", put(documents::put_credential).get(lists::credentials))
        .route("/admin/v1/credentials/revoke", post(documents::revoke_credential))
        .route("/admin/v1/agents/revoke", post(documents::revoke_agent))
        .route("/admin/v1/tokens/revoke", post(documents::revoke_token))
        .route("/admin/v1/approvals", get(lists::approvals))
        .route("/admin/v1/executions", get(lists::executions))
        .route("/admin/v1/documents/{hash}", get(lists::document))
        .route("/admin/v1/audit/export", post(export::export))
        .route("/admin/v1/audit/user", post(users::find))
        .route("/admin/v1/audit/forget", post(users::forget))
        .fallback(async || {
            let detail = "docs/PROTOCOL.md lists the routes of administration.";
            Problem::new(StatusCode::NOT_FOUND, "route_not_found", detail)
        })
        .with_state(plane)
}
