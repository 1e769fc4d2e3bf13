//! `toani approvals`, `approve`, `deny`: look at the plan, then sign.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use toani_protocol::{
    ActionId, Hash, PersonId,
    approval::{ApprovalProof, Evidence, Statement, Verdict},
    canonical,
    limits::DOCUMENT_BYTES_MAX,
    policy::ApproverKey,
    sign::{self, Label, PublicKey, Signed},
    trust::TrustFile,
};

use crate::{
    client::Client,
    home::Home,
    keys::{self, Key},
    output::{Output, confirmed, escape, pretty, table},
    passkey,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Approvals {
    /// The actions that wait for people.
    ///
    /// Example: toani approvals list
    List,
}

#[derive(Debug, Args)]
pub(crate) struct Answer {
    action: ActionId,
    /// Who answers: a person of the policy.
    #[arg(long = "as", value_name = "PERSON")]
    person: PersonId,
    /// The person's key file; by default the one in the home.
    #[arg(long)]
    key: Option<PathBuf>,
    /// Answer without asking again.
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(
    command: Approvals,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let Approvals::List = command;
    let answer = client.admin_get("/admin/v1/approvals").await?;
    output.result(&answer, |output| {
        let rows = answer.get("approvals").and_then(Value::as_array).cloned().unwrap_or_default();
        if rows.is_empty() {
            return output.dim("nothing waits");
        }
        let cell = |row: &Value, name: &str| match row.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        };
        let names = ["action_id", "agent", "service", "action", "tier", "asked_at"];
        let lines: Vec<_> =
            rows.iter().map(|row| names.map(|name| cell(row, name)).to_vec()).collect();
        table(&names, &lines)
    });
    Ok(())
}

/// Approves or denies.
pub(crate) async fn answer(
    command: Answer,
    verdict: Verdict,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let signed = client.get(&format!("/v1/approvals/{}", command.action)).await?;
    let (statement, hash) = verify(&signed, &command.action, &home.trust()?)?;
    output.progress(&show(&statement, output));
    let word = match verdict {
        Verdict::Approve => "approve",
        Verdict::Deny => "deny",
    };
    if !command.yes && !confirmed(word)? {
        bail!("nothing was signed");
    }
    let path = command.key.unwrap_or_else(|| home.approver_key(command.person.as_str()));
    let evidence = sign_verdict(keys::read(&path)?, command.person, verdict, &statement, &hash)?;
    let body = canonical::encode(&evidence)?;
    let result = client.post(&format!("/v1/approvals/{}", command.action), None, body).await?;
    let result = result.json()?;
    output.result(&result, |output| {
        let status = result.get("status").and_then(Value::as_str).unwrap_or_default();
        let count = |name: &str| result.get(name).and_then(Value::as_u64).unwrap_or_default();
        match status {
            "counted" => format!("Counted: {} of {}", count("approved"), count("threshold")),
            "approved" => output.good("Approved: the agent can go on"),
            _ => output.bad("Denied: that is final"),
        }
    });
    Ok(())
}

/// The statement is the enclave's, of this instance, and about the action that was asked for.
fn verify(
    signed: &Value,
    action: &ActionId,
    trust: &TrustFile,
) -> anyhow::Result<(Statement, Hash)> {
    let bytes = canonical::encode_value(signed)?;
    let signed: Signed<Statement> =
        canonical::decode(&bytes, DOCUMENT_BYTES_MAX).context("the plane sent no statement")?;
    let statement_bytes = canonical::encode(&signed.payload)?;
    let vouched = signed.verify(Label::Statement, &[trust.log.key], 1).is_ok()
        && signed.payload.instance == trust.instance
        && signed.payload.action_id == *action;
    if !vouched {
        bail!("the statement is not signed by the enclave of your trust file; do not approve it");
    }
    Ok((signed.payload, Statement::hash_of(&statement_bytes)))
}

fn show(statement: &Statement, output: &Output) -> String {
    let plan = &statement.plan;
    let target = format!("https://{}{}", plan.endpoint, plan.target());
    let body = plan.body.as_ref().map(|body| pretty(&body.0)).unwrap_or_default();
    let mut lines = vec![output.strong(&format!("{} {}", plan.method.as_str(), escape(&target)))];
    for (name, value) in &plan.headers {
        lines.push(format!("{}: {}", escape(name), escape(value)));
    }
    if !body.is_empty() {
        lines.push(body);
    }
    let injected = plan.injection.as_ref().map_or_else(
        || "no credential".to_owned(),
        |injection| format!("the credential goes in as {}", json!(injection)),
    );
    lines.push(output.dim(&injected));
    lines.push(format!(
        "{}.{} with params {}",
        statement.service,
        statement.action,
        escape(&statement.params.0.to_string())
    ));
    lines.push(format!("agent {} for user {} (as it claims)", statement.agent, statement.user));
    lines.push(format!(
        "policy {} version {}, tier {}, {} of {} to approve, until {}",
        statement.policy.id,
        statement.policy.version,
        u8::from(statement.tier),
        statement.threshold,
        statement.approvers.len(),
        statement.expires_at,
    ));
    lines.join("\n")
}

fn sign_verdict(
    key: Key,
    person: PersonId,
    verdict: Verdict,
    statement: &Statement,
    hash: &Hash,
) -> anyhow::Result<Evidence> {
    let (key, proof) = match key {
        Key::Ed25519(key) => {
            let signature = sign::sign(&key, verdict.label(), hash.as_bytes());
            (ApproverKey::Ed25519(PublicKey::of(&key)), ApprovalProof::Ed25519(signature))
        }
        Key::Passkey(key) => {
            let assertion = passkey::assert(&key, verdict, hash);
            (ApproverKey::Passkey(passkey::entry(&key)?), ApprovalProof::Webauthn(assertion))
        }
        Key::Api(_) => bail!("an agent's API key cannot approve"),
    };
    Ok(Evidence { action_id: statement.action_id.clone(), person, verdict, key, proof })
}
