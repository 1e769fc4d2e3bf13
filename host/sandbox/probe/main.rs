//! Runs in the connector's place and tries what a connector must not be able to do. Its reply is
//! one line for each try: a name, and 0 or the error's number.
#![allow(unsafe_code, reason = "it makes the system calls that no safe interface would make")]

use std::{
    fmt::Write as _,
    fs::File,
    io::{Read, Write},
    os::fd::AsFd,
};

use toani_connectors::confinement;
use toani_protocol::{
    job::{CONNECTOR_WAITS, JobEnd},
    wire,
};

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

fn tries() -> Vec<(&'static str, i32)> {
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
    calls.into_iter().map(|(name, number, arguments)| (name, try_call(number, arguments))).collect()
}

fn main() -> std::io::Result<()> {
    if std::env::args_os().count() > 1 {
        return std::io::stdout().write_all(confinement::report().as_bytes());
    }
    let mut stream = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    stream.write_all(&[CONNECTOR_WAITS])?;
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix)?;
    let length = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(0);
    let mut job = vec![0; length];
    stream.read_exact(&mut job)?;

    // The door is opened as the plan says: without a connection no answer counts.
    let mut door = File::from(stream_3()?);
    let line = job.windows(8).position(|part| part == b"CONNECT ");
    let line = job.get(line.unwrap_or(length)..).unwrap_or_default();
    let end = line.iter().position(|byte| *byte == b'|').unwrap_or(0);
    door.write_all(line.get(..end).unwrap_or_default())?;
    door.write_all(b" HTTP/1.1\r\n\r\n")?;
    let mut answer = [0; 12];
    door.read_exact(&mut answer)?;

    let mut report = format!("door {}\n", String::from_utf8_lossy(&answer));
    let environment: Vec<_> =
        std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
    let _ = writeln!(report, "environment {}", environment.join(","));
    let _ = writeln!(report, "arguments {}", std::env::args_os().count());
    for (name, errno) in tries() {
        let _ = writeln!(report, "{name} {errno}");
    }
    let reply = wire::encode(&JobEnd::Response { status: 200, body: report.into_bytes() })
        .unwrap_or_default();
    let length = u32::try_from(reply.len()).unwrap_or(0);
    stream.write_all(&length.to_le_bytes())?;
    stream.write_all(&reply)?;
    // The credential tells how it is to end.
    if job.ends_with(b"hang") {
        loop {
            std::hint::spin_loop();
        }
    }
    Ok(())
}

fn stream_3() -> std::io::Result<std::os::fd::OwnedFd> {
    // SAFETY: the launcher leaves the door open under this number; it is borrowed for one copy.
    let door = unsafe { std::os::fd::BorrowedFd::borrow_raw(3) };
    door.try_clone_to_owned()
}
