//! The end of containers: their runtimes are killed at once, and what they leave is cleared away
//! on a thread of its own.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use tokio::process::Child;

use super::workspace::Workspace;
use crate::cgroup::Group;

/// A container's folder.
#[derive(Debug)]
pub(super) struct Remains {
    pub(super) folder: PathBuf,
    /// The folder's own folder stays for as long as this.
    pub(super) _workspace: Arc<Workspace>,
}

impl Remains {
    /// What the runtime has written, at most so many bytes of its end.
    pub(super) fn words(&self, max: usize) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let log = log.trim();
        let from = log.len().saturating_sub(max);
        log.get(from..).unwrap_or(log).to_owned()
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            crate::supervisor::log(&format!("{} stays behind: {error}", self.folder.display()));
        }
    }
}

/// Containers that wait to be cleared away.
const DYING_MAX: usize = 256;

/// In this order: killed with all that it has started, then its folder.
type Dying = (Option<Child>, Group, Remains);

/// Takes containers that are to end.
#[derive(Debug, Clone)]
pub(super) struct Ending(mpsc::SyncSender<Dying>);

/// Waits until all containers have ended and nothing of them is left. All that could start one has
/// to be gone before.
#[derive(Debug)]
pub struct Ended(JoinHandle<()>);

impl Ending {
    pub(super) fn start() -> io::Result<(Self, Ended)> {
        let (ending, dying) = mpsc::sync_channel::<Dying>(DYING_MAX);
        let thread = std::thread::Builder::new().name("ending".into()).spawn(move || {
            for (process, group, remains) in dying {
                drop(group);
                drop(process);
                drop(remains);
            }
        })?;
        Ok((Self(ending), Ended(thread)))
    }

    /// Returns at once, unless many more end than can be cleared away meanwhile.
    pub(super) fn end(&self, mut process: Option<Child>, group: Group, remains: Remains) {
        if let Some(process) = &mut process {
            // Its sandbox has asked to be killed with it. That it has ended already is as good.
            let _ = process.start_kill();
        }
        if let Err(mpsc::SendError(dying)) = self.0.send((process, group, remains)) {
            drop(dying);
        }
    }
}

impl Ended {
    pub fn wait(self) {
        // A thread that panicked has nothing left to wait for.
        let _ = self.0.join();
    }
}
