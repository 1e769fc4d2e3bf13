//! What this process gives up: dumps, privileges, the network, and at last the opening of anything.

use anyhow::{Context, Result};
use rustix::{
    process::{
        DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior,
        set_parent_process_death_signal, setrlimit,
    },
    thread::{UnshareFlags, set_no_new_privs, unshare_unsafe},
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// System calls of a process that reads, writes, computes and keeps time, and does nothing else.
const ALLOWED: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Allowed as long as nothing becomes executable: (call, index of its protection argument).
const ALLOWED_WITHOUT_EXEC: &[(i64, u8)] = &[(libc::SYS_mmap, 2), (libc::SYS_mprotect, 2)];

/// A panic tells where it was and nothing of what was in memory, and ends the process at once.
pub(super) fn no_dumps_of_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        eprintln!("toani: stopped at {place}");
        std::process::abort();
    }));
}

/// Before any secret is read: no core file, no debugger, no new privileges, no life beyond the
/// parent's.
pub(super) fn harden() -> Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("cannot forbid dumps")?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).context("cannot forbid core files")?;
    set_no_new_privs(true).context("cannot give up new privileges")?;
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot follow the parent")?;
    Ok(())
}

/// Moves to an empty network namespace. Where the kernel forbids that, the filter of [`seal`]
/// alone keeps sockets away, which is enough; so this may fail.
///
/// Files are opened before: in a user namespace without a mapping all files have one owner.
#[allow(unsafe_code, reason = "one system call")]
pub(super) fn leave_network() {
    let ways = [UnshareFlags::NEWNET, UnshareFlags::NEWUSER | UnshareFlags::NEWNET];
    for flags in ways {
        // SAFETY: unsharing is unsound where it separates threads that share file descriptors;
        // there is one thread so far, and these flags leave descriptors alone.
        if unsafe { unshare_unsafe(flags) }.is_ok() {
            return;
        }
    }
}

/// From here on nothing can be opened, connected, started or made executable, in any thread.
pub(super) fn seal() -> Result<()> {
    seccompiler::apply_filter_all_threads(&filter()?)
        .context("the kernel refuses a system call filter (seccomp); allow it for this process")
}

/// A refused call fails with EPERM: the caller, if it is ours, stops with a sentence.
fn filter() -> Result<BpfProgram> {
    let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let executable = u64::try_from(libc::PROT_EXEC)?;
    for (call, argument) in ALLOWED_WITHOUT_EXEC {
        let not_executable = SeccompCondition::new(
            *argument,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::MaskedEq(executable),
            0,
        )?;
        rules.insert(*call, vec![SeccompRule::new(vec![not_executable])?]);
    }
    let denied = SeccompAction::Errno(u32::try_from(libc::EPERM)?);
    let filter = SeccompFilter::new(rules, denied, SeccompAction::Allow, TargetArch::x86_64)?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    /// The filter on one thread of the test, which then plays the intruder.
    #[test]
    fn a_sealed_thread_opens_and_connects_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        let intruder = std::thread::spawn(move || {
            set_no_new_privs(true).unwrap();
            seccompiler::apply_filter(&filter().unwrap()).unwrap();
            let denied = |error: Option<std::io::Error>| {
                error.is_some_and(|error| error.kind() == ErrorKind::PermissionDenied)
            };
            [
                denied(std::fs::File::open(&file).err()),
                denied(std::fs::write(&file, b"y").err()),
                denied(std::fs::remove_file(&file).err()),
                denied(std::net::TcpStream::connect(("127.0.0.1", 1)).err()),
                denied(std::net::UdpSocket::bind(("127.0.0.1", 0)).err()),
                denied(std::os::unix::net::UnixStream::pair().err()),
                denied(std::process::Command::new("/bin/true").spawn().err()),
            ]
        });
        assert_eq!(intruder.join().unwrap(), [true; 7]);
    }
}
