//! Power cuts and failing writes of the memory stores, and the placement.

use super::{MemoryData, MemoryLog, MemoryPlacement, WriteFault};
use crate::proto::RaftLocalState;
use crate::{
    AppBatch, ApplicationDataStorage, DataRead, Durability, Error, Keyspace, LogBatch, Placement,
    RaftLogStorage, Region, RegionReport,
};

fn state(last_index: u64) -> LogBatch {
    let mut batch = LogBatch::default();
    let hard_state = Default::default();
    let state = RaftLocalState {
        hard_state,
        last_index,
    };
    batch.state(1.into(), state);
    batch
}

fn last_index(log: &MemoryLog) -> Option<u64> {
    let state = log.read_state(1.into()).unwrap();
    state.map(|s| s.last_index)
}

#[test]
fn a_power_cut_spares_as_many_batches_as_it_is_told() {
    let log = MemoryLog::new();
    log.write(&state(1), Durability::Synced).unwrap();
    log.write(&state(2), Durability::Buffered).unwrap();
    log.write(&state(3), Durability::Buffered).unwrap();
    assert_eq!(log.unsynced(), 2);
    let left: Vec<_> = [0, 1, 2, usize::MAX]
        .map(|kept| last_index(&log.crash_copy(kept)))
        .into();
    assert_eq!(left, [Some(1), Some(2), Some(3), Some(3)]);
    log.write(&state(4), Durability::Synced).unwrap();
    assert_eq!(last_index(&log.crash_copy(0)), Some(4));
    assert_eq!(log.unsynced(), 0);
}

#[test]
fn a_refused_write_changes_nothing_and_poisons() {
    let log = MemoryLog::new();
    log.write(&state(1), Durability::Synced).unwrap();
    log.fail_next_write(WriteFault::DiskFull);
    let got = log.write(&state(2), Durability::Synced);
    assert!(matches!(got, Err(Error::DiskFull { .. })), "{got:?}");
    assert_eq!(last_index(&log), Some(1));
    for got in [log.write(&state(3), Durability::Buffered), log.sync()] {
        assert!(matches!(got, Err(Error::Poisoned { .. })), "{got:?}");
    }
    assert_eq!(last_index(&log), Some(1), "reads go on");
    let reopened = log.crash_copy(usize::MAX);
    assert_eq!(last_index(&reopened), Some(1));
    reopened.write(&state(3), Durability::Synced).unwrap();
}

#[test]
fn a_write_whose_fsync_failed_may_or_may_not_be_there() {
    let log = MemoryLog::new();
    log.write(&state(1), Durability::Synced).unwrap();
    log.fail_next_write(WriteFault::SyncFailed);
    log.write(&state(2), Durability::Buffered).unwrap();
    let got = log.write(&state(3), Durability::Synced);
    assert!(matches!(got, Err(Error::Io { .. })), "{got:?}");
    assert_eq!(last_index(&log), Some(2), "nobody was told of the third");
    let got = log.write(&state(4), Durability::Synced);
    assert!(matches!(got, Err(Error::Poisoned { .. })), "{got:?}");
    let left: Vec<_> = [0, 1, 2]
        .map(|kept| last_index(&log.crash_copy(kept)))
        .into();
    assert_eq!(left, [Some(1), Some(2), Some(3)]);
}

#[test]
fn a_failed_import_changes_nothing() {
    let data = MemoryData::new();
    let mut batch = AppBatch::default();
    batch.put(Keyspace::Data, "a", "1");
    data.write(&batch, Durability::Synced).unwrap();
    let import = data.begin_import(&crate::KeyRange::all()).unwrap();
    data.fail_next_write(WriteFault::SyncFailed);
    assert!(matches!(import.finish(), Err(Error::Io { .. })));
    let found = data.get(Keyspace::Data, b"a").unwrap();
    assert_eq!(found.as_deref(), Some(&b"1"[..]));
    let got = data.write(&batch, Durability::Buffered);
    assert!(matches!(got, Err(Error::Poisoned { .. })), "{got:?}");
}

#[test]
fn ids_are_larger_than_every_one_that_was_seen_and_never_given_twice() {
    let placement = MemoryPlacement::new();
    assert_eq!(placement.allocate_ids(3).unwrap(), [1, 2, 3]);
    let clone = placement.clone();
    clone.observe_id(10);
    clone.observe_id(4);
    assert_eq!(placement.max_id(), 10);
    assert!(placement.allocate_ids(0).unwrap().is_empty());
    assert_eq!(placement.allocate_ids(2).unwrap(), [11, 12]);
    assert_eq!(clone.allocate_ids(1).unwrap(), [13]);
    assert_eq!(placement.address(1), None);
}

#[test]
fn the_newest_report_of_a_region_is_kept() {
    let placement = MemoryPlacement::new();
    let report = |id: u64, version, term| {
        let mut region = Region::single(id, 1);
        region.region_epoch.version = version;
        let leader = region.peers[0];
        let report = RegionReport {
            region,
            leader,
            term,
        };
        placement.report(&report);
        report
    };
    let one = report(1, 2, 7);
    report(1, 1, 9);
    report(1, 2, 6);
    let two = report(2, 1, 1);
    assert_eq!(placement.reports(), [one, two.clone()]);
    let newer = report(1, 3, 6);
    assert_eq!(placement.reports(), [newer, two]);
}
