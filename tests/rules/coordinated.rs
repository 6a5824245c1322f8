//! Snapshots that a node keeps, the way back to them, and those that it makes of its own accord.

use std::sync::Arc;

use peerstore::memory::{MemoryData, MemoryLog, MemorySnapshots};
use peerstore::{
    ApplyBatch, CompositeStorage, Config, DataRead as _, Error, KeyRange, Keyspace, LogPosition,
    Parts, PeerId, PeerState, PeerStorage, Region, RegionId, SnapshotId, SnapshotInfo, SnapshotKey,
    SteppedWorkers,
};
use raft::Storage as _;
use raft::eraftpb::{ConfState, Entry};

use super::recording::Step;
use super::support::*;

fn with_trailing(entries_trailing: u64) -> Config {
    let mut config = config(1);
    config.gc.entries_trailing = entries_trailing;
    config
}

fn single(rig: &Rig) -> PeerStorage {
    rig.node.create_region(&Region::single(1, 1)).unwrap()
}

/// Applies an entry that puts `key`, with a new configuration if there is one.
fn apply_one(storage: &mut PeerStorage, term: u64, key: &str, conf: Option<ConfState>) {
    let index = storage.last_index().unwrap() + 1;
    let entry = entry_with(term, index, b"");
    storage.append(std::slice::from_ref(&entry)).unwrap();
    let put = |_: &Entry, batch: &mut ApplyBatch<'_>| {
        batch.put(key, term.to_string());
        if let Some(conf) = conf.clone() {
            batch.set_conf_state(conf);
        }
        Ok(())
    };
    storage.apply(&[entry], put).unwrap();
}

#[test]
fn a_coordinated_snapshot_covers_what_is_applied_and_is_durable_before_the_log_goes() {
    let rig = Rig::new(with_trailing(3));
    let mut storage = single(&rig);
    let conf = ConfState::from((vec![1], vec![2]));
    apply_one(&mut storage, 5, "a", Some(conf.clone()));
    fill(&mut storage, 6, 7..21);
    // In the log, and not applied: no snapshot covers it.
    storage.append(&entries(6, 21..26)).unwrap();
    drop(storage);
    rig.trace.take();
    let info = rig.node.create_coordinated_snapshot(1).unwrap();
    assert_eq!(info.meta.position, LogPosition::new(6, 20));
    assert_eq!(info.meta.conf_state, conf);
    assert_eq!(info.key.to_string(), "1-6-20-0");
    assert_eq!(info.entry_count, 15);
    let steps = rig.trace.take();
    let record = |s: &Step| s.kv_value(Keyspace::Store).is_some() && s.is_synced();
    let truncated = |s: &Step| s.kv_value(Keyspace::ApplyState).is_some() && s.is_synced();
    let removed = |s: &Step| matches!(s, Step::Log(..));
    assert_eq!(steps.len(), 3, "{steps:?}");
    assert!(
        record(&steps[0]) && truncated(&steps[1]) && removed(&steps[2]),
        "{steps:?}"
    );
    let storage = rig.node.open_region(1).unwrap();
    assert_eq!(
        (
            storage.first_index().unwrap(),
            storage.last_index().unwrap()
        ),
        (18, 25)
    );
    assert_eq!(rig.node.snapshots().list(None).unwrap(), [info]);
    let metrics = rig.node.metrics();
    assert_eq!((metrics.snapshots_created, metrics.log_compactions), (1, 1));
    assert!(metrics.total_operations >= 5, "{metrics:?}");
    let stats = rig.node.raft_log_stats(1).unwrap();
    assert_eq!((stats.first_index, stats.last_index), (Some(18), Some(25)));
    assert_eq!((stats.entry_count, stats.compacted_entries), (8, 12));
    assert!(stats.write_throughput_ops_per_sec > 0.0, "{stats:?}");
    assert!(rig.node.raft_log_stats(9).is_err());
}

#[test]
fn each_failing_step_of_a_coordinated_snapshot_leaves_a_log_that_opens_and_nothing_lost() {
    for cut in 0..3 {
        for kept in [0, usize::MAX] {
            let rig = Rig::new(with_trailing(0));
            let mut storage = single(&rig);
            fill(&mut storage, 6, 6..21);
            drop(storage);
            rig.trace.cut_after(cut);
            let made = rig.node.create_coordinated_snapshot(1);
            assert!(made.is_err(), "step {cut} failed unnoticed");
            let crashed = rig.crash(kept);
            let storage = crashed.node.open_region(1).unwrap();
            let applied = storage.applied_index();
            // What a power cut takes from the data is in the log: rule 17.
            if storage.truncated_index() > 5 {
                assert_eq!((cut, storage.truncated_index(), applied), (2, 20, 20));
            }
            let first = storage.first_index().unwrap();
            assert!(
                applied + 1 >= first,
                "applied {applied}, the log from {first}"
            );
            let count = crashed.snapshots.list(None).unwrap().len();
            assert_eq!(count, usize::from(cut > 0), "a file without record goes");
        }
    }
}

#[test]
fn the_newest_stays_over_restarts_and_the_one_before_goes() {
    let rig = Rig::new(with_trailing(100));
    let mut storage = single(&rig);
    for end in [10, 20] {
        let first = storage.last_index().unwrap() + 1;
        fill(&mut storage, 6, first..end);
        // By the node while somebody has the region open.
        let info = rig.node.create_coordinated_snapshot(1).unwrap();
        assert_eq!(rig.snapshots.list(None).unwrap(), [info]);
    }
    drop(storage);
    let again = rig.crash(usize::MAX);
    let storage = again.node.open_region(1).unwrap();
    assert_eq!(storage.kept_snapshot_index(), 19);
    assert_eq!(again.snapshots.list(None).unwrap().len(), 1);
    storage.destroy().unwrap();
    assert!(
        again.snapshots.list(None).unwrap().is_empty(),
        "it goes with its peer"
    );
    let storage = again.node.create_region(&Region::single(1, 9)).unwrap();
    assert_eq!(storage.kept_snapshot_index(), 0);
}

/// A region with a snapshot at 20 in term 6, applied up to 30 in term 7, the log from 11 on; closed.
fn with_snapshot(config: Config) -> (Rig, SnapshotInfo) {
    let rig = Rig::new(config);
    let mut storage = single(&rig);
    fill(&mut storage, 6, 6..21);
    drop(storage);
    let info = rig.node.create_coordinated_snapshot(1).unwrap();
    let mut storage = rig.node.open_region(1).unwrap();
    fill(&mut storage, 7, 21..31);
    storage.set_hard_state(&hard_state(8, 1, 30)).unwrap();
    drop(storage);
    (rig.node.log().sync()).and(rig.node.app().sync()).unwrap();
    (rig, info)
}

fn seen_of(rig: &Rig) -> Seen {
    let storage = rig.node.open_region(1).unwrap();
    let seen = seen(rig, &storage);
    // Raft takes it.
    raft_of(storage);
    seen
}

fn check_restored(seen: &Seen, info: &SnapshotInfo) {
    let index = info.meta.position.index;
    assert_eq!(
        (seen.apply.applied_index, seen.apply.commit_index),
        (index, index)
    );
    assert_eq!(seen.apply.truncated(), info.meta.position);
    assert_eq!((seen.raft.last_index, seen.entries.len()), (index, 0));
    let state = &seen.raft.hard_state;
    // A vote that was given stays given.
    assert_eq!((state.term, state.vote, state.commit), (8, 1, index));
    assert_eq!(seen.region.state, PeerState::Normal);
    assert_eq!(seen.region.conf_state, info.meta.conf_state);
    assert_eq!(seen.data.len() as u64, index - 5);
    assert!(seen.data.iter().all(|(_, value)| value == "6"), "{seen:?}");
}

#[test]
fn a_restore_that_is_cut_at_any_write_is_the_old_state_or_the_new() {
    // Where the log still has the snapshot's entry, and where it begins right behind it.
    for trailing in [10, 0] {
        let (rig, info) = with_snapshot(with_trailing(trailing));
        let old = seen_of(&rig);
        rig.trace.take();
        rig.node.restore_from_snapshot(&info.key).unwrap();
        let writes = rig.trace.take().len();
        assert!(writes >= 4, "{writes} writes");
        let new = seen_of(&rig);
        check_restored(&new, &info);
        assert_eq!(rig.node.metrics().snapshots_restored, 1);
        for cut in 0..writes {
            for kept in [0, usize::MAX] {
                let (rig, info) = with_snapshot(with_trailing(trailing));
                rig.trace.cut_after(cut);
                let done = rig.node.restore_from_snapshot(&info.key);
                assert!(done.is_err(), "write {cut} failed unnoticed");
                let crashed = rig.crash(kept);
                let found = seen_of(&crashed);
                assert_eq!(
                    found,
                    if cut == 0 { old.clone() } else { new.clone() },
                    "cut {cut}"
                );
                // The recovery may be cut as well.
                for second in 0..writes {
                    let (rig, info) = with_snapshot(with_trailing(trailing));
                    rig.trace.cut_after(cut);
                    assert!(rig.node.restore_from_snapshot(&info.key).is_err());
                    let again = rig.crash(0);
                    again.trace.cut_after(second);
                    drop(again.node.open_region(1));
                    let found = seen_of(&again.crash(kept));
                    assert_eq!(found, if cut == 0 { old.clone() } else { new.clone() });
                }
            }
        }
    }
}

#[test]
fn a_region_that_was_taken_back_lives_on() {
    let (rig, info) = with_snapshot(with_trailing(0));
    rig.node.restore_from_snapshot(&info.key).unwrap();
    let mut storage = rig.node.open_region(1).unwrap();
    fill(&mut storage, 9, 21..26);
    assert_eq!(storage.term(21).unwrap(), 9);
    drop(storage);
    // And may be taken back again: the snapshot is still there.
    let again = rig.crash(usize::MAX);
    again.node.restore_from_snapshot(&info.key).unwrap();
    let storage = again.node.open_region(1).unwrap();
    assert_eq!(
        (storage.applied_index(), storage.hard_state().term),
        (20, 9)
    );
    assert_eq!(data_of(&again.node).len(), 15);
}

#[test]
fn what_cannot_be_restored_is_refused_and_changes_nothing() {
    let (rig, info) = with_snapshot(with_trailing(0));
    let before = rig.dump();
    let unknown = SnapshotKey {
        id: SnapshotId {
            sequence: 7,
            ..info.key.id
        },
        ..info.key
    };
    let error = rig.node.restore_from_snapshot(&unknown).unwrap_err();
    assert!(matches!(error, Error::SnapshotNotFound { .. }), "{error}");
    let of_no_region = SnapshotKey {
        region: RegionId(9),
        ..info.key
    };
    let error = rig.node.restore_from_snapshot(&of_no_region).unwrap_err();
    assert!(matches!(error, Error::SnapshotNotFound { .. }), "{error}");
    let storage = rig.node.open_region(1).unwrap();
    let error = rig.node.restore_from_snapshot(&info.key).unwrap_err();
    assert!(matches!(error, Error::RegionOpen { .. }), "{error}");
    drop(storage);
    assert_eq!(rig.dump(), before);

    // Older than the log.
    let mut storage = rig.node.open_region(1).unwrap();
    storage.compact(26).unwrap();
    drop(storage);
    let before = rig.dump();
    let error = rig.node.restore_from_snapshot(&info.key).unwrap_err();
    assert!(
        matches!(
            error,
            Error::SnapshotOutOfDate {
                index: 20,
                first_index: 26,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(rig.dump(), before);

    // From before a change of the members.
    let (rig, info) = with_snapshot(with_trailing(100));
    let mut storage = rig.node.open_region(1).unwrap();
    storage
        .set_conf_state(&ConfState::from((vec![1], vec![5])))
        .unwrap();
    drop(storage);
    let before = rig.dump();
    let error = rig.node.restore_from_snapshot(&info.key).unwrap_err();
    assert!(matches!(error, Error::SnapshotRefused { .. }), "{error}");
    assert_eq!(rig.dump(), before);

    let error = rig.node.create_coordinated_snapshot(9).unwrap_err();
    assert!(matches!(error, Error::RegionNotFound { .. }), "{error}");
    drop(rig.node.create_uninitialized(3, 3).unwrap());
    let error = rig.node.create_coordinated_snapshot(3).unwrap_err();
    assert_says(&error, &["applied index 0"]);
}

fn region(id: u64, start: &str, end: &str) -> Region {
    Region::with_voters(id, KeyRange::new(start, end), [(PeerId(id), 1)])
}

fn keys_of(node: &CompositeStorage) -> String {
    data_of(node).into_iter().map(|(key, _)| key).collect()
}

#[test]
fn all_regions_are_kept_and_taken_back_by_one_batch() {
    let make = || {
        let rig = Rig::new(with_trailing(100));
        for (id, start, end) in [(1, "a", "m"), (2, "m", "z")] {
            let mut storage = rig.node.create_region(&region(id, start, end)).unwrap();
            apply_one(&mut storage, 5, start, None);
        }
        let infos = rig.node.create_coordinated_snapshots().unwrap();
        let keys: Vec<_> = infos.iter().map(|info| info.key).collect();
        assert_eq!(keys.iter().map(|k| k.region.0).collect::<Vec<_>>(), [1, 2]);
        for (id, key) in [(1, "b"), (2, "n")] {
            apply_one(&mut rig.node.open_region(id).unwrap(), 5, key, None);
        }
        (rig.node.log().sync()).and(rig.node.app().sync()).unwrap();
        rig.trace.take();
        (rig, keys)
    };
    let (rig, keys) = make();
    assert_eq!(keys_of(&rig.node), "abmn");
    rig.node.restore_from_snapshots(&keys).unwrap();
    assert_eq!(keys_of(&rig.node), "am");
    for cut in 0..rig.trace.take().len() {
        let (rig, keys) = make();
        rig.trace.cut_after(cut);
        assert!(rig.node.restore_from_snapshots(&keys).is_err());
        let crashed = rig.crash(0);
        for id in [1, 2] {
            let storage = crashed.node.open_region(id).unwrap();
            assert_eq!(storage.applied_index(), if cut == 0 { 7 } else { 6 });
        }
        assert_eq!(keys_of(&crashed.node), if cut == 0 { "abmn" } else { "am" });
    }
    // One that cannot be restored keeps the others from it.
    let (rig, mut keys) = make();
    keys[1].id.sequence = 9;
    assert!(rig.node.restore_from_snapshots(&keys).is_err());
    assert_eq!(keys_of(&rig.node), "abmn");
    assert!(rig.node.restore_from_snapshots(&[]).is_ok());
}

/// A node whose workers work when they are told to.
fn stepped(config: &Config) -> (CompositeStorage, SteppedWorkers, Arc<MemoryData>) {
    let data = Arc::new(MemoryData::new());
    let parts = Parts {
        log: Arc::new(MemoryLog::new()),
        app: data.clone(),
        snapshots: Arc::new(MemorySnapshots::new()),
    };
    let (node, workers) = CompositeStorage::from_parts_stepped(parts, config).unwrap();
    (node, workers, data)
}

#[test]
fn a_snapshot_and_a_compaction_come_by_themselves_and_off_the_callers_thread() {
    let mut config = with_trailing(2);
    config.snapshot.after_entries = 10;
    let (node, workers, data) = stepped(&config);
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    let syncs = |node: &CompositeStorage| node.app_stats().syncs;
    let before = syncs(&node);
    fill(&mut storage, 5, 6..15);
    assert!(!workers.step_snapshot(), "nine entries are not ten");
    fill(&mut storage, 5, 15..18);
    // What is applied behind the view is not in the snapshot.
    fill(&mut storage, 5, 18..19);
    assert!(node.snapshots().list(None).unwrap().is_empty());
    assert_eq!(syncs(&node), before, "nobody waited for the disk");
    while workers.step_snapshot() {}
    let infos = node.snapshots().list(None).unwrap();
    let indexes: Vec<_> = infos.iter().map(|i| i.meta.position.index).collect();
    assert_eq!(indexes, [17]);
    let after_snapshot = syncs(&node);
    assert_eq!(
        storage.first_index().unwrap(),
        6,
        "not before its owner's turn"
    );
    fill(&mut storage, 5, 19..20);
    assert_eq!(storage.first_index().unwrap(), 16, "two stay");
    assert!(
        node.log().read_entry(1.into(), 15).unwrap().is_some(),
        "until the sync"
    );
    // A power cut before it finds the longer log, whole.
    let lost = data.crash_copy(0);
    let state = lost
        .get(Keyspace::ApplyState, &1u64.to_be_bytes())
        .unwrap()
        .unwrap();
    let state = <peerstore::RaftApplyState as prost::Message>::decode(&*state).unwrap();
    // The snapshot's record, which was synced, has taken along what was applied before it.
    assert_eq!((state.truncated().index, state.applied_index), (5, 18));
    assert_eq!(syncs(&node), after_snapshot);
    while workers.step_snapshot() {}
    fill(&mut storage, 5, 20..21);
    assert!(node.log().read_entry(1.into(), 15).unwrap().is_none());
    assert!(node.log().read_entry(1.into(), 16).unwrap().is_some());
    fill(&mut storage, 5, 21..28);
    while workers.step_snapshot() {}
    assert_eq!(storage.kept_snapshot_index(), 27);
    assert_eq!(
        node.snapshots().list(None).unwrap().len(),
        1,
        "the one before is gone"
    );
    assert_eq!(node.metrics().snapshots_created, 2);
}

#[test]
fn bytes_make_a_snapshot_due_as_entries_do() {
    let mut config = with_trailing(2);
    config.snapshot.after_bytes = 100_000;
    let (node, workers, _) = stepped(&config);
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    for index in 6..10 {
        assert!(!workers.step_snapshot(), "due too early, before {index}");
        let entry = entry_with(5, index, &[7; 30_000]);
        storage.append(std::slice::from_ref(&entry)).unwrap();
        storage.apply(&[entry], |_, _| Ok(())).unwrap();
    }
    assert!(workers.step_snapshot());
    assert_eq!(storage.kept_snapshot_index(), 9);
}

#[test]
fn a_memory_log_is_compacted_before_it_is_full() {
    let mut config = config(1);
    (config.log, config.app) = (peerstore::LogBackend::Memory, peerstore::AppBackend::Memory);
    config.snapshot.backend = peerstore::SnapshotBackend::Memory;
    config.memory.log_entries_max = 100;
    let (node, workers) = CompositeStorage::builder()
        .config(config)
        .open_stepped()
        .unwrap();
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    for index in 6..1006 {
        fill(&mut storage, 5, index..index + 1);
        while workers.step_snapshot() {}
    }
    assert_eq!(storage.last_index().unwrap(), 1005);
    // Without the worker's help it pushes back.
    let error = storage.append(&entries(5, 1006..1106)).unwrap_err();
    assert!(matches!(error, Error::StoreFull { .. }), "{error}");
    let stats = node.raft_log_stats(1).unwrap();
    assert_eq!(stats.last_index, Some(1005));
    let first = stats.first_index.unwrap();
    assert_eq!(stats.entry_count, 1006 - first);
    assert_eq!(stats.compacted_entries, first - 6);
    assert!(
        stats.entry_count <= 100 && stats.compacted_entries >= 900,
        "{stats:?}"
    );
    let mean = stats.total_size_bytes as f64 / stats.entry_count as f64;
    assert!(
        (mean - stats.avg_entry_size_bytes).abs() < 1.0 && mean > 16.0,
        "{stats:?}"
    );
}

#[test]
fn the_gc_of_a_driver_waits_for_the_snapshot_unless_the_log_is_too_long() {
    let mut config = with_trailing(2);
    config.snapshot.after_entries = 50;
    config.gc.entries_max = 100;
    let (node, workers, _) = stepped(&config);
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    storage.append(&entries(5, 6..56)).unwrap();
    apply(&mut storage, &entries(5, 6..46)).unwrap();
    assert_eq!(storage.first_index_by_policy(None).unwrap(), None);
    apply(&mut storage, &entries(5, 46..56)).unwrap();
    assert_eq!(
        storage.first_index_by_policy(None).unwrap(),
        None,
        "it is not made yet"
    );
    while workers.step_snapshot() {}
    assert_eq!(storage.first_index_by_policy(None).unwrap(), Some(54));
    let mut config = config.clone();
    config.snapshot.after_entries = 5_000;
    let (node, _workers, _) = stepped(&config);
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..200);
    assert_eq!(storage.first_index_by_policy(None).unwrap(), Some(198));
}

#[test]
fn as_many_stay_as_the_config_says_and_any_of_them_can_be_gone_back_to() {
    let mut config = with_trailing(100);
    config.snapshot.keep_latest = 2;
    let (node, workers, _) = stepped(&config);
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    let mut keys = Vec::new();
    for end in [10, 20, 30] {
        let first = storage.last_index().unwrap() + 1;
        fill(&mut storage, 6, first..end);
        keys.push(node.create_coordinated_snapshot(1).unwrap().key);
        while workers.step_snapshot() {}
    }
    let kept = |node: &CompositeStorage| -> Vec<_> {
        let infos = node.snapshots().list(None).unwrap();
        infos.iter().map(|info| info.key).collect()
    };
    assert_eq!(kept(&node), keys[1..]);
    drop(storage);
    node.restore_from_snapshot(&keys[1]).unwrap();
    let storage = node.open_region(1).unwrap();
    assert_eq!(
        (storage.applied_index(), storage.kept_snapshot_index()),
        (19, 19)
    );
    while workers.step_snapshot() {}
    assert_eq!(
        kept(&node),
        keys[1..],
        "the newest stays, and the one that was gone back to"
    );
    drop(storage);
    // There is a way forward again.
    node.restore_from_snapshot(&keys[2]).unwrap();
    assert_eq!(node.open_region(1).unwrap().applied_index(), 29);
}

#[test]
fn a_snapshot_whose_region_is_gone_before_it_is_made_leaves_nothing() {
    let mut config = with_trailing(2);
    config.snapshot.after_entries = 10;
    let (node, workers, _) = stepped(&config);
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..20);
    storage.destroy().unwrap();
    while workers.step_snapshot() {}
    assert!(node.snapshots().list(None).unwrap().is_empty());
    assert_eq!(node.metrics().snapshots_created, 0);
}

#[test]
fn a_snapshot_without_its_record_is_no_snapshot() {
    let rig = Rig::new(with_trailing(0));
    let mut storage = single(&rig);
    fill(&mut storage, 6, 6..21);
    rig.trace.cut_after(0);
    assert!(rig.node.create_coordinated_snapshot(1).is_err());
    assert!(rig.snapshots.list(None).unwrap().is_empty());
    assert_eq!(
        (
            storage.kept_snapshot_index(),
            storage.first_index().unwrap()
        ),
        (0, 6)
    );
}
