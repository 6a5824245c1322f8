//! Rules 9, 27 and 29: what ends a region on another thread, cut anywhere.

use peerstore::memory::WriteFault;

use super::{Leaves, tombstone_ops};
use crate::app_store::AppBatch;
use crate::error::Error;
use crate::peer_storage::PeerStorage;
use crate::peer_storage::tests::recording::Step;
use crate::peer_storage::tests::support::{
    PATIENCE, Rig, config_with_files, data_of, fill, put_state, two_voters,
};
use crate::proto::{PeerState, Region};
use crate::types::{Durability, RegionId};

/// A region that has entries, data and a snapshot file.
fn region() -> (Rig, PeerStorage) {
    let rig = Rig::new(config_with_files(1));
    let mut storage = rig.node.create_region(&two_voters()).unwrap();
    fill(&mut storage, 6, 6..10);
    storage.wait_snapshot(PATIENCE).unwrap();
    rig.trace.take();
    (rig, storage)
}

/// Only the tombstone is left, and the data if it was to stay.
#[track_caller]
fn check_gone(rig: &Rig, leaves: Leaves) {
    let keys = if leaves == Leaves::Data { 4 } else { 0 };
    assert_eq!(data_of(&rig.node).len(), keys);
    let mut names: Vec<_> = rig.dump().into_keys().collect();
    names.retain(|name| !name.starts_with("data ") && !name.starts_with("store "));
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(names[0].starts_with("region_state"), "{names:?}");
    assert_eq!(rig.node.tombstones().unwrap().len(), 1);
    let error = rig.node.open_region(1).unwrap_err();
    assert!(matches!(error, Error::RegionTombstone { peer: 1, .. }));
}

#[test]
fn rule_29_the_tombstone_is_durable_first_wherever_a_removal_is_cut() {
    for leaves in [Leaves::Nothing, Leaves::Data] {
        let (rig, storage) = region();
        let task = storage.destroy_task(leaves);
        drop(storage);
        task.run().unwrap();
        let steps = rig.trace.take();
        assert!(matches!(steps[0], Step::Kv(_, Durability::Synced)));
        assert!(steps.iter().all(Step::is_synced));
        check_gone(&rig, leaves);
        assert_eq!(rig.snapshots.list(None).unwrap(), []);
        for cut in 0..steps.len() {
            let (rig, storage) = region();
            let task = storage.destroy_task(leaves);
            drop(storage);
            rig.trace.cut_after(cut);
            assert!(task.run().is_err(), "write {cut} failed unnoticed");
            for kept in [0, usize::MAX] {
                let crashed = rig.crash(kept);
                if cut > 0 {
                    check_gone(&crashed, leaves);
                } else {
                    // The node lives on with everything of it, or with what was synced.
                    crashed.node.open_region(1).unwrap();
                }
            }
        }
    }
}

#[test]
fn rule_29_without_its_tombstone_nothing_of_a_region_goes() {
    for fault in [WriteFault::DiskFull, WriteFault::SyncFailed] {
        let (rig, storage) = region();
        let before = rig.crash(usize::MAX).dump();
        let task = storage.destroy_task(Leaves::Nothing);
        drop(storage);
        rig.data.inner.fail_next_write(fault);
        assert!(task.run().is_err());
        // Whether the tombstone is on the disk is not known: nobody may go on with the region.
        let error = rig.node.open_region(1).unwrap_err();
        assert!(matches!(error, Error::Poisoned { .. }), "{error}");
        let lost = rig.log.inner.crash_copy(usize::MAX);
        let whole = peerstore::RaftLogStorage::read_entries(&lost, 1.into(), 6..10, u64::MAX);
        assert_eq!(whole.unwrap().len(), 4);
        if fault == WriteFault::DiskFull {
            let crashed = rig.crash(usize::MAX);
            assert_eq!(crashed.dump(), before);
            crashed.node.open_region(1).unwrap();
        }
    }
}

#[test]
fn a_region_cannot_be_opened_or_created_before_its_removal_has_run() {
    let (rig, storage) = region();
    let task = storage.destroy_task(Leaves::Nothing);
    drop(storage);
    let next = Region::single(1, 2);
    assert!(matches!(
        rig.node.open_region(1),
        Err(Error::RegionOpen { .. })
    ));
    assert!(matches!(
        rig.node.create_region(&next),
        Err(Error::RegionExists { .. })
    ));
    std::thread::spawn(move || task.run())
        .join()
        .unwrap()
        .unwrap();
    let storage = rig.node.create_region(&next).unwrap();
    assert_eq!(storage.get(b"key0006").unwrap(), None);
}

#[test]
fn rule_27_a_tombstone_in_another_regions_batch_leaves_the_data_to_it() {
    let (rig, storage) = region();
    let mut batch = AppBatch::default();
    tombstone_ops(storage.region_state(), Leaves::Data, &mut batch);
    rig.node.app().write(&batch, Durability::Synced).unwrap();
    // A crash before the source's log was removed: the next start does it, and touches no data.
    check_gone(&rig.crash(0), Leaves::Data);
    let task = storage.destroy_task(Leaves::Data);
    drop(storage);
    task.run().unwrap();
    check_gone(&rig, Leaves::Data);
}

#[test]
fn a_tombstone_with_its_data_is_one_batch() {
    let (rig, storage) = region();
    let mut batch = AppBatch::default();
    tombstone_ops(storage.region_state(), Leaves::Nothing, &mut batch);
    rig.node.app().write(&batch, Durability::Synced).unwrap();
    drop(storage);
    assert!(matches!(
        rig.node.open_region(1),
        Err(Error::RegionTombstone { .. })
    ));
    check_gone(&rig, Leaves::Nothing);
}

#[test]
fn a_peer_that_never_knew_its_range_takes_no_data_along() {
    let (rig, storage) = region();
    let waiting = rig.node.create_uninitialized(2, 5).unwrap();
    waiting.destroy_task(Leaves::Nothing).run().unwrap();
    assert_eq!(data_of(&rig.node).len(), 4);
    drop(storage);
}

#[test]
fn what_a_node_knows_about_a_region_can_be_asked() {
    let (rig, storage) = region();
    let local = |region| rig.node.local_state(RegionId(region));
    assert_eq!(local(1).unwrap().as_ref(), Some(storage.region_state()));
    assert_eq!(local(2).unwrap(), None);
    assert_eq!(rig.node.tombstones().unwrap(), []);
    storage.destroy().unwrap();
    let tombstones = rig.node.tombstones().unwrap();
    assert_eq!(tombstones[0].state, PeerState::Tombstone);
    assert_eq!(local(1).unwrap(), Some(tombstones[0].clone()));
    put_state(
        &rig.node,
        crate::app_store::Keyspace::RegionState,
        3,
        vec![255],
    );
    assert!(matches!(local(3), Err(Error::Corruption { .. })));
    assert_eq!(rig.node.tombstones().unwrap(), tombstones);
}
