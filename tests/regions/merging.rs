//! Rules 27 and 28: merges of which a store has missed something, and merges that are given up.

use peerstore::{Error, RegionId, RegionStage};

use crate::site::Death;
use crate::world::World;

const KEYS: [&str; 4] = ["a", "c", "m", "z"];

/// Regions 1 and the answer, which begins at "k"; both are led from store 1.
fn two_regions(world: &mut World) -> u64 {
    world.create_region(&[1, 2, 3]);
    world.put_all(&KEYS, "1");
    let right = world.split("k");
    world.lead_from(1, 1);
    world.lead_from(right, 1);
    // What the last follower has acknowledged, its leader knows.
    world.put_all(&KEYS, "1.1");
    world.check(&[1, right]);
    right
}

#[test]
fn rule_27_a_source_that_lags_gets_its_entries_from_the_merge() {
    let mut world = World::three();
    let right = two_regions(&mut world);
    world.lose(move |from, to, peer| peer.region == RegionId(right) && (from == 3 || to == 3));
    world.put_all(&["m", "z", "y"], "2");
    let versions = [1, right].map(|id| world.region(id).expect("led").region_epoch.version);
    world.merge(right, 1);
    world.put("z", "3");
    world.check(&[1]);
    let version = world.region(1).expect("led").region_epoch.version;
    // The source's grew by one when it was prepared.
    assert_eq!(version, versions[0].max(versions[1] + 1) + 1);
}

#[test]
fn rule_27_a_store_that_was_down_all_the_while_catches_up_by_its_log() {
    let mut world = World::three();
    let right = two_regions(&mut world);
    world.kill(3, Death::Power { log: 0, data: 0 });
    world.put_all(&["m", "z"], "2");
    world.merge(right, 1);
    world.put_all(&["a", "y"], "3");
    world.start(3);
    world.check(&[1]);
    assert!(world.tombstones(3).contains_key(&right));
    assert_eq!(world.store(3).stats().snapshots_installed, 0);
}

#[test]
fn rule_27_a_store_that_was_down_all_the_while_catches_up_by_a_snapshot() {
    let mut world = World::three();
    let right = two_regions(&mut world);
    world.kill(3, Death::Power { log: 0, data: 0 });
    world.put_all(&["m", "z"], "2");
    world.merge(right, 1);
    world.put_all(&["a", "y"], "3");
    world.compact(1);
    world.start(3);
    world.check(&[1]);
    assert!(world.tombstones(3).contains_key(&right));
    assert!(world.store(3).stats().snapshots_installed > 0);
}

#[test]
fn rule_27_the_left_one_too_is_merged_past_a_store_that_was_down() {
    for compacted in [false, true] {
        let mut world = World::three();
        let right = two_regions(&mut world);
        world.kill(3, Death::Power { log: 0, data: 0 });
        world.put_all(&["a", "z"], "2");
        world.merge(1, right);
        world.put_all(&["b", "y"], "3");
        if compacted {
            world.compact(right);
        }
        world.start(3);
        world.check(&[right]);
        assert_eq!(world.tombstones(3).get(&1), Some(&103));
    }
}

#[test]
fn rule_28_a_merge_is_given_up_if_its_target_has_changed_first() {
    let mut world = World::three();
    let right = two_regions(&mut world);
    let before = world.region(right).expect("led").region_epoch;
    // Both are proposed before either is applied.
    let split = world.store(1).split(1, "c");
    let merge = world.store(1).merge(right, 1);
    assert!(world.answer(split).is_some_and(|a| a.is_ok()));
    let stopped = world.answer(merge).expect("answered").expect("prepared");
    assert_eq!(stopped.region_epoch.version, before.version + 1);
    assert_eq!(stopped.region_epoch.conf_ver, before.conf_ver + 1);
    world.put_all(&KEYS, "2");
    let middle = world.region_of(b"c").expect("led").id;
    world.check(&[1, middle, right]);
    let after = world.region(right).expect("led").region_epoch;
    assert_eq!(after.version, before.version + 2);
    // What was given up once can be done later.
    world.merge(right, middle);
    world.put_all(&KEYS, "3");
    world.check(&[1, middle]);
}

#[test]
fn rule_28_a_region_that_is_being_merged_takes_nothing_and_keeps_its_log() {
    let mut world = World::three();
    let right = two_regions(&mut world);
    // The target cannot commit anything, so the source waits.
    world.lose(|_, _, peer| peer.region == RegionId(1));
    let merge = world.store(1).merge(right, 1);
    let epoch = world.answer(merge).expect("answered").expect("prepared");
    world.wait("it waits everywhere", |w| {
        let waits = |id| {
            w.status(id, right)
                .is_some_and(|s| s.state == RegionStage::Merging)
        };
        (1..=3).all(waits).then_some(())
    });
    let compact = world.store(1).compact(right, 6);
    assert!(matches!(
        world.answer(compact),
        Some(Err(Error::Refused { .. }))
    ));
    let propose = world.store(1).propose(right, "x");
    assert!(matches!(
        world.answer(propose),
        Some(Err(Error::Refused { .. }))
    ));
    let read = world.store(1).read(right);
    assert!(matches!(
        world.answer(read),
        Some(Err(Error::Refused { .. }))
    ));
    let split = world.store(1).split(right, "p");
    assert!(matches!(
        world.answer(split),
        Some(Err(Error::Refused { .. }))
    ));
    assert_eq!(world.region(right), Some(epoch));
    world.lose_nothing();
    world.put_all(&KEYS, "2");
    world.check(&[1]);
}

#[test]
fn rule_28_a_merge_waits_for_replicas_that_are_behind_the_start_of_the_log() {
    let mut world = World::three();
    let right = two_regions(&mut world);
    world.kill(3, Death::Process);
    world.put_all(&["m", "z"], "2");
    world.compact(right);
    let merge = world.store(1).merge(right, 1);
    let refused = world.answer(merge).expect("answered");
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    world.start(3);
    world.check(&[1, right]);
    world.merge(right, 1);
    world.check(&[1]);
}
