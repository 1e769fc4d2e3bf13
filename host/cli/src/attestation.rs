//! `toani attestation` and `toani instance`: what is proven of the plane, and what is not.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use toani_attestation::{Evidence, SnpVerdict, roots};
use toani_enclave_host::now;
use toani_protocol::{
    BootId, Hash, Time,
    assurance::{SandboxLevel, Tee},
    canonical,
    trust::TrustFile,
};
use toani_verify::{Attested, AttestedBoot, Told, Unproven, tcb_in_words, verify_guest};

use crate::{
    client::Client,
    failure::Failure,
    home::{self, Home},
    output::Output,
};

/// Evidence is at most 48 KiB; the answer that holds it has room for a manifest too.
const FILE_BYTES_MAX: usize = 512 * 1024;

#[derive(Debug, Subcommand)]
pub(crate) enum Instance {
    /// Verify the running plane's evidence against the trust file; say what is proven and what not.
    ///
    /// Example: toani instance show
    Show,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Attestation {
    /// Verify evidence offline: a document of evidence, or what `GET /v1/instance` answered.
    ///
    /// Example: toani attestation verify instance.json --trust trust.json
    Verify {
        file: PathBuf,
        /// By default the one of --home.
        #[arg(long)]
        trust: Option<PathBuf>,
        /// The boot that the evidence has to be of, as records and receipts name it. An instance's
        /// answer names its own; an enclave's document names none.
        #[arg(long)]
        boot: Option<BootId>,
        /// The hash of the boot's channel key, which its record names as `blob`.
        #[arg(long, requires = "boot")]
        channel: Option<Hash>,
        /// At which time it has to hold, in UTC (2026-11-25T14:00:00Z); by default now.
        #[arg(long)]
        at: Option<Time>,
    },
}

pub(crate) async fn instance(
    command: Instance,
    home: &Home,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let Instance::Show = command;
    let trust = home.trust()?;
    let answer = client.get("/v1/instance").await?;
    let told = told(&answer)?;
    let proven = told.verify(&trust, now()).map_err(|error| refused(error, "not proven"))?;
    let sandbox: Option<SandboxLevel> =
        answer.get("sandbox").and_then(|level| serde_json::from_value(level.clone()).ok());
    show(&proven, sandbox, output);
    Ok(())
}

pub(crate) fn run(command: Attestation, home: &Home, output: &Output) -> anyhow::Result<()> {
    let Attestation::Verify { file, trust, boot, channel, at } = command;
    let trust = match trust {
        Some(path) => home::read_trust(&path)?,
        None => home.trust()?,
    };
    let at = at.unwrap_or_else(now);
    let value = read(&file)?;
    if value.get("instance").is_some() {
        let told = told(&value)?;
        if boot.is_some_and(|boot| boot != told.boot) {
            return Err(refused(Unproven::Told("boot"), "not proven").into());
        }
        let proven = told.verify(&trust, at).map_err(|error| refused(error, "not proven"))?;
        show(&proven, None, output);
        return Ok(());
    }
    let document = canonical::encode_value(&value)?;
    if let Ok(Evidence::Snp(guest)) = Evidence::decode(&document) {
        let verdict = verify_guest(&guest, &trust, at).map_err(|error| Failure::Refused {
            code: "evidence_report".to_owned(),
            detail: format!(
                "not proven: the evidence does not hold under the trust file's roots: {error}"
            ),
        })?;
        show_guest(&verdict, output);
        return Ok(());
    }
    let (boot, channel) = boot.zip(channel).ok_or_else(|| {
        let hint = "a document of evidence names no boot; say --boot and --channel, as the record \
                    of the boot that names this evidence says them (boot, blob)";
        Failure::Usage(hint.to_owned())
    })?;
    let proven = AttestedBoot::verify(&document, &boot, channel, &trust, at)
        .map_err(|error| refused(error, "not proven"))?;
    show(&proven, None, output);
    Ok(())
}

/// Before a secret is sealed: the running plane's keys are those of an enclave of the trust file.
pub(crate) async fn require(trust: &TrustFile, client: &Client) -> anyhow::Result<AttestedBoot> {
    let told = told(&client.get("/v1/instance").await?)?;
    Ok(told.verify(trust, now()).map_err(|error| refused(error, "nothing was sealed"))?)
}

fn told(answer: &Value) -> anyhow::Result<Told> {
    serde_json::from_value(answer.clone())
        .context("this is not what an instance of this version says of itself")
}

fn refused(error: Unproven, what: &str) -> Failure {
    Failure::Refused { code: error.code().to_owned(), detail: format!("{what}: {error}") }
}

fn read(file: &Path) -> anyhow::Result<Value> {
    let bytes = home::read(file)?;
    canonical::parse(&bytes, FILE_BYTES_MAX)
        .with_context(|| format!("{} is no JSON document of evidence", file.display()))
}

/// What the evidence proves.
fn proven(boot: &Attested) -> [String; 2] {
    [
        format!("code with the measurement {} runs; the trust file names it", boot.mrenclave),
        format!(
            "the key that signs records, receipts and checkpoints, and the key that credentials \
             are sealed to, are that code's, for this instance, in {}",
            boot.boot
        ),
    ]
}

/// What it does not.
fn not_proven(tee: Tee, sandbox: Option<SandboxLevel>) -> Vec<String> {
    let protection = match tee {
        Tee::Sgx => format!("that it does as described on real machines: {}", tee.means()),
        Tee::None | Tee::Simulator => format!("that anything protects it: {}", tee.means()),
    };
    let mut lines = vec![
        protection,
        "what that code does: build it from its source, and compare the measurement".to_owned(),
        "whose machine it runs on, what time it is, and that nothing was rolled back: the host says \
         so"
            .to_owned(),
    ];
    if let Some(level) = sandbox {
        lines.push(format!("what holds the connectors: {}: {}", level.as_str(), level.means()));
    }
    lines
}

fn show(boot: &Attested, sandbox: Option<SandboxLevel>, output: &Output) {
    let (proven, not_proven) = (proven(boot), not_proven(boot.tee, sandbox));
    let result = json!({
        "verified": true,
        "evidence": boot,
        "tee_means": boot.tee.means(),
        "proven": proven,
        "not_proven": not_proven,
    });
    output.result(&result, |output| {
        let list =
            |lines: &[String]| lines.iter().map(|line| format!("  - {line}\n")).collect::<String>();
        format!(
            "{}\n\n\
             boot         {}\n\
             measurement  {}\n\
             tee          {}: {}\n\
             root         {}\n\
             platform     {}, evaluation data number {}\n\
             valid until  {}\n\n\
             Proven:\n{}\nNot proven:\n{}",
            output.good("Verified against the trust file"),
            boot.boot,
            boot.mrenclave,
            output.strong(boot.tee.as_str()),
            boot.tee.means(),
            boot.root,
            tcb_in_words(boot),
            boot.tcb_eval_data_number,
            boot.valid_until,
            list(&proven),
            list(&not_proven),
        )
    });
}

fn show_guest(guest: &SnpVerdict, output: &Output) {
    let level = if roots::sandbox_is_snp(&guest.root) { "snp" } else { "simulator" };
    let means = if roots::sandbox_is_snp(&guest.root) {
        "a report under AMD's root; not yet run on SEV-SNP hardware"
    } else {
        "a simulated TEE: the launch digest is real, its protection is not"
    };
    let not_proven = [
        "that the operators admit this launch digest and this chip",
        "who holds this guest's keys: its report data binds a channel, and a file shows none",
    ];
    let result = json!({
        "verified": true,
        "guest": {
            "level": level,
            "launch_digest": HEXLOWER.encode(&guest.launch_digest),
            "chip_id": HEXLOWER.encode(&guest.chip_id),
            "report_data": HEXLOWER.encode(&guest.report_data),
            "product": guest.product,
            "tcb": guest.tcb,
            "root": guest.root,
            "valid_until": guest.valid_until,
        },
        "means": means,
        "not_proven": not_proven,
    });
    output.result(&result, |output| {
        format!(
            "{}\n\n\
             level          {level}: {means}\n\
             launch digest  {}\n\
             chip           {}\n\
             root           {}\n\
             valid until    {}\n\n\
             Not proven:\n  - {}\n  - {}",
            output.good("Verified: a guest, under a root of the trust file"),
            HEXLOWER.encode(&guest.launch_digest),
            HEXLOWER.encode(&guest.chip_id),
            guest.root,
            guest.valid_until,
            not_proven[0],
            not_proven[1],
        )
    });
}
