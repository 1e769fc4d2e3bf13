//! What a guest says on its serial console: its last words are kept, and no more. What its
//! supervisor logs is among it, and goes on to this side's log.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use crate::supervisor::log;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    task::AbortHandle,
};

const KEPT_BYTES_MAX: usize = 16 * 1024;
const LAST_LINES_MAX: usize = 20;
/// Lines of the guest's supervisor that go on, and bytes of each: a guest that writes without an end
/// fills no disk.
const LOGGED_MAX: usize = 10_000;
const LINE_BYTES_MAX: usize = 512;
const LOGGED_PREFIX: &str = "toani-sandbox: ";

/// Reads a console until it ends or nobody wants it any more.
#[derive(Debug)]
pub(super) struct Console {
    kept: Arc<Mutex<VecDeque<u8>>>,
    reading: AbortHandle,
}

impl Drop for Console {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Console {
    pub(super) fn of(output: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let kept = Arc::default();
        let reading = tokio::spawn(keep(output, Arc::clone(&kept))).abort_handle();
        Self { kept, reading }
    }

    /// The last lines, of printable characters alone.
    pub(super) fn last_words(&self) -> String {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let text: Vec<u8> = kept.iter().copied().collect();
        drop(kept);
        let text = printable(&String::from_utf8_lossy(&text));
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines.get(lines.len().saturating_sub(LAST_LINES_MAX)..).unwrap_or_default().join("\n")
    }
}

async fn keep(mut output: impl AsyncRead + Unpin, kept: Arc<Mutex<VecDeque<u8>>>) {
    let mut chunk = [0; 1024];
    let mut lines = Lines::default();
    while let Ok(count @ 1..) = output.read(&mut chunk).await {
        let bytes = chunk.get(..count).unwrap_or_default();
        for line in lines.take(bytes) {
            log(&format!("in the guest: {line}"));
        }
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(bytes);
        let too_many = kept.len().saturating_sub(KEPT_BYTES_MAX);
        kept.drain(..too_many);
    }
}

/// Finds the supervisor's lines in what comes in pieces.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
    logged: usize,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.begun);
                let line = printable(&String::from_utf8_lossy(&line));
                if let Some(words) = line.strip_prefix(LOGGED_PREFIX) {
                    self.logged = self.logged.saturating_add(1);
                    if self.logged <= LOGGED_MAX {
                        found.push(words.to_owned());
                    }
                }
            } else if self.begun.len() < LINE_BYTES_MAX {
                self.begun.push(*byte);
            }
        }
        found
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control() || *character == '\n').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_last_of_it_is_kept() {
        let mut said = vec![b'x'; 4 * KEPT_BYTES_MAX];
        said.extend_from_slice(b"\nKernel \x1b[31mpanic\r\n\nthe end\n");
        let kept = Arc::default();
        keep(said.as_slice(), Arc::clone(&kept)).await;
        assert_eq!(kept.lock().unwrap().len(), KEPT_BYTES_MAX);
        let console = Console { kept, reading: tokio::spawn(async {}).abort_handle() };
        assert!(console.last_words().ends_with("x\nKernel [31mpanic\nthe end"));
    }

    #[test]
    fn the_supervisors_lines_are_found_in_pieces_and_have_a_maximum() {
        let mut lines = Lines::default();
        assert!(lines.take(b"[ 1.2] kernel\r\ntoani-sand").is_empty());
        assert_eq!(lines.take(b"box: no container\r\nother\n"), ["no container"]);
        let long = [b"toani-sandbox: ".as_slice(), &[b'x'; 4096], b"\n"].concat();
        assert_eq!(lines.take(&long)[0].len(), LINE_BYTES_MAX - LOGGED_PREFIX.len());
        let found: usize = (0..LOGGED_MAX).map(|_| lines.take(b"toani-sandbox: x\n").len()).sum();
        assert_eq!(found, LOGGED_MAX - 2);
    }
}
