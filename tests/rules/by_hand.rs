//! By hand a region takes what `MemStorage` takes, and stays right where that is wrong.

use peerstore::{Error, PeerState, PeerStorage, Region};
use raft::eraftpb::{ConfState, Entry, Snapshot};
use raft::{Error as RaftError, GetEntriesContext, RawNode, Storage as _, StorageError};

use crate::support::{
    PATIENCE, Rig, apply, assert_says, config, data_of, dump, entries, entry, fill, hard_state,
    on_disk,
};

fn start(storage: PeerStorage) -> RawNode<PeerStorage> {
    RawNode::new(&storage.raft_config(), storage, &peerstore::raft_logger()).unwrap()
}

fn snapshot(term: u64, index: u64, voters: &[u64]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let meta = snapshot.mut_metadata();
    (meta.term, meta.index) = (term, index);
    meta.mut_conf_state().voters = voters.to_vec();
    snapshot
}

fn all(storage: &PeerStorage) -> Vec<Entry> {
    let (first, last) = (
        storage.first_index().unwrap(),
        storage.last_index().unwrap(),
    );
    (storage.entries(first, last + 1, None, GetEntriesContext::empty(false))).unwrap()
}

#[test]
fn a_hard_state_may_come_before_the_entries_that_its_commit_speaks_of() {
    let rig = Rig::new(config(1));
    let mut storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    storage.set_hard_state(&hard_state(6, 1, 9)).unwrap();
    drop(storage);
    let error = rig.node.open_region(1).unwrap_err();
    assert_says(&error, &["region 1", "commit 9 is beyond last index 5"]);
    // The write was permissive; only the open, which raft would panic after, is not.
    let rig = Rig::new(config(1));
    let mut storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    storage.set_hard_state(&hard_state(6, 1, 9)).unwrap();
    storage.append(&entries(6, 6..10)).unwrap();
    drop(storage);
    assert_eq!(
        rig.node.open_region(1).unwrap().hard_state(),
        &hard_state(6, 1, 9)
    );
}

#[test]
fn an_uninitialised_peer_takes_entries_and_a_configuration_at_index_0() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let mut storage = node.create_uninitialized(1, 3).unwrap();
    let conf_state = ConfState::from((vec![1, 2, 3], vec![]));
    storage.set_conf_state(&conf_state).unwrap();
    storage.append(&entries(1, 1..4)).unwrap();
    storage.set_hard_state(&hard_state(2, 1, 2)).unwrap();
    drop(storage);
    let storage = node.open_region(1).unwrap();
    assert_eq!(
        (storage.first_index(), storage.last_index()),
        (Ok(1), Ok(3))
    );
    assert_eq!((storage.term(0), storage.term(3)), (Ok(0), Ok(1)));
    assert_eq!(storage.conf_state(), &conf_state);
    start(storage);
}

#[test]
fn terms_may_be_0() {
    let rig = Rig::new(config(1));
    let mut storage = rig.node.create_uninitialized(1, 1).unwrap();
    storage.append(&entries(0, 1..5)).unwrap();
    storage.compact(3).unwrap();
    drop(storage);
    let storage = rig.node.open_region(1).unwrap();
    let terms: Vec<_> = (2..5).map(|i| storage.term(i).unwrap()).collect();
    assert_eq!(terms, [0; 3]);
}

#[test]
fn compaction_may_pass_commit_and_raft_still_starts() {
    let rig = Rig::new(config(1));
    let mut storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    storage.append(&entries(6, 6..11)).unwrap();
    storage.compact(9).unwrap();
    assert_eq!((storage.first_index(), storage.term(8)), (Ok(9), Ok(6)));
    assert_eq!(storage.applied_index(), 8);
    assert_eq!(storage.initial_state().unwrap().hard_state.commit, 8);
    start(storage);
    let storage = rig.crash(0).node.open_region(1).unwrap();
    assert_eq!(storage.hard_state(), &hard_state(6, 0, 8));
    start(storage);
}

#[test]
fn an_applied_entry_of_a_term_that_was_never_written_raises_the_term() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    storage.set_hard_state(&hard_state(6, 1, 5)).unwrap();
    storage.append(&entries(6, 6..8)).unwrap();
    storage.append(&entries(9, 8..11)).unwrap();
    apply(&mut storage, &entries(6, 6..8)).unwrap();
    assert_eq!(storage.hard_state(), &hard_state(6, 1, 7), "the vote holds");
    apply(&mut storage, &entries(9, 8..9)).unwrap();
    drop(storage);
    let storage = node.open_region(1).unwrap();
    assert_eq!(storage.hard_state(), &hard_state(9, 0, 8));
}

#[test]
fn applying_past_the_hard_states_commit_lets_raft_start() {
    let rig = Rig::new(config(1));
    let mut storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    storage.append(&entries(5, 6..9)).unwrap();
    apply(&mut storage, &entries(5, 6..8)).unwrap();
    storage.advance_applied(8).unwrap();
    assert_eq!(storage.hard_state().commit, 8);
    start(storage);
}

#[test]
fn compacting_twice_or_nothing_does_nothing() {
    let rig = Rig::new(config(1));
    let mut storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..12);
    storage.compact(9).unwrap();
    rig.trace.take();
    for first_index in [0, 1, 6, 9] {
        storage.compact(first_index).unwrap();
    }
    assert!(rig.trace.take().is_empty());
    let error = storage.compact(13).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert_says(&error, &["region 1", "12", "ends at 11"]);
}

#[test]
fn compacting_everything_keeps_first_index_and_the_term_at_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 7, 6..12);
    storage.compact(12).unwrap();
    for _ in 0..2 {
        assert_eq!(
            (storage.first_index(), storage.last_index()),
            (Ok(12), Ok(11))
        );
        assert_eq!(storage.term(11), Ok(7), "MemStorage says Compacted here");
        let compacted = Err(RaftError::Store(StorageError::Compacted));
        assert_eq!(storage.term(10), compacted);
        let unavailable = Err(RaftError::Store(StorageError::Unavailable));
        assert_eq!(storage.term(12), unavailable);
        drop(storage);
        storage = node.open_region(1).unwrap();
    }
    storage.append(&entries(8, 12..13)).unwrap();
    assert_eq!((storage.term(11), storage.term(12)), (Ok(7), Ok(8)));
}

#[test]
fn a_snapshot_may_have_empty_data_and_leaves_the_data_alone() {
    let rig = Rig::new(config(1));
    let mut storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..8);
    let before = data_of(&rig.node);
    storage.install_snapshot(snapshot(7, 20, &[1, 2])).unwrap();
    assert_eq!(data_of(&rig.node), before);
    assert_eq!(storage.conf_state().voters, [1, 2]);
    assert_eq!(storage.hard_state(), &hard_state(7, 0, 20));
    drop(storage);
    let storage = rig.crash(0).node.open_region(1).unwrap();
    assert_eq!(
        (storage.first_index(), storage.last_index()),
        (Ok(21), Ok(20))
    );
    assert_eq!((storage.term(20), storage.applied_index()), (Ok(7), 20));
    assert_eq!(storage.region_state().state, PeerState::Normal);
}

#[test]
fn a_snapshot_at_or_below_last_index_replaces_the_log() {
    for index in [8, 11] {
        let dir = tempfile::tempdir().unwrap();
        let node = on_disk(dir.path());
        let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
        fill(&mut storage, 5, 6..12);
        storage.install_snapshot(snapshot(6, index, &[1])).unwrap();
        for _ in 0..2 {
            assert_eq!(storage.first_index(), Ok(index + 1));
            assert_eq!(storage.last_index(), Ok(index));
            assert_eq!(storage.term(index), Ok(6));
            assert!(storage.term(index + 1).is_err());
            assert_eq!(storage.hard_state().commit, index);
            for old in 6..12 {
                assert_eq!(node.log().read_entry(1.into(), old).unwrap(), None);
            }
            drop(storage);
            storage = node.open_region(1).unwrap();
        }
        start(storage);
    }
}

#[test]
fn a_snapshot_may_have_no_voters() {
    let rig = Rig::new(config(1));
    let mut storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    storage.install_snapshot(snapshot(6, 9, &[])).unwrap();
    assert_eq!(storage.conf_state(), &ConfState::default());
    drop(storage);
    assert_eq!(rig.node.open_region(1).unwrap().last_index(), Ok(9));
}

#[test]
fn a_snapshot_below_first_index_is_out_of_date() {
    let rig = Rig::new(config(1));
    let mut storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..12);
    storage.compact(9).unwrap();
    let before = rig.dump();
    for index in [0, 5, 8] {
        let error = storage
            .install_snapshot(snapshot(6, index, &[1]))
            .unwrap_err();
        assert!(matches!(error, Error::SnapshotOutOfDate { .. }), "{error}");
        assert_says(&error, &["region 1", &index.to_string(), "starts at 9"]);
    }
    assert_eq!(rig.dump(), before);
}

#[test]
fn a_ready_snapshot_answers_at_the_first_call_after_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..9);
    let waited = storage.wait_snapshot(PATIENCE).unwrap();
    assert_eq!(storage.snapshot(0, 2).unwrap(), waited);
    assert_eq!(storage.snapshot(8, 2).unwrap().get_metadata().index, 8);
}

#[test]
fn appends_with_gaps_holes_or_below_the_log_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..10);
    storage.append(&entries(5, 10..12)).unwrap();
    storage.compact(8).unwrap();
    let (before, log) = (dump(&node), all(&storage));
    let hole = vec![entry(6, 10), entry(6, 12)];
    let cases = [
        (entries(6, 13..14), "index 13 is not available"),
        (entries(6, 7..9), "index 7 is compacted"),
        (entries(6, 5..20), "index 5 is compacted"),
        (hole, "got index 12, expected index 11"),
        (entries(6, 9..12), "index 9, which was applied"),
    ];
    for (wrong, says) in cases {
        let error = storage.append(&wrong).unwrap_err();
        assert_says(&error, &["region 1", says]);
        assert_eq!((dump(&node), all(&storage)), (before.clone(), log.clone()));
    }
    storage.append(&[]).unwrap();
    assert_eq!(dump(&node), before);
}

#[test]
fn every_field_of_an_entry_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    let mut full = entry(5, 6);
    full.context = b"who asked".to_vec().into();
    full.set_entry_type(raft::eraftpb::EntryType::EntryConfChangeV2);
    full.sync_log = true;
    storage.append(std::slice::from_ref(&full)).unwrap();
    assert_eq!(all(&storage), [full.clone()], "from the cache");
    drop(storage);
    assert_eq!(all(&node.open_region(1).unwrap()), [full], "from the log");
}
