//! A client that keeps its connections.

use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::Mutex};

pub(crate) struct Connections {
    address: String,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Connections {
    pub(crate) fn to(address: String) -> Self {
        Self { address, idle: Mutex::new(Vec::new()) }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The body of the answer.
    pub(crate) async fn ask(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Bytes> {
        let idle = self.idle.lock().await.pop();
        // The other side closes what is idle for long.
        let mut connection = match idle.filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        connection.ready().await?;
        let answer = connection.send_request(request).await?;
        let body = answer.into_body().collect().await?.to_bytes();
        self.idle.lock().await.push(connection);
        Ok(body)
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// So many at once, of which each must succeed.
pub(crate) async fn at_once<F: Future<Output = anyhow::Result<()>>>(
    count: usize,
    one: impl Fn() -> F,
) -> anyhow::Result<()> {
    for outcome in join_all((0..count).map(|_| one())).await {
        outcome?;
    }
    Ok(())
}

/// Polls all at once and gives their outputs in order.
async fn join_all<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = all.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut done = true;
        for (future, output) in &mut futures {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => done = false,
                }
            }
        }
        if done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}
