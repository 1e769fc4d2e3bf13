//! `toani audit`: proof for others.

use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;

use crate::{client::Client, home, home::Home, output::Output};

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Export the tenant's records with all proofs; `toani-verify` checks the file offline.
    Export {
        #[arg(long, default_value = "bundle.tar")]
        out: PathBuf,
        /// The tenant's first sequence in the bundle.
        #[arg(long, default_value_t = 0)]
        from: u64,
    },
}

pub(crate) async fn run(
    command: Audit,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let Audit::Export { out, from } = command;
    let tenant = home.trust()?.tenant.context("the trust file names no tenant")?;
    let body = json!({"tenant": tenant, "from_sequence": from});
    let answer = client.admin_post("/admin/v1/audit/export", &body).await?;
    home::write(&out, &answer.body)?;
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
