//! Which snapshots of a node stay when raft has no more use for them.

use std::sync::Arc;
use std::time::Duration;

use peerstore::memory::{MemoryData, MemoryLog, MemorySnapshots};
use peerstore::{
    CompositeStorage, Config, LogPosition, Parts, PeerStorage, RaftSnapshotStorage, Region,
    RegionId, SnapshotMeta, SteppedWorkers,
};
use raft::Storage as _;

use super::support::*;

/// A node whose workers work when they are told to.
struct Node {
    log: Arc<MemoryLog>,
    data: Arc<MemoryData>,
    snapshots: MemorySnapshots,
    node: CompositeStorage,
    workers: SteppedWorkers,
}

fn open(log: MemoryLog, data: MemoryData, snapshots: MemorySnapshots, config: &Config) -> Node {
    let (log, data) = (Arc::new(log), Arc::new(data));
    let parts = Parts {
        log: log.clone(),
        app: data.clone(),
        snapshots: Arc::new(snapshots.clone()),
    };
    let (node, workers) = CompositeStorage::from_parts_stepped(parts, config).unwrap();
    Node {
        log,
        data,
        snapshots,
        node,
        workers,
    }
}

fn new(config: &Config) -> Node {
    let (log, data) = (MemoryLog::new(), MemoryData::new());
    open(log, data, MemorySnapshots::new(), config)
}

fn keeping(count: u64) -> Config {
    let mut config = config_with_files(1);
    config.snapshot.keep_latest = count;
    config
}

impl Node {
    /// Does what the snapshot worker has to do.
    fn work(&self) {
        while self.workers.step_snapshot() {}
    }

    /// The indexes of the snapshots of region 1.
    fn kept(&self) -> Vec<u64> {
        let infos = self.snapshots.list(Some(RegionId(1))).unwrap();
        infos.iter().map(|info| info.key.id.index).collect()
    }

    /// Applies one entry more, and builds a snapshot of that.
    fn build_next(&self, storage: &mut PeerStorage) {
        let next = storage.last_index().unwrap() + 1;
        fill(storage, 6, next..next + 1);
        assert!(storage.snapshot(next, 2).is_err(), "asked for, not built");
        self.work();
        let snapshot = storage.snapshot(next, 2).unwrap();
        assert_eq!(snapshot.get_metadata().index, next);
    }
}

#[test]
fn superseded_snapshots_stay_as_the_config_says() {
    let node = new(&keeping(3));
    let mut storage = node.node.create_region(&Region::single(1, 1)).unwrap();
    for _ in 0..6 {
        node.build_next(&mut storage);
    }
    assert_eq!(node.kept(), [9, 10, 11], "of 6 to 11");
}

#[test]
fn without_a_limit_none_stays() {
    let node = new(&config_with_files(1));
    let mut storage = node.node.create_region(&Region::single(1, 1)).unwrap();
    for _ in 0..3 {
        node.build_next(&mut storage);
    }
    assert_eq!(node.kept(), [8]);
}

#[test]
fn those_that_are_too_old_go_behind_the_next_build() {
    let mut config = config_with_files(1);
    config.snapshot.max_age_hours = 1;
    let node = new(&config);
    let mut storage = node.node.create_region(&Region::single(1, 1)).unwrap();
    for _ in 0..3 {
        node.build_next(&mut storage);
    }
    assert_eq!(node.kept(), [6, 7, 8]);
    node.workers.advance_clock(Duration::from_secs(2 * 3600));
    node.build_next(&mut storage);
    assert_eq!(node.kept(), [9]);
}

#[test]
fn the_total_of_all_regions_is_kept_to() {
    let mut config = config_with_files(1);
    config.snapshot.total_bytes_max = 1;
    let node = new(&config);
    let mut storage = node.node.create_region(&Region::single(1, 1)).unwrap();
    for _ in 0..3 {
        node.build_next(&mut storage);
    }
    assert_eq!(node.kept(), [8], "the newest, though it does not fit");
}

#[test]
fn opening_a_region_does_not_take_what_is_kept() {
    let node = new(&keeping(2));
    let mut storage = node.node.create_region(&Region::single(1, 1)).unwrap();
    for _ in 0..3 {
        node.build_next(&mut storage);
    }
    drop(storage);
    let mut storage = node.node.open_region(1).unwrap();
    node.work();
    assert_eq!(node.kept(), [7, 8]);
    node.build_next(&mut storage);
    assert_eq!(node.kept(), [8, 9]);
}

#[test]
fn a_stricter_config_cleans_up_at_the_start_on_the_worker() {
    let node = new(&keeping(5));
    let mut storage = node.node.create_region(&Region::single(1, 1)).unwrap();
    for _ in 0..5 {
        node.build_next(&mut storage);
    }
    assert_eq!(node.kept(), [6, 7, 8, 9, 10]);
    drop(storage);
    let (log, data) = (
        node.log.crash_copy(usize::MAX),
        node.data.crash_copy(usize::MAX),
    );
    let node = open(log, data, node.snapshots.clone(), &keeping(2));
    let storage = node.node.open_region(1).unwrap();
    assert_eq!(node.kept(), [6, 7, 8, 9, 10], "not on the caller's thread");
    node.work();
    assert_eq!(node.kept(), [9, 10]);
    drop(storage);
}

#[test]
fn the_snapshot_that_reaches_the_truncated_log_stays() {
    let node = new(&keeping(1));
    let mut storage = node.node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 6, 6..8);
    storage.compact(8).unwrap();
    assert_eq!(storage.truncated_index(), 7);
    // As a more generous config left them.
    for index in [6, 7, 8, 9] {
        let region = storage.region().clone();
        let meta = SnapshotMeta {
            position: LogPosition::new(6, index),
            conf_state: region.conf_state(),
            region,
        };
        node.snapshots.create(meta).unwrap().commit().unwrap();
    }
    node.build_next(&mut storage);
    node.build_next(&mut storage);
    node.build_next(&mut storage);
    assert_eq!(node.kept(), [7, 10], "the log goes on behind 7");
    storage.compact(9).unwrap();
    node.build_next(&mut storage);
    assert_eq!(node.kept(), [10, 11], "and behind 8 now");
}

#[test]
fn what_raft_is_offered_stays_although_the_store_has_a_newer_one() {
    let node = new(&keeping(1));
    let mut storage = node.node.create_region(&Region::single(1, 1)).unwrap();
    let region = storage.region().clone();
    let meta = SnapshotMeta {
        position: LogPosition::new(6, 99),
        conf_state: region.conf_state(),
        region,
    };
    // As a node finds it that was set back to an older state.
    node.snapshots.create(meta).unwrap().commit().unwrap();
    for next in 6..9 {
        node.build_next(&mut storage);
        assert_eq!(node.kept(), [next, 99]);
    }
    storage.cancel_snapshot();
    node.work();
    assert_eq!(node.kept(), [99]);
}

#[test]
fn a_snapshot_that_is_to_be_installed_after_a_crash_stays() {
    let leader = leader(config_with_files(1), &two_voters(), 6, LEADER_INDEX);
    let (rig, mut storage) = follower(FOLLOWER_LAST);
    // Not the first of its position, which the truncated log keeps anyway.
    let put = |store: &dyn RaftSnapshotStorage, index| {
        let region = two_voters();
        let meta = SnapshotMeta {
            position: LogPosition::new(6, index),
            conf_state: region.conf_state(),
            region,
        };
        store.create(meta).unwrap().commit().unwrap();
    };
    put(&*rig.snapshots, LEADER_INDEX);
    let installing = leader.send_to(&*rig.snapshots).key;
    rig.trace.cut_after(4);
    assert!(storage.install_snapshot(leader.snapshot.clone()).is_err());
    drop(storage);
    // Others of the region, of which a policy would keep the newest only.
    let snapshots = MemorySnapshots::new();
    put(&snapshots, LEADER_INDEX);
    assert_eq!(leader.send_to(&snapshots).key, installing);
    for index in [40, 50] {
        put(&snapshots, index);
    }
    let (log, data) = (rig.log.inner.crash_copy(0), rig.data.inner.crash_copy(0));
    let mut config = keeping(1);
    config.store_id = 2;
    let node = open(log, data, snapshots, &config);
    node.work();
    let storage = node.node.open_region(1).unwrap();
    assert_eq!(storage.applied_index(), LEADER_INDEX);
    assert_eq!(data_of(&node.node).len(), 10);
}

#[test]
fn a_received_snapshot_stays_after_its_install_if_some_are_kept() {
    let leader = leader(config_with_files(1), &two_voters(), 6, LEADER_INDEX);
    let node = new(&Config {
        store_id: 2,
        ..keeping(1)
    });
    leader.send_to(&node.snapshots);
    let mut storage = node.node.create_uninitialized(1, 2).unwrap();
    storage.install_snapshot(leader.snapshot.clone()).unwrap();
    node.work();
    assert_eq!(node.kept(), [LEADER_INDEX]);
    assert_eq!(data_of(&node.node), data_of(&leader.node));
}
