//! `toani agent` and `toani approver`: keys here, entries in the policy file.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use toani_protocol::{
    AgentId, PersonId,
    canonical::Json,
    policy::{ApproverKey, api_key_hash},
    sign::PublicKey,
};

use crate::{
    client::Client,
    home::{self, Home},
    keys,
    output::Output,
    passkey,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// Make an agent's key and enter the agent into a policy file.
    ///
    /// Example: toani agent add trader --policy policy.yaml --behind anna
    Add(AddAgent),
    /// Revoke an agent's key at once: no new token, and outstanding ones are void.
    ///
    /// Example: toani agent revoke trader
    Revoke { agent: AgentId },
}

#[derive(Debug, Args)]
pub(crate) struct AddAgent {
    agent: AgentId,
    #[arg(long)]
    policy: PathBuf,
    /// An API key instead of a signing key, for agents that can hold nothing else.
    #[arg(long)]
    api_key: bool,
    /// A person behind the agent, who never approves what it asks for; may be repeated.
    #[arg(long)]
    behind: Vec<PersonId>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Approver {
    /// Make a person's key and enter the person into a policy file.
    ///
    /// Example: toani approver add anna --software-passkey --policy policy.yaml
    Add(AddApprover),
}

#[derive(Debug, Args)]
pub(crate) struct AddApprover {
    person: PersonId,
    #[arg(long)]
    policy: PathBuf,
    /// A passkey in software, good for tiers 1 and 2 at the level `software`; without this, an
    /// Ed25519 key, good for tier 1.
    #[arg(long)]
    software_passkey: bool,
}

pub(crate) async fn run(
    command: Agent,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    match command {
        Agent::Add(command) => add(&command, home, output),
        Agent::Revoke { agent } => {
            let tenant = home.trust()?.tenant.context("the trust file names no tenant")?;
            let body = json!({"tenant": tenant, "agent": agent});
            client.admin_post("/admin/v1/agents/revoke", &body).await?;
            output.result(&json!({"revoked": agent}), |output| {
                format!("{} {agent}", output.good("Revoked:"))
            });
            Ok(())
        }
    }
}

fn add(command: &AddAgent, home: &Home, output: &Output) -> anyhow::Result<()> {
    let path = home.agent_key(command.agent.as_str());
    let key = if command.api_key {
        json!({"api_key": api_key_hash(keys::new_api(&path)?.as_bytes())})
    } else {
        json!({"ed25519": PublicKey::of(&keys::new_ed25519(&path)?)})
    };
    let entry = json!({"key": key, "behind": command.behind});
    enter(&command.policy, "agents", command.agent.as_str(), &entry)
        .inspect_err(|_| drop(std::fs::remove_file(&path)))?;
    let result = json!({"agent": command.agent, "key": path, "policy": command.policy});
    output.result(&result, |output| {
        format!(
            "{} {}, key in {}\nNext: toani policy sign {} (raise its version first, if this one was \
             active before)",
            output.good("Added:"),
            command.agent,
            path.display(),
            command.policy.display()
        )
    });
    Ok(())
}

pub(crate) fn run_approver(command: Approver, home: &Home, output: &Output) -> anyhow::Result<()> {
    let Approver::Add(command) = command;
    let path = home.approver_key(command.person.as_str());
    let key = if command.software_passkey {
        ApproverKey::Passkey(passkey::entry(&keys::new_passkey(&path)?)?)
    } else {
        ApproverKey::Ed25519(PublicKey::of(&keys::new_ed25519(&path)?))
    };
    enter(&command.policy, "persons", command.person.as_str(), &json!({"keys": [key]}))
        .inspect_err(|_| drop(std::fs::remove_file(&path)))?;
    let result = json!({"person": command.person, "key": path, "policy": command.policy});
    output.result(&result, |output| {
        let kind = if command.software_passkey { "software passkey" } else { "key" };
        format!("{} {}, {kind} in {}", output.good("Added:"), command.person, path.display())
    });
    Ok(())
}

/// Enters one line into a section of a policy file and leaves every other line as it is.
fn enter(file: &std::path::Path, section: &str, name: &str, entry: &Value) -> anyhow::Result<()> {
    let text = String::from_utf8(home::read(file)?).context("a policy file is UTF-8")?;
    let hint =
        || format!("enter this into {section} of {} by hand: {name}: {entry}", file.display());
    let changed = insert(&text, section, name, entry).with_context(hint)?;
    home::write(file, changed.as_bytes())
}

fn insert(text: &str, section: &str, name: &str, entry: &Value) -> anyhow::Result<String> {
    let Json(before) = serde_yaml_ng::from_str(text)?;
    let taken = before.get(section).is_some_and(|there| there.get(name).is_some());
    anyhow::ensure!(!taken, "{name} is there already");
    let line = format!("  {name}: {entry}");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let head = format!("{section}:");
    let at = lines.iter().position(|line| {
        line.strip_prefix(&head).is_some_and(|rest| ["", "{}"].contains(&rest.trim()))
    });
    match at {
        Some(at) => {
            lines.splice(at..=at, [head, line]);
        }
        None if before.get(section).is_none() => lines.extend([head, line]),
        None => anyhow::bail!("{section} is not written as a block"),
    }
    let after = lines.join("\n") + "\n";
    // What was entered must be what is read, and nothing else may have changed.
    let Json(mut read) = serde_yaml_ng::from_str(&after)?;
    let entered =
        read.get_mut(section).and_then(Value::as_object_mut).and_then(|map| map.remove(name));
    anyhow::ensure!(entered.as_ref() == Some(entry), "the file's layout does not take it");
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_leaves_the_rest_alone() {
        let text = "# head\nid: x\nagents: {}\n# tail\nservices:\n  a: {b: 1}\n";
        let entry = json!({"key": {"ed25519": "k"}, "behind": []});
        let once = insert(text, "agents", "one", &entry).unwrap();
        assert!(once.starts_with("# head\nid: x\nagents:\n  one: {"));
        assert!(once.ends_with("# tail\nservices:\n  a: {b: 1}\n"));
        let twice = insert(&once, "agents", "two", &entry).unwrap();
        assert_eq!(twice.lines().count(), once.lines().count() + 1);
        assert!(insert(&twice, "agents", "one", &entry).is_err());
        assert!(insert("agents: {a: 1}\n", "agents", "one", &entry).is_err());
        assert!(
            insert("id: x\n", "persons", "anna", &entry).unwrap().contains("persons:\n  anna:")
        );
    }
}
