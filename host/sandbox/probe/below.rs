//! What holds where system calls are not filtered: each line a try and what came of it.
#![allow(unsafe_code, reason = "it makes the system calls that no safe interface would make")]

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write},
    net::{TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt,
};

const CANARY: &str = "/tmp/canary";

pub(crate) fn report() -> String {
    let mut report = String::new();
    let mut say = |name: &str, came: String| {
        let _ = writeln!(report, "{name} {came}");
    };
    // Of an execution before, or of another one: there is none.
    say("canary", errno(fs::read(CANARY)));
    say("processes", processes().to_string());
    let _ = fs::write(CANARY, b"x");
    leave_a_process();

    say("write etc", errno(fs::write("/etc", b"")));
    say("write program", errno(fs::write("/toani-connector", b"")));
    say("write proc", errno(fs::write("/proc/sys/kernel/hostname", b"x")));
    say("write sys", errno(fs::write("/sys/x", b"")));
    say("execute tmp", errno(execute_from_tmp()));
    say("fill tmp", errno(fill("/tmp/full")));
    for (name, address) in [
        ("metadata", "169.254.169.254:80"),
        ("public", "192.0.2.1:443"),
        ("inside", "[fd00::1]:443"),
    ] {
        say(
            name,
            errno(address.parse().map_err(io::Error::other).and_then(|address| {
                TcpStream::connect_timeout(&address, std::time::Duration::from_secs(5))
            })),
        );
    }
    say("name", errno(UdpSocket::bind("0.0.0.0:0").and_then(|s| s.connect("192.0.2.53:53"))));
    for (name, number, arguments) in CALLS {
        say(name, call(*number, *arguments));
    }
    report
}

fn errno<T>(tried: io::Result<T>) -> String {
    match tried {
        Ok(_) => "0".to_owned(),
        Err(error) => error.raw_os_error().unwrap_or(-1).to_string(),
    }
}

fn processes() -> usize {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()).count()
}

/// It outlives whoever started it, if it can.
fn leave_a_process() {
    // SAFETY: one thread, and the new process makes one system call after the other.
    if unsafe { libc::fork() } == 0 {
        loop {
            std::thread::park();
        }
    }
}

fn execute_from_tmp() -> io::Result<()> {
    fs::write("/tmp/program", b"#!/toani-connector\n")?;
    fs::set_permissions("/tmp/program", fs::Permissions::from_mode(0o755))?;
    std::process::Command::new("/tmp/program").status().map(drop)
}

fn fill(file: &str) -> io::Result<()> {
    let mut file = fs::File::create(file)?;
    for _ in 0..4096 {
        file.write_all(&[b'x'; 64 * 1024])?;
    }
    Ok(())
}

type Call = (&'static str, libc::c_long, [usize; 4]);

const CALLS: &[Call] = &[
    ("socket raw", libc::SYS_socket, [2, 3, 1, 0]),
    ("socket packet", libc::SYS_socket, [17, 3, 0, 0]),
    ("socket vsock", libc::SYS_socket, [40, 1, 0, 0]),
    ("setuid", libc::SYS_setuid, [0; 4]),
    ("setgid", libc::SYS_setgid, [0; 4]),
    ("setgroups", libc::SYS_setgroups, [0; 4]),
    ("sethostname", libc::SYS_sethostname, [0; 4]),
    ("unshare", libc::SYS_unshare, [0x0002_0000, 0, 0, 0]),
    ("bpf", libc::SYS_bpf, [0; 4]),
    ("perf_event_open", libc::SYS_perf_event_open, [0; 4]),
    ("init_module", libc::SYS_init_module, [0; 4]),
    ("reboot", libc::SYS_reboot, [0; 4]),
    ("io_uring_setup", libc::SYS_io_uring_setup, [0; 4]),
    ("kexec_load", libc::SYS_kexec_load, [0; 4]),
];

fn call(number: libc::c_long, arguments: [usize; 4]) -> String {
    let [a, b, c, d] = arguments;
    // SAFETY: no argument is a pointer but null. That calls may do harm is what this is for.
    let result = unsafe { libc::syscall(number, a, b, c, d) };
    if result == -1 { errno::<()>(Err(io::Error::last_os_error())) } else { "0".to_owned() }
}
