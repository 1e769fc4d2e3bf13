//! What follows each commit of the log: the enclave hears of it, and the lists take it in.

use std::{sync::Arc, time::Duration};

use toani_protocol::wire::{Answer, Command};

use crate::{Exit, plane::Plane};

/// Leaves that are read at once for the lists.
const BATCH_COUNT_MAX: usize = 1_024;
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Longest wait of a reader for lists that know all that is durable; then it reads older ones.
const LISTED_MS_MAX: u64 = 2_000;

impl Plane {
    /// Tells the enclave of each commit, once, and keeps the checkpoint that it signs.
    pub(crate) async fn tell_of_commits(self: Arc<Self>) {
        let mut commits = self.log().commits();
        loop {
            let size = *commits.borrow_and_update();
            if size > self.acknowledged_size() {
                let Ok(reply) = self.enclave().call(Command::Durable { size }).await else {
                    return self.fail(Exit::EnclaveLost);
                };
                self.acknowledge(size);
                if let Ok(Answer::Checkpoint { size, note }) = reply.answer {
                    self.log().put_checkpoint(size, note);
                }
            }
            if commits.changed().await.is_err() {
                return self.fail(Exit::LogFailed);
            }
        }
    }

    /// Writes the latest checkpoint to its file. One that is lost is signed again by the next boot.
    pub(crate) async fn save_checkpoint(&self) {
        let log = self.log().clone();
        let saved = tokio::task::spawn_blocking(move || log.save_checkpoint()).await;
        if !matches!(saved, Ok(Ok(()))) {
            tracing::warn!("a checkpoint could not be written");
        }
    }

    /// Takes durable records into the lists, in the order of the log.
    pub(crate) async fn list_commits(self: Arc<Self>, mut next: u64) {
        let mut commits = self.log().commits();
        loop {
            let size = *commits.borrow_and_update();
            while next < size {
                match self.list_some(next).await {
                    Some(listed) => next = listed,
                    None => return self.fail(Exit::StoreFailed),
                }
                self.listed(next);
            }
            if commits.changed().await.is_err() {
                return;
            }
        }
    }

    async fn list_some(&self, from: u64) -> Option<u64> {
        let log = self.log().clone();
        let read = move || log.read(from, BATCH_COUNT_MAX, BATCH_BYTES_MAX);
        let leaves = tokio::task::spawn_blocking(read).await.ok()?.ok()?;
        let mut last = None;
        for leaf in &leaves {
            match self.keep().store().project(leaf).await {
                Ok(ticket) => last = Some(ticket),
                Err(error) => {
                    tracing::error!(%error, "a record cannot be listed");
                    return None;
                }
            }
        }
        last?.settled().await.ok()?;
        from.checked_add(u64::try_from(leaves.len()).ok()?)
    }

    /// Waits, for a while, until the lists know all that is durable now.
    pub(crate) async fn lists_are_current(&self) {
        let size = self.log().size();
        let mut listed = self.listed_sizes();
        let current = listed.wait_for(|listed| *listed >= size);
        // Older lists are better than none.
        let _ = tokio::time::timeout(Duration::from_millis(LISTED_MS_MAX), current).await;
    }
}
