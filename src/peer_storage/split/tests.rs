//! Rules 8 and 26: a split that is cut between its two writes makes no region, and loses no vote.

use raft::Storage as _;
use raft::eraftpb::HardState;

use super::NewRegion;
use crate::app_store::AppBatch;
use crate::error::Error;
use crate::peer_storage::PeerStorage;
use crate::peer_storage::tests::support::{
    Rig, config, data_of, entries, fill, hard_state, raft_of, seen,
};
use crate::proto::{INITIAL_INDEX, INITIAL_TERM, PeerState, RaftLocalState, Region};
use crate::raft_log::LogBatch;
use crate::types::{Durability, KeyRange, PeerId};

/// Region 2, split off region 1, with this store's peer 12.
fn child() -> Region {
    let range = KeyRange::new("key0008", "");
    Region::with_voters(2, range, [(PeerId(11), 1), (PeerId(12), 2)])
}

fn parent() -> (Rig, PeerStorage) {
    let rig = Rig::new(config(2));
    let region = Region::with_voters(1, KeyRange::all(), [(PeerId(1), 1), (PeerId(2), 2)]);
    let mut storage = rig.node.create_region(&region).unwrap();
    fill(&mut storage, 6, 6..11);
    (rig.node.app().sync()).unwrap();
    (rig, storage)
}

/// A peer of region 2 that messages have made, with what it has promised.
fn waiting(rig: &Rig, promised: &HardState) {
    let mut storage = rig.node.create_uninitialized(2, 12).unwrap();
    storage.set_hard_state(promised).unwrap();
}

fn plan(rig: &Rig, absorbed: Option<&HardState>) -> crate::error::Result<NewRegion> {
    NewRegion::of_split(rig.node.engines(), &child(), PeerId(12), absorbed)
}

fn write_log(rig: &Rig, new: &NewRegion) {
    let mut batch = LogBatch::default();
    new.add_to_log(&mut batch);
    assert_eq!(batch.durability(), Durability::Synced);
    rig.node.write_log(&batch).unwrap();
}

fn write_app(rig: &Rig, new: &NewRegion) {
    let mut batch = AppBatch::default();
    new.add_to_app(&mut batch);
    rig.node.app().write(&batch, Durability::Synced).unwrap();
}

#[test]
fn rule_26_the_new_region_in_memory_is_what_an_open_finds() {
    let (rig, _parent) = parent();
    let new = plan(&rig, None).unwrap();
    write_log(&rig, &new);
    write_app(&rig, &new);
    let storage = new.into_storage(rig.node.engines());
    assert_eq!(storage.first_index(), Ok(INITIAL_INDEX + 1));
    assert_eq!(storage.term(INITIAL_INDEX), Ok(INITIAL_TERM));
    assert_eq!(storage.removable(), None);
    assert_eq!(storage.conf_state().voters, [11, 12]);
    let crashed = rig.crash(0);
    let opened = crashed.node.open_region(2).unwrap();
    assert_eq!(seen(&crashed, &opened), seen(&rig, &storage));
    assert_eq!(data_of(&rig.node).len(), 5, "the data was there already");
    let open = rig.node.open_region(2);
    assert!(matches!(open, Err(Error::RegionOpen { .. })), "it is owned");
    raft_of(storage);
}

#[test]
fn rule_26_a_split_that_is_cut_behind_the_new_log_has_made_nothing() {
    let (rig, _parent) = parent();
    write_log(&rig, &plan(&rig, None).unwrap());
    for kept in [0, usize::MAX] {
        let crashed = rig.crash(kept);
        let opened = crashed.node.open_region(2);
        assert!(matches!(opened, Err(Error::RegionNotFound { .. })));
        // The log that nobody owns goes when somebody creates the region, whoever it is.
        let storage = crashed.node.create_uninitialized(2, 12).unwrap();
        assert_eq!(storage.raft_state(), &RaftLocalState::default());
        drop(storage);
        let again = plan(&crashed, None).unwrap();
        write_log(&crashed, &again);
        write_app(&crashed, &again);
        let storage = again.into_storage(crashed.node.engines());
        assert_eq!(storage.applied_index(), INITIAL_INDEX);
    }
}

#[test]
fn rule_08_a_peer_that_a_split_absorbs_keeps_its_vote_wherever_it_is_cut() {
    // What was promised; what term and vote the new region has.
    let cases = [
        (hard_state(9, 11, 0), (9, 11)),
        (hard_state(9, 0, 0), (9, 0)),
        (hard_state(INITIAL_TERM, 11, 0), (INITIAL_TERM, 11)),
        (hard_state(2, 11, 0), (INITIAL_TERM, 0)),
        (HardState::default(), (INITIAL_TERM, 0)),
    ];
    for (promised, (term, vote)) in cases {
        // Known to whoever plans the split, or only to the log.
        for absorbed in [Some(&promised), None] {
            let (rig, _parent) = parent();
            waiting(&rig, &promised);
            let new = plan(&rig, absorbed).unwrap();
            write_log(&rig, &new);
            for kept in [0, usize::MAX] {
                let crashed = rig.crash(kept);
                let storage = crashed.node.open_region(2).unwrap();
                assert_eq!(storage.hard_state(), &hard_state(term, vote, 0));
                assert_eq!(
                    (storage.last_index(), storage.first_index()),
                    (Ok(0), Ok(1))
                );
                assert!(!storage.region().is_initialized());
                raft_of(storage);
                // The split is applied again.
                let again = plan(&crashed, None).unwrap();
                write_log(&crashed, &again);
                write_app(&crashed, &again);
                let storage = again.into_storage(crashed.node.engines());
                let expected = hard_state(term, vote, INITIAL_INDEX);
                assert_eq!(storage.hard_state(), &expected);
            }
            write_app(&rig, &new);
            let opened = rig.crash(0).node.open_region(2).unwrap();
            let expected = hard_state(term, vote, INITIAL_INDEX);
            assert_eq!(opened.hard_state(), &expected, "{promised:?}");
        }
    }
}

#[test]
fn of_a_vote_in_the_log_and_one_in_memory_the_later_counts() {
    let cases = [
        (hard_state(9, 0, 0), hard_state(9, 11, 0), (9, 11)),
        (hard_state(9, 11, 0), hard_state(9, 0, 0), (9, 11)),
        (hard_state(9, 11, 0), hard_state(10, 0, 0), (10, 0)),
        (hard_state(10, 11, 0), hard_state(9, 12, 0), (10, 11)),
    ];
    for (durable, absorbed, expected) in cases {
        let (rig, _parent) = parent();
        waiting(&rig, &durable);
        let new = plan(&rig, Some(&absorbed)).unwrap();
        let state = &new.stored.raft.hard_state;
        assert_eq!(
            (state.term, state.vote),
            expected,
            "{durable:?} {absorbed:?}"
        );
    }
}

#[test]
fn a_half_split_peer_goes_on_waiting_and_can_be_written_and_opened_again() {
    let (rig, _parent) = parent();
    waiting(&rig, &hard_state(9, 11, 0));
    write_log(&rig, &plan(&rig, None).unwrap());
    let crashed = rig.crash(0);
    let mut storage = crashed.node.open_region(2).unwrap();
    storage.set_hard_state(&hard_state(10, 12, 0)).unwrap();
    drop(storage);
    let storage = crashed.crash(0).node.open_region(2).unwrap();
    assert_eq!(storage.hard_state(), &hard_state(10, 12, 0));
    assert_eq!(storage.last_index(), Ok(0));
}

#[test]
fn ids_that_exist_already_are_skipped() {
    let (rig, parent) = parent();
    let refused = |rig: &Rig| plan(rig, None).err().unwrap();
    let owned = rig.node.create_uninitialized(2, 12).unwrap();
    assert!(matches!(refused(&rig), Error::RegionOpen { .. }));
    owned.destroy().unwrap();
    let tombstone = refused(&rig);
    assert!(matches!(tombstone, Error::RegionTombstone { peer: 12, .. }));
    drop(rig.node.create_uninitialized(2, 13).unwrap());
    assert!(matches!(refused(&rig), Error::RegionExists { .. }), "newer");
    let (rig, _parent) = (self::parent(), parent).0;
    drop(rig.node.create_region(&child()).unwrap());
    assert!(matches!(refused(&rig), Error::RegionExists { .. }));
}

#[test]
fn behind_an_older_tombstone_a_split_makes_its_region() {
    let (rig, _parent) = parent();
    let old = rig.node.create_uninitialized(2, 7).unwrap();
    old.destroy().unwrap();
    let new = plan(&rig, None).unwrap();
    write_log(&rig, &new);
    let crashed = rig.crash(0);
    let states = crashed.node.tombstones().unwrap();
    assert_eq!(states[0].state, PeerState::Tombstone);
    assert_eq!(crashed.node.log().read_state(2.into()).unwrap(), None);
    write_app(&rig, &new);
    let storage = rig.crash(0).node.open_region(2).unwrap();
    assert_eq!(storage.peer_id(), PeerId(12));
}

#[test]
fn only_a_log_without_entries_of_a_region_without_data_is_taken_for_half_a_split() {
    // Entries 1 to 5 that the peer got itself: a log like any other.
    let (rig, _parent) = parent();
    let mut own = rig.node.create_uninitialized(2, 12).unwrap();
    own.append(&entries(INITIAL_TERM, 1..6)).unwrap();
    let committed = hard_state(INITIAL_TERM, 11, INITIAL_INDEX);
    own.set_hard_state(&committed).unwrap();
    drop(own);
    let opened = rig.crash(0).node.open_region(2).unwrap();
    assert_eq!(opened.last_index(), Ok(INITIAL_INDEX));
    assert_eq!(opened.hard_state(), &committed);
    // The last entry alone makes it a log, too.
    let (rig, _parent) = parent();
    waiting(&rig, &hard_state(9, 11, 0));
    let mut batch = LogBatch::default();
    batch.append(2.into(), entries(INITIAL_TERM, 5..6));
    let hard_state_at_5 = hard_state(9, 11, INITIAL_INDEX);
    batch.state(
        2.into(),
        RaftLocalState {
            hard_state: hard_state_at_5.clone(),
            last_index: INITIAL_INDEX,
        },
    );
    rig.node.log().write(&batch, Durability::Synced).unwrap();
    let opened = rig.node.open_region(2).unwrap();
    assert_eq!(opened.hard_state(), &hard_state_at_5);
    // Anything else that does not fit stays a contradiction.
    let state = |last_index, term, commit| RaftLocalState {
        hard_state: hard_state(term, 11, commit),
        last_index,
    };
    for (raft, with_entry) in [
        (state(6, 9, 5), None),
        (state(5, 9, 4), None),
        (state(5, 4, 5), None),
        (state(5, 9, 5), Some(3)),
    ] {
        let (rig, _parent) = parent();
        waiting(&rig, &hard_state(9, 11, 0));
        let mut batch = LogBatch::default();
        batch.state(2.into(), raft.clone());
        if let Some(index) = with_entry {
            batch.append(2.into(), entries(5, index..index + 1));
        }
        rig.node.log().write(&batch, Durability::Synced).unwrap();
        let opened = rig.node.open_region(2);
        assert!(matches!(opened, Err(Error::Recovery { .. })), "{raft:?}");
    }
}

#[test]
fn a_snapshot_on_half_a_split_that_is_cut_before_the_log_replaces_it() {
    let (rig, _parent) = parent();
    waiting(&rig, &hard_state(2, 11, 0));
    write_log(&rig, &plan(&rig, None).unwrap());
    let crashed = rig.crash(0);
    let mut storage = crashed.node.open_region(2).unwrap();
    // It ends where every region begins, as the log that the split has left does.
    let mut snapshot = raft::eraftpb::Snapshot::default();
    let meta = snapshot.mut_metadata();
    (meta.index, meta.term) = (INITIAL_INDEX, 7);
    meta.set_conf_state(child().conf_state());
    crashed.trace.cut_after(1);
    assert!(storage.install_snapshot(snapshot).is_err());
    drop(storage);
    let storage = crashed.crash(0).node.open_region(2).unwrap();
    assert_eq!(storage.hard_state(), &hard_state(7, 0, INITIAL_INDEX));
    assert_eq!(storage.last_index(), Ok(INITIAL_INDEX));
}
