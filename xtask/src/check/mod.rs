//! `./x check`: format, lints, docs, and the invariants of the architecture.
//!
//! Each invariant is a function from [`Repo`] to sentences about what breaks it, so that a test
//! can break each in a made-up repository and see it found.

mod docs;
mod layers;
mod licences;
mod sources;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::{
    repo::{IMAGE, Repo, root},
    run::{cargo, cargo_in, cargo_with, release_folder, step},
};

/// One invariant: its name, and what finds its breaches.
type Invariant = (&'static str, fn(&Repo) -> Vec<String>);

/// All invariants. docs/ARCHITECTURE.md explains them.
const INVARIANTS: &[Invariant] = &[
    ("trusted crates need only what stands below them", layers::trusted_layers),
    ("trusted crates reach no runtime and no host", layers::trusted_closure),
    ("the enclave ships as the measured image alone", layers::enclave_in_the_image),
    ("the verifier needs trusted crates only", layers::verifier),
    ("HTTP servers stay in the gateway", layers::http),
    ("the trusted base is small", layers::trusted_crates),
    ("the trusted base is short", sources::trusted_size),
    ("trusted sources are no_std and without unsafe code", sources::trusted_attributes),
    ("trusted sources know no clock, file or socket", sources::trusted_words),
    ("unsafe code stands in named files only", sources::unsafe_files),
    ("every member keeps the workspace's lints", sources::lints),
    ("proof types have no other constructor than their check", sources::proof_types),
    ("licences and sources of dependencies", licences::licences),
    ("links in documents resolve", docs::links),
    ("the README documents every subcommand", docs::subcommands),
    ("no private key in the repository", sources::private_keys),
];

/// Argument with which the commands that take minutes are left out.
const INVARIANTS_ONLY: &str = "--invariants";

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let repo = Repo::load(&root())?;
    let mut broken = 0usize;
    for (name, invariant) in INVARIANTS {
        let breaches = invariant(&repo);
        println!("{} {name}", if breaches.is_empty() { "ok    " } else { "BROKEN" });
        for breach in &breaches {
            println!("       {breach}");
        }
        broken += breaches.len();
    }
    let commands = [
        ("format", run_format as fn() -> Result<()>),
        ("lints", run_clippy),
        ("documentation", run_rustdoc),
    ];
    let all = !arguments.iter().any(|argument| argument == INVARIANTS_ONLY);
    for (name, command) in commands.into_iter().filter(|_| all) {
        step(name);
        if let Err(error) = command() {
            println!("BROKEN {name}: {error:#}");
            broken += 1;
        }
    }
    if broken == 0 {
        println!("all checks passed");
        Ok(ExitCode::SUCCESS)
    } else {
        println!("{broken} breaches");
        Ok(ExitCode::FAILURE)
    }
}

fn run_format() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo_in(IMAGE, &["fmt", "--all", "--check"])
}

fn run_clippy() -> Result<()> {
    cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    let target = release_folder().with_file_name("image");
    let target = target.to_str().context("the target folder's path is not UTF-8")?;
    let lints = ["clippy", "--release", "--quiet", "--target-dir", target, "--", "-D", "warnings"];
    cargo_in(IMAGE, &lints)
}

fn run_rustdoc() -> Result<()> {
    cargo_with(&["doc", "--workspace", "--no-deps", "--quiet"], &[("RUSTDOCFLAGS", "-D warnings")])
}
