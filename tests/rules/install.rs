//! Rules 20 to 25: a snapshot that is installed is the old state or the new one, wherever it is cut.

use std::sync::Arc;

use peerstore::memory::{MemoryData, MemoryLog, MemorySnapshots};
use peerstore::{
    Config, Durability, Error, Keyspace, LogBatch, LogOp, PeerState, PeerStorage, RaftApplyState,
    RaftLocalState, RaftSnapshotData, RegionLocalState, SnapshotState,
};
use raft::eraftpb::Snapshot;
use raft::{RawNode, Ready, Storage as _};

use crate::recording::Step;
use crate::support::{
    FOLLOWER_LAST, LEADER_INDEX, Leader, PATIENCE, Rig, Seen, apply, assert_says, config,
    config_with_files, data_of, entries, entry_with, follower, hard_state, leader, raft_of,
    ready_with, seen, two_voters,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    File,
    Inline,
    Empty,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    kind: Kind,
    // Where the follower's log ends; beyond the snapshot, what is behind it goes.
    follower_last: u64,
    // Entries that come in the Ready of the snapshot.
    tail: u64,
    staged: bool,
}

impl Case {
    fn leader_config(self) -> Config {
        match self.kind {
            Kind::File => config_with_files(1),
            Kind::Inline | Kind::Empty => config(1),
        }
    }

    fn snapshot(self, leader: &Leader) -> Snapshot {
        let mut snapshot = leader.snapshot.clone();
        if self.kind == Kind::Empty {
            snapshot.data = Default::default();
        }
        snapshot
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [Kind::File, Kind::Inline, Kind::Empty] {
        for follower_last in [FOLLOWER_LAST, LEADER_INDEX, 20] {
            for tail in [0, 3] {
                for staged in [false, true] {
                    cases.push(Case {
                        kind,
                        follower_last,
                        tail,
                        staged,
                    });
                }
            }
        }
    }
    cases
}

fn take_in(rig: &Rig, raft: &mut RawNode<PeerStorage>, ready: &mut Ready, staged: bool) -> bool {
    if !staged {
        return raft.mut_store().persist(ready).is_ok();
    }
    let mut batch = LogBatch::default();
    let Ok(staged) = raft.mut_store().stage(ready, &mut batch) else {
        assert!(batch.is_empty(), "a failed stage leaves the batch alone");
        return false;
    };
    rig.node.write_log(&batch).is_ok() && raft.mut_store().persisted(staged).is_ok()
}

/// Installs with the writes cut after `cut`, crashes, opens. Returns what is seen then, and whether
/// the install had come to its end.
fn install_cut(case: Case, cut: Option<usize>, kept: usize) -> (Seen, bool, usize) {
    let leader = leader(case.leader_config(), &two_voters(), 6, LEADER_INDEX);
    let (rig, storage) = follower(case.follower_last);
    if case.kind == Kind::File {
        leader.send_to(&*rig.snapshots);
    }
    let mut raft = raft_of(storage);
    let mut ready = ready_with(&mut raft, case.snapshot(&leader), case.tail);
    rig.trace.take();
    if let Some(cut) = cut {
        rig.trace.cut_after(cut);
    }
    let done = take_in(&rig, &mut raft, &mut ready, case.staged);
    let writes = rig.trace.take().len();
    let crashed = rig.crash(kept);
    let storage = crashed.node.open_region(1).unwrap();
    let seen = seen(&crashed, &storage);
    raft_of(storage);
    let saved = (crashed.data.inner).crash_copy(usize::MAX);
    let key = peerstore::keys::region_key(1.into());
    let pending = peerstore::DataRead::get(&saved, Keyspace::SnapshotState, &key);
    assert_eq!(pending.unwrap(), None, "the saved state is gone");
    (seen, done, writes)
}

#[test]
fn rules_20_to_22_an_install_that_is_cut_at_any_write_is_the_old_state_or_the_new() {
    let mut cuts = 0;
    for case in cases() {
        let (new, done, writes) = install_cut(case, None, 0);
        assert!(done && writes >= 3, "{case:?}: {writes} writes");
        check_new(case, &new);
        let (rig, storage) = follower(case.follower_last);
        let old = seen(&rig, &storage);
        for cut in 0..writes {
            for kept in [0, usize::MAX] {
                let (found, done, _) = install_cut(case, Some(cut), kept);
                assert!(!done, "{case:?}: write {cut} failed unnoticed");
                if cut == 0 {
                    assert_eq!(found.raft, old.raft, "{case:?}");
                    assert_eq!(found.entries, old.entries);
                    assert_eq!(found.region, old.region);
                } else if cut == 1 {
                    // The log had not been switched: what came behind the snapshot was never
                    // acknowledged and is not there.
                    assert_eq!(found.apply, new.apply, "{case:?}");
                    assert_eq!((&found.region, &found.data), (&new.region, &new.data));
                    assert!(found.entries.is_empty(), "{case:?}: {found:?}");
                    assert_eq!(found.raft.hard_state.term, new.raft.hard_state.term);
                    assert_eq!(found.raft.hard_state.vote, new.raft.hard_state.vote);
                    assert_eq!(found.raft.last_index, LEADER_INDEX);
                } else {
                    assert_eq!(found, new, "{case:?}, cut {cut}, kept {kept}");
                }
                cuts += 1;
            }
        }
    }
    assert!(cuts > 200, "{cuts} cuts");
}

fn check_new(case: Case, new: &Seen) {
    assert_eq!(new.raft.last_index, LEADER_INDEX + case.tail);
    let applied = new.apply.applied_index;
    assert_eq!((applied, new.apply.truncated().term), (LEADER_INDEX, 6));
    assert_eq!(new.entries.len() as u64, case.tail);
    assert_eq!(new.region.state, PeerState::Normal);
    let keys = match case.kind {
        Kind::Empty => FOLLOWER_LAST - 5,
        Kind::File | Kind::Inline => LEADER_INDEX - 5,
    };
    assert_eq!(new.data.len() as u64, keys);
    if case.kind != Kind::Empty {
        assert!(new.data.iter().all(|(_, value)| value == "6"), "{new:?}");
    }
}

#[test]
fn rule_10_a_recovery_that_is_cut_at_any_write_and_again_goes_on_with_all_data() {
    let case = Case {
        kind: Kind::File,
        follower_last: 20,
        tail: 3,
        staged: false,
    };
    let (new, _, writes) = install_cut(case, None, 0);
    for cut in 1..writes {
        for (first, second) in [(0, 0), (0, 2), (1, 1), (2, 0), (2, 2), (3, 3)] {
            let leader = leader(case.leader_config(), &two_voters(), 6, LEADER_INDEX);
            let (mut rig, storage) = follower(case.follower_last);
            leader.send_to(&*rig.snapshots);
            let mut raft = raft_of(storage);
            let mut ready = ready_with(&mut raft, case.snapshot(&leader), case.tail);
            rig.trace.cut_after(cut);
            take_in(&rig, &mut raft, &mut ready, case.staged);
            for more in [first, second] {
                rig = rig.crash(0);
                rig.trace.cut_after(more);
                drop(rig.node.open_region(1));
            }
            let crashed = rig.crash(usize::MAX);
            let storage = crashed.node.open_region(1).unwrap();
            let found = seen(&crashed, &storage);
            assert_eq!(
                (found.apply, found.data),
                (new.apply.clone(), new.data.clone())
            );
            assert_eq!(found.region, new.region);
        }
    }
}

fn small_case(kind: Kind) -> (Leader, Rig, RawNode<PeerStorage>, Ready) {
    let case = Case {
        kind,
        follower_last: FOLLOWER_LAST,
        tail: 2,
        staged: false,
    };
    let leader = leader(case.leader_config(), &two_voters(), 6, LEADER_INDEX);
    let (rig, storage) = follower(case.follower_last);
    let mut raft = raft_of(storage);
    let ready = ready_with(&mut raft, case.snapshot(&leader), case.tail);
    rig.trace.take();
    (leader, rig, raft, ready)
}

#[test]
fn rule_20_applying_is_synced_before_the_log_is_touched() {
    let (_leader, rig, mut raft, mut ready) = small_case(Kind::Inline);
    raft.mut_store().persist(&mut ready).unwrap();
    let steps = rig.trace.take();
    let Step::Kv(_, Durability::Synced) = &steps[0] else {
        panic!("{steps:?}");
    };
    let value = |keyspace| steps[0].kv_value(keyspace).unwrap();
    let state = RegionLocalState::decode_of(1.into(), value(Keyspace::RegionState)).unwrap();
    assert_eq!(state.state, PeerState::Applying);
    let apply = RaftApplyState::decode_of(1.into(), value(Keyspace::ApplyState)).unwrap();
    assert_eq!((apply.applied_index, apply.commit_index), (15, 15));
    // The saved raft state starts with RaftLocalState's fields.
    let saved = RaftLocalState::decode_of(1.into(), value(Keyspace::SnapshotState)).unwrap();
    assert_eq!((saved.last_index, saved.hard_state.commit), (15, 15));
    assert!(matches!(steps[1], Step::Log(_, Durability::Synced)));
}

#[test]
fn rule_21_the_log_is_replaced_in_one_synced_batch() {
    let (_leader, rig, mut raft, mut ready) = small_case(Kind::Inline);
    raft.mut_store().persist(&mut ready).unwrap();
    let steps = rig.trace.take();
    let logs = steps.iter().filter(|s| matches!(s, Step::Log(..)));
    assert_eq!(logs.count(), 1);
    let Step::Log(batch, Durability::Synced) = &steps[1] else {
        panic!("{steps:?}");
    };
    let [
        LogOp::Clear { .. },
        LogOp::Append { entries, .. },
        LogOp::State { state, .. },
    ] = batch.ops()
    else {
        panic!("{batch:?}");
    };
    assert_eq!((entries[0].index, entries.len()), (16, 2));
    assert_eq!((state.last_index, state.hard_state.commit), (17, 16));
}

#[test]
fn rule_22_normal_is_synced_with_the_saved_state_removed_and_comes_last() {
    let (_leader, rig, mut raft, mut ready) = small_case(Kind::Inline);
    raft.mut_store().persist(&mut ready).unwrap();
    let steps = rig.trace.take();
    let names: Vec<_> = steps
        .iter()
        .map(|step| match step {
            Step::Kv(..) => "kv",
            Step::Log(..) => "log",
            Step::ImportCleared | Step::Imported => "import",
            Step::LogSync | Step::KvSync => "sync",
        })
        .collect();
    assert_eq!(names, ["kv", "log", "import", "import", "kv"]);
    assert!(steps[4].is_synced());
    let state = steps[4].kv_value(Keyspace::RegionState).unwrap();
    let state = RegionLocalState::decode_of(1.into(), state).unwrap();
    assert_eq!(state.state, PeerState::Normal);
    assert_eq!(raft.store().region_state().state, PeerState::Normal);
    assert_eq!(raft.store().snapshot_state(), SnapshotState::Idle);
}

#[test]
fn rule_23_a_snapshot_is_refused_while_writes_are_staged() {
    let leader = leader(config(1), &two_voters(), 6, LEADER_INDEX);
    let (rig, storage) = follower(FOLLOWER_LAST);
    let mut raft = raft_of(storage);
    raft.raft.become_candidate();
    let mut first = raft.ready();
    let mut batch = LogBatch::default();
    let staged = raft.mut_store().stage(&mut first, &mut batch).unwrap();
    let before = rig.dump();
    let error = (raft.mut_store())
        .install_snapshot(leader.snapshot.clone())
        .unwrap_err();
    assert!(matches!(error, Error::SnapshotRefused { .. }), "{error}");
    assert_says(&error, &["region 1", "1 staged", "expected none"]);
    assert_eq!(rig.dump(), before);
    rig.node.write_log(&batch).unwrap();
    raft.mut_store().persisted(staged).unwrap();
    raft.mut_store()
        .install_snapshot(leader.snapshot.clone())
        .unwrap();
}

#[test]
fn rule_23_an_install_gives_up_the_snapshot_that_was_being_built() {
    let leader = leader(config(1), &two_voters(), 6, LEADER_INDEX);
    let (rig, mut storage) = follower(FOLLOWER_LAST);
    let own = storage.wait_snapshot(PATIENCE).unwrap();
    assert_eq!(own.get_metadata().index, FOLLOWER_LAST);
    storage.install_snapshot(leader.snapshot.clone()).unwrap();
    assert_eq!(storage.snapshot_state(), SnapshotState::Idle);
    assert!(storage.snapshot(0, 1).is_err(), "the old one is not served");
    let fresh = storage.wait_snapshot(PATIENCE).unwrap();
    let meta = fresh.get_metadata();
    assert_eq!((meta.index, meta.term), (LEADER_INDEX, 6));
    drop(rig);
}

#[test]
fn rule_24_nothing_is_written_while_a_snapshot_is_applied() {
    let (_leader, rig, mut raft, mut ready) = small_case(Kind::Inline);
    let mut batch = LogBatch::default();
    let staged = raft.mut_store().stage(&mut ready, &mut batch).unwrap();
    let before = rig.dump();
    let store = raft.mut_store();
    let refused = [
        store.append(&entries(7, 18..19)),
        store.set_hard_state(&hard_state(9, 1, 15)),
        store.apply(&entries(7, 16..17), |_, _| Ok(())),
        store.advance_applied(16),
        store.compact(16),
        store.set_conf_state(&two_voters().conf_state()),
    ];
    for error in refused.map(Result::unwrap_err) {
        assert_says(&error, &["region 1", "state Applying", "open the region"]);
    }
    assert!(store.snapshot(0, 1).is_err());
    assert_eq!(store.snapshot_state(), SnapshotState::Applying);
    assert_eq!(rig.dump(), before);
    rig.node.write_log(&batch).unwrap();
    raft.mut_store().persisted(staged).unwrap();
    let store = raft.mut_store();
    store.apply(&entries(7, 16..17), |_, _| Ok(())).unwrap();
}

#[test]
fn rule_24_an_install_whose_first_write_failed_takes_no_more_writes() {
    // Whether Applying is on the disk is not known: what is written to the log now may be wiped.
    let (_leader, rig, mut raft, mut ready) = small_case(Kind::Inline);
    rig.data
        .inner
        .fail_next_write(peerstore::memory::WriteFault::SyncFailed);
    assert!(raft.mut_store().persist(&mut ready).is_err());
    let error = raft.mut_store().append(&entries(7, 9..12)).unwrap_err();
    assert_says(&error, &["region 1", "Applying", "open the region again"]);
    let index = |kept| {
        let reopened = rig.crash(kept).node.open_region(1).unwrap();
        reopened.last_index().unwrap()
    };
    assert_eq!(index(usize::MAX), LEADER_INDEX);
    assert_eq!(index(0), FOLLOWER_LAST);
}

#[test]
fn rule_25_a_received_file_stays_until_the_state_has_left_applying() {
    let leader = leader(config_with_files(1), &two_voters(), 6, LEADER_INDEX);
    let (rig, mut storage) = follower(FOLLOWER_LAST);
    leader.send_to(&*rig.snapshots);
    rig.trace.cut_after(4);
    assert!(storage.install_snapshot(leader.snapshot.clone()).is_err());
    drop(storage);
    assert_eq!(rig.snapshots.list(None).unwrap().len(), 1);
    let crashed = rig.crash(0);
    let storage = crashed.node.open_region(1).unwrap();
    assert_eq!(data_of(&crashed.node).len(), 10);
    drop(storage);
    // The workers have ended with the node.
    let snapshots = Arc::clone(&crashed.snapshots);
    drop(crashed);
    assert_eq!(snapshots.list(None).unwrap(), []);
}

#[test]
fn a_refused_ready_is_whole_and_can_be_persisted_once_the_file_is_there() {
    let (leader, rig, mut raft, mut ready) = small_case(Kind::File);
    let before = rig.dump();
    for staged in [false, true] {
        let mut batch = LogBatch::default();
        let error = match staged {
            false => raft.mut_store().persist(&mut ready).unwrap_err(),
            true => {
                let result = raft.mut_store().stage(&mut ready, &mut batch);
                result.unwrap_err()
            }
        };
        assert!(matches!(error, Error::SnapshotNotFound { .. }), "{error}");
        assert_says(&error, &["1-6-15-0", "transfer it before"]);
        assert_eq!((rig.dump(), batch.is_empty()), (before.clone(), true));
    }
    leader.send_to(&*rig.snapshots);
    raft.mut_store().persist(&mut ready).unwrap();
    let last = raft.store().last_index();
    assert_eq!(
        last,
        Ok(17),
        "the entries behind the snapshot are there too"
    );
    let storage = rig.crash(0).node.open_region(1).unwrap();
    assert_eq!(storage.last_index(), Ok(17));
}

#[test]
fn an_uninitialised_peer_becomes_the_region_of_the_snapshot() {
    let leader = leader(config(1), &two_voters(), 6, LEADER_INDEX);
    let snapshots = Arc::new(MemorySnapshots::new());
    let rig = Rig::of(config(2), MemoryLog::new(), MemoryData::new(), snapshots);
    let mut storage = rig.node.create_uninitialized(1, 2).unwrap();
    storage.set_hard_state(&hard_state(7, 1, 0)).unwrap();
    storage.install_snapshot(leader.snapshot.clone()).unwrap();
    drop(storage);
    let crashed = rig.crash(0);
    let storage = crashed.node.open_region(1).unwrap();
    assert_eq!(storage.region(), leader.storage.region());
    assert_eq!(
        storage.hard_state(),
        &hard_state(7, 1, 15),
        "the vote stays"
    );
    assert_eq!(storage.peer_id(), 2.into());
    let data = RaftSnapshotData::of_snapshot(1.into(), &leader.snapshot);
    assert!(!data.unwrap().unwrap().needs_transfer());
    assert_eq!(data_of(&crashed.node), data_of(&leader.node));
}

#[test]
fn what_the_region_gave_away_meanwhile_goes_in_the_first_write() {
    let (mut rig, mut storage) = follower(FOLLOWER_LAST);
    storage
        .append(&[entry_with(5, 9, b"z=given away")])
        .unwrap();
    storage.set_hard_state(&hard_state(5, 1, 9)).unwrap();
    apply(&mut storage, &[entry_with(5, 9, b"z=given away")]).unwrap();
    let mut smaller = two_voters();
    smaller.end_key = b"z".to_vec();
    smaller.region_epoch.version += 1;
    let leader = leader(config(1), &smaller, 6, LEADER_INDEX);
    assert!(data_of(&rig.node).iter().any(|(key, _)| key == "z"));
    storage.install_snapshot(leader.snapshot.clone()).unwrap();
    assert_eq!(data_of(&rig.node), data_of(&leader.node));
    drop(storage);
    rig = rig.crash(0);
    let storage = rig.node.open_region(1).unwrap();
    assert_eq!(storage.region(), &smaller);
    assert_eq!(data_of(&rig.node), data_of(&leader.node));
}
