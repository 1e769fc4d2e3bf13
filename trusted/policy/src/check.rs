//! Every rule that a policy must satisfy before it can be activated.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
};

use serde_json::Value;
use toani_protocol::{
    ActionName, PersonId, ServiceId,
    limits::{
        ACTIONS_PER_SERVICE_MAX, AGENTS_MAX, APPROVAL_WAIT_S_MAX, CREDENTIALS_PER_POLICY_MAX,
        EXECUTION_MS_MAX, KEYS_PER_PERSON_MAX, PERSONS_MAX, QUOTAS_PER_POLICY_MAX,
        RESPONSE_BYTES_MAX, RESULT_BYTES_MAX, RESULT_FIELDS_MAX, SERVICES_MAX,
        WINDOWS_PER_ACTION_MAX,
    },
    policy::{
        Action, ApproverKey, Auth, Class, Comparison, Condition, Endpoint, Injection, Measure,
        Method, Policy, Quota, QuotaWindow, Service, Tier, TlsTrust,
    },
};

use crate::{
    schema::Schema,
    template::{CompiledTemplate, is_free_header},
    verified::{CompiledAction, PolicyError, PolicyProblem},
};

type Compiled = BTreeMap<(ServiceId, ActionName), CompiledAction>;

fn at(place: impl Into<String>) -> impl FnOnce(PolicyProblem) -> PolicyError {
    move |problem| PolicyError::Invalid { place: place.into(), problem }
}

fn require(holds: bool, problem: PolicyProblem) -> Result<(), PolicyProblem> {
    if holds { Ok(()) } else { Err(problem) }
}

/// Checks a whole policy and compiles its actions.
pub(crate) fn policy(policy: &Policy) -> Result<Compiled, PolicyError> {
    let valid = policy.not_before < policy.expires && policy.version > 0;
    require(valid, PolicyProblem::Validity).map_err(at("expires"))?;
    let filled = !policy.agents.is_empty() && !policy.services.is_empty();
    require(filled, PolicyProblem::Empty).map_err(at("agents"))?;
    for (name, count, max) in [
        ("persons", policy.persons.len(), PERSONS_MAX),
        ("agents", policy.agents.len(), AGENTS_MAX),
        ("credentials", policy.credentials.len(), CREDENTIALS_PER_POLICY_MAX),
        ("services", policy.services.len(), SERVICES_MAX),
        ("quotas", policy.quotas.len(), QUOTAS_PER_POLICY_MAX),
    ] {
        require(count <= max, PolicyProblem::TooMany).map_err(at(name))?;
    }
    let mut seen = BTreeSet::new();
    for (id, person) in &policy.persons {
        keys(&person.keys).map_err(at(format!("persons.{id}")))?;
        // Thresholds count persons: two of them with one key would be one.
        let own = person.keys.iter().all(|key| seen.insert(key_bytes(key)));
        require(own, PolicyProblem::KeyTwice).map_err(at(format!("persons.{id}")))?;
    }
    for (id, agent) in &policy.agents {
        persons(policy, &agent.behind).map_err(at(format!("agents.{id}.behind")))?;
    }
    let mut compiled = Compiled::new();
    for (id, service) in &policy.services {
        check_service(policy, service).map_err(at(format!("services.{id}")))?;
        for (name, action) in &service.actions {
            let place = format!("services.{id}.actions.{name}");
            let ready = check_action(policy, service, action).map_err(at(place))?;
            compiled.insert((id.clone(), name.clone()), ready);
        }
    }
    for (id, quota) in &policy.quotas {
        check_quota(policy, quota, &compiled).map_err(at(format!("quotas.{id}")))?;
    }
    Ok(compiled)
}

fn key_bytes(key: &ApproverKey) -> &[u8] {
    match key {
        ApproverKey::Ed25519(key) => key.as_bytes(),
        ApproverKey::Passkey(passkey) => &passkey.key.0,
    }
}

fn keys(keys: &[ApproverKey]) -> Result<(), PolicyProblem> {
    require(keys.len() <= KEYS_PER_PERSON_MAX, PolicyProblem::TooMany)?;
    for key in keys {
        if let ApproverKey::Passkey(passkey) = key {
            let origins = &passkey.origins;
            let named = !passkey.rp_id.is_empty() && !origins.is_empty() && origins.len() <= 8;
            let secure = |origin: &String| {
                origin.starts_with("https://") || origin.starts_with("http://localhost")
            };
            require(named && origins.iter().all(secure), PolicyProblem::Passkey)?;
        }
    }
    Ok(())
}

fn persons(policy: &Policy, ids: &[PersonId]) -> Result<(), PolicyProblem> {
    require(ids.len() <= PERSONS_MAX, PolicyProblem::TooMany)?;
    let known = ids.iter().all(|id| policy.persons.contains_key(id));
    let distinct: BTreeSet<_> = ids.iter().collect();
    require(known && distinct.len() == ids.len(), PolicyProblem::UnknownPerson)
}

fn check_service(policy: &Policy, service: &Service) -> Result<(), PolicyProblem> {
    require(service.actions.len() <= ACTIONS_PER_SERVICE_MAX, PolicyProblem::TooMany)?;
    require(is_host(&service.endpoint), PolicyProblem::Host)?;
    if let TlsTrust::SpkiSha256(pins) = &service.tls {
        require((1..=8).contains(&pins.len()), PolicyProblem::TlsPins)?;
    }
    if let Some(auth) = &service.auth {
        check_auth(policy, auth)?;
    }
    Ok(())
}

fn check_auth(policy: &Policy, auth: &Auth) -> Result<(), PolicyProblem> {
    let known = policy.credentials.contains_key(&auth.credential);
    require(known, PolicyProblem::UnknownCredential)?;
    match &auth.injection {
        Injection::Bearer | Injection::Basic => Ok(()),
        Injection::Header(name) => require(is_free_header(name), PolicyProblem::Injection),
        Injection::Query(name) => {
            let token = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
            let fits = !name.is_empty() && name.len() <= 64 && name.bytes().all(token);
            require(fits, PolicyProblem::Injection)
        }
    }
}

/// A DNS name in lower case with at least one letter in its last label, or, where the endpoint is
/// private, a dotted IPv4 address of four plain decimal numbers.
fn is_host(endpoint: &Endpoint) -> bool {
    let host = endpoint.host.as_str();
    let label = |label: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let edges = !label.starts_with('-') && !label.ends_with('-');
        !label.is_empty() && label.len() <= 63 && label.bytes().all(plain) && edges
    };
    let labels = endpoint.port > 0 && host.len() <= 253 && host.split('.').all(label);
    let last = host.rsplit('.').next().unwrap_or_default();
    let octet = |part: &str| part.parse::<u8>().is_ok_and(|n| format!("{n}") == part);
    let address = host.split('.').count() == 4 && host.split('.').all(octet);
    let named = last.bytes().any(|b| b.is_ascii_lowercase()) && !last.starts_with("0x");
    labels && (named || (endpoint.private && address))
}

fn check_action(
    policy: &Policy,
    service: &Service,
    action: &Action,
) -> Result<CompiledAction, PolicyProblem> {
    let params = Schema::compile(&action.params.0).map_err(PolicyProblem::Schema)?;
    require(params.is_object(), PolicyProblem::ParamsObject)?;
    let injection = service.auth.as_ref().map(|auth| &auth.injection);
    let template = CompiledTemplate::compile(&action.request, injection, &params)?;
    let bodyless = matches!(action.request.method, Method::Get | Method::Delete);
    require(!(bodyless && action.request.body.is_some()), PolicyProblem::Body)?;
    if let Some(statuses) = &action.request.success {
        let fit = statuses.iter().all(|status| (200..300).contains(status));
        require(fit && (1..=16).contains(&statuses.len()), PolicyProblem::Success)?;
    }
    check_outputs(action)?;
    require(action.raise.len() <= 64, PolicyProblem::TooMany)?;
    for raise in &action.raise {
        check_condition(&raise.when, &params)?;
    }
    check_approval(policy, action)?;
    if let Some(windows) = &action.windows {
        require(windows.len() <= WINDOWS_PER_ACTION_MAX, PolicyProblem::TooMany)?;
        require(windows.iter().all(|window| window.from < window.until), PolicyProblem::Window)?;
    }
    check_class(&action.class)?;
    Ok(CompiledAction { params, template })
}

fn check_outputs(action: &Action) -> Result<(), PolicyProblem> {
    require(action.result.len() <= RESULT_FIELDS_MAX, PolicyProblem::TooMany)?;
    let pointer = |text: &str| {
        let rooted = text.is_empty() || text.starts_with('/');
        let escapes =
            text.split('~').skip(1).all(|rest| rest.starts_with('0') || rest.starts_with('1'));
        rooted && escapes && text.len() <= 512
    };
    let max = |max: u32| max > 0 && usize::try_from(max).is_ok_and(|max| max <= RESULT_BYTES_MAX);
    let fit = |output: &toani_protocol::policy::Output| pointer(&output.pointer) && max(output.max);
    require(action.result.values().all(fit), PolicyProblem::Output)
}

fn check_condition(condition: &Condition, params: &Schema) -> Result<(), PolicyProblem> {
    let known = params.property(&condition.param).is_some_and(|(schema, _)| schema.is_scalar());
    let ordered = !matches!(condition.is, Comparison::Equal | Comparison::NotEqual);
    let comparable = match &condition.value.0 {
        Value::Number(_) => true,
        Value::String(_) | Value::Bool(_) => !ordered,
        _ => false,
    };
    require(known && comparable, PolicyProblem::Condition)
}

fn check_approval(policy: &Policy, action: &Action) -> Result<(), PolicyProblem> {
    let reachable =
        action.tier > Tier::Zero || action.raise.iter().any(|raise| raise.tier > Tier::Zero);
    let Some(rule) = &action.approval else {
        return require(!reachable, PolicyProblem::ApprovalMissing);
    };
    persons(policy, &rule.approvers)?;
    let threshold = usize::from(rule.threshold);
    let waits = (1..=APPROVAL_WAIT_S_MAX).contains(&rule.wait_s);
    require(threshold > 0 && threshold <= rule.approvers.len() && waits, PolicyProblem::Approval)
}

fn check_class(class: &Class) -> Result<(), PolicyProblem> {
    let fit = (16..=8192).contains(&class.memory_mib)
        && (1..=4096).contains(&class.processes)
        && class.tmp_mib <= 4096
        && (1..=EXECUTION_MS_MAX).contains(&class.timeout_ms)
        && (1..=RESPONSE_BYTES_MAX).contains(&class.response_bytes_max);
    require(fit, PolicyProblem::Class)
}

fn check_quota(policy: &Policy, quota: &Quota, compiled: &Compiled) -> Result<(), PolicyProblem> {
    let (QuotaWindow::FixedS(seconds) | QuotaWindow::RollingS(seconds)) = quota.window;
    require(seconds > 0, PolicyProblem::Quota)?;
    if let Some(actions) = &quota.actions {
        let defined = |name: &String| {
            let parts = name.split_once('.');
            parts.is_some_and(|(service, action)| {
                policy.services.iter().any(|(id, there)| {
                    id.as_str() == service && there.actions.keys().any(|key| key.as_str() == action)
                })
            })
        };
        require(actions.iter().all(defined), PolicyProblem::UnknownAction)?;
    }
    if let Measure::Sum(param) = &quota.measure {
        let natural = |action: &CompiledAction| {
            let property = action.params.property(param);
            property.is_some_and(|(schema, required)| required && schema.is_natural())
        };
        let counted =
            compiled.iter().filter(|((service, action), _)| counts(quota, service, action));
        require(counted.into_iter().all(|(_, action)| natural(action)), PolicyProblem::Quota)?;
    }
    Ok(())
}

/// Whether an action counts against a quota.
pub(crate) fn counts(quota: &Quota, service: &ServiceId, action: &ActionName) -> bool {
    quota.actions.as_ref().is_none_or(|actions| {
        actions.iter().any(|name| name.split_once('.') == Some((service.as_str(), action.as_str())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_one_spelling() {
        let host =
            |host: &str, private| is_host(&Endpoint { host: host.into(), port: 443, private });
        assert!(host("api.example.com", false));
        assert!(host("localhost", true));
        assert!(host("127.0.0.1", true));
        for bad in [
            "",
            "API.example.com",
            "example.com.",
            "a..b",
            "-a.com",
            "exämple.com",
            "a b",
            "[::1]",
            "127.0.0.1.",
            "127.0.0.01",
            "0177.0.0.1",
            "2130706433",
            "017700000001",
            "0x7f000001",
            "0x7f.1",
            "0x7f.0.0.1",
            "127.0.0.0x1",
            "127.1",
            "127.0.1",
            "256.0.0.1",
            "1.2.3.4.5",
            "0",
            "::1",
            "fe80::1%eth0",
            "localhost.",
            "LOCALHOST",
            "api.example.com:443",
            "user@example.com",
            "example.com/",
            "*.example.com",
            "api%2eexample.com",
            "api\u{3002}example.com",
            "ex\u{430}mple.com",
            "\u{ff11}27.0.0.1",
            "example.com\0",
            "example.com\n",
        ] {
            assert!(!host(bad, false), "{bad}");
            assert!(!host(bad, true), "{bad}");
        }
        assert!(!host("127.0.0.1", false));
    }
}
