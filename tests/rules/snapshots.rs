//! The snapshot to send: when it is answered, when not any more, and that nothing about it panics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use peerstore::memory::{MemoryData, MemoryLog, MemorySnapshots};
use peerstore::{
    Config, Error, PeerStorage, RaftSnapshotData, RaftSnapshotStorage, Region, RegionId, Result,
    SnapshotFile, SnapshotInfo, SnapshotKey, SnapshotMeta, SnapshotReader, SnapshotReceiver,
    SnapshotReport, SnapshotState, SnapshotWriter,
};
use raft::eraftpb::{ConfState, Snapshot};
use raft::{Error as RaftError, Storage as _, StorageError};

use crate::support::{
    PATIENCE, Rig, apply, assert_says, config, config_with_files, entries, fill, hard_state,
};

/// A store that refuses to create snapshots while it is told to, or panics.
#[derive(Default)]
pub struct Failing {
    inner: MemorySnapshots,
    pub refuses: AtomicBool,
    pub panics: AtomicBool,
    pub tries: AtomicU64,
}

impl Failing {
    fn panic_if_told(&self) {
        assert!(!self.panics.load(Ordering::SeqCst), "a bug of the store");
    }
}

impl RaftSnapshotStorage for Failing {
    fn create(&self, meta: SnapshotMeta) -> Result<Box<dyn SnapshotWriter>> {
        self.tries.fetch_add(1, Ordering::SeqCst);
        self.panic_if_told();
        if self.refuses.load(Ordering::SeqCst) {
            let path = "snapshots".into();
            return Err(Error::DiskFull { op: "create", path });
        }
        self.inner.create(meta)
    }
    fn open(&self, key: &SnapshotKey) -> Result<Box<dyn SnapshotReader>> {
        self.inner.open(key)
    }
    fn send(&self, key: &SnapshotKey) -> Result<Box<dyn SnapshotFile>> {
        self.inner.send(key)
    }
    fn receive(&self) -> Result<Box<dyn SnapshotReceiver>> {
        self.inner.receive()
    }
    fn list(&self, region: Option<RegionId>) -> Result<Vec<SnapshotInfo>> {
        self.inner.list(region)
    }
    fn delete(&self, key: &SnapshotKey) -> Result<()> {
        self.panic_if_told();
        self.inner.delete(key)
    }
    fn verify(&self, key: &SnapshotKey) -> Result<SnapshotReport> {
        self.inner.verify(key)
    }
}

fn rig(config: Config) -> (Rig, Arc<Failing>, PeerStorage) {
    let store = Arc::new(Failing::default());
    let rig = Rig::of(config, MemoryLog::new(), MemoryData::new(), store.clone());
    let mut storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..12);
    (rig, store, storage)
}

pub fn unavailable() -> raft::Result<Snapshot> {
    let error = StorageError::SnapshotTemporarilyUnavailable;
    Err(RaftError::Store(error))
}

pub fn index(snapshot: &Snapshot) -> u64 {
    snapshot.get_metadata().index
}

/// Asks as raft does, again and again.
fn poll(storage: &PeerStorage, request_index: u64) -> Snapshot {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match storage.snapshot(request_index, 2) {
            Ok(snapshot) => return snapshot,
            error => assert_eq!(error, unavailable(), "anything else ends the process"),
        }
        assert!(std::time::Instant::now() < deadline, "{storage:?}");
        std::thread::yield_now();
    }
}

#[test]
fn it_is_unavailable_until_the_worker_is_done() {
    let (_rig, _, storage) = rig(config(1));
    assert_eq!(storage.snapshot_state(), SnapshotState::Idle);
    assert_eq!(storage.snapshot(0, 2), unavailable());
    let snapshot = poll(&storage, 0);
    assert_eq!((index(&snapshot), snapshot.get_metadata().term), (11, 5));
    assert!(matches!(
        storage.snapshot_state(),
        SnapshotState::Ready { .. }
    ));
}

#[test]
fn it_is_of_what_was_applied_when_it_was_asked_for() {
    let (_rig, _, mut storage) = rig(config(1));
    assert_eq!(storage.snapshot(0, 2), unavailable());
    storage.append(&entries(6, 12..15)).unwrap();
    apply(&mut storage, &entries(6, 12..15)).unwrap();
    assert_eq!(index(&poll(&storage, 0)), 11, "still good enough");
    let snapshot = storage.wait_snapshot(PATIENCE).unwrap();
    let meta = snapshot.get_metadata();
    assert_eq!(
        (meta.index, meta.term),
        (14, 6),
        "waiting wants a fresh one"
    );
}

#[test]
fn a_request_index_that_is_not_applied_yet_has_to_wait() {
    let (_rig, store, mut storage) = rig(config(1));
    for _ in 0..3 {
        assert_eq!(storage.snapshot(13, 2), unavailable());
    }
    assert_eq!(
        store.tries.load(Ordering::SeqCst),
        0,
        "none is built in vain"
    );
    storage.append(&entries(6, 12..15)).unwrap();
    apply(&mut storage, &entries(6, 12..15)).unwrap();
    assert_eq!(index(&poll(&storage, 13)), 14);
}

#[test]
fn one_from_before_a_conf_change_is_not_answered() {
    let (_rig, _, mut storage) = rig(config(1));
    let old = storage.wait_snapshot(PATIENCE).unwrap();
    let conf_state = ConfState::from((vec![1, 2], vec![]));
    storage.append(&entries(6, 12..13)).unwrap();
    let change = |_: &_, batch: &mut peerstore::ApplyBatch| {
        batch.set_conf_state(conf_state.clone());
        Ok(())
    };
    storage.apply(&entries(6, 12..13), change).unwrap();
    assert_eq!(old.get_metadata().get_conf_state().voters, [1]);
    assert_eq!(storage.snapshot(0, 2), unavailable());
    let new = poll(&storage, 0);
    assert_eq!(new.get_metadata().get_conf_state().voters, [1, 2]);
    assert_eq!(index(&new), 12);
}

#[test]
fn it_is_given_up_when_the_log_is_compacted_past_it_and_built_again() {
    let (_rig, store, mut storage) = rig(config(1));
    storage.wait_snapshot(PATIENCE).unwrap();
    storage.append(&entries(6, 12..15)).unwrap();
    apply(&mut storage, &entries(6, 12..15)).unwrap();
    storage.compact(12).unwrap();
    assert!(matches!(
        storage.snapshot_state(),
        SnapshotState::Ready { .. }
    ));
    assert_eq!(index(&storage.snapshot(0, 2).unwrap()), 11, "just reaches");
    storage.compact(13).unwrap();
    assert_eq!(storage.snapshot_state(), SnapshotState::Idle);
    assert_eq!(index(&poll(&storage, 0)), 14);
    assert_eq!(store.tries.load(Ordering::SeqCst), 2);
}

#[test]
fn one_that_is_being_built_is_given_up_too_and_finishes_anew() {
    let (_rig, _, mut storage) = rig(config(1));
    assert_eq!(storage.snapshot(0, 2), unavailable());
    storage.append(&entries(6, 12..15)).unwrap();
    apply(&mut storage, &entries(6, 12..15)).unwrap();
    storage.compact(15).unwrap();
    assert_eq!(storage.snapshot_state(), SnapshotState::Idle);
    assert_eq!(index(&storage.wait_snapshot(PATIENCE).unwrap()), 14);
}

#[test]
fn a_failure_is_counted_and_never_ends_anything() {
    let (_rig, store, storage) = rig(config(1));
    store.refuses.store(true, Ordering::SeqCst);
    for failures in 1..9 {
        let error = storage.wait_snapshot(PATIENCE).unwrap_err();
        assert_says(
            &error,
            &["region 1", &failures.to_string(), "no space left"],
        );
        assert!(matches!(error, Error::SnapshotFailed { .. }), "{error}");
        let state = storage.snapshot_state();
        assert!(
            matches!(&state, SnapshotState::Failed { failures: n, .. } if *n == failures),
            "{state}"
        );
        assert_eq!(storage.snapshot(0, 2), unavailable());
    }
    store.refuses.store(false, Ordering::SeqCst);
    assert_eq!(index(&storage.wait_snapshot(PATIENCE).unwrap()), 11);
}

#[test]
fn after_a_failure_raft_has_to_wait_out_the_pause() {
    let mut slow = config(1);
    slow.snapshot.retry_backoff_ms = u64::MAX;
    let (_rig, store, storage) = rig(slow);
    store.refuses.store(true, Ordering::SeqCst);
    assert!(storage.wait_snapshot(Duration::MAX).is_err());
    store.refuses.store(false, Ordering::SeqCst);
    for _ in 0..100 {
        assert_eq!(storage.snapshot(0, 2), unavailable());
    }
    assert_eq!(store.tries.load(Ordering::SeqCst), 1, "no new try");
    assert!(
        storage.wait_snapshot(PATIENCE).is_ok(),
        "waiting does not wait"
    );
}

#[test]
fn without_an_applied_entry_there_is_none() {
    let rig = Rig::new(config(1));
    let storage = rig.node.create_uninitialized(1, 1).unwrap();
    assert_eq!(storage.snapshot(0, 2), unavailable());
    let error = storage.wait_snapshot(PATIENCE).unwrap_err();
    assert_says(&error, &["region 1", "applied index 0", "an applied entry"]);
}

#[test]
fn one_whose_file_was_removed_is_built_again() {
    let (rig, store, storage) = rig(config_with_files(1));
    let first = storage.wait_snapshot(PATIENCE).unwrap();
    assert_eq!(storage.snapshot(0, 2).unwrap(), first);
    for info in rig.snapshots.list(None).unwrap() {
        rig.snapshots.delete(&info.key).unwrap();
    }
    let again = poll(&storage, 0);
    let data = RaftSnapshotData::of_snapshot(1.into(), &again).unwrap();
    let key = data.unwrap().key(&again);
    assert!(rig.snapshots.send(&key).is_ok(), "it can be sent");
    assert_eq!(store.tries.load(Ordering::SeqCst), 2);
}

#[test]
fn one_that_is_being_sent_is_not_deleted_until_that_is_done() {
    let (rig, _, mut storage) = rig(config_with_files(1));
    let snapshot = storage.wait_snapshot(PATIENCE).unwrap();
    let data = RaftSnapshotData::of_snapshot(1.into(), &snapshot).unwrap();
    let key = data.unwrap().key(&snapshot);
    let mut sending = rig.snapshots.send(&key).unwrap();
    storage.cancel_snapshot();
    // The worker does its tasks in order, so it has tried to remove the file before it builds.
    fill(&mut storage, 6, 12..13);
    storage.wait_snapshot(PATIENCE).unwrap();
    let keys = |rig: &Rig| {
        let infos = rig.snapshots.list(None).unwrap();
        infos.iter().map(|i| i.key).collect::<Vec<_>>()
    };
    assert!(keys(&rig).contains(&key));
    let mut file = Vec::new();
    sending.read_to_end(&mut file).unwrap();
    let target = MemorySnapshots::new();
    crate::support::receive(&target, &file).unwrap();
    drop(sending);
    fill(&mut storage, 6, 13..14);
    storage.wait_snapshot(PATIENCE).unwrap();
    assert!(!keys(&rig).contains(&key), "removed after a later task");
}

#[test]
fn what_was_built_is_gone_after_the_region_is_opened_again() {
    let (rig, _, storage) = rig(config_with_files(1));
    storage.wait_snapshot(PATIENCE).unwrap();
    drop(storage);
    let storage = rig.node.open_region(1).unwrap();
    assert_eq!(rig.snapshots.list(None).unwrap(), []);
    assert_eq!(storage.snapshot_state(), SnapshotState::Idle);
}

#[test]
fn its_term_is_right_after_an_install_and_a_compaction() {
    let (_rig, _, mut storage) = rig(config(1));
    let mut installed = Snapshot::default();
    (
        installed.mut_metadata().index,
        installed.mut_metadata().term,
    ) = (30, 9);
    installed.mut_metadata().mut_conf_state().voters = vec![1];
    storage.install_snapshot(installed).unwrap();
    let meta = |s: &PeerStorage| {
        let snapshot = s.wait_snapshot(PATIENCE).unwrap();
        (snapshot.get_metadata().term, index(&snapshot))
    };
    assert_eq!(meta(&storage), (9, 30));
    fill(&mut storage, 11, 31..33);
    storage.compact(33).unwrap();
    assert_eq!(meta(&storage), (11, 32));
    storage.set_hard_state(&hard_state(12, 1, 32)).unwrap();
    assert_eq!(meta(&storage), (11, 32));
}
