//! Cases of reading and appending. Uses: raft.

use std::panic::{AssertUnwindSafe, catch_unwind};

use raft::{Error, GetEntriesContext, Storage, StorageError};

use super::super::samples::{size, sized_entry};
use super::{
    Case, StorageUnderTest, assert_compacted, assert_unavailable, bounds, expect_log, full_entry,
    hard_state, initial, joint, read, samples, seen, snapshot_of, term, try_entries, try_term,
    voters,
};

pub(super) fn cases<U: StorageUnderTest + 'static>() -> Vec<Case<U>> {
    vec![
        Case::new(a_new_storage_is_empty::<U>),
        Case::new(a_new_storage_takes_a_hard_state::<U>),
        Case::new(a_configuration_keeps_every_field::<U>),
        Case::new(a_hard_state_may_come_before_its_entries::<U>),
        Case::new(appended_entries_come_back::<U>),
        Case::new(every_field_of_an_entry_is_kept::<U>),
        Case::new(the_term_of_every_entry_is_known::<U>),
        Case::new(the_term_outside_the_log_is_not_made_up::<U>),
        Case::new(an_overwrite_removes_the_tail::<U>),
        Case::new(an_overwrite_may_start_at_the_first_index::<U>),
        Case::new(an_overwrite_changes_the_terms::<U>),
        Case::new(an_append_of_nothing_changes_nothing::<U>),
        Case::new(an_append_that_leaves_a_gap_is_unavailable::<U>),
        Case::new(an_append_with_a_gap_in_it_is_refused::<U>),
        Case::new(an_append_below_the_first_index_is_compacted::<U>),
        Case::new(a_range_is_half_open::<U>),
        Case::new(a_size_limit_cuts_as_raft_does::<U>),
        Case::new(a_size_limit_lets_one_entry_through::<U>),
        Case::new(entries_below_the_first_index_are_compacted::<U>),
        Case::new(entries_behind_the_last_index_are_never_answered::<U>),
        Case::new(an_async_read_answers_after_the_fetch::<U>),
    ]
}

fn a_new_storage_is_empty<U: StorageUnderTest>(u: &mut U) {
    assert_eq!(bounds(u), (1, 0));
    assert_eq!(term(u, 0), 0);
    assert_unavailable(try_term(u, 1));
    assert_eq!(initial(u).0, hard_state(0, 0, 0));
}

fn a_new_storage_takes_a_hard_state<U: StorageUnderTest>(u: &mut U) {
    u.set_hard_state(&hard_state(3, 2, 0)).expect("hard state");
    assert_eq!(initial(u).0, hard_state(3, 2, 0));
    assert_eq!(bounds(u), (1, 0));
}

fn a_configuration_keeps_every_field<U: StorageUnderTest>(u: &mut U) {
    u.set_conf_state(&joint()).expect("conf state");
    assert_eq!(initial(u).1, joint());
    u.set_conf_state(&voters(&[1, 2])).expect("conf state");
    assert_eq!(initial(u).1, voters(&[1, 2]));
    assert_eq!(bounds(u), (1, 0));
}

fn a_hard_state_may_come_before_its_entries<U: StorageUnderTest>(u: &mut U) {
    u.set_hard_state(&hard_state(2, 1, 3)).expect("hard state");
    u.append(&samples(1..4, 2)).expect("append");
    assert_eq!(initial(u).0, hard_state(2, 1, 3));
    expect_log(u, &samples(1..4, 2));
}

fn appended_entries_come_back<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..4, 1)).expect("append");
    expect_log(u, &samples(1..4, 1));
    u.append(&samples(4..5, 1)).expect("append");
    // More than a byte of index, and more than any batch of point reads.
    u.append(&samples(5..400, 2)).expect("append");
    expect_log(u, &[samples(1..5, 1), samples(5..400, 2)].concat());
}

fn every_field_of_an_entry_is_kept<U: StorageUnderTest>(u: &mut U) {
    let want = [
        full_entry(1, 1),
        sized_entry(2, 1, ""),
        sized_entry(3, 1, vec![0xa5; 1024 * 1024]),
        full_entry(4, 2),
    ];
    u.append(&want).expect("append");
    expect_log(u, &want);
}

fn the_term_of_every_entry_is_known<U: StorageUnderTest>(u: &mut U) {
    let runs = [samples(1..3, 1), samples(3..9, 4), samples(9..10, 5)];
    for run in &runs {
        u.append(run).expect("append");
    }
    let found: Vec<u64> = (0..10).map(|index| term(u, index)).collect();
    assert_eq!(found, [0, 1, 1, 4, 4, 4, 4, 4, 4, 5]);
}

fn the_term_outside_the_log_is_not_made_up<U: StorageUnderTest>(u: &mut U) {
    let snapshot = snapshot_of(u, 5, 2, voters(&[1]));
    u.install_snapshot(snapshot).expect("install");
    u.append(&samples(6..9, 3)).expect("append");
    assert_compacted(try_term(u, 4));
    assert_compacted(try_term(u, 0));
    assert_eq!(term(u, 5), 2);
    assert_eq!(term(u, 6), 3);
    assert_eq!(term(u, 8), 3);
    assert_unavailable(try_term(u, 9));
    assert_unavailable(try_term(u, u64::MAX));
}

fn an_overwrite_removes_the_tail<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..10, 1)).expect("append");
    u.append(&samples(4..6, 2)).expect("append");
    expect_log(u, &[samples(1..4, 1), samples(4..6, 2)].concat());
    for index in 6..10 {
        assert_unavailable(try_term(u, index));
    }
    u.append(&samples(6..7, 3)).expect("append");
    let want = [samples(1..4, 1), samples(4..6, 2), samples(6..7, 3)].concat();
    expect_log(u, &want);
}

fn an_overwrite_may_start_at_the_first_index<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..6, 1)).expect("append");
    u.append(&samples(1..3, 2)).expect("append");
    expect_log(u, &samples(1..3, 2));
}

fn an_overwrite_changes_the_terms<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..10, 1)).expect("append");
    u.append(&samples(5..10, 3)).expect("append");
    u.append(&samples(7..10, 4)).expect("append");
    let found: Vec<u64> = (1..10).map(|index| term(u, index)).collect();
    assert_eq!(found, [1, 1, 1, 1, 3, 3, 4, 4, 4]);
    u.append(&samples(3..12, 5)).expect("append");
    let found: Vec<u64> = (1..12).map(|index| term(u, index)).collect();
    assert_eq!(found, [1, 1, 5, 5, 5, 5, 5, 5, 5, 5, 5]);
}

fn an_append_of_nothing_changes_nothing<U: StorageUnderTest>(u: &mut U) {
    u.append(&[]).expect("append");
    assert_eq!(bounds(u), (1, 0));
    u.append(&samples(1..5, 1)).expect("append");
    u.append(&[]).expect("append");
    expect_log(u, &samples(1..5, 1));
}

fn an_append_that_leaves_a_gap_is_unavailable<U: StorageUnderTest>(u: &mut U) {
    assert_unavailable(u.append(&samples(2..3, 1)));
    assert_eq!(bounds(u), (1, 0));
    u.append(&samples(1..4, 1)).expect("append");
    let before = seen(u);
    assert_unavailable(u.append(&samples(5..8, 1)));
    assert_eq!(seen(u), before, "a refused write changes nothing");
    u.append(&samples(4..6, 2)).expect("append");
    expect_log(u, &[samples(1..4, 1), samples(4..6, 2)].concat());
}

fn an_append_with_a_gap_in_it_is_refused<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..4, 1)).expect("append");
    let before = seen(u);
    let got = u.append(&[samples(3..5, 2), samples(6..7, 2)].concat());
    assert!(got.is_err(), "entries 3, 4, 6 were taken");
    assert_eq!(seen(u), before, "a refused write changes nothing");
}

fn an_append_below_the_first_index_is_compacted<U: StorageUnderTest>(u: &mut U) {
    let snapshot = snapshot_of(u, 5, 2, voters(&[1]));
    u.install_snapshot(snapshot).expect("install");
    u.append(&samples(6..9, 3)).expect("append");
    let before = seen(u);
    assert_compacted(u.append(&samples(5..6, 4)));
    assert_compacted(u.append(&samples(1..20, 4)));
    assert_eq!(seen(u), before, "a refused write changes nothing");
}

fn a_range_is_half_open<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..40, 1)).expect("append");
    // Short and long ones, and the ends of the log.
    for (low, high) in [(1, 2), (1, 40), (3, 11), (3, 12), (39, 40), (20, 40)] {
        assert_eq!(read(u, low, high), samples(low..high, 1));
    }
    assert_eq!(read(u, 3, 3), []);
}

fn a_size_limit_cuts_as_raft_does<U: StorageUnderTest>(u: &mut U) {
    let one = |i: u64| sized_entry(i, 1, vec![1; (i as usize * 37) % 300]);
    let all: Vec<_> = (1..30).map(one).collect();
    u.append(&all).expect("append");
    for count in 0..all.len() {
        let bytes = size(&all[..count]);
        for limit in [bytes.saturating_sub(1), bytes, bytes + 1] {
            let mut want = all.clone();
            raft::util::limit_size(&mut want, Some(limit));
            let got = try_entries(u, 1, 30, Some(limit)).expect("entries");
            assert_eq!(got, want, "with at most {limit} bytes");
        }
    }
    for unlimited in [None, Some(u64::MAX)] {
        assert_eq!(try_entries(u, 1, 30, unlimited).expect("entries"), all);
    }
}

fn a_size_limit_lets_one_entry_through<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..20, 1)).expect("append");
    for (low, high) in [(1, 20), (5, 7), (19, 20)] {
        let got = try_entries(u, low, high, Some(0)).expect("entries");
        assert_eq!(got, samples(low..low + 1, 1));
    }
}

fn entries_below_the_first_index_are_compacted<U: StorageUnderTest>(u: &mut U) {
    let snapshot = snapshot_of(u, 5, 2, voters(&[1]));
    u.install_snapshot(snapshot).expect("install");
    u.append(&samples(6..9, 3)).expect("append");
    for (low, high) in [(5, 9), (1, 2), (5, 6), (0, 9)] {
        assert_compacted(try_entries(u, low, high, None));
    }
    assert_eq!(read(u, 6, 9), samples(6..9, 3));
}

fn entries_behind_the_last_index_are_never_answered<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..6, 1)).expect("append");
    for (low, high) in [(1, 7), (5, 100), (6, 7)] {
        // The trait says that it panics; an error is as good, an answer is not.
        let got = catch_unwind(AssertUnwindSafe(|| try_entries(u, low, high, None)));
        let refused = !matches!(got, Ok(Ok(_)));
        assert!(refused, "entries({low}, {high}) of a log that ends at 5");
    }
}

fn an_async_read_answers_after_the_fetch<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..300, 1)).expect("append");
    u.reopen().expect("reopen");
    for (low, high, limit) in [(1, 300, u64::MAX), (10, 20, 0), (290, 300, u64::MAX)] {
        let mut want = samples(low..high, 1);
        raft::util::limit_size(&mut want, Some(limit));
        let found = (0..8).find_map(|_| {
            let context = GetEntriesContext::empty(true);
            match u.storage().entries(low, high, limit, context) {
                Err(Error::Store(StorageError::LogTemporarilyUnavailable)) => {
                    u.fetch();
                    None
                }
                answer => Some(answer.expect("entries")),
            }
        });
        assert_eq!(found, Some(want), "[{low}, {high})");
    }
}
