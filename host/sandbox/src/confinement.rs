//! Whether a container is what it was asked to be: the connector's program says what it finds below
//! the filter of system calls, and each line has to be the right one. Where it is not, the driver does
//! not start.

use std::collections::BTreeMap;

use crate::driver::Size;

/// With this argument the connector's program tells what it finds, and waits for no job.
pub(crate) const REPORT: &str = "confinement";

/// What runs in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runs {
    /// The connector, with its system calls filtered: it waits for a job.
    Connector,
    /// The same program without the filter, which could tell of nothing with it.
    Report,
}

/// The name of a line, and what it has to say.
pub(crate) type Line = (&'static str, String);

/// The answer of a container of this size, of which its driver promises `of_driver` besides; `Err`
/// names the line that does not hold.
pub(crate) fn judge(report: &str, size: Size, of_driver: Vec<Line>) -> Result<(), String> {
    let found: BTreeMap<&str, &str> =
        report.lines().filter_map(|line| line.split_once(' ')).collect();
    for (name, expected) in of_any(size).into_iter().chain(of_driver) {
        let found = found.get(name).copied().unwrap_or("not there");
        if found != expected {
            return Err(format!("`{name}` is `{found}` and not `{expected}`"));
        }
    }
    Ok(())
}

fn of_any(size: Size) -> [Line; 4] {
    [
        // Its own name, and what it was asked.
        ("arguments", "2".to_owned()),
        ("no_new_privs", "true".to_owned()),
        ("root", libc::EROFS.to_string()),
        ("tmp", format!("0 {} noexec", u64::from(size.tmp_mib) << 20)),
    ]
}
