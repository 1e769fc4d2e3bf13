//! The verdict, for people and for programs.

use std::fmt::Write;

use crate::{attested::Attested, problem::BundleError, report::Report};
use serde_json::{Value, json};
use toani_protocol::approval::Verdict;

/// The verdict for people, of several lines.
pub fn verified_text(report: &Report) -> String {
    let mut out = String::from("VERIFIED\n\n");
    let mut line = |name: &str, value: &str| {
        // Writing to a String does not fail.
        let _ = writeln!(out, "  {name:<13} {value}");
    };
    line("instance", &report.instance.to_string());
    line("tenant", report.tenant.as_str());
    line("log", &report.origin);
    line(
        "checkpoint",
        &format!("{} records, root {}", report.checkpoint_size, report.checkpoint_root),
    );
    line("period", &format!("{} to {}", report.from, report.to));
    line("exported", &format!("{} (the enclave's clock)", report.made_at));
    line(
        "records",
        &format!("{}, and {} of the instance itself", report.records, report.instance_records),
    );
    for (kind, count) in &report.kinds {
        line("", &format!("{count:>8} {kind}"));
    }
    line("outcomes", if report.outcomes.is_empty() { "none" } else { "" });
    for (outcome, count) in &report.outcomes {
        line("", &format!("{count:>8} {outcome}"));
    }
    line("policies", &report.policies.to_string());
    line("receipts", &report.receipts.to_string());
    for shown in &report.disclosed {
        let name = |name: Option<&str>| escape(name.unwrap_or_default());
        let (service, action) = (shown.service.as_ref(), shown.action.as_ref());
        let (service, action) =
            (name(service.map(|id| id.as_str())), name(action.map(|id| id.as_str())));
        line("disclosed", shown.action_id.as_str());
        line(
            "",
            &format!(
                "{service}.{action}, by agent {}",
                name(shown.agent.as_ref().map(|id| id.as_str()))
            ),
        );
        line("", &escape(&shown.target));
        line("", &format!("params {}", escape(&shown.params.0.to_string())));
        for answer in &shown.answers {
            let said = match answer.verdict {
                Verdict::Approve => "approved",
                Verdict::Deny => "denied",
            };
            line(
                "",
                &format!(
                    "{said} by {} ({})",
                    answer.person,
                    json!(answer.key).as_str().unwrap_or_default()
                ),
            );
        }
    }
    for boot in &report.boots {
        line("boot", &format!("{}, attested at {}", boot.boot, boot.at));
        line("", &format!("measurement {}", boot.mrenclave));
        line("", &format!("tee {} by root {}", boot.tee.as_str(), boot.root));
        line("", &tcb_in_words(boot));
    }
    if let Some(weakest) = report.weakest {
        line("weakest", "level of each aspect over all executions and decisions");
        for (aspect, level, means) in weakest.in_words() {
            line("", &format!("{aspect:<10} {level}: {means}"));
        }
    }
    let _ = write!(out, "\n{}\n{}\n", report.coverage, report.tee_statement);
    out
}

/// What the vendor says of a platform's TCB.
pub fn tcb_in_words(boot: &Attested) -> String {
    let status = json!(boot.tcb_status);
    let advisories = match boot.advisory_ids.as_slice() {
        [] => "no advisories".to_owned(),
        some => escape(&some.join(", ")),
    };
    format!("TCB {}, {advisories}", status.as_str().unwrap_or_default())
}

/// Text of others, with nothing in it that a terminal would obey or that would be read as another
/// character.
fn escape(text: &str) -> String {
    let shown = |c: char| c == ' ' || c.is_ascii_graphic();
    text.chars()
        .flat_map(|c| if shown(c) { vec![c] } else { c.escape_unicode().collect() })
        .collect()
}

/// The refusal for people.
pub fn refused_text(error: &BundleError) -> String {
    format!("REFUSED: {error}\n\nDo not rely on anything in this bundle. Code: {}\n", error.code())
}

/// The verdict for programs: `ok`, and `report`, or `code`, `error`, `file` and `cause`, which is
/// what does not hold of evidence.
pub fn to_json(verdict: &Result<&Report, &BundleError>) -> Value {
    match verdict {
        Ok(report) => json!({ "ok": true, "report": report }),
        Err(error) => json!({
            "ok": false,
            "code": error.code(),
            "error": error.problem.sentence(),
            "file": error.file,
            "cause": error.cause.map(|cause| json!({
                "code": cause.code(),
                "error": cause.to_string(),
            })),
        }),
    }
}
