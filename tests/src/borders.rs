//! The borders between the plane's processes, where a test can stop a message.
//!
//! Taps (`bin/tap.rs`) stand in for the enclave's process, which every step of an action crosses;
//! what the enclave and the supervisor say to each other crosses it too. At every message they
//! connect here, say which it is, and wait for one byte. The programs under test are the real
//! ones, and know nothing of it.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        mpsc::{self, Receiver, Sender},
    },
};

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::plane::PATIENCE;

/// Names the folder of the real programs, beside the taps.
pub const REAL: &str = "real";
const SOCKET: &str = "borders.sock";

/// Of a message and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Nobody behind the border has seen the message.
    Before,
    /// It was answered, and nobody has seen the answer.
    After,
}

/// One place of an action's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Border {
    /// Passed before the border counts: a command may be sent more than once.
    pub once_past: Option<&'static str>,
    pub name: &'static str,
    pub side: Side,
}

/// A folder of programs in which one is a tap.
#[derive(Debug)]
pub struct Borders {
    folder: PathBuf,
    armed: Arc<Mutex<Option<Armed>>>,
}

#[derive(Debug)]
struct Armed {
    border: Border,
    stopped: Sender<UnixStream>,
}

/// A message that is held. Dropped, its tap ends.
#[derive(Debug)]
pub struct Held(UnixStream);

impl Held {
    /// Lets it pass. Its tap may be gone, which a test that kills knows.
    pub fn release(mut self) {
        let _ = self.0.write_all(&[0]);
    }
}

impl Borders {
    /// Lays taps around the programs of `real`, in a new folder.
    pub fn new(real: &Path, folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let tap = folder.join("toani-simulator");
        std::fs::copy(real.join("toani-tap"), tap).context("no toani-tap")?;
        for name in
            ["toani-sandbox", "toani-connector", "toani-image", "toani-image.sig", "toani-sgx"]
        {
            std::fs::copy(real.join(name), folder.join(name))
                .with_context(|| format!("no {name} in {}", real.display()))?;
        }
        std::fs::write(folder.join(REAL), real.to_str().context("a path in UTF-8")?)?;
        let listener = UnixListener::bind(folder.join(SOCKET))?;
        let armed = Arc::new(Mutex::new(None));
        let theirs = Arc::clone(&armed);
        std::thread::spawn(move || {
            // Ends with the test's process.
            for tap in listener.incoming().map_while(Result::ok) {
                // A tap that was killed while it asked.
                let _ = ask(tap, &theirs);
            }
        });
        Ok(Self { folder: folder.to_path_buf(), armed })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Stops the next message at this border.
    pub fn stop_at(&self, border: Border) -> Stop {
        let (stopped, stop) = mpsc::channel();
        *lock(&self.armed) = Some(Armed { border, stopped });
        Stop(stop)
    }
}

/// A border that is watched.
#[derive(Debug)]
pub struct Stop(Receiver<UnixStream>);

impl Stop {
    pub fn wait(&self) -> anyhow::Result<Held> {
        self.0.recv_timeout(PATIENCE).map(Held).context("nothing came to this border")
    }
}

fn lock(armed: &Mutex<Option<Armed>>) -> MutexGuard<'_, Option<Armed>> {
    armed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Holds what a tap asks about, or lets it pass.
fn ask(mut tap: UnixStream, armed: &Mutex<Option<Armed>>) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new(tap.try_clone()?).read_line(&mut line)?;
    let mut armed = lock(armed);
    if let Some(Armed { border, .. }) = armed.as_mut() {
        if border.once_past.is_some_and(|past| line == said(past, Side::After)) {
            border.once_past = None;
        } else if border.once_past.is_none() && line == said(border.name, border.side) {
            if let Some(Armed { stopped, .. }) = armed.take() {
                // The test has given up, and its taps end with it.
                let _ = stopped.send(tap);
            }
            return Ok(());
        }
    }
    tap.write_all(&[0])
}

fn said(name: &str, side: Side) -> String {
    format!("{name} {side:?}\n")
}

/// A tap asks, and waits for the test's word.
pub async fn cross(folder: &Path, name: &str, side: Side) -> std::io::Result<()> {
    let mut test = tokio::net::UnixStream::connect(folder.join(SOCKET)).await?;
    test.write_all(said(name, side).as_bytes()).await?;
    test.read_u8().await.map(drop)
}
