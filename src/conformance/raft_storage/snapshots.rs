//! Cases of making and installing snapshots. Uses: raft.

use raft::eraftpb::Snapshot;
use raft::{Error, StorageError};

use super::{
    Case, StorageUnderTest, assert_compacted, assert_unavailable, bounds, expect_log, fill,
    hard_state, initial, joint, samples, seen, snapshot_of, term, try_entries, try_term, voters,
};

pub(super) fn cases<U: StorageUnderTest + 'static>() -> Vec<Case<U>> {
    vec![
        Case::new(a_snapshot_is_of_what_was_applied::<U>),
        Case::new(a_snapshot_reaches_the_requested_index::<U>),
        Case::new(a_snapshot_has_the_configuration_of_now::<U>),
        Case::new(a_snapshot_of_a_compacted_log_knows_its_term::<U>),
        Case::new(a_snapshot_after_an_installed_one_knows_its_term::<U>),
        Case::new(an_installed_snapshot_makes_an_empty_log::<U>),
        Case::new(an_installed_snapshot_replaces_a_shorter_log::<U>),
        Case::new(an_installed_snapshot_replaces_a_longer_log::<U>),
        Case::new(an_installed_snapshot_replaces_a_compacted_log::<U>),
        Case::new(an_installed_snapshot_brings_its_configuration::<U>),
        Case::new(an_installed_snapshot_moves_the_commit_and_keeps_the_vote::<U>),
        Case::new(an_installed_snapshot_never_lowers_the_term::<U>),
        Case::new(a_snapshot_below_the_first_index_is_out_of_date::<U>),
        Case::new(a_log_goes_on_after_a_snapshot::<U>),
        Case::new(a_snapshot_follows_another::<U>),
    ]
}

fn position(snapshot: &Snapshot) -> (u64, u64) {
    let metadata = snapshot.get_metadata();
    (metadata.index, metadata.term)
}

fn install<U: StorageUnderTest>(u: &mut U, index: u64, term: u64) {
    let snapshot = snapshot_of(u, index, term, voters(&[1, 2]));
    u.install_snapshot(snapshot).expect("install_snapshot");
}

/// That the storage is at a snapshot and holds no entries.
fn expect_cut<U: StorageUnderTest>(u: &U, index: u64, cut_term: u64) {
    assert_eq!(bounds(u), (index + 1, index));
    assert_eq!(term(u, index), cut_term);
    assert_compacted(try_term(u, index - 1));
    assert_unavailable(try_term(u, index + 1));
    assert_compacted(try_entries(u, index, index + 1, None));
}

fn a_snapshot_is_of_what_was_applied<U: StorageUnderTest>(u: &mut U) {
    fill(u, 10, 2);
    let snapshot = u.snapshot_now(0).expect("snapshot");
    assert_eq!(position(&snapshot), (10, 2));
    assert_eq!(snapshot.get_metadata().get_conf_state(), &voters(&[1]));
}

fn a_snapshot_reaches_the_requested_index<U: StorageUnderTest>(u: &mut U) {
    fill(u, 10, 2);
    let snapshot = u.snapshot_now(10).expect("snapshot");
    assert_eq!(position(&snapshot), (10, 2));
    u.append(&samples(11..16, 3)).expect("append");
    u.set_hard_state(&hard_state(3, 1, 15)).expect("hard state");
    u.advance_applied(15).expect("advance_applied");
    // The one that is there already does not reach this far.
    let snapshot = u.snapshot_now(15).expect("snapshot");
    assert_eq!(position(&snapshot), (15, 3));
}

fn a_snapshot_has_the_configuration_of_now<U: StorageUnderTest>(u: &mut U) {
    fill(u, 5, 1);
    u.snapshot_now(0).expect("snapshot");
    u.append(&samples(6..8, 1)).expect("append");
    u.set_conf_state(&joint()).expect("conf state");
    u.set_hard_state(&hard_state(1, 1, 7)).expect("hard state");
    u.advance_applied(7).expect("advance_applied");
    let snapshot = u.snapshot_now(7).expect("snapshot");
    assert_eq!(position(&snapshot), (7, 1));
    assert_eq!(snapshot.get_metadata().get_conf_state(), &joint());
}

fn a_snapshot_of_a_compacted_log_knows_its_term<U: StorageUnderTest>(u: &mut U) {
    fill(u, 10, 2);
    u.compact(11).expect("compact");
    let snapshot = u.snapshot_now(10).expect("snapshot");
    assert_eq!(position(&snapshot), (10, 2));
}

fn a_snapshot_after_an_installed_one_knows_its_term<U: StorageUnderTest>(u: &mut U) {
    install(u, 9, 4);
    u.append(&samples(10..12, 5)).expect("append");
    u.set_hard_state(&hard_state(5, 1, 11)).expect("hard state");
    u.advance_applied(11).expect("advance_applied");
    let snapshot = u.snapshot_now(11).expect("snapshot");
    assert_eq!(position(&snapshot), (11, 5));
    assert_eq!(snapshot.get_metadata().get_conf_state(), &voters(&[1, 2]));
}

fn an_installed_snapshot_makes_an_empty_log<U: StorageUnderTest>(u: &mut U) {
    install(u, 7, 3);
    expect_cut(u, 7, 3);
}

fn an_installed_snapshot_replaces_a_shorter_log<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..6, 1)).expect("append");
    install(u, 20, 3);
    expect_cut(u, 20, 3);
    assert_compacted(try_entries(u, 1, 6, None));
}

fn an_installed_snapshot_replaces_a_longer_log<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..31, 1)).expect("append");
    install(u, 20, 3);
    expect_cut(u, 20, 3);
    // What lay behind it must not come back either.
    u.append(&samples(21..23, 4)).expect("append");
    expect_log(u, &samples(21..23, 4));
}

fn an_installed_snapshot_replaces_a_compacted_log<U: StorageUnderTest>(u: &mut U) {
    fill(u, 10, 2);
    u.compact(6).expect("compact");
    install(u, 12, 3);
    expect_cut(u, 12, 3);
}

fn an_installed_snapshot_brings_its_configuration<U: StorageUnderTest>(u: &mut U) {
    u.set_conf_state(&voters(&[9])).expect("conf state");
    let snapshot = snapshot_of(u, 7, 3, joint());
    u.install_snapshot(snapshot).expect("install");
    assert_eq!(initial(u).1, joint());
}

fn an_installed_snapshot_moves_the_commit_and_keeps_the_vote<U: StorageUnderTest>(u: &mut U) {
    u.append(&samples(1..4, 5)).expect("append");
    u.set_hard_state(&hard_state(5, 2, 3)).expect("hard state");
    install(u, 9, 5);
    assert_eq!(initial(u).0, hard_state(5, 2, 9));
}

fn an_installed_snapshot_never_lowers_the_term<U: StorageUnderTest>(u: &mut U) {
    u.set_hard_state(&hard_state(8, 2, 0)).expect("hard state");
    install(u, 9, 5);
    assert_eq!(initial(u).0, hard_state(8, 2, 9));
    install(u, 12, 11);
    let state = initial(u).0;
    assert_eq!((state.term, state.commit), (11, 12));
}

fn a_snapshot_below_the_first_index_is_out_of_date<U: StorageUnderTest>(u: &mut U) {
    install(u, 9, 4);
    u.append(&samples(10..13, 4)).expect("append");
    let before = seen(u);
    for index in [9, 8, 1] {
        let snapshot = snapshot_of(u, index, 4, voters(&[7]));
        let got = u.install_snapshot(snapshot);
        let right = matches!(got, Err(Error::Store(StorageError::SnapshotOutOfDate)));
        assert!(right, "at {index}: got {got:?}");
        assert_eq!(seen(u), before, "a refused write changes nothing");
    }
    install(u, 10, 4);
    expect_cut(u, 10, 4);
}

fn a_log_goes_on_after_a_snapshot<U: StorageUnderTest>(u: &mut U) {
    install(u, 9, 4);
    assert_unavailable(u.append(&samples(11..12, 4)));
    assert_compacted(u.append(&samples(9..12, 4)));
    u.append(&samples(10..13, 4)).expect("append");
    expect_log(u, &samples(10..13, 4));
    assert_eq!(term(u, 9), 4);
}

fn a_snapshot_follows_another<U: StorageUnderTest>(u: &mut U) {
    install(u, 9, 4);
    install(u, 30, 6);
    expect_cut(u, 30, 6);
    u.append(&samples(31..33, 6)).expect("append");
    install(u, 31, 7);
    expect_cut(u, 31, 7);
}
