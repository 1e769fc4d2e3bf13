//! What the supervisor's process does: it opens an attested channel to the enclave, takes jobs from
//! it, runs each in a container of its own, and answers with outcomes.

use std::{sync::Arc, time::Duration};

use getrandom::{SysRng, rand_core::UnwrapErr};
use toani_protocol::{
    evidence::ReportData,
    instance::LaunchDigest,
    job::{JobMessage, JobOutcome, OutcomeMessage},
    limits::OPEN_EXECUTIONS_MAX,
};
use toani_tls::ChannelKey;
use tokio::{
    io::AsyncRead,
    net::UnixStream,
    sync::{Semaphore, mpsc},
    time::timeout,
};

use crate::{
    connection::{Brought, Connection, vouched},
    driver::{Driver, Parked},
    evidence::{EvidenceError, EvidenceSource},
    execution::{self, Work},
    messages::{
        self, CHUNK_BYTES_MAX, Connect, EXECUTIONS_AT_ONCE_MAX, FrameError, FromSupervisor,
        ToSupervisor,
    },
    peer::Terms,
    pool::Pool,
};

/// Messages that wait to be taken or written.
const QUEUE_MAX: usize = 64;
/// Longest time for evidence: so long nothing else is taken or sent. A guest's host has a shorter one.
const EVIDENCE_MAX: Duration = Duration::from_secs(30);

/// Serves one gateway until it closes the stream.
///
/// # Errors
/// The stream failed, or what came is no message.
pub async fn serve<D: Driver, E: EvidenceSource>(
    stream: UnixStream,
    driver: Arc<D>,
    source: Arc<E>,
    launch_digest: LaunchDigest,
) -> Result<(), FrameError> {
    let (input, mut output) = stream.into_split();
    let ready = FromSupervisor::Ready { launch_digest: launch_digest.to_vec() };
    messages::write(&mut output, &ready).await?;
    let (answers, mut outgoing) = mpsc::channel::<FromSupervisor>(QUEUE_MAX);
    let (orders, ordered) = mpsc::channel(QUEUE_MAX);
    let writing = async {
        while let Some(message) = outgoing.recv().await {
            messages::write(&mut output, &message).await?;
        }
        Ok(())
    };
    tokio::select! {
        end = writing => end,
        end = read(input, orders) => end,
        () = Supervisor::new(driver, source, answers).work(ordered) => Ok(()),
    }
}

async fn read(
    mut input: impl AsyncRead + Unpin,
    orders: mpsc::Sender<ToSupervisor>,
) -> Result<(), FrameError> {
    loop {
        match messages::read(&mut input).await {
            Ok(order) => {
                if orders.send(order).await.is_err() {
                    return Ok(());
                }
            }
            Err(FrameError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// What came of a job, and the connection on which it came.
type Done = (u64, OutcomeMessage);

struct Supervisor<D: Driver, E> {
    pool: Arc<Pool<D>>,
    source: Arc<E>,
    /// One question to it at a time.
    asking: Arc<Semaphore>,
    /// Of this life: evidence names it.
    key: ChannelKey,
    connection: Option<(u64, Connection)>,
    answers: mpsc::Sender<FromSupervisor>,
    done: mpsc::Sender<Done>,
    outcomes: mpsc::Receiver<Done>,
    /// Jobs that are here, and of these those that run.
    here: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

impl<D: Driver, E: EvidenceSource> Supervisor<D, E> {
    fn new(driver: Arc<D>, source: Arc<E>, answers: mpsc::Sender<FromSupervisor>) -> Self {
        let (done, outcomes) = mpsc::channel(EXECUTIONS_AT_ONCE_MAX);
        Self {
            pool: Arc::new(Pool::new(driver)),
            source,
            asking: Arc::new(Semaphore::new(1)),
            key: ChannelKey::generate(&mut UnwrapErr(SysRng)),
            connection: None,
            answers,
            done,
            outcomes,
            here: Arc::new(Semaphore::new(OPEN_EXECUTIONS_MAX)),
            running: Arc::new(Semaphore::new(EXECUTIONS_AT_ONCE_MAX)),
        }
    }

    async fn work(mut self, mut orders: mpsc::Receiver<ToSupervisor>) {
        let mut late = self.pool.late();
        let mut exhausted = false;
        loop {
            tokio::select! {
                // The pool lives as long as this.
                Ok(()) = late.changed() => {
                    let now = *late.borrow_and_update() > 0;
                    if now != exhausted {
                        exhausted = now;
                        self.say(FromSupervisor::Exhausted(exhausted)).await;
                    }
                }
                order = orders.recv() => match order {
                    Some(ToSupervisor::Connect(connect)) => self.connect(*connect).await,
                    Some(ToSupervisor::Admission(list)) => self.admission(&list).await,
                    Some(ToSupervisor::Bytes { connection, bytes }) => {
                        self.go_on(connection, |open| open.receive(&bytes)).await;
                    }
                    None => return,
                },
                Some((connection, outcome)) = self.outcomes.recv() => {
                    self.go_on(connection, |open| open.send(outcome)).await;
                }
            }
        }
    }

    async fn connect(&mut self, connect: Connect) {
        let number = connect.connection;
        let before = self.connection.take();
        let terms = Terms::new(&connect).and_then(|terms| match &before {
            Some((_, before)) => terms.after(before.terms()),
            None => Ok(terms),
        });
        let terms = match terms {
            Ok(terms) => terms,
            Err(error) => {
                // Its list stays the least that is taken.
                self.connection = before;
                return self.ended(number, &error).await;
            }
        };
        let begun = match self.evidence(vouched(&self.key, &terms)).await {
            Ok(evidence) => Connection::new(&self.key, terms, &evidence),
            Err(error) => Err(error.into()),
        };
        match begun {
            Ok(connection) => self.connection = Some((number, connection)),
            Err(error) => self.ended(number, &error).await,
        }
    }

    async fn admission(&mut self, list: &[u8]) {
        let Some((number, connection)) = &self.connection else { return };
        let number = *number;
        match connection.terms().under(list) {
            Ok(terms) => self.go_on(number, |open| open.under(terms)).await,
            Err(error) => log(&format!("an admission list is not taken: {error}")),
        }
    }

    /// Moves the connection of this number, if it is the one that there is.
    async fn go_on(&mut self, number: u64, step: impl FnOnce(&mut Connection) -> Brought) {
        let Some((open, connection)) = &mut self.connection else { return };
        if *open != number {
            return;
        }
        let mut brought = step(connection);
        loop {
            let needed = brought.needed.take();
            self.deliver(number, brought).await;
            let Some(report_data) = needed else { return };
            let evidence = self.evidence(report_data).await;
            let Some((_, connection)) = &mut self.connection else { return };
            brought = match evidence {
                Ok(evidence) => connection.evidence(&evidence),
                Err(error) => Brought { ended: Some(error.into()), ..Brought::default() },
            };
        }
    }

    async fn deliver(&mut self, connection: u64, brought: Brought) {
        for bytes in brought.bytes.chunks(CHUNK_BYTES_MAX) {
            self.say(FromSupervisor::Bytes { connection, bytes: bytes.to_vec() }).await;
        }
        for job in brought.jobs {
            self.start(connection, job);
        }
        if let Some(why) = brought.ended {
            self.ended(connection, &why).await;
        }
    }

    async fn ended(&self, connection: u64, why: &impl std::fmt::Display) {
        self.say(FromSupervisor::Ended { connection, why: why.to_string() }).await;
    }

    async fn say(&self, message: FromSupervisor) {
        // Nobody is left to be told if this fails.
        let _ = self.answers.send(message).await;
    }

    async fn evidence(&self, report_data: ReportData) -> Result<Vec<u8>, EvidenceError> {
        made(&self.source, &self.asking, report_data, EVIDENCE_MAX).await
    }

    /// The enclave lets out no more jobs than there may be executions, and no job twice.
    fn start(&self, connection: u64, message: JobMessage) {
        let Ok(here) = Arc::clone(&self.here).try_acquire_owned() else {
            return log("more jobs came than executions can be open");
        };
        let (pool, done) = (Arc::clone(&self.pool), self.done.clone());
        let running = Arc::clone(&self.running);
        tokio::spawn(async move {
            let Ok(running) = running.acquire_owned().await else { return };
            let JobMessage { execution, jti, root_file_system, job } = message;
            let outcome = match Work::new(job, root_file_system) {
                None => execution::not_run(),
                Some(work) => run(&pool, &execution, work).await,
            };
            drop(running);
            // Nobody waits any more if this fails: the supervisor ends.
            let _ = done.send((connection, OutcomeMessage { execution, jti, outcome })).await;
            drop(here);
        });
    }
}

/// Evidence may take a while, and is made where it keeps no container waiting. A source that hangs
/// holds one thread, and is asked no more until it is done.
async fn made<E: EvidenceSource>(
    source: &Arc<E>,
    asking: &Arc<Semaphore>,
    report_data: ReportData,
    max: Duration,
) -> Result<Vec<u8>, EvidenceError> {
    let Ok(alone) = Arc::clone(asking).try_acquire_owned() else {
        return Err(EvidenceError("its source has not answered before".into()));
    };
    let source = Arc::clone(source);
    let making = tokio::task::spawn_blocking(move || {
        let evidence = source.evidence(&report_data);
        drop(alone);
        evidence
    });
    match timeout(max, making).await {
        Ok(made) => made.unwrap_or_else(|_| Err(EvidenceError("its source panicked".into()))),
        Err(_) => Err(EvidenceError("its source does not answer".into())),
    }
}

async fn run<D: Driver>(
    pool: &Arc<Pool<D>>,
    execution: &impl std::fmt::Display,
    work: Work,
) -> JobOutcome {
    let kind = work.kind();
    let here = pool.root_file_systems().get(kind.root_file_system);
    if here != Some(work.root_file_system()) {
        log(&format!("execution {execution}: its root file system is not the one that is here"));
        return execution::not_run();
    }
    match pool.take(kind).await {
        Ok(parked) => {
            let (outcome, used) = parked.run(work).await;
            pool.clear_away(kind, used);
            outcome
        }
        Err(error) => {
            log(&format!("execution {execution}: {error}"));
            execution::not_run()
        }
    }
}

/// One line on the process's log. Never a byte of a job.
pub fn log(line: &str) {
    use std::io::Write;
    // A log that cannot be written must not end an execution.
    let _ = writeln!(std::io::stderr(), "toani-sandbox: {line}");
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc::Receiver};

    use super::*;

    /// Answers when it is told to.
    struct Hangs(Mutex<Receiver<()>>);

    impl EvidenceSource for Hangs {
        fn evidence(&self, _: &ReportData) -> Result<Vec<u8>, EvidenceError> {
            self.0.lock().unwrap().recv().map_err(EvidenceError::because)?;
            Ok(vec![1])
        }
    }

    #[tokio::test]
    async fn a_source_that_hangs_is_not_waited_for_and_holds_one_thread() {
        let (go_on, told) = std::sync::mpsc::channel();
        let source = Arc::new(Hangs(Mutex::new(told)));
        let asking = Arc::new(Semaphore::new(1));
        let short = Duration::from_millis(20);
        let ask = async |max| made(&source, &asking, [0; 64], max).await;
        assert!(ask(short).await.unwrap_err().0.contains("does not answer"));
        assert!(ask(short).await.unwrap_err().0.contains("not answered before"));

        go_on.send(()).unwrap();
        drop(asking.acquire().await.unwrap());
        go_on.send(()).unwrap();
        assert_eq!(ask(EVIDENCE_MAX).await, Ok(vec![1]));
    }
}
