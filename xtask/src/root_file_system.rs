//! `./x image connector`: the root file system that containers run, and its digest.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use toani_sandbox::root::{self, RootFileSystem};

use crate::{
    image::{self, Elsewhere},
    repo,
    run::{cargo_command, release_folder, step},
};

const PROGRAM: &str = "toani-connector";

pub(crate) fn connector(arguments: &[String]) -> Result<ExitCode> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let twice = match words.as_slice() {
        [] => false,
        ["--twice"] => true,
        _ => bail!("usage: ./x image connector [--twice]"),
    };
    let archive = build()?;
    let digest = RootFileSystem::open(&archive)?.digest();
    if twice {
        same_elsewhere(&archive)?;
        println!("twice    the same archive from two folders");
    }
    println!("archive  {}", archive.display());
    println!("digest   {digest}");
    Ok(ExitCode::SUCCESS)
}

/// Builds the connector, and packs it beside the programs.
pub(crate) fn build() -> Result<PathBuf> {
    step("building the connector and its root file system");
    std::fs::create_dir_all(release_folder())?;
    let program = link(&repo::root(), &release_folder().with_file_name("connector"))?;
    let beside = release_folder().join(PROGRAM);
    image::put(&beside, &program)?;
    std::fs::set_permissions(&beside, PermissionsExt::from_mode(0o755))?;
    let archive = release_folder().join("connector.tar");
    image::put(&archive, &packed(&program)?)?;
    Ok(archive)
}

fn same_elsewhere(archive: &Path) -> Result<()> {
    step("building the connector once more, in another folder");
    let elsewhere = Elsewhere::new()?;
    let program = link(&elsewhere.sources, &elsewhere.target)?;
    if packed(&program)? != std::fs::read(archive)? {
        bail!("another folder gives another archive: something of the folder's name is in it");
    }
    Ok(())
}

/// Linked statically, because its container holds no libraries, and in a folder of its own: a build
/// of the workspace would put a program with shared libraries in its place.
fn link(root: &Path, target: &Path) -> Result<Vec<u8>> {
    let mut flags = image::remapped(root)?.to_vec();
    flags.push("-Ctarget-feature=+crt-static".to_owned());
    let status = cargo_command()
        .args(["build", "--release", "--locked", "--quiet", "-p", "toani-connectors"])
        .args(["--bin", PROGRAM, "--target-dir"])
        .arg(target)
        // Named, so that the flags are not for what runs while it is built.
        .args(["--target", image::TARGET])
        .args(["--config", &image::for_every_crate(&flags)])
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .current_dir(root)
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the connector does not build");
    }
    let program = target.join(image::TARGET).join("release").join(PROGRAM);
    std::fs::read(&program).with_context(|| format!("cannot read {}", program.display()))
}

fn packed(program: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    root::pack(program, &mut archive).context("cannot pack the connector")?;
    Ok(archive)
}
