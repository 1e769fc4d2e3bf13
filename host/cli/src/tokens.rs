//! `toani token`: void what was issued.

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;
use toani_protocol::ActionId;

use crate::{client::Client, home::Home, output::Output};

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Void the token of an action, issued or still to be issued.
    ///
    /// Example: toani token revoke act_...
    Revoke {
        /// The action that the token is for.
        action: ActionId,
    },
}

pub(crate) async fn run(
    command: Token,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let Token::Revoke { action } = command;
    let tenant = home.trust()?.tenant.context("the trust file names no tenant")?;
    client
        .admin_post("/admin/v1/tokens/revoke", &json!({"tenant": tenant, "action": action}))
        .await?;
    output.result(&json!({"revoked": action}), |output| {
        format!("{} the token of {action}", output.good("Revoked:"))
    });
    Ok(())
}
