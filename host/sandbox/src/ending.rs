//! The end of containers: whoever held one has killed it, and what it leaves is cleared away on
//! threads of their own, several at a time.

use std::{
    fmt::Display,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use crate::supervisor::log;

/// Containers that are cleared away at the same time. Most of an end is waiting.
const AT_ONCE: usize = 8;
/// What a supervisor gives its containers to end: together with its tasks' end below the five seconds
/// that its gateway waits for it.
pub const END: Duration = Duration::from_millis(3_500);
/// Containers that wait to be cleared away.
const DYING_MAX: usize = 256;

/// What is left of a container. Its drop clears it away, and takes a bounded time.
struct Dying {
    name: String,
    remains: Box<dyn Send>,
}

/// Names of what is not cleared away yet.
type Names = Arc<Mutex<Vec<String>>>;

/// Takes containers that are to end.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    dying: mpsc::SyncSender<Dying>,
    names: Names,
}

/// Waits until all containers have ended and nothing of them is left. All that could start one has
/// to be gone before.
#[derive(Debug)]
pub struct Ended {
    /// Nothing comes on it: it is closed with the last of the threads.
    threads: mpsc::Receiver<()>,
    names: Names,
}

impl Ending {
    pub(crate) fn start() -> io::Result<(Self, Ended)> {
        let (dying, ends) = mpsc::sync_channel::<Dying>(DYING_MAX);
        let (living, threads) = mpsc::channel();
        let ends = Arc::new(Mutex::new(ends));
        let names = Names::default();
        for _ in 0..AT_ONCE {
            let (ends, names, living) = (Arc::clone(&ends), Arc::clone(&names), living.clone());
            thread::Builder::new().name("ending".into()).spawn(move || {
                let _living: mpsc::Sender<()> = living;
                clear(&ends, &names);
            })?;
        }
        Ok((Self { dying, names: Arc::clone(&names) }, Ended { threads, names }))
    }

    /// Returns at once, unless many more end than can be cleared away meanwhile. `name` is what a
    /// person finds of it, should it not be cleared away.
    pub(crate) fn end(&self, name: &impl Display, remains: impl Send + 'static) {
        let name = name.to_string();
        lock(&self.names).push(name.clone());
        if let Err(mpsc::SendError(dying)) =
            self.dying.send(Dying { name, remains: Box::new(remains) })
        {
            drop(dying);
        }
    }
}

fn clear(ends: &Mutex<mpsc::Receiver<Dying>>, names: &Names) {
    loop {
        // One thread waits for the next container, and the others for their turn to.
        let next = lock(ends).recv();
        let Ok(Dying { name, remains }) = next else { return };
        drop(remains);
        lock(names).retain(|one| *one != name);
    }
}

impl Ended {
    /// Says whether all is cleared away. What is not in time is named on the log, and left to the
    /// next supervisor.
    pub fn wait(self, limit: Duration) -> bool {
        let closed = Err(mpsc::RecvTimeoutError::Disconnected);
        if self.threads.recv_timeout(limit) == closed {
            return true;
        }
        for name in lock(&self.names).iter() {
            log(&format!("{name} has not ended in time; the next start clears it away"));
        }
        false
    }
}

/// What is behind a lock here is whole after each step, also after a panic.
fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any machine takes, where it is not to pass.
    const LONG: Duration = Duration::from_secs(60);
    /// With fewer at a time these would wait for each other for ever.
    const MEETING: usize = 4;

    /// Ends when as many others end at the same time.
    struct Meets(mpsc::Sender<()>, Arc<std::sync::Barrier>);

    impl Drop for Meets {
        fn drop(&mut self) {
            self.1.wait();
            let _ = self.0.send(());
        }
    }

    #[test]
    fn fifty_end_and_several_of_them_at_the_same_time() {
        let (ending, ended) = Ending::start().unwrap();
        let meeting = Arc::new(std::sync::Barrier::new(MEETING));
        let (met, meetings) = mpsc::channel();
        let others = 50 - MEETING;
        let (gone, goings) = mpsc::channel::<()>();
        for number in 0..MEETING {
            ending.end(&number, Meets(met.clone(), Arc::clone(&meeting)));
        }
        for number in 0..others {
            // A sender's drop is all that is left of these.
            ending.end(&(number + MEETING), gone.clone());
        }
        drop((ending, met, gone));
        assert!(ended.wait(LONG), "one end has waited for another");
        assert_eq!(meetings.iter().count(), MEETING);
        assert_eq!(goings.recv(), Err(mpsc::RecvError));
    }

    #[test]
    fn one_that_does_not_end_keeps_nobody_waiting() {
        struct Stays(mpsc::Receiver<()>);
        impl Drop for Stays {
            fn drop(&mut self) {
                let _ = self.0.recv();
            }
        }
        let (ending, ended) = Ending::start().unwrap();
        let (let_go, stays) = mpsc::channel();
        let (gone, goings) = mpsc::channel::<()>();
        ending.end(&"one that stays", Stays(stays));
        ending.end(&"another", gone);
        let closed = Err(mpsc::RecvTimeoutError::Disconnected);
        assert_eq!(goings.recv_timeout(LONG), closed, "another one is cleared away");
        let names = Arc::clone(&ended.names);
        drop(ending);
        assert!(!ended.wait(Duration::from_millis(1)));
        assert!(lock(&names).contains(&"one that stays".to_owned()), "and it is named");
        drop(let_go);
    }
}
