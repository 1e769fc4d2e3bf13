//! What holds a container of the gVisor driver where system calls are not filtered, and what it
//! is from outside.
#![cfg(test)]

mod common;

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use common::{Bench, gvisor, limit, probe, probe::tries, root_of, runtimes, status, until};
use toani_sandbox::{
    DriverKind, SpawnError, SupervisorClient,
    driver::{Driver, Kind},
    ending::{END, Ended},
    gvisor::Gvisor,
    pool::WAITING_MAX,
    root::Roots,
    share::Share,
};

async fn started() -> (Gvisor, Ended) {
    let driver = gvisor();
    let roots = Roots::open(&root_of(&driver, &probe()), &driver).unwrap();
    let DriverKind::Gvisor { runsc, .. } = driver else { unreachable!() };
    let sandbox = Path::new(env!("CARGO_BIN_EXE_toani-sandbox"));
    Gvisor::start(&roots, &runsc, sandbox, Share::default()).await.unwrap()
}

fn with_tmp(mib: u32) -> Kind {
    let mut kind = Kind::default();
    kind.size.tmp_mib = mib;
    kind
}

/// Two containers, one after the other: the second finds nothing of the first, which has left a
/// file and a process.
#[tokio::test(flavor = "multi_thread")]
async fn each_is_confined_below_the_filter_and_finds_nothing_of_another() {
    let (driver, ended) = started().await;
    for _ in 0..2 {
        let report = driver.report(with_tmp(1)).await.unwrap();
        let found = tries(&report);
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
    let report = driver.report(with_tmp(0)).await.unwrap();
    let tmp = report.lines().find_map(|line| line.strip_prefix("tmp ")).unwrap();
    assert!(tmp.starts_with(&format!("{} ", libc::EROFS)), "nothing can be written: {tmp}");
    drop(driver);
    assert!(ended.wait(END), "containers have not ended");
}

/// As a supervisor does that its gateway closes.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_that_wait_end_together_and_leave_nothing() {
    let (driver, ended) = started().await;
    let mut waiting = Vec::new();
    for _ in 0..50 {
        waiting.push(driver.prepare(Kind::default()).await.unwrap());
    }
    let folder = driver.runtime().parent().unwrap().to_path_buf();
    let groups = std::fs::read_to_string(folder.join("groups")).unwrap();
    let groups: Vec<_> = groups.lines().map(PathBuf::from).collect();
    assert!(groups.iter().all(|group| group.exists()));
    drop((driver, waiting));
    assert!(ended.wait(END), "they are not gone when the gateway stops waiting");
    assert!(groups.iter().all(|group| !group.exists()) && !folder.exists());
}

/// The kernel in user space, which is what a container that breaks out of its own kernel has.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_what_it_should_be_from_outside() {
    let bench = Bench::under(&gvisor(), probe()).await;
    let sandboxes = || {
        let mut sandboxes = runtimes(bench.client.pid(), "boot");
        // The last thing that it does before it runs what is in it: a filter of its own, beside the
        // one that it was started with.
        sandboxes.retain(|pid| status(*pid, "Seccomp_filters:").as_deref() == Some("2"));
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
        let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        assert_eq!(score.trim(), "1000", "it goes before the plane");
        assert_eq!(limit(pid, "memory", "memory.limit_in_bytes", "memory.max"), 512 << 20);
        assert_eq!(limit(pid, "pids", "pids.max", "pids.max"), 32 + 256);
    }
}

/// Neither it nor its kernel has to wait for the whole machine while it starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_starts_without_membarrier_and_with_room_for_its_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let found = folder.path().join("found");
    // The first of them, which starts alone. MEMBARRIER_CMD_QUERY is 0.
    let look = format!(
        "[ \"$argument\" = run ] && [ ! -e {found} ] && perl -e 'syscall({}, 0, 0, 0); print $! + 0' >{found} \
         && grep FDSize: /proc/self/status >>{found}",
        libc::SYS_membarrier,
        found = found.display()
    );
    let runsc = instead(folder.path(), "looks", &look);
    drop(Bench::under(&DriverKind::Gvisor { runsc, browser: None }, probe()).await);
    let found = std::fs::read_to_string(found).unwrap();
    let (errno, room) = found.split_once("FDSize:").unwrap();
    assert_eq!(errno, libc::ENOSYS.to_string());
    assert!(room.trim().parse::<u32>().unwrap() > 256, "{room}");
}

/// A runtime that does what the real one does, with other arguments or another bundle.
fn instead(folder: &Path, name: &str, change: &str) -> PathBuf {
    let DriverKind::Gvisor { runsc, .. } = gvisor() else { unreachable!() };
    let path = folder.join(name);
    let script = format!(
        "#!/bin/bash\narguments=()\nbundle=\nfor argument in \"$@\"; do\n\
         [ \"$before\" = --bundle ] && bundle=$argument/config.json\nbefore=$argument\n\
         {change}\narguments+=(\"$argument\")\ndone\nexec {} \"${{arguments[@]}}\"\n",
        runsc.display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

async fn refused(runsc: PathBuf) -> String {
    let name = runsc.clone();
    let paths =
        common::paths_under(DriverKind::Gvisor { runsc, browser: None }, &common::connector());
    match SupervisorClient::spawn(&paths).await {
        Err(SpawnError::CannotStart(why)) => why,
        Ok(_) => panic!("{} started", name.display()),
        Err(other) => panic!("{other}"),
    }
}

/// Each stanza in turn is one that the runtime does not know.
#[tokio::test(flavor = "multi_thread")]
async fn a_stanza_that_is_ignored_fails_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = |from: &str, to: &str| {
        format!("[ -n \"$bundle\" ] && sed -i 's#{from}#{to}#g' \"$bundle\" && bundle=")
    };
    let host_network = format!(
        "{}\n[ \"$argument\" = --network=none ] && argument=--network=host",
        bundle("{\"type\":\"network\"},", "")
    );
    for (name, change, expected) in [
        (
            "filter",
            "[ \"$argument\" = --oci-seccomp ] && argument=--oci-seccomp=false".to_owned(),
            "filter of system",
        ),
        ("root", bundle("gvisor.spec.rootfs", "gvisor.ignored"), "it does not say"),
        ("user", bundle("65534", "0"), "`Uid:`"),
        ("tmp", bundle("size=16m", "size=17m"), "`tmp`"),
        ("noexec", bundle("\"noexec\",", ""), "`tmp`"),
        ("environment", bundle("\"HOME=/\"", "\"A=B\""), "`environment`"),
        (
            "capabilities",
            bundle("\"\\(bounding\\|permitted\\|effective\\)\":\\[\\]", "\"\\1\":[\"CAP_KILL\"]"),
            "`Cap",
        ),
        ("network", host_network, "`interfaces`"),
    ] {
        let why = refused(instead(folder.path(), name, &change)).await;
        assert!(why.contains(expected), "{name}: {why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_is_not_there_or_too_old_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let why = refused(folder.path().join("nowhere")).await;
    assert!(why.contains("./x setup"), "{why}");
    let old = "[ \"$argument\" = --version ] && echo runsc version 20221219 && exit 0";
    let why = refused(instead(folder.path(), "old", old)).await;
    assert!(why.contains("20240729") && why.contains("./x setup"), "{why}");
    let why = refused("/bin/true".into()).await;
    assert!(why.contains("is no gVisor runtime"), "{why}");
}
