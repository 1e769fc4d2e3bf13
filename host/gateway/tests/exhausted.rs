//! More is asked for than containers come: requests are put off before anything is used up.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use common::{Instance, Running, policy, programs, request, with_key};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use toani_gateway::Exit;
use toani_sandbox::{DriverKind, pool::WAITING_MAX};

/// A runtime that waits, before it starts anything, for as long as there is somebody to wait for.
fn hesitant(folder: &Path, gate: &Path) -> PathBuf {
    let path = folder.join("runsc");
    let (gate, real) = (gate.display(), programs().join("runsc"));
    let script =
        format!("#!/bin/sh\n[ -p {gate} ] && read word <{gate}\nexec {} \"$@\"\n", real.display());
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn when_no_container_comes_requests_are_put_off_and_nothing_is_used_up() {
    // It takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let runsc = hesitant(folder.path(), &gate);
    let driver = DriverKind::Gvisor { runsc, browser: None };
    let instance = Instance { driver, ..Instance::born().await };
    let plane = Running::start(instance.config()).await;
    plane.set_up(&instance, &policy(1, silent.local_addr().unwrap().port())).await;

    // From now on none comes; those that wait are used up, and jobs wait for more.
    mknodat(CWD, &gate, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let headers = with_key("0");
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut streams = Vec::new();
    for number in 0..2 * WAITING_MAX {
        let key = format!("{number}");
        let headers = [headers[0], ("Idempotency-Key", key.as_str())];
        streams.push(plane.begin("POST", "/v1/executions", &headers, &request("look")).await);
    }
    plane.until("/readyz", 503).await;
    let headers = [headers[0], ("Idempotency-Key", "put-off")];
    let put_off = plane.ask("POST", "/v1/executions", &headers, Some(&request("look"))).await;
    assert_eq!((put_off.status, put_off.code().as_str()), (503, "busy"), "{put_off:?}");
    assert!(put_off.head.to_ascii_lowercase().contains("\r\nretry-after: "), "{put_off:?}");

    // They come again, and so may the request.
    open(&gate);
    plane.until("/readyz", 200).await;
    let answer = plane.ask("POST", "/v1/executions", &headers, Some(&request("look"))).await;
    assert_eq!(answer.json()["outcome"], json!("timed_out"), "{answer:?}");
    assert_eq!(plane.stop().await, Exit::Stopped);
}

/// Lets all go on that wait at the gate; later ones find it gone.
fn open(gate: &Path) {
    let mut words = std::fs::File::options().write(true).open(gate).unwrap();
    std::fs::remove_file(gate).unwrap();
    std::io::Write::write_all(&mut words, &[b'\n'; 64]).unwrap();
}
