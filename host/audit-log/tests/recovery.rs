//! Torn, damaged and failing storage, and a writer that is killed.

#![allow(clippy::unwrap_used, reason = "a test says so by panicking")]

mod common;

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use common::{Maker, signer};
use proptest::prelude::*;
use toani_audit_log::{AuditLog, Failure, LogError, OpenError, Options, Storage, fsck};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn open(folder: &Path) -> Result<(AuditLog, toani_audit_log::Recovery), OpenError> {
    AuditLog::open(folder, Options { signer: Some(signer()) })
}

/// A closed log of commits of these sizes.
fn make(folder: &Path, commits: &[u64]) -> Vec<Vec<u8>> {
    let (log, _) = open(folder).unwrap();
    let (mut maker, mut all) = (Maker::new(), Vec::new());
    runtime().block_on(async {
        for count in commits {
            let leaves = maker.leaves(*count);
            all.extend(leaves.iter().map(|(_, leaf)| leaf.clone()));
            log.append_all(leaves).await.unwrap();
            log.durable(maker.links.size()).await.unwrap();
        }
    });
    all
}

/// The log goes on where it is.
fn goes_on(folder: &Path) {
    let (log, _) = open(folder).unwrap();
    let leaves: Vec<Vec<u8>> = log.leaves(0).map(Result::unwrap).collect();
    let mut maker = Maker::after(&leaves);
    runtime().block_on(async {
        log.append_all(maker.leaves(3)).await.unwrap();
        log.durable(maker.links.size()).await.unwrap();
    });
    drop(log);
    let report = fsck(folder).unwrap();
    assert!(report.is_clean());
    assert_eq!(report.root, maker.links.frontier().root());
}

#[test]
fn a_torn_end_that_nobody_relied_on_is_cut_and_told() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path(), &[3, 2]);
    let path = folder.path().join("records.log");
    let whole = fs::read(&path).unwrap();
    let mark = fs::read(folder.path().join("durable")).unwrap();
    // What the next commit would write, torn at every byte.
    let scratch = tempfile::tempdir().unwrap();
    let more = make(scratch.path(), &[3, 2, 1]);
    let longer = fs::read(scratch.path().join("records.log")).unwrap();
    assert!(longer.starts_with(&whole));
    for end in whole.len()..longer.len() {
        fs::write(&path, &longer[..end]).unwrap();
        fs::write(folder.path().join("durable"), &mark).unwrap();
        let (log, recovery) = open(folder.path()).unwrap();
        assert_eq!(recovery.size, 5);
        assert_eq!(recovery.cut_bytes, (end - whole.len()) as u64);
        drop(log);
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
    assert_eq!(more.len(), 6);
    goes_on(folder.path());
}

#[test]
fn damage_to_what_was_durable_is_an_error_and_nothing_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path(), &[2, 2]);
    let path = folder.path().join("records.log");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&path, &damaged).unwrap();
        let error = open(folder.path()).unwrap_err();
        if at < 16 {
            assert!(matches!(error, OpenError::NotALog(_)), "{at}");
        } else {
            assert!(matches!(error, OpenError::Damaged { .. }), "{at}: {error}");
            assert!(error.to_string().contains("restore"));
        }
        assert_eq!(fs::read(&path).unwrap(), damaged);
    }
    for end in 16..whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{end}: {error}");
    }
    fs::write(&path, &whole).unwrap();
    goes_on(folder.path());
}

/// Without the file that notes what was durable, each entry still says it of those before it.
#[test]
fn entries_vouch_for_the_ones_before_them() {
    let folder = tempfile::tempdir().unwrap();
    let leaves = make(folder.path(), &[2, 2]);
    let path = folder.path().join("records.log");
    let whole = fs::read(&path).unwrap();
    fs::remove_file(folder.path().join("durable")).unwrap();
    let second = 16 + 28 + leaves[0].len();
    let mut damaged = whole.clone();
    damaged[second + 40] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let error = open(folder.path()).unwrap_err();
    let OpenError::Damaged { index, durable, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((index, durable), (1, 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens to the file, opening ends in an answer, and what it accepts is a log.
    #[test]
    fn any_damage_ends_in_an_answer(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(), noted in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let leaves = make(folder.path(), &[3]);
        let path = folder.path().join("records.log");
        let mut bytes = fs::read(&path).unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() * 2));
        fs::write(&path, &bytes).unwrap();
        if !noted {
            fs::write(folder.path().join("durable"), [1, 2, 3]).unwrap();
        }
        if let Ok((log, recovery)) = open(folder.path()) {
            let read: Vec<Vec<u8>> = log.leaves(0).map(Result::unwrap).collect();
            prop_assert!(leaves.starts_with(&read));
            prop_assert_eq!(recovery.size, read.len() as u64);
            prop_assert!(!noted || read.len() == leaves.len());
            drop(log);
            prop_assert_eq!(fsck(folder.path()).unwrap().bad_bytes, 0);
        }
    }
}

/// Passes a number of calls on and fails the next one, after a part of it.
struct Faulty {
    inner: Box<dyn Storage>,
    appends: u32,
    syncs: u32,
}

fn count_down(left: &mut u32) -> io::Result<()> {
    *left = left.checked_sub(1).ok_or_else(|| io::Error::other("injected"))?;
    Ok(())
}

impl Storage for Faulty {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = count_down(&mut self.appends) {
            self.inner.append(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.inner.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        count_down(&mut self.syncs)?;
        self.inner.sync()
    }

    fn mark(&mut self, size: u64) {
        self.inner.mark(size);
    }
}

fn faulty(folder: &Path, appends: u32, syncs: u32) -> AuditLog {
    let wrap = |inner| Faulty { inner, appends, syncs };
    AuditLog::open_with(folder, Options::default(), wrap).unwrap().0
}

#[test]
fn after_a_failed_write_or_sync_everything_fails_and_nothing_is_lost() {
    for (appends, syncs, expected) in [
        (2, u32::MAX, Failure::Write("injected".into())),
        (u32::MAX, 2, Failure::Sync("injected".into())),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let log = faulty(folder.path(), appends, syncs);
        let mut maker = Maker::new();
        let failed = Err(LogError::Failed(expected));
        runtime().block_on(async {
            for size in [1, 2] {
                log.append_all(maker.leaves(1)).await.unwrap();
                log.durable(size).await.unwrap();
            }
            // One that is pending without a predecessor, and one that the disk refuses.
            let leaves = maker.leaves(4);
            log.append(leaves[3].0, leaves[3].1.clone()).await.unwrap();
            log.append(leaves[0].0, leaves[0].1.clone()).await.unwrap();
            assert_eq!(log.durable(3).await, failed);
            assert_eq!(log.durable(6).await, failed);
            let (index, leaf) = leaves[1].clone();
            assert_eq!(log.append(index, leaf).await, failed);
            assert_eq!(log.durable(2).await, Ok(()));
        });
        assert_eq!(log.size(), 2);
        assert_eq!(log.leaves(0).map(Result::unwrap).count(), 2);
        drop(log);
        let (log, recovery) = open(folder.path()).unwrap();
        assert!(recovery.size >= 2);
        drop(log);
        goes_on(folder.path());
    }
}

/// The same with a real refusal of the kernel, in a child whose files may not grow.
#[test]
fn a_full_disk_fails_the_log_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let output = Command::new("bash")
        .arg("-c")
        .arg("trap '' XFSZ; ulimit -f 64; exec \"$0\" child_appends --exact --ignored --nocapture")
        .arg(program)
        .env("TOANI_TEST_FOLDER", folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let acknowledged = last_number(text.lines());
    assert!(acknowledged > 0 && text.contains("the disk refused to write"), "{text}");
    let (log, recovery) = open(folder.path()).unwrap();
    assert!(recovery.size >= acknowledged);
    drop(log);
    goes_on(folder.path());
}

fn last_number<'a>(lines: impl Iterator<Item = &'a str>) -> u64 {
    let numbers = lines.filter_map(|line| line.strip_prefix("durable ")?.parse().ok());
    numbers.last().unwrap_or(0)
}

/// Not a test of its own: appends until it is stopped, and says what is durable.
#[test]
#[ignore = "the child of the tests that kill it"]
fn child_appends() {
    let Ok(folder) = std::env::var("TOANI_TEST_FOLDER") else {
        return;
    };
    let (log, _) = open(Path::new(&folder)).unwrap();
    let leaves: Vec<Vec<u8>> = log.leaves(0).map(Result::unwrap).collect();
    let mut maker = Maker::after(&leaves);
    println!();
    runtime().block_on(async {
        for count in (1..=40).cycle() {
            let result = async {
                log.append_all(maker.leaves(count)).await?;
                log.durable(maker.links.size()).await
            };
            match result.await {
                Ok(()) => println!("durable {}", maker.links.size()),
                Err(error) => return println!("{error}"),
            }
            io::stdout().flush().unwrap();
        }
    });
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..12u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child_appends", "--exact", "--ignored", "--nocapture"])
            .env("TOANI_TEST_FOLDER", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = Vec::new();
        while said.len() < 3 + (round as usize * 7) % 23 {
            said.push(lines.next().unwrap().unwrap());
        }
        // Somewhere in the middle of whatever it does next.
        for _ in 0..round * 20_000 {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        said.extend(lines.map_while(Result::ok));
        acknowledged = last_number(said.iter().map(String::as_str)).max(acknowledged);
        let report = fsck(folder.path()).unwrap();
        assert!(report.entries >= acknowledged, "{report:?} {acknowledged}");
        goes_on(folder.path());
        acknowledged = acknowledged.max(fsck(folder.path()).unwrap().entries);
    }
    assert!(acknowledged > 0);
}
