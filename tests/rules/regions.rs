//! Rules 9 and 29: regions begin once and end for ever.

use peerstore::{Error, KeyRange, Keyspace, PeerState, Region, RegionLocalState};

use crate::recording::Step;
use crate::support::{
    Rig, apply, assert_says, config, data_of, dump, entries, fill, hard_state, on_disk,
    put_region_state, put_state,
};

#[test]
fn rule_29_the_tombstone_is_durable_before_anything_goes() {
    let rig = Rig::new(config(1));
    let mut storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..10);
    rig.trace.take();
    storage.destroy().unwrap();
    let steps = rig.trace.take();
    assert!(steps.iter().all(Step::is_synced), "{steps:?}");
    let state = steps[0].kv_value(peerstore::Keyspace::RegionState).unwrap();
    let state = RegionLocalState::decode_of(1.into(), state).unwrap();
    assert_eq!(
        (state.state, state.peer_id),
        (PeerState::Tombstone, 1.into())
    );
    assert!(matches!(steps[1..], [Step::Log(..), Step::Kv(..)]));
    assert!(data_of(&rig.node).is_empty());
}

#[test]
fn rule_29_a_removal_that_is_cut_anywhere_is_none_or_is_finished() {
    for cut in 0..3 {
        for kept in [0, usize::MAX] {
            let rig = Rig::new(config(1));
            let mut storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
            fill(&mut storage, 5, 6..10);
            rig.trace.cut_after(cut);
            assert!(storage.destroy().is_err());
            let crashed = rig.crash(kept);
            if cut == 0 {
                crashed.node.open_region(1).unwrap();
                continue;
            }
            let error = crashed.node.open_region(1).unwrap_err();
            assert!(matches!(error, Error::RegionTombstone { .. }), "{error}");
            assert!(data_of(&crashed.node).is_empty());
            let left: Vec<_> = crashed.dump().into_keys().collect();
            assert_eq!(left.len(), 1, "the tombstone: {left:?}");
        }
    }
}

#[test]
fn rule_29_only_a_larger_peer_id_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    node.create_region(&Region::single(1, 4))
        .unwrap()
        .destroy()
        .unwrap();
    let before = dump(&node);
    for peer in [1, 3, 4] {
        let refused = [
            node.create_region(&Region::single(1, peer)).unwrap_err(),
            node.create_uninitialized(1, peer).unwrap_err(),
        ];
        for error in refused {
            assert!(matches!(error, Error::RegionTombstone { peer: 4, .. }));
            assert_says(&error, &["region 1", "peer 4", "larger peer id"]);
        }
    }
    assert_eq!(dump(&node), before);
    drop(node.create_uninitialized(1, 5).unwrap());
    #[cfg(feature = "rocksdb")]
    let node = {
        drop(node);
        on_disk(dir.path())
    };
    assert_eq!(node.open_region(1).unwrap().peer_id(), 5.into());
}

#[test]
fn rule_29_a_larger_peer_never_sees_what_a_cut_removal_left() {
    for cut in 1..3 {
        let rig = Rig::new(config(1));
        let mut storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
        fill(&mut storage, 5, 6..10);
        rig.trace.cut_after(cut);
        assert!(storage.destroy().is_err());
        let crashed = rig.crash(0);
        let storage = crashed.node.create_region(&Region::single(1, 2)).unwrap();
        assert_eq!(storage.applied_index(), 5);
        assert!(data_of(&crashed.node).is_empty(), "cut {cut}");
    }
}

#[test]
fn rule_29_removing_a_region_leaves_its_neighbours_data() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let region = |id: u64, start: &str, end: &str| {
        Region::with_voters(id, KeyRange::new(start, end), [(1.into(), 1)])
    };
    let regions = [region(1, "", "b"), region(2, "b", "d"), region(3, "d", "")];
    let keys = [["", "az"], ["b", "cz"], ["d", "zz"]];
    let mut storages = Vec::new();
    for (region, keys) in regions.iter().zip(keys) {
        let mut storage = node.create_region(region).unwrap();
        storage.append(&entries(5, 6..7)).unwrap();
        let put = |_: &_, batch: &mut peerstore::ApplyBatch| {
            keys.iter().for_each(|key| batch.put(key, "v"));
            Ok(())
        };
        storage.apply(&entries(5, 6..7), put).unwrap();
        storages.push(storage);
    }
    storages.remove(1).destroy().unwrap();
    let left: Vec<String> = data_of(&node).into_iter().map(|(k, _)| k).collect();
    assert_eq!(left, ["", "az", "d", "zz"]);
    let regions = node.regions().unwrap();
    assert_eq!(
        regions.iter().map(|r| r.region.id).collect::<Vec<_>>(),
        [1, 3]
    );
}

#[test]
fn rule_29_a_tombstone_whose_data_is_gone_removes_nothing_any_more() {
    // The range may belong to another region by then.
    let rig = Rig::new(config(1));
    let storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    let mut tombstone = storage.region_state().clone();
    storage.destroy().unwrap();
    let mut other = rig.node.create_region(&Region::single(2, 2)).unwrap();
    fill(&mut other, 5, 6..10);
    tombstone.state = PeerState::Tombstone;
    put_region_state(&rig.node, &tombstone);
    assert!(rig.node.open_region(1).is_err());
    assert_eq!(data_of(&rig.node).len(), 4);
}

#[test]
fn rule_08_a_creation_that_is_cut_anywhere_can_be_repeated() {
    for cut in 0..2 {
        for kept in [0, usize::MAX] {
            let rig = Rig::new(config(1));
            rig.trace.cut_after(cut);
            assert!(rig.node.create_region(&Region::single(1, 1)).is_err());
            let crashed = rig.crash(kept);
            let error = crashed.node.open_region(1).unwrap_err();
            assert!(matches!(error, Error::RegionNotFound { .. }));
            let mut storage = crashed.node.create_region(&Region::single(1, 1)).unwrap();
            fill(&mut storage, 5, 6..8);
        }
    }
}

#[test]
fn a_region_that_exists_is_not_created_again_open_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    storage.set_hard_state(&hard_state(7, 1, 5)).unwrap();
    let before = dump(&node);
    let exists = || {
        let refused = [
            node.create_region(&Region::single(1, 9)).unwrap_err(),
            node.create_uninitialized(1, 9).unwrap_err(),
        ];
        for error in refused {
            assert!(matches!(error, Error::RegionExists { .. }), "{error}");
            assert_says(&error, &["region 1", "open it instead"]);
        }
        assert_eq!(dump(&node), before);
    };
    exists();
    drop(storage);
    exists();
    assert_eq!(node.open_region(1).unwrap().hard_state().vote, 1);
}

#[test]
fn a_region_has_one_owner_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let storage = node.create_region(&Region::single(1, 1)).unwrap();
    let error = node.open_region(1).unwrap_err();
    assert!(matches!(error, Error::RegionOpen { .. }));
    assert_says(
        &error,
        &["region 1", "open already", "drop the PeerStorage"],
    );
    drop(storage);
    drop(node.open_region(1).unwrap());
    // A refused open lets go of it too.
    let error = node.open_region(2).unwrap_err();
    assert!(matches!(error, Error::RegionNotFound { .. }));
    assert_says(&error, &["region 2", "does not exist", "create it"]);
    node.create_region(&Region::single(2, 1)).unwrap();
}

#[test]
fn regions_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let before = dump(&node);
    let all = KeyRange::all;
    let cases = [
        (Region::single(1, 0), "peer id"),
        (Region::with_voters(1, all(), []), "this store, 1"),
        (
            Region::with_voters(1, all(), [(7.into(), 2), (8.into(), 3)]),
            "peers on the stores [2, 3]",
        ),
        (
            Region::with_voters(1, KeyRange::new("b", "a"), [(1.into(), 1)]),
            "start below end",
        ),
        (
            Region::with_voters(1, all(), [(1.into(), 1), (1.into(), 2)]),
            "twice",
        ),
    ];
    for (region, says) in cases {
        let error = node.create_region(&region).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
        assert_says(&error, &["region 1", says]);
    }
    let error = node.create_uninitialized(1, 0).unwrap_err();
    assert_says(&error, &["peer id", "positive"]);
    assert_eq!(dump(&node), before);
}

#[test]
fn one_broken_region_leaves_the_others_alone() {
    let rig = Rig::new(config(1));
    for id in 1..20 {
        let mut storage = rig.node.create_region(&Region::single(id, 1)).unwrap();
        storage.append(&entries(5, 6..8)).unwrap();
        apply(&mut storage, &entries(5, 6..8)).unwrap();
    }
    let mut batch = peerstore::LogBatch::default();
    batch.clear_region(7.into());
    (rig.node.log())
        .write(&batch, peerstore::Durability::Synced)
        .unwrap();
    for id in 1..20 {
        assert_eq!(rig.node.open_region(id).is_ok(), id != 7, "region {id}");
    }
}

#[test]
fn one_damaged_region_leaves_the_others_to_serve() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    for id in 1..=20 {
        drop(node.create_region(&Region::single(id, 1)).unwrap());
    }
    put_state(&node, Keyspace::RegionState, 7, vec![0xff; 8]);
    let listed = node.regions().unwrap().into_iter();
    let listed: Vec<u64> = listed.map(|state| state.region.id).collect();
    assert_eq!(listed, (1..=20).filter(|id| *id != 7).collect::<Vec<_>>());
    for id in listed {
        node.open_region(id).unwrap();
    }
    let error = node.open_region(7).unwrap_err();
    assert!(matches!(error, Error::Corruption { .. }), "{error}");
    assert_says(&error, &["region 7", "RegionLocalState"]);
}
