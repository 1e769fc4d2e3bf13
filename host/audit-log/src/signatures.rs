//! The signature thread: reads back what is durable, decodes it whole and verifies it.

use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use toani_audit::chain::verify_record;
use toani_protocol::sign::PublicKey;

use crate::{
    file::read_leaf,
    index::Placed,
    writer::{Failure, Shared},
};

pub(crate) struct Signatures {
    pub(crate) shared: Arc<Shared>,
    pub(crate) reader: File,
    pub(crate) origin: String,
    pub(crate) key: PublicKey,
    /// Entries below this are verified.
    pub(crate) verified: Arc<AtomicU64>,
}

impl Signatures {
    pub(crate) fn run(self) {
        // Of this thread alone, as Linux has it: executions come first. It cannot fail upwards.
        let _ = rustix::process::nice(10);
        while let Some((index, offset)) = self.next() {
            if let Err(failure) = self.verify(index, offset) {
                return self.shared.fail(failure);
            }
            self.verified.store(index + 1, Ordering::Release);
        }
    }

    /// The whole record, and that the writer's quick look at it saw what it says.
    fn verify(&self, index: u64, offset: u64) -> Result<(), Failure> {
        let leaf = read_leaf(&self.reader, offset, index)
            .map_err(|error| Failure::Read(index, error.to_string()))?;
        let record =
            verify_record(&leaf, &self.origin, &self.key).map_err(|_| Failure::Signature(index))?;
        let seen = Placed::read(leaf).is_some_and(|placed| {
            placed.follows(record.index, &record.previous)
                && placed.tenant == record.about.tenant
                && placed.index == index
        });
        if seen { Ok(()) } else { Err(Failure::Signature(index)) }
    }

    /// Waits for the next entry; `None` when the log ends and all are verified.
    fn next(&self) -> Option<(u64, u64)> {
        let index = self.verified.load(Ordering::Acquire);
        // Without the queue's lock where there is something to do: this thread may be preempted
        // while it holds one, and the writer would wait.
        if let Some(offset) = self.shared.index().offset(index) {
            return Some((index, offset));
        }
        let mut queue = self.shared.queue();
        loop {
            let offset = self.shared.index().offset(index);
            if let Some(offset) = offset {
                return Some((index, offset));
            }
            if queue.failure.is_some() {
                return None;
            }
            queue = self.shared.wait(queue);
        }
    }
}
