//! `toani policy`: a file that a person reads, checked, signed and activated.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use toani_policy::{
    CredentialView, Decision, QuotaKey, Situation, Usage, VerifiedPolicy, decide, render,
};
use toani_protocol::{
    AgentId, BootId, Hash, PolicyId, TenantId, Time, UserId,
    assurance::{AgentLevel, Assurance},
    canonical,
    limits::DOCUMENT_BYTES_MAX,
    policy::{AgentKey, Policy, QuotaWindow, Tier},
    request::ActionRequest,
    sign::{Label, PublicKey, Signed},
};

use crate::{
    client::Client,
    draft::{self, Draft},
    failure::Failure,
    home::{self, Home},
    keys,
    output::{Output, pretty, table},
    policy_keys::{self, ChangeKey},
    run::{now, parse_params, split_action},
    windows,
};

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Write a policy to start from.
    ///
    /// Example: toani policy new --out policy.yaml
    New {
        #[arg(long, default_value = "policy.yaml")]
        out: PathBuf,
    },
    /// Check a policy file without signing it.
    ///
    /// Example: toani policy check policy.yaml
    Check { file: PathBuf },
    /// Sign a policy file with the tenant's policy key.
    ///
    /// Example: toani policy sign policy.yaml
    Sign {
        file: PathBuf,
        /// By default beside the file, with the ending .signed.json
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Activate a signed policy.
    ///
    /// Example: toani policy activate policy.signed.json
    Activate { file: PathBuf },
    /// List the tenant's policies.
    ///
    /// Example: toani policy list
    List,
    /// Show an active policy.
    ///
    /// Example: toani policy show brokerage
    Show { id: PolicyId },
    /// Revoke a policy: nothing under it starts any more.
    ///
    /// Example: toani policy revoke brokerage
    Revoke { id: PolicyId },
    /// List the keys that have signed the tenant's policies, newest first.
    ///
    /// Example: toani policy keys
    Keys,
    /// Let another key sign the tenant's policies from now on.
    ///
    /// Example: toani policy change-key
    ChangeKey(ChangeKey),
    /// What would this request get, and why? Nothing is sent; a denial is an answer, not a failure.
    ///
    /// Example: toani policy simulate policy.yaml broker.read_balance --agent agent --params '{"account":"main"}'
    Simulate(Simulate),
}

#[derive(Debug, Args)]
pub(crate) struct Simulate {
    /// A policy file, signed or not.
    file: PathBuf,
    /// SERVICE.ACTION
    action: String,
    #[arg(long, default_value = "{}")]
    params: String,
    #[arg(long)]
    agent: AgentId,
    #[arg(long)]
    user: Option<UserId>,
    /// At this time; by default now.
    #[arg(long)]
    at: Option<Time>,
}

pub(crate) async fn run(
    command: PolicyCommand,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    match command {
        PolicyCommand::New { out } => new(&out, home, output),
        PolicyCommand::Check { file } => check(&file, home, output),
        PolicyCommand::Sign { file, out } => sign(&file, out, home, output),
        PolicyCommand::Activate { file } => activate(&file, client, output).await,
        PolicyCommand::List => list(home, client, output).await,
        PolicyCommand::Show { id } => show(&id, home, client, output).await,
        PolicyCommand::Revoke { id } => {
            let tenant = tenant(home)?;
            let body = json!({"tenant": tenant, "policy": id});
            client.admin_post("/admin/v1/policies/revoke", &body).await?;
            output.result(&json!({"revoked": id}), |output| {
                format!("{} {id}", output.good("Revoked:"))
            });
            Ok(())
        }
        PolicyCommand::Keys => policy_keys::list(home, client, output).await,
        PolicyCommand::ChangeKey(command) => {
            policy_keys::change(command, home, client, output).await
        }
        PolicyCommand::Simulate(command) => simulate(command, home, output),
    }
}

pub(crate) fn tenant(home: &Home) -> anyhow::Result<TenantId> {
    home.trust()?.tenant.context("the trust file names no tenant")
}

/// The owner is whoever is owner in this home, if anyone is.
fn new(out: &Path, home: &Home, output: &Output) -> anyhow::Result<()> {
    let mut text = include_str!("policy.yaml").to_owned();
    if home.owner_key().exists() {
        let owner = PublicKey::of(&keys::read_ed25519(&home.owner_key())?);
        text = text.replace("ed25519:...", &owner.to_string());
    }
    home::create(out, text.as_bytes())?;
    output.result(&json!({ "policy": out }), |output| {
        format!(
            "{} {}\nNext: change it to what you need, then: toani agent add NAME --policy {1}",
            output.good("Written:"),
            out.display()
        )
    });
    Ok(())
}

fn check(file: &Path, home: &Home, output: &Output) -> anyhow::Result<()> {
    let Draft { policy, windows } = draft::read(file, home)?;
    let result = json!({
        "id": policy.id, "version": policy.version, "ok": true,
        "windows": windows, "zone_data": windows::zone_data(),
    });
    output.result(&result, |output| {
        let head = format!("{} {} version {}", output.good("Valid:"), policy.id, policy.version);
        head + &windows::sentences(&windows)
    });
    Ok(())
}

fn sign(file: &Path, out: Option<PathBuf>, home: &Home, output: &Output) -> anyhow::Result<()> {
    let Draft { policy, windows } = draft::read(file, home)?;
    let (id, version) = (policy.id.clone(), policy.version);
    let key = keys::read_ed25519(&home.policy_key())?;
    let bytes = canonical::encode(&Signed::by(&key, Label::Policy, policy)?)?;
    if bytes.len() > DOCUMENT_BYTES_MAX {
        bail!(
            "signed, the policy has {} bytes, and a policy may have {DOCUMENT_BYTES_MAX}; write \
             more than one policy, or fewer windows",
            bytes.len()
        );
    }
    let out = out.unwrap_or_else(|| file.with_extension("signed.json"));
    home::write(&out, &bytes)?;
    let result = json!({
        "signed": out, "id": id, "version": version, "hash": Hash::of(&bytes),
        "key": PublicKey::of(&key), "windows": windows, "zone_data": windows::zone_data(),
    });
    output.result(&result, |output| {
        format!(
            "{} {id} version {version}{}\nNext: toani policy activate {}",
            output.good("Signed:"),
            windows::sentences(&windows),
            out.display()
        )
    });
    Ok(())
}

async fn activate(file: &Path, client: &Client, output: &Output) -> anyhow::Result<()> {
    let bytes = home::read(file)?;
    let signed: Signed<Policy> = canonical::decode(&bytes, DOCUMENT_BYTES_MAX)
        .with_context(|| format!("{} is not signed; use `toani policy sign`", file.display()))?;
    let (id, version) = (signed.payload.id, signed.payload.version);
    let answer = client.admin_put("/admin/v1/policies", bytes).await?;
    let result = json!({"id": id, "version": version, "hash": answer.get("hash")});
    output.result(&result, |output| format!("{} {id} version {version}", output.good("Active:")));
    Ok(())
}

async fn rows(home: &Home, client: &Client) -> anyhow::Result<Vec<Value>> {
    let answer = client.admin_get(&format!("/admin/v1/policies?tenant={}", tenant(home)?)).await?;
    Ok(answer.get("policies").and_then(Value::as_array).cloned().unwrap_or_default())
}

async fn list(home: &Home, client: &Client, output: &Output) -> anyhow::Result<()> {
    let rows = rows(home, client).await?;
    output.result(&json!({ "policies": rows }), |_| {
        let cell = |row: &Value, name: &str| match row.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let names = ["id", "version", "state", "hash"];
        let lines: Vec<_> =
            rows.iter().map(|row| names.map(|name| cell(row, name)).to_vec()).collect();
        table(&names, &lines)
    });
    Ok(())
}

async fn show(id: &PolicyId, home: &Home, client: &Client, output: &Output) -> anyhow::Result<()> {
    let rows = rows(home, client).await?;
    let row = rows.iter().find(|row| row.get("id").and_then(Value::as_str) == Some(id.as_str()));
    let hash = row.and_then(|row| row.get("hash")?.as_str()).with_context(|| {
        format!("this tenant has no policy {id} here; `toani policy list` names them")
    })?;
    let document = client.admin_get(&format!("/admin/v1/documents/{hash}")).await?;
    output.result(&document, |_| pretty(&document));
    Ok(())
}

/// Nothing was used yet.
struct Unused;

impl Usage for Unused {
    fn used(&self, _: &QuotaKey, _: QuotaWindow, _: Time) -> u64 {
        0
    }
}

fn simulate(command: Simulate, home: &Home, output: &Output) -> anyhow::Result<()> {
    let verified = read_verified(&command.file, home)?;
    let policy = verified.policy();
    let (service, action) = split_action(&command.action)?;
    let at = command.at.unwrap_or_else(now);
    let user = match command.user {
        Some(user) => user,
        None => UserId::new(command.agent.as_str())?,
    };
    let signs = policy
        .agents
        .get(&command.agent)
        .is_some_and(|agent| matches!(agent.key, AgentKey::Ed25519(_)));
    let request = ActionRequest {
        instance: Hash::ZERO,
        boot: BootId::from_random([0; 16]),
        tenant: policy.tenant.clone(),
        agent: command.agent,
        user,
        service,
        action,
        params: parse_params(&command.params)?,
        idempotency_key: "simulated".to_owned(),
        issued_at: at,
        expires_at: at.plus_ms(60_000),
    };
    let level = if signs { AgentLevel::Signed } else { AgentLevel::Gateway };
    let situation = assumed(policy, &request, level);
    let decision = decide(&verified, &request, &Unused, &situation, at);
    let result = match &decision {
        Decision::Deny(reason) => {
            json!({"decision": "deny", "code": reason.code(), "why": reason.sentence()})
        }
        Decision::Allow(granted) => {
            let plan = render(&verified, &request, Hash::ZERO);
            let plan = plan.map_err(|reason| Failure::Refused {
                code: reason.code().to_owned(),
                detail: reason.sentence().to_owned(),
            })?;
            let decision = if granted.tier == Tier::Zero { "allow" } else { "approval" };
            json!({
                "decision": decision,
                "tier": granted.tier,
                "approvers": granted.approvers,
                "threshold": granted.threshold,
                "plan": plan,
            })
        }
    };
    output.result(&result, |output| {
        let assumed = output.dim(
            "assumed: the credential is in the vault as the policy wants it, no quota is used, \
             tee none, sandbox native",
        );
        format!("{}\n{assumed}", pretty(&result))
    });
    Ok(())
}

/// The vault holds what the policy wants, and the rest is as on a machine without a TEE.
fn assumed<'a>(policy: &'a Policy, request: &ActionRequest, agent: AgentLevel) -> Situation<'a> {
    let service = policy.services.get(&request.service);
    let credential = service.and_then(|service| {
        let auth = service.auth.as_ref()?;
        let rule = policy.credentials.get(&auth.credential)?;
        Some(CredentialView {
            owner: rule.owner,
            version: rule.least_version,
            revoked: false,
            endpoints: std::slice::from_ref(&service.endpoint),
            tls: &service.tls,
            injection: &auth.injection,
        })
    });
    Situation { assurance: Assurance { agent, ..Assurance::LOWEST }, credential }
}

/// Reads a signed policy, or signs a draft in memory with a key that is thrown away.
fn read_verified(file: &Path, home: &Home) -> anyhow::Result<VerifiedPolicy> {
    let bytes = home::read(file)?;
    if let Ok(signed) = canonical::decode::<Signed<Policy>>(&bytes, DOCUMENT_BYTES_MAX) {
        let key = signed.signatures.first().context("the policy carries no signature")?.key;
        return Ok(VerifiedPolicy::verify(&bytes, &key)?);
    }
    let key = ed25519_dalek::SigningKey::from_bytes(&*keys::random::<32>()?);
    let signed = Signed::by(&key, Label::Policy, draft::read(file, home)?.policy)?;
    Ok(VerifiedPolicy::verify(&canonical::encode(&signed)?, &PublicKey::of(&key))?)
}
