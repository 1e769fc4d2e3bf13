//! The supervisor: started, connected to the enclave, started anew when it dies.
//!
//! ```text
//! enclave ── Effect::Sandbox ──▶ Sandbox (in order) ── ToSupervisor::Bytes ──▶ supervisor
//!    ▲                                                                            │
//!    └────── Command::SandboxBytes ◀────── attend ◀────── FromSupervisor::Bytes ◀─┘
//! ```
//!
//! What it carries it cannot read. It also has quoted what the enclave asks for.

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use data_encoding::BASE64URL_NOPAD;
use toani_protocol::{
    ExecutionId,
    wire::{Answer, Command, LinkState, LinkStep},
};
use toani_sandbox::{
    SpawnError, Started, SupervisorClient, SupervisorPaths,
    messages::{CHUNK_BYTES_MAX, Connect, EnclaveBoot, FromSupervisor, ToSupervisor},
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::plane::Plane;

const BACKOFF_MS_MIN: u64 = 100;
const BACKOFF_MS_MAX: u64 = 2_000;
/// Between two tries to connect a supervisor that was refused, if no list comes before.
const RETRY: Duration = Duration::from_secs(10);
/// Steps that wait for an earlier one: replies overtake each other on a few lanes only.
const HELD_STEPS_MAX: usize = 64;

/// Where the channel stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Link and step, by which one standing is later than another.
    at: (u64, u64),
    state: LinkState,
    /// The link was open, now or before.
    opened: bool,
}

impl Standing {
    /// Both sides have verified each other, though they may be asked to do it again just now.
    fn is_connected(&self) -> bool {
        self.opened && self.state != LinkState::Ended
    }

    /// Whether the channel is open, and came there later than `before`.
    pub(crate) fn opened_after(&self, before: &Self) -> bool {
        self.state == LinkState::Open && self.at > before.at
    }
}

/// The channel to a supervisor, as the host sees it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    outgoing: Mutex<Outgoing>,
    standing: watch::Sender<Standing>,
    /// Jobs wait there for containers, and for too long.
    exhausted: AtomicBool,
    /// Who waits for the outcome of which execution.
    expected: Mutex<HashMap<ExecutionId, oneshot::Sender<()>>>,
}

/// What the enclave wants to have sent, put into its order.
#[derive(Debug, Default)]
struct Outgoing {
    /// Where bytes go, and the number of the connection.
    supervisor: Option<(SupervisorClient, u64)>,
    /// The last link that is over: what it still says is late.
    closed: u64,
    link: u64,
    next: u64,
    held: BTreeMap<u64, LinkStep>,
}

/// The outcome of an execution that is awaited.
#[derive(Debug)]
pub(crate) struct Arrival {
    came: oneshot::Receiver<()>,
    standing: watch::Receiver<Standing>,
}

impl Arrival {
    /// Returns when the outcome is in the enclave, or cannot come there any more.
    pub(crate) async fn wait(self, limit: Duration) {
        let Self { came, mut standing } = self;
        let link = standing.borrow_and_update().at.0;
        let over = standing.wait_for(|now| now.state == LinkState::Ended || now.at.0 != link);
        let arrived = tokio::select! {
            came = tokio::time::timeout(limit, came) => matches!(came, Ok(Ok(()))),
            _ = over => false,
        };
        if !arrived {
            tracing::warn!("a job has no outcome");
        }
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        let standing = Standing { at: (0, 0), state: LinkState::Ended, opened: false };
        Self {
            outgoing: Mutex::default(),
            standing: watch::Sender::new(standing),
            exhausted: AtomicBool::new(false),
            expected: Mutex::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Sandbox {
    pub(crate) fn is_connected(&self) -> bool {
        self.standing.borrow().is_connected()
    }

    /// Whether a job that came now would wait for too long.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Relaxed)
    }

    pub(crate) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// To be called before its job is released.
    pub(crate) fn expect(&self, execution: ExecutionId) -> Arrival {
        let (comes, came) = oneshot::channel();
        let expected = &mut *lock(&self.expected);
        // Those that gave up.
        expected.retain(|_, waiting| !waiting.is_closed());
        expected.insert(execution, comes);
        Arrival { came, standing: self.standing.subscribe() }
    }

    fn arrived(&self, executions: &[ExecutionId]) {
        let expected = &mut *lock(&self.expected);
        for waiting in executions.iter().filter_map(|execution| expected.remove(execution)) {
            // Whoever waited may have given up.
            let _ = waiting.send(());
        }
    }

    /// Takes a step of the enclave's, and all that waited for it.
    pub(crate) fn step(&self, step: LinkStep) {
        let outgoing = &mut *lock(&self.outgoing);
        if step.link < outgoing.link || step.link <= outgoing.closed {
            return;
        }
        if step.link > outgoing.link {
            outgoing.link = step.link;
            outgoing.next = 0;
            outgoing.held.clear();
        }
        outgoing.held.insert(step.step, step);
        let mut sound = outgoing.held.len() <= HELD_STEPS_MAX;
        while let Some(step) = outgoing.held.remove(&outgoing.next) {
            outgoing.next += 1;
            sound &= outgoing.send(&step.bytes);
            self.standing.send_modify(|standing| {
                let before = standing.opened && standing.at.0 == step.link;
                standing.opened = before || step.state == LinkState::Open;
                (standing.at, standing.state) = ((step.link, step.step), step.state);
            });
        }
        if !sound {
            self.over();
        }
    }

    /// Bytes go to this supervisor from now on.
    fn begin(&self, client: SupervisorClient, connection: u64) {
        lock(&self.outgoing).supervisor = Some((client, connection));
    }

    fn over(&self) {
        self.standing.send_modify(|standing| standing.state = LinkState::Ended);
    }

    /// The connection is over: what is awaited does not come any more.
    fn end(&self) {
        {
            let outgoing = &mut *lock(&self.outgoing);
            outgoing.supervisor = None;
            outgoing.closed = outgoing.link;
        }
        self.exhausted.store(false, Ordering::Relaxed);
        self.over();
        lock(&self.expected).clear();
    }
}

impl Outgoing {
    fn send(&self, bytes: &[u8]) -> bool {
        let Some((client, connection)) = &self.supervisor else { return true };
        bytes.chunks(CHUNK_BYTES_MAX).all(|bytes| {
            let (connection, bytes) = (*connection, bytes.to_vec());
            client.send(ToSupervisor::Bytes { connection, bytes }).is_ok()
        })
    }
}

/// Starts the first supervisor. What it cannot isolate here, no later one can.
pub(crate) async fn first(paths: &SupervisorPaths) -> Result<Started, SpawnError> {
    SupervisorClient::spawn(paths).await
}

/// Keeps a supervisor connected until the boot is over. Returns when the last one has ended, with
/// all that it has started.
pub(crate) async fn keep(
    plane: Arc<Plane>,
    paths: SupervisorPaths,
    first: Started,
    mut over: watch::Receiver<bool>,
) {
    let gone = first.client.gone();
    let mut last: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(gone);
    tokio::select! {
        () = attend_each(&plane, paths, first, &mut last) => {}
        // A sender that is gone says the same.
        _ = over.wait_for(|over| *over) => {}
    }
    plane.sandbox().end();
    last.await;
}

/// Starts one supervisor after the other; `last` resolves when the last one is gone.
async fn attend_each(
    plane: &Arc<Plane>,
    paths: SupervisorPaths,
    first: Started,
    last: &mut Pin<Box<dyn Future<Output = ()> + Send>>,
) {
    let mut next = Some(first);
    let mut backoff_ms = BACKOFF_MS_MIN;
    loop {
        let spawned = match next.take() {
            Some(spawned) => Ok(spawned),
            None => SupervisorClient::spawn(&paths).await,
        };
        match spawned {
            Ok(started) => {
                *last = Box::pin(started.client.gone());
                let alive = tokio::time::Instant::now();
                attend(plane, started).await;
                let lived = alive.elapsed();
                if lived > Duration::from_millis(BACKOFF_MS_MAX) {
                    backoff_ms = BACKOFF_MS_MIN;
                }
                tracing::error!("the supervisor is lost; another one is started");
            }
            Err(error) => tracing::error!(%error, "the supervisor cannot be started"),
        }
        tokio::time::sleep(Duration::from_millis(backoff_ms)).await;
        backoff_ms = (backoff_ms * 2).min(BACKOFF_MS_MAX);
    }
}

/// Connects one supervisor for as long as it lives. One that was refused may try again under the
/// next list; one whose open channel has ended is ended too.
async fn attend(plane: &Arc<Plane>, started: Started) {
    let Started { client, mut messages, launch_digest } = started;
    let mut admitted = plane.admitted();
    for number in 1.. {
        admitted.borrow_and_update();
        let connection = Connection { plane, client: &client, number };
        let before = *plane.sandbox().standing.borrow();
        let Over(why) = connection.serve(&mut messages, &mut admitted).await;
        let after = *plane.sandbox().standing.borrow();
        let was_open = after.opened && after.at.0 > before.at.0;
        plane.sandbox().end();
        // The enclave stops keeping a channel that leads nowhere.
        let _ = plane.call(Command::DisconnectSandbox).await;
        if was_open {
            tracing::error!(why, "the channel to the supervisor has ended");
            return;
        }
        tracing::warn!(
            why,
            launch_digest = %BASE64URL_NOPAD.encode(&launch_digest),
            "no sandbox is connected; if it is not admitted: toani admission admit --sandbox"
        );
        tokio::select! {
            changed = admitted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY) => {}
            () = client.gone() => return,
        }
    }
}

/// A connection is over, and why.
struct Over(String);

impl Over {
    fn because(why: impl ToString) -> Self {
        Self(why.to_string())
    }
}

struct Connection<'a> {
    plane: &'a Arc<Plane>,
    client: &'a SupervisorClient,
    number: u64,
}

impl Connection<'_> {
    async fn serve(
        &self,
        messages: &mut mpsc::Receiver<FromSupervisor>,
        admitted: &mut watch::Receiver<u64>,
    ) -> Over {
        if let Err(over) = self.begin().await {
            return over;
        }
        let mut standing = self.plane.sandbox().standing();
        loop {
            let moved = tokio::select! {
                message = messages.recv() => self.take(message).await,
                _ = standing.changed() => {
                    let over = standing.borrow_and_update().state == LinkState::Ended;
                    if over { Err(Over::because("the enclave ended it")) } else { Ok(()) }
                }
                _ = admitted.changed() => self.admission().await,
            };
            if let Err(over) = moved {
                return over;
            }
        }
    }

    /// The supervisor waits, and the enclave begins.
    async fn begin(&self) -> Result<(), Over> {
        let admission = self.plane.admission_list().await;
        let admission = admission.ok_or_else(|| Over::because("no admission list is active"))?;
        let facts = self.plane.facts();
        let connect = Connect {
            connection: self.number,
            manifest: self.plane.manifest().to_vec(),
            admission,
            boot: EnclaveBoot {
                boot: facts.boot.clone(),
                chain_key: facts.chain_key,
                intake_key: facts.intake_key,
            },
        };
        self.tell(ToSupervisor::Connect(Box::new(connect)))?;
        self.plane.sandbox().begin(self.client.clone(), self.number);
        let target = self.plane.enclave().target_info().await.map_err(Over::because)?;
        self.ask(Command::ConnectSandbox { target }).await
    }

    fn tell(&self, message: ToSupervisor) -> Result<(), Over> {
        self.client.send(message).map_err(Over::because)
    }

    /// A newer list, for the supervisor too.
    async fn admission(&self) -> Result<(), Over> {
        match self.plane.admission_list().await {
            Some(list) => self.tell(ToSupervisor::Admission(list)),
            None => Ok(()),
        }
    }

    async fn take(&self, message: Option<FromSupervisor>) -> Result<(), Over> {
        match message {
            Some(FromSupervisor::Bytes { connection, bytes }) if connection == self.number => {
                self.ask(Command::SandboxBytes { bytes }).await
            }
            Some(FromSupervisor::Ended { connection, why }) if connection == self.number => {
                Err(Over(format!("the supervisor ended it: {why}")))
            }
            Some(FromSupervisor::Exhausted(exhausted)) => {
                self.plane.sandbox().exhausted.store(exhausted, Ordering::Relaxed);
                Ok(())
            }
            // Of a connection before this one.
            Some(FromSupervisor::Bytes { .. } | FromSupervisor::Ended { .. }) => Ok(()),
            Some(FromSupervisor::Ready { .. } | FromSupervisor::CannotStart(_)) => {
                Err(Over::because("the supervisor broke the protocol"))
            }
            None => Err(Over::because("the supervisor is gone")),
        }
    }

    /// Moves the enclave's end, and has quoted what it asks for.
    async fn ask(&self, command: Command) -> Result<(), Over> {
        let mut command = Some(command);
        while let Some(next) = command.take() {
            let settled = self.plane.call(next).await;
            let settled = settled.map_err(|_| Over::because("the enclave is lost"))?;
            match settled.answer {
                Ok(Answer::Link { report, arrived }) => {
                    self.plane.sandbox().arrived(&arrived);
                    if let Some(report) = report {
                        let quoted = self.plane.enclave().quote(report).await;
                        let evidence = quoted.map_err(Over::because)?;
                        command = Some(Command::SandboxEvidence { evidence });
                    }
                }
                Ok(_) => return Err(Over::because("the enclave's answer is of another kind")),
                Err(reason) => return Err(Over::because(reason.sentence())),
            }
        }
        Ok(())
    }
}
