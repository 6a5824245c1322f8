//! Logs are compacted by an entry of the log, so that every replica drops the same.

use std::collections::BTreeSet;

use peerstore::{GcPolicy, INITIAL_INDEX, RegionId};

use crate::site::Death;
use crate::world::World;

/// A log of more than twenty entries is cut to ten.
const SMALL: GcPolicy = GcPolicy {
    entries_max: 20,
    bytes_max: 1 << 20,
    entries_trailing: 10,
};

fn three_with_small_logs() -> World {
    let mut world = World::three();
    world.gc = SMALL;
    (1..=3).for_each(|id| world.restart(id, Death::Process));
    world.create_region(&[1, 2, 3]);
    world
}

/// Where each store has cut its log.
fn cuts(world: &World) -> BTreeSet<u64> {
    let states = (1..=3).filter_map(|id| world.applied(id, 1));
    states.map(|state| state.truncated_state.index).collect()
}

fn put_many(world: &mut World) {
    for number in 0..60 {
        world.put(&format!("k{number:02}"), "v");
    }
}

#[test]
fn every_replica_drops_the_same_front_of_the_log_by_itself() {
    let mut world = three_with_small_logs();
    put_many(&mut world);
    let cut = world.wait("a compaction", |w| {
        let cuts = cuts(w);
        let cut = cuts.first().copied().filter(|cut| *cut > INITIAL_INDEX)?;
        (cuts.len() == 1).then_some(cut)
    });
    // What was dropped is gone from the log of each, and what was not is there.
    world.wait("the removal", |w| {
        let gone = |id: u64| {
            let log = &w.running[&id].log;
            let entry = |index| log.read_entry(RegionId(1), index).expect("read");
            entry(cut).is_none() && entry(cut + 1).is_some()
        };
        (1..=3).all(gone).then_some(())
    });
    world.check(&[1]);
}

#[test]
fn rule_17_the_log_goes_only_when_what_covers_it_is_durable() {
    for kept in 0..4 {
        let mut world = three_with_small_logs();
        put_many(&mut world);
        world.wait("a compaction", |w| {
            let cut = cuts(w).first().copied()?;
            (cut > INITIAL_INDEX).then_some(())
        });
        // The power goes for all of them, with little of the data that was not synced.
        let power = Death::Power {
            log: usize::MAX,
            data: kept,
        };
        (1..=3).for_each(|id| world.kill(id, power));
        (1..=3).for_each(|id| world.start(id));
        world.put("k", "v");
        world.check(&[1]);
    }
}
