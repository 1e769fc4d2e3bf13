//! The simulator's process as its host meets it: what it gives up, what it refuses, how it ends.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    fs::Permissions,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    time::Duration,
};

use common::{SIMULATOR, image, runner};
use toani_enclave_host::{EnclaveHost, EnclaveLost, Runner, StartError};
use toani_protocol::{
    limits::MESSAGE_BYTES_MAX,
    wire::{self, Command, Reply},
};

const LIMIT: Duration = Duration::from_secs(20);

async fn start(machine: &Path) -> EnclaveHost {
    common::start(machine, &[]).await
}

fn status(pid: u32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

/// Waits until the process is gone, or a zombie that nobody has reaped.
fn wait_for_end(pid: u32) {
    let raw = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let flags = rustix::process::PidfdFlags::empty();
    let Ok(handle) = rustix::process::pidfd_open(raw, flags) else {
        return;
    };
    let mut polled = [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut polled, Some(&limit)).unwrap(), 1, "it lives on");
}

#[tokio::test]
async fn it_is_confined() {
    let data = tempfile::tempdir().unwrap();
    let enclave = start(data.path()).await;
    let pid = enclave.pid();
    assert_eq!(status(pid, "Seccomp:"), "2", "a system call filter");
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"));
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let theirs = std::fs::read_link(format!("/proc/{pid}/ns/net"));
    if let Ok(theirs) = theirs {
        assert_ne!(own, theirs, "a network namespace of its own");
        let interfaces = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
        assert_eq!(interfaces.lines().count(), 3, "two lines of heading, and lo: {interfaces}");
    }
    let environment = std::fs::read(format!("/proc/{pid}/environ"));
    assert!(environment.is_err() || environment.unwrap().is_empty());
}

/// The files of a process in /proc belong to root as soon as it is not dumpable. As root itself
/// cannot tell, it starts the process as somebody else.
#[tokio::test]
async fn it_is_not_dumpable() {
    use std::os::unix::fs::MetadataExt;
    const NOBODY: u32 = 65_534;
    let data = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(SIMULATOR);
    if rustix::process::geteuid().is_root() {
        // The program's folder may be closed to others; its copy is not.
        let copy = data.path().join("toani-simulator");
        std::fs::copy(SIMULATOR, &copy).unwrap();
        for name in ["toani-image", "toani-image.sig"] {
            std::fs::copy(image().with_file_name(name), data.path().join(name)).unwrap();
        }
        std::fs::set_permissions(data.path(), Permissions::from_mode(0o755)).unwrap();
        let folder = data.path().join("data");
        std::fs::create_dir(&folder).unwrap();
        std::os::unix::fs::chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
        command = std::process::Command::new(&copy);
        command.uid(NOBODY).gid(NOBODY).arg(data.path().join("toani-image")).arg(folder);
    } else {
        command.arg(image()).arg(data.path());
    }
    let enclave = EnclaveHost::start_command(command).await.unwrap();
    let owner = std::fs::metadata(format!("/proc/{}/maps", enclave.pid())).unwrap().uid();
    // In an unmapped user namespace root may show as nobody's overflow id to no one but itself.
    assert_eq!(owner, 0);
}

#[tokio::test]
async fn a_key_that_others_could_read_is_refused_with_advice() {
    let data = tempfile::tempdir().unwrap();
    drop(start(data.path()).await);
    let key = data.path().join("processor.key");
    std::fs::set_permissions(key, Permissions::from_mode(0o640)).unwrap();
    match EnclaveHost::start(&runner(&image(), data.path(), &[])).await {
        Err(StartError::Refused(sentence)) => assert!(sentence.contains("mode 600"), "{sentence}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_error() {
    let nothing = Runner { program: "/nonexistent".into(), arguments: vec![] };
    let missing = EnclaveHost::start(&nothing).await;
    assert!(matches!(missing, Err(StartError::Spawn(_))), "{missing:?}");
    let mut command = std::process::Command::new("/bin/true");
    command.arg("x");
    let silent = EnclaveHost::start_command(command).await;
    assert!(matches!(silent, Err(StartError::Silent | StartError::Spawn(_))), "{silent:?}");
}

#[tokio::test]
async fn hostile_frames_harm_no_lane() {
    let data = tempfile::tempdir().unwrap();
    let enclave = start(data.path()).await;
    let mut calls = Vec::new();
    for round in 0..64usize {
        let enclave = enclave.clone();
        calls.push(tokio::spawn(async move {
            let hostile = match round % 4 {
                0 => Vec::new(),
                1 => vec![0xff; round],
                2 => vec![0; MESSAGE_BYTES_MAX],
                _ => {
                    // Too large for a frame: it never leaves the host, and harms no lane.
                    let larger = vec![0; MESSAGE_BYTES_MAX + 1 + round];
                    assert_eq!(enclave.call_bytes(larger).await, Err(EnclaveLost));
                    return;
                }
            };
            let reply = enclave.call_bytes(hostile).await.unwrap();
            let reply: Reply = wire::decode(&reply, MESSAGE_BYTES_MAX).unwrap();
            assert!(reply.answer.is_err() && reply.effects.is_empty());
            let reply = enclave.call(Command::Tick).await.unwrap();
            assert_eq!(reply.answer, Err(toani_protocol::Reason::NotReady));
        }));
    }
    for call in calls {
        tokio::time::timeout(LIMIT, call).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn its_death_is_noticed() {
    let data = tempfile::tempdir().unwrap();
    let enclave = start(data.path()).await;
    enclave.stop();
    tokio::time::timeout(LIMIT, enclave.lost()).await.unwrap();
    assert_eq!(enclave.call(Command::Tick).await, Err(EnclaveLost));
}

#[tokio::test]
async fn it_ends_with_its_handle() {
    let data = tempfile::tempdir().unwrap();
    let enclave = start(data.path()).await;
    let pid = enclave.pid();
    drop(enclave);
    tokio::task::spawn_blocking(move || wait_for_end(pid)).await.unwrap();
}

const PARENT: &str = "TOANI_TEST_PARENT_OF";

/// Not a test by itself: the parent that is killed below.
#[tokio::test]
async fn parent() {
    let Some(data) = std::env::var_os(PARENT) else {
        return;
    };
    let enclave = start(Path::new(&data)).await;
    std::fs::write(Path::new(&data).join("pid.new"), enclave.pid().to_string()).unwrap();
    std::fs::rename(Path::new(&data).join("pid.new"), Path::new(&data).join("pid")).unwrap();
    println!("ready");
    enclave.lost().await;
}

#[test]
fn it_dies_with_its_parent() {
    use std::io::{BufRead, BufReader};
    let data = tempfile::tempdir().unwrap();
    let mut parent = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["parent", "--exact", "--nocapture"])
        .env(PARENT, data.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("ready")));
    let pid = std::fs::read_to_string(data.path().join("pid")).unwrap().parse().unwrap();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_for_end(pid);
}
