//! The system calls that a connector must not be able to make.
#![allow(unsafe_code, reason = "it makes the system calls that no safe interface would make")]

const NULL: usize = 0;

fn try_call(number: libc::c_long, arguments: [usize; 5]) -> i32 {
    let [a, b, c, d, e] = arguments;
    // SAFETY: pointers among the arguments are null or of static, terminated strings, or of one
    // buffer that outlives the call. That calls may do harm is what this program is for.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    if result == -1 { std::io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
}

fn address(text: &'static std::ffi::CStr) -> usize {
    text.as_ptr().addr()
}

/// Each but these, with the number of its error.
pub(crate) fn tries_but(left_out: &[&str]) -> Vec<(&'static str, i32)> {
    let root = address(c"/");
    let file = address(c"/etc/passwd");
    let size = |value: i32| usize::try_from(value).unwrap_or(0);
    let mut area = [0u64; 64];
    let area = area.as_mut_ptr().addr();
    let calls: Vec<(&'static str, libc::c_long, [usize; 5])> = vec![
        ("socket inet", libc::SYS_socket, [2, 1, 0, 0, 0]),
        ("socket inet6", libc::SYS_socket, [10, 1, 0, 0, 0]),
        ("socket unix", libc::SYS_socket, [1, 1, 0, 0, 0]),
        ("socket netlink", libc::SYS_socket, [16, 3, 0, 0, 0]),
        ("socket packet", libc::SYS_socket, [17, 3, 0, 0, 0]),
        ("socket vsock", libc::SYS_socket, [40, 1, 0, 0, 0]),
        ("socketpair", libc::SYS_socketpair, [1, 1, 0, area, 0]),
        ("connect", libc::SYS_connect, [3, area, 16, 0, 0]),
        ("recvmsg", libc::SYS_recvmsg, [3, area, 0, 0, 0]),
        ("sendmsg", libc::SYS_sendmsg, [3, area, 0, 0, 0]),
        ("open", libc::SYS_open, [file, 0, 0, 0, 0]),
        ("openat", libc::SYS_openat, [size(-100i32), file, 0, 0, 0]),
        ("openat2", libc::SYS_openat2, [0, file, area, 24, 0]),
        ("open root", libc::SYS_open, [root, 0, 0, 0, 0]),
        ("mkdir", libc::SYS_mkdir, [address(c"/x"), 0o777, 0, 0, 0]),
        ("mknod", libc::SYS_mknod, [address(c"/x"), 0o666, 0, 0, 0]),
        ("stat", libc::SYS_stat, [root, area, 0, 0, 0]),
        ("getdents", libc::SYS_getdents64, [0, area, 512, 0, 0]),
        ("mount", libc::SYS_mount, [root, root, address(c"tmpfs"), 0, 0]),
        ("umount", libc::SYS_umount2, [root, 2, 0, 0, 0]),
        ("pivot_root", libc::SYS_pivot_root, [root, root, 0, 0, 0]),
        ("chroot", libc::SYS_chroot, [root, 0, 0, 0, 0]),
        ("unshare", libc::SYS_unshare, [0x1000_0000, 0, 0, 0, 0]),
        ("setns", libc::SYS_setns, [0, 0, 0, 0, 0]),
        ("clone", libc::SYS_clone, [17, 0, 0, 0, 0]),
        ("clone3", libc::SYS_clone3, [area, 64, 0, 0, 0]),
        ("fork", libc::SYS_fork, [0; 5]),
        ("vfork", libc::SYS_vfork, [0; 5]),
        ("execve", libc::SYS_execve, [file, NULL, NULL, 0, 0]),
        ("execveat", libc::SYS_execveat, [0, address(c""), NULL, NULL, 0x1000]),
        ("memfd", libc::SYS_memfd_create, [file, 0, 0, 0, 0]),
        ("mmap exec", libc::SYS_mmap, [0, 4096, 4, 0x22, size(-1i32)]),
        ("ptrace", libc::SYS_ptrace, [0, 0, 0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [1, 0, 0, 0, 0]),
        ("kill", libc::SYS_kill, [1, 0, 0, 0, 0]),
        ("tgkill", libc::SYS_tgkill, [1, 1, 0, 0, 0]),
        ("pidfd_open", libc::SYS_pidfd_open, [1, 0, 0, 0, 0]),
        ("setuid", libc::SYS_setuid, [0; 5]),
        ("setgid", libc::SYS_setgid, [0; 5]),
        ("setrlimit", libc::SYS_setrlimit, [7, area, 0, 0, 0]),
        ("prlimit", libc::SYS_prlimit64, [0, 7, area, 0, 0]),
        ("capset", libc::SYS_capset, [area, area, 0, 0, 0]),
        ("prctl dumpable", libc::SYS_prctl, [4, 1, 0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0; 5]),
        ("add_key", libc::SYS_add_key, [file, file, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0; 5]),
        ("perf_event_open", libc::SYS_perf_event_open, [0; 5]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, area, 0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [0; 5]),
        ("init_module", libc::SYS_init_module, [0; 5]),
        ("ioctl tiocsti", libc::SYS_ioctl, [0, 0x5412, area, 0, 0]),
        ("fcntl dupfd", libc::SYS_fcntl, [0, 0, 40, 0, 0]),
        ("setsockopt", libc::SYS_setsockopt, [3, 1, 2, area, 4]),
        ("sethostname", libc::SYS_sethostname, [file, 1, 0, 0, 0]),
        ("x32 read", 0x4000_0000, [0; 5]),
        ("descriptor 6", libc::SYS_close, [6, 0, 0, 0, 0]),
        ("descriptor 7", libc::SYS_close, [7, 0, 0, 0, 0]),
        ("descriptor 16", libc::SYS_close, [16, 0, 0, 0, 0]),
        ("descriptor 17", libc::SYS_close, [17, 0, 0, 0, 0]),
    ];
    let calls = calls.into_iter().filter(|(name, ..)| !left_out.contains(name));
    calls.map(|(name, number, arguments)| (name, try_call(number, arguments))).collect()
}
