//! `./x image`: the enclave's image, what is measured of it, and who signs it.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use toani_enclave_host::image::{self, Image, Signing};

use crate::{
    gates,
    repo::{list_files, root},
    run::{cargo_command, release_folder, step},
    signing, wipe,
};

/// The measurement of this source, in the repository: every change of it is seen in review.
const COMMITTED: &str = "image/MRENCLAVE";
/// Made at its first use, ignored by git.
const DEVELOPMENT_KEY: &str = ".toani/image-signing.pem";
/// What the signer numbers: the product, and its security version, which grows when an older image
/// must not be trusted any more.
const ISV_PROD_ID: u16 = 1;
const ISV_SVN: u16 = 1;
/// When this version was numbered, YYYYMMDD in binary-coded decimal: the same image gives the same
/// structure on any day.
const ISV_SVN_DATE: u32 = 0x2026_1125;
const TARGET: &str = "x86_64-unknown-linux-gnu";

pub(crate) fn image(arguments: &[String]) -> Result<ExitCode> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (bless, twice, key) = match words.as_slice() {
        [] => (false, false, None),
        ["--bless"] => (true, false, None),
        ["--twice"] => (false, true, None),
        ["--key", key] => (false, false, Some(Path::new(key))),
        _ => bail!("usage: ./x image [--bless | --twice | --key FILE]"),
    };
    let built = build(&root(), key)?;
    if twice {
        same_elsewhere(&built)?;
    }
    println!("image      {}", built.file.display());
    println!("toolchain  {}", built.toolchain);
    let committed = root().join(COMMITTED);
    if bless {
        std::fs::write(&committed, built.line())
            .with_context(|| format!("cannot write {}", committed.display()))?;
    }
    let compared = compare(&built, &std::fs::read_to_string(&committed).unwrap_or_default());
    println!("committed  {}", compared.words());
    println!("MRENCLAVE  {}", hex(&built.mrenclave));
    Ok(if matches!(compared, Compared::Different) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A built image.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) file: PathBuf,
    pub(crate) mrenclave: [u8; 32],
    pub(crate) toolchain: String,
}

impl Built {
    fn line(&self) -> String {
        format!("{}  {}\n", hex(&self.mrenclave), self.toolchain)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    Equal,
    Different,
    /// Another compiler makes other bytes of the same source.
    NotComparable,
}

impl Compared {
    fn words(self) -> &'static str {
        match self {
            Self::Equal => "equal to image/MRENCLAVE",
            Self::Different => {
                "DIFFERENT from image/MRENCLAVE: the measurement has changed; if that is meant, \
                 ./x image --bless"
            }
            Self::NotComparable => "not comparable: image/MRENCLAVE is of another toolchain",
        }
    }
}

fn compare(built: &Built, committed: &str) -> Compared {
    match committed.trim_end().split_once("  ") {
        Some((_, toolchain)) if toolchain != built.toolchain => Compared::NotComparable,
        _ if committed == built.line() => Compared::Equal,
        _ => Compared::Different,
    }
}

/// Builds and signs the image of the checkout at `root`, and puts both beside the programs.
pub(crate) fn build(root: &Path, key: Option<&Path>) -> Result<Built> {
    let linked = link(root)?;
    gates::pass(&linked)?;
    wipe::is_there(&linked)?;
    let bytes = std::fs::read(&linked)?;
    let image = Image::read(&bytes)?;
    let mrenclave = image.mrenclave();
    let key = match key {
        Some(key) => signing::read(key)?,
        None => signing::development(&root.join(DEVELOPMENT_KEY))?,
    };
    let signature = image::sign(
        &key,
        &Signing { mrenclave, isv_prod_id: ISV_PROD_ID, isv_svn: ISV_SVN, date: ISV_SVN_DATE },
    )?;
    let file = release_folder().join("toani-image");
    std::fs::create_dir_all(release_folder())?;
    put(&file, &bytes)?;
    put(&file.with_extension("sig"), &signature)?;
    Ok(Built { file, mrenclave, toolchain: toolchain()? })
}

/// Under another name first: a program that runs may have the old one mapped.
pub(crate) fn put(file: &Path, bytes: &[u8]) -> Result<()> {
    let aside = file.with_extension("new");
    std::fs::write(&aside, bytes).with_context(|| format!("cannot write {}", aside.display()))?;
    std::fs::rename(&aside, file)?;
    Ok(())
}

/// Builds a copy of the sources in another folder, and compares the files.
fn same_elsewhere(built: &Built) -> Result<()> {
    step("building the image once more, in another folder");
    let elsewhere = Elsewhere::new()?;
    let linked = link_to(&elsewhere.sources, &elsewhere.target)?;
    if std::fs::read(linked)? != std::fs::read(&built.file)? {
        bail!("another folder gives another image: something of the folder's name is in it");
    }
    println!("twice      the same file from two folders");
    Ok(())
}

/// A copy of the sources in a folder of another name and depth.
pub(crate) struct Elsewhere {
    _folder: tempfile::TempDir,
    pub(crate) sources: PathBuf,
    pub(crate) target: PathBuf,
}

impl Elsewhere {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("toani-elsewhere-").tempdir()?;
        let sources = folder.path().join("a/deeper/folder");
        for path in list_files(&root())? {
            let (from, to) = (root().join(&path), sources.join(&path));
            // Listed, but deleted and not yet committed.
            if from.is_file() {
                std::fs::create_dir_all(to.parent().unwrap_or(&sources))?;
                std::fs::copy(from, to)?;
            }
        }
        let target = folder.path().join("target");
        Ok(Self { _folder: folder, sources, target })
    }
}

/// The compiler's flags by which sources stand in panic messages under names that are the same
/// everywhere.
fn remapped(root: &Path) -> Result<[String; 2]> {
    let registry = cargo_home()?.join("registry").join("src");
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    Ok([remap(root, "/toani"), remap(&registry, "/registry")])
}

/// Flags for every crate, as an argument of cargo's `--config`.
fn for_every_crate(flags: &[String]) -> String {
    let quoted: Vec<String> = flags.iter().map(|flag| format!("{flag:?}")).collect();
    format!("build.rustflags=[{}]", quoted.join(","))
}

/// Builds one of the workspace's programs so that the same source gives the same bytes in any
/// folder, and in a target folder of its own: its flags are not those of other builds.
pub(crate) fn link_program(
    (package, program): (&str, &str),
    root: &Path,
    target: &Path,
    more: &[&str],
) -> Result<PathBuf> {
    let mut flags = remapped(root)?.to_vec();
    flags.extend(more.iter().map(|flag| (*flag).to_owned()));
    let status = cargo_command()
        .args(["build", "--release", "--locked", "--quiet", "-p", package, "--bin", program])
        .arg("--target-dir")
        .arg(target)
        // Named, so that the flags are not for what runs while it is built.
        .args(["--target", TARGET])
        .args(["--config", &for_every_crate(&flags)])
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .current_dir(root)
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("{program} does not build");
    }
    Ok(target.join(TARGET).join("release").join(program))
}

/// Compiles and links.
fn link(root: &Path) -> Result<PathBuf> {
    link_to(root, &release_folder().with_file_name("image"))
}

fn link_to(root: &Path, target: &Path) -> Result<PathBuf> {
    step("building the enclave's image");
    let status = cargo_command()
        .args(["build", "--release", "--locked", "--quiet", "--target-dir"])
        .arg(target)
        .args(["--config", &for_every_crate(&remapped(root)?)])
        .env("RUSTC_WRAPPER", root.join("image").join("rustc.sh"))
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .current_dir(root.join("image"))
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the image does not build");
    }
    Ok(target.join(TARGET).join("release").join("toani-image"))
}

/// The compiler's flags that say which processor the image is for.
pub(crate) fn processor_flags(root: &Path) -> Result<String> {
    let config = std::fs::read_to_string(root.join("image").join(".cargo").join("config.toml"))?;
    let quoted = config.split('"').filter(|text| text.starts_with("-Ctarget-"));
    Ok(quoted.collect::<Vec<_>>().join(" "))
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home = std::env::var_os("HOME").context("HOME is not set")?;
    Ok(PathBuf::from(home).join(".cargo"))
}

/// `rustc 1.95.0 (59807616e 2026-04-14), cc (Debian 12.2.0-14) 12.2.0`: the compilers take part in
/// the measurement.
fn toolchain() -> Result<String> {
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    Ok(format!("{}, {}", version("rustc".as_ref())?, version(&cc)?))
}

/// The first line of what a compiler says of itself.
fn version(compiler: &OsStr) -> Result<String> {
    let cannot = || format!("cannot run {}", compiler.display());
    let output = Command::new(compiler).arg("--version").output().with_context(cannot)?;
    let text = String::from_utf8(output.stdout).context("a compiler's version is not UTF-8")?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
