//! What `./x` runs. Each subcommand says what it does before it does it.

mod browser;
mod check;
mod gates;
mod guest;
mod image;
mod lexer;
mod repo;
mod root_file_system;
mod run;
mod runsc;
mod signing;
mod tools;
mod wipe;

use std::process::ExitCode;

use anyhow::Result;

/// The subcommands of `./x`; the README documents each.
pub(crate) const SUBCOMMANDS: &[(&str, &str)] = &[
    ("setup", "fetch dependencies, install what tests start, and say what this machine lacks"),
    ("demo", "build, then drive one governed action end to end (--json)"),
    (
        "test",
        "build the binaries, then run all tests (--long: 1,000 executions, and nothing stays)",
    ),
    (
        "check",
        "format, lints, docs and the invariants of the architecture (--invariants: these only)",
    ),
    ("image", "build the enclave's image and print its MRENCLAVE (--bless: commit to it)"),
    ("image connector", "build the connectors' root file system and print its digest (--twice)"),
    ("image browser", "build a root file system with Debian's browser (--twice)"),
    (
        "image guest",
        "build the virtual machine for containers and print its launch digest (--twice, --snp)",
    ),
    ("bench", "the benchmarks, as JSON"),
    ("fuzz", "the mutation fuzzers for longer (TOANI_FUZZ_EXECUTIONS=1000000)"),
];

/// Exit code for something that was asked for by name and is not there.
const MISSING: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (subcommand, rest) = match arguments.split_first() {
        Some((subcommand, rest)) => (subcommand.as_str(), rest),
        None => ("help", Default::default()),
    };
    match dispatch(subcommand, rest) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("x {subcommand}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(subcommand: &str, rest: &[String]) -> Result<ExitCode> {
    match subcommand {
        "setup" => run::setup(),
        "demo" => run::demo(rest),
        "test" => run::test(rest),
        "image" => match rest.split_first() {
            Some((kind, rest)) if kind == "connector" => root_file_system::connector(rest),
            Some((kind, rest)) if kind == "browser" => browser::image(rest),
            Some((kind, rest)) if kind == "guest" => guest::image(rest),
            _ => image::image(rest),
        },
        "check" => check::run(rest),
        "bench" => run::bench(rest),
        "fuzz" => run::fuzz(rest),
        "help" | "--help" | "-h" => {
            println!("./x SUBCOMMAND\n");
            for (name, what) in SUBCOMMANDS {
                println!("  {name:<15} {what}");
            }
            Ok(ExitCode::SUCCESS)
        }
        other => {
            eprintln!("x: no subcommand {other}; ./x help lists them");
            Ok(ExitCode::from(MISSING))
        }
    }
}
