//! The routes for agents and for everybody on this machine, under `/v1`.

mod actions;
mod approvals;
mod audit;
mod earlier;
mod executions;
mod instance;
mod views;

pub(crate) use instance::view as instance_view;

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use toani_links::ServerLink;
use toani_protocol::{
    Reason,
    ids::{AgentId, TenantId},
};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    ask::Here,
    limits::{Buckets, Empty},
    listen::Peer,
    plane::Plane,
    problem::Problem,
};

/// What the routes share.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) plane: Arc<Plane>,
    pub(crate) limits: Arc<Limits>,
}

/// Rates of agents, as they claim to be, and of addresses.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) agents: Buckets<(TenantId, AgentId)>,
    pub(crate) peers: Buckets<Peer>,
}

impl Api {
    fn here(&self) -> Here {
        let facts = self.plane.facts();
        Here { instance: facts.instance, boot: facts.boot.clone() }
    }

    /// Does what was asked within the rate of the agent that it names. What the enclave finds not
    /// to be the agent's own does not count, so that nobody can use up another's rate.
    async fn within_rate<T>(
        &self,
        agent: (TenantId, AgentId),
        done: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        self.limits.agents.take(agent.clone(), Instant::now()).map_err(too_fast)?;
        let done = done.await;
        if let Err(problem) = &done
            && [Reason::AgentProof, Reason::AgentUnknown]
                .map(Reason::code)
                .contains(&problem.code())
        {
            self.limits.agents.give_back(&agent);
        }
        done
    }
}

fn too_fast(empty: Empty) -> Problem {
    let status = StatusCode::TOO_MANY_REQUESTS;
    Problem::new(status, "rate_limit", "Too many requests; slow down.")
        .retry_after_s(empty.retry_after_s)
}

#[derive(OpenApi)]
#[openapi(info(
    title = "toani",
    description = "Governed actions: ask, wait for approval, execute, verify. Refusals are RFC 9457 problems; `code` is stable."
))]
struct Document;

fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(actions::ask))
        .routes(routes!(actions::look))
        .routes(routes!(executions::execute))
        .routes(routes!(executions::look))
        .routes(routes!(approvals::statement, approvals::answer))
        .routes(routes!(instance::policies))
        .routes(routes!(instance::credentials, instance::no_credential))
        .routes(routes!(instance::instance))
        .routes(routes!(audit::checkpoint))
        .routes(routes!(audit::records))
        .routes(routes!(audit::proof))
        .routes(routes!(instance::healthy))
        .routes(routes!(instance::ready))
}

/// The OpenAPI 3.1 document, as `/openapi.json` serves it.
pub fn openapi() -> String {
    let (_, document) = routes().split_for_parts();
    serde_json::to_string(&document).unwrap_or_default()
}

pub(crate) fn router(plane: Arc<Plane>, limits: Arc<Limits>) -> Router {
    let api = Api { plane, limits };
    let document: Arc<str> = openapi().into();
    let (router, _) = routes().split_for_parts();
    router
        .route(
            "/openapi.json",
            get(move || async move {
                ([(header::CONTENT_TYPE, "application/json")], document.to_string())
            }),
        )
        .fallback(async || {
            Problem::new(
                StatusCode::NOT_FOUND,
                "route_not_found",
                "See /openapi.json for what is here.",
            )
        })
        .method_not_allowed_fallback(async || {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            Problem::new(
                status,
                "method_not_allowed",
                "See /openapi.json for what this route takes.",
            )
        })
        .layer(middleware::from_fn_with_state(api.clone(), guard))
        .with_state(api)
}

/// What every request passes first: its host is this server, and its address is not too fast.
async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    if !names_this_server(&request) {
        // A web page whose name was rebound to loopback sends its own name here.
        let status = StatusCode::MISDIRECTED_REQUEST;
        let detail = "The Host header must name this server: localhost, 127.0.0.1, [::1], or a \
                      name in its certificate.";
        return Problem::new(status, "host", detail).into_response();
    }
    let peer = request.extensions().get::<Peer>().copied().unwrap_or(Peer::Owner);
    if let Err(empty) = api.limits.peers.take(peer, Instant::now()) {
        return too_fast(empty).into_response();
    }
    next.run(request).await
}

fn names_this_server(request: &Request) -> bool {
    let host = request.headers().get(header::HOST);
    let Some(host) = host.and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let link = request.extensions().get::<Arc<ServerLink>>();
    ["localhost", "127.0.0.1", "[::1]"].contains(&name)
        || link.is_some_and(|link| link.is_named(name.trim_matches(['[', ']'])))
}
