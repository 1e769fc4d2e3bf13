//! `/v1/audit`: the log, for everybody who wants to verify it.

use axum::{
    Json,
    extract::{Query, State},
    http::header,
    response::{IntoResponse, Response},
};
use toani_protocol::{Hash, Reason, ids::TenantId};

use super::{
    Api,
    views::{ProblemView, ProofQuery, ProofView, RecordsQuery},
};
use crate::problem::Problem;

const RECORDS_MAX: u16 = 1_000;
const RECORDS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The latest checkpoint: a C2SP signed note.
#[utoipa::path(
    get,
    path = "/v1/audit/checkpoint",
    responses(
        (status = 200, description = "A signed note", body = String, content_type = "text/plain"),
        (status = "default", description = "Refused", body = ProblemView)
    )
)]
pub(super) async fn checkpoint(State(api): State<Api>) -> Result<Response, Problem> {
    let note = api.plane.log().checkpoint().ok_or(Reason::NotReady)?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], note).into_response())
}

/// Durable records, each exactly as it was signed.
#[utoipa::path(
    get,
    path = "/v1/audit/records",
    params(RecordsQuery),
    responses(
        (status = 200, description = "`{\"records\": [...]}`, each a canonical record"),
        (status = "default", description = "Refused", body = ProblemView)
    )
)]
pub(super) async fn records(
    State(api): State<Api>,
    Query(query): Query<RecordsQuery>,
) -> Result<Response, Problem> {
    let tenant = match &query.tenant {
        Some(tenant) => Some(TenantId::new(tenant).map_err(|_| Reason::TenantUnknown)?),
        None => None,
    };
    let count = usize::from(query.limit.unwrap_or(100).min(RECORDS_MAX));
    let log = api.plane.log().clone();
    let leaves = tokio::task::spawn_blocking(move || match tenant {
        None => log.read(query.from, count, RECORDS_BYTES_MAX),
        Some(tenant) => {
            let indices = log.tenant_indices(&tenant, query.from, count);
            let leaves = indices.into_iter().map(|index| log.leaf(index));
            leaves.filter_map(Result::transpose).collect()
        }
    })
    .await;
    let leaves = leaves.map_err(|_| Problem::busy())?.map_err(unreadable)?;
    let mut body = b"{\"records\":[".to_vec();
    for (i, leaf) in leaves.iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        body.extend_from_slice(leaf);
    }
    body.extend_from_slice(b"]}");
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// Proof of a record's inclusion, or that an older tree is a prefix of a later one.
#[utoipa::path(
    get,
    path = "/v1/audit/proof",
    params(ProofQuery),
    responses(
        (status = 200, description = "The proof", body = ProofView),
        (status = "default", description = "Refused", body = ProblemView)
    )
)]
pub(super) async fn proof(
    State(api): State<Api>,
    Query(query): Query<ProofQuery>,
) -> Result<Json<ProofView>, Problem> {
    let log = api.plane.log();
    let checkpoint = log.checkpoint();
    let noted = checkpoint.as_deref().and_then(size_of_note);
    let size = query.size.or(noted).ok_or(Reason::NotReady)?;
    let hashes = match (query.index, query.old) {
        (Some(index), None) => log.inclusion_proof(index, size),
        (None, Some(old)) => log.consistency_proof(old, size),
        _ => return Err(Problem::malformed()),
    };
    let hashes = hashes.map_err(|_| Reason::RequestMalformed)?;
    Ok(Json(ProofView {
        index: query.index,
        old: query.old,
        size,
        hashes: hashes.iter().map(Hash::to_string).collect(),
        root: log.root(size).map_err(unreadable)?.to_string(),
        checkpoint: checkpoint.filter(|_| noted == Some(size)),
    }))
}

/// The second line of a checkpoint.
fn size_of_note(note: &str) -> Option<u64> {
    note.lines().nth(1)?.parse().ok()
}

fn unreadable(error: toani_audit_log::ReadError) -> Problem {
    tracing::error!(%error, "the audit log cannot be read");
    Reason::LogUnavailable.into()
}
