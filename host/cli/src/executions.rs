//! `toani executions`: what was executed.

use anyhow::Context;
use clap::Subcommand;
use serde_json::Value;
use toani_protocol::{AgentId, ExecutionId};

use crate::{
    client::Client,
    home::Home,
    output::{Output, pretty, table},
    run::{self, Caller},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Executions {
    /// The newest executions of the tenant.
    ///
    /// Example: toani executions list --limit 50
    List {
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Result and receipt of one execution, as its agent.
    ///
    /// Example: toani executions show exe_... --agent agent
    Show {
        id: ExecutionId,
        #[arg(long, default_value = "agent")]
        agent: AgentId,
    },
}

pub(crate) async fn run(
    command: Executions,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    match command {
        Executions::List { limit } => list(limit, home, client, output).await,
        Executions::Show { id, agent } => {
            let caller = Caller::new(home, client, agent).await?;
            let result = caller.execution(client, id.as_str()).await?;
            let summary = run::verify_receipt(&result, &home.trust()?)?;
            output.result(&result, |_| format!("{}\n{summary}", pretty(&result)));
            Ok(())
        }
    }
}

async fn list(limit: u32, home: &Home, client: &Client, output: &Output) -> anyhow::Result<()> {
    let tenant = home.trust()?.tenant.context("the trust file names no tenant")?;
    let path = format!("/admin/v1/executions?tenant={tenant}&limit={limit}");
    let answer = client.admin_get(&path).await?;
    output.result(&answer, |_| {
        let rows = answer.get("executions").and_then(Value::as_array).cloned().unwrap_or_default();
        let cell = |row: &Value, name: &str| {
            row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let names =
            ["execution_id", "agent", "service", "action", "state", "outcome", "started_at"];
        let lines: Vec<_> =
            rows.iter().map(|row| names.map(|name| cell(row, name)).to_vec()).collect();
        table(&names, &lines)
    });
    Ok(())
}
