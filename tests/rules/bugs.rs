//! Bugs that others had in this layer, and traps that raft 0.7 sets, as far as no rule names them.

use peerstore::{PeerStorage, Region};
use raft::{GetEntriesContext, RawNode, Storage as _};

use crate::recording::Step;
use crate::support::{
    PATIENCE, Rig, apply, config, data_of, dump, entries, entry_with, fill, hard_state, on_disk,
};

fn terms(storage: &PeerStorage, indexes: std::ops::Range<u64>) -> Vec<Option<u64>> {
    indexes.map(|index| storage.term(index).ok()).collect()
}

#[test]
fn opening_writes_nothing_and_keeps_the_vote() {
    let rig = Rig::new(config(1));
    let mut storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 6, 6..9);
    storage.set_hard_state(&hard_state(7, 3, 8)).unwrap();
    drop(storage);
    rig.trace.take();
    for _ in 0..3 {
        let storage = rig.node.open_region(1).unwrap();
        assert_eq!(storage.hard_state(), &hard_state(7, 3, 8));
    }
    let steps: Vec<Step> = rig.trace.take();
    assert!(steps.is_empty(), "{steps:?}");
}

#[test]
fn raft_starts_from_what_was_applied_not_from_what_was_committed() {
    let rig = Rig::new(config(1));
    let mut storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    storage.append(&entries(5, 6..12)).unwrap();
    storage.set_hard_state(&hard_state(5, 1, 11)).unwrap();
    apply(&mut storage, &entries(5, 6..9)).unwrap();
    drop(storage);
    let storage = rig.node.open_region(1).unwrap();
    assert_eq!(storage.raft_config().applied, 8);
    let config = storage.raft_config();
    let mut raft = RawNode::new(&config, storage, &peerstore::raft_logger()).unwrap();
    let replayed = raft.ready().take_committed_entries();
    assert_eq!(replayed, entries(5, 9..12), "none lost, none twice");
}

#[test]
fn the_term_table_knows_nothing_past_the_tail_or_before_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    for (term, indexes) in [(5, 6..9), (7, 9..12), (8, 12..14), (9, 11..13)] {
        storage.append(&entries(term, indexes)).unwrap();
    }
    let mut expected = [5, 5, 5, 5, 7, 7, 9, 9].map(Some).to_vec();
    expected.extend([None, None]);
    for _ in 0..2 {
        assert_eq!(terms(&storage, 5..15), expected);
        drop(storage);
        storage = node.open_region(1).unwrap();
    }
    storage.compact(10).unwrap();
    assert_eq!(
        terms(&storage, 7..12),
        [None, None, Some(7), Some(7), Some(9)]
    );
    storage.append(&entries(9, 13..14)).unwrap();
    assert_eq!(terms(&storage, 12..15), [Some(9), Some(9), None]);
}

#[test]
fn compacting_the_cache_keeps_the_index_that_was_named() {
    let rig = Rig::new(config(1));
    let mut storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..20);
    storage.compact_cache(12);
    assert_eq!(storage.cached_from(), Some(12));
    let read = storage.entries(8, 20, None, GetEntriesContext::empty(false));
    assert_eq!(read.unwrap(), entries(5, 8..20), "from log and cache");
}

#[test]
fn compaction_keeps_exactly_from_the_first_index_on() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..20);
    for first_index in [7, 12, 19] {
        storage.compact(first_index).unwrap();
        let in_log = |index| node.log().read_entry(1.into(), index).unwrap().is_some();
        assert_eq!(
            (in_log(first_index - 1), in_log(first_index)),
            (false, true)
        );
        assert_eq!(storage.term(first_index), Ok(5));
    }
    let entries_left = dump(&node)
        .keys()
        .filter(|k| k.starts_with("entry"))
        .count();
    assert_eq!(entries_left, 1, "nothing leaks below first_index");
}

#[test]
fn a_value_larger_than_a_block_travels_in_a_snapshot() {
    let rig = Rig::new(config(1));
    let mut storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    let value: Vec<u8> = (0..3 << 20).map(|i: u32| ((i * 31) >> 3) as u8).collect();
    let entry = entry_with(5, 6, b"big");
    storage.append(std::slice::from_ref(&entry)).unwrap();
    let put = |_: &_, batch: &mut peerstore::ApplyBatch| {
        batch.put("big", &value);
        Ok(())
    };
    storage.apply(&[entry], put).unwrap();
    let snapshot = storage.wait_snapshot(PATIENCE).unwrap();
    let target = Rig::of(
        config(1),
        peerstore::memory::MemoryLog::new(),
        peerstore::memory::MemoryData::new(),
        rig.snapshots.clone(),
    );
    let mut copy = target.node.create_uninitialized(1, 2).unwrap();
    copy.install_snapshot(snapshot).unwrap();
    assert_eq!(copy.get(b"big").unwrap().unwrap(), value);
    assert_eq!(data_of(&target.node).len(), 1);
}

#[test]
fn a_follower_whose_log_conflicts_follows_the_leader_after_a_crash_too() {
    let rig = Rig::new(config(1));
    let mut storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    storage.append(&entries(5, 6..15)).unwrap();
    storage.append(&entries(6, 10..12)).unwrap();
    for kept in [0, usize::MAX] {
        let reopened = rig.crash(kept).node.open_region(1).unwrap();
        let last = reopened.last_position();
        assert_eq!((last.term, last.index), (6, 11));
        let mut read = reopened.entries(6, 12, None, GetEntriesContext::empty(false));
        let expected = [entries(5, 6..10), entries(6, 10..12)].concat();
        assert_eq!(read.as_mut().unwrap(), &expected);
    }
}
