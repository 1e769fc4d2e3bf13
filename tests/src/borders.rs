//! The borders between the plane's processes, where a test can stop a message.
//!
//! Taps (`bin/tap.rs`) stand in for the enclave's process, which every step of an action crosses;
//! what the enclave and the supervisor say to each other crosses it too. At every message they
//! connect here, say which it is and how much of the log it is about, and wait for one byte. The
//! programs under test are the real ones, and know nothing of it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::Child,
    sync::{
        Arc, Mutex, MutexGuard,
        mpsc::{self, Receiver, Sender},
    },
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::plane::PATIENCE;

/// Names the folder of the real programs, beside the taps.
pub const REAL: &str = "real";
const SOCKET: &str = "borders.sock";

/// Of a message and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// Nobody behind the border has seen the message.
    Before,
    /// It was answered, and nobody has seen the answer.
    After,
}

/// One place of an action's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Border {
    /// Passed before the border counts: a command may be sent more than once, and one about the
    /// log's size counts if it covers what the enclave signed here.
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

/// A message at a border, as its tap tells of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Crossing {
    pub name: String,
    pub side: Side,
    /// The log's size that it is about: what a command calls durable, or what an answer's records
    /// lead to.
    pub size: Option<u64>,
}

#[derive(Debug)]
struct Armed {
    border: Border,
    /// The log's size that a message has to cover to count.
    size: u64,
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
        *lock(&self.armed) = Some(Armed { border, size: 0, stopped });
        Stop(stop)
    }
}

/// A border that is watched.
#[derive(Debug)]
pub struct Stop(Receiver<UnixStream>);

impl Stop {
    /// Waits until what the agent began comes to the border.
    pub fn wait(&self, agent: &mut Child) -> anyhow::Result<Held> {
        let Ok(held) = self.0.recv_timeout(PATIENCE) else {
            let mut said = String::new();
            if agent.try_wait()?.is_some() {
                let streams = agent.stdout.take().zip(agent.stderr.take());
                let (mut out, mut error) = streams.context("its output is read once")?;
                out.read_to_string(&mut said)?;
                error.read_to_string(&mut said)?;
            }
            bail!("nothing came to this border; the agent has said: {said:?}");
        };
        Ok(Held(held))
    }
}

fn lock(armed: &Mutex<Option<Armed>>) -> MutexGuard<'_, Option<Armed>> {
    armed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Holds what a tap asks about, or lets it pass.
fn ask(mut tap: UnixStream, armed: &Mutex<Option<Armed>>) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new(tap.try_clone()?).read_line(&mut line)?;
    let crossing = serde_json::from_str::<Crossing>(&line)?;
    let mut watched = lock(armed);
    if watched.as_mut().is_some_and(|armed| armed.is_reached(&crossing)) {
        if let Some(Armed { stopped, .. }) = watched.take() {
            // The test has given up, and its taps end with it.
            let _ = stopped.send(tap);
        }
        return Ok(());
    }
    tap.write_all(&[0])
}

impl Armed {
    fn is_reached(&mut self, crossing: &Crossing) -> bool {
        match self.border.once_past {
            Some(past) if crossing.name == past && crossing.side == Side::After => {
                self.border.once_past = None;
                self.size = crossing.size.unwrap_or_default();
                false
            }
            Some(_) => false,
            None => {
                crossing.name == self.border.name
                    && crossing.side == self.border.side
                    && crossing.size.is_none_or(|size| size >= self.size)
            }
        }
    }
}

/// A tap asks, and waits for the test's word.
pub async fn cross(folder: &Path, crossing: &Crossing) -> std::io::Result<()> {
    let mut test = tokio::net::UnixStream::connect(folder.join(SOCKET)).await?;
    let mut line = serde_json::to_vec(crossing)?;
    line.push(b'\n');
    test.write_all(&line).await?;
    test.read_u8().await.map(drop)
}
