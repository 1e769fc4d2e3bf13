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
        while let Some((index, offset)) = self.next() {
            let failure = match read_leaf(&self.reader, offset, index) {
                Ok(leaf) => verify_record(&leaf, &self.origin, &self.key)
                    .err()
                    .map(|_| Failure::Signature(index)),
                Err(error) => Some(Failure::Read(index, error.to_string())),
            };
            if let Some(failure) = failure {
                return self.shared.fail(failure);
            }
            self.verified.store(index + 1, Ordering::Release);
        }
    }

    /// Waits for the next entry; `None` when the log ends and all are verified.
    fn next(&self) -> Option<(u64, u64)> {
        let index = self.verified.load(Ordering::Acquire);
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
