//! Signed documents that come in, and revocations.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use toani_protocol::{
    ActionId, AgentId, CredentialId, Hash, Namespace, PolicyId, Reason, TenantId,
    credential::SealedCredential,
    limits::{DOCUMENT_BYTES_MAX, SEALED_CREDENTIAL_BYTES_MAX},
    sign::PublicKey,
    wire::{Answer, Command},
};

use crate::{body, plane::Plane, problem::Problem};

type Done = Result<Json<Value>, Problem>;
type Shared = State<Arc<Plane>>;

/// A body that names something.
const NAMED_BYTES_MAX: usize = 4 * 1024;

/// A Signed<AdmissionList>. A supervisor that was refused may try again.
pub(super) async fn admit(State(plane): Shared, request: Request) -> Done {
    let admission = document(request).await?;
    let done = accepted(&plane, &admission, |admission| Command::Admit { admission }).await?;
    plane.admit();
    Ok(done)
}

/// A Signed<Policy>.
pub(super) async fn activate_policy(State(plane): Shared, request: Request) -> Done {
    let policy = document(request).await?;
    accepted(&plane, &policy, |policy| Command::ActivatePolicy { policy }).await
}

/// A Signed<PolicyKeyChange>.
pub(super) async fn change_policy_key(State(plane): Shared, request: Request) -> Done {
    let change = document(request).await?;
    accepted(&plane, &change, |change| Command::ChangePolicyKey { change }).await
}

/// A SealedCredential. Anything else may be a plaintext one, so it is neither kept nor quoted.
pub(super) async fn put_credential(State(plane): Shared, request: Request) -> Done {
    let (credential, _) = body::read_canonical(request, SEALED_CREDENTIAL_BYTES_MAX).await?;
    if SealedCredential::decode(&credential).is_err() {
        return Err(Reason::PlaintextCredential.into());
    }
    accepted(&plane, &credential, |credential| Command::PutCredential { credential }).await
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyNamed {
    tenant: TenantId,
    policy: PolicyId,
}

pub(super) async fn revoke_policy(State(plane): Shared, request: Request) -> Done {
    let PolicyNamed { tenant, policy } = named(request).await?;
    done(&plane, Command::RevokePolicy { tenant, policy }).await
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialNamed {
    tenant: TenantId,
    namespace: Namespace,
    owner: PublicKey,
    id: CredentialId,
}

pub(super) async fn revoke_credential(State(plane): Shared, request: Request) -> Done {
    let CredentialNamed { tenant, namespace, owner, id } = named(request).await?;
    let command = Command::RevokeCredential { tenant, namespace, owner, id };
    done(&plane, command).await
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentNamed {
    tenant: TenantId,
    agent: AgentId,
}

pub(super) async fn revoke_agent(State(plane): Shared, request: Request) -> Done {
    let AgentNamed { tenant, agent } = named(request).await?;
    done(&plane, Command::RevokeAgent { tenant, agent }).await
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenNamed {
    tenant: TenantId,
    action: ActionId,
}

/// Revokes the token of an action.
pub(super) async fn revoke_token(State(plane): Shared, request: Request) -> Done {
    let TokenNamed { tenant, action } = named(request).await?;
    done(&plane, Command::RevokeToken { tenant, action }).await
}

async fn document(request: Request) -> Result<Vec<u8>, Problem> {
    let (bytes, _) = body::read_canonical(request, DOCUMENT_BYTES_MAX).await?;
    Ok(bytes)
}

pub(super) async fn named<T: DeserializeOwned>(request: Request) -> Result<T, Problem> {
    let (bytes, _) = body::read_canonical(request, NAMED_BYTES_MAX).await?;
    serde_json::from_slice(&bytes).map_err(|_| Reason::DocumentMalformed.into())
}

/// Answers with the document's hash, as the records name it.
async fn accepted(
    plane: &Arc<Plane>,
    document: &[u8],
    command: impl FnOnce(Vec<u8>) -> Command,
) -> Done {
    finished(plane, command(document.to_vec())).await?;
    Ok(Json(json!({ "hash": Hash::of(document) })))
}

pub(super) async fn done(plane: &Arc<Plane>, command: Command) -> Done {
    finished(plane, command).await?;
    Ok(Json(json!({})))
}

async fn finished(plane: &Arc<Plane>, command: Command) -> Result<(), Problem> {
    match plane.answer(command).await? {
        Answer::Done => Ok(()),
        _ => Err(plane.broken()),
    }
}
