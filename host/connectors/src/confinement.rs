//! What the container is, asked from inside before there is a job: a stanza that a runtime ignores
//! would otherwise be noticed by nobody.

use std::fmt::Write as _;

use rustix::{
    fs::{StatVfsMountFlags, statvfs},
    io::Errno,
    process::getsid,
    thread::no_new_privs,
};

/// The lines of /proc/self/status that say who this process is and what it may.
const STATUS: &[&str] = &["Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:"];

/// Whether the filter of system calls is in force. The call that it tries asks for nothing and
/// succeeds everywhere else.
pub fn filter_is_in_force() -> bool {
    getsid(None) == Err(Errno::PERM)
}

/// One line for each thing that holds below the filter, which itself is not in force here.
pub fn report() -> String {
    let environment: Vec<_> =
        std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
    let arguments = std::env::args_os().count();
    let mut report = format!("environment {}\narguments {arguments}\n", environment.join(","));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines().filter(|line| STATUS.iter().any(|name| line.starts_with(name))) {
        let words: Vec<_> = line.split_whitespace().collect();
        let _ = writeln!(report, "{}", words.join(" "));
    }
    let _ = writeln!(report, "no_new_privs {}", no_new_privs().unwrap_or(false));
    let _ = writeln!(report, "root {}", outcome(&std::fs::write("/x", b"")));
    let _ = writeln!(report, "tmp {}", tmp());
    let _ = writeln!(report, "interfaces {}", interfaces());
    report
}

fn outcome(tried: &std::io::Result<()>) -> String {
    match tried {
        Ok(()) => "0".to_owned(),
        Err(error) => error.raw_os_error().unwrap_or(-1).to_string(),
    }
}

/// How many bytes fit into /tmp, and how it is mounted.
fn tmp() -> String {
    let written = outcome(&std::fs::write("/tmp/x", b"x"));
    match statvfs("/tmp") {
        Ok(tmp) => {
            let bytes = tmp.f_blocks.saturating_mul(tmp.f_frsize);
            let exec =
                if tmp.f_flag.contains(StatVfsMountFlags::NOEXEC) { "noexec" } else { "exec" };
            format!("{written} {bytes} {exec}")
        }
        Err(errno) => format!("{written} {errno}"),
    }
}

/// The names of network interfaces.
fn interfaces() -> String {
    let table = std::fs::read_to_string("/proc/net/dev").unwrap_or_else(|error| error.to_string());
    let named = table.lines().skip(2).filter_map(|line| line.split_once(':'));
    named.map(|(name, _)| name.trim()).collect::<Vec<_>>().join(",")
}
