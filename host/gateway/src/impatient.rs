//! A stream whose other side may not stop taking what it is given.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// Longest time for the other side to take what is written, from the first write that it keeps
/// waiting to the flush after it.
const TAKE_MS_MAX: u64 = 30_000;

/// Ends with `TimedOut` where its other side does not take what is written, or not fast enough:
/// otherwise that side would hold a connection and its answer for as long as it likes.
#[derive(Debug)]
pub(crate) struct Impatient<S> {
    stream: S,
    /// Runs while something that was written is not taken.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, patience: None }
    }

    /// What a write that must wait becomes. A part that is taken does not begin the time anew.
    fn waiting<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let limit = Duration::from_millis(TAKE_MS_MAX);
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(patience.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Pending => self.waiting(context),
            written => written,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(context, slices) {
            Poll::Pending => self.waiting(context),
            written => written,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Pending => self.waiting(context),
            flushed => {
                self.patience = None;
                flushed
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(context) {
            Poll::Pending => self.waiting(context),
            shut => shut,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::Instant,
    };

    const LIMIT: Duration = Duration::from_millis(TAKE_MS_MAX);
    /// Much more than the pipe holds.
    const ANSWER: [u8; 8 * 1024] = [7; 8 * 1024];

    fn pipe() -> (Impatient<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(64);
        (Impatient::new(ours), theirs)
    }

    async fn write(mut stream: Impatient<DuplexStream>) -> io::Result<()> {
        stream.write_all(&ANSWER).await?;
        stream.flush().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_does_not_read_is_left() {
        let (ours, _theirs) = pipe();
        let begun = Instant::now();
        assert_eq!(write(ours).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_trickles_is_left() {
        let (ours, mut theirs) = pipe();
        let begun = Instant::now();
        let trickle = async {
            loop {
                theirs.read_u8().await.unwrap();
                tokio::time::sleep(LIMIT / 20).await;
            }
        };
        let written = tokio::select! {
            written = write(ours) => written,
            () = trickle => unreachable!(),
        };
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < LIMIT * 2, "bytes that are taken do not begin the time anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_reads_gets_all_of_it_however_often() {
        let (mut ours, mut theirs) = pipe();
        let answers = 10;
        let read = tokio::spawn(async move {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.map(|_| all)
        });
        for _ in 0..answers {
            ours.write_all(&ANSWER).await.unwrap();
            ours.flush().await.unwrap();
            // Time between answers is not held against it.
            tokio::time::sleep(LIMIT).await;
        }
        drop(ours);
        assert_eq!(read.await.unwrap().unwrap(), ANSWER.repeat(answers));
    }
}
