//! Cases of many threads and of stores that are opened again. Uses: the seam.

use std::sync::atomic::{AtomicBool, Ordering};

use super::super::samples::{entries, entry, full_entry};
use super::{
    LogHarness, OTHER, R, append, expect_log, one, read, regions, state, state_of, write, write_as,
};
use crate::{Durability, RaftLogStorage, RegionId};

pub(super) fn reads_see_what_was_written_without_a_sync(h: &mut LogHarness) {
    let log = h.store();
    write_as(log, Durability::Buffered, |batch| {
        batch.append(R, entries(1..4, 1));
        batch.state(R, state(1));
    });
    expect_log(log, R, &entries(1..4, 1));
    assert_eq!(state_of(log, R), Some(state(1)));
    append(log, R, entries(4..6, 1));
    expect_log(log, R, &entries(1..6, 1));
}

pub(super) fn writers_of_different_regions_do_not_disturb_each_other(h: &mut LogHarness) {
    let log = h.store();
    std::thread::scope(|scope| {
        for n in 1..9 {
            scope.spawn(move || {
                for i in 1..25 {
                    write_as(log, durability_of(i), |batch| {
                        batch.append(RegionId(n), entries(i..i + 1, n));
                        batch.state(RegionId(n), state(i));
                    });
                    assert_eq!(one(log, RegionId(n), i), Some(entry(i, n)));
                }
                write(log, |batch| batch.remove(RegionId(n), 0..5));
            });
        }
    });
    for n in 1..9 {
        expect_log(log, RegionId(n), &entries(5..25, n));
        assert_eq!(state_of(log, RegionId(n)), Some(state(24)));
    }
}

/// Some of each.
fn durability_of(n: u64) -> Durability {
    if n.is_multiple_of(4) {
        Durability::Synced
    } else {
        Durability::Buffered
    }
}

pub(super) fn readers_never_see_a_state_before_its_entries(h: &mut LogHarness) {
    let log = h.store();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| watch(log, &done))).collect();
        for n in 1..200 {
            write_as(log, durability_of(n), |batch| {
                batch.state(R, state(n));
                batch.append(R, entries(n..n + 4, n));
            });
        }
        done.store(true, Ordering::Release);
        for reader in readers {
            let torn = reader.join().expect("reader");
            assert_eq!(torn, None, "a state whose last entry is not there");
        }
    });
}

/// Reads until `done`; returns a last index whose entry was missing.
fn watch(log: &dyn RaftLogStorage, done: &AtomicBool) -> Option<u64> {
    loop {
        let last_round = done.load(Ordering::Acquire);
        let last_index = state_of(log, R).map(|s| s.last_index);
        let missing = last_index.filter(|index| one(log, R, *index).is_none());
        if missing.is_some() || last_round {
            return missing;
        }
    }
}

pub(super) fn reopening_keeps_everything(h: &mut LogHarness) {
    let want = [vec![full_entry(3, 2)], entries(4..300, 2)].concat();
    write(h.store(), |batch| {
        batch.append(R, want.clone());
        batch.state(R, state(2));
    });
    write_as(h.store(), Durability::Buffered, |batch| {
        batch.state(OTHER, state(5));
    });
    for _ in 0..2 {
        if !h.reopen().expect("reopen") {
            return;
        }
        expect_log(h.store(), R, &want);
        assert_eq!(state_of(h.store(), R), Some(state(2)));
        assert_eq!(state_of(h.store(), OTHER), Some(state(5)));
        assert_eq!(regions(h.store()), [R.0, OTHER.0]);
    }
    append(h.store(), R, entries(300..310, 3));
    h.reopen().expect("reopen");
    assert_eq!(
        read(h.store(), R, 299..302),
        [vec![entry(299, 2)], entries(300..302, 3)].concat()
    );
}

pub(super) fn reopening_does_not_bring_back_what_was_removed(h: &mut LogHarness) {
    append(h.store(), R, entries(1..20, 1));
    append(h.store(), OTHER, entries(1..20, 1));
    write(h.store(), |batch| batch.remove(R, 0..5));
    write(h.store(), |batch| {
        batch.append(R, entries(10..12, 2));
        batch.remove(R, 12..20);
        batch.clear_region(OTHER);
    });
    if !h.reopen().expect("reopen") {
        return;
    }
    let want = [entries(5..10, 1), entries(10..12, 2)].concat();
    expect_log(h.store(), R, &want);
    for index in (0..5).chain(12..20) {
        assert_eq!(one(h.store(), R, index), None);
    }
    assert_eq!(regions(h.store()), [R.0]);
}

pub(super) fn a_power_cut_spares_what_was_synced(h: &mut LogHarness) {
    write(h.store(), |batch| {
        batch.append(R, entries(1..5, 1));
        batch.state(R, state(1));
    });
    write_as(h.store(), Durability::Buffered, |batch| {
        batch.append(R, entries(5..7, 1));
        batch.state(R, state(2));
    });
    if !h.crash().expect("crash") {
        return;
    }
    let survived = one(h.store(), R, 6).is_some();
    let (end, last) = if survived { (7, 2) } else { (5, 1) };
    // The batch that was not synced is there whole or not at all.
    expect_log(h.store(), R, &entries(1..end, 1));
    assert_eq!(state_of(h.store(), R), Some(state(last)));
}

pub(super) fn sync_covers_earlier_buffered_writes(h: &mut LogHarness) {
    for n in 1..6 {
        write_as(h.store(), Durability::Buffered, |batch| {
            batch.append(RegionId(n), entries(1..4, n));
        });
    }
    write(h.store(), |batch| batch.state(R, state(1)));
    write_as(h.store(), Durability::Buffered, |batch| {
        batch.state(OTHER, state(1));
    });
    h.store().sync().expect("sync");
    if !h.crash().expect("crash") {
        return;
    }
    for n in 1..6 {
        expect_log(h.store(), RegionId(n), &entries(1..4, n));
    }
    assert_eq!(state_of(h.store(), R), Some(state(1)));
    assert_eq!(state_of(h.store(), OTHER), Some(state(1)));
}
