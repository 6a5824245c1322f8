//! What must be true of a cluster that nobody disturbs any more: replicas agree, ranges tile, and no
//! store has more than it should.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use peerstore::keys::parse_region_key;
use peerstore::{KeyRange, Keyspace, PeerState, Region, RegionLocalState, RegionStage, Result};

use crate::world::{Running, World};

type Found = std::result::Result<(), String>;

impl World {
    /// Waits until everything is as it should be with the regions `expected`.
    pub fn check(&mut self, expected: &[u64]) {
        let mut last = String::new();
        for _ in 0..3_000 {
            match self.try_check(expected) {
                Ok(()) => return,
                Err(found) => last = found,
            }
            self.round();
        }
        panic!("{last}\n{}", self.picture());
    }

    /// The same with whatever regions are led.
    pub fn check_whatever_is_led(&mut self) -> Vec<u64> {
        self.wait("a cluster as it should be", |world| {
            let all = world
                .running
                .values()
                .flat_map(|r| r.store.store().regions());
            let led = all.filter(|s| s.is_leader).map(|s| s.region.id);
            let led: BTreeSet<u64> = led.collect();
            let led: Vec<u64> = led.into_iter().collect();
            world.try_check(&led).is_ok().then_some(led)
        })
    }

    fn try_check(&self, expected: &[u64]) -> Found {
        let mut leaders: BTreeMap<u64, Region> = BTreeMap::new();
        for region in expected {
            let found = self.region(*region).ok_or(format!("{region} is not led"))?;
            leaders.insert(*region, found);
        }
        tile(leaders.values())?;
        for region in leaders.values() {
            for peer in &region.peers {
                let status = self.status(peer.store_id, region.id);
                let status = status.ok_or(format!("{peer:?} of {} is not there", region.id))?;
                if status.region != *region || status.peer.0 != peer.id {
                    return Err(format!("{status:?} is not as {region:?}"));
                }
            }
        }
        for (id, running) in &self.running {
            self.check_store(*id, running, &leaders)?;
        }
        Ok(())
    }

    fn check_store(&self, id: u64, running: &Running, leaders: &BTreeMap<u64, Region>) -> Found {
        let statuses = running.store.store().regions();
        if let Some(bad) = statuses.iter().find(|s| s.state != RegionStage::Active) {
            return Err(format!("store {id}: {bad:?}"));
        }
        let ids: BTreeSet<u64> = statuses.iter().map(|s| s.region.id).collect();
        let here = |r: &&Region| r.peers.iter().any(|p| p.store_id == id);
        let members: BTreeSet<u64> = leaders.values().filter(here).map(|r| r.id).collect();
        if ids != members {
            return Err(format!(
                "store {id} has {ids:?}, is a member of {members:?}"
            ));
        }
        let kept = Kept::of(running).map_err(|error| error.to_string())?;
        let sets = [&kept.log, &kept.applied, &kept.normal];
        if sets.iter().any(|set| **set != ids) || !kept.snapshots.is_empty() {
            return Err(format!("store {id} of {ids:?} keeps {kept:?}"));
        }
        let ranges: Vec<KeyRange> = statuses.iter().map(|s| s.region.range()).collect();
        let own = |key: &[u8]| ranges.iter().any(|range| range.contains(key));
        let expected = self.data.iter().filter(|(key, _)| own(key));
        let expected: BTreeMap<_, _> = expected.map(|(k, v)| (k.clone(), v.clone())).collect();
        if kept.data != expected {
            return Err(format!(
                "store {id} holds {:?}, not {expected:?}",
                kept.data
            ));
        }
        Ok(())
    }

    /// The tombstones of a store, by their region: the peer, and whether a merge has made it.
    pub fn tombstones(&self, id: u64) -> BTreeMap<u64, u64> {
        let kept = Kept::of(&self.running[&id]).expect("read");
        kept.tombstones
    }
}

/// What is on the disk of a store.
#[derive(Debug, Default)]
pub struct Kept {
    log: BTreeSet<u64>,
    applied: BTreeSet<u64>,
    normal: BTreeSet<u64>,
    snapshots: BTreeSet<u64>,
    tombstones: BTreeMap<u64, u64>,
    data: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Kept {
    pub fn of(running: &Running) -> Result<Kept> {
        let mut kept = Kept {
            log: running.log.regions()?.iter().map(|id| id.0).collect(),
            ..Kept::default()
        };
        let all = KeyRange::all();
        let ids = |keyspace| -> Result<BTreeSet<u64>> {
            let mut ids = BTreeSet::new();
            running.app.scan(keyspace, &all, &mut |key, _| {
                ids.extend(parse_region_key(key).map(|id| id.0));
                Ok(ControlFlow::Continue(()))
            })?;
            Ok(ids)
        };
        kept.applied = ids(Keyspace::ApplyState)?;
        kept.snapshots = ids(Keyspace::SnapshotState)?;
        let (normal, tombstones) = (&mut kept.normal, &mut kept.tombstones);
        (running.app).scan(Keyspace::RegionState, &all, &mut |key, value| {
            let id = parse_region_key(key).expect("a region's key");
            let state = RegionLocalState::decode_of(id, value)?;
            if state.state == PeerState::Tombstone {
                tombstones.insert(id.0, state.peer_id.0);
            } else {
                normal.insert(id.0);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let data = &mut kept.data;
        running.app.scan(Keyspace::Data, &all, &mut |key, value| {
            data.insert(key.to_vec(), value.to_vec());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(kept)
    }
}

/// Whether the regions hold every key once.
fn tile<'a>(regions: impl Iterator<Item = &'a Region>) -> Found {
    let mut ranges: Vec<KeyRange> = regions.map(Region::range).collect();
    ranges.sort_by(|a, b| a.start.cmp(&b.start));
    let mut at = Vec::new();
    for (number, range) in ranges.iter().enumerate() {
        let is_last = number + 1 == ranges.len();
        if range.start != at || range.end.is_empty() != is_last {
            return Err(format!("the ranges do not tile: {ranges:?}"));
        }
        at.clone_from(&range.end);
    }
    Ok(())
}
