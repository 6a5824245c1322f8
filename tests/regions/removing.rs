//! Rule 29: peers that are removed, and what comes to their stores afterwards.

use peerstore::{ChangePeer, PeerId, RegionId, RegionStage, StorePart};

use crate::site::Death;
use crate::world::{World, learner, voter};

const KEYS: [&str; 3] = ["a", "m", "z"];

fn one_region(world: &mut World) {
    world.create_region(&[1, 2, 3]);
    world.put_all(&KEYS, "1");
    world.lead_from(1, 1);
    world.check(&[1]);
}

#[test]
fn rule_29_a_peer_that_was_removed_while_cut_off_learns_that_it_is_gone() {
    let mut world = World::three();
    one_region(&mut world);
    world.network.isolate(3);
    world.change(1, &[ChangePeer::Remove(PeerId(103))], |p| p.len() == 2);
    world.put("a", "2");
    assert!(world.status(3, 1).is_some());
    world.network.heal();
    world.check(&[1]);
    assert_eq!(world.tombstones(3).get(&1), Some(&103));
}

#[test]
fn rule_29_a_member_that_is_behind_is_not_taken_for_one_that_was_removed() {
    let mut world = World::three();
    one_region(&mut world);
    world.network.isolate(2);
    world.change(1, &[ChangePeer::Remove(PeerId(103))], |p| p.len() == 2);
    world.wait("the tombstone", |w| w.tombstones(3).get(&1).copied());
    // It asks the store of the removed peer for votes, and nobody else can be heard.
    world.network.heal();
    world.network.cut_both(1, 2);
    world.pass(600);
    assert!(world.status(2, 1).is_some(), "{}", world.picture());
    world.network.heal();
    world.put_all(&KEYS, "2");
    world.check(&[1]);
}

#[test]
fn rule_29_nor_by_the_peer_that_came_in_the_place_of_another() {
    let mut world = World::new(4, crate::site::Site::memory, None);
    world.create_region(&[1, 2, 3, 4]);
    world.put_all(&KEYS, "1");
    world.lead_from(1, 1);
    world.check(&[1]);
    world.network.isolate(2);
    world.change(1, &[ChangePeer::Remove(PeerId(103))], |p| p.len() == 3);
    world.wait("the tombstone", |w| w.tombstones(3).get(&1).copied());
    world.change(1, &[learner(303, 3)], |p| p.contains_key(&303));
    world.wait("the new one", |w| {
        let status = w.status(3, 1)?;
        status.region.is_initialized().then_some(())
    });
    // Only that store is heard, and it has another peer than the one that is asked for its vote.
    world.network.heal();
    world.network.cut_both(1, 2);
    world.network.cut_both(4, 2);
    world.pass(600);
    assert!(world.status(2, 1).is_some(), "{}", world.picture());
    world.network.heal();
    world.put_all(&KEYS, "2");
    world.check(&[1]);
}

#[test]
fn rule_29_a_tombstone_makes_no_peer_for_its_own_id_and_one_for_a_larger() {
    let mut world = World::new(4, crate::site::Site::memory, None);
    one_region(&mut world);
    world.change(1, &[learner(204, 4)], |p| p.contains_key(&204));
    world.check(&[1]);
    world.change(1, &[ChangePeer::Remove(PeerId(204))], |p| p.len() == 3);
    world.wait("the tombstone", |w| w.tombstones(4).get(&1).copied());
    // Its members believe that it is there again under the old id: what they send makes nothing.
    world.change(1, &[learner(204, 4)], |p| p.contains_key(&204));
    world.pass(400);
    assert_eq!(world.status(4, 1), None);
    assert_eq!(world.tombstones(4).get(&1), Some(&204));
    world.change(1, &[ChangePeer::Remove(PeerId(204))], |p| p.len() == 3);
    world.change(1, &[learner(304, 4)], |p| p.contains_key(&304));
    world.check(&[1]);
    world.restart(4, Death::Power { log: 0, data: 0 });
    world.check(&[1]);
}

#[test]
fn rule_29_a_removal_asked_for_during_an_install_waits_for_it_and_is_done() {
    let mut world = World::new(4, crate::site::Site::memory, None);
    one_region(&mut world);
    world.compact(1);
    world.change(1, &[learner(204, 4)], |p| p.contains_key(&204));
    world.wait("a peer that waits for its snapshot", |w| {
        w.status(4, 1).map(drop)
    });
    world.held.push((4, StorePart::Slow));
    world.wait("an install", |w| {
        (w.status(4, 1)?.state == RegionStage::Installing).then_some(())
    });
    let mut destroyed = world.store(4).destroy(1);
    world.pass(100);
    assert!(destroyed.try_take().is_none(), "it is not done yet");
    world.held.clear();
    let answer = world.answer(destroyed).expect("answered");
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(world.tombstones(4).get(&1), Some(&204));
    world.change(1, &[ChangePeer::Remove(PeerId(204))], |p| p.len() == 3);
    world.change(1, &[voter(304, 4)], |p| p.get(&304) == Some(&0));
    world.check(&[1]);
}

#[test]
fn rule_29_a_removal_asked_for_during_apply_waits_for_it_and_is_done() {
    let mut world = World::three();
    one_region(&mut world);
    world.held.push((3, StorePart::Apply(0)));
    world.put("a", "2");
    world.pass(50);
    let mut destroyed = world.store(3).destroy(1);
    world.pass(100);
    assert!(destroyed.try_take().is_none(), "it is not done yet");
    assert_eq!(
        world.status(3, 1).map(|s| s.state),
        Some(RegionStage::Leaving)
    );
    world.held.clear();
    let answer = world.answer(destroyed).expect("answered");
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(world.tombstones(3).get(&1), Some(&103));
    world.change(1, &[ChangePeer::Remove(PeerId(103))], |p| p.len() == 2);
    // In the place of its keys comes a new peer: what removed the old one has not touched it.
    world.change(1, &[voter(303, 3)], |p| p.get(&303) == Some(&0));
    world.check(&[1]);
    world.restart(3, Death::Process);
    world.check(&[1]);
}

#[test]
fn rule_29_a_removal_that_a_crash_cut_off_is_finished_by_the_next_open() {
    let mut world = World::three();
    one_region(&mut world);
    // The change is applied and durable; its peer's end is not begun.
    world.held.push((3, StorePart::Raft));
    world.lose(|_, to, peer| to == 3 && peer.region != RegionId(1));
    world.held.clear();
    world.change(1, &[ChangePeer::Remove(PeerId(103))], |p| p.len() == 2);
    world.restart(3, Death::Process);
    world.lose_nothing();
    world.check(&[1]);
    assert_eq!(world.tombstones(3).get(&1), Some(&103));
}
