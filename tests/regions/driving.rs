//! What a patient client does: asks again until it has happened.

use std::collections::BTreeMap;

use peerstore::keys::region_key;
use peerstore::{
    ChangePeer, KeyRange, Keyspace, KvCommand, PeerId, RaftApplyState, Region, RegionId, Result,
    Ticket,
};

use crate::world::World;

/// How long a client waits for one answer before it asks again.
const PATIENCE_ROUNDS: usize = 400;

impl World {
    /// Region 1 over every key, with a voter on each of `stores`: peer 100 + store.
    pub fn create_region(&mut self, stores: &[u64]) {
        let voters = stores.iter().map(|id| (PeerId(100 + id), *id));
        let region = Region::with_voters(1, KeyRange::all(), voters);
        for id in stores {
            let running = self.running.get_mut(id).expect("it runs");
            running.store.create_region(&region).expect("created");
        }
        drop(self.store(stores[0]).campaign(1));
        self.wait("the first leader", |w| w.leader(1));
    }

    /// The answer of a ticket, unless it takes too long.
    pub fn answer<T>(&mut self, mut ticket: Ticket<T>) -> Option<Result<T>> {
        for _ in 0..PATIENCE_ROUNDS {
            if let Some(answer) = ticket.try_take() {
                return Some(answer);
            }
            self.round();
        }
        None
    }

    /// Asks until it is so.
    pub fn achieve(
        &mut self,
        what: &str,
        is_so: impl Fn(&World) -> bool,
        ask: impl Fn(&World) -> Option<Ticket<Region>>,
    ) {
        self.wait(what, |world| {
            if is_so(world) {
                return Some(());
            }
            if let Some(ticket) = ask(world) {
                drop(world.answer(ticket));
            }
            is_so(world).then_some(())
        });
    }

    /// Puts a value where its key is led, until it is acknowledged.
    pub fn put(&mut self, key: &str, value: &str) {
        let command = KvCommand::put(key, value).encode();
        self.wait("a put", |world| {
            let region = world.region_of(key.as_bytes())?;
            let leader = world.leader(region.id)?;
            let ticket = world.store(leader).propose(region.id, command.clone());
            world.answer(ticket)?.ok()
        });
        self.data.insert(key.into(), value.into());
    }

    pub fn put_all(&mut self, keys: &[&str], value: &str) {
        keys.iter().for_each(|key| self.put(key, value));
    }

    /// Splits at `key`, and answers the id of the region that begins there.
    pub fn split(&mut self, key: &str) -> u64 {
        let starts = |world: &World| {
            let region = world.region_of(key.as_bytes())?;
            (region.start_key == key.as_bytes()).then_some(region.id)
        };
        self.achieve(
            "a split",
            |w| starts(w).is_some(),
            |w| {
                let region = w.region_of(key.as_bytes())?;
                Some(w.store(w.leader(region.id)?).split(region.id, key))
            },
        );
        starts(self).expect("it was split")
    }

    /// Changes members until the leader has `goal`, and the region is not joint.
    pub fn change(
        &mut self,
        region: u64,
        changes: &[ChangePeer],
        goal: impl Fn(&BTreeMap<u64, i32>) -> bool,
    ) {
        let is_so = |w: &World| {
            let Some(region) = w.region(region) else {
                return false;
            };
            let roles = region.peers.iter().map(|p| (p.id, p.role)).collect();
            goal(&roles) && region.peers.iter().all(|p| p.role < 2)
        };
        self.achieve("a change of members", is_so, |w| {
            let store = w.store(w.leader(region)?);
            Some(store.change_peers(region, changes))
        });
    }

    /// Lets the peer of the region on `store` lead.
    pub fn lead_from(&mut self, region: u64, store: u64) {
        self.achieve(
            "a transfer",
            |w| w.leader(region) == Some(store),
            |w| {
                let of_region = w.region(region)?.peers;
                let to = of_region.iter().find(|p| p.store_id == store)?.id;
                Some(w.store(w.leader(region)?).transfer_leader(region, to))
            },
        );
    }

    /// Merges, and waits until no store has the source.
    pub fn merge(&mut self, source: u64, target: u64) {
        let stores: Vec<u64> = self.running.keys().copied().collect();
        self.merge_on(&stores, source, target);
    }

    /// Merges, and waits until none of `stores` has the source.
    pub fn merge_on(&mut self, stores: &[u64], source: u64, target: u64) {
        self.achieve(
            "a merge",
            |w| stores.iter().all(|id| w.status(*id, source).is_none()),
            |w| {
                let (from, into) = (w.leader(source)?, w.leader(target)?);
                let of_source = w.region(source)?.peers;
                if from == into {
                    return Some(w.store(from).merge(source, target));
                }
                let to = of_source.iter().find(|p| p.store_id == into)?.id;
                Some(w.store(from).transfer_leader(source, to))
            },
        );
    }

    /// How far a store has applied a region, and dropped its log.
    pub fn applied(&self, id: u64, region: u64) -> Option<RaftApplyState> {
        let (app, region) = (&self.running[&id].app, RegionId(region));
        let state = app.get(Keyspace::ApplyState, &region_key(region));
        RaftApplyState::decode_of(region, &state.expect("read")?).ok()
    }

    /// Drops all of the log that is applied at the leader.
    pub fn compact(&mut self, region: u64) {
        self.wait("a compaction", |w| {
            let leader = w.leader(region)?;
            let applied = w.applied(leader, region)?.applied_index;
            let ticket = w.store(leader).compact(region, applied);
            w.answer(ticket)?.ok()
        });
    }
}
