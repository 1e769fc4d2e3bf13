//! A sandbox with two root file systems: a class chooses, and what it chose has its own filter, its
//! own doors and its own containers that wait.
#![cfg(test)]

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use common::{Bench, browse, connector, image, probe::tries, upstream::Upstream, with_browser};
use toani_protocol::{
    job::{JobEnd, JobOutcome},
    limits::CONNECTIONS_MAX,
    plan::Plan,
    policy::{Class, Injection, RootName},
};

fn in_browser(mut plan: Plan) -> Plan {
    plan.class.root_file_system = RootName::Browser;
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn each_class_runs_in_its_own_root_file_system() {
    let upstream = Upstream::start().await;
    let bench = Bench::under(&with_browser(&image(&browse())), connector()).await;
    for _ in 0..2 {
        let outcome = bench.run(&upstream.plan("/ok", Some(Injection::Bearer)), b"key").await;
        assert_eq!(outcome.end, JobEnd::Response { status: 200, body: b"{\"ok\":true}".to_vec() });
        let said = text(bench.run(&in_browser(upstream.plan("/ok", None)), b"tries").await);
        let tries = tries(&said);
        // Files, sockets and memory it may have.
        for name in ["memfd", "stat", "socket unix", "socket inet", "mmap exec"] {
            assert_eq!(tries[name], "0", "{name}");
        }
        // What would make something else of it, it may not.
        for name in NEVER {
            assert_eq!(tries[*name], libc::EPERM.to_string(), "{name}");
        }
    }
}

const NEVER: &[&str] = &[
    "socket inet6",
    "socket netlink",
    "socket packet",
    "socket vsock",
    "unshare",
    "setns",
    "mount",
    "umount",
    "chroot",
    "pivot_root",
    "mknod",
    "ptrace",
    "process_vm_readv",
    "execveat",
    "bpf",
    "pidfd_open",
    "keyctl",
    "add_key",
    "perf_event_open",
    "io_uring_setup",
    "userfaultfd",
    "init_module",
    "setuid",
    "setgid",
    "capset",
    "sethostname",
];

fn text(outcome: JobOutcome) -> String {
    let JobEnd::Response { body, .. } = outcome.end else { panic!("{:?}", outcome.end) };
    String::from_utf8(body).unwrap()
}

/// A sandbox without one runs no job of that class, whatever the enclave says.
#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_browser_nothing_runs_in_its_place() {
    let upstream = Upstream::start().await;
    for driver in common::drivers() {
        let bench = Bench::under(&driver, connector()).await;
        let outcome = bench.run(&in_browser(upstream.plan("/ok", None)), b"").await;
        assert_eq!((outcome.end, outcome.connections), (JobEnd::ConnectorFailed, vec![]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_has_several_doors_and_each_connection_is_counted() {
    let upstream = Upstream::start().await;
    let bench = Bench::under(&with_browser(&image(&browse())), connector()).await;
    let outcome = bench.run(&in_browser(upstream.plan("/ok", None)), b"doors").await;
    let open = b"HTTP/1.1 200 open\r\n\r\n".repeat(CONNECTIONS_MAX);
    assert_eq!(outcome.end, JobEnd::Response { status: 200, body: open });
    assert_eq!(outcome.connections.len(), CONNECTIONS_MAX);
    assert!(outcome.connections.iter().all(|opened| opened.port == upstream.port));
}

/// A browser may start processes and write files. What takes all of that has a definite end, and the
/// next execution finds nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_all_there_is_harms_nobody() {
    let upstream = Upstream::start().await;
    let bench = Bench::under(&with_browser(&image(&browse())), connector()).await;
    let mut plan = in_browser(upstream.plan("/ok", None));
    (plan.class.processes, plan.class.tmp_mib) = (64, 8);
    let open = b"HTTP/1.1 200 open\r\n\r\n".repeat(CONNECTIONS_MAX);
    for word in ["forks", "tmp", "memory"] {
        let outcome = bench.run(&plan, word.as_bytes()).await;
        match (word, &outcome.end) {
            ("memory", JobEnd::ConnectorFailed) => {}
            ("forks", JobEnd::Response { body, .. }) => {
                let said = std::str::from_utf8(body).unwrap();
                let (count, errno) = said.split_once(' ').unwrap();
                assert!(count.parse::<u32>().unwrap() <= plan.class.processes, "{said}");
                assert_eq!(errno, libc::EAGAIN.to_string());
            }
            ("tmp", JobEnd::Response { body, .. }) => {
                assert_eq!(*body, format!("8 {}", libc::ENOSPC).into_bytes());
            }
            other => panic!("{other:?}"),
        }
        assert!(!outcome.connections.is_empty(), "{word}");
        let next = bench.run(&plan, b"doors").await;
        assert_eq!(next.end, JobEnd::Response { status: 200, body: open.clone() }, "{word}");
    }
}

/// The image that `./x image browser` builds, with another first program.
fn browsers_image(program: &Path) -> (tempfile::TempDir, PathBuf) {
    let programs = std::env::var_os("TOANI_PROGRAMS").map(PathBuf::from);
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release");
    let built = programs.unwrap_or_else(beside).join("browser.erofs");
    assert!(built.is_file(), "there is no {}; ./x image browser builds it", built.display());
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (root, image) = (folder.path().join("root"), folder.path().join("browser.erofs"));
    let mut extract = Command::new("fsck.erofs");
    extract.arg(format!("--extract={}", root.display())).arg(built);
    assert!(extract.status().expect("./x setup installs erofs-utils").success());
    let first = root.join(toani_sandbox::root::PROGRAM);
    std::fs::remove_file(&first).unwrap();
    std::fs::copy(program, first).unwrap();
    common::pack(&root, &image);
    std::fs::remove_dir_all(root).unwrap();
    (folder, image)
}

/// Chromium itself, moved by playwright, within the memory of its class and behind its filter.
#[tokio::test(flavor = "multi_thread")]
async fn chromium_fills_in_a_form_through_its_doors_and_gets_nowhere_else() {
    let upstream = Upstream::start().await;
    let (_folder, image) = browsers_image(&browse());
    let bench = Bench::under(&with_browser(&image), connector()).await;
    let mut plan = in_browser(upstream.plan("/sign-in", None));
    plan.class = Class {
        memory_mib: 1024,
        processes: 1024,
        tmp_mib: 256,
        timeout_ms: 120_000,
        ..plan.class
    };
    let JobOutcome { end, connections, .. } = bench.run(&plan, b"browse").await;
    let JobEnd::Response { body, .. } = end else { panic!("{end:?}") };
    let said = String::from_utf8(body).unwrap();
    let lines: Vec<_> = said.lines().collect();
    let [greeting, screenshot, elsewhere] = lines.as_slice() else { panic!("{said}") };
    assert_eq!(*greeting, "greeting: Welcome, customer");
    assert_eq!(*screenshot, "screenshot: PNG");
    assert!(elsewhere.contains("ERR_TUNNEL_CONNECTION_FAILED"), "{elsewhere}");
    // A page each, and what the browser asks for besides.
    assert!(connections.len() >= 2, "{connections:?}");
    assert!(connections.iter().all(|opened| opened.host == "localhost"));
}
