use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use toani_protocol::{ids::Hash, instance::RootFileSystems, job::JobOutcome, policy::RootName};

use super::*;
use crate::execution::{self, Work};

/// Counts what it prepares; each container knows its number.
struct Counting {
    prepared: AtomicUsize,
    fails: AtomicBool,
    /// One is prepared for each of these.
    allowed: Semaphore,
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
        let allowed = Semaphore::new(Semaphore::MAX_PERMITS);
        Self { prepared, fails, allowed, ended: Arc::new(Semaphore::new(0)) }
    }
}

impl Driver for Counting {
    type Parked = Counted;

    fn root_file_systems(&self) -> RootFileSystems {
        RootFileSystems { connector: Hash::of(b"any"), browser: None }
    }

    async fn prepare(&self, _: Kind) -> Result<Counted, PrepareError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(PrepareError("as told".into()));
        }
        self.allowed.acquire().await.unwrap().forget();
        let number = self.prepared.fetch_add(1, Ordering::Relaxed);
        let sound = Arc::new(AtomicBool::new(true));
        Ok(Counted { number, sound, ended: Arc::clone(&self.ended) })
    }
}

impl Parked for Counted {
    fn is_sound(&self) -> bool {
        self.sound.load(Ordering::Relaxed)
    }

    async fn run(self, _: Work) -> (JobOutcome, Used) {
        (execution::not_run(), Used::new(self))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.ended.add_permits(1);
    }
}

async fn filled(pool: &Pool<Counting>, kind: Kind) {
    loop {
        let waits = {
            let shelves = lock(&pool.shelves);
            let shelf = shelves.iter().find(|shelf| shelf.kind == kind);
            shelf.is_some_and(|shelf| shelf.waiting.len() == WAITING_MAX && !shelf.filling)
        };
        if waits {
            return;
        }
        tokio::task::yield_now().await;
    }
}

fn of(memory_mib: u32) -> Kind {
    let mut kind = Kind::default();
    kind.size.memory_mib = memory_mib;
    kind
}

#[tokio::test]
async fn each_is_given_once_and_the_oldest_first() {
    let pool = Pool::new(Arc::new(Counting::new()));
    filled(&pool, Kind::default()).await;
    for expected in 0..3 * WAITING_MAX {
        let given = pool.take(Kind::default()).await.unwrap();
        assert_eq!(given.number, expected);
        pool.fill(Kind::default());
        filled(&pool, Kind::default()).await;
    }
    assert_eq!(pool.driver.prepared.load(Ordering::Relaxed), 4 * WAITING_MAX);
}

#[tokio::test]
async fn more_come_at_once_when_few_wait_and_else_when_they_are_asked_for() {
    let pool = Pool::new(Arc::new(Counting::new()));
    filled(&pool, Kind::default()).await;
    let prepared = || pool.driver.prepared.load(Ordering::Relaxed);
    for _ in LOW..WAITING_MAX {
        drop(pool.take(Kind::default()).await.unwrap());
        tokio::task::yield_now().await;
    }
    assert_eq!((pool.waiting(Kind::default()), prepared()), (LOW, WAITING_MAX));
    drop(pool.take(Kind::default()).await.unwrap());
    filled(&pool, Kind::default()).await;
    drop(pool.take(Kind::default()).await.unwrap());
    pool.fill(Kind::default());
    filled(&pool, Kind::default()).await;
    // Enough is enough.
    let before = prepared();
    pool.fill(Kind::default());
    tokio::task::yield_now().await;
    filled(&pool, Kind::default()).await;
    assert_eq!(prepared(), before);
}

/// As a supervisor does with one that had its job.
fn used(pool: &Arc<Pool<Counting>>, container: Counted) {
    pool.clear_away(Kind::default(), Used::new(container));
}

#[tokio::test(start_paused = true)]
async fn an_answer_has_the_processors_until_it_is_given() {
    let pool = Arc::new(Pool::new(Arc::new(Counting::new())));
    filled(&pool, Kind::default()).await;
    let prepared = || pool.driver.prepared.load(Ordering::Relaxed);
    let began = Instant::now();
    used(&pool, pool.take(Kind::default()).await.unwrap());
    tokio::time::sleep(ANSWERING - Duration::from_millis(1)).await;
    assert_eq!((pool.driver.ended.available_permits(), prepared()), (0, WAITING_MAX));
    drop(pool.driver.ended.acquire().await.unwrap());
    filled(&pool, Kind::default()).await;
    assert_eq!((began.elapsed(), prepared()), (ANSWERING, WAITING_MAX + 1));
}

#[tokio::test(start_paused = true)]
async fn used_containers_that_are_many_end_at_once() {
    let pool = Arc::new(Pool::new(Arc::new(Counting::new())));
    let ended = || pool.driver.ended.available_permits();
    for _ in 0..USED_MAX {
        used(&pool, pool.driver.prepare(Kind::default()).await.unwrap());
    }
    assert_eq!(ended(), 0);
    used(&pool, pool.driver.prepare(Kind::default()).await.unwrap());
    assert_eq!(ended(), 1);
    let began = Instant::now();
    let all = u32::try_from(1 + USED_MAX).unwrap();
    drop(pool.driver.ended.acquire_many(all).await.unwrap());
    assert_eq!(began.elapsed(), ANSWERING);
}

#[tokio::test]
async fn one_that_died_while_it_waited_is_never_given() {
    let pool = Pool::new(Arc::new(Counting::new()));
    filled(&pool, Kind::default()).await;
    for (_, waiting) in lock(&pool.shelves)[0].waiting.iter().take(3) {
        waiting.sound.store(false, Ordering::Relaxed);
    }
    assert_eq!(pool.take(Kind::default()).await.unwrap().number, 3);
    // The given one and the three.
    assert_eq!(pool.driver.ended.available_permits(), 4);
}

#[tokio::test(start_paused = true)]
async fn one_that_waited_too_long_is_never_given() {
    let pool = Pool::new(Arc::new(Counting::new()));
    filled(&pool, Kind::default()).await;
    tokio::time::advance(WAIT_MAX).await;
    assert_eq!(pool.take(Kind::default()).await.unwrap().number, WAITING_MAX);
    // All that waited, and the one that was given.
    assert_eq!(pool.driver.ended.available_permits(), WAITING_MAX + 1);
}

#[tokio::test]
async fn kinds_do_not_mix_and_make_room_for_each_other() {
    let pool = Pool::new(Arc::new(Counting::new()));
    for memory in 1..=u32::try_from(KINDS_MAX).unwrap() {
        drop(pool.take(of(memory)).await.unwrap());
        filled(&pool, of(memory)).await;
    }
    // Of the same size, and yet another.
    let browser = Kind { root_file_system: RootName::Browser, ..of(1) };
    assert_eq!(pool.waiting(browser), 0);
    let shelves = lock(&pool.shelves);
    assert_eq!(shelves.len(), KINDS_MAX);
    assert!(shelves.iter().all(|shelf| shelf.kind != Kind::default()), "asked for first");
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_fails_says_so_and_is_asked_until_it_does_not() {
    let driver = Arc::new(Counting::new());
    driver.fails.store(true, Ordering::Relaxed);
    let pool = Pool::new(Arc::clone(&driver));
    let mut late = pool.late();
    late.wait_for(|late| *late == 1).await.unwrap();
    assert!(pool.take(Kind::default()).await.is_err());
    driver.fails.store(false, Ordering::Relaxed);
    late.wait_for(|late| *late == 0).await.unwrap();
    filled(&pool, Kind::default()).await;
    assert!(pool.take(Kind::default()).await.is_ok());

    // One of a kind that does not work fails alone.
    driver.fails.store(true, Ordering::Relaxed);
    assert!(pool.take(of(1)).await.is_err());
    tokio::time::sleep(2 * RETRY).await;
    assert_eq!(*late.borrow(), 0);
    driver.fails.store(false, Ordering::Relaxed);
    assert!(pool.take(of(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_too_long_says_so_and_then_is_not_run() {
    let driver = Counting::new();
    driver.allowed.forget_permits(Semaphore::MAX_PERMITS);
    let pool = Arc::new(Pool::new(Arc::new(driver)));
    let mut late = pool.late();
    let take = |pool: &Arc<Pool<Counting>>| {
        let pool = Arc::clone(pool);
        tokio::spawn(async move { pool.take(Kind::default()).await.map(drop) })
    };
    let began = Instant::now();
    let (first, second) = (take(&pool), take(&pool));
    late.wait_for(|late| *late == 2).await.unwrap();
    assert_eq!(began.elapsed(), EMPTY_MAX);
    pool.driver.allowed.add_permits(1);
    late.wait_for(|late| *late == 1).await.unwrap();
    assert!(began.elapsed() < TAKE_MAX);
    let ends = [first.await.unwrap(), second.await.unwrap()];
    assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 1);
    assert_eq!(began.elapsed(), TAKE_MAX);
    assert_eq!(*late.borrow(), 0);
}

#[tokio::test]
async fn what_waits_ends_with_the_pool() {
    let pool = Pool::new(Arc::new(Counting::new()));
    filled(&pool, Kind::default()).await;
    let ended = Arc::clone(&pool.driver.ended);
    drop(pool);
    let all = ended.acquire_many(u32::try_from(WAITING_MAX).unwrap()).await;
    assert!(all.is_ok());
}
