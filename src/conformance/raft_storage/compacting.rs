//! Cases of compaction. Uses: raft.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    Case, StorageUnderTest, assert_compacted, assert_unavailable, bounds, expect_log, fill,
    hard_state, initial, read, samples, seen, term, try_entries, try_term,
};

pub(super) fn cases<U: StorageUnderTest + 'static>() -> Vec<Case<U>> {
    vec![
        Case::new(a_compaction_drops_exactly_what_is_below::<U>),
        Case::new(the_term_at_the_cut_stays_known::<U>),
        Case::new(a_compaction_of_what_is_gone_changes_nothing::<U>),
        Case::new(a_compaction_of_everything_keeps_the_indexes::<U>),
        Case::new(a_log_goes_on_after_a_compaction_of_everything::<U>),
        Case::new(a_compaction_behind_the_log_is_refused::<U>),
        Case::new(a_compacted_log_takes_no_compacted_entries::<U>),
        Case::new(an_overwrite_at_the_cut_keeps_the_term_before_it::<U>),
        Case::new(a_compaction_keeps_hard_state_and_configuration::<U>),
        Case::new(a_cut_between_terms_keeps_every_term::<U>),
        Case::new(a_compaction_survives_reopening::<U>),
        Case::new(a_compaction_of_everything_survives_reopening::<U>),
    ]
}

fn a_compaction_drops_exactly_what_is_below<U: StorageUnderTest>(u: &mut U) {
    fill(u, 40, 2);
    for first in [2, 3, 20, 40] {
        u.compact(first).expect("compact");
        expect_log(u, &samples(first..41, 2));
        assert_compacted(try_entries(u, first - 1, first, None));
        assert_compacted(try_entries(u, first - 1, 41, None));
    }
}

fn the_term_at_the_cut_stays_known<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..4, 1)).expect("append");
    u.append(&samples(4..8, 3)).expect("append");
    u.set_hard_state(&hard_state(3, 1, 7)).expect("hard state");
    u.advance_applied(7).expect("advance_applied");
    for (first, cut_term) in [(3, 1), (4, 1), (5, 3), (7, 3)] {
        u.compact(first).expect("compact");
        assert_eq!(term(u, first - 1), cut_term, "term before {first}");
        assert_compacted(try_term(u, first - 2));
    }
}

fn a_compaction_of_what_is_gone_changes_nothing<U: StorageUnderTest>(u: &mut U) {
    u.compact(1).expect("compact an empty log at its start");
    assert_eq!(bounds(u), (1, 0));
    fill(u, 10, 2);
    u.compact(5).expect("compact");
    let before = seen(u);
    for first in [5, 4, 1, 0] {
        u.compact(first).expect("compact");
        assert_eq!(seen(u), before, "compact({first})");
    }
}

fn a_compaction_of_everything_keeps_the_indexes<U: StorageUnderTest>(u: &mut U) {
    fill(u, 10, 2);
    u.compact(11).expect("compact");
    assert_eq!(bounds(u), (11, 10));
    assert_eq!(term(u, 10), 2, "the term of the last index");
    assert_compacted(try_term(u, 9));
    assert_unavailable(try_term(u, 11));
    assert_compacted(try_entries(u, 10, 11, None));
}

fn a_log_goes_on_after_a_compaction_of_everything<U: StorageUnderTest>(u: &mut U) {
    fill(u, 10, 2);
    u.compact(11).expect("compact");
    assert_unavailable(u.append(&samples(12..13, 3)));
    assert_compacted(u.append(&samples(10..13, 3)));
    u.append(&samples(11..14, 3)).expect("append");
    expect_log(u, &samples(11..14, 3));
    assert_eq!(term(u, 10), 2);
}

fn a_compaction_behind_the_log_is_refused<U: StorageUnderTest>(u: &mut U) {
    fill(u, 10, 2);
    let before = seen(u);
    let got = catch_unwind(AssertUnwindSafe(|| u.compact(12)));
    assert!(!matches!(got, Ok(Ok(()))), "compact(12) of a log up to 10");
    assert_eq!(seen(u), before, "a refused write changes nothing");
}

fn a_compacted_log_takes_no_compacted_entries<U: StorageUnderTest>(u: &mut U) {
    fill(u, 10, 2);
    u.compact(6).expect("compact");
    let before = seen(u);
    assert_compacted(u.append(&samples(5..8, 3)));
    assert_eq!(seen(u), before, "a refused write changes nothing");
}

fn an_overwrite_at_the_cut_keeps_the_term_before_it<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..11, 2)).expect("append");
    u.set_hard_state(&hard_state(2, 1, 5)).expect("hard state");
    u.advance_applied(5).expect("advance_applied");
    u.compact(6).expect("compact");
    u.append(&samples(6..8, 4)).expect("append");
    expect_log(u, &samples(6..8, 4));
    assert_eq!(term(u, 5), 2);
}

fn a_compaction_keeps_hard_state_and_configuration<U: StorageUnderTest>(u: &mut U) {
    fill(u, 10, 2);
    let before = initial(u);
    u.compact(8).expect("compact");
    assert_eq!(initial(u), before);
}

fn a_cut_between_terms_keeps_every_term<U: StorageUnderTest>(u: &mut U) {
    let mut log = samples(1..1, 0);
    for run in 0..10 {
        log.extend(samples(run * 5 + 1..run * 5 + 6, run + 1));
    }
    u.append(&log).expect("append");
    u.set_hard_state(&hard_state(10, 1, 50))
        .expect("hard state");
    u.advance_applied(50).expect("advance_applied");
    for first in 2..=50 {
        u.compact(first).expect("compact");
        for index in first - 1..=50 {
            assert_eq!(
                term(u, index),
                (index - 1) / 5 + 1,
                "after compact({first})"
            );
        }
    }
    assert_eq!(read(u, 50, 51), log[49..]);
}

fn a_compaction_survives_reopening<U: StorageUnderTest>(u: &mut U) {
    fill(u, 20, 2);
    u.append(&samples(21..25, 3)).expect("append");
    u.set_hard_state(&hard_state(3, 1, 20)).expect("hard state");
    u.compact(15).expect("compact");
    let before = seen(u);
    if u.reopen().expect("reopen") {
        assert_eq!(seen(u), before);
        assert_eq!(term(u, 14), 2);
        assert_compacted(try_entries(u, 14, 16, None));
        u.append(&samples(25..27, 3)).expect("append");
        assert_eq!(bounds(u), (15, 26));
    }
}

fn a_compaction_of_everything_survives_reopening<U: StorageUnderTest>(u: &mut U) {
    fill(u, 20, 2);
    u.compact(21).expect("compact");
    let before = seen(u);
    if u.reopen().expect("reopen") {
        assert_eq!(seen(u), before);
        assert_eq!(bounds(u), (21, 20));
        u.append(&samples(21..23, 3)).expect("append");
        expect_log(u, &samples(21..23, 3));
    }
}
