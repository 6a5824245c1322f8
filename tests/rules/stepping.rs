//! Workers on the caller's thread, and workers whose backends panic.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use peerstore::memory::MemoryData;
use peerstore::{
    CompositeStorage, Config, Error, Parts, PeerState, PeerStorage, Region, SnapshotState,
    SteppedWorkers,
};
use raft::{Error as RaftError, Storage as _, StorageError};

use crate::fetching::{SlowLog, ask, later};
use crate::snapshots::{Failing, index, unavailable};
use crate::support::{
    PATIENCE, assert_says, config, config_with_files, entries, fill, put_region_state,
};

/// The backends of a node, which can be told to fail.
struct Backends {
    log: Arc<SlowLog>,
    snapshots: Arc<Failing>,
    data: Arc<MemoryData>,
}

impl Backends {
    fn new() -> Self {
        Backends {
            log: Arc::default(),
            snapshots: Arc::default(),
            data: Arc::default(),
        }
    }

    fn parts(&self) -> Parts {
        Parts {
            log: self.log.clone(),
            app: self.data.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    fn stepped(&self, config: &Config) -> (CompositeStorage, SteppedWorkers) {
        CompositeStorage::from_parts_stepped(self.parts(), config).unwrap()
    }
}

/// Region 1, of which entries 6 to 19 are in the log, and none is cached.
fn cold(node: &CompositeStorage) -> PeerStorage {
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..20);
    drop(storage);
    node.open_region(1).unwrap()
}

#[test]
fn stepped_nothing_is_read_before_the_step_and_one_task_by_each() {
    let backends = Backends::new();
    let (node, workers) = backends.stepped(&config(1));
    let storage = cold(&node);
    assert!(!workers.step_fetch());
    assert_eq!(ask(&storage, 6, 9), later());
    assert_eq!(ask(&storage, 10, 12), later());
    assert!(storage.take_fetched().is_empty());
    for low in [6, 10] {
        assert!(workers.step_fetch());
        assert_eq!(storage.take_fetched().len(), 1);
        assert_eq!(ask(&storage, low, low + 2).unwrap()[0].index, low);
    }
    assert!(!workers.step_fetch());
}

#[test]
fn stepped_the_pause_of_a_failed_snapshot_ends_when_the_clock_is_moved() {
    let backends = Backends::new();
    let mut config = config_with_files(1);
    config.snapshot.retry_backoff_ms = 1_000;
    let (node, workers) = backends.stepped(&config);
    let storage = cold(&node);
    backends.snapshots.refuses.store(true, Ordering::SeqCst);
    // Each pause is twice as long as the one before.
    for pause_ms in [1_000, 2_000] {
        assert_eq!(storage.snapshot(0, 2), unavailable());
        assert!(workers.step_snapshot(), "it was asked for");
        assert_eq!(storage.snapshot(0, 2), unavailable());
        let state = storage.snapshot_state();
        assert!(matches!(state, SnapshotState::Failed { .. }), "{state}");
        workers.advance_clock(Duration::from_millis(pause_ms - 1));
        assert_eq!(storage.snapshot(0, 2), unavailable());
        assert!(!workers.step_snapshot(), "not before the pause is over");
        workers.advance_clock(Duration::from_millis(1));
    }
    backends.snapshots.refuses.store(false, Ordering::SeqCst);
    assert_eq!(storage.snapshot(0, 2), unavailable());
    assert!(workers.step_snapshot());
    let snapshot = storage.snapshot(0, 2).unwrap();
    assert_eq!(index(&snapshot), 19);
    // What is of no more use is removed by a step too.
    storage.cancel_snapshot();
    assert_eq!(node.snapshots().list(None).unwrap().len(), 1);
    assert!(workers.step_snapshot());
    assert_eq!(node.snapshots().list(None).unwrap(), []);
    assert_eq!(backends.snapshots.tries.load(Ordering::SeqCst), 3);
}

#[test]
fn stepped_a_file_that_is_being_sent_goes_with_a_later_task() {
    let backends = Backends::new();
    let (node, workers) = backends.stepped(&config_with_files(1));
    let mut storage = cold(&node);
    assert_eq!(storage.snapshot(0, 2), unavailable());
    assert!(workers.step_snapshot());
    storage.snapshot(0, 2).unwrap();
    let key = node.snapshots().list(None).unwrap()[0].key;
    let sending = node.snapshots().send(&key).unwrap();
    storage.cancel_snapshot();
    assert!(workers.step_snapshot());
    assert_eq!(node.snapshots().list(None).unwrap().len(), 1);
    drop(sending);
    fill(&mut storage, 5, 20..21);
    assert_eq!(storage.snapshot(0, 2), unavailable());
    assert!(workers.step_snapshot());
    let left = node.snapshots().list(None).unwrap();
    assert_eq!(left.len(), 1, "the new one: {left:?}");
    assert_eq!(left[0].key.id.index, 20);
}

#[test]
fn stepped_a_region_that_waits_for_a_merge_is_not_copied() {
    let backends = Backends::new();
    let (node, workers) = backends.stepped(&config(1));
    let storage = cold(&node);
    let mut state = storage.region_state().clone();
    drop(storage);
    for (now, is_built) in [(PeerState::Merging, false), (PeerState::Normal, true)] {
        state.state = now;
        put_region_state(&node, &state);
        let storage = node.open_region(1).unwrap();
        assert_eq!(storage.snapshot(0, 2), unavailable());
        assert_eq!(workers.step_snapshot(), is_built, "{now:?}");
    }
}

#[test]
fn stepped_workers_that_are_dropped_are_gone() {
    let backends = Backends::new();
    let (node, workers) = backends.stepped(&config(1));
    let storage = cold(&node);
    drop(workers);
    assert_eq!(ask(&storage, 6, 9).unwrap(), entries(5, 6..9), "read here");
    let error = storage.wait_snapshot(PATIENCE).unwrap_err();
    assert!(matches!(error, Error::WorkerGone { .. }), "{error}");
}

#[test]
fn a_log_that_panics_ends_neither_the_worker_nor_the_region() {
    let backends = Backends::new();
    let node = CompositeStorage::from_parts(backends.parts(), &config(1)).unwrap();
    let storage = cold(&node);
    backends.log.panics.store(true, Ordering::SeqCst);
    assert_eq!(ask(&storage, 6, 9), later());
    assert_eq!(
        storage.wait_fetched(PATIENCE).len(),
        1,
        "raft is called back"
    );
    let compacted = Err(RaftError::Store(StorageError::Compacted));
    assert_eq!(ask(&storage, 6, 9), compacted, "as with damaged entries");
    backends.log.panics.store(false, Ordering::SeqCst);
    assert_eq!(ask(&storage, 6, 9), later());
    assert_eq!(storage.wait_fetched(PATIENCE).len(), 1, "the worker lives");
    assert_eq!(ask(&storage, 6, 9).unwrap(), entries(5, 6..9));
}

#[test]
fn a_snapshot_store_that_panics_ends_neither_the_worker_nor_the_region() {
    let backends = Backends::new();
    let node = CompositeStorage::from_parts(backends.parts(), &config_with_files(1)).unwrap();
    let storage = cold(&node);
    backends.snapshots.panics.store(true, Ordering::SeqCst);
    let error = storage.wait_snapshot(PATIENCE).unwrap_err();
    assert!(matches!(error, Error::SnapshotFailed { .. }), "{error}");
    assert_says(
        &error,
        &["region 1", "snapshot worker panicked", "a bug of the store"],
    );
    backends.snapshots.panics.store(false, Ordering::SeqCst);
    assert_eq!(index(&storage.wait_snapshot(PATIENCE).unwrap()), 19);
}

#[test]
fn a_file_whose_removal_panicked_can_be_used_and_removed_again() {
    let leader = crate::support::leader(config_with_files(1), &Region::single(1, 1), 6, 30);
    let backends = Backends::new();
    let (node, workers) = backends.stepped(&config_with_files(1));
    let mut storage = cold(&node);
    assert_eq!(storage.snapshot(0, 2), unavailable());
    assert!(workers.step_snapshot());
    storage.snapshot(0, 2).unwrap();
    // The removal of the file that is then installed: at the worst moment it panics.
    leader.send_to(&*backends.snapshots);
    let files = node.snapshots().list(None).unwrap();
    assert_eq!(files.len(), 2);
    backends.snapshots.panics.store(true, Ordering::SeqCst);
    storage.cancel_snapshot();
    assert!(workers.step_snapshot(), "it panicked, and nobody noticed");
    backends.snapshots.panics.store(false, Ordering::SeqCst);
    storage.install_snapshot(leader.snapshot.clone()).unwrap();
    assert_eq!(storage.applied_index(), 30);
    drop(storage);
    node.open_region(1).unwrap();
    assert_eq!(node.snapshots().list(None).unwrap(), [], "both are gone");
}

#[test]
fn a_node_knows_its_store_and_its_cluster() {
    let backends = Backends::new();
    let config = Config {
        cluster_id: 7,
        ..config(3)
    };
    let (node, _workers) = backends.stepped(&config);
    assert_eq!((node.store_id(), node.cluster_id()), (3, 7));
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_directory_knows_its_store_and_its_cluster_where_the_config_does_not_say() {
    let dir = tempfile::tempdir().unwrap();
    let named = Config {
        cluster_id: 7,
        ..config(3)
    };
    drop(CompositeStorage::open(dir.path(), named).unwrap());
    let node = CompositeStorage::open(dir.path(), config(0)).unwrap();
    assert_eq!((node.store_id(), node.cluster_id()), (3, 7));
    // So it finds its own peer among several.
    let peers = [(1.into(), 1), (2.into(), 3)];
    let region = Region::with_voters(1, peerstore::KeyRange::all(), peers);
    let storage = node.create_region(&region).unwrap();
    assert_eq!(storage.peer_id(), 2.into());
}
