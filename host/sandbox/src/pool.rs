//! Containers that wait before their job is there: never used, each used once, refilled meanwhile.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use toani_protocol::instance::RootFileSystems;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};

use crate::{
    driver::{Driver, Kind, Parked, PrepareError, Used},
    supervisor::log,
};

/// Containers that wait, of each kind that was asked for lately.
pub const WAITING_MAX: usize = 8;
/// If fewer wait, more are prepared at once, and else when a job is answered: it has the processors
/// to itself meanwhile.
const LOW: usize = WAITING_MAX / 2;
/// From a job's end to its agent's answer: several times what the way through enclave and gateway
/// takes. To end a container and to start another keeps two processors busy for longer.
const ANSWERING: Duration = Duration::from_millis(10);
/// Used containers that end after this. When jobs end so fast that there are more, the others end
/// at once: then there is always an answer on its way.
const USED_MAX: usize = WAITING_MAX;
/// Kinds that containers wait for; the one that was asked for longest ago makes room.
const KINDS_MAX: usize = 8;
/// A container that has waited for so long is ended unused, when one of its kind is asked for.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// A job that has waited for so long for a container says that there are too many.
pub const EMPTY_MAX: Duration = Duration::from_secs(1);
/// Between two tries of a driver that fails.
const RETRY: Duration = Duration::from_secs(1);
/// Containers that are started at once.
const PREPARING_MAX: usize = 64;
/// A job waits for so long at most, and is not run then.
const TAKE_MAX: Duration = Duration::from_secs(20);

/// The containers of one driver.
pub(crate) struct Pool<D: Driver> {
    driver: Arc<D>,
    shelves: Shelves<D::Parked>,
    /// Starting more at once than there are processors makes each of them later.
    preparing: Arc<Semaphore>,
    room_for_used: Arc<Semaphore>,
    /// Jobs that have waited for too long.
    late: Arc<watch::Sender<usize>>,
}

/// The one that was asked for last stands last.
type Shelves<P> = Arc<Mutex<Vec<Shelf<P>>>>;

struct Shelf<P> {
    kind: Kind,
    waiting: VecDeque<(Instant, P)>,
    /// Somebody is at it.
    filling: bool,
}

impl<D: Driver> Pool<D> {
    /// The first containers are of the usual kind.
    pub(crate) fn new(driver: Arc<D>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let at_once = processors.min(PREPARING_MAX);
        let pool = Self {
            driver,
            shelves: Arc::default(),
            preparing: Arc::new(Semaphore::new(at_once)),
            room_for_used: Arc::new(Semaphore::new(USED_MAX)),
            late: Arc::default(),
        };
        drop(pool.pop(Kind::default()));
        pool.fill(Kind::default());
        pool
    }

    /// What the containers may run.
    pub(crate) fn root_file_systems(&self) -> RootFileSystems {
        self.driver.root_file_systems()
    }

    /// A container that was never used: one that waits, or a new one.
    pub(crate) async fn take(&self, kind: Kind) -> Result<D::Parked, PrepareError> {
        let waiting = self.pop(kind);
        if self.waiting(kind) < LOW {
            self.fill(kind);
        }
        if let Some(parked) = waiting {
            return Ok(parked);
        }
        let mut prepare = pin!(timeout(TAKE_MAX, self.prepare(kind)));
        let taken = match timeout(EMPTY_MAX, &mut prepare).await {
            Ok(taken) => taken,
            Err(_) => {
                let _late = Late::new(Arc::clone(&self.late));
                prepare.await
            }
        };
        taken.unwrap_or_else(|_| Err(PrepareError("none came to wait in time".into())))
    }

    /// Ends a container, and lets another take its place, when the answer of its job is given.
    pub(crate) fn clear_away(self: &Arc<Self>, kind: Kind, used: Used) {
        let Ok(room) = Arc::clone(&self.room_for_used).try_acquire_owned() else {
            drop(used);
            return self.fill(kind);
        };
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(ANSWERING).await;
            drop((used, room));
            if let Some(pool) = pool.upgrade() {
                pool.fill(kind);
            }
        });
    }

    /// How many jobs have waited for longer than [`EMPTY_MAX`], now and from now on.
    pub(crate) fn late(&self) -> watch::Receiver<usize> {
        self.late.subscribe()
    }

    /// In its turn: a container that has come to wait meanwhile, or a new one.
    async fn prepare(&self, kind: Kind) -> Result<D::Parked, PrepareError> {
        let _turn = self.preparing.acquire().await;
        match self.pop(kind) {
            Some(parked) => Ok(parked),
            None => self.driver.prepare(kind).await,
        }
    }

    fn waiting(&self, kind: Kind) -> usize {
        let shelves = lock(&self.shelves);
        let shelf = shelves.iter().find(|shelf| shelf.kind == kind);
        shelf.map_or(0, |shelf| shelf.waiting.len())
    }

    fn pop(&self, kind: Kind) -> Option<D::Parked> {
        let mut thrown = Vec::new();
        let mut shelves = lock(&self.shelves);
        let mut shelf = match shelves.iter().position(|shelf| shelf.kind == kind) {
            Some(place) => shelves.remove(place),
            None => Shelf { kind, waiting: VecDeque::new(), filling: false },
        };
        let found = loop {
            match shelf.waiting.pop_front() {
                Some((since, parked)) if since.elapsed() < WAIT_MAX && parked.is_sound() => {
                    break Some(parked);
                }
                Some(unusable) => thrown.push(unusable),
                None => break None,
            }
        };
        shelves.push(shelf);
        let last_used = (shelves.len() > KINDS_MAX).then(|| shelves.remove(0));
        // Ending containers is no work to do under the lock.
        drop(shelves);
        drop((last_used, thrown));
        found
    }

    /// Lets containers be prepared until enough wait, on a task that ends with the pool.
    pub(crate) fn fill(&self, kind: Kind) {
        let mut shelves = lock(&self.shelves);
        let shelf = shelves.iter_mut().find(|shelf| shelf.kind == kind);
        let lacks = |shelf: &&mut Shelf<_>| !shelf.filling && shelf.waiting.len() < WAITING_MAX;
        let Some(shelf) = shelf.filter(lacks) else { return };
        shelf.filling = true;
        drop(shelves);
        let (driver, shelves) = (Arc::clone(&self.driver), Arc::downgrade(&self.shelves));
        let (preparing, late) = (Arc::clone(&self.preparing), Arc::clone(&self.late));
        tokio::spawn(fill(driver, shelves, preparing, late, kind));
    }
}

async fn fill<D: Driver>(
    driver: Arc<D>,
    shelves: Weak<Mutex<Vec<Shelf<D::Parked>>>>,
    preparing: Arc<Semaphore>,
    late: Arc<watch::Sender<usize>>,
    kind: Kind,
) {
    // While the driver fails at the usual kind, a job that came would fail too.
    let mut failing = None;
    loop {
        let turn = preparing.acquire().await;
        let prepared = driver.prepare(kind).await;
        drop(turn);
        let parked = match prepared {
            Ok(parked) => parked,
            Err(error) => {
                if failing.is_none() {
                    log(&format!("no container waits: {error}"));
                }
                // Another kind may be one that never works: it is nobody else's business, and the
                // next job of that kind tries again.
                if kind != Kind::default() {
                    return no_longer_filling(&shelves, kind);
                }
                failing.get_or_insert_with(|| Late::new(Arc::clone(&late)));
                tokio::time::sleep(RETRY).await;
                if shelves.strong_count() == 0 {
                    return;
                }
                continue;
            }
        };
        failing = None;
        let Some(shelves) = shelves.upgrade() else { return };
        let mut shelves = lock(&shelves);
        // If it made room for another kind meanwhile, the container ends unused.
        let Some(shelf) = shelves.iter_mut().find(|shelf| shelf.kind == kind) else { return };
        shelf.waiting.push_back((Instant::now(), parked));
        if shelf.waiting.len() >= WAITING_MAX {
            shelf.filling = false;
            return;
        }
    }
}

fn no_longer_filling<P>(shelves: &Weak<Mutex<Vec<Shelf<P>>>>, kind: Kind) {
    let Some(shelves) = shelves.upgrade() else { return };
    if let Some(shelf) = lock(&shelves).iter_mut().find(|shelf| shelf.kind == kind) {
        shelf.filling = false;
    }
}

/// A job that has waited for too long, or a driver that fails: for as long as that lasts.
struct Late(Arc<watch::Sender<usize>>);

impl Late {
    fn new(late: Arc<watch::Sender<usize>>) -> Self {
        late.send_modify(|count| *count += 1);
        Self(late)
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// What is behind the lock is whole after each step, also after a panic.
fn lock<P>(shelves: &Mutex<Vec<Shelf<P>>>) -> MutexGuard<'_, Vec<Shelf<P>>> {
    shelves.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
