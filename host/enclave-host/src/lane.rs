//! One lane: one exchange at a time, each a frame either way.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{Mutex, mpsc, oneshot},
};

use crate::{
    CALL_MS_MAX,
    frame::{self, Kind, PREFIX_BYTES},
    spawn::Process,
};

/// One frame that waits for a lane.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) kind: Kind,
    pub(crate) bytes: Vec<u8>,
    pub(crate) answer: oneshot::Sender<(Kind, Vec<u8>)>,
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
        match tokio::time::timeout(limit, exchange(&mut stream, job.kind, &job.bytes)).await {
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

async fn exchange(
    stream: &mut UnixStream,
    kind: Kind,
    bytes: &[u8],
) -> io::Result<(Kind, Vec<u8>)> {
    let prefix = frame::prefix(kind, bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
    stream.write_all(&prefix).await?;
    stream.write_all(bytes).await?;
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).await?;
    let (kind, length) = frame::read_prefix(prefix).ok_or(io::ErrorKind::InvalidData)?;
    let mut reply = vec![0; length];
    stream.read_exact(&mut reply).await?;
    Ok((kind, reply))
}
