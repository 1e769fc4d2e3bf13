//! Actions that the enclave knows no longer, because they ended with a boot or long ago: the lists,
//! which are made of its records, say how.

use toani_protocol::{ActionId, AgentId, Reason, TenantId, request::ReadRequest, wire::Read};
use toani_store::{ActionRow, ActionState};

use super::{Api, views::ActionView};
use crate::problem::Problem;

/// What became of an action. The enclave has verified that `read` is its agent's own word.
pub(super) async fn became(
    api: &Api,
    action: ActionId,
    read: &Read,
) -> Result<ActionView, Problem> {
    let row = listed(api, action).await?;
    let (tenant, agent) = reader(read).ok_or(Reason::ActionNotFound)?;
    if row.tenant != tenant || row.agent.as_deref() != Some(agent.as_str()) {
        return Err(Reason::ActionNotFound.into());
    }
    let reason = row.reason.as_deref().and_then(Reason::from_code);
    match row.state {
        ActionState::Ended => Ok(ActionView::over(&row.id, "ended", Reason::BootEnded)),
        ActionState::Denied | ActionState::Revoked => {
            Ok(ActionView::over(&row.id, "denied", reason.ok_or(Reason::ActionNotFound)?))
        }
        ActionState::Allowed | ActionState::Approved => {
            Ok(ActionView::over(&row.id, "denied", Reason::TokenExpired))
        }
        ActionState::Executed => {
            let execution = api.plane.keep().execution_started(row.tenant, row.since).await;
            let execution =
                execution.map_err(|_| Problem::busy())?.ok_or(Reason::ActionNotFound)?;
            let execution_id = Some(execution.id.to_string());
            Ok(ActionView { execution_id, ..ActionView::new(&row.id, "executed") })
        }
        ActionState::Waiting => Err(Reason::ActionNotFound.into()),
    }
}

/// Why people cannot answer, better known than by `problem`.
pub(super) async fn not_open(api: &Api, action: ActionId, problem: Problem) -> Problem {
    if problem.code() != Reason::ActionNotFound.code() {
        return problem;
    }
    match listed(api, action).await.map(|row| row.state) {
        Ok(ActionState::Ended) => Reason::BootEnded.into(),
        Ok(ActionState::Waiting) => problem,
        Ok(_) => Reason::ApprovalNotOpen.into(),
        Err(problem) => problem,
    }
}

async fn listed(api: &Api, action: ActionId) -> Result<ActionRow, Problem> {
    api.plane.lists_are_current().await;
    let row = api.plane.keep().action(action).await.map_err(|_| Problem::busy())?;
    row.ok_or_else(|| Reason::ActionNotFound.into())
}

/// Who reads, as `read` says: not verified.
pub(super) fn reader(read: &Read) -> Option<(TenantId, AgentId)> {
    match read {
        Read::ApiKey { tenant, agent, .. } => Some((tenant.clone(), agent.clone())),
        Read::Signed { request, .. } => {
            let request = ReadRequest::decode(request).ok()?;
            Some((request.tenant, request.agent))
        }
        Read::Asked { .. } => None,
    }
}
