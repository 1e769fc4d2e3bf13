//! One job in a container that waits for it: the frame goes in, the door opens, one frame comes
//! out before the deadline, and is searched for the secret. The same for every driver.

use std::{sync::Arc, time::Duration};

use toani_protocol::{
    Hash, canonical,
    job::{ConnectorReply, FRAME_PREFIX_BYTES, Job, JobEnd, JobOutcome},
    limits::{DOCUMENT_BYTES_MAX, EXECUTION_MS_MAX, FRAME_BYTES_MAX, RESPONSE_BYTES_MAX},
    plan::Plan,
    wire,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::JoinSet,
    time::timeout,
};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    door::{self, Bounds, Way},
    driver::Kind,
    scrub::Scrubber,
};

/// What the connector gets beyond its own deadline to say that it was missed.
const GRACE_MS: u64 = 500;
/// What a reply's frame holds beside the body.
const REPLY_BYTES_EXTRA: usize = 64;
const CHUNK_BYTES: usize = 64 * 1024;

/// A job whose plan has been read.
#[derive(Debug)]
pub struct Work {
    plan: Plan,
    job: Job,
    root_file_system: Hash,
}

impl Work {
    /// `None` if the job holds no canonical plan.
    pub fn new(job: Job, root_file_system: Hash) -> Option<Self> {
        let plan = canonical::decode(&job.plan, DOCUMENT_BYTES_MAX).ok()?;
        Some(Self { plan, job, root_file_system })
    }

    /// What its container has to run.
    pub fn root_file_system(&self) -> Hash {
        self.root_file_system
    }

    /// Of the container that it needs.
    pub fn kind(&self) -> Kind {
        Kind::from(&self.plan.class)
    }

    fn bounds(&self) -> Bounds {
        Bounds::of(self.plan.class.root_file_system, self.response_bytes_max())
    }

    fn response_bytes_max(&self) -> u32 {
        self.plan.class.response_bytes_max.min(RESPONSE_BYTES_MAX)
    }

    fn deadline(&self) -> Duration {
        let timeout = self.plan.class.timeout_ms.min(EXECUTION_MS_MAX);
        Duration::from_millis(u64::from(timeout).saturating_add(GRACE_MS))
    }
}

/// The streams into a container.
#[derive(Debug)]
pub struct Streams {
    /// The job goes in here, and the reply comes out.
    pub job: UnixStream,
    /// The container's doors, our sides: each leads to one connection.
    pub doors: Vec<UnixStream>,
}

/// What becomes of a job that no container was given.
pub fn not_run() -> JobOutcome {
    JobOutcome { connections: Vec::new(), end: JobEnd::ConnectorFailed, secret_seen: false }
}

/// Runs one job. Always ends, whatever the container does; the caller then ends the container.
pub async fn run(streams: Streams, work: Work) -> JobOutcome {
    let way = Arc::new(Way::new(&work.plan.endpoint, work.bounds()));
    let mut doors = Doors::open(streams.doors, &way);
    let mut scrubber = Scrubber::new(&work.job.credential, work.plan.injection.as_ref());
    let talk = converse(streams.job, &work, &mut scrubber);
    let end = match timeout(work.deadline(), talk).await {
        Ok(Some(end)) => end,
        Ok(None) => JobEnd::ConnectorFailed,
        Err(_) => JobEnd::TimedOut,
    };
    // A container that has replied may still ask: what it opened after the count would be told to
    // nobody.
    doors.shut().await;
    let connections = way.connections();
    JobOutcome {
        end: believed(end, &work, !connections.is_empty(), scrubber.seen()),
        connections,
        secret_seen: scrubber.seen(),
    }
}

/// They shut with the execution, whichever way that ends.
struct Doors(JoinSet<()>);

impl Doors {
    fn open(inside: Vec<UnixStream>, way: &Arc<Way>) -> Self {
        Self(inside.into_iter().map(|door| door::serve(door, Arc::clone(way))).collect())
    }

    /// Nothing goes through any more when this is done.
    async fn shut(&mut self) {
        self.0.shutdown().await;
    }
}

/// A reply that cannot be true is none, and one that holds the secret keeps its status only.
fn believed(end: JobEnd, work: &Work, connected: bool, secret_seen: bool) -> JobEnd {
    let max = usize::try_from(work.response_bytes_max()).unwrap_or(usize::MAX);
    match end {
        JobEnd::Response { status, mut body } => {
            let possible =
                matches!(status, 200..=299 | 400..=599) && body.len() <= max && connected;
            if !possible || secret_seen {
                body.zeroize();
            }
            if possible { JobEnd::Response { status, body } } else { JobEnd::ConnectorFailed }
        }
        JobEnd::Redirected { status } if !(300..=399).contains(&status) => JobEnd::ConnectorFailed,
        JobEnd::Redirected { .. } | JobEnd::TooLarge | JobEnd::Malformed | JobEnd::TlsRefused
            if !connected =>
        {
            JobEnd::ConnectorFailed
        }
        other => other,
    }
}

/// One frame in, one frame out; `None` if the connector died or what it said is no reply.
async fn converse(mut stream: UnixStream, work: &Work, scrubber: &mut Scrubber) -> Option<JobEnd> {
    let job = Zeroizing::new(wire::encode(&work.job).ok()?);
    if job.len() > FRAME_BYTES_MAX {
        return None;
    }
    let length = u32::try_from(job.len()).ok()?;
    // At once: whoever reads it is woken once.
    let frame = Zeroizing::new([&length.to_le_bytes(), job.as_slice()].concat());
    drop(job);
    stream.write_all(&frame).await.ok()?;
    drop(frame);
    stream.shutdown().await.ok()?;

    let body_max = usize::try_from(work.response_bytes_max()).ok()?;
    let bytes_max = body_max.checked_add(REPLY_BYTES_EXTRA)?;
    let reply = read_reply(&mut stream, bytes_max, scrubber).await?;
    wire::decode::<ConnectorReply>(&reply, bytes_max).ok()
}

/// Reads one frame and the end of the stream; the scrubber sees each byte of it as it comes.
async fn read_reply(
    stream: &mut UnixStream,
    bytes_max: usize,
    scrubber: &mut Scrubber,
) -> Option<Zeroizing<Vec<u8>>> {
    let mut prefix = [0; FRAME_PREFIX_BYTES];
    stream.read_exact(&mut prefix).await.ok()?;
    let length = usize::try_from(u32::from_le_bytes(prefix)).ok()?;
    if length > bytes_max.min(FRAME_BYTES_MAX) {
        return None;
    }
    let mut reply = Zeroizing::new(vec![0; length]);
    let mut rest = reply.as_mut_slice();
    while !rest.is_empty() {
        let part = rest.len().min(CHUNK_BYTES);
        let read = stream.read(rest.get_mut(..part)?).await.ok()?;
        if read == 0 {
            return None;
        }
        let (chunk, more) = rest.split_at_mut(read);
        scrubber.feed(chunk);
        rest = more;
    }
    // A frame and then nothing more: what follows one is no reply.
    match stream.read(&mut [0]).await {
        Ok(0) => Some(reply),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;
    use toani_protocol::policy::{Connector, Endpoint, Method, TlsTrust};

    async fn reply_of(bytes: &[u8]) -> Option<Vec<u8>> {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).await.unwrap();
        drop(theirs);
        let mut scrubber = Scrubber::new(b"s3cret", None);
        let reply = read_reply(&mut ours, 1024, &mut scrubber).await;
        reply.map(|reply| reply.to_vec())
    }

    #[tokio::test]
    async fn a_reply_is_one_frame_and_nothing_more() {
        assert_eq!(reply_of(b"\x02\0\0\0ab").await.unwrap(), b"ab");
        assert_eq!(reply_of(b"\0\0\0\0").await.unwrap(), b"");
        for bad in [
            b"".as_slice(),
            b"\x02\0\0",
            b"\x02\0\0\0a",
            b"\x02\0\0\0abc",
            b"\x01\x04\0\0",
            b"\xff\xff\xff\xffxx",
        ] {
            assert!(reply_of(bad).await.is_none(), "{bad:?}");
        }
    }

    fn work() -> Work {
        let plan = Plan {
            connector: Connector::DirectApi,
            method: Method::Get,
            endpoint: Endpoint { host: "127.0.0.1".into(), port: 9, private: true },
            path: "/".into(),
            query: Vec::new(),
            headers: BTreeMap::new(),
            body: None,
            injection: None,
            tls: TlsTrust::Public,
            success: None,
            class: toani_protocol::policy::Class::default(),
            nonce: Hash::ZERO,
        };
        let job = Job { plan: plan.seal().unwrap().0, credential: Vec::new() };
        Work::new(job, Hash::of(b"archive")).unwrap()
    }

    #[test]
    fn work_keeps_the_root_file_system() {
        assert_eq!(work().root_file_system(), Hash::of(b"archive"));
    }

    /// On one thread nothing but `run` can have ended the door's task.
    #[tokio::test]
    async fn the_door_is_shut_before_its_connections_are_told() {
        let (job, mut container) = UnixStream::pair().unwrap();
        let (door, asking) = UnixStream::pair().unwrap();
        let reply = wire::encode(&JobEnd::ConnectorFailed).unwrap();
        let prefix = u32::try_from(reply.len()).unwrap().to_le_bytes();
        container.write_all(&[&prefix, reply.as_slice()].concat()).await.unwrap();
        container.shutdown().await.unwrap();
        assert_eq!(run(Streams { job, doors: vec![door] }, work()).await, not_run());
        let mut asking = asking.into_std().unwrap();
        assert_eq!(std::io::Read::read(&mut asking, &mut [0]).unwrap(), 0, "nobody is there");
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .unwrap();
            let mut framed = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
            framed.extend_from_slice(&bytes);
            for input in [&bytes, &framed] {
                if let Some(reply) = runtime.block_on(reply_of(input)) {
                    let _ = wire::decode::<ConnectorReply>(&reply, 1024);
                }
            }
            let _ = Work::new(Job { plan: bytes, credential: Vec::new() }, Hash::ZERO);
        }
    }
}
