//! What one boot of the plane consists of, and the one way to call its enclave.

use std::{sync::Arc, time::Duration};

use toani_audit_log::AuditLog;
use toani_enclave_host::EnclaveHost;
use toani_protocol::{
    Reason, Time,
    wire::{Answer, Command, Effect, Facts, Redeemed},
};
use toani_store::ReplayError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::{Exit, keep::Keep, problem::Problem, sandbox::Sandbox};

/// Executions that run or wait for a place: beyond these a caller is told to come back.
const EXECUTIONS_WAITING_MAX: usize = 1_024;
/// Longest wait for a place.
const PLACE_MAX: Duration = Duration::from_secs(30);
/// A commit that takes longer is a log that has failed.
const DURABLE_MAX: Duration = Duration::from_secs(60);
/// Records that are handed to the log at once; all within its window.
const APPEND_MAX: usize = 4_096;

/// One boot: an enclave, its log, what is kept beside the log, a sandbox.
#[derive(Debug)]
pub(crate) struct Plane {
    enclave: EnclaveHost,
    log: AuditLog,
    keep: Keep,
    sandbox: Sandbox,
    /// As the boot began.
    facts: Facts,
    manifest: Vec<u8>,
    /// The log size that the enclave knows to be durable.
    acknowledged: watch::Sender<u64>,
    /// The log size that the lists know.
    listed: watch::Sender<u64>,
    fault: watch::Sender<Option<Exit>>,
    /// Counts admission lists: a sandbox that was refused may try again.
    admitted: watch::Sender<u64>,
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    running_max: u32,
    /// Longest wait for an outcome.
    outcome_wait: Duration,
    /// When the enclave has proven itself last.
    proven: watch::Sender<Time>,
    /// Dropped with the plane: then log and data folder are free again.
    _alive: oneshot::Sender<()>,
}

/// The enclave's answer, after its effects were carried out.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) answer: Result<Answer, Reason>,
    /// The log size that must be durable before the answer goes out.
    pub(crate) size: u64,
}

/// What a plane is put together of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) enclave: EnclaveHost,
    pub(crate) log: AuditLog,
    pub(crate) keep: Keep,
    pub(crate) facts: Facts,
    pub(crate) manifest: Vec<u8>,
    pub(crate) executions_at_once: u32,
    pub(crate) outcome_wait: Duration,
    pub(crate) alive: oneshot::Sender<()>,
}

impl Plane {
    pub(crate) fn new(parts: Parts) -> Self {
        let running = usize::try_from(parts.executions_at_once).unwrap_or(1);
        Self {
            enclave: parts.enclave,
            log: parts.log,
            keep: parts.keep,
            sandbox: Sandbox::default(),
            facts: parts.facts,
            manifest: parts.manifest,
            acknowledged: watch::Sender::new(0),
            listed: watch::Sender::new(0),
            fault: watch::Sender::new(None),
            admitted: watch::Sender::new(0),
            running: Arc::new(Semaphore::new(running)),
            waiting: Arc::new(Semaphore::new(EXECUTIONS_WAITING_MAX)),
            running_max: parts.executions_at_once,
            outcome_wait: parts.outcome_wait,
            proven: watch::Sender::new(toani_enclave_host::now()),
            _alive: parts.alive,
        }
    }

    pub(crate) fn log(&self) -> &AuditLog {
        &self.log
    }

    pub(crate) fn keep(&self) -> &Keep {
        &self.keep
    }

    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    pub(crate) fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// Changes when an admission list was activated.
    pub(crate) fn admitted(&self) -> watch::Receiver<u64> {
        self.admitted.subscribe()
    }

    pub(crate) fn admit(&self) {
        self.admitted.send_modify(|count| *count += 1);
    }

    /// The active admission list, as it was signed.
    pub(crate) async fn admission_list(self: &Arc<Self>) -> Option<Vec<u8>> {
        let Ok(Answer::Facts(facts)) = self.answer(Command::Status).await else { return None };
        self.keep.blob(facts.admission).await.ok().flatten()
    }

    pub(crate) fn outcome_wait(&self) -> Duration {
        self.outcome_wait
    }

    pub(crate) fn proven(&self) -> &watch::Sender<Time> {
        &self.proven
    }

    pub(crate) fn enclave(&self) -> &EnclaveHost {
        &self.enclave
    }

    /// Calls the enclave and carries out what it asks for, in order, even if the caller goes away.
    pub(crate) async fn call(self: &Arc<Self>, command: Command) -> Result<Settled, Problem> {
        let plane = self.clone();
        let settled = tokio::spawn(async move {
            let Ok(reply) = plane.enclave.call(command).await else {
                plane.fail(Exit::EnclaveLost);
                return Err(Problem::from(Reason::BootEnded));
            };
            let size = plane.carry_out(reply.effects).await?;
            let answer = reply.answer;
            Ok(Settled { answer, size })
        });
        settled.await.map_err(|_| self.broken())?
    }

    /// As [`Self::call`]; the answer comes once what it says is durable.
    pub(crate) async fn answer(self: &Arc<Self>, command: Command) -> Result<Answer, Problem> {
        let settled = self.call(command).await?;
        self.durable(settled.size).await?;
        Ok(settled.answer?)
    }

    /// Carries out effects in their order; returns the log size that they lead to.
    pub(crate) async fn carry_out(&self, effects: Vec<Effect>) -> Result<u64, Problem> {
        let (mut leaves, mut tickets) = (Vec::new(), Vec::new());
        let mut size = 0;
        for effect in effects {
            let kept = match effect {
                Effect::Append { index, leaf } => {
                    size = size.max(index.saturating_add(1));
                    leaves.push((index, leaf));
                    continue;
                }
                Effect::PutBlob { bytes, delete_after } => {
                    self.keep.put_blob(bytes, delete_after).await
                }
                Effect::PutSalt { tenant, day, wrapped } => {
                    self.keep.put_salt(tenant, day, wrapped).await.map(|()| None)
                }
                Effect::Sandbox(step) => {
                    self.sandbox.step(step);
                    continue;
                }
            };
            match kept {
                Ok(ticket) => tickets.extend(ticket),
                Err(error) => self.store_failed(&error),
            }
        }
        // What a record names is kept before the record is: whoever ends this process in between
        // leaves a blob that nothing names, never the record of a result that nobody has.
        for ticket in tickets {
            if let Err(error) = ticket.settled().await {
                self.store_failed(&error);
            }
        }
        // The records are written even if the store has failed: they are signed, and the log
        // must not have a gap.
        for some in leaves.chunks(APPEND_MAX) {
            if let Err(error) = self.log.append_all(some.to_vec()).await {
                tracing::error!(%error, "the audit log cannot be written");
                self.fail(Exit::LogFailed);
                return Err(Reason::LogUnavailable.into());
            }
        }
        Ok(size)
    }

    fn store_failed(&self, error: &dyn std::error::Error) {
        tracing::error!(%error, "the store cannot be written");
        self.fail(Exit::StoreFailed);
    }

    /// Waits until the log's first `size` records are durable.
    pub(crate) async fn durable(&self, size: u64) -> Result<(), Problem> {
        match tokio::time::timeout(DURABLE_MAX, self.log.durable(size)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                self.fail(Exit::LogFailed);
                Err(Reason::LogUnavailable.into())
            }
        }
    }

    /// Waits until the enclave knows that the log's first `size` records are durable.
    pub(crate) async fn acknowledged(&self, size: u64) -> Result<(), Reason> {
        let mut acknowledged = self.acknowledged.subscribe();
        let reached = acknowledged.wait_for(|known| *known >= size);
        tokio::select! {
            reached = tokio::time::timeout(DURABLE_MAX, reached) => match reached {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) | Err(_) => {
                    self.fail(Exit::LogFailed);
                    Err(Reason::LogUnavailable)
                }
            },
            _ = self.failed() => Err(Reason::LogUnavailable),
        }
    }

    pub(crate) fn acknowledged_size(&self) -> u64 {
        *self.acknowledged.borrow()
    }

    pub(crate) fn acknowledge(&self, size: u64) {
        self.acknowledged.send_replace(size);
    }

    pub(crate) fn listed(&self, size: u64) {
        self.listed.send_replace(size);
    }

    pub(crate) fn listed_sizes(&self) -> watch::Receiver<u64> {
        self.listed.subscribe()
    }

    /// Consumes a token's id in the replay store.
    pub(crate) async fn consume(&self, redeemed: &Redeemed) -> Result<(), Reason> {
        let fresh = self.keep.consume(redeemed.jti, redeemed.jti_expires).await;
        match fresh {
            Ok(true) => Ok(()),
            Ok(false) => Err(Reason::TokenUsed),
            Err(ReplayError::Expired) => Err(Reason::TokenExpired),
            Err(error) => {
                tracing::error!(%error, "a token could not be consumed");
                Err(Reason::ReplayUnavailable)
            }
        }
    }

    /// A place among those that execute; refused where too many wait.
    pub(crate) async fn place_for_execution(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let waiting = self.waiting.clone().try_acquire_owned();
        let _waiting = waiting.map_err(|_| Problem::busy())?;
        let place = self.running.clone().acquire_owned();
        match tokio::time::timeout(PLACE_MAX, place).await {
            Ok(place) => place.map_err(|_| Reason::NotReady.into()),
            Err(_) => Err(Problem::busy()),
        }
    }

    /// Waits until nothing executes any more; nothing can begin afterwards.
    pub(crate) async fn drained(&self) {
        if self.running.acquire_many(self.running_max).await.is_ok() {
            self.running.close();
        }
    }

    /// This boot is over, for this reason; the first one counts.
    pub(crate) fn fail(&self, exit: Exit) {
        self.fault.send_if_modified(|fault| {
            let first = fault.is_none();
            fault.get_or_insert(exit);
            first
        });
    }

    /// Resolves when this boot is over.
    pub(crate) async fn failed(&self) -> Exit {
        let mut fault = self.fault.subscribe();
        match fault.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::EnclaveLost),
            Err(_) => Exit::EnclaveLost,
        }
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.fault.borrow().is_none()
    }

    /// An answer of another kind than the command has: the enclave is not the one we know.
    pub(crate) fn broken(&self) -> Problem {
        self.fail(Exit::EnclaveLost);
        Reason::Internal.into()
    }
}
