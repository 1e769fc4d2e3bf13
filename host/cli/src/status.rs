//! `toani status`: what runs, and what is proven about it.

use serde_json::Value;

use crate::{client::Client, output::Output};

pub(crate) async fn run(client: &Client, output: &Output) -> anyhow::Result<()> {
    let status = client.admin_get("/admin/v1/status").await?;
    output.result(&status, |output| {
        let at = |pointer: &str| match status.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => "none".to_owned(),
            Some(other) => other.to_string(),
        };
        let ready = status.get("ready") == Some(&Value::Bool(true));
        let head = if ready { output.good("ready") } else { output.bad("not ready") };
        let mut lines = vec![
            format!("plane      {head}"),
            format!("instance   {}", at("/instance/instance")),
            format!("boot       {}", at("/instance/boot")),
            format!("tee        {}: {}", at("/instance/tee"), at("/tee_means")),
            format!("evidence   of {}, made anew each day", at("/proven_at")),
            format!("sandbox    {}", sandbox(&status)),
            format!("admission  version {}", at("/instance/admission_version")),
            format!("log        {} records durable", at("/log/durable")),
            format!(
                "waiting    {} actions, {} executions",
                at("/instance/pending_actions"),
                at("/instance/open_executions")
            ),
        ];
        lines.push(
            output.dim("That is what the plane says. What is proven of it: toani instance show"),
        );
        if status.pointer("/log/failure").is_some_and(|failure| !failure.is_null()) {
            lines.push(output.bad(&format!("log failed: {}", at("/log/failure"))));
        }
        if status.pointer("/instance/sandbox").is_none_or(Value::is_null) {
            lines.push(
                "Nothing can run: no sandbox is admitted. Next: toani admission admit --sandbox"
                    .to_owned(),
            );
        }
        lines.join("\n")
    });
    Ok(())
}

/// The level and what it means; there may be none connected.
fn sandbox(status: &Value) -> String {
    let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str);
    match (text("/instance/sandbox"), text("/sandbox_means")) {
        (Some(level), Some(means)) => format!("{level}: {means}"),
        _ => "none".to_owned(),
    }
}
