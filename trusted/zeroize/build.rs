//! Compiles libsodium's `sodium/utils.c`, as its authors released it, and nothing else of it.
//!
//! The sources are the archive inside of the package `libsodium-sys-stable`, which the lock file
//! pins and cargo fetches. The package itself is never built: it would build all of libsodium, and
//! for a system with a C library, which an enclave is not.

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const PACKAGE: &str = "libsodium-sys-stable";
/// Of the package, as in Cargo.toml.
const VERSION: &str = "1.24.3";
const ARCHIVE: &str = "LATEST.tar.gz";
/// SHA-256 of the archive: libsodium 1.0.22-stable, minisign timestamp 1791934505.
const ARCHIVE_SHA256: &str = "eb9873cc5ccd7b26ef058394264663c99e9c047b423be1ffd484071774198f26";

/// Where in the archive it all is.
const SOURCES: &str = "libsodium-stable/src/libsodium";

/// No C library, no path of this machine, each function in a section of its own, so that the linker
/// keeps the one that is called.
const FLAGS: &[&str] = &[
    "-c",
    "-O2",
    "-g0",
    "-fPIC",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-U_FORTIFY_SOURCE",
    "-ffunction-sections",
    "-fdata-sections",
    "-fvisibility=hidden",
    // Which of its ways `sodium_memzero` takes: memset, a call that no optimiser sees through, and
    // a barrier. libsodium's configure finds both on every ELF system; the C library's own
    // explicit_bzero, which it would prefer, is not there in an enclave.
    "-DHAVE_WEAK_SYMBOLS=1",
    "-DHAVE_INLINE_ASM=1",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CC");
    // No secret is held there, and no C compiler is expected (src/wipe.rs).
    if env::var("CARGO_CFG_TARGET_FAMILY")? == "wasm" {
        return Ok(());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let archive = package_folder()?.join(ARCHIVE);
    check(&archive)?;
    let mut unpack = Command::new("tar");
    unpack.arg("-xzf").arg(&archive).arg("-C").arg(&out);
    run(unpack.args(["sodium/utils.c", "include"].map(|part| format!("{SOURCES}/{part}"))))?;
    compile(&out)
}

/// Where cargo keeps the package: it knows, whatever registry, mirror or vendored folder that is.
fn package_folder() -> Result<PathBuf, Box<dyn Error>> {
    let mut cargo = Command::new(env::var_os("CARGO").ok_or("CARGO is not set")?);
    cargo.args(["metadata", "--format-version=1", "--locked", "--features=libsodium-source"]);
    let metadata = run(cargo.args(["--filter-platform", &env::var("TARGET")?]))?;
    let holds = |path: &&str| {
        let mut parts = path.rsplit('/');
        parts.next() == Some("Cargo.toml")
            && parts
                .next()
                .is_some_and(|folder| folder == PACKAGE || folder == format!("{PACKAGE}-{VERSION}"))
    };
    // Paths stand in quotes; no JSON library is worth being built for one of them.
    let manifest = metadata.split('"').find(holds).ok_or("cargo metadata names no libsodium")?;
    Ok(Path::new(manifest).with_file_name(""))
}

fn check(archive: &Path) -> Result<(), Box<dyn Error>> {
    let sum = run(Command::new("sha256sum").arg(archive))?;
    if sum.split_whitespace().next() != Some(ARCHIVE_SHA256) {
        return Err(format!("{} is not the libsodium that is expected", archive.display()).into());
    }
    Ok(())
}

fn compile(out: &Path) -> Result<(), Box<dyn Error>> {
    let sources = out.join(SOURCES);
    let include = sources.join("include");
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut cc = Command::new(compiler);
    cc.args(FLAGS).arg("-I").arg(&include).arg("-I").arg(include.join("sodium"));
    run(cc.arg(sources.join("sodium/utils.c")).args(["-o", "utils.o"]).current_dir(out))?;
    // D: no times and no users in the archive.
    run(Command::new("ar").args(["crsD", "libsodium_memzero.a", "utils.o"]).current_dir(out))?;
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static=sodium_memzero");
    Ok(())
}

/// What a command prints; an error if it fails.
fn run(command: &mut Command) -> Result<String, Box<dyn Error>> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run {}: {error}", command.get_program().display()))?;
    if !output.status.success() {
        return Err(format!("{command:?} failed").into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
