//! Cases of storages that are opened again. Uses: raft.

use super::{
    Case, StorageUnderTest, assert_compacted, bounds, expect_log, fill, full_entry, hard_state,
    initial, joint, samples, seen, snapshot_of, term, try_term, voters,
};

pub(super) fn cases<U: StorageUnderTest + 'static>() -> Vec<Case<U>> {
    vec![
        Case::new(reopening_keeps_the_log::<U>),
        Case::new(reopening_keeps_every_field_of_the_configuration::<U>),
        Case::new(reopening_keeps_the_hard_state::<U>),
        Case::new(the_vote_of_an_empty_peer_is_not_lost::<U>),
        Case::new(the_newest_vote_is_the_one_that_is_kept::<U>),
        Case::new(an_overwritten_tail_does_not_come_back::<U>),
        Case::new(a_refused_append_is_not_found_later::<U>),
        Case::new(an_installed_snapshot_survives_reopening::<U>),
        Case::new(the_log_before_a_snapshot_does_not_come_back::<U>),
        Case::new(many_reopenings_change_nothing::<U>),
    ]
}

fn reopening_keeps_the_log<U: StorageUnderTest>(u: &mut U) {
    u.append(&[full_entry(1, 1), full_entry(2, 1)])
        .expect("append");
    u.append(&samples(3..300, 2)).expect("append");
    u.set_hard_state(&hard_state(2, 1, 2)).expect("hard state");
    if u.reopen().expect("reopen") {
        let want = [vec![full_entry(1, 1), full_entry(2, 1)], samples(3..300, 2)].concat();
        expect_log(u, &want);
    }
}

fn reopening_keeps_every_field_of_the_configuration<U: StorageUnderTest>(u: &mut U) {
    fill(u, 3, 1);
    u.set_conf_state(&joint()).expect("conf state");
    if u.reopen().expect("reopen") {
        assert_eq!(initial(u).1, joint());
    }
}

fn reopening_keeps_the_hard_state<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..6, 3)).expect("append");
    for state in [
        hard_state(3, 2, 1),
        hard_state(3, 2, 4),
        hard_state(9, 0, 4),
    ] {
        u.set_hard_state(&state).expect("hard state");
        if u.reopen().expect("reopen") {
            assert_eq!(initial(u).0, state);
            assert_eq!(bounds(u), (1, 5));
        }
    }
}

fn the_vote_of_an_empty_peer_is_not_lost<U: StorageUnderTest>(u: &mut U) {
    u.set_hard_state(&hard_state(6, 3, 0)).expect("hard state");
    if u.reopen().expect("reopen") {
        assert_eq!(initial(u).0, hard_state(6, 3, 0));
        assert_eq!(bounds(u), (1, 0));
        assert_eq!(term(u, 0), 0);
    }
}

fn the_newest_vote_is_the_one_that_is_kept<U: StorageUnderTest>(u: &mut U) {
    fill(u, 5, 1);
    for n in 2..20 {
        u.set_hard_state(&hard_state(n, n % 3, 5))
            .expect("hard state");
        u.append(&samples(n + 4..n + 5, n)).expect("append");
    }
    if u.reopen().expect("reopen") {
        assert_eq!(initial(u).0, hard_state(19, 1, 5));
        assert_eq!(bounds(u).1, 23);
    }
}

fn an_overwritten_tail_does_not_come_back<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..30, 1)).expect("append");
    u.append(&samples(10..13, 2)).expect("append");
    u.set_hard_state(&hard_state(2, 1, 9)).expect("hard state");
    if u.reopen().expect("reopen") {
        let want = [samples(1..10, 1), samples(10..13, 2)].concat();
        expect_log(u, &want);
        u.append(&samples(13..14, 3)).expect("append");
        assert_eq!(bounds(u), (1, 13));
    }
}

fn a_refused_append_is_not_found_later<U: StorageUnderTest>(u: &mut U) {
    fill(u, 10, 2);
    u.compact(4).expect("compact");
    let before = seen(u);
    assert_compacted(u.append(&samples(2..20, 3)));
    assert!(u.append(&samples(12..20, 3)).is_err(), "a gap");
    if u.reopen().expect("reopen") {
        assert_eq!(seen(u), before);
    }
}

fn an_installed_snapshot_survives_reopening<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..6, 3)).expect("append");
    u.set_hard_state(&hard_state(6, 2, 3)).expect("hard state");
    let snapshot = snapshot_of(u, 20, 4, joint());
    u.install_snapshot(snapshot).expect("install");
    if u.reopen().expect("reopen") {
        assert_eq!(bounds(u), (21, 20));
        assert_eq!(initial(u), (hard_state(6, 2, 20), joint()));
        assert_eq!(term(u, 20), 4);
        assert_compacted(try_term(u, 19));
    }
}

fn the_log_before_a_snapshot_does_not_come_back<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..31, 3)).expect("append");
    u.set_hard_state(&hard_state(3, 2, 3)).expect("hard state");
    let snapshot = snapshot_of(u, 20, 4, voters(&[1]));
    u.install_snapshot(snapshot).expect("install");
    u.append(&samples(21..23, 5)).expect("append");
    u.set_hard_state(&hard_state(5, 1, 21)).expect("hard state");
    if u.reopen().expect("reopen") {
        expect_log(u, &samples(21..23, 5));
        assert_eq!(initial(u).0, hard_state(5, 1, 21));
        assert_eq!(term(u, 20), 4);
    }
}

fn many_reopenings_change_nothing<U: StorageUnderTest>(u: &mut U) {
    fill(u, 30, 2);
    u.compact(10).expect("compact");
    let before = seen(u);
    for _ in 0..3 {
        if !u.reopen().expect("reopen") {
            return;
        }
        assert_eq!(seen(u), before);
    }
}
