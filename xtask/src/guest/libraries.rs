//! The shared libraries that a program of the guest is linked to, as this machine has them.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use super::{cpio::Archive, read};

/// Puts each where the program looks for it.
pub(super) fn add(archive: &mut Archive, program: &Path) -> Result<()> {
    let output = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
    ensure!(output.status.success(), "ldd refuses {}", program.display());
    for path in paths(&String::from_utf8_lossy(&output.stdout))? {
        archive.program(path.trim_start_matches('/'), read(Path::new(path))?);
    }
    Ok(())
}

/// `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader; the vDSO is no file.
fn paths(listing: &str) -> Result<Vec<&str>> {
    ensure!(!listing.contains("not found"), "a library is missing here:\n{listing}");
    let line = |line: &'_ str| -> Option<(usize, usize)> {
        let start = line.find('/')?;
        let end = line.get(start..)?.find(" (")?;
        Some((start, start.checked_add(end)?))
    };
    Ok(listing.lines().filter_map(|text| line(text).and_then(|(a, b)| text.get(a..b))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_found() {
        let listing = "\tlinux-vdso.so.1 (0x00007f)\n\
                       \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(paths(listing).unwrap(), expected);
        assert!(paths("\tlibc.so.6 => not found\n").is_err());
    }
}
