//! What goes wrong in one region stays there, and what a client is told when it cannot be served.

use std::sync::Arc;

use peerstore::keys::region_key;
use peerstore::{
    AppBatch, ApplyBatch, ChangePeer, CompositeStorage, Config, Durability, Error, KeyRange,
    Keyspace, KvCommand, KvStateMachine, LogBatch, PeerId, RaftLocalState, Region, RegionId,
    RegionStage, Result, StateMachine, Store, StoreOptions,
};
use raft::eraftpb::Entry;

use crate::cluster::{Cluster, PATIENCE, wait};

/// Fails at entries that say so, on one store.
struct Fragile {
    here: bool,
    inner: KvStateMachine,
}

impl StateMachine for Fragile {
    fn apply(&mut self, entry: &Entry, batch: &mut ApplyBatch<'_>) -> Result<Vec<u8>> {
        match &entry.data[..] {
            b"panic" if self.here => panic!("a bug of the user's"),
            b"error" if self.here => Err(Error::StoreStopped),
            b"panic" | b"error" => Ok(Vec::new()),
            _ => self.inner.apply(entry, batch),
        }
    }
}

fn is_stopped(store: &Store, region: u64) -> bool {
    let status = store.region(region);
    status.is_some_and(|s| matches!(s.state, RegionStage::Stopped(_)))
}

#[test]
fn a_state_machine_that_fails_or_panics_stops_its_region_on_its_store_only() {
    for bad in ["error", "panic"] {
        let mut cluster = Cluster::new(0);
        cluster.machine = Arc::new(|store, _| {
            Box::new(Fragile {
                here: store == 1,
                inner: KvStateMachine,
            })
        });
        (1..=3).for_each(|id| cluster.start(id));
        cluster.create_region();
        cluster.put("a", "1");
        cluster.put("z", "1");
        wait("the split", || {
            cluster.leader(1).split(1, "k").wait(PATIENCE).ok()
        });
        let right = wait("the new region", || {
            cluster.region_of("z").filter(|region| region.0 != 1)
        });
        // Whoever leads proposes it; what becomes of that on a store that fails is not said.
        drop(cluster.leader(1).propose(1, bad).wait(PATIENCE));
        wait("the stop", || {
            is_stopped(&cluster.stores[&1], 1).then_some(())
        });
        cluster.put("a", "2");
        cluster.put("z", "2");
        let stopped = &cluster.stores[&1];
        assert_eq!(stopped.stats().regions_stopped, 1);
        let told = stopped.propose(1, "x").wait(PATIENCE);
        assert!(matches!(told, Err(Error::RegionStopped { .. })), "{told:?}");
        let told = stopped.read(1).wait(PATIENCE).map(drop);
        assert!(matches!(told, Err(Error::RegionStopped { .. })), "{told:?}");
        // Its other region serves on the same store.
        wait("a read", || stopped.read(right).wait(PATIENCE).ok());
        // The operator takes it out, and the others do not mind.
        assert!(stopped.destroy(1).wait(PATIENCE).is_ok());
        cluster.put("a", "3");
    }
}

/// Damages what is on the disk of a region of its own.
type Damage = fn(&CompositeStorage, RegionId);

#[test]
fn a_region_that_cannot_be_opened_is_shown_and_the_others_serve() {
    fn garbage(node: &CompositeStorage, keyspace: Keyspace, region: RegionId) {
        let mut batch = AppBatch::default();
        batch.put(keyspace, region_key(region), [0xff; 20]);
        node.app().write(&batch, Durability::Synced).unwrap();
    }
    let damages: [Damage; 4] = [
        |node, region| garbage(node, Keyspace::RegionState, region),
        |node, region| garbage(node, Keyspace::ApplyState, region),
        |node, region| {
            let mut batch = LogBatch::default();
            let raft = RaftLocalState {
                last_index: 4_000,
                ..node.log().read_state(region).unwrap().unwrap()
            };
            batch.state(region, raft);
            node.write_log(&batch).unwrap();
        },
        |node, region| {
            let mut batch = LogBatch::default();
            batch.remove(region, 6..4_000);
            node.write_log(&batch).unwrap();
        },
    ];
    let mut cluster = Cluster::new(1);
    let name = |region: u64| format!("{region:02}");
    for region in 1..=20 {
        let range = KeyRange::new(name(region), name(region + 1));
        let region = Region::with_voters(region, range, [(PeerId(100 + region), 1)]);
        cluster.stores[&1].create_region(&region).unwrap();
    }
    for region in 1..=20 {
        cluster.put(&name(region), "1");
    }
    cluster.stop(1);
    let config = Config {
        store_id: 1,
        cluster_id: 7,
        ..Config::default()
    };
    let node = CompositeStorage::open(cluster.path(1), config).unwrap();
    for (damage, region) in damages.into_iter().zip([3, 7, 11, 20]) {
        damage(&node, RegionId(region));
    }
    drop(node);
    cluster.start(1);
    let store = &cluster.stores[&1];
    let states = store.regions();
    assert_eq!(states.len(), 20);
    for region in 1..=20 {
        let bad = [3, 7, 11, 20].contains(&region);
        assert_eq!(is_stopped(store, region), bad, "{:?}", store.region(region));
        if !bad {
            cluster.put(&name(region), "2");
        }
    }
    assert_eq!(store.stats().regions_stopped, 4);
    let told = store.propose(3, "x").wait(PATIENCE);
    assert!(told.is_err());
    removed_and_replaced(store);
}

/// An operator can end what could not be opened, unless not even its range can be read; its keys are free
/// then, and its peer's id is not.
fn removed_and_replaced(store: &Store) {
    let unreadable = store.destroy(3).wait(PATIENCE).unwrap_err();
    assert!(
        matches!(unreadable, Error::Corruption { .. }),
        "{unreadable}"
    );
    for region in [7, 11, 20] {
        store.destroy(region).wait(PATIENCE).unwrap();
        assert_eq!(store.region(region), None);
        let name = |region: u64| format!("{region:02}");
        let range = KeyRange::new(name(region), name(region + 1));
        let again = |peer| Region::with_voters(region, range.clone(), [(PeerId(peer), 1)]);
        let refused = store.create_region(&again(100 + region)).unwrap_err();
        assert!(
            matches!(refused, Error::RegionTombstone { .. }),
            "{refused}"
        );
        store.create_region(&again(200 + region)).unwrap();
        store.wait_for_leader(region, PATIENCE).unwrap();
        let reader = store.read(region).wait(PATIENCE).unwrap();
        assert_eq!(reader.get(name(region).as_bytes()).unwrap(), None);
    }
}

#[test]
fn a_leader_does_not_remove_itself() {
    let cluster = Cluster::new(3);
    cluster.create_region();
    let leader = cluster.leader(1);
    let own = leader.region(1).unwrap().peer;
    let refused = leader
        .change_peers(1, [ChangePeer::Remove(own)])
        .wait(PATIENCE);
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
}

#[test]
fn proposals_wait_up_to_a_limit_and_then_the_store_is_busy() {
    let mut cluster = Cluster::with(
        3,
        StoreOptions {
            waiting_bytes_max: 4_000,
            ..StoreOptions::default()
        },
    );
    cluster.create_region();
    cluster.put("a", "1");
    let leader = cluster.leader(1).store_id();
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.stop(id);
    }
    let store = &cluster.stores[&leader];
    let mut waiting = Vec::new();
    let busy = wait("busy", || {
        let mut ticket = store.propose(1, vec![b'x'; 500]);
        match ticket.try_take() {
            Some(Err(Error::Busy { waiting, limit })) => Some((waiting, limit)),
            Some(other) => panic!("{other:?}"),
            None => {
                waiting.push(ticket);
                None
            }
        }
    });
    assert!(busy.0 <= 4_000 && busy.1 == 4_000, "{busy:?}");
    assert!(waiting.len() >= 4);
    // The peer goes while they wait: nobody can say any more what becomes of them.
    let destroyed = store.destroy(1);
    for ticket in waiting {
        let told = ticket.wait(PATIENCE);
        assert!(matches!(told, Err(Error::Uncertain { .. })), "{told:?}");
    }
    assert!(destroyed.wait(PATIENCE).is_ok());
    wait("no bytes", || {
        (store.stats().waiting_bytes == 0).then_some(())
    });
}

#[test]
fn whoever_asks_the_wrong_store_or_epoch_is_told_the_right_one() {
    let cluster = Cluster::new(3);
    cluster.create_region();
    cluster.put("a", "1");
    cluster.put("z", "1");
    let leader = cluster.leader(1);
    let old = leader.region(1).unwrap().region.region_epoch;
    let follower = (cluster.stores.values()).find(|s| s.store_id() != leader.store_id());
    let follower = follower.unwrap();
    let told = follower.propose(1, "x").wait(PATIENCE);
    match told {
        Err(Error::NotLeader {
            leader: Some(known),
            ..
        }) => assert_eq!(known.store_id, leader.store_id()),
        other => panic!("{other:?}"),
    }
    // A follower serves reads all the same, and sees what was acknowledged.
    let reader = wait("a read", || follower.read(1).wait(PATIENCE).ok());
    assert_eq!(reader.get(b"z").unwrap().as_deref(), Some(&b"1"[..]));
    wait("the split", || {
        cluster.leader(1).split(1, "k").wait(PATIENCE).ok()
    });
    let put = KvCommand::put("a", "2").encode();
    let told = wait("an answer of the leader", || {
        match cluster
            .leader(1)
            .propose_at(1, old, put.clone())
            .wait(PATIENCE)
        {
            Err(Error::NotLeader { .. }) => None,
            told => Some(told),
        }
    });
    match told {
        Err(Error::StaleEpoch { current, .. }) => assert_eq!(current.end_key, b"k"),
        other => panic!("{other:?}"),
    }
    assert_eq!(cluster.get("a").as_deref(), Some(&b"1"[..]));
    assert!(matches!(
        leader.propose(77, "x").wait(PATIENCE),
        Err(Error::RegionNotFound { .. })
    ));
}

#[test]
fn a_store_that_was_stopped_says_so() {
    let mut cluster = Cluster::new(1);
    cluster.create_region();
    cluster.put("a", "1");
    let store = cluster.stores.remove(&1).unwrap();
    store.stop();
    let told = store.propose(1, "x").wait(PATIENCE);
    assert!(matches!(told, Err(Error::StoreStopped)), "{told:?}");
    let told = store.read(1).wait(PATIENCE).map(drop);
    assert!(matches!(told, Err(Error::StoreStopped)), "{told:?}");
    let told = store.split(1, "k").wait(PATIENCE);
    assert!(matches!(told, Err(Error::StoreStopped)), "{told:?}");
    store.stop();
}

/// Waits until ticks of the store go by and none of them is a region's.
fn asleep(store: &Store) {
    let mut since = store.stats();
    wait("sleep", || {
        let now = store.stats();
        if now.region_ticks != since.region_ticks {
            since = now;
            return None;
        }
        (now.ticks >= since.ticks + 30).then_some(())
    });
}

#[test]
fn a_region_with_nothing_to_do_gets_no_ticks_and_wakes_for_whoever_needs_it() {
    let mut cluster = Cluster::new(3);
    cluster.create_region();
    cluster.put("a", "1");
    cluster.stores.values().for_each(asleep);
    let leader = cluster.leader(1).store_id();
    let before = cluster.stores[&leader].stats().region_ticks;
    cluster.put("a", "2");
    wait("a tick", || {
        (cluster.stores[&leader].stats().region_ticks > before).then_some(())
    });
    cluster.stores.values().for_each(asleep);
    // The others hear nothing of its store any more: they wake and elect.
    cluster.stop(leader);
    let next = cluster.leader(1).store_id();
    assert_ne!(next, leader);
    cluster.put("a", "3");
}
