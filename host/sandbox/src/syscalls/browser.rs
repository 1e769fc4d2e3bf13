//! What a browser may call: Debian's headless Chromium, node, and what leads from them to the doors.
//!
//! Far more than a connector: processes, files of its own in memory, code that it makes. It has no
//! other kernel than the one in user space, and no network there but to itself.

use super::{
    Allowed,
    Condition::{Is, Without},
    calls,
};

/// No namespace can be made with these left out. (`clone3` has its flags in memory, where no filter
/// looks; the kernel in user space has no more to give for them.)
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

pub(crate) const BROWSER: &[Allowed] = calls! {
    // Descriptors.
    read = SYS_read;
    readv = SYS_readv;
    pread64 = SYS_pread64;
    write = SYS_write;
    writev = SYS_writev;
    pwrite64 = SYS_pwrite64;
    lseek = SYS_lseek;
    close = SYS_close;
    dup = SYS_dup;
    dup2 = SYS_dup2;
    dup3 = SYS_dup3;
    pipe2 = SYS_pipe2;
    fcntl = SYS_fcntl;
    ioctl = SYS_ioctl;
    poll = SYS_poll;
    ppoll = SYS_ppoll;
    epoll_create1 = SYS_epoll_create1;
    epoll_ctl = SYS_epoll_ctl;
    epoll_wait = SYS_epoll_wait;
    epoll_pwait = SYS_epoll_pwait;
    epoll_pwait2 = SYS_epoll_pwait2;
    eventfd2 = SYS_eventfd2;
    timerfd_create = SYS_timerfd_create;
    timerfd_settime = SYS_timerfd_settime;
    inotify_init = SYS_inotify_init;
    inotify_add_watch = SYS_inotify_add_watch;
    // Files: those of the root are read-only, /tmp is in memory.
    open = SYS_open;
    openat = SYS_openat;
    creat = SYS_creat;
    access = SYS_access;
    faccessat = SYS_faccessat;
    stat = SYS_stat;
    lstat = SYS_lstat;
    fstat = SYS_fstat;
    newfstatat = SYS_newfstatat;
    statx = SYS_statx;
    statfs = SYS_statfs;
    fstatfs = SYS_fstatfs;
    readlink = SYS_readlink;
    readlinkat = SYS_readlinkat;
    name_to_handle_at = SYS_name_to_handle_at;
    getdents64 = SYS_getdents64;
    getcwd = SYS_getcwd;
    mkdir = SYS_mkdir;
    rmdir = SYS_rmdir;
    link = SYS_link;
    symlink = SYS_symlink;
    rename = SYS_rename;
    unlink = SYS_unlink;
    unlinkat = SYS_unlinkat;
    chmod = SYS_chmod;
    fchmod = SYS_fchmod;
    ftruncate = SYS_ftruncate;
    fallocate = SYS_fallocate;
    fdatasync = SYS_fdatasync;
    flock = SYS_flock;
    memfd_create = SYS_memfd_create;
    // Between its processes, and to the doors over loopback: no packets, no netlink.
    socket = SYS_socket when &[
        &[Is(0, libc::AF_UNIX)],
        &[Is(0, libc::AF_INET), Is(1, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)],
        &[Is(0, libc::AF_INET), Is(1, libc::SOCK_STREAM | libc::SOCK_CLOEXEC)],
        &[Is(0, libc::AF_INET), Is(1, libc::SOCK_STREAM | libc::SOCK_NONBLOCK)],
        &[Is(0, libc::AF_INET), Is(1, libc::SOCK_STREAM)],
    ];
    socketpair = SYS_socketpair when &[&[Is(0, libc::AF_UNIX)]];
    bind = SYS_bind;
    listen = SYS_listen;
    accept4 = SYS_accept4;
    connect = SYS_connect;
    getsockname = SYS_getsockname;
    getpeername = SYS_getpeername;
    getsockopt = SYS_getsockopt;
    setsockopt = SYS_setsockopt;
    recvfrom = SYS_recvfrom;
    recvmsg = SYS_recvmsg;
    sendto = SYS_sendto;
    sendmsg = SYS_sendmsg;
    shutdown = SYS_shutdown;
    // Memory, also of code that it makes.
    brk = SYS_brk;
    mmap = SYS_mmap;
    mprotect = SYS_mprotect;
    munmap = SYS_munmap;
    mremap = SYS_mremap;
    madvise = SYS_madvise;
    mlock = SYS_mlock;
    mlockall = SYS_mlockall when &[&[Is(0, libc::MCL_CURRENT)]];
    futex = SYS_futex;
    // Processes and threads.
    clone = SYS_clone when &[&[Without(0, NAMESPACES)]];
    clone3 = SYS_clone3;
    execve = SYS_execve;
    exit = SYS_exit;
    exit_group = SYS_exit_group;
    wait4 = SYS_wait4;
    waitid = SYS_waitid;
    kill = SYS_kill;
    tgkill = SYS_tgkill;
    setsid = SYS_setsid;
    pause = SYS_pause;
    prctl = SYS_prctl;
    arch_prctl = SYS_arch_prctl;
    set_tid_address = SYS_set_tid_address;
    set_robust_list = SYS_set_robust_list;
    rseq = SYS_rseq;
    sigaltstack = SYS_sigaltstack;
    rt_sigaction = SYS_rt_sigaction;
    rt_sigprocmask = SYS_rt_sigprocmask;
    rt_sigreturn = SYS_rt_sigreturn;
    restart_syscall = SYS_restart_syscall;
    sched_yield = SYS_sched_yield;
    sched_getaffinity = SYS_sched_getaffinity;
    sched_setaffinity = SYS_sched_setaffinity;
    sched_getattr = SYS_sched_getattr;
    sched_getparam = SYS_sched_getparam;
    sched_getscheduler = SYS_sched_getscheduler;
    sched_setscheduler = SYS_sched_setscheduler;
    getpriority = SYS_getpriority;
    setpriority = SYS_setpriority;
    // Who and where it is. Limits can only be lowered.
    getpid = SYS_getpid;
    getppid = SYS_getppid;
    gettid = SYS_gettid;
    getuid = SYS_getuid;
    geteuid = SYS_geteuid;
    getgid = SYS_getgid;
    getegid = SYS_getegid;
    getresuid = SYS_getresuid;
    getresgid = SYS_getresgid;
    capget = SYS_capget;
    getrlimit = SYS_getrlimit;
    setrlimit = SYS_setrlimit;
    prlimit64 = SYS_prlimit64;
    getrusage = SYS_getrusage;
    sysinfo = SYS_sysinfo;
    uname = SYS_uname;
    getrandom = SYS_getrandom;
    clock_gettime = SYS_clock_gettime;
    clock_getres = SYS_clock_getres;
    clock_nanosleep = SYS_clock_nanosleep;
};
