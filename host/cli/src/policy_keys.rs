//! `toani policy keys` and `change-key`: which key signs a tenant's policies, and which follows it.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::json;
use toani_protocol::{
    TenantId, canonical,
    policy::PolicyKeyChange,
    sign::{Label, PublicKey, Signed},
};

use crate::{
    client::Client,
    home::Home,
    keys,
    output::{Output, confirmed, table},
    policies::tenant,
};

#[derive(Debug, Args)]
pub(crate) struct ChangeKey {
    /// Hand over to this public key, whose private part is elsewhere. By default a new key is made
    /// here.
    #[arg(long, value_name = "KEY")]
    to: Option<PublicKey>,
    /// Hand over without asking.
    #[arg(long)]
    yes: bool,
}

/// One key, as the plane lists it; sequence 0 is the tenant's first.
#[derive(Debug, Deserialize, serde::Serialize)]
struct Listed {
    sequence: u64,
    key: PublicKey,
    since: u64,
}

async fn listed(tenant: &TenantId, client: &Client) -> anyhow::Result<Vec<Listed>> {
    let mut answer = client.admin_get(&format!("/admin/v1/policy-keys?tenant={tenant}")).await?;
    let keys = answer.get_mut("keys").map(serde_json::Value::take).unwrap_or_default();
    serde_json::from_value(keys).context("the plane's list of policy keys is unreadable")
}

pub(crate) async fn list(home: &Home, client: &Client, output: &Output) -> anyhow::Result<()> {
    let keys = listed(&tenant(home)?, client).await?;
    output.result(&json!({ "keys": keys }), |_| {
        let row = |listed: &Listed| {
            vec![listed.sequence.to_string(), listed.key.to_string(), listed.since.to_string()]
        };
        table(&["sequence", "key", "since"], &keys.iter().map(row).collect::<Vec<_>>())
    });
    Ok(())
}

pub(crate) async fn change(
    command: ChangeKey,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let tenant = tenant(home)?;
    let keys = listed(&tenant, client).await?;
    let now = keys.first().context(
        "the tenant begins with its first active policy; a key can follow after that, not before",
    )?;
    let next = match command.to {
        Some(key) => handed_over(key, &command, home)?,
        None => made_here(&home.next_policy_key())?,
    };
    // Where they are the same, an earlier change was cut short after the plane had taken it: only
    // the files are left.
    let before = if now.key == next {
        keys.get(1).with_context(|| format!("{next} is the tenant's policy key already"))?
    } else {
        now
    };
    if now.key != next {
        let old = keys::read_ed25519(&home.policy_key())?;
        if PublicKey::of(&old) != now.key {
            bail!(
                "{} is not {}, which alone names its successor",
                home.policy_key().display(),
                now.key
            );
        }
        let sequence = now.sequence.saturating_add(1);
        let change = PolicyKeyChange { tenant, sequence, key: next };
        let signed = Signed::by(&old, Label::PolicyKey, change)?;
        client.admin_put("/admin/v1/policy-keys", canonical::encode(&signed)?).await?;
    }
    let old_file = home.old_policy_key(before.sequence);
    retire(home, &next, &old_file)?;
    let sequence = before.sequence.saturating_add(1);
    let result = json!({"sequence": sequence, "key": next, "before": before.key});
    output.result(&result, |output| {
        let signs = if command.to.is_some() { "its holder" } else { "`toani policy sign`" };
        format!(
            "{} {next} (change {sequence}): {signs} signs with it from now on\n\
             What the key before has signed stays valid; it is in {} and signs nothing new.",
            output.good("Changed:"),
            old_file.display(),
        )
    });
    Ok(())
}

fn handed_over(key: PublicKey, command: &ChangeKey, home: &Home) -> anyhow::Result<PublicKey> {
    if home.next_policy_key().exists() {
        bail!("an earlier change was cut short; end it first, with `toani policy change-key`");
    }
    if !command.yes && !confirmed("change-key")? {
        bail!("nothing was changed");
    }
    Ok(key)
}

/// The key that is to follow. It is on the disk before the plane hears of it, and one that was left
/// there by a change that was cut short is used.
fn made_here(path: &Path) -> anyhow::Result<PublicKey> {
    let key = if path.exists() { keys::read_ed25519(path) } else { keys::new_ed25519(path) };
    Ok(PublicKey::of(&key?))
}

/// The plane has taken the next key: it takes the place of the one before, which is kept aside.
fn retire(home: &Home, next: &PublicKey, old_file: &Path) -> anyhow::Result<()> {
    let (current, made) = (home.policy_key(), home.next_policy_key());
    let moved = |from: &Path, to: &Path| {
        fs::rename(from, to)
            .with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
    };
    if current.exists() && PublicKey::of(&keys::read_ed25519(&current)?) != *next {
        moved(&current, old_file)?;
    }
    if made.exists() { moved(&made, &current) } else { Ok(()) }
}
