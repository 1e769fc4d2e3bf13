//! `toani audit`: proof for others.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use serde_json::{Value, json};
use toani_protocol::{TenantId, UserId};

use crate::{
    client::Client,
    home::{self, Home},
    output::{Output, confirmed, table},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Export the tenant's records with all proofs; `toani-verify` checks the file offline.
    ///
    /// Example: toani audit export --out bundle.tar
    Export {
        #[arg(long, default_value = "bundle.tar")]
        out: PathBuf,
        /// The tenant's first sequence in the bundle.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Show what this action or execution was asked with, and who answered.
        #[arg(long, value_name = "ACTION|EXECUTION")]
        disclose: Vec<String>,
    },
    /// Find the records of one user: what they are named by on one day, in UTC.
    ///
    /// Example: toani audit user u-1001 --day 2026-11-24
    User {
        user: UserId,
        #[arg(long, value_name = "YYYY-MM-DD")]
        day: String,
    },
    /// Make it impossible, for good, to say whose the records through a day are.
    ///
    /// Example: toani audit forget --through 2026-10-31
    Forget {
        /// The last day that is forgotten, in UTC; all before go with it.
        #[arg(long, value_name = "YYYY-MM-DD")]
        through: String,
        /// Forget without asking.
        #[arg(long)]
        yes: bool,
    },
}

/// Records that are asked for at once.
const PAGE: usize = 1_000;

pub(crate) async fn run(
    command: Audit,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let tenant = home.trust()?.tenant.context("the trust file names no tenant")?;
    match command {
        Audit::Export { out, from, disclose } => {
            let body = json!({"tenant": tenant, "from_sequence": from, "disclose": disclose});
            export(&out, &body, home, client, output).await
        }
        Audit::User { user, day } => find(&user, &day, &tenant, client, output).await,
        Audit::Forget { through, yes } => {
            if !yes && !confirmed("forget")? {
                anyhow::bail!("nothing was forgotten");
            }
            let body = json!({"tenant": tenant, "through": through});
            client.admin_post("/admin/v1/audit/forget", &body).await?;
            let result = json!({"forgotten_through": through});
            let said = format!("Users of records through {through} cannot be found any more");
            output.result(&result, |output| output.good(&said));
            Ok(())
        }
    }
}

/// The records of a user on a day, by the hash that the enclave tells the owner.
async fn find(
    user: &UserId,
    day: &str,
    tenant: &TenantId,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let body = json!({"tenant": tenant, "user": user, "day": day});
    let answer = client.admin_post("/admin/v1/audit/user", &body).await?.json()?;
    let hash = answer.get("user").cloned().unwrap_or_default();
    let (mut found, mut from) = (Vec::new(), 0);
    loop {
        let page = format!("/v1/audit/records?tenant={tenant}&from={from}&limit={PAGE}");
        let page = client.get(&page).await?;
        let records = page.get("records").and_then(Value::as_array).cloned().unwrap_or_default();
        if records.is_empty() {
            break;
        }
        from += records.len();
        found.extend(records.into_iter().filter(|record| record.get("user") == Some(&hash)));
    }
    let result = json!({"user": hash, "records": found});
    output.result(&result, |_| {
        let cell = |record: &Value, name: &str| match record.get(name) {
            Some(Value::String(text)) => text.clone(),
            other => other.map(Value::to_string).unwrap_or_default(),
        };
        let names = ["index", "time", "kind", "action_id", "execution_id"];
        let row = |record: &Value| names.map(|name| cell(record, name)).to_vec();
        table(&names, &found.iter().map(row).collect::<Vec<_>>())
    });
    Ok(())
}

async fn export(
    out: &Path,
    body: &Value,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let answer = client.admin_post("/admin/v1/audit/export", body).await?;
    home::write(out, &answer.body)?;
    let result = json!({"bundle": out, "bytes": answer.body.len()});
    output.result(&result, |output| {
        format!(
            "{} {} ({} bytes)\nNext: toani-verify {} --trust {}",
            output.good("Exported:"),
            out.display(),
            answer.body.len(),
            out.display(),
            home.trust_file().display(),
        )
    });
    Ok(())
}
