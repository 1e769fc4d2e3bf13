//! A real redis-server of a test's own: on loopback and a Unix socket, in a folder that goes away.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, bail};

use crate::plane::{signal, until};

/// Between asking the system for a free port and taking it somebody else may take it.
const TRIES_MAX: u32 = 5;

/// Ends with this value.
#[derive(Debug)]
pub struct Redis {
    process: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Redis {
    /// Starts one that keeps nothing on disk, with these options beside; waits until it answers.
    pub fn start(options: &[&str]) -> anyhow::Result<Self> {
        for _ in 0..TRIES_MAX {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            if let Some(redis) = Self::start_on(port, options)? {
                return Ok(redis);
            }
        }
        bail!("redis-server does not stay with these options: {options:?}")
    }

    /// The same on a named port; `None` if it ended by itself.
    pub fn start_on(port: u16, options: &[&str]) -> anyhow::Result<Option<Self>> {
        let folder = tempfile::tempdir()?;
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--unixsocket", "redis.sock", "--dir"])
            .arg(folder.path())
            .args(options)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(folder.path().join("log"))?)
            .spawn()
            .context("cannot start redis-server; ./x setup installs it")?;
        let mut redis = Self { process, port, folder };
        let mut ended = false;
        until("redis-server answers", || {
            ended = redis.process.try_wait()?.is_some();
            Ok(ended
                || redis
                    .says("PING")
                    .is_ok_and(|said| said.starts_with('+') || said.starts_with('-')))
        })?;
        Ok((!ended).then_some(redis))
    }

    /// The first line of its answer to a command of one line.
    pub fn says(&self, command: &str) -> anyhow::Result<String> {
        // By the socket: TLS, where a test turns it on, may have taken the port.
        let mut stream = UnixStream::connect(self.socket())?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let mut said = Vec::new();
        let mut byte = [0];
        while !said.ends_with(b"\r\n") && stream.read(&mut byte)? == 1 {
            said.extend(byte);
        }
        Ok(String::from_utf8_lossy(&said).trim_end().to_owned())
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Sends it a signal: `STOP`, `CONT`.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        signal(self.process.id(), name)
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
