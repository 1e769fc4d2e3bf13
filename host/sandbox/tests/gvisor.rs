//! What holds a container of the gVisor driver where system calls are not filtered, and what it
//! is from outside.
#![cfg(test)]

mod common;

use std::{collections::BTreeMap, path::Path};

use common::{Bench, gvisor, packed, probe, runtimes, status, until};
use toani_sandbox::{
    DriverKind,
    driver::Size,
    gvisor::{Ended, Gvisor},
    pool::WAITING_MAX,
    root::RootFileSystem,
};

async fn started() -> (Gvisor, Ended) {
    let DriverKind::Gvisor { runsc } = gvisor() else { unreachable!() };
    let root = RootFileSystem::open(&packed(&probe())).unwrap();
    let sandbox = Path::new(env!("CARGO_BIN_EXE_toani-sandbox"));
    Gvisor::start(&root, &runsc, sandbox).await.unwrap()
}

fn lines(report: &str) -> BTreeMap<&str, &str> {
    report.lines().filter_map(|line| line.rsplit_once(' ')).collect()
}

/// Two containers, one after the other: the second finds nothing of the first, which has left a
/// file and a process.
#[tokio::test(flavor = "multi_thread")]
async fn each_is_confined_below_the_filter_and_finds_nothing_of_another() {
    let (driver, ended) = started().await;
    for _ in 0..2 {
        let report = driver.report(Size { tmp_mib: 1, ..Size::default() }).await.unwrap();
        let found = lines(&report);
        for (name, expected) in [
            ("canary", libc::ENOENT),
            ("processes", 1),
            ("root", libc::EROFS),
            ("write etc", libc::EROFS),
            ("write program", libc::EACCES),
            ("write proc", libc::EACCES),
            ("write sys", libc::EACCES),
            ("execute tmp", libc::EACCES),
            ("fill tmp", libc::ENOSPC),
            ("metadata", libc::ENETUNREACH),
            ("public", libc::ENETUNREACH),
            ("inside", libc::ENETUNREACH),
            ("name", libc::ENETUNREACH),
            ("socket raw", libc::EPERM),
            ("socket packet", libc::EPERM),
            ("socket vsock", libc::EAFNOSUPPORT),
            ("setuid", libc::EPERM),
            ("setgid", libc::EPERM),
            ("setgroups", libc::EPERM),
            ("sethostname", libc::EPERM),
            ("unshare", libc::EPERM),
            ("bpf", libc::EPERM),
            ("perf_event_open", libc::ENODEV),
            ("init_module", libc::EPERM),
            ("reboot", libc::EPERM),
            ("io_uring_setup", libc::ENOSYS),
            ("kexec_load", libc::EPERM),
        ] {
            assert_eq!(found.get(name), Some(&expected.to_string().as_str()), "{name}\n{report}");
        }
    }
    drop(driver);
    ended.wait();
}

/// What a control group says, in either version of them.
fn limit(pid: u32, controller: &str, one: &str, two: &str) -> u64 {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of = |list: &str| {
        let line = groups.lines().find(|line| line.split(':').nth(1) == Some(list));
        line.map(|line| line.rsplit(':').next().unwrap().trim_start_matches('/').to_owned())
    };
    let file = match of(controller) {
        Some(group) => Path::new("/sys/fs/cgroup").join(controller).join(group).join(one),
        None => Path::new("/sys/fs/cgroup").join(of("").unwrap()).join(two),
    };
    std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
}

/// The kernel in user space, which is what a container that breaks out of its own kernel has.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_what_it_should_be_from_outside() {
    let bench = Bench::under(&gvisor(), probe()).await;
    let sandboxes = || {
        let mut sandboxes = runtimes(bench.client.pid(), "boot");
        // The last thing that it does before it runs what is in it.
        sandboxes.retain(|pid| status(*pid, "Seccomp:").as_deref() == Some("2"));
        sandboxes
    };
    until("all wait", || sandboxes().len() == WAITING_MAX).await;
    for pid in sandboxes() {
        let is = |name: &str, value: &str| assert_eq!(status(pid, name).unwrap(), value, "{name}");
        let nobody = ["65534"; 4].join("\t");
        is("Uid:", &nobody);
        is("Gid:", &nobody);
        is("NoNewPrivs:", "1");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            is(set, "0000000000000000");
        }
        for name in ["user", "mnt", "pid", "net", "ipc", "uts"] {
            let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/{name}")).unwrap();
            assert_ne!(of(&pid.to_string()), of("self"), "{name}");
        }
        assert_eq!(limit(pid, "memory", "memory.limit_in_bytes", "memory.max"), 512 << 20);
        assert_eq!(limit(pid, "pids", "pids.max", "pids.max"), 32 + 256);
    }
}
