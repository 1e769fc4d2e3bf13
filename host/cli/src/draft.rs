//! A policy file as a person writes it: read, filled in, and checked, also for what is valid and
//! could never be used.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use toani_policy::{VerifiedPolicy, key_level};
use toani_protocol::{
    PersonId, TenantId,
    assurance::ApprovalLevel,
    canonical::Json,
    limits::DOCUMENT_BYTES_MAX,
    policy::{Action, Policy, Tier},
    sign::PublicKey,
};

use crate::{
    home::{self, Home},
    keys,
    policies::tenant,
    run::now,
    windows::{self, Expanded},
};

/// A policy that may be signed.
pub(crate) struct Draft {
    pub(crate) policy: Policy,
    /// What became of the windows that name a zone.
    pub(crate) windows: Vec<Expanded>,
}

/// Reads a policy file, YAML or JSON, fills in what is plain, and checks it.
pub(crate) fn read(file: &Path, home: &Home) -> anyhow::Result<Draft> {
    let draft = parse(file, home)?;
    let invalid = || format!("{} is not valid", file.display());
    VerifiedPolicy::check_draft(&draft.policy).with_context(invalid)?;
    for (service, body) in &draft.policy.services {
        for (name, action) in &body.actions {
            check_usable(&draft.policy, action)
                .with_context(|| format!("services.{service}.actions.{name}"))
                .with_context(invalid)?;
        }
    }
    Ok(draft)
}

fn parse(file: &Path, home: &Home) -> anyhow::Result<Draft> {
    let bytes = home::read(file)?;
    if bytes.len() > DOCUMENT_BYTES_MAX {
        bail!("{} is larger than {DOCUMENT_BYTES_MAX} bytes", file.display());
    }
    let text = std::str::from_utf8(&bytes).context("a policy file is UTF-8")?;
    let Json(mut document) = serde_yaml_ng::from_str(text)
        .with_context(|| format!("{} is neither YAML nor JSON", file.display()))?;
    let map = document.as_object_mut().context("a policy is a mapping")?;
    map.entry("format").or_insert(json!("toani-policy/1"));
    map.entry("not_before").or_insert(json!(now()));
    if !map.contains_key("tenant") {
        map.insert("tenant".to_owned(), json!(tenant_of(home)?));
    }
    let invalid = || format!("{} is not a policy", file.display());
    let windows = windows::expand(&mut document).with_context(invalid)?;
    let policy = serde_path_to_error::deserialize(document).with_context(invalid)?;
    Ok(Draft { policy, windows })
}

/// After a change of the policy key the tenant keeps its first name, which the trust file tells.
fn tenant_of(home: &Home) -> anyhow::Result<TenantId> {
    if home.trust_file().exists() {
        return tenant(home);
    }
    Ok(TenantId::of_first_key(&PublicKey::of(&keys::read_ed25519(&home.policy_key())?)))
}

/// What the enclave would take, and every request would be refused for.
fn check_usable(policy: &Policy, action: &Action) -> anyhow::Result<()> {
    let asked = action.tier > Tier::Zero || action.raise.iter().any(|r| r.tier > Tier::Zero);
    ensure!(
        asked || action.least.approval == ApprovalLevel::None,
        "`least.approval` asks for an approval, and at tier 0 nobody is asked, so that every \
         request would be refused; raise the tier, or leave `least.approval` out"
    );
    if let Some(rule) = action.approval.as_ref().filter(|_| action.tier > Tier::Zero) {
        let level = |key| key_level(key, action.tier).is_some_and(|l| l >= action.least.approval);
        let able =
            |id: &&PersonId| policy.persons.get(*id).is_some_and(|p| p.keys.iter().any(level));
        let (tier, found) = (u8::from(action.tier), rule.approvers.iter().filter(able).count());
        ensure!(
            found >= usize::from(rule.threshold),
            "of its approvers, {found} have a key that is good for tier {tier} and its \
             `least.approval`, and {} must approve, so that every request would be refused; add a \
             passkey (`toani approver add NAME --software-passkey`), or change the rule",
            rule.threshold
        );
    }
    check_names(&action.params.0)
}

/// The gateway refuses what is named as plaintext credentials are.
fn check_names(schema: &Value) -> anyhow::Result<()> {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        let carries = property.get("type").and_then(Value::as_str) != Some("boolean");
        ensure!(
            !(carries && toani_gateway::names_credential(name)),
            "a param named {name:?} would be taken for a plaintext credential, and every request \
             with it refused; name it otherwise: the template may still put it into an upstream's \
             field of that name"
        );
        check_names(property)?;
    }
    schema.get("items").map_or(Ok(()), check_names)
}
