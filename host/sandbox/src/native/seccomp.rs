//! The system calls that a connector may make. Everything else fails with EPERM; another
//! architecture's calls kill it.
//!
//! There is no way here to get a descriptor that the program was not given, but for copies of
//! those that it has; no process, thread or executable memory; and no name of anything.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// A filter could not be made: this program is broken.
#[derive(Debug, thiserror::Error)]
#[error("the system call filter cannot be made: {0}")]
pub(super) struct FilterError(#[from] seccompiler::BackendError);

/// Without conditions.
const ALLOWED: &[libc::c_long] = &[
    // The descriptors that the program has.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_poll,
    libc::SYS_ppoll,
    // Memory of its own; see also the conditions.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    // A runtime's start.
    libc::SYS_arch_prctl,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    // Randomness, time, the end.
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The filter for a connector that is executed from descriptor `exec_fd`.
pub(super) fn filter(exec_fd: i32) -> Result<BpfProgram, FilterError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();

    let not_executable = || masked(2, libc::PROT_EXEC, 0);
    rules.insert(libc::SYS_mmap, vec![all(vec![not_executable()?])?]);
    rules.insert(libc::SYS_mprotect, vec![all(vec![not_executable()?])?]);
    // To read limits, not to set them.
    rules.insert(libc::SYS_prlimit64, vec![all(vec![pointer(2, 0)?])?]);
    rules.insert(libc::SYS_prctl, vec![all(vec![is(0, libc::PR_SET_DUMPABLE)?, is(1, 0)?])?]);
    let commands = [libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_GETFL, libc::F_SETFL];
    rules.insert(libc::SYS_fcntl, any_of(1, &commands)?);
    // Non-blocking and time limits, for the door.
    let set_nonblocking = libc::FIONBIO;
    let condition = SeccompCondition::new(1, Len::Dword, Op::Eq, set_nonblocking)?;
    rules.insert(libc::SYS_ioctl, vec![all(vec![condition])?]);
    let timeouts = all(vec![is(1, libc::SOL_SOCKET)?, is(2, libc::SO_RCVTIMEO)?])?;
    rules.insert(libc::SYS_setsockopt, vec![timeouts]);
    // The one exec that starts it: the descriptor is closed by it, and there is no other file.
    let start = all(vec![is(0, exec_fd)?, is(4, libc::AT_EMPTY_PATH)?])?;
    rules.insert(libc::SYS_execveat, vec![start]);

    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}

fn all(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, FilterError> {
    Ok(SeccompRule::new(conditions)?)
}

fn any_of(argument: u8, values: &[i32]) -> Result<Vec<SeccompRule>, FilterError> {
    let one = |value: &i32| all(vec![is(argument, *value)?]);
    values.iter().map(one).collect()
}

/// An int's argument: its upper half is not looked at by the kernel either.
fn is(argument: u8, value: i32) -> Result<SeccompCondition, FilterError> {
    let value = u64::from(value.cast_unsigned());
    Ok(SeccompCondition::new(argument, Len::Dword, Op::Eq, value)?)
}

fn pointer(argument: u8, value: u64) -> Result<SeccompCondition, FilterError> {
    Ok(SeccompCondition::new(argument, Len::Qword, Op::Eq, value)?)
}

fn masked(argument: u8, mask: i32, value: u64) -> Result<SeccompCondition, FilterError> {
    let mask = Op::MaskedEq(u64::from(mask.cast_unsigned()));
    Ok(SeccompCondition::new(argument, Len::Qword, mask, value)?)
}
