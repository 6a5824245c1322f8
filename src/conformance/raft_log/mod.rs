//! The suite of [`RaftLogStorage`]. Uses: the seam. Never knows a backend.

mod lasting;

use std::ops::Range;

use raft::eraftpb::Entry;

use super::samples::{entries, entry, full_entry, size, sized_entry};
use super::{Case, Failure, Harness, report};
use crate::{Durability, Error, LogBatch, RaftLocalState, RaftLogStorage, RegionId};

/// What the cases run over.
pub type LogHarness = dyn Harness<dyn RaftLogStorage>;

const R: RegionId = RegionId(7);
const OTHER: RegionId = RegionId(8);

/// Every case, to be run one by one.
pub fn cases() -> Vec<Case<LogHarness>> {
    vec![
        Case::new(an_empty_store_has_nothing),
        Case::new(appended_entries_come_back_in_order),
        Case::new(every_field_of_an_entry_is_kept),
        Case::new(an_entry_may_be_empty_or_large),
        Case::new(an_append_goes_on_where_the_last_one_ended),
        Case::new(an_append_overwrites_and_keeps_what_lies_behind),
        Case::new(remove_drops_the_front),
        Case::new(remove_drops_the_tail),
        Case::new(remove_of_everything_keeps_the_state),
        Case::new(remove_of_what_is_not_there_is_nothing),
        Case::new(an_overwrite_with_a_removed_tail_is_one_batch),
        Case::new(the_operations_of_a_batch_keep_their_order),
        Case::new(clear_drops_entries_and_state),
        Case::new(a_log_can_start_again_after_clear),
        Case::new(a_state_is_overwritten),
        Case::new(every_field_of_a_state_is_kept),
        Case::new(a_batch_reaches_every_region),
        Case::new(regions_do_not_bleed_into_each_other),
        Case::new(regions_are_ascending_and_complete),
        Case::new(the_largest_indexes_are_kept),
        Case::new(bytes_max_cuts_as_raft_does),
        Case::new(bytes_max_counts_large_entries),
        Case::new(an_empty_range_has_no_entries),
        Case::new(a_missing_entry_is_corruption),
        Case::new(a_missing_entry_behind_the_cut_is_not_looked_at),
        Case::new(an_empty_batch_does_nothing),
        Case::new(stats_count_what_was_written),
        Case::new(approximate_bytes_is_never_wild),
        Case::new(lasting::reads_see_what_was_written_without_a_sync),
        Case::new(lasting::writers_of_different_regions_do_not_disturb_each_other),
        Case::new(lasting::readers_never_see_a_state_before_its_entries),
        Case::new(lasting::reopening_keeps_everything),
        Case::new(lasting::reopening_does_not_bring_back_what_was_removed),
        Case::new(lasting::a_power_cut_spares_what_was_synced),
        Case::new(lasting::sync_covers_earlier_buffered_writes),
    ]
}

/// Runs every case over a store of its own and returns those that failed.
pub fn check<H: Harness<dyn RaftLogStorage> + 'static>(mut new: impl FnMut() -> H) -> Vec<Failure> {
    let run = |case: &Case<LogHarness>| case.run(&mut new()).err();
    cases().iter().filter_map(run).collect()
}

/// Runs every case over a store of its own.
///
/// # Panics
/// At the end, if a case failed; the message names all that did.
pub fn run<H: Harness<dyn RaftLogStorage> + 'static>(new: impl FnMut() -> H) {
    report("raft_log", &check(new));
}

fn write(log: &dyn RaftLogStorage, fill: impl FnOnce(&mut LogBatch)) {
    write_as(log, Durability::Synced, fill);
}

fn write_as(log: &dyn RaftLogStorage, durability: Durability, fill: impl FnOnce(&mut LogBatch)) {
    let mut batch = LogBatch::default();
    fill(&mut batch);
    log.write(&batch, durability).expect("write");
}

fn append(log: &dyn RaftLogStorage, region: RegionId, entries: Vec<Entry>) {
    write(log, |batch| batch.append(region, entries));
}

fn read(log: &dyn RaftLogStorage, region: RegionId, range: Range<u64>) -> Vec<Entry> {
    let entries = log.read_entries(region, range, u64::MAX);
    entries.expect("read_entries")
}

fn one(log: &dyn RaftLogStorage, region: RegionId, index: u64) -> Option<Entry> {
    log.read_entry(region, index).expect("read_entry")
}

fn state_of(log: &dyn RaftLogStorage, region: RegionId) -> Option<RaftLocalState> {
    log.read_state(region).expect("read_state")
}

fn regions(log: &dyn RaftLogStorage) -> Vec<u64> {
    let regions = log.regions().expect("regions");
    regions.into_iter().map(|r| r.0).collect()
}

/// A state in which every field tells `n`.
fn state(n: u64) -> RaftLocalState {
    let mut state = RaftLocalState::default();
    state.hard_state.term = n;
    state.hard_state.vote = n + 1;
    state.hard_state.commit = n + 2;
    state.last_index = n + 3;
    state
}

/// That the log of `region` is exactly `want`, however it is asked.
fn expect_log(log: &dyn RaftLogStorage, region: RegionId, want: &[Entry]) {
    let (Some(first), Some(last)) = (want.first(), want.last()) else {
        return;
    };
    let (first, last) = (first.index, last.index);
    assert_eq!(read(log, region, first..last + 1), want, "read_entries");
    for entry in want {
        assert_eq!(one(log, region, entry.index).as_ref(), Some(entry));
    }
    assert_eq!(one(log, region, first.saturating_sub(1)), None, "before it");
    assert_eq!(one(log, region, last + 1), None, "behind it");
}

fn an_empty_store_has_nothing(h: &mut LogHarness) {
    let log = h.store();
    assert!(regions(log).is_empty());
    assert_eq!(state_of(log, R), None);
    assert_eq!(one(log, R, 1), None);
    log.sync().expect("sync");
}

fn appended_entries_come_back_in_order(h: &mut LogHarness) {
    let log = h.store();
    // More than one byte of index, so that a little-endian key would show.
    append(log, R, entries(250..600, 2));
    expect_log(log, R, &entries(250..600, 2));
    assert_eq!(read(log, R, 255..258), entries(255..258, 2));
}

fn every_field_of_an_entry_is_kept(h: &mut LogHarness) {
    let log = h.store();
    let mut want = vec![full_entry(1, 3), sized_entry(2, 0, "term 0"), entry(3, 3)];
    want[2].context = full_entry(3, 3).context;
    want.push(sized_entry(4, u64::MAX, vec![0, 255, 0]));
    append(log, R, want.clone());
    expect_log(log, R, &want);
}

fn an_entry_may_be_empty_or_large(h: &mut LogHarness) {
    let log = h.store();
    let large = vec![0xa5; 1024 * 1024];
    let want = vec![
        sized_entry(1, 1, ""),
        sized_entry(2, 1, large),
        sized_entry(3, 1, ""),
    ];
    append(log, R, want.clone());
    expect_log(log, R, &want);
}

fn an_append_goes_on_where_the_last_one_ended(h: &mut LogHarness) {
    let log = h.store();
    append(log, R, entries(1..4, 1));
    append(log, R, entries(4..6, 1));
    append(log, R, entries(6..7, 1));
    expect_log(log, R, &entries(1..7, 1));
}

fn an_append_overwrites_and_keeps_what_lies_behind(h: &mut LogHarness) {
    let log = h.store();
    append(log, R, entries(1..8, 1));
    append(log, R, entries(3..5, 2));
    let want = [entries(1..3, 1), entries(3..5, 2), entries(5..8, 1)].concat();
    expect_log(log, R, &want);
}

fn remove_drops_the_front(h: &mut LogHarness) {
    let log = h.store();
    append(log, R, entries(1..10, 1));
    write(log, |batch| batch.remove(R, 0..4));
    expect_log(log, R, &entries(4..10, 1));
    write(log, |batch| batch.remove(R, 4..5));
    expect_log(log, R, &entries(5..10, 1));
    assert_eq!(one(log, R, 1), None);
}

fn remove_drops_the_tail(h: &mut LogHarness) {
    let log = h.store();
    append(log, R, entries(1..10, 1));
    write(log, |batch| batch.remove(R, 7..10));
    expect_log(log, R, &entries(1..7, 1));
    write(log, |batch| batch.remove(R, 6..u64::MAX));
    expect_log(log, R, &entries(1..6, 1));
    append(log, R, entries(6..8, 2));
    expect_log(log, R, &[entries(1..6, 1), entries(6..8, 2)].concat());
}

fn remove_of_everything_keeps_the_state(h: &mut LogHarness) {
    let log = h.store();
    write(log, |batch| {
        batch.append(R, entries(1..5, 1));
        batch.state(R, state(4));
    });
    write(log, |batch| batch.remove(R, 0..u64::MAX));
    assert_eq!(one(log, R, 1), None);
    assert_eq!(one(log, R, 4), None);
    assert_eq!(state_of(log, R), Some(state(4)));
    assert_eq!(regions(log), [R.0]);
}

fn remove_of_what_is_not_there_is_nothing(h: &mut LogHarness) {
    let log = h.store();
    write(log, |batch| batch.remove(R, 0..100));
    assert!(regions(log).is_empty());
    append(log, R, entries(5..8, 1));
    write(log, |batch| batch.remove(R, 0..5));
    write(log, |batch| batch.remove(R, 8..100));
    expect_log(log, R, &entries(5..8, 1));
}

fn an_overwrite_with_a_removed_tail_is_one_batch(h: &mut LogHarness) {
    let log = h.store();
    append(log, R, entries(1..10, 1));
    write(log, |batch| {
        batch.append(R, entries(4..6, 2));
        batch.remove(R, 6..10);
        batch.state(R, state(2));
    });
    expect_log(log, R, &[entries(1..4, 1), entries(4..6, 2)].concat());
    assert_eq!(state_of(log, R), Some(state(2)));
}

fn the_operations_of_a_batch_keep_their_order(h: &mut LogHarness) {
    let log = h.store();
    write(log, |batch| {
        batch.append(R, entries(1..6, 1));
        batch.remove(R, 3..6);
        batch.append(R, entries(3..5, 2));
        batch.append(R, entries(4..5, 3));
        batch.state(R, state(1));
        batch.state(R, state(2));
        batch.state(OTHER, state(9));
        batch.append(OTHER, entries(1..4, 1));
        batch.clear_region(OTHER);
        batch.append(OTHER, entries(9..11, 4));
    });
    let want = [entries(1..3, 1), entries(3..4, 2), entries(4..5, 3)].concat();
    expect_log(log, R, &want);
    assert_eq!(state_of(log, R), Some(state(2)));
    expect_log(log, OTHER, &entries(9..11, 4));
    assert_eq!(one(log, OTHER, 1), None, "cleared in the same batch");
    assert_eq!(state_of(log, OTHER), None, "cleared in the same batch");
}

fn clear_drops_entries_and_state(h: &mut LogHarness) {
    let log = h.store();
    write(log, |batch| {
        batch.append(R, entries(1..5, 1));
        batch.state(R, state(1));
        batch.append(OTHER, entries(1..5, 2));
        batch.state(OTHER, state(2));
    });
    write(log, |batch| batch.clear_region(R));
    assert_eq!(regions(log), [OTHER.0]);
    assert_eq!(state_of(log, R), None);
    for index in 1..5 {
        assert_eq!(one(log, R, index), None);
    }
    expect_log(log, OTHER, &entries(1..5, 2));
    assert_eq!(state_of(log, OTHER), Some(state(2)));
    write(log, |batch| batch.clear_region(RegionId(100)));
    assert_eq!(regions(log), [OTHER.0]);
}

fn a_log_can_start_again_after_clear(h: &mut LogHarness) {
    let log = h.store();
    append(log, R, entries(1..20, 1));
    write(log, |batch| {
        batch.clear_region(R);
        batch.state(R, state(3));
    });
    append(log, R, entries(101..104, 5));
    expect_log(log, R, &entries(101..104, 5));
    append(log, OTHER, entries(50..60, 1));
    write(log, |batch| batch.clear_region(OTHER));
    append(log, OTHER, entries(5..8, 2));
    expect_log(log, OTHER, &entries(5..8, 2));
}

fn a_state_is_overwritten(h: &mut LogHarness) {
    let log = h.store();
    for n in 0..3 {
        write(log, |batch| batch.state(R, state(n)));
        assert_eq!(state_of(log, R), Some(state(n)));
    }
    write(log, |batch| batch.state(R, RaftLocalState::default()));
    assert_eq!(state_of(log, R), Some(RaftLocalState::default()));
}

fn every_field_of_a_state_is_kept(h: &mut LogHarness) {
    let log = h.store();
    let most = state(u64::MAX - 3);
    write(log, |batch| batch.state(R, most.clone()));
    assert_eq!(state_of(log, R), Some(most));
}

fn a_batch_reaches_every_region(h: &mut LogHarness) {
    let log = h.store();
    write(log, |batch| {
        for n in 1..200 {
            batch.append(RegionId(n), entries(n..n + 3, n));
            batch.state(RegionId(n), state(n));
        }
    });
    assert_eq!(regions(log), (1..200).collect::<Vec<_>>());
    for n in 1..200 {
        expect_log(log, RegionId(n), &entries(n..n + 3, n));
        assert_eq!(state_of(log, RegionId(n)), Some(state(n)));
    }
}

fn regions_do_not_bleed_into_each_other(h: &mut LogHarness) {
    let log = h.store();
    let ids = [0, 1, 2, 255, 256, 257, u64::MAX - 1, u64::MAX].map(RegionId);
    for region in ids {
        write(log, |batch| {
            batch.append(region, entries(1..6, region.0));
            batch.state(region, state(region.0 / 2));
        });
    }
    for gone in [RegionId(1), RegionId(256), RegionId(u64::MAX)] {
        write(log, |batch| batch.clear_region(gone));
    }
    for cut in [RegionId(0), RegionId(255), RegionId(u64::MAX - 1)] {
        write(log, |batch| batch.remove(cut, 4..u64::MAX));
        write(log, |batch| batch.remove(cut, 0..2));
    }
    for region in [0, 255, u64::MAX - 1].map(RegionId) {
        expect_log(log, region, &entries(2..4, region.0));
        assert_eq!(state_of(log, region), Some(state(region.0 / 2)));
    }
    for region in [2, 257].map(RegionId) {
        expect_log(log, region, &entries(1..6, region.0));
        assert_eq!(state_of(log, region), Some(state(region.0 / 2)));
    }
    for region in [1, 256, u64::MAX].map(RegionId) {
        assert_eq!(one(log, region, 1), None);
        assert_eq!(state_of(log, region), None);
    }
    assert_eq!(regions(log), [0, 2, 255, 257, u64::MAX - 1]);
}

fn regions_are_ascending_and_complete(h: &mut LogHarness) {
    let log = h.store();
    write(log, |batch| {
        batch.state(RegionId(300), state(1));
        batch.append(RegionId(u64::MAX), entries(9..10, 1));
        batch.state(RegionId(2), state(1));
        batch.append(RegionId(2), entries(1..3, 1));
        batch.append(RegionId(0), entries(1..2, 1));
        batch.state(RegionId(1), state(0));
    });
    // With a state, with entries, with both.
    assert_eq!(regions(log), [0, 1, 2, 300, u64::MAX]);
    write(log, |batch| batch.remove(RegionId(0), 0..10));
    assert_eq!(regions(log), [1, 2, 300, u64::MAX]);
}

fn the_largest_indexes_are_kept(h: &mut LogHarness) {
    let log = h.store();
    let last = u64::MAX - 1;
    append(log, R, entries(last - 2..last + 1, 1));
    expect_log(log, R, &entries(last - 2..last + 1, 1));
    write(log, |batch| batch.remove(R, last..last + 1));
    expect_log(log, R, &entries(last - 2..last, 1));
    write(log, |batch| batch.remove(R, 0..last - 1));
    expect_log(log, R, &entries(last - 1..last, 1));
}

fn bytes_max_cuts_as_raft_does(h: &mut LogHarness) {
    let log = h.store();
    let all: Vec<Entry> = (1..30)
        .map(|i| sized_entry(i, 1, vec![1; (i as usize * 37) % 300]))
        .collect();
    append(log, R, all.clone());
    let mut limits = vec![0, 1, u64::MAX];
    for count in 1..all.len() {
        let bytes = size(&all[..count]);
        limits.extend([bytes - 1, bytes, bytes + 1]);
    }
    for limit in limits {
        let mut want = all.clone();
        raft::util::limit_size(&mut want, Some(limit));
        let got = log.read_entries(R, 1..30, limit).expect("read_entries");
        assert_eq!(got, want, "with at most {limit} bytes");
        assert!(!got.is_empty(), "at least one");
    }
}

fn bytes_max_counts_large_entries(h: &mut LogHarness) {
    let log = h.store();
    let large = |i| sized_entry(i, 1, vec![7; 300_000]);
    append(log, R, (1..6).map(large).collect());
    let got = log.read_entries(R, 1..6, 700_000).expect("read_entries");
    assert_eq!(got, [large(1), large(2)]);
    let got = log.read_entries(R, 3..6, 10).expect("read_entries");
    assert_eq!(got, [large(3)]);
}

fn an_empty_range_has_no_entries(h: &mut LogHarness) {
    let log = h.store();
    assert_eq!(read(log, R, 1..1), []);
    append(log, R, entries(1..5, 1));
    assert_eq!(read(log, R, 3..3), []);
    assert_eq!(read(log, R, 5..5), []);
    assert_eq!(read(log, R, Range { start: 4, end: 2 }), []);
}

fn a_missing_entry_is_corruption(h: &mut LogHarness) {
    let log = h.store();
    append(log, R, entries(5..9, 1));
    for range in [4..9, 4..6, 5..10, 9..10, 1..2, 100..200] {
        let got = log.read_entries(R, range.clone(), u64::MAX);
        let refused = matches!(
            &got,
            Err(Error::Corruption {
                region: Some(R),
                ..
            })
        );
        assert!(refused, "of {range:?} in a log of 5..9: {got:?}");
    }
    let got = log.read_entries(OTHER, 1..2, u64::MAX);
    assert!(matches!(got, Err(Error::Corruption { .. })), "{got:?}");
}

fn a_missing_entry_behind_the_cut_is_not_looked_at(h: &mut LogHarness) {
    let log = h.store();
    append(log, R, entries(5..9, 1));
    let got = log.read_entries(R, 5..20, 0).expect("read_entries");
    assert_eq!(got, entries(5..6, 1));
    let limit = size(&entries(5..7, 1));
    let got = log.read_entries(R, 5..20, limit).expect("read_entries");
    assert_eq!(got, entries(5..7, 1));
}

fn an_empty_batch_does_nothing(h: &mut LogHarness) {
    let log = h.store();
    append(log, R, entries(1..3, 1));
    let before = log.stats();
    write(log, |_| {});
    write(log, |batch| {
        batch.append(OTHER, Vec::new());
        batch.remove(R, 2..2);
    });
    assert_eq!(log.stats().syncs, before.syncs, "it does not sync");
    assert_eq!(regions(log), [R.0]);
    expect_log(log, R, &entries(1..3, 1));
}

fn stats_count_what_was_written(h: &mut LogHarness) {
    let log = h.store();
    let before = log.stats();
    let batch = sized_entry(1, 1, vec![0; 5000]);
    append(log, R, vec![batch, entry(2, 1)]);
    write_as(log, Durability::Buffered, |batch| batch.state(R, state(1)));
    let after = log.stats();
    assert_eq!(after.writes - before.writes, 2);
    assert_eq!(after.entries - before.entries, 2);
    assert!(after.bytes - before.bytes >= 5000, "{after:?}");
    assert!(after.syncs > before.syncs, "a synced write syncs");
}

fn approximate_bytes_is_never_wild(h: &mut LogHarness) {
    let log = h.store();
    for i in 1..33 {
        append(log, R, vec![sized_entry(i, 1, vec![0; 10_000])]);
    }
    let bytes = |region, range| log.approximate_bytes(region, range).expect("bytes");
    // What was written last may be left out, but nothing may be counted ten times.
    assert!(bytes(R, 1..33) < 10 * 320_000);
    assert_eq!(bytes(R, 5..5), 0);
    assert_eq!(bytes(OTHER, 1..33), 0);
}
