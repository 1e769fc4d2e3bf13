//! `toani admission`: the operators say which sandboxes may receive credentials.

use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use serde_json::{Value, json};
use toani_protocol::{
    Hash,
    assurance::SandboxLevel,
    canonical,
    instance::{AdmissionFormat, AdmissionList, AdmittedSandbox},
    sign::{Label, Signed},
};

use crate::{client::Client, home::Home, keys, output::Output, serve::programs};

#[derive(Debug, Subcommand)]
pub(crate) enum Admission {
    /// Replace the list: admit the sandbox program beside this one, and no other.
    ///
    /// Example: toani admission admit --sandbox
    Admit {
        /// Measure the sandbox's programs here and admit them.
        #[arg(long, required = true)]
        sandbox: bool,
        /// Where the plane's programs are; by default beside this one.
        #[arg(long)]
        programs: Option<PathBuf>,
    },
}

pub(crate) async fn run(
    command: Admission,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let Admission::Admit { sandbox: _, programs: given } = command;
    let programs = programs(given)?;
    let (supervisor, connector) =
        (programs.join("toani-sandbox"), programs.join("toani-connector"));
    let measurement = toani_sandbox::measurement(&supervisor, &connector)
        .with_context(|| format!("cannot measure the sandbox in {}", programs.display()))?;
    let instance = client.get("/v1/instance").await?;
    let version = instance.get("admission_version").and_then(Value::as_u64).unwrap_or(0);
    let list = AdmissionList {
        format: AdmissionFormat::V1,
        instance: home.trust()?.instance,
        version: version.saturating_add(1),
        sandboxes: vec![AdmittedSandbox { measurement, level: SandboxLevel::Native }],
    };
    let signed = Signed::by(&keys::read_ed25519(&home.operator_key())?, Label::Admission, list)?;
    let bytes = canonical::encode(&signed)?;
    let hash = Hash::of(&bytes);
    client.admin_put("/admin/v1/admission", bytes).await?;
    let result = json!({
        "version": version.saturating_add(1), "hash": hash, "measurement": measurement, "level": "native",
    });
    output.result(&result, |output| {
        format!("{} sandbox {measurement} at level native", output.good("Admitted:"))
    });
    Ok(())
}
