//! An install on another thread: the same steps as one by hand, cut anywhere, on a region that is opened
//! again.

use peerstore::memory::WriteFault;
use raft::{RawNode, Ready, Storage as _};

use super::{InstallTask, Installed};
use crate::app_store::{AppBatch, DataRead as _, Keyspace};
use crate::error::Error;
use crate::peer_storage::tests::recording::Step;
use crate::peer_storage::tests::support::{
    FOLLOWER_LAST, LEADER_INDEX, Leader, Rig, Seen, config, config_with_files, data_of, entries,
    fill, follower, leader, raft_of, ready_with, seen, two_voters,
};
use crate::peer_storage::{Leaves, PeerStorage, SnapshotState, tombstone_ops};
use crate::proto::{PeerState, Region, RegionLocalState};
use crate::types::{KeyRange, PeerId, RegionId};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    File,
    Inline,
    Empty,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    kind: Kind,
    follower_last: u64,
    tail: u64,
}

struct Begun {
    leader: Leader,
    rig: Rig,
    raft: RawNode<PeerStorage>,
    ready: Ready,
    task: InstallTask,
}

/// The tombstone of a region that was merged into the one that is installed.
fn merged() -> RegionLocalState {
    let region = Region::with_voters(9, KeyRange::new("key", "kez"), [(PeerId(4), 2)]);
    RegionLocalState {
        peer_id: 4.into(),
        region,
        ..Default::default()
    }
}

fn also() -> AppBatch {
    let mut batch = AppBatch::default();
    tombstone_ops(&merged(), Leaves::Data, &mut batch);
    batch
}

fn prepare(case: Case) -> (Leader, Rig, RawNode<PeerStorage>, Ready) {
    let config = match case.kind {
        Kind::File => config_with_files(1),
        Kind::Inline | Kind::Empty => config(1),
    };
    let leader = leader(config, &two_voters(), 6, LEADER_INDEX);
    let (rig, storage) = follower(case.follower_last);
    if case.kind == Kind::File {
        leader.send_to(&*rig.snapshots);
    }
    let mut snapshot = leader.snapshot.clone();
    if case.kind == Kind::Empty {
        snapshot.data = Default::default();
    }
    let mut raft = raft_of(storage);
    let ready = ready_with(&mut raft, snapshot, case.tail);
    rig.trace.take();
    (leader, rig, raft, ready)
}

fn begin(case: Case) -> Begun {
    let (leader, rig, mut raft, mut ready) = prepare(case);
    let task = (raft.mut_store())
        .begin_install_task(&mut ready, also())
        .unwrap();
    Begun {
        leader,
        rig,
        raft,
        ready,
        task,
    }
}

const SMALL: Case = Case {
    kind: Kind::File,
    follower_last: FOLLOWER_LAST,
    tail: 2,
};

fn needed(rig: &Rig, begun: bool) -> usize {
    let shown = format!("{:?}", rig.node.engines().tasks.needed);
    assert!(shown.contains("needed"), "{shown}");
    let count = shown.matches("SnapshotKey").count();
    assert!(begun || count == 0, "{shown}");
    count
}

/// Nothing is left of an install: not its saved state, nor anything that keeps its file.
#[track_caller]
fn check_ended(rig: &Rig) {
    let key = crate::keys::region_key(1.into());
    let pending = rig.data.inner.get(Keyspace::SnapshotState, &key).unwrap();
    assert_eq!(pending, None);
    assert_eq!(needed(rig, false), 0);
}

fn install(case: Case) -> (Ran, Installed) {
    let begun = begin(case);
    let installed = begun.task.run().unwrap();
    let rest = Ran {
        _leader: begun.leader,
        rig: begun.rig,
        raft: begun.raft,
        ready: begun.ready,
    };
    (rest, installed)
}

/// What is left when the task has run.
struct Ran {
    _leader: Leader,
    rig: Rig,
    raft: RawNode<PeerStorage>,
    ready: Ready,
}

#[test]
fn it_makes_the_steps_of_an_install_by_hand_and_memory_follows_the_disk() {
    for kind in [Kind::File, Kind::Inline, Kind::Empty] {
        for follower_last in [FOLLOWER_LAST, LEADER_INDEX, 20] {
            for tail in [0, 3] {
                let case = Case {
                    kind,
                    follower_last,
                    tail,
                };
                let (mut rest, installed) = install(case);
                let names: Vec<_> = (rest.rig.trace.take().iter())
                    .map(|step| match step {
                        _ if !step.is_synced() => "not synced",
                        Step::Kv(..) => "kv",
                        Step::Log(..) => "log",
                        Step::ImportCleared | Step::Imported => "import",
                        Step::LogSync | Step::KvSync => "sync",
                    })
                    .collect();
                match kind {
                    Kind::Empty => assert_eq!(names, ["kv", "log", "kv"]),
                    _ => assert_eq!(names, ["kv", "log", "import", "import", "kv"]),
                }
                let store = rest.raft.mut_store();
                assert_eq!(store.applied_index(), FOLLOWER_LAST, "from before");
                store.accept_installed(installed);
                assert_eq!(store.persisted_index(), LEADER_INDEX + tail);
                assert_eq!(store.snapshot_state(), SnapshotState::Idle);
                let in_memory = seen(&rest.rig, rest.raft.store());
                let crashed = rest.rig.crash(0);
                let storage = crashed.node.open_region(1).unwrap();
                assert_eq!(seen(&crashed, &storage), in_memory, "{case:?}");
                rest.raft.advance_append(rest.ready);
                let last = rest.raft.store().last_index().unwrap();
                let more = entries(7, last + 1..last + 3);
                rest.raft.mut_store().append(&more).unwrap();
                check_ended(&rest.rig);
            }
        }
    }
}

/// Runs the task with the writes cut after `cut`; whether it came to its end, and its node.
fn cut_at(case: Case, cut: usize) -> (Rig, bool) {
    let begun = begin(case);
    begun.rig.trace.cut_after(cut);
    let done = begun.task.run().is_ok();
    drop(begun.raft);
    (begun.rig, done)
}

#[test]
fn rules_20_to_22_cut_at_any_write_and_opened_again_it_is_the_old_state_or_the_new() {
    let mut cuts = 0;
    for kind in [Kind::File, Kind::Inline, Kind::Empty] {
        for (follower_last, tail) in [(FOLLOWER_LAST, 0), (LEADER_INDEX, 3), (20, 3)] {
            let case = Case {
                kind,
                follower_last,
                tail,
            };
            let (mut rest, installed) = install(case);
            let writes = rest.rig.trace.take().len();
            rest.raft.mut_store().accept_installed(installed);
            let new = seen(&rest.rig, rest.raft.store());
            let (rig, storage) = follower(follower_last);
            let old = seen(&rig, &storage);
            // What a crash leaves at the worst and at best; none, and the writes succeed again.
            for (cut, reopening) in (0..writes).flat_map(|cut| (0..3).map(move |how| (cut, how))) {
                let (mut rig, done) = cut_at(case, cut);
                assert!(!done, "{case:?}: write {cut} failed unnoticed");
                match reopening {
                    0 => rig = rig.crash(0),
                    1 => rig = rig.crash(usize::MAX),
                    _ => rig.trace.cut_after(usize::MAX),
                }
                let storage = rig.node.open_region(1).unwrap();
                check_found(cut, &seen(&rig, &storage), &old, &new);
                check_ended(&rig);
                let tombstone = rig.node.local_state(RegionId(9)).unwrap();
                assert_eq!(tombstone.is_some(), cut > 0, "with the first batch");
                cuts += 1;
            }
        }
    }
    assert!(cuts > 100, "{cuts} cuts");
}

fn check_found(cut: usize, found: &Seen, old: &Seen, new: &Seen) {
    match cut {
        0 => assert_eq!(found, old),
        // The log was not switched: what came behind the snapshot was never acknowledged.
        1 => {
            assert_eq!((&found.apply, &found.region), (&new.apply, &new.region));
            assert_eq!((found.entries.len(), &found.data), (0, &new.data));
            assert_eq!(found.raft.last_index, LEADER_INDEX);
            assert_eq!(found.raft.hard_state.term, new.raft.hard_state.term);
            assert_eq!(found.raft.hard_state.vote, new.raft.hard_state.vote);
        }
        _ => assert_eq!(found, new, "cut {cut}"),
    }
}

#[test]
fn rule_24_nothing_writes_while_it_is_under_way_and_nobody_opens_the_region() {
    let mut begun = begin(SMALL);
    let store = begun.raft.mut_store();
    assert_eq!(store.snapshot_state(), SnapshotState::Applying);
    assert!(store.append(&entries(7, 9..10)).is_err());
    assert!(store.compact(7).is_err());
    assert!(store.snapshot(0, 1).is_err());
    store.log_start = 0;
    assert_eq!(store.removable(), None, "the log is replaced");
    let again = store.begin_install_task(&mut begun.ready, AppBatch::default());
    assert!(matches!(again, Err(Error::InvalidArgument { .. })));
    drop(begun.raft);
    let refused = begun.rig.node.open_region(1);
    assert!(matches!(refused, Err(Error::RegionOpen { .. })));
    let refused = begun.rig.node.create_region(&two_voters());
    assert!(matches!(refused, Err(Error::RegionExists { .. })));
    let worker = std::thread::spawn(move || begun.task.run().map(drop));
    worker.join().unwrap().unwrap();
    let storage = begun.rig.node.open_region(1).unwrap();
    assert_eq!(storage.applied_index(), LEADER_INDEX);
}

#[test]
fn a_task_that_is_dropped_has_changed_nothing() {
    let begun = begin(SMALL);
    let before = begun.rig.dump();
    drop((begun.task, begun.raft));
    assert_eq!(begun.rig.dump(), before);
    let storage = begun.rig.node.open_region(1).unwrap();
    assert_eq!(storage.applied_index(), FOLLOWER_LAST);
}

#[test]
fn a_message_that_is_refused_at_once_leaves_ready_and_region_alone() {
    let (leader, rig, mut raft, mut ready) = prepare(SMALL);
    let before = rig.dump();
    raft.mut_store().staged = 1;
    let refused = raft.mut_store().begin_install_task(&mut ready, also());
    assert!(matches!(refused, Err(Error::SnapshotRefused { .. })));
    raft.mut_store().staged = 0;
    assert_eq!((ready.entries().len(), rig.dump()), (2, before));
    assert_eq!(raft.store().region_state().state, PeerState::Normal);
    let task = raft.mut_store().begin_install_task(&mut ready, also());
    let installed = task.unwrap().run().unwrap();
    raft.mut_store().accept_installed(installed);
    assert_eq!(data_of(&rig.node), data_of(&leader.node));
}

#[test]
fn without_its_file_nothing_is_written_and_the_region_opens_as_it_was() {
    let begun = begin(SMALL);
    let file = begun.rig.snapshots.list(None).unwrap().remove(0);
    begun.rig.snapshots.delete(&file.key).unwrap();
    let before = begun.rig.dump();
    let error = begun.task.run().unwrap_err();
    assert!(matches!(error, Error::SnapshotNotFound { .. }), "{error}");
    drop(begun.raft);
    assert_eq!(begun.rig.dump(), before);
    let mut storage = begun.rig.node.open_region(1).unwrap();
    assert_eq!(storage.applied_index(), FOLLOWER_LAST);
    check_ended(&begun.rig);
    fill(&mut storage, 7, 9..11);
    begun.leader.send_to(&*begun.rig.snapshots);
    let mut raft = raft_of(storage);
    let mut ready = ready_with(&mut raft, begun.leader.snapshot.clone(), 0);
    let task = (raft.mut_store()).begin_install_task(&mut ready, AppBatch::default());
    raft.mut_store()
        .accept_installed(task.unwrap().run().unwrap());
    assert_eq!(raft.store().applied_index(), LEADER_INDEX);
}

#[test]
fn a_file_stays_needed_from_a_failed_install_to_the_next_open() {
    let begun = begin(SMALL);
    begun.rig.trace.cut_after(1);
    assert!(begun.task.run().is_err());
    drop(begun.raft);
    assert_eq!(needed(&begun.rig, true), 1, "the open reads it");
    let file = begun.rig.snapshots.list(None).unwrap().remove(0);
    let needed = &begun.rig.node.engines().tasks.needed;
    needed.remove(&*begun.rig.snapshots, &file.key).unwrap();
    begun.rig.trace.cut_after(usize::MAX);
    let storage = begun.rig.node.open_region(1).unwrap();
    assert_eq!(storage.applied_index(), LEADER_INDEX);
    assert_eq!(begun.rig.snapshots.list(None).unwrap(), []);
    check_ended(&begun.rig);
}

#[test]
fn a_region_whose_install_failed_can_be_destroyed_with_its_file() {
    let begun = begin(SMALL);
    begun.rig.trace.cut_after(1);
    assert!(begun.task.run().is_err());
    let task = begun.raft.store().destroy_task(Leaves::Nothing);
    drop(begun.raft);
    begun.rig.trace.cut_after(usize::MAX);
    task.run().unwrap();
    assert_eq!(begun.rig.snapshots.list(None).unwrap(), []);
    check_ended(&begun.rig);
    assert_eq!(data_of(&begun.rig.node), []);
}

#[test]
fn after_a_first_write_whose_fate_is_unknown_the_region_does_not_open_before_a_restart() {
    // The disk may say Applying, and the next start would wipe what was acknowledged since.
    let begun = begin(SMALL);
    (begun.rig.data.inner).fail_next_write(WriteFault::SyncFailed);
    assert!(begun.task.run().is_err());
    drop(begun.raft);
    for _ in 0..2 {
        let error = begun.rig.node.open_region(1).unwrap_err();
        assert!(matches!(error, Error::Poisoned { .. }), "{error}");
    }
    let applied = |kept| {
        let storage = begun.rig.crash(kept).node.open_region(1).unwrap();
        storage.applied_index()
    };
    // In this order: each open removes the files that it does not need.
    assert_eq!(applied(usize::MAX), LEADER_INDEX);
    assert_eq!(applied(0), FOLLOWER_LAST);
}

#[test]
fn what_another_thread_does_can_move_there() {
    fn is_send<T: Send>() {}
    is_send::<InstallTask>();
    is_send::<Installed>();
    is_send::<crate::peer_storage::DestroyTask>();
}

#[test]
#[should_panic(expected = "a task is under way")]
fn a_region_is_not_destroyed_under_its_install() {
    let begun = begin(SMALL);
    let _ = begun.raft.store().destroy_task(Leaves::Nothing);
}

#[test]
fn a_region_that_waited_for_a_merge_does_not_wait_behind_a_snapshot() {
    let (_leader, rig, mut raft, mut ready) = prepare(SMALL);
    let store = raft.mut_store();
    store.region_state.state = PeerState::Merging;
    store.region_state.merge_state = Some(Default::default());
    let task = store.begin_install_task(&mut ready, AppBatch::default());
    let installed = task.unwrap().run().unwrap();
    store.accept_installed(installed);
    let state = store.region_state();
    assert_eq!(
        (state.state, &state.merge_state),
        (PeerState::Normal, &None)
    );
    let stored = rig.node.local_state(RegionId(1)).unwrap();
    assert_eq!(stored.as_ref(), Some(state));
}
