//! The list of system calls as a program for the kernel; another architecture's calls kill.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use crate::syscalls::{self, Condition};

/// A filter could not be made: this program is broken.
#[derive(Debug, thiserror::Error)]
#[error("the system call filter cannot be made: {0}")]
pub(super) struct FilterError(#[from] seccompiler::BackendError);

/// The filter for a connector that is executed from descriptor `exec_fd`.
pub(super) fn filter(exec_fd: i32) -> Result<BpfProgram, FilterError> {
    let mut rules = BTreeMap::new();
    for allowed in syscalls::CONNECTOR {
        let when: Result<Vec<_>, _> = allowed.when.iter().map(|all| rule(all)).collect();
        rules.insert(allowed.number, when?);
    }
    // The one exec that starts it: the descriptor is closed by it, and there is no other file.
    let start = rule(&[Condition::Is(0, exec_fd), Condition::Is(4, libc::AT_EMPTY_PATH)])?;
    rules.insert(libc::SYS_execveat, vec![start]);

    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}

fn rule(all: &[Condition]) -> Result<SeccompRule, FilterError> {
    let conditions: Result<Vec<_>, _> = all.iter().map(condition).collect();
    Ok(SeccompRule::new(conditions?)?)
}

fn condition(condition: &Condition) -> Result<SeccompCondition, FilterError> {
    Ok(match *condition {
        Condition::Is(argument, value) => {
            let value = u64::from(value.cast_unsigned());
            SeccompCondition::new(argument, Len::Dword, Op::Eq, value)?
        }
        Condition::Without(argument, bits) => {
            let masked = Op::MaskedEq(u64::from(bits.cast_unsigned()));
            SeccompCondition::new(argument, Len::Qword, masked, 0)?
        }
        Condition::Null(argument) => SeccompCondition::new(argument, Len::Qword, Op::Eq, 0)?,
    })
}
