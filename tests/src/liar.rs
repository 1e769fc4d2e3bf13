//! A server that passes for a Redis and answers `SET` with what a test likes.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

const INFO: &str = "redis_version:7.0.15\r\nmaxmemory_policy:noeviction\r\nrole:master\r\n\
                    cluster_enabled:0\r\n";

/// Takes connections for as long as this value lives.
#[derive(Debug)]
pub struct Liar {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    answer: String,
    sets: AtomicUsize,
    over: AtomicBool,
}

impl Liar {
    /// Answers `SET` with `answer`, and ends the connection where that is empty.
    pub fn start(answer: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let (answer, sets) = (answer.to_owned(), AtomicUsize::new(0));
        let shared = Arc::new(Shared { answer, sets, over: AtomicBool::new(false) });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if serving.over.load(Ordering::SeqCst) {
                    break;
                }
                let serving = Arc::clone(&serving);
                thread::spawn(move || serving.talk(stream));
            }
        });
        Ok(Self { port, shared })
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// How many times it was told to set.
    pub fn sets(&self) -> usize {
        self.shared.sets.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Each command of the tests fits into one read, and comes after the answer to the one before.
    fn talk(&self, mut stream: TcpStream) {
        let mut bytes = [0; 4_096];
        while let Ok(read @ 1..) = stream.read(&mut bytes) {
            let said = bytes.get(..read).unwrap_or_default();
            let answer = if said.windows(3).any(|word| word == b"SET") {
                self.sets.fetch_add(1, Ordering::SeqCst);
                self.answer.clone()
            } else {
                format!("${}\r\n{INFO}\r\n", INFO.len())
            };
            if answer.is_empty() || stream.write_all(answer.as_bytes()).is_err() {
                break;
            }
        }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the one who accepts.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}
