//! One lane: one call at a time, each a length and that many bytes, either way.

use std::{io, sync::Arc, time::Duration};

use toani_protocol::limits::MESSAGE_BYTES_MAX;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{Mutex, mpsc, oneshot},
};

use crate::{CALL_MS_MAX, spawn::Process};

/// One call that waits for a lane.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) bytes: Vec<u8>,
    pub(crate) answer: oneshot::Sender<Vec<u8>>,
}

/// Serves jobs until the queue is closed or the lane breaks; a broken lane ends the process.
pub(crate) async fn run(
    mut stream: UnixStream,
    waiting: Arc<Mutex<mpsc::Receiver<Job>>>,
    process: Arc<Process>,
) {
    loop {
        let job = waiting.lock().await.recv().await;
        let Some(job) = job else {
            return;
        };
        let limit = Duration::from_millis(CALL_MS_MAX);
        match tokio::time::timeout(limit, exchange(&mut stream, &job.bytes)).await {
            Ok(Ok(reply)) => {
                // Nobody waits for it any more: the caller gave up.
                let _ = job.answer.send(reply);
            }
            Ok(Err(_)) | Err(_) => {
                process.kill();
                return;
            }
        }
    }
}

async fn exchange(stream: &mut UnixStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&length.to_le_bytes()).await?;
    stream.write_all(bytes).await?;
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await?;
    let length = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
    if length > MESSAGE_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut reply = vec![0; length];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}
