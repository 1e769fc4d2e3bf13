//! Rendering: from a request to the one plan that is approved, hashed and run.

use toani_protocol::{Hash, Reason, plan::Plan, request::ActionRequest};

use crate::verified::VerifiedPolicy;

/// Renders the plan of a request that was allowed. `nonce` is random; the same nonce renders the
/// same plan again.
pub fn render(
    verified: &VerifiedPolicy,
    request: &ActionRequest,
    nonce: Hash,
) -> Result<Plan, Reason> {
    let (service, action) =
        verified.action(&request.service, &request.action).ok_or(Reason::ActionUnknown)?;
    let compiled =
        verified.compiled(&request.service, &request.action).ok_or(Reason::ActionUnknown)?;
    let params = request.params.0.as_object().ok_or(Reason::ParamsInvalid)?;
    let filled = compiled.template.fill(params)?;
    Ok(Plan {
        connector: service.connector,
        method: action.request.method,
        endpoint: service.endpoint.clone(),
        path: filled.path,
        query: filled.query,
        headers: filled.headers,
        body: filled.body,
        injection: service.auth.as_ref().map(|auth| auth.injection.clone()),
        tls: service.tls.clone(),
        success: action.request.success.clone(),
        class: action.class.clone(),
        nonce,
    })
}
