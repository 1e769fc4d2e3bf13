//! `./x image browser`: a root file system with Debian's headless Chromium, node, playwright-core and
//! the connector.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use toani_sandbox::root::RootFileSystem;

use crate::{
    repo::root,
    root_file_system,
    run::{release_folder, step},
    tools,
};

const SUITE: &str = "bookworm";
const PACKAGES: &str = "chromium-headless-shell,fonts-dejavu-core,ca-certificates,nodejs";
/// Nobody in a container reads them.
const LEFT_OUT: &[&str] = &["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"];
/// Of the building and not of the packages.
const EMPTIED: &[&str] =
    &["dev", "var/cache/ldconfig", "var/cache/apt", "var/lib/apt/lists", "var/log"];
const PLAYWRIGHT: &str = "playwright-core@1.56.1";
const PLAYWRIGHT_SHA256: &str = "fa648e5442796d4160c68dcfc3914ed5224f147852264993e6376e29f0228238";

pub(crate) fn image(arguments: &[String]) -> Result<ExitCode> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let twice = match words.as_slice() {
        [] => false,
        ["--twice"] => true,
        _ => bail!("usage: ./x image browser [--twice]"),
    };
    tools::provide(&[("mmdebstrap", "mmdebstrap", ""), ("npm", "npm", "")])?;
    let content = Content { playwright: playwright()?, connector: root_file_system::program()? };
    let image = built();
    content.build(&image)?;
    let digest = RootFileSystem::open(&image)?.digest();
    if twice {
        let again = image.with_extension("again");
        content.build(&again)?;
        let other = RootFileSystem::open(&again)?.digest();
        fs::remove_file(&again)?;
        ensure!(other == digest, "the same packages have given another image: {other}");
        println!("twice    the same image from the same packages");
    }
    println!("image    {}", image.display());
    println!("digest   {digest}");
    Ok(ExitCode::SUCCESS)
}

/// For tests: any one that was built.
pub(crate) fn provide() -> Result<()> {
    if built().is_file() { Ok(()) } else { image(&[]).map(drop) }
}

fn built() -> PathBuf {
    release_folder().join("browser.erofs")
}

/// What does not come from Debian.
struct Content {
    playwright: PathBuf,
    connector: PathBuf,
}

impl Content {
    /// Installs the packages into a new folder, and makes an image of what is theirs.
    fn build(&self, image: &Path) -> Result<()> {
        step("installing Debian's browser into a folder (a minute, 150 MB to fetch)");
        let folder = root_file_system::private_folder()?;
        let tree = folder.path().join("root");
        let left_out = LEFT_OUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}"));
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap
            .args(["--quiet", "--variant=minbase", &format!("--include={PACKAGES}")])
            .args(left_out)
            .args([OsStr::new(SUITE), tree.as_os_str()])
            // Of no time, like the image.
            .env("SOURCE_DATE_EPOCH", "0");
        run(&mut mmdebstrap)?;
        for name in EMPTIED {
            empty(&tree.join(name))?;
        }
        let modules = tree.join("usr/lib/node_modules/playwright-core");
        fs::create_dir_all(&modules)?;
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(&self.playwright).arg("-C").arg(&modules).arg("--strip-components=1");
        run(&mut tar)?;
        root_file_system::put_program(&self.connector, &tree)?;
        root_file_system::erofs(&tree, image)
    }
}

fn empty(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The package, fetched once, and the one that is meant.
fn playwright() -> Result<PathBuf> {
    let folder = root().join(".toani").join("browser");
    fs::create_dir_all(&folder)?;
    let package = folder.join(PLAYWRIGHT.replace('@', "-") + ".tgz");
    if !package.is_file() {
        let mut npm = Command::new("npm");
        npm.args(["pack", "--silent", "--pack-destination"]).arg(&folder).arg(PLAYWRIGHT);
        run(npm.stdout(std::process::Stdio::null()))?;
    }
    let digest = Sha256::digest(fs::read(&package).context("npm has fetched nothing")?);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(
        digest == PLAYWRIGHT_SHA256,
        "{} is not the package that is meant: delete it and try again",
        package.display()
    );
    Ok(package)
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let status = command.status().with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(status.success(), "{} failed", program.display());
    Ok(())
}
