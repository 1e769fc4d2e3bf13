//! Reading bodies within limits of size and time.

use std::time::Duration;

use axum::{
    body::Body,
    http::{StatusCode, header},
};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;
use toani_protocol::canonical;

use crate::{
    ask::{of_canonical, too_large},
    problem::Problem,
};

/// Longest time for a client to send its body.
const BODY_MS_MAX: u64 = 15_000;

/// Reads a JSON body as it came.
pub(crate) async fn read_json(
    request: axum::extract::Request,
    bytes_max: usize,
) -> Result<Vec<u8>, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let is_json = kind
        .and_then(|kind| kind.to_str().ok())
        .and_then(|kind| kind.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if !is_json {
        // A web page can make a browser send other kinds to loopback without asking.
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content_type",
            "Send the body as application/json.",
        ));
    }
    read(request.into_body(), bytes_max).await
}

async fn read(body: Body, bytes_max: usize) -> Result<Vec<u8>, Problem> {
    let limit = Duration::from_millis(BODY_MS_MAX);
    let collected = tokio::time::timeout(limit, Limited::new(body, bytes_max).collect()).await;
    match collected {
        Ok(Ok(bytes)) => Ok(bytes.to_bytes().to_vec()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::malformed()),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_too_slow",
            "The body did not arrive in time.",
        )),
    }
}

/// Reads a JSON body into its canonical bytes and its value.
pub(crate) async fn read_canonical(
    request: axum::extract::Request,
    bytes_max: usize,
) -> Result<(Vec<u8>, Value), Problem> {
    // Canonical bytes are never longer than what people indent.
    let body = read_json(request, bytes_max.saturating_mul(2)).await?;
    let value = canonical::parse(&body, body.len()).map_err(of_canonical)?;
    let bytes = canonical::encode_value(&value).map_err(of_canonical)?;
    if bytes.len() > bytes_max {
        return Err(too_large());
    }
    Ok((bytes, value))
}
