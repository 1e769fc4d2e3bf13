//! The system calls that what is in a container may make, whichever driver holds it. Everything else
//! fails with EPERM.
//!
//! A connector has no way here to get a descriptor that the program was not given, but for copies of
//! those that it has; no process, thread or executable memory; and no name of anything.

use libc::c_long;

mod browser;

pub(crate) use browser::BROWSER;

/// One system call, and when it may be made: always, or if all conditions of one list hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    pub(crate) number: c_long,
    pub(crate) name: &'static str,
    pub(crate) when: &'static [&'static [Condition]],
}

/// Of an argument, counted from 0.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Condition {
    /// An int: its upper half is not looked at by the kernel either.
    Is(u8, i32),
    /// None of these bits.
    Without(u8, i32),
    Null(u8),
}

use Condition::{Is, Null, Without};

macro_rules! calls {
    ($($name:ident = $number:ident $(when $conditions:expr)?;)*) => {
        &[$($crate::syscalls::Allowed {
            number: libc::$number,
            name: stringify!($name),
            when: $crate::syscalls::calls!(@ $($conditions)?),
        }),*]
    };
    (@) => { &[] };
    (@ $conditions:expr) => { $conditions };
}
use calls;

/// What a connector may call.
pub(crate) const CONNECTOR: &[Allowed] = calls! {
    // The descriptors that the program has.
    read = SYS_read;
    readv = SYS_readv;
    write = SYS_write;
    writev = SYS_writev;
    recvfrom = SYS_recvfrom;
    sendto = SYS_sendto;
    shutdown = SYS_shutdown;
    close = SYS_close;
    poll = SYS_poll;
    ppoll = SYS_ppoll;
    fcntl = SYS_fcntl when &[
        &[Is(1, libc::F_DUPFD_CLOEXEC)],
        &[Is(1, libc::F_GETFD)],
        &[Is(1, libc::F_GETFL)],
        &[Is(1, libc::F_SETFL)],
    ];
    // Non-blocking and time limits, for the door.
    ioctl = SYS_ioctl when &[&[Is(1, FIONBIO)]];
    setsockopt = SYS_setsockopt when &[&[Is(1, libc::SOL_SOCKET), Is(2, libc::SO_RCVTIMEO)]];
    // Memory of its own, none of it executable.
    brk = SYS_brk;
    mmap = SYS_mmap when &[&[Without(2, libc::PROT_EXEC)]];
    mprotect = SYS_mprotect when &[&[Without(2, libc::PROT_EXEC)]];
    munmap = SYS_munmap;
    mlockall = SYS_mlockall when &[&[Is(0, libc::MCL_CURRENT)]];
    mremap = SYS_mremap;
    madvise = SYS_madvise;
    futex = SYS_futex;
    // A runtime's start.
    arch_prctl = SYS_arch_prctl;
    set_tid_address = SYS_set_tid_address;
    set_robust_list = SYS_set_robust_list;
    rseq = SYS_rseq;
    sigaltstack = SYS_sigaltstack;
    rt_sigaction = SYS_rt_sigaction;
    rt_sigprocmask = SYS_rt_sigprocmask;
    rt_sigreturn = SYS_rt_sigreturn;
    restart_syscall = SYS_restart_syscall;
    // To read limits, not to set them.
    prlimit64 = SYS_prlimit64 when &[&[Null(2)]];
    prctl = SYS_prctl when &[&[Is(0, libc::PR_SET_DUMPABLE), Is(1, 0)]];
    // Randomness, time, the end.
    getrandom = SYS_getrandom;
    clock_gettime = SYS_clock_gettime;
    exit = SYS_exit;
    exit_group = SYS_exit_group;
};

const FIONBIO: i32 = 0x5421;
