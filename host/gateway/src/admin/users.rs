//! Whose records are: the owner finds a user by the day, or ends that for good.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
};
use serde::{Deserialize, Deserializer, de};
use serde_json::{Value, json};
use toani_protocol::{
    TenantId, Time, UserId,
    wire::{Answer, Command},
};

use super::documents::{done, named};
use crate::{plane::Plane, problem::Problem};

type Done = Result<Json<Value>, Problem>;
type Shared = State<Arc<Plane>>;

/// `2026-03-11`, as days since 1970-01-01.
fn day<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let midnight: Result<Time, _> = format!("{text}T00:00:00Z").parse();
    midnight.map(Time::day).map_err(|_| de::Error::custom("not a day"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    tenant: TenantId,
    user: UserId,
    #[serde(deserialize_with = "day")]
    day: u64,
}

/// The hash under which a user stands in the records of a day (in UTC).
pub(super) async fn find(State(plane): Shared, request: Request) -> Done {
    let Wanted { tenant, user, day } = named(request).await?;
    let wrapped = plane.keep().salt(tenant.clone(), day).await.map_err(|_| Problem::busy())?;
    // Why there is none is for the enclave to say.
    let wrapped = wrapped.unwrap_or_default();
    match plane.answer(Command::UserHash { tenant, day, user, wrapped }).await? {
        Answer::UserHash { hash } => Ok(Json(json!({ "user": hash }))),
        _ => Err(plane.broken()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Through {
    tenant: TenantId,
    #[serde(deserialize_with = "day")]
    through: u64,
}

/// Forgets the salts of a day and all days before. They are deleted when the record is listed.
pub(super) async fn forget(State(plane): Shared, request: Request) -> Done {
    let Through { tenant, through } = named(request).await?;
    let answer = done(&plane, Command::Forget { tenant, through }).await?;
    plane.lists_are_current().await;
    Ok(answer)
}
