//! Whether a container is what its bundle asks for: the connector's program says what it finds
//! below the filter of system calls, and each line has to be the right one. Where it is not, the
//! driver does not start.

use std::collections::BTreeMap;

use crate::driver::{NOBODY, Size};

/// The answer of a container of this size; `Err` names the line that does not hold.
pub(super) fn judge(report: &str, size: Size) -> Result<(), String> {
    let found: BTreeMap<&str, &str> =
        report.lines().filter_map(|line| line.split_once(' ')).collect();
    for (name, expected) in expected(size) {
        let found = found.get(name).copied().unwrap_or("not there");
        if found != expected {
            return Err(format!("`{name}` is `{found}` and not `{expected}`"));
        }
    }
    Ok(())
}

fn expected(size: Size) -> Vec<(&'static str, String)> {
    let nobody = [NOBODY.to_string().as_str(); 4].join(" ");
    let none = || "0000000000000000".to_owned();
    vec![
        ("environment", "HOME=/".to_owned()),
        // Its own name, and what it was asked.
        ("arguments", "2".to_owned()),
        ("Uid:", nobody.clone()),
        ("Gid:", nobody),
        ("Groups:", NOBODY.to_string()),
        ("no_new_privs", "true".to_owned()),
        // The ambient set is within the permitted one.
        ("CapInh:", none()),
        ("CapPrm:", none()),
        ("CapEff:", none()),
        ("CapBnd:", none()),
        ("root", libc::EROFS.to_string()),
        ("tmp", format!("0 {} noexec", u64::from(size.tmp_mib) << 20)),
        ("interfaces", "lo".to_owned()),
    ]
}
