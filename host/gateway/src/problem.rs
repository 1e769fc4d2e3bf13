//! Refusals as RFC 9457 problems. The enclave's reasons keep their codes and sentences.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use toani_protocol::reason::{Blame, Reason};

/// After this many seconds it is worth trying again, where nothing better is known.
const RETRY_AFTER_S: u64 = 1;
/// A quota's window or a refusal budget passes no sooner than this.
const RETRY_BUDGET_S: u64 = 60;

/// One refusal.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: &'static str,
    retry_after_s: Option<u64>,
    more: Map<String, Value>,
}

impl Problem {
    /// A refusal by the gateway itself. Such codes are listed in docs/PROTOCOL.md with the rest.
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: &'static str) -> Self {
        Self { status, code, detail, retry_after_s: None, more: Map::new() }
    }

    /// Adds a member, such as the id of what was refused.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn retry_after_s(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds.max(1));
        self
    }

    pub(crate) fn malformed() -> Self {
        Reason::RequestMalformed.into()
    }

    pub(crate) fn busy() -> Self {
        Reason::Busy.into()
    }

    pub(crate) fn code(&self) -> &'static str {
        self.code
    }
}

/// The status of a reason, by who has to act.
pub(crate) fn status_of(reason: Reason) -> StatusCode {
    match (reason, reason.blame()) {
        (Reason::IdempotencyMismatch, _) => StatusCode::UNPROCESSABLE_ENTITY,
        (Reason::AgentUnknown | Reason::AgentProof, _) => StatusCode::UNAUTHORIZED,
        (_, Blame::Caller) => StatusCode::BAD_REQUEST,
        (_, Blame::Identity | Blame::Policy) => StatusCode::FORBIDDEN,
        (_, Blame::Missing) => StatusCode::NOT_FOUND,
        (_, Blame::Conflict) => StatusCode::CONFLICT,
        (_, Blame::Budget) => StatusCode::TOO_MANY_REQUESTS,
        (_, Blame::Plane) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl From<Reason> for Problem {
    fn from(reason: Reason) -> Self {
        let retry_after_s = match reason.blame() {
            Blame::Budget => Some(RETRY_BUDGET_S),
            Blame::Plane => Some(RETRY_AFTER_S),
            _ if reason == Reason::IdempotencyInProgress => Some(RETRY_AFTER_S),
            _ => None,
        };
        Self { retry_after_s, ..Self::new(status_of(reason), reason.code(), reason.sentence()) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = self.more;
        let title = self.status.canonical_reason().unwrap_or("Refused");
        body.insert("type".to_owned(), json!(format!("urn:toani:problem:{}", self.code)));
        body.insert("title".to_owned(), json!(title));
        body.insert("status".to_owned(), json!(self.status.as_u16()));
        body.insert("code".to_owned(), json!(self.code));
        body.insert("detail".to_owned(), json!(self.detail));
        let mut response = (self.status, Value::Object(body).to_string()).into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let ways = HeaderValue::from_static("Toani, Bearer");
            headers.insert(header::WWW_AUTHENTICATE, ways);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_status_and_says_when_to_come_back() {
        for reason in Reason::ALL {
            let response = Problem::from(*reason).into_response();
            let status = response.status();
            assert!(status.is_client_error() || status.is_server_error(), "{reason}");
            let again = response.headers().contains_key(header::RETRY_AFTER);
            let later = matches!(reason.blame(), Blame::Budget | Blame::Plane);
            assert_eq!(again, later || *reason == Reason::IdempotencyInProgress, "{reason}");
        }
        assert_eq!(status_of(Reason::IdempotencyMismatch), 422);
        assert_eq!(status_of(Reason::AssuranceTee), 403);
        assert_eq!(status_of(Reason::QuotaExceeded), 429);
        assert_eq!(status_of(Reason::LogUnavailable), 503);
        assert_eq!(status_of(Reason::ActionNotFound), 404);
    }
}
