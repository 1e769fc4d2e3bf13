//! The same program, started by others.

use std::{
    io::Read,
    os::unix::net::UnixStream as StdStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::json;
use toani_sandbox::{execution::Streams, root::PROGRAM};
use tokio::{io::AsyncReadExt, net::UnixStream};

use crate::path;

pub(crate) struct Peers {
    folder: PathBuf,
    runsc: PathBuf,
}

/// A number for each container of this process.
fn next() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("toani-bench-{}-{number:08}", std::process::id())
}

fn installed(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

impl Peers {
    pub(crate) fn new(programs: &Path, folder: &Path) -> anyhow::Result<Self> {
        let root = folder.join("root");
        // What stands in the image: they know folders only.
        for name in ["root", "root/dev", "root/proc", "root/sys", "root/tmp"] {
            std::fs::create_dir(folder.join(name))?;
        }
        std::fs::copy(programs.join(PROGRAM), root.join(PROGRAM))?;
        std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        for (name, seccomp) in [("runsc", false), ("runc", true)] {
            let bundle = folder.join(name);
            std::fs::create_dir(&bundle)?;
            std::fs::write(bundle.join("config.json"), config(&root, seccomp).to_string())?;
        }
        let runsc = std::fs::canonicalize(programs.join("runsc"))?;
        Ok(Self { folder: folder.to_path_buf(), runsc })
    }

    /// Runs containers one after the other, each to its end: the program ends at once, because
    /// nothing is left of its standard input.
    pub(crate) fn runsc_loop(&self, count: usize) -> JoinHandle<anyhow::Result<()>> {
        let (runsc, bundle) = (self.runsc.clone(), self.folder.join("runsc"));
        let state = self.folder.join("state");
        std::thread::spawn(move || {
            for _ in 0..count {
                Command::new(&runsc)
                    .args(["--root", path(&state)?, "--network=none", "--platform=systrap"])
                    .args(["run", "--bundle", path(&bundle)?, &next()])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()?;
            }
            Ok(())
        })
    }

    pub(crate) fn podman(&self) -> Option<Podman<'_>> {
        installed("podman").then_some(Podman(self))
    }

    pub(crate) fn runc(&self) -> Option<Runc<'_>> {
        installed("runc").then_some(Runc(self))
    }
}

/// `podman run --runtime runsc`.
pub(crate) struct Podman<'a>(&'a Peers);

impl Podman<'_> {
    /// Until the program runs: it says what it finds. It has no door, so its first byte to an
    /// upstream would come later.
    pub(crate) fn to_waiting(&self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let mut child = Command::new("podman")
            .args(["--cgroup-manager=cgroupfs", "--runtime", path(&self.0.runsc)?])
            .args(["run", "--rm", "--network=none", "--read-only", "--rootfs"])
            .args([path(&self.0.folder.join("root"))?, "/toani-connector", "confinement"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut output = child.stdout.take().context("no output")?;
        let first = output.read(&mut [0])?;
        let took = began.elapsed();
        let output = child.wait_with_output()?;
        ensure!(first == 1, "podman: {}", String::from_utf8_lossy(&output.stderr));
        Ok(took)
    }
}

/// Plain runc.
pub(crate) struct Runc<'a>(&'a Peers);

impl Runc<'_> {
    /// A container that waits for a job.
    pub(crate) async fn parked(&self) -> anyhow::Result<Streams> {
        let (job, their_job) = StdStream::pair()?;
        let (door, their_door) = StdStream::pair()?;
        job.set_nonblocking(true)?;
        door.set_nonblocking(true)?;
        let (state, bundle) = (self.0.folder.join("runc-state"), self.0.folder.join("runc"));
        // The shell puts the door where the program finds it.
        let script = "exec 3<&2 2>/dev/null; exec runc --root \"$1\" run --preserve-fds 1 \
                      --bundle \"$2\" \"$3\"";
        let output = their_job.try_clone()?;
        let child: Child = Command::new("sh")
            .args(["-c", script, "sh", path(&state)?, path(&bundle)?, &next()])
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(their_job)))
            .stdout(Stdio::from(std::os::fd::OwnedFd::from(output)))
            .stderr(Stdio::from(std::os::fd::OwnedFd::from(their_door)))
            .spawn()?;
        // It ends with its streams.
        std::thread::spawn(move || { child }.wait());
        let mut job = UnixStream::from_std(job)?;
        let word = job.read_u8().await.context("runc: the program does not run")?;
        ensure!(word == toani_protocol::job::CONNECTOR_WAITS, "runc: no filter");
        Ok(Streams { job, doors: vec![UnixStream::from_std(door)?] })
    }
}

/// With the filter or without: only with it does the program wait.
fn config(root: &Path, seccomp: bool) -> serde_json::Value {
    let kinds = ["pid", "network", "ipc", "uts", "mount"];
    let mut linux = json!({ "namespaces": kinds.map(|kind| json!({ "type": kind })) });
    if seccomp {
        linux["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["getsid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }],
        });
    }
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": root, "readonly": true },
        "process": {
            "user": { "uid": 65534, "gid": 65534 }, "args": ["/toani-connector"], "env": [],
            "cwd": "/", "noNewPrivileges": true,
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" },
        ],
        "linux": linux,
    })
}
