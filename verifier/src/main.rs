//! `toani-verify`: reads two files, says verified or refused.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use toani_protocol::{
    canonical,
    limits::{BUNDLE_BYTES_MAX, DOCUMENT_BYTES_MAX},
    trust::TrustFile,
};
use toani_verify::{Verified, refused_text, to_json, verified_text, verify};

const AFTER_HELP: &str = "\
Exit codes:
  0  verified: every record is signed, in the log, and none is left out
  1  refused: something in the bundle does not hold; the message says what
  2  not verified: wrong usage, or a file cannot be read

The trust file says whom you believe. Have it from a person, never from the
bundle or from the plane that made it.

Example:
  toani-verify bundle.tar --trust trust.json";

/// Verifies a proof bundle of toani offline.
#[derive(Debug, Parser)]
#[command(name = "toani-verify", version, after_help = AFTER_HELP)]
struct Arguments {
    /// The bundle, a tar archive
    bundle: PathBuf,
    /// The trust file
    #[arg(long)]
    trust: PathBuf,
    /// Print the verdict as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("toani-verify: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let trust = read(&arguments.trust, DOCUMENT_BYTES_MAX)?;
    let trust = read_trust(&trust)
        .with_context(|| format!("{} is not a trust file", arguments.trust.display()))?;
    let bundle = read(&arguments.bundle, BUNDLE_BYTES_MAX)?;
    let verdict = verify(&bundle, &trust);
    let verdict = verdict.as_ref().map(Verified::report);
    let text = match (arguments.json, &verdict) {
        (true, _) => format!("{:#}\n", to_json(&verdict)),
        (false, Ok(report)) => verified_text(report),
        (false, Err(error)) => refused_text(error),
    };
    io::stdout().write_all(text.as_bytes()).context("cannot print")?;
    Ok(verdict.is_ok())
}

/// People may edit a trust file: white space and the order of keys are free, a key named twice or
/// an unknown one is an error.
fn read_trust(bytes: &[u8]) -> anyhow::Result<TrustFile> {
    let value = canonical::parse(bytes, DOCUMENT_BYTES_MAX)?;
    Ok(serde_json::from_value(value)?)
}

/// Reads a whole file; of a larger one just enough that who parses it refuses it as too large.
fn read(path: &Path, bytes_max: usize) -> anyhow::Result<Vec<u8>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let limit = u64::try_from(bytes_max)?.saturating_add(1);
    let mut bytes = Vec::new();
    file.take(limit)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes)
}
