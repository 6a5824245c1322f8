//! Rules 1 to 12: what an open refuses, moves forward or finishes.

use peerstore::{
    CompositeStorage, Durability, Error, Keyspace, LogBatch, PeerState, RaftApplyState,
    RaftLocalState, RaftTruncatedState, RecoveryError, Region, RegionLocalState,
};
use raft::Storage as _;
use raft::eraftpb::{Entry, HardState};

use crate::recording::Step;
use crate::support::{
    Rig, assert_says, config, data_of, dump, entries, entry, hard_state, on_disk, put_region_state,
    put_state,
};

/// The stored states of region 1.
#[derive(Clone)]
struct Stored {
    region: RegionLocalState,
    raft: Option<RaftLocalState>,
    apply: Option<RaftApplyState>,
    entries: Vec<Entry>,
}

/// Truncated at (5, 5), entries 6 to 10 of term 6, commit 9, applied 8.
fn healthy() -> Stored {
    let region = Region::single(1, 1);
    Stored {
        region: RegionLocalState {
            conf_state: region.conf_state(),
            region,
            peer_id: 1.into(),
            ..Default::default()
        },
        raft: Some(RaftLocalState {
            hard_state: hard_state(6, 1, 9),
            last_index: 10,
        }),
        apply: Some(RaftApplyState {
            applied_index: 8,
            truncated_state: RaftTruncatedState { index: 5, term: 5 },
            commit_index: 8,
            commit_term: 6,
        }),
        entries: entries(6, 6..11),
    }
}

impl Stored {
    fn raft(&mut self) -> &mut RaftLocalState {
        self.raft.as_mut().unwrap()
    }

    fn apply(&mut self) -> &mut RaftApplyState {
        self.apply.as_mut().unwrap()
    }

    fn write(&self, node: &CompositeStorage) {
        let mut batch = LogBatch::default();
        batch.clear_region(1.into());
        // One append has no holes; several may.
        for entries in self.entries.chunk_by(|a, b| a.index + 1 == b.index) {
            batch.append(1.into(), entries.to_vec());
        }
        if let Some(raft) = &self.raft {
            batch.state(1.into(), raft.clone());
        }
        node.log().write(&batch, Durability::Synced).unwrap();
        put_region_state(node, &self.region);
        if let Some(apply) = &self.apply {
            let bytes = prost::Message::encode_to_vec(apply);
            put_state(node, Keyspace::ApplyState, 1, bytes);
        }
    }
}

/// Opens what `change` made of a healthy region, twice: the refusal is the same, says what to do, and
/// nothing has changed.
fn refusal(change: impl FnOnce(&mut Stored)) -> (RecoveryError, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut stored = healthy();
    change(&mut stored);
    let node = on_disk(dir.path());
    stored.write(&node);
    let before = dump(&node);
    let error = node.open_region(1).unwrap_err();
    assert_eq!(dump(&node), before, "a refusal has changed nothing");
    let again = node.open_region(1).unwrap_err();
    assert_eq!(again.to_string(), error.to_string());
    assert_says(
        &error,
        &["region 1: cannot be opened", "remove this replica"],
    );
    let text = error.to_string();
    match error {
        Error::Recovery { region, source } => {
            assert_eq!(region, 1.into());
            (source, text)
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_healthy_region_opens() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    healthy().write(&node);
    let storage = node.open_region(1).unwrap();
    assert_eq!(
        (storage.applied_index(), storage.hard_state().commit),
        (8, 9)
    );
    assert_eq!(
        (storage.first_index(), storage.last_index()),
        (Ok(6), Ok(10))
    );
    let terms: Vec<_> = (5..11).map(|i| storage.term(i).unwrap()).collect();
    assert_eq!(terms, [5, 6, 6, 6, 6, 6]);
    raft::RawNode::new(&storage.raft_config(), storage, &peerstore::raft_logger()).unwrap();
}

#[test]
fn rule_01_a_commit_beyond_the_log_is_refused() {
    let (error, text) = refusal(|s| s.raft().hard_state.commit = 11);
    let expected = RecoveryError::CommitBeyondLog {
        commit: 11,
        last_index: 10,
    };
    assert_eq!(error, expected);
    assert!(text.contains("11") && text.contains("10"), "{text}");
}

#[test]
fn rule_01_an_applied_commit_beyond_the_log_is_refused() {
    let (error, _) = refusal(|s| s.apply().commit_index = 12);
    let expected = RecoveryError::CommitBeyondLog {
        commit: 12,
        last_index: 10,
    };
    assert_eq!(error, expected);
}

#[test]
fn rule_02_a_commit_behind_the_applied_one_is_moved_forward() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let mut stored = healthy();
    stored.raft().hard_state.commit = 6;
    stored.write(&node);
    let storage = node.open_region(1).unwrap();
    assert_eq!(storage.hard_state(), &hard_state(6, 1, 8));
    assert_eq!(storage.initial_state().unwrap().hard_state.commit, 8);
    raft::RawNode::new(&storage.raft_config(), storage, &peerstore::raft_logger()).unwrap();
}

#[test]
fn rule_02_a_commit_of_another_term_is_refused() {
    let (error, text) = refusal(|s| {
        s.raft().hard_state.commit = 6;
        s.apply().commit_term = 5;
    });
    let expected = RecoveryError::CommitTermMismatch {
        index: 8,
        got: Some(6),
        expected: 5,
    };
    assert_eq!(error, expected);
    assert!(text.contains("another log") || text.contains("not the one"));
}

#[test]
fn rule_02_a_commit_whose_entry_is_missing_is_refused() {
    let (error, _) = refusal(|s| {
        s.raft().hard_state.commit = 6;
        s.entries.remove(2);
    });
    let expected = RecoveryError::CommitTermMismatch {
        index: 8,
        got: None,
        expected: 6,
    };
    assert_eq!(error, expected);
}

#[test]
fn rule_03_a_term_behind_the_applied_commit_is_refused() {
    let (error, text) = refusal(|s| s.raft().hard_state.term = 5);
    let expected = RecoveryError::TermBehindCommit {
        got: 5,
        expected: 6,
    };
    assert_eq!(error, expected);
    assert!(text.contains("a vote was lost"), "{text}");
}

#[test]
fn rule_04_a_last_index_without_its_entry_is_refused() {
    let (error, _) = refusal(|s| drop(s.entries.pop()));
    let expected = RecoveryError::LastEntryMissing {
        last_index: 10,
        truncated_index: 5,
    };
    assert_eq!(error, expected);
}

#[test]
fn rule_04_a_last_index_that_is_the_truncated_one_needs_no_entry() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let mut stored = healthy();
    stored.entries.clear();
    stored.raft().last_index = 8;
    stored.raft().hard_state.commit = 8;
    stored.apply().truncated_state = RaftTruncatedState { index: 8, term: 6 };
    stored.write(&node);
    let storage = node.open_region(1).unwrap();
    assert_eq!(
        (storage.first_index(), storage.last_index()),
        (Ok(9), Ok(8))
    );
    assert_eq!(storage.term(8), Ok(6));
}

#[test]
fn rule_05_an_applied_index_without_its_entry_is_refused() {
    let (error, _) = refusal(|s| drop(s.entries.remove(2)));
    let expected = RecoveryError::AppliedEntryMissing {
        applied: 8,
        truncated_index: 5,
    };
    assert_eq!(error, expected);
}

#[test]
fn rule_05_an_applied_index_below_the_truncated_one_is_refused() {
    let (error, _) = refusal(|s| {
        s.apply().truncated_state = RaftTruncatedState { index: 9, term: 6 };
    });
    let expected = RecoveryError::AppliedEntryMissing {
        applied: 8,
        truncated_index: 9,
    };
    assert_eq!(error, expected);
}

#[test]
fn rule_06_an_applied_index_beyond_the_log_is_refused() {
    let (error, text) = refusal(|s| s.apply().applied_index = 11);
    let expected = RecoveryError::AppliedBeyondLog {
        applied: 11,
        last_index: 10,
    };
    assert_eq!(error, expected);
    assert!(text.contains("older than the data"), "{text}");
}

#[test]
fn an_applied_index_beyond_the_commit_is_refused() {
    let (error, _) = refusal(|s| s.apply().applied_index = 10);
    let expected = RecoveryError::AppliedBeyondCommit {
        applied: 10,
        commit: 9,
    };
    assert_eq!(error, expected);
}

#[test]
fn rule_07_an_initialised_region_without_hard_state_is_refused() {
    let (error, _) = refusal(|s| {
        s.raft().hard_state = HardState::default();
        s.apply().commit_index = 0;
    });
    assert_eq!(error, RecoveryError::HardStateMissing);
    let (error, text) = refusal(|s| s.raft = None);
    assert_eq!(error, RecoveryError::HardStateMissing);
    assert!(text.contains("its vote is gone"), "{text}");
}

#[test]
fn a_missing_apply_state_is_refused() {
    let (error, text) = refusal(|s| s.apply = None);
    assert!(matches!(error, RecoveryError::StateMissing { .. }));
    assert!(text.contains("RaftApplyState is missing"), "{text}");
}

#[test]
fn a_configuration_that_raft_would_panic_on_is_refused() {
    let (error, text) = refusal(|s| s.region.conf_state.learners = vec![1]);
    assert!(matches!(error, RecoveryError::ConfStateInvalid { .. }));
    assert!(text.contains("both a voter and a learner"), "{text}");
}

#[test]
fn bytes_that_are_no_state_are_corruption_with_the_region_and_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let keyspaces = [
        (Keyspace::RegionState, "RegionLocalState"),
        (Keyspace::ApplyState, "RaftApplyState"),
    ];
    for (keyspace, name) in keyspaces {
        healthy().write(&node);
        put_state(&node, keyspace, 1, vec![0xff; 3]);
        let before = dump(&node);
        let error = node.open_region(1).unwrap_err();
        assert!(matches!(error, Error::Corruption { .. }), "{error}");
        assert_says(&error, &["region 1", name, "restore it"]);
        assert_eq!(dump(&node), before);
    }
}

#[test]
fn a_state_of_another_region_under_the_key_of_this_one_is_corruption() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let mut stored = healthy();
    stored.write(&node);
    stored.region.region.id = 7;
    let bytes = stored.region.encode_to_vec();
    put_state(&node, Keyspace::RegionState, 1, bytes);
    let error = node.open_region(1).unwrap_err();
    assert!(matches!(error, Error::Corruption { .. }), "{error}");
    assert_says(&error, &["region 1", "RegionLocalState", "7"]);
}

#[test]
fn rule_08_an_uninitialised_peer_keeps_its_vote() {
    let rig = Rig::new(config(1));
    let mut storage = rig.node.create_uninitialized(4, 2).unwrap();
    storage.set_hard_state(&hard_state(3, 1, 0)).unwrap();
    let crashed = rig.crash(0);
    let storage = crashed.node.open_region(4).unwrap();
    assert_eq!(storage.hard_state(), &hard_state(3, 1, 0));
    assert_eq!(
        (storage.first_index(), storage.last_index()),
        (Ok(1), Ok(0))
    );
    assert_eq!(storage.peer_id(), 2.into());
}

#[test]
fn rule_08_an_uninitialised_peer_without_raft_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    drop(node.create_uninitialized(4, 2).unwrap());
    let mut batch = LogBatch::default();
    batch.clear_region(4.into());
    node.log().write(&batch, Durability::Synced).unwrap();
    let error = node.open_region(4).unwrap_err();
    assert_says(&error, &["region 4", "RaftLocalState is missing", "remove"]);
}

#[test]
fn rule_09_what_a_tombstone_left_is_removed_and_it_stays() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let mut stored = healthy();
    stored.write(&node);
    let mut batch = peerstore::AppBatch::default();
    batch.put(Keyspace::Data, "old", "data");
    node.app().write(&batch, Durability::Synced).unwrap();
    stored.region.state = PeerState::Tombstone;
    put_region_state(&node, &stored.region);

    for _ in 0..2 {
        let error = node.open_region(1).unwrap_err();
        assert!(matches!(error, Error::RegionTombstone { peer: 1, .. }));
        assert_says(&error, &["region 1", "peer 1", "larger peer id"]);
        assert_eq!(node.log().regions().unwrap(), []);
        let left: Vec<String> = dump(&node).into_keys().collect();
        let others = left.iter().filter(|name| !name.starts_with("store"));
        assert_eq!(others.count(), 1, "the tombstone: {left:?}");
    }
    assert!(node.regions().unwrap().is_empty());
}

/// A healthy region of which a snapshot at (7, 12) is being installed, without data of its own.
fn applying() -> (Stored, RaftLocalState) {
    let mut stored = healthy();
    stored.region.state = PeerState::Applying;
    stored.apply = Some(RaftApplyState {
        applied_index: 12,
        truncated_state: RaftTruncatedState { index: 12, term: 7 },
        commit_index: 12,
        commit_term: 7,
    });
    let saved = RaftLocalState {
        hard_state: hard_state(7, 0, 12),
        last_index: 12,
    };
    (stored, saved)
}

#[test]
fn rule_10_an_interrupted_install_wipes_the_old_log_and_ends_normal() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let (stored, saved) = applying();
    stored.write(&node);
    put_state(&node, Keyspace::SnapshotState, 1, saved.encode_to_vec());
    let storage = node.open_region(1).unwrap();
    assert_eq!(storage.region_state().state, PeerState::Normal);
    assert_eq!(storage.raft_state(), &saved);
    assert_eq!((storage.applied_index(), storage.truncated_term()), (12, 7));
    assert_eq!(node.log().read_entry(1.into(), 10).unwrap(), None);
    drop(storage);
    let after: Vec<String> = dump(&node).into_keys().collect();
    assert!(!after.iter().any(|k| k.starts_with("snapshot_state")));
    node.open_region(1).unwrap();
}

#[test]
fn rule_10_a_log_that_only_reaches_further_is_still_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let (mut stored, saved) = applying();
    stored.entries = entries(6, 6..16);
    stored.raft().last_index = 15;
    for commit in [9, 12, 13] {
        stored.raft().hard_state.commit = commit;
        stored.write(&node);
        put_state(&node, Keyspace::SnapshotState, 1, saved.encode_to_vec());
        let storage = node.open_region(1).unwrap();
        assert_eq!(storage.raft_state(), &saved, "commit {commit}");
        assert_eq!(node.log().read_entry(1.into(), 13).unwrap(), None);
    }
}

#[test]
fn rule_10_a_log_that_was_switched_already_keeps_what_came_with_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let (mut stored, saved) = applying();
    stored.entries = entries(7, 13..15);
    *stored.raft() = RaftLocalState {
        hard_state: hard_state(7, 0, 13),
        last_index: 14,
    };
    stored.write(&node);
    put_state(&node, Keyspace::SnapshotState, 1, saved.encode_to_vec());
    let storage = node.open_region(1).unwrap();
    assert_eq!(storage.raft_state(), stored.raft.as_ref().unwrap());
    assert_eq!(storage.term(14), Ok(7));
}

#[test]
fn rule_11_applying_without_a_saved_raft_state_is_refused() {
    let (error, text) = refusal(|s| s.region.state = PeerState::Applying);
    assert_eq!(error, RecoveryError::PendingSnapshotMissing);
    assert!(text.contains("state is Applying"), "{text}");
}

#[test]
fn rule_12_every_write_of_a_recovery_is_synced_and_normal_comes_last() {
    let rig = Rig::new(config(1));
    let (stored, saved) = applying();
    stored.write(&rig.node);
    put_state(&rig.node, Keyspace::SnapshotState, 1, saved.encode_to_vec());
    rig.trace.take();
    let storage = rig.node.open_region(1).unwrap();
    let steps = rig.trace.take();
    assert!(steps.iter().all(Step::is_synced), "{steps:?}");
    assert!(matches!(steps[..], [Step::Log(..), Step::Kv(..)]));
    let state = steps[1].kv_value(Keyspace::RegionState).unwrap();
    let state = RegionLocalState::decode_of(1.into(), state).unwrap();
    assert_eq!(state.state, PeerState::Normal);
    assert_eq!(storage.raft_state(), &saved);
}

#[test]
fn rule_12_a_recovery_that_is_cut_anywhere_goes_on_at_the_next_open() {
    for cut in 0..2 {
        for kept in [0, usize::MAX] {
            let rig = Rig::new(config(1));
            let (stored, saved) = applying();
            stored.write(&rig.node);
            put_state(&rig.node, Keyspace::SnapshotState, 1, saved.encode_to_vec());
            rig.trace.cut_after(cut);
            assert!(rig.node.open_region(1).is_err());
            let crashed = rig.crash(kept);
            let storage = crashed.node.open_region(1).unwrap();
            assert_eq!(storage.raft_state(), &saved);
            assert_eq!(storage.region_state().state, PeerState::Normal);
            assert!(data_of(&crashed.node).is_empty());
        }
    }
}

#[test]
fn an_entry_that_is_left_below_the_truncated_index_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let mut stored = healthy();
    stored.entries.insert(0, entry(4, 5));
    stored.write(&node);
    let mut storage = node.open_region(1).unwrap();
    assert_eq!(
        storage.term(5),
        Ok(5),
        "the truncated term, not the entry's"
    );
    assert!(storage.term(4).is_err());
    storage.compact(8).unwrap();
    assert_eq!(node.log().read_entry(1.into(), 5).unwrap(), None);
}
