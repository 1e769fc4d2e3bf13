//! What holds a container of the native driver where system calls are not filtered.
#![cfg(test)]

mod common;

use std::path::Path;

use common::{probe, probe::tries};
use toani_sandbox::{
    DriverKind,
    driver::{Driver, Kind, Parked, Size},
    ending::{END, Ended},
    native::Native,
    root::Roots,
    share::Share,
};

async fn started() -> (Native, Ended) {
    let roots = Roots::open(&probe(), &DriverKind::Native).unwrap();
    let sandbox = Path::new(env!("CARGO_BIN_EXE_toani-sandbox"));
    let (driver, _, ended) = Native::start(&roots, sandbox, Share::default()).await.unwrap();
    (driver, ended)
}

/// Two containers, one after the other: the second finds nothing of the first, which has left a
/// file and a process.
#[tokio::test(flavor = "multi_thread")]
async fn each_is_confined_below_the_filter_and_finds_nothing_of_another() {
    let (driver, ended) = started().await;
    for _ in 0..2 {
        let report = driver.report(Size { tmp_mib: 1, ..Size::default() }).await.unwrap();
        let found = tries(&report);
        for (name, expected) in [
            ("canary", libc::ENOENT),
            ("root", libc::EROFS),
            ("write etc", libc::EROFS),
            ("write program", libc::EROFS),
            ("write proc", libc::ENOENT),
            ("write sys", libc::ENOENT),
            ("execute tmp", libc::EACCES),
            ("fill tmp", libc::ENOSPC),
            ("name", libc::ENETUNREACH),
            ("socket raw", libc::EPERM),
            ("socket packet", libc::EPERM),
            ("setgroups", libc::EPERM),
            ("sethostname", libc::EPERM),
            ("unshare", libc::EPERM),
            ("reboot", libc::EPERM),
        ] {
            assert_eq!(found.get(name), Some(&expected.to_string().as_str()), "{name}\n{report}");
        }
        // By Landlock from 6.7 on, and always by a network without an interface.
        let refused = [libc::EACCES, libc::ENETUNREACH].map(|errno| errno.to_string());
        for name in ["metadata", "public", "inside"] {
            assert!(refused.iter().any(|errno| *errno == found[name]), "{name}\n{report}");
        }
        // Who it would become does not exist; and what a kernel without them, or an argument of
        // nothing, says first.
        for name in ["setuid", "setgid", "bpf", "init_module", "kexec_load"] {
            assert_ne!(found[name], "0", "{name}\n{report}");
        }
    }
    let report = driver.report(Size { tmp_mib: 0, ..Size::default() }).await.unwrap();
    let tmp = report.lines().find_map(|line| line.strip_prefix("tmp ")).unwrap();
    assert!(tmp.starts_with(&format!("{} ", libc::EROFS)), "nothing can be written: {tmp}");
    drop(driver);
    assert!(ended.wait(END), "containers have not ended");
}

/// What is in /tmp is memory of the container's, of which no limit of address space knows.
#[tokio::test(flavor = "multi_thread")]
async fn its_group_ends_one_that_uses_more_memory_than_its_class_has() {
    let (driver, ended) = started().await;
    let other = driver.prepare(Kind::default()).await.unwrap();
    let small = |memory_mib| Size { memory_mib, tmp_mib: 64, ..Size::default() };
    let report = driver.report(small(128)).await.unwrap();
    assert_eq!(tries(&report)["fill tmp"], libc::ENOSPC.to_string());
    let killed = driver.report(small(32)).await;
    assert!(killed.is_err(), "64 MiB of files in 32 MiB of memory: {killed:?}");
    assert!(other.is_sound(), "another one has not noticed");
    drop((driver, other));
    assert!(ended.wait(END), "containers have not ended");
}

/// As a supervisor does that its gateway closes.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_that_wait_end_together() {
    let (driver, ended) = started().await;
    let mut waiting = Vec::new();
    for _ in 0..50 {
        waiting.push(driver.prepare(Kind::default()).await.unwrap());
    }
    drop((driver, waiting));
    assert!(ended.wait(END), "they are not gone when the gateway stops waiting");
}
