//! Building and running: setup, demo, test, bench, fuzz. The image has a file of its own.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

use crate::{
    browser, image,
    repo::{IMAGE, root},
    root_file_system, runsc, tools, wipe,
};

/// Packages whose release binaries the demo and the end-to-end tests start.
const BINARY_PACKAGES: &[&str] = &[
    "toani-cli",
    "toani-enclave-host",
    "toani-simulator",
    "toani-sandbox",
    "toani-verify",
    "toani-tests",
];

/// Of these, the ones that hold credentials.
const WIPING_PROGRAMS: &[&str] = &["toani", "toani-sandbox", "toani-connector"];

const BENCH_PACKAGE: &str = "toani-bench";

/// Tells tests where the programs are that were built for them.
const PROGRAMS_VARIABLE: &str = "TOANI_PROGRAMS";

/// `./x test --long`: executions after which nothing may be left behind.
const LONG: &str = "--long";
const STRAYS_VARIABLE: &str = "TOANI_STRAY_EXECUTIONS";
const STRAYS_LONG: &str = "1000";

/// Executions of each mutation fuzzer in `./x fuzz`, unless the environment says otherwise.
const FUZZ_EXECUTIONS: &str = "1000000";
const FUZZ_EXECUTIONS_VARIABLE: &str = "TOANI_FUZZ_EXECUTIONS";

pub(crate) fn setup() -> Result<ExitCode> {
    step("fetching the locked dependencies");
    cargo(&["fetch", "--locked"])?;
    cargo_in(IMAGE, &["fetch", "--locked"])?;
    tools::setup()?;
    runsc::setup()?;
    for advice in machine_advice() {
        println!("note: {advice}");
    }
    println!("ready: ./x demo, ./x test");
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn demo(arguments: &[String]) -> Result<ExitCode> {
    build_binaries()?;
    let demo = release_folder().join("toani-demo");
    let status = Command::new(&demo)
        .args(arguments)
        .current_dir(root())
        .status()
        .with_context(|| format!("cannot run {}", demo.display()))?;
    Ok(exit_code(status.code()))
}

pub(crate) fn test(arguments: &[String]) -> Result<ExitCode> {
    tools::setup()?;
    build_binaries()?;
    for program in WIPING_PROGRAMS {
        wipe::is_there(&release_folder().join(program))?;
    }
    browser::provide()?;
    step("running all tests");
    let long = arguments.iter().any(|argument| argument == LONG);
    let mut all = vec!["test", "--workspace"];
    all.extend(arguments.iter().map(String::as_str).filter(|argument| *argument != LONG));
    let programs = release_folder();
    let programs = programs.to_str().context("the target folder's path is not UTF-8")?;
    let mut environment = vec![(PROGRAMS_VARIABLE, programs)];
    if long {
        environment.push((STRAYS_VARIABLE, STRAYS_LONG));
    }
    cargo_with(&all, &environment)?;
    Ok(ExitCode::SUCCESS)
}

/// Six programs, each with its own floor in the same run; each prints JSON.
pub(crate) fn bench(arguments: &[String]) -> Result<ExitCode> {
    build_binaries()?;
    cargo(&["build", "--release", "--quiet", "-p", BENCH_PACKAGE])?;
    let programs = release_folder();
    let programs = programs.to_str().context("the target folder's path is not UTF-8")?;
    let whole = ["run", "--release", "--quiet", "-p", BENCH_PACKAGE, "--"];
    let whole: Vec<&str> = whole.into_iter().chain(arguments.iter().map(String::as_str)).collect();
    step("the whole path, over a fresh process, a TLS request and two fdatasync");
    cargo_with(&whole, &[(PROGRAMS_VARIABLE, programs)])?;
    step("the image in the simulator, over the same code as a library; threads; a boot");
    bench_image(programs)?;
    step("containers of gVisor, beside podman, runc and runsc run (less than a minute)");
    let containers = ["bench", "--quiet", "-p", "toani-sandbox", "--bench", "containers"];
    cargo_with(&containers, &[(PROGRAMS_VARIABLE, programs)])?;
    step("the core, over its cryptographic primitives; and whether it stays flat");
    cargo(&["bench", "--quiet", "-p", "toani-enclave", "--bench", "core"])?;
    step("the channel between attested sides, over plain TLS and over the bare AEAD");
    cargo(&["bench", "--quiet", "-p", "toani-tls", "--bench", "channel"])?;
    step("the audit log, over a bare write and fdatasync");
    let folder = release_folder().join("append-rate");
    let folder = folder.to_str().context("the target folder's path is not UTF-8")?;
    let append = ["run", "--release", "--quiet", "-p", "toani-audit-log", "--example"];
    cargo(&[&append[..], &["append_rate", "--", folder]].concat())?;
    Ok(ExitCode::SUCCESS)
}

/// The library beside the image is compiled as the image is, in a folder of its own.
fn bench_image(programs: &str) -> Result<()> {
    let folder = release_folder().with_file_name("as-image");
    let folder = folder.to_str().context("the target folder's path is not UTF-8")?;
    let bench = ["bench", "--quiet", "-p", "toani-simulator", "--bench", "image", "--target-dir"];
    let flags = image::processor_flags(&root())?;
    cargo_with(
        &[&bench[..], &[folder]].concat(),
        &[
            (PROGRAMS_VARIABLE, programs),
            ("RUSTFLAGS", &flags),
            ("CARGO_PROFILE_BENCH_LTO", "fat"),
            ("CARGO_PROFILE_BENCH_CODEGEN_UNITS", "1"),
            // Or the library would give memory back to the kernel and fault it in again.
            ("MALLOC_TOP_PAD_", "268435456"),
        ],
    )
}

/// The mutation fuzzers are ordinary tests named `fuzz_*`; the environment says how long they run.
pub(crate) fn fuzz(arguments: &[String]) -> Result<ExitCode> {
    let executions =
        std::env::var(FUZZ_EXECUTIONS_VARIABLE).unwrap_or_else(|_| FUZZ_EXECUTIONS.to_owned());
    step(&format!("{executions} executions of each fuzzer"));
    let status = cargo_command()
        .args(["test", "--release", "--workspace"])
        .args(arguments)
        .args(["--", "fuzz_"])
        .env(FUZZ_EXECUTIONS_VARIABLE, executions)
        .status()
        .context("cannot run cargo")?;
    Ok(exit_code(status.code()))
}

/// Builds everything that the demo, the benchmarks and the end-to-end tests start.
pub(crate) fn build_binaries() -> Result<()> {
    step("building the release binaries (some minutes the first time)");
    let mut build = vec!["build", "--release"];
    for package in BINARY_PACKAGES {
        build.extend(["-p", package]);
    }
    cargo(&build)?;
    root_file_system::build()?;
    runsc::setup()?;
    image::build(&root(), None).map(drop)
}

pub(crate) fn release_folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.unwrap_or_else(|| "target".into());
    root().join(target).join("release")
}

/// What stands in the way of the native sandbox on this machine.
fn machine_advice() -> Vec<&'static str> {
    let is = |path: &str, value: &str| {
        std::fs::read_to_string(Path::new("/proc/sys").join(path))
            .is_ok_and(|text| text.trim() == value)
    };
    let mut advice = Vec::new();
    if is("user/max_user_namespaces", "0") || is("kernel/unprivileged_userns_clone", "0") {
        advice.push(
            "user namespaces are off, and the sandbox needs them: \
             sysctl -w user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1",
        );
    }
    if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        advice.push(
            "AppArmor keeps user namespaces from ordinary users, and the sandbox needs them: \
             sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        );
    }
    advice
}

pub(crate) fn step(what: &str) {
    eprintln!("x: {what}");
}

pub(crate) fn cargo_command() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root());
    command
}

/// Runs cargo and fails as it does.
pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    cargo_with(arguments, &[])
}

/// Runs cargo in another workspace of the repository.
pub(crate) fn cargo_in(folder: &str, arguments: &[&str]) -> Result<()> {
    let status = cargo_command()
        .args(arguments)
        .current_dir(root().join(folder))
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("cargo {} failed in {folder}/", arguments.join(" "));
    }
    Ok(())
}

pub(crate) fn cargo_with(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let status = cargo_command()
        .args(arguments)
        .envs(environment.iter().copied())
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(())
}

fn exit_code(code: Option<i32>) -> ExitCode {
    let code = code.and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(1))
}
