//! Rules 15 to 18 for a region whose entries another thread applies.

use raft::{GetEntriesContext, Storage as _};

use super::{AppliedStates, next_apply_state};
use crate::app_store::{AppBatch, Keyspace};
use crate::command::position_of as position;
use crate::error::Error;
use crate::keys::region_key;
use crate::peer_storage::PeerStorage;
use crate::peer_storage::tests::support::{
    PATIENCE, Rig, apply, config, entries, entry, fill, seen, two_voters,
};
use crate::peer_storage::{SnapshotState, StorageOptions};
use crate::proto::{RaftApplyState, RaftTruncatedState, RegionLocalState};
use crate::raft_log::{LogBatch, LogOp};
use crate::types::{Durability, LogPosition, RegionId};
use raft::eraftpb::Entry;

fn state(applied: u64, commit: (u64, u64)) -> RaftApplyState {
    RaftApplyState {
        applied_index: applied,
        truncated_state: RaftTruncatedState { index: 5, term: 5 },
        commit_term: commit.0,
        commit_index: commit.1,
    }
}

/// A region with entries up to 12, all durable, applied up to 8.
fn region() -> (Rig, PeerStorage) {
    let rig = Rig::new(config(1));
    let mut storage = rig.node.create_region(&two_voters()).unwrap();
    fill(&mut storage, 6, 6..9);
    storage.append(&entries(6, 9..13)).unwrap();
    rig.trace.take();
    (rig, storage)
}

/// What an apply worker does with precomputed states.
fn write(rig: &Rig, states: &AppliedStates, durability: Durability) {
    let (mut batch, key) = (AppBatch::default(), region_key(1.into()));
    batch.put(Keyspace::ApplyState, key, states.apply.encode_to_vec());
    if let Some(region) = &states.region {
        batch.put(Keyspace::RegionState, key, region.encode_to_vec());
    }
    rig.node.app().write(&batch, durability).unwrap();
}

#[test]
fn rule_16_applied_and_recorded_commit_move_to_the_last_entry_and_never_back() {
    let next = |from: &RaftApplyState, list: &[Entry]| {
        next_apply_state(RegionId(1), from, list.iter().map(position))
    };
    let start = state(8, (6, 8));
    assert_eq!(next(&start, &[]).unwrap(), start);
    let list = [entry(6, 9), entry(7, 10)];
    assert_eq!(next(&start, &list).unwrap(), state(10, (7, 10)));
    let ahead = state(8, (7, 12));
    let behind = next(&ahead, &[entry(6, 9), entry(6, 10)]).unwrap();
    assert_eq!(behind, state(10, (7, 12)), "a commit never goes back");
    let refused = [
        vec![entry(6, 8)],
        vec![entry(6, 10)],
        vec![entry(6, 9), entry(6, 11)],
        vec![entry(6, 9), entry(6, 9)],
        vec![entry(5, 9)],
        vec![entry(7, 9), entry(6, 10)],
    ];
    for list in refused {
        let error = next(&start, &list).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{list:?}");
    }
}

#[test]
fn what_the_worker_computes_is_what_an_apply_by_hand_writes() {
    let (_rig, mut by_hand) = region();
    let before = by_hand.apply_state().clone();
    let list = entries(6, 9..12);
    apply(&mut by_hand, &list).unwrap();
    let next = next_apply_state(RegionId(1), &before, list.iter().map(position)).unwrap();
    assert_eq!(&next, by_hand.apply_state());
}

#[test]
fn what_was_applied_elsewhere_is_what_an_open_finds() {
    let (rig, mut storage) = region();
    let apply = next_apply_state(
        RegionId(1),
        storage.apply_state(),
        entries(6, 9..12).iter().map(position),
    );
    let mut region: RegionLocalState = storage.region_state().clone();
    region.region.region_epoch.conf_ver += 1;
    region.conf_state.learners = vec![7];
    let states = AppliedStates {
        apply: apply.unwrap(),
        region: Some(region.clone()),
    };
    let own = storage.wait_snapshot(PATIENCE).unwrap();
    assert_eq!(own.get_metadata().index, 8);
    write(&rig, &states, Durability::Synced);
    storage.accept_applied(states);
    assert_eq!(storage.applied_index(), 11);
    assert_eq!(storage.hard_state().commit, 11, "applied is committed");
    assert_eq!(storage.conf_state(), &region.conf_state);
    assert_eq!(storage.snapshot_state(), SnapshotState::Idle, "it is old");
    let crashed = rig.crash(0);
    let opened = crashed.node.open_region(1).unwrap();
    assert_eq!(seen(&crashed, &opened), seen(&rig, &storage));
}

/// The states with which the log starts at `first_index`.
fn truncated(storage: &PeerStorage, first_index: u64) -> AppliedStates {
    let position = storage.truncated_at(first_index).unwrap().unwrap();
    let mut apply = storage.apply_state().clone();
    apply.truncated_state = position.into();
    AppliedStates {
        apply,
        region: None,
    }
}

#[test]
fn a_truncated_state_drops_from_memory_what_a_compaction_by_hand_drops() {
    let (rig, mut storage) = region();
    let (other_rig, mut by_hand) = region();
    let bytes = storage.log_bytes().unwrap();
    assert_eq!(by_hand.log_bytes().unwrap(), bytes);
    by_hand.compact(8).unwrap();
    let states = truncated(&storage, 8);
    write(&rig, &states, Durability::Synced);
    storage.accept_applied(states);
    assert_eq!(storage.first_index(), Ok(8));
    assert_eq!(storage.term(7), Ok(6));
    assert!(storage.term(6).is_err());
    assert_eq!(storage.cached_from(), Some(8));
    assert_eq!(storage.cached_from(), by_hand.cached_from());
    assert_eq!(storage.log_bytes().unwrap(), by_hand.log_bytes().unwrap());
    assert!(storage.log_bytes().unwrap() < bytes);
    assert_eq!(storage.terms.borrow().term(6), None, "forgotten");
    let mut batch = LogBatch::default();
    storage.stage_removal(&mut batch);
    rig.node.write_log(&batch).unwrap();
    assert_eq!(rig.dump(), other_rig.dump());
}

#[test]
fn rule_17_what_is_removable_is_staged_once_and_never_read() {
    let (rig, mut storage) = region();
    assert_eq!(storage.removable(), None, "a new log has nothing old");
    let states = truncated(&storage, 8);
    write(&rig, &states, Durability::Buffered);
    storage.accept_applied(states);
    assert_eq!(storage.removable(), Some(6..8));
    // A power cut before the data store was synced: the log is whole, because nothing was removed.
    let crashed = rig.crash(0);
    let opened = crashed.node.open_region(1).unwrap();
    let context = GetEntriesContext::empty(false);
    let log = opened.entries(6, 13, None, context).unwrap();
    assert_eq!(log, entries(6, 6..13));

    rig.node.app().sync().unwrap();
    let mut batch = LogBatch::default();
    storage.stage_removal(&mut batch);
    let removal = LogOp::Remove {
        region: 1.into(),
        range: 6..8,
    };
    assert_eq!(batch.ops(), [removal]);
    assert_eq!(batch.durability(), Durability::Buffered);
    storage.stage_removal(&mut batch);
    assert_eq!((batch.ops().len(), storage.removable()), (1, None));
    rig.node.write_log(&batch).unwrap();
    for kept in [0, usize::MAX] {
        let crashed = rig.crash(kept);
        let opened = crashed.node.open_region(1).unwrap();
        assert_eq!(opened.first_index(), Ok(8));
        assert_eq!(opened.removable(), Some(0..8), "nobody knows after an open");
    }
}

#[test]
fn where_a_log_can_be_cut_is_known_without_reading() {
    let (_rig, storage) = region();
    let at = |first_index| storage.truncated_at(first_index);
    assert_eq!(at(5).unwrap(), None);
    assert_eq!(at(6).unwrap(), None);
    assert_eq!(at(7).unwrap(), Some(LogPosition::new(6, 6)));
    assert_eq!(at(13).unwrap(), Some(LogPosition::new(6, 12)));
    assert!(matches!(at(14), Err(Error::Unavailable { .. })));
    assert_eq!(StorageOptions::default().durability, Durability::Synced);
}

#[test]
#[should_panic(expected = "applied_index: 7")]
fn a_state_that_goes_back_is_a_mistake_of_the_driver() {
    let (_rig, mut storage) = region();
    let apply = state(7, (6, 8));
    storage.accept_applied(AppliedStates {
        apply,
        region: None,
    });
}

#[test]
#[should_panic(expected = "commit_index <= self.persisted")]
fn what_is_not_durable_in_the_log_cannot_have_been_applied() {
    let (_rig, mut storage) = region();
    storage.persisted = 10;
    let apply = state(11, (6, 11));
    storage.accept_applied(AppliedStates {
        apply,
        region: None,
    });
}
