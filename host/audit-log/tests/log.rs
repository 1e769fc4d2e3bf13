//! The log as its users see it: order, durability, reading, proofs.

#![allow(clippy::unwrap_used, reason = "a test says so by panicking")]

mod common;

use std::{
    io,
    sync::{Arc, mpsc},
    time::Duration,
};

use common::{Maker, ORIGIN, key, signer, tenant};
use proptest::prelude::*;
use toani_audit::checkpoint;
use toani_audit_log::{AuditLog, Failure, LogError, OpenError, Options, Storage, WINDOW, fsck};
use toani_protocol::record::Record;
use toani_verify::merkle;

fn options() -> Options {
    Options { signer: Some(signer()) }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[tokio::test]
async fn records_come_back_after_a_restart_with_proofs() {
    let folder = tempfile::tempdir().unwrap();
    let mut maker = Maker::new();
    let leaves = maker.leaves(100);
    let (log, recovery) = AuditLog::open(folder.path(), options()).unwrap();
    assert_eq!((recovery.size, recovery.cut_bytes), (0, 0));
    for (index, leaf) in &leaves[..50] {
        log.append(*index, leaf.clone()).await.unwrap();
    }
    log.append_all(leaves[50..].to_vec()).await.unwrap();
    log.durable(100).await.unwrap();
    assert_eq!(log.size(), 100);
    let root = maker.links.frontier().root();
    log.put_checkpoint(100, checkpoint::sign(ORIGIN, 100, &root, &key()));
    log.put_checkpoint(99, "older".into());
    drop(log);

    let report = fsck(folder.path()).unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.entries, report.root), (100, root));

    let (log, recovery) = AuditLog::open(folder.path(), options()).unwrap();
    assert_eq!((recovery.size, recovery.cut_bytes), (100, 0));
    let read: Vec<Vec<u8>> = log.leaves(0).map(Result::unwrap).collect();
    assert!(read.iter().eq(leaves.iter().map(|(_, leaf)| leaf)));
    assert_eq!(log.read(10, 5, usize::MAX).unwrap().len(), 5);
    assert_eq!(log.read(10, 5, 1).unwrap().len(), 1);
    assert_eq!(log.read(100, 5, 1).unwrap().len(), 0);
    assert_eq!(log.root(100).unwrap(), root);
    assert!(log.checkpoint().unwrap().starts_with(ORIGIN));
    assert_eq!(log.tenant_size(&tenant(1)), 50);
    assert_eq!(log.tenant_indices(&tenant(1), 48, 10), [97, 99]);
    assert_eq!(log.tenant_indices(&tenant(9), 0, 10), [0u64; 0]);

    let hash = Record::hash_of(&read[42]);
    let proof = log.inclusion_proof(42, 100).unwrap();
    assert!(merkle::verify_inclusion(&hash, 42, 100, &proof, &root).is_ok());
    let proof = log.consistency_proof(37, 100).unwrap();
    let old = log.root(37).unwrap();
    assert!(merkle::verify_consistency(37, 100, &proof, &old, &root).is_ok());
    assert!(log.inclusion_proof(0, 101).is_err());
}

#[tokio::test]
async fn one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = AuditLog::open(folder.path(), options()).unwrap();
    let second = AuditLog::open(folder.path(), options());
    assert!(matches!(second, Err(OpenError::InUse(_))));
    drop(log);
    assert!(AuditLog::open(folder.path(), options()).is_ok());
}

#[tokio::test]
async fn nothing_but_the_next_records_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let leaves = Maker::new().leaves(3);
    let (log, _) = AuditLog::open(folder.path(), options()).unwrap();
    let refused = log.append(0, b"{}".to_vec()).await;
    assert_eq!(refused, Err(LogError::NotARecord(0)));
    let refused = log.append(1, leaves[0].1.clone()).await;
    assert_eq!(refused, Err(LogError::NotARecord(1)));
    let large = [leaves[0].1.clone(), vec![b' '; 65_535]].concat();
    assert_eq!(log.append(0, large).await, Err(LogError::NotARecord(0)));
    log.append(1, leaves[1].1.clone()).await.unwrap();
    let again = log.append(1, leaves[1].1.clone()).await;
    assert_eq!(again, Err(LogError::Taken(1)));
    log.append(0, leaves[0].1.clone()).await.unwrap();
    log.durable(2).await.unwrap();
    let again = log.append(0, leaves[0].1.clone()).await;
    assert_eq!(again, Err(LogError::Taken(0)));
}

#[tokio::test]
async fn a_record_that_does_not_follow_fails_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let leaves = Maker::new().leaves(2);
    let mut other = Maker::new();
    other.links = Maker::after(&[leaves[0].1.clone(), leaves[1].1.clone()]).links;
    let (log, _) = AuditLog::open(folder.path(), options()).unwrap();
    log.append(0, leaves[0].1.clone()).await.unwrap();
    let mut record = Record::decode(&leaves[1].1).unwrap();
    record.previous = toani_protocol::Hash::ZERO;
    let wrong = toani_protocol::canonical::encode(&record).unwrap();
    log.append(1, wrong).await.unwrap();
    let failed = Err(LogError::Failed(Failure::Chain(1)));
    assert_eq!(log.durable(2).await, failed);
    assert_eq!(log.append(1, leaves[1].1.clone()).await, failed);
    assert_eq!(log.durable(1).await, Ok(()));
    drop(log);
    assert_eq!(fsck(folder.path()).unwrap().entries, 1);
}

#[tokio::test]
async fn a_record_with_a_bad_signature_fails_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let leaves = Maker::new().leaves(2);
    let (log, _) = AuditLog::open(folder.path(), options()).unwrap();
    let mut record = Record::decode(&leaves[0].1).unwrap();
    record.time = record.time.plus_ms(1);
    let wrong = toani_protocol::canonical::encode(&record).unwrap();
    log.append(0, wrong).await.unwrap();
    let mut commits = log.commits();
    while commits.changed().await.is_ok() {}
    assert_eq!(log.failure(), Some(Failure::Signature(0)));
    assert_eq!(log.signatures_verified(), 0);
}

#[tokio::test]
async fn what_lies_beyond_the_window_waits() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = AuditLog::open(folder.path(), Options::default()).unwrap();
    let mut maker = Maker::new();
    let mut leaves = maker.leaves(WINDOW + 1);
    let (index, beyond) = leaves.pop().unwrap();
    let waiting = log.append(index, beyond.clone());
    let waited = tokio::time::timeout(Duration::from_millis(50), waiting).await;
    assert!(waited.is_err());
    let first = leaves.remove(0);
    log.append_all(leaves).await.unwrap();
    assert_eq!(log.size(), 0);
    log.append(first.0, first.1).await.unwrap();
    log.append(index, beyond).await.unwrap();
    log.durable(WINDOW + 1).await.unwrap();
}

#[test]
fn signatures_are_verified_behind_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let leaves = Maker::new().leaves(200);
    let (log, _) = AuditLog::open(folder.path(), options()).unwrap();
    runtime().block_on(async {
        log.append_all(leaves).await.unwrap();
        log.durable(200).await.unwrap();
    });
    let verified = log.clone();
    // Closing waits for the signatures; look once more through a handle of the same counter.
    while verified.signatures_verified() < 200 {
        assert_eq!(verified.failure(), None);
        std::thread::yield_now();
    }
}

/// Counts the writer's system calls, and waits before each sync until it is let on.
struct Gated {
    inner: Box<dyn Storage>,
    calls: mpsc::Sender<&'static str>,
    gate: mpsc::Receiver<()>,
}

impl Storage for Gated {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.calls.send("append").unwrap();
        self.inner.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.calls.send("sync").unwrap();
        self.gate.recv().unwrap();
        self.inner.sync()
    }

    fn mark(&mut self, size: u64) {
        self.inner.mark(size);
    }
}

#[tokio::test]
async fn whatever_comes_during_a_sync_shares_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let (calls, seen) = mpsc::channel();
    let (open, gate) = mpsc::channel();
    let wrap = |inner| Gated { inner, calls, gate };
    let (log, _) = AuditLog::open_with(folder.path(), options(), wrap).unwrap();
    let mut commits = log.commits();
    let leaves = Maker::new().leaves(100);
    log.append(0, leaves[0].1.clone()).await.unwrap();
    assert_eq!((seen.recv(), seen.recv()), (Ok("append"), Ok("sync")));
    for (index, leaf) in &leaves[1..] {
        log.append(*index, leaf.clone()).await.unwrap();
    }
    assert_eq!(log.size(), 0);
    open.send(()).unwrap();
    commits.changed().await.unwrap();
    assert_eq!(*commits.borrow_and_update(), 1);
    open.send(()).unwrap();
    commits.changed().await.unwrap();
    assert_eq!(*commits.borrow_and_update(), 100);
    drop(log);
    assert_eq!(seen.iter().collect::<Vec<_>>(), ["append", "sync"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any order of concurrent appends gives the same file.
    #[test]
    fn order_of_arrival_does_not_matter(
        order in Just((0..60usize).collect::<Vec<_>>()).prop_shuffle(), tasks in 1usize..8,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut maker = Maker::new();
        let leaves = Arc::new(maker.leaves(60));
        let (log, _) = AuditLog::open(folder.path(), options()).unwrap();
        runtime().block_on(async {
            let mut running = Vec::new();
            for part in order.chunks(order.len().div_ceil(tasks)) {
                let (log, leaves, part) = (log.clone(), leaves.clone(), part.to_vec());
                running.push(tokio::spawn(async move {
                    for at in part {
                        let (index, leaf) = leaves[at].clone();
                        log.append(index, leaf).await.unwrap();
                    }
                }));
            }
            for task in running {
                task.await.unwrap();
            }
            log.durable(60).await.unwrap();
        });
        drop(log);
        let report = fsck(folder.path()).unwrap();
        prop_assert!(report.is_clean());
        prop_assert_eq!((report.entries, report.root), (60, maker.links.frontier().root()));
    }
}
