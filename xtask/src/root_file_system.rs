//! `./x image connector`: the root file system that containers run, and its digest.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use toani_sandbox::root::{PROGRAM, RootFileSystem};

use crate::{
    image::{self, Elsewhere},
    repo,
    run::{release_folder, step},
};

pub(crate) fn connector(arguments: &[String]) -> Result<ExitCode> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let twice = match words.as_slice() {
        [] => false,
        ["--twice"] => true,
        _ => bail!("usage: ./x image connector [--twice]"),
    };
    let image = build()?;
    let digest = RootFileSystem::open(&image)?.digest();
    if twice {
        same_elsewhere(&image)?;
        println!("twice    the same image from two folders");
    }
    println!("image    {}", image.display());
    println!("digest   {digest}");
    Ok(ExitCode::SUCCESS)
}

/// Builds the connector.
pub(crate) fn program() -> Result<PathBuf> {
    std::fs::create_dir_all(release_folder())?;
    link(&repo::root(), &release_folder().with_file_name("connector"))
}

/// Builds the connector, and puts it and its root file system beside the programs.
pub(crate) fn build() -> Result<PathBuf> {
    step("building the connector and its root file system");
    let program = program()?;
    let beside = release_folder().join(PROGRAM);
    image::put(&beside, &std::fs::read(&program)?)?;
    std::fs::set_permissions(&beside, PermissionsExt::from_mode(0o755))?;
    let image = release_folder().join("connector.erofs");
    pack(&program, &image)?;
    Ok(image)
}

fn same_elsewhere(image: &Path) -> Result<()> {
    step("building the connector once more, in another folder");
    let elsewhere = Elsewhere::new()?;
    let program = link(&elsewhere.sources, &elsewhere.target)?;
    let again = elsewhere.target.join("again.erofs");
    pack(&program, &again)?;
    if std::fs::read(again)? != std::fs::read(image)? {
        bail!("another folder gives another image: something of the folder's name is in it");
    }
    Ok(())
}

/// Linked statically, because its container holds no libraries.
fn link(root: &Path, target: &Path) -> Result<PathBuf> {
    let flags = ["-Ctarget-feature=+crt-static"];
    image::link_program(("toani-connectors", PROGRAM), root, target, &flags)
}

/// The root file system of one program: beside it the folders that the runtime mounts on.
fn pack(program: &Path, image: &Path) -> Result<()> {
    // Its own root is open to everybody, and so it stands in a folder that is not.
    let folder = private_folder()?;
    let root = folder.path().join("root");
    for name in ["dev", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    put_program(program, &root)?;
    erofs(&root, image)
}

/// Where a container's first process is.
pub(crate) fn put_program(program: &Path, root: &Path) -> Result<()> {
    let inside = root.join(PROGRAM);
    std::fs::copy(program, &inside)
        .with_context(|| format!("cannot copy {}", program.display()))?;
    std::fs::set_permissions(&inside, PermissionsExt::from_mode(0o555))?;
    Ok(())
}

pub(crate) fn private_folder() -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("toani-image-").permissions(PermissionsExt::from_mode(0o700));
    builder.tempdir().context("no folder can be made for temporary files")
}

/// Makes an image of a folder: the same bytes for the same content.
///
/// Its root belongs to everybody, so that nothing but its being read-only keeps it as it is; the
/// check at each start of a supervisor tells when that is not in force.
pub(crate) fn erofs(root: &Path, image: &Path) -> Result<()> {
    std::fs::set_permissions(root, PermissionsExt::from_mode(0o777))?;
    let new = image.with_extension("new");
    let output = Command::new("mkfs.erofs")
        // gVisor maps files from the image, and so each begins on a page.
        .args(["--quiet", "-Enoinline_data", "-T0", "-x-1", "--all-root"])
        .arg("-U00000000-0000-0000-0000-000000000000")
        .args([&new, root])
        .output()
        .context("cannot run mkfs.erofs; ./x setup installs it")?;
    if !output.status.success() {
        bail!("mkfs.erofs: {}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::rename(new, image)?;
    Ok(())
}
