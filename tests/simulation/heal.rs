//! The end of all faults: within so many rounds everything must be well again.

use std::collections::BTreeMap;

use peerstore::memory::NetworkOptions;
use peerstore::{DataRead as _, KeyRange, Keyspace, Region, RegionStage, RegionStatus};

use crate::checks::{apply_state, content_of, show_region};
use crate::clients::keys;
use crate::history::Op;
use crate::world::{Checked, World};

/// How long it may take. Elections take some dozens of rounds, merges that are given up a few more.
const ROUNDS: u64 = 1200;

impl World {
    pub fn heal(&mut self) -> Checked {
        self.note("no more faults".into());
        self.network.heal();
        self.network.set_options(NetworkOptions::default());
        self.slow.clear();
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            (node.paused_until, node.slow_clock_until) = (0, 0);
            node.apply_fails
                .store(false, std::sync::atomic::Ordering::Relaxed);
            let is_broken =
                node.faulty || node.apply_failed.load(std::sync::atomic::Ordering::Relaxed);
            if is_broken {
                self.kill(at, true);
            }
            if self.nodes[at].running.is_none() {
                self.start(at)?;
            }
        }
        self.until("everything is well", World::is_well)?;
        self.read_everything()?;
        self.until("everything is well at the end", World::is_well)
    }

    fn until(&mut self, what: &str, done: fn(&World) -> Checked) -> Checked {
        let start = self.round;
        loop {
            self.round += 1;
            self.tick(1000)?;
            self.work_off()?;
            self.hear_answers();
            self.hear_operator();
            if self.round.is_multiple_of(10) {
                self.repair();
            }
            if !self.round.is_multiple_of(5) || self.is_calling() {
                continue;
            }
            match done(self) {
                Ok(()) => return Ok(()),
                Err(reason) if self.round > start + ROUNDS => {
                    return Err(format!("{what}: not after {ROUNDS} rounds: {reason}"));
                }
                Err(_) => {}
            }
        }
    }

    /// Lets everybody do everything that waits.
    fn work_off(&mut self) -> Checked {
        for _ in 0..8 {
            let mut any = self.deliver(50)?;
            for at in 0..self.nodes.len() {
                let parts = self.nodes[at].running.as_ref().map(|r| r.parts.clone());
                for part in parts.unwrap_or_default() {
                    any |= self.step(at, part)?;
                }
            }
            if !any {
                break;
            }
        }
        Ok(())
    }

    fn is_well(world: &World) -> Checked {
        let mut leaders: BTreeMap<u64, (usize, RegionStatus)> = BTreeMap::new();
        for (at, status) in world.led() {
            let id = status.region.id;
            if let Some((_, other)) = leaders.get(&id)
                && other.term >= status.term
            {
                continue;
            }
            leaders.insert(id, (at, status));
        }
        check_tiles(leaders.values().map(|(_, s)| &s.region).collect())?;
        for (_, status) in leaders.values() {
            if status.state != RegionStage::Active {
                return Err(format!(
                    "{:?}: {}",
                    status.state,
                    show_region(&status.region)
                ));
            }
            world.check_replicas(&status.region)?;
        }
        for node in &world.nodes {
            let store = node.store().ok_or("a store does not run")?;
            for status in store.regions() {
                let id = status.region.id;
                let member = leaders.get(&id).is_some_and(|(_, leader)| {
                    let peers = &leader.region.peers;
                    peers
                        .iter()
                        .any(|p| p.store_id == node.id && p.id == status.peer.0)
                });
                // A peer that was to come in by a change which was then taken back holds nothing.
                if !member && status.region.is_initialized() {
                    let (store, shown) = (node.id, show_region(&status.region));
                    return Err(format!(
                        "store {store} still has {shown}, {:?}",
                        status.state
                    ));
                }
            }
        }
        Ok(())
    }

    /// Every replica has applied the same, and has the same data.
    fn check_replicas(&self, region: &Region) -> Checked {
        let mut first: Option<(Option<u64>, String)> = None;
        for peer in &region.peers {
            let node = self.nodes.iter().find(|n| n.id == peer.store_id);
            let node = node.ok_or("a peer on no store")?;
            let status = node.store().and_then(|s| s.region(region.id));
            let Some(status) = status else {
                let (store, shown) = (node.id, show_region(region));
                return Err(format!("store {store} has no peer of {shown}"));
            };
            if status.region != *region || status.peer.0 != peer.id {
                let (own, theirs) = (show_region(&status.region), show_region(region));
                return Err(format!("store {} has {own}, its leader {theirs}", node.id));
            }
            if status.state != RegionStage::Active {
                return Err(format!(
                    "store {}: {} {:?}",
                    node.id, region.id, status.state
                ));
            }
            let applied = apply_state(&node.data, region.region_id()).map(|a| a.applied_index);
            let found = (applied, content_of(&node.data, &region.range()));
            if *first.get_or_insert_with(|| found.clone()) != found {
                return Err(format!(
                    "region {}: replicas at {first:?} and {found:?}",
                    region.id
                ));
            }
        }
        Ok(())
    }

    /// Every key is written and then read, through whoever leads.
    fn read_everything(&mut self) -> Checked {
        for key in keys() {
            let op = match key.starts_with('n') {
                true => Op::Add(1),
                false => Op::Put(b"the end".to_vec()),
            };
            for op in [op, Op::Get] {
                self.until_answered(key, op)?;
            }
        }
        // What no region holds must not be on a disk either.
        for node in &self.nodes {
            let store = node.store().ok_or("a store does not run")?;
            for key in keys() {
                let held = store.region_of(key.as_bytes()).is_some();
                let value = node.data.get(Keyspace::Data, key.as_bytes());
                let value = value.expect("a read in memory");
                if !held && value.is_some() {
                    return Err(format!("store {} has {key} and no region of it", node.id));
                }
            }
        }
        Ok(())
    }

    fn until_answered(&mut self, key: &'static str, op: Op) -> Checked {
        let before = self.history.answers();
        for _ in 0..ROUNDS {
            if self.history.answers() > before {
                return Ok(());
            }
            if !self.is_calling() {
                self.call(0, key, op.clone());
            }
            self.round += 1;
            self.tick(1000)?;
            self.work_off()?;
            self.hear_answers();
        }
        Err(format!("{key} is not answered after {ROUNDS} rounds"))
    }
}

/// Every key has one owner.
fn check_tiles(mut regions: Vec<&Region>) -> Checked {
    regions.sort_by(|a, b| a.start_key.cmp(&b.start_key));
    let mut end = Some(KeyRange::all().start);
    for region in &regions {
        if end.as_ref() != Some(&region.start_key) {
            let shown: Vec<String> = regions.iter().map(|r| show_region(r)).collect();
            return Err(format!(
                "the leaders' regions do not fit: {}",
                shown.join("; ")
            ));
        }
        end = Some(region.end_key.clone()).filter(|e| !e.is_empty());
    }
    match end {
        None => Ok(()),
        Some(end) => Err(format!("nobody leads from {} on", end.escape_ascii())),
    }
}
