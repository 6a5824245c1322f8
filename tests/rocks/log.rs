//! The log: entries, removals, regions, fsyncs.

use std::sync::Barrier;

use peerstore::{Durability::*, Error, LogBatch, RaftLocalState, RaftLogStorage, RegionId};
use protobuf::Message as _;
use raft::eraftpb::EntryType;

use super::*;

const MAX: u64 = u64::MAX;

fn indexes(log: &RocksLog, region: u64, range: std::ops::Range<u64>, bytes_max: u64) -> Vec<u64> {
    let entries = log
        .read_entries(RegionId(region), range, bytes_max)
        .unwrap();
    entries.iter().map(|e| e.index).collect()
}

fn remove(log: &RocksLog, region: u64, range: std::ops::Range<u64>) {
    let mut batch = LogBatch::default();
    batch.remove(RegionId(region), range);
    log.write(&batch, Synced).unwrap();
}

#[test]
fn entries_keep_every_field_across_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let mut full = entry(7, b"data");
    full.set_entry_type(EntryType::EntryConfChangeV2);
    full.context = b"context".to_vec().into();
    full.sync_log = true;
    let mut state = RaftLocalState {
        last_index: 7,
        ..RaftLocalState::default()
    };
    state.hard_state.vote = 9;
    let mut batch = LogBatch::default();
    batch.append(RegionId(1), vec![full.clone()]);
    batch.state(RegionId(1), state.clone());
    open_log(dir.path()).write(&batch, Synced).unwrap();
    let log = open_log(dir.path());
    assert_eq!(log.read_entry(RegionId(1), 7).unwrap(), Some(full));
    assert_eq!(log.read_state(RegionId(1)).unwrap(), Some(state));
    assert_eq!(log.read_entry(RegionId(1), 8).unwrap(), None);
    assert_eq!(log.read_state(RegionId(2)).unwrap(), None);
}

#[test]
fn a_read_stops_before_the_limit_of_bytes_as_raft_does() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(dir.path());
    append(&log, 1, 10..60, Buffered);
    for range in [10..18, 10..60, 12..12] {
        let all = log.read_entries(RegionId(1), range.clone(), MAX).unwrap();
        assert_eq!(all, entries(range.clone()));
        for limit in (0..200).chain([10_000]) {
            let mut expected = all.clone();
            raft::util::limit_size(&mut expected, Some(limit));
            let got = log.read_entries(RegionId(1), range.clone(), limit).unwrap();
            assert_eq!(got, expected, "{range:?} up to {limit} bytes");
        }
    }
    assert!(all_sizes_add_up(&log));
}

fn all_sizes_add_up(log: &RocksLog) -> bool {
    let all = log.read_entries(RegionId(1), 10..60, MAX).unwrap();
    let total: u32 = all.iter().map(|e| e.compute_size()).sum();
    indexes(log, 1, 10..60, u64::from(total)).len() == 50
        && indexes(log, 1, 10..60, u64::from(total) - 1).len() == 49
}

#[test]
fn a_hole_is_corruption_unless_the_cut_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(dir.path());
    append(&log, 4, 1..30, Buffered);
    remove(&log, 4, 5..6);
    for range in [3..8, 3..25] {
        match log.read_entries(RegionId(4), range.clone(), MAX) {
            Err(Error::Corruption {
                region: Some(RegionId(4)),
                what,
                ..
            }) => {
                assert_eq!(what, "entry 5");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(indexes(&log, 4, range, 1), [3]);
    }
    // Behind the last entry of the region another region's begins.
    append(&log, 5, 30..60, Buffered);
    let error = log.read_entries(RegionId(4), 20..40, MAX).unwrap_err();
    assert!(error.to_string().contains("entry 30"), "{error}");
}

#[test]
fn a_removal_takes_exactly_its_range_however_long_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(dir.path());
    for region in [1, 2, 3, MAX] {
        append(&log, region, 1..4001, Buffered);
    }
    remove(&log, 1, 1..11);
    remove(&log, 2, 1..2001);
    remove(&log, 3, 0..4);
    remove(&log, MAX, 100..MAX);
    assert_eq!(indexes(&log, 1, 11..4001, MAX).len(), 3990);
    assert_eq!(log.read_entry(RegionId(1), 10).unwrap(), None);
    assert_eq!(indexes(&log, 2, 2001..4001, MAX).len(), 2000);
    assert_eq!(log.read_entry(RegionId(2), 2000).unwrap(), None);
    assert_eq!(indexes(&log, 3, 4..4001, MAX).len(), 3997);
    assert_eq!(log.read_entry(RegionId(3), 3).unwrap(), None);
    assert_eq!(indexes(&log, MAX, 1..100, MAX).len(), 99);
    assert_eq!(log.read_entry(RegionId(MAX), 100).unwrap(), None);
}

#[test]
fn clearing_a_region_takes_its_first_and_its_last_possible_entry_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(dir.path());
    let fill = |region| {
        let mut batch = LogBatch::default();
        batch.append(RegionId(region), vec![entry(0, b"first")]);
        batch.append(RegionId(region), vec![entry(MAX, b"last")]);
        batch.state(RegionId(region), RaftLocalState::default());
        log.write(&batch, Buffered).unwrap();
    };
    let regions = [0, 1, 2, MAX - 1, MAX];
    regions.into_iter().for_each(fill);
    assert_eq!(log.regions().unwrap(), regions.map(RegionId));
    for cleared in [1, MAX] {
        let mut batch = LogBatch::default();
        batch.clear_region(RegionId(cleared));
        log.write(&batch, Synced).unwrap();
        assert_eq!(log.read_entry(RegionId(cleared), 0).unwrap(), None);
        assert_eq!(log.read_entry(RegionId(cleared), MAX).unwrap(), None);
        assert_eq!(log.read_state(RegionId(cleared)).unwrap(), None);
    }
    assert_eq!(log.regions().unwrap(), [0, 2, MAX - 1].map(RegionId));
    for kept in [0, 2, MAX - 1] {
        assert!(log.read_entry(RegionId(kept), MAX).unwrap().is_some());
    }
}

#[test]
fn operations_of_a_batch_take_effect_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(dir.path());
    append(&log, 1, 1..2000, Buffered);
    let mut batch = LogBatch::default();
    batch.clear_region(RegionId(1));
    batch.append(RegionId(1), entries(50..60));
    batch.remove(RegionId(1), 0..55);
    batch.append(RegionId(1), entries(52..56));
    log.write(&batch, Synced).unwrap();
    assert_eq!(indexes(&log, 1, 52..60, MAX).len(), 8);
    assert_eq!(log.read_entry(RegionId(1), 51).unwrap(), None);
    assert_eq!(log.read_entry(RegionId(1), 60).unwrap(), None);
}

#[test]
fn regions_are_those_with_a_state_or_an_entry() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(dir.path());
    let mut batch = LogBatch::default();
    batch.state(RegionId(2), RaftLocalState::default());
    batch.append(RegionId(7), entries(5..500));
    batch.append(RegionId(9), entries(5..6));
    batch.state(RegionId(9), RaftLocalState::default());
    log.write(&batch, Buffered).unwrap();
    assert_eq!(log.regions().unwrap(), [2, 7, 9].map(RegionId));
}

#[test]
fn every_synced_write_is_an_fsync_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(dir.path());
    assert_eq!(log.stats(), Default::default());
    log.write(&LogBatch::default(), Synced).unwrap();
    assert_eq!(log.stats(), Default::default());
    append(&log, 1, 1..4, Buffered);
    let stats = log.stats();
    assert_eq!((stats.writes, stats.syncs, stats.entries), (1, 0, 3));
    for i in 4..14 {
        append(&log, 1, i..i + 1, Synced);
    }
    log.sync().unwrap();
    let stats = log.stats();
    assert_eq!((stats.writes, stats.syncs, stats.entries), (11, 11, 13));
    let values: u32 = entries(1..14).iter().map(|e| e.compute_size()).sum();
    assert_eq!(stats.bytes, 13 * 16 + u64::from(values));
}

#[test]
fn concurrent_synced_writers_are_all_kept_with_no_more_fsyncs_than_writes() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(dir.path());
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for region in 1..=8 {
            let (log, start) = (&log, &start);
            scope.spawn(move || {
                start.wait();
                (1..26).for_each(|i| append(log, region, i..i + 1, Synced));
            });
        }
    });
    let stats = log.stats();
    assert_eq!(stats.writes, 200);
    assert!((25..=200).contains(&stats.syncs), "{stats:?}");
    drop(log);
    let log = open_log(dir.path());
    for region in 1..=8 {
        assert_eq!(indexes(&log, region, 1..26, MAX).len(), 25);
    }
}

#[test]
fn approximate_bytes_count_what_has_left_the_memtable() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(dir.path());
    for i in 1..1001 {
        let mut batch = LogBatch::default();
        batch.append(RegionId(1), vec![entry(i, &noise(i, 4096))]);
        log.write(&batch, Buffered).unwrap();
    }
    // Opening replays the log into tables.
    drop(log);
    let log = open_log(dir.path());
    let whole = log.approximate_bytes(RegionId(1), 1..1001).unwrap();
    let half = log.approximate_bytes(RegionId(1), 1..501).unwrap();
    assert!(
        whole > 2 << 20 && half < whole,
        "half {half}, whole {whole}"
    );
    assert_eq!(log.approximate_bytes(RegionId(2), 0..MAX).unwrap(), 0);
    assert_eq!(log.approximate_bytes(RegionId(1), 5..5).unwrap(), 0);
}
