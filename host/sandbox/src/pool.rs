//! Containers that wait before their job is there: never used, each used once, refilled meanwhile.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use toani_protocol::policy::Class;
use tokio::time::Instant;

use crate::{
    driver::{Driver, Parked, PrepareError},
    supervisor::log,
};

/// Containers that wait, of each class that was asked for lately.
pub const WAITING_MAX: usize = 8;
/// Classes that containers wait for; the one that was asked for longest ago makes room.
const CLASSES_MAX: usize = 8;
/// A container that has waited for so long is ended unused, when one of its class is asked for.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// The containers of one driver.
pub(crate) struct Pool<D: Driver> {
    driver: Arc<D>,
    shelves: Shelves<D::Parked>,
}

/// The one that was asked for last stands last.
type Shelves<P> = Arc<Mutex<Vec<Shelf<P>>>>;

struct Shelf<P> {
    class: Class,
    waiting: VecDeque<(Instant, P)>,
    /// Somebody is at it.
    filling: bool,
}

impl<D: Driver> Pool<D> {
    /// The first containers wait for the usual class.
    pub(crate) fn new(driver: Arc<D>) -> Self {
        let pool = Self { driver, shelves: Arc::default() };
        drop(pool.pop(&Class::default()));
        pool.fill(&Class::default());
        pool
    }

    /// A container that was never used: one that waits, or a new one.
    pub(crate) async fn take(&self, class: &Class) -> Result<D::Parked, PrepareError> {
        let waiting = self.pop(class);
        self.fill(class);
        match waiting {
            Some(parked) => Ok(parked),
            None => self.driver.prepare(class).await,
        }
    }

    fn pop(&self, class: &Class) -> Option<D::Parked> {
        let mut thrown = Vec::new();
        let mut shelves = lock(&self.shelves);
        let mut shelf = match shelves.iter().position(|shelf| shelf.class == *class) {
            Some(place) => shelves.remove(place),
            None => Shelf { class: class.clone(), waiting: VecDeque::new(), filling: false },
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
        let last_used = (shelves.len() > CLASSES_MAX).then(|| shelves.remove(0));
        // Ending containers is no work to do under the lock.
        drop(shelves);
        drop((last_used, thrown));
        found
    }

    /// Lets containers be prepared until enough wait, on a task that ends with the pool.
    fn fill(&self, class: &Class) {
        let mut shelves = lock(&self.shelves);
        let shelf = shelves.iter_mut().find(|shelf| shelf.class == *class);
        let Some(shelf) = shelf.filter(|shelf| !shelf.filling) else { return };
        shelf.filling = true;
        drop(shelves);
        let (driver, shelves) = (Arc::clone(&self.driver), Arc::downgrade(&self.shelves));
        tokio::spawn(fill(driver, shelves, class.clone()));
    }
}

async fn fill<D: Driver>(
    driver: Arc<D>,
    shelves: Weak<Mutex<Vec<Shelf<D::Parked>>>>,
    class: Class,
) {
    loop {
        let prepared = driver.prepare(&class).await;
        let Some(shelves) = shelves.upgrade() else { return };
        let mut shelves = lock(&shelves);
        // If it made room for another class meanwhile, the container ends unused.
        let Some(shelf) = shelves.iter_mut().find(|shelf| shelf.class == class) else { return };
        match prepared {
            Ok(parked) => shelf.waiting.push_back((Instant::now(), parked)),
            Err(error) => {
                // The next job tries again, and says it if that fails too.
                shelf.filling = false;
                return log(&format!("no container waits: {error}"));
            }
        }
        if shelf.waiting.len() >= WAITING_MAX {
            shelf.filling = false;
            return;
        }
    }
}

/// What is behind the lock is whole after each step, also after a panic.
fn lock<P>(shelves: &Mutex<Vec<Shelf<P>>>) -> MutexGuard<'_, Vec<Shelf<P>>> {
    shelves.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use toani_protocol::job::JobOutcome;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::execution::{self, Work};

    /// Counts what it prepares; each container knows its number.
    struct Counting {
        prepared: AtomicUsize,
        fails: AtomicBool,
        ended: Arc<Semaphore>,
    }

    struct Counted {
        number: usize,
        sound: Arc<AtomicBool>,
        ended: Arc<Semaphore>,
    }

    impl Counting {
        fn new() -> Self {
            let (prepared, fails) = (AtomicUsize::new(0), AtomicBool::new(false));
            Self { prepared, fails, ended: Arc::new(Semaphore::new(0)) }
        }
    }

    impl Driver for Counting {
        type Parked = Counted;

        async fn prepare(&self, _: &Class) -> Result<Counted, PrepareError> {
            if self.fails.load(Ordering::Relaxed) {
                return Err(PrepareError("as told".into()));
            }
            let number = self.prepared.fetch_add(1, Ordering::Relaxed);
            let sound = Arc::new(AtomicBool::new(true));
            Ok(Counted { number, sound, ended: Arc::clone(&self.ended) })
        }
    }

    impl Parked for Counted {
        fn is_sound(&self) -> bool {
            self.sound.load(Ordering::Relaxed)
        }

        async fn run(self, _: Work) -> JobOutcome {
            execution::not_run()
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.ended.add_permits(1);
        }
    }

    async fn filled(pool: &Pool<Counting>, class: &Class) {
        loop {
            let waits = {
                let shelves = lock(&pool.shelves);
                let shelf = shelves.iter().find(|shelf| shelf.class == *class);
                shelf.is_some_and(|shelf| shelf.waiting.len() == WAITING_MAX && !shelf.filling)
            };
            if waits {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    fn class(memory_mib: u32) -> Class {
        Class { memory_mib, ..Class::default() }
    }

    #[tokio::test]
    async fn each_is_given_once_and_the_oldest_first() {
        let pool = Pool::new(Arc::new(Counting::new()));
        filled(&pool, &Class::default()).await;
        for expected in 0..3 * WAITING_MAX {
            let given = pool.take(&Class::default()).await.unwrap();
            assert_eq!(given.number, expected);
            filled(&pool, &Class::default()).await;
        }
        assert_eq!(pool.driver.prepared.load(Ordering::Relaxed), 4 * WAITING_MAX);
    }

    #[tokio::test]
    async fn one_that_died_while_it_waited_is_never_given() {
        let pool = Pool::new(Arc::new(Counting::new()));
        filled(&pool, &Class::default()).await;
        for (_, waiting) in lock(&pool.shelves)[0].waiting.iter().take(3) {
            waiting.sound.store(false, Ordering::Relaxed);
        }
        assert_eq!(pool.take(&Class::default()).await.unwrap().number, 3);
        // The given one and the three.
        assert_eq!(pool.driver.ended.available_permits(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_waited_too_long_is_never_given() {
        let pool = Pool::new(Arc::new(Counting::new()));
        filled(&pool, &Class::default()).await;
        tokio::time::advance(WAIT_MAX).await;
        assert_eq!(pool.take(&Class::default()).await.unwrap().number, WAITING_MAX);
        // All that waited, and the one that was given.
        assert_eq!(pool.driver.ended.available_permits(), WAITING_MAX + 1);
    }

    #[tokio::test]
    async fn classes_do_not_mix_and_make_room_for_each_other() {
        let pool = Pool::new(Arc::new(Counting::new()));
        for memory in 1..=u32::try_from(CLASSES_MAX).unwrap() {
            drop(pool.take(&class(memory)).await.unwrap());
            filled(&pool, &class(memory)).await;
        }
        let shelves = lock(&pool.shelves);
        assert_eq!(shelves.len(), CLASSES_MAX);
        assert!(shelves.iter().all(|shelf| shelf.class != Class::default()), "asked for first");
    }

    #[tokio::test]
    async fn a_driver_that_fails_is_asked_again_by_the_next_job_alone() {
        let driver = Arc::new(Counting::new());
        driver.fails.store(true, Ordering::Relaxed);
        let pool = Pool::new(Arc::clone(&driver));
        assert!(pool.take(&Class::default()).await.is_err());
        driver.fails.store(false, Ordering::Relaxed);
        assert!(pool.take(&Class::default()).await.is_ok());
        filled(&pool, &Class::default()).await;
    }

    #[tokio::test]
    async fn what_waits_ends_with_the_pool() {
        let pool = Pool::new(Arc::new(Counting::new()));
        filled(&pool, &Class::default()).await;
        let ended = Arc::clone(&pool.driver.ended);
        drop(pool);
        let all = ended.acquire_many(u32::try_from(WAITING_MAX).unwrap()).await;
        assert!(all.is_ok());
    }
}
