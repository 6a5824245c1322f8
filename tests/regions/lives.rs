//! The lives of regions, with a store that dies at each of their steps.

use peerstore::{ChangePeer, PeerId, RegionId};

use crate::cuts::with_a_death_at_every_step;
use crate::world::{World, learner, voter};

const KEYS: [&str; 6] = ["a", "c", "f", "m", "p", "z"];

#[test]
fn a_split_and_writes_to_both_sides() {
    with_a_death_at_every_step(3, |world: &mut World| {
        world.create_region(&[1, 2, 3]);
        world.put_all(&KEYS, "1");
        let right = world.split("k");
        world.put_all(&KEYS, "2");
        world.check(&[1, right]);
        let left = world.region(1).expect("led");
        assert_eq!(left.region_epoch.version, 2);
        assert_eq!(left.region_epoch.conf_ver, 1);
    });
}

#[test]
fn a_split_and_a_merge_back() {
    with_a_death_at_every_step(3, |world: &mut World| {
        world.create_region(&[1, 2, 3]);
        world.put_all(&KEYS, "1");
        let right = world.split("k");
        world.put_all(&["a", "z"], "2");
        world.merge(right, 1);
        world.put_all(&["c", "p"], "3");
        world.check(&[1]);
        for id in 1..=3 {
            assert!(world.tombstones(id).contains_key(&right), "store {id}");
        }
    });
}

#[test]
fn a_merge_into_the_right_neighbour() {
    with_a_death_at_every_step(3, |world: &mut World| {
        world.create_region(&[1, 2, 3]);
        world.put_all(&KEYS, "1");
        let right = world.split("k");
        world.merge(1, right);
        world.put_all(&KEYS, "2");
        world.check(&[right]);
    });
}

#[test]
fn a_merge_that_loses_a_race_with_a_split_is_given_up() {
    with_a_death_at_every_step(3, |world: &mut World| {
        world.create_region(&[1, 2, 3]);
        world.put_all(&KEYS, "1");
        let right = world.split("k");
        world.lead_from(1, 1);
        world.lead_from(right, 1);
        // Both are proposed before either is applied. With a death in between, either may be the first.
        let split = world.store(1).split(1, "c");
        let merge = world.store(1).merge(right, 1);
        drop((world.answer(split), world.answer(merge)));
        world.split("c");
        world.put_all(&KEYS, "2");
        let led = world.check_whatever_is_led();
        assert!(led.len() == 2 || led.len() == 3, "{led:?}");
    });
}

#[test]
fn a_store_that_missed_a_merge_and_its_log_gets_both_by_one_snapshot() {
    with_a_death_at_every_step(3, |world: &mut World| {
        world.create_region(&[1, 2, 3]);
        world.put_all(&KEYS, "1");
        let right = world.split("k");
        world.put_all(&KEYS, "2");
        // The third store hears nothing of the target any more.
        world.lose(|_, to, peer| to == 3 && peer.region == RegionId(1));
        world.merge_on(&[1, 2], right, 1);
        world.put_all(&["c", "p"], "3");
        world.compact(1);
        world.lose_nothing();
        world.check(&[1]);
        assert!(world.tombstones(3).contains_key(&right));
    });
}

#[test]
fn members_come_by_a_snapshot_change_jointly_and_go() {
    with_a_death_at_every_step(4, |world: &mut World| {
        world.create_region(&[1, 2, 3]);
        world.put_all(&KEYS, "1");
        world.compact(1);
        world.change(1, &[learner(204, 4)], |p| p.get(&204) == Some(&1));
        world.put("b", "1");
        world.change(1, &[voter(204, 4)], |p| p.get(&204) == Some(&0));
        // A joint replacement: the fourth store for the third. Whoever leads must not be the one to go.
        world.lead_from(1, 1);
        world.change(
            1,
            &[ChangePeer::Remove(PeerId(103)), learner(102, 2)],
            |p| !p.contains_key(&103) && p.get(&102) == Some(&1),
        );
        world.put("d", "1");
        world.check(&[1]);
        assert_eq!(world.tombstones(3).get(&1), Some(&103));
        // It comes back with a larger id, and only so.
        world.change(1, &[voter(303, 3)], |p| p.get(&303) == Some(&0));
        world.put("e", "1");
        world.check(&[1]);
    });
}
