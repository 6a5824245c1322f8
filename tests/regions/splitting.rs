//! Rule 26: what a split meets at a store that is behind.

use peerstore::{ChangePeer, PeerId, RaftLocalState, RegionId, StoreMessage};

use crate::world::World;

const KEYS: [&str; 4] = ["a", "c", "m", "z"];

/// Region 1 is split at "k", but store 3 has not heard of it; its peer of the new region was made by a
/// message of a store that did not say which keys it holds, and has voted.
fn split_behind_the_back_of_store_3(world: &mut World) -> u64 {
    world.create_region(&[1, 2, 3]);
    world.put_all(&KEYS, "1");
    world.check(&[1]);
    world.network.set_filter(|_, to, message| match message {
        StoreMessage::Peer(peer) if peer.region == RegionId(1) && to == 3 => None,
        StoreMessage::Peer(mut peer) => {
            peer.range = None;
            Some(StoreMessage::Peer(peer))
        }
        alive => Some(alive),
    });
    let right = world.split("k");
    drop(world.store(2).campaign(right));
    world.wait("a peer made by a message", |w| w.status(3, right));
    world.wait("its vote", |w| {
        let state = raft_state(w, right)?;
        (state.hard_state.vote != 0).then_some(())
    });
    right
}

fn raft_state(world: &World, region: u64) -> Option<RaftLocalState> {
    let log = &world.running[&3].log;
    log.read_state(RegionId(region)).expect("read")
}

#[test]
fn rule_26_a_split_keeps_the_votes_of_a_peer_that_a_message_has_made() {
    let mut world = World::three();
    let right = split_behind_the_back_of_store_3(&mut world);
    assert!(!world.status(3, right).expect("it").region.is_initialized());
    let promised = raft_state(&world, right).expect("it").hard_state;
    // Only the old region is heard from now on, so nobody else can raise the term of the new one.
    world.lose(move |_, to, peer| peer.region == RegionId(right) && to == 3);
    world.wait("the split", |w| {
        let status = w.status(3, right)?;
        status.region.is_initialized().then_some(())
    });
    let kept = raft_state(&world, right).expect("it").hard_state;
    assert!(kept.term >= promised.term, "{kept:?} after {promised:?}");
    if kept.term == promised.term {
        assert_eq!(kept.vote, promised.vote);
    }
    world.lose_nothing();
    world.put_all(&KEYS, "2");
    world.check(&[1, right]);
}

#[test]
fn rule_26_a_split_makes_no_peer_where_it_was_removed_before() {
    let mut world = World::three();
    let right = split_behind_the_back_of_store_3(&mut world);
    let own = world.status(3, right).expect("it").peer;
    world.change(right, &[ChangePeer::Remove(own)], |p| {
        !p.contains_key(&own.0)
    });
    drop(world.store(3).destroy(right));
    world.wait("the removal", |w| {
        w.tombstones(3).contains_key(&right).then_some(())
    });
    world.lose_nothing();
    world.put_all(&KEYS, "2");
    // Its part of the parent's keys is gone from store 3 as well: the check looks.
    world.check(&[1, right]);
    assert_eq!(world.tombstones(3).get(&right), Some(&own.0));
    let again = ChangePeer::AddVoter {
        peer: PeerId(own.0 + 100),
        store: 3,
    };
    world.change(right, &[again], |p| p.contains_key(&(own.0 + 100)));
    world.check(&[1, right]);
}

#[test]
fn rule_26_a_message_makes_no_peer_over_keys_that_are_another_region_s() {
    let mut world = World::three();
    world.create_region(&[1, 2, 3]);
    world.put_all(&KEYS, "1");
    world.lose(|_, to, peer| peer.region == RegionId(1) && to == 3);
    let right = world.split("k");
    drop(world.store(2).campaign(right));
    world.wait("a refusal", |w| {
        w.store(3).stats().refused.get("overlap").copied()
    });
    assert!(world.status(3, right).is_none());
    world.lose_nothing();
    world.check(&[1, right]);
}

#[test]
fn rule_26_a_split_is_done_once_however_long_its_log_takes() {
    let mut world = World::three();
    world.create_region(&[1, 2, 3]);
    world.put_all(&KEYS, "1");
    let leader = world.leader(1).expect("led");
    let ticket = world.store(leader).split(1, "k");
    // Ticks come while the log of the new region is being written.
    for _ in 0..40 {
        for id in 1..=3 {
            let running = world.running.get_mut(&id).expect("it runs");
            running.store.step(peerstore::StorePart::Raft);
            running.store.tick();
            running.store.tick();
        }
        world.round();
    }
    let left = world.answer(ticket).expect("answered").expect("split");
    assert_eq!(left.end_key, b"k");
    let right = world.region_of(b"k").expect("led").id;
    world.check(&[1, right]);
}
