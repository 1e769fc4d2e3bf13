//! Blobs, salts, lists: over real files, reopened, killed, damaged.

#![allow(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use proptest::prelude::*;
use toani_protocol::{
    ActionId, ActionName, AgentId, BootId, CredentialId, ExecutionId, Hash, PolicyId, Reason,
    ServiceId, TenantId, Time, canonical,
    record::{About, CredentialRef, Outcome, PolicyRef, Record, RecordKind},
    sign::{PublicKey, Signature},
};
use toani_store::{
    ActionState, CredentialState, DataFolder, ExecutionState, PolicyState, Store, StoreError,
};

fn open(path: &Path) -> (DataFolder, Store) {
    let folder = DataFolder::open(path).unwrap();
    let store = Store::open(&folder).unwrap();
    (folder, store)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn at(ms: u64) -> Time {
    Time::from_ms(ms)
}

fn tenant(seed: u8) -> TenantId {
    TenantId::of_first_key(&PublicKey::new([seed; 32]))
}

#[tokio::test]
async fn blobs_come_back_at_once_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (held, store) = open(folder.path());
    let durable = store.put_blob_durable(b"policy".to_vec(), None).await.unwrap();
    assert_eq!(durable, Hash::of(b"policy"));
    let (hash, ticket) = store.put_blob(b"params".to_vec(), Some(at(10))).await.unwrap();
    assert_eq!(store.blob(&hash).unwrap().as_deref(), Some(&b"params"[..]));
    ticket.settled().await.unwrap();
    assert_eq!(store.blob(&hash).unwrap().as_deref(), Some(&b"params"[..]));
    // Not waited for: the store writes what is queued before it closes.
    let (last, _) = store.put_blob(b"last".to_vec(), None).await.unwrap();
    drop(held);
    assert!(DataFolder::open(folder.path()).is_err());
    drop(store);
    let (_held, store) = open(folder.path());
    for (hash, bytes) in [(durable, "policy"), (hash, "params"), (last, "last")] {
        assert_eq!(store.blob(&hash).unwrap().as_deref(), Some(bytes.as_bytes()));
    }
    assert_eq!(store.blob(&Hash::ZERO).unwrap(), None);
}

#[tokio::test]
async fn blobs_end_when_the_last_who_needs_them_does() {
    let folder = tempfile::tempdir().unwrap();
    let (_held, store) = open(folder.path());
    let put = async |bytes: &str, end: Option<u64>| {
        store.put_blob_durable(bytes.into(), end.map(at)).await.unwrap()
    };
    let short = put("short", Some(10)).await;
    let longer = put("longer", Some(10)).await;
    put("longer", Some(20)).await;
    put("longer", Some(5)).await;
    let forever = put("forever", Some(10)).await;
    put("forever", None).await;
    put("forever", Some(10)).await;
    assert_eq!(store.delete_expired(at(10)).await, Ok(0));
    assert_eq!(store.delete_expired(at(11)).await, Ok(1));
    assert_eq!(store.blob(&short).unwrap(), None);
    assert!(store.blob(&longer).unwrap().is_some());
    assert_eq!(store.delete_expired(at(1_000)).await, Ok(1));
    assert!(store.blob(&forever).unwrap().is_some());
}

#[tokio::test]
async fn a_damaged_blob_is_an_error_and_not_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (held, store) = open(folder.path());
    let hash = store.put_blob_durable(vec![7; 100], None).await.unwrap();
    drop(store);
    let database = held.path().join("store.sqlite");
    let mut bytes = std::fs::read(&database).unwrap();
    let place = bytes.windows(100).position(|window| window == [7; 100]);
    bytes[place.unwrap()] = 8;
    std::fs::write(&database, bytes).unwrap();
    let store = Store::open(&held).unwrap();
    assert_eq!(store.blob(&hash), Err(StoreError::Damaged(hash)));
}

#[tokio::test]
async fn salts_are_by_day() {
    let folder = tempfile::tempdir().unwrap();
    let (_held, store) = open(folder.path());
    store.put_salt(tenant(1), 7, b"a".to_vec()).await.unwrap();
    store.put_salt(tenant(2), 7, b"b".to_vec()).await.unwrap();
    store.put_salt(tenant(1), 8, b"c".to_vec()).await.unwrap();
    let mut salts = store.salts_of_day(7).unwrap();
    salts.sort();
    let mut expected = vec![(tenant(1), b"a".to_vec()), (tenant(2), b"b".to_vec())];
    expected.sort();
    assert_eq!(salts, expected);
    assert_eq!(store.salts_of_day(9).unwrap(), []);
}

/// Whether these bytes stand in any file below the folder.
fn stands(folder: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return stands(&path, bytes);
        }
        std::fs::read(path).unwrap().windows(bytes.len()).any(|window| window == bytes)
    })
}

#[tokio::test]
async fn forgotten_salts_are_gone_from_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (_held, store) = open(folder.path());
    let wrapped = |n: u8| [b"wrapped-salt-", [b'0' + n; 40].as_slice()].concat();
    for (n, seed, day) in [(0, 1, 6), (1, 1, 7), (2, 1, 8), (3, 2, 7)] {
        store.put_salt(tenant(seed), day, wrapped(n)).await.unwrap();
    }
    assert!((0..4).all(|n| stands(folder.path(), &wrapped(n))));
    let mut maker = Maker::default();
    let about = About { tenant: Some(tenant(1)), day: Some(7), ..About::default() };
    maker.add(RecordKind::Forgotten, about);
    store.project(&maker.0[0]).await.unwrap().settled().await.unwrap();
    for (n, seed, day, kept) in
        [(0, 1, 6, false), (1, 1, 7, false), (2, 1, 8, true), (3, 2, 7, true)]
    {
        assert_eq!(store.salt(&tenant(seed), day).unwrap().is_some(), kept, "{seed} {day}");
        assert_eq!(stands(folder.path(), &wrapped(n)), kept, "{seed} {day} on the disk");
    }
}

/// Unsigned records, one after the other: the lists do not verify, the log does.
#[derive(Default)]
struct Maker(Vec<Vec<u8>>);

impl Maker {
    fn add(&mut self, kind: RecordKind, about: About) {
        let index = self.0.len() as u64;
        let record = Record {
            index,
            origin: "log.example".into(),
            previous: Hash::ZERO,
            time: at(1_000 + index),
            boot: BootId::new("boot_1").unwrap(),
            kind,
            tee_mrenclave: Hash::ZERO,
            evidence: Hash::ZERO,
            admission: Hash::ZERO,
            about,
            chain_signature: Signature([0; 64]),
        };
        self.0.push(canonical::encode(&record).unwrap());
    }
}

fn policy(version: u64) -> About {
    About {
        tenant: Some(tenant(1)),
        policy: Some(PolicyRef {
            id: PolicyId::new("p").unwrap(),
            version,
            hash: Hash::of(&version.to_be_bytes()),
        }),
        key: Some(PublicKey::new([1; 32])),
        ..About::default()
    }
}

fn credential(version: u64) -> About {
    About {
        tenant: Some(tenant(1)),
        credential: Some(CredentialRef {
            owner: PublicKey::new([9; 32]),
            id: CredentialId::new("c").unwrap(),
            version,
        }),
        ..About::default()
    }
}

fn action(id: &str) -> About {
    About {
        tenant: Some(tenant(1)),
        action_id: Some(ActionId::new(id).unwrap()),
        agent: Some(AgentId::new("agent").unwrap()),
        service: Some(ServiceId::new("svc").unwrap()),
        action: Some(ActionName::new("buy").unwrap()),
        blob: Some(Hash::of(id.as_bytes())),
        ..About::default()
    }
}

fn execution(id: &str, of: &str) -> About {
    About { execution_id: Some(ExecutionId::new(id).unwrap()), ..action(of) }
}

fn story() -> Vec<Vec<u8>> {
    let mut maker = Maker::default();
    maker.add(RecordKind::Birth, About::default());
    maker.add(RecordKind::Boot, About::default());
    maker.add(RecordKind::PolicyActivated, policy(1));
    maker.add(RecordKind::PolicyActivated, policy(2));
    maker.add(RecordKind::CredentialSealed, credential(1));
    maker.add(RecordKind::CredentialSealed, credential(2));
    maker.add(RecordKind::Allowed, action("a1"));
    maker.add(RecordKind::Started, execution("e1", "a1"));
    maker.add(
        RecordKind::Finished,
        About {
            outcome: Some(Outcome::Succeeded),
            execution_receipt: Some(Hash::of(b"receipt")),
            ..execution("e1", "a1")
        },
    );
    maker.add(RecordKind::Waiting, action("a2"));
    maker.add(RecordKind::Endorsed, action("a2"));
    maker.add(RecordKind::Approved, action("a2"));
    maker.add(RecordKind::Started, execution("e2", "a2"));
    maker.add(RecordKind::Waiting, action("a3"));
    let reason = Some(Reason::PolicyRevoked);
    maker.add(RecordKind::Denied, About { reason, ..action("a3") });
    maker.add(RecordKind::Waiting, action("a4"));
    maker.add(RecordKind::PolicyRevoked, policy(2));
    maker.add(RecordKind::CredentialRevoked, credential(2));
    for key in [2, 1] {
        let key = Some(PublicKey::new([key; 32]));
        let about = About { tenant: Some(tenant(1)), key, ..About::default() };
        maker.add(RecordKind::PolicyKeyChanged, about);
    }
    maker.add(RecordKind::PolicyActivated, policy(3));
    maker.0
}

async fn project(store: &Store, leaves: &[Vec<u8>]) {
    for leaf in leaves {
        store.project(leaf).await.unwrap().settled().await.unwrap();
    }
}

fn check_story(store: &Store) {
    let policies = store.policies(Some(&tenant(1)), 10).unwrap();
    let states: Vec<_> = policies.iter().map(|row| (row.version, row.state)).collect();
    let expected =
        [(1, PolicyState::Superseded), (2, PolicyState::Superseded), (3, PolicyState::Active)];
    assert_eq!(states, expected);
    let keys = store.policy_keys(&tenant(1), 10).unwrap();
    let keys: Vec<_> = keys.iter().map(|row| (row.sequence, row.key.as_bytes()[0])).collect();
    assert_eq!(keys, [(2, 1), (1, 2), (0, 1)]);
    assert_eq!(store.policy_keys(&tenant(2), 10).unwrap(), []);
    assert_eq!(store.policies(Some(&tenant(2)), 10).unwrap(), []);
    let credentials = store.credentials(None, 10).unwrap();
    let states: Vec<_> = credentials.iter().map(|row| (row.version, row.state)).collect();
    assert_eq!(states, [(1, CredentialState::Superseded), (2, CredentialState::Revoked)]);

    let page = store.executions(Some(&tenant(1)), None, 1).unwrap();
    assert_eq!(page[0].id.as_str(), "e2");
    assert_eq!(page[0].state, ExecutionState::Started);
    let page = store.executions(None, Some(page[0].started), 10).unwrap();
    assert_eq!(page.len(), 1);
    assert_eq!(page[0].state, ExecutionState::Finished);
    assert_eq!(page[0].outcome.as_deref(), Some("succeeded"));
    assert_eq!(page[0].receipt, Some(Hash::of(b"receipt")));
    assert_eq!((page[0].started, page[0].ended), (7, Some(8)));
    let one = store.execution(&page[0].id).unwrap();
    assert_eq!(one.as_ref(), page.first());

    let waiting = store.actions_waiting(Some(&tenant(1)), 10).unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!((waiting[0].id.as_str(), waiting[0].first), ("a4", 15));
    let state = |id: &str| {
        let row = store.action(&ActionId::new(id).unwrap()).unwrap().unwrap();
        (row.state, row.reason)
    };
    assert_eq!(state("a1"), (ActionState::Executed, None));
    assert_eq!(state("a2"), (ActionState::Executed, None));
    assert_eq!(state("a3"), (ActionState::Denied, Some("policy_revoked".into())));
    let said = store.approvals(&ActionId::new("a2").unwrap(), 10).unwrap();
    let said: Vec<_> = said.iter().map(|row| (row.record, row.kind.as_str())).collect();
    assert_eq!(said, [(10, "endorsed"), (11, "approved")]);
}

#[tokio::test]
async fn lists_follow_from_the_records() {
    let folder = tempfile::tempdir().unwrap();
    let (_held, store) = open(folder.path());
    let story = story();
    project(&store, &story[..9]).await;
    assert_eq!(store.projected(), Ok(9));
    // Some of them again, as after a crash between log and lists.
    project(&store, &story[4..]).await;
    assert_eq!(store.projected(), Ok(21));
    check_story(&store);
    assert_eq!(store.rebuild(&story).await, Ok(21));
    check_story(&store);

    let mut later = Maker(story);
    later.add(RecordKind::Boot, About::default());
    project(&store, &later.0[21..]).await;
    assert_eq!(store.actions_waiting(None, 10).unwrap(), []);
}

#[tokio::test]
async fn only_the_next_record_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (_held, store) = open(folder.path());
    let story = story();
    let gap = store.project(&story[1]).await.unwrap().settled().await;
    assert_eq!(gap, Err(StoreError::Gap { expected: 0, found: 1 }));
    assert_eq!(store.project(b"{}").await.err(), Some(StoreError::NotARecord));
    assert_eq!(store.projected(), Ok(0));
    assert!(store.rebuild(&story[1..]).await.is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever is taken twice and wherever it stops: the same lists.
    #[test]
    fn projecting_again_changes_nothing(stops in prop::collection::vec(0usize..=21, 0..5)) {
        let folder = tempfile::tempdir().unwrap();
        let (_held, store) = open(folder.path());
        let story = story();
        runtime().block_on(async {
            for stop in stops {
                let from = usize::try_from(store.projected().unwrap()).unwrap().min(stop);
                project(&store, &story[from..stop]).await;
            }
            let from = usize::try_from(store.projected().unwrap()).unwrap();
            project(&store, &story[from..]).await;
        });
        check_story(&store);
    }

    #[test]
    fn changed_leaves_end_in_an_answer(
        at in any::<prop::sample::Index>(), byte in any::<u8>(), leaf in 0usize..21,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (_held, store) = open(folder.path());
        let mut story = story();
        let at = at.index(story[leaf].len());
        story[leaf][at] = byte;
        runtime().block_on(async {
            for leaf in &story {
                match store.project(leaf).await {
                    Ok(ticket) => drop(ticket.settled().await),
                    Err(error) => assert_eq!(error, StoreError::NotARecord),
                }
            }
        });
    }
}

/// Not a test of its own: puts blobs until it is stopped, and says which are settled.
#[test]
#[ignore = "the child of the test that kills it"]
fn child_puts() {
    let Ok(folder) = std::env::var("TOANI_TEST_FOLDER") else {
        return;
    };
    let (_held, store) = open(Path::new(&folder));
    println!();
    runtime().block_on(async {
        for number in 0u64.. {
            let bytes = [&number.to_be_bytes()[..], &std::process::id().to_be_bytes()].concat();
            let hash = if number.is_multiple_of(5) {
                store.put_blob_durable(bytes, None).await.unwrap()
            } else {
                let (hash, ticket) = store.put_blob(bytes, None).await.unwrap();
                ticket.settled().await.unwrap();
                hash
            };
            println!("settled {hash}");
            std::io::stdout().flush().unwrap();
        }
    });
}

#[test]
fn settled_blobs_survive_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut settled = Vec::new();
    for round in 0..6usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child_puts", "--exact", "--ignored", "--nocapture"])
            .env("TOANI_TEST_FOLDER", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said: Vec<String> =
            lines.by_ref().take(8 + round * 17).map(Result::unwrap).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        said.extend(lines.map_while(Result::ok));
        let hashes = said.iter().filter_map(|line| line.strip_prefix("settled "));
        settled.extend(hashes.filter_map(|hash| hash.parse::<Hash>().ok()));
        let (_held, store) = open(folder.path());
        for hash in &settled {
            assert!(store.blob(hash).unwrap().is_some(), "{hash}");
        }
    }
    assert!(settled.len() > 50);
}
