//! Signs of life between stores, which stand in for the heartbeats of regions that sleep. Uses:
//! transport.

use std::collections::BTreeMap;

use super::StoreOptions;
use super::core::StoreCore;
use crate::transport::StoreMessage;

/// Which stores were heard, and when. Counted in ticks; nothing rests on it but when a region wakes.
#[derive(Debug)]
pub struct Liveness {
    stores: BTreeMap<u64, Heard>,
    every_ticks: u64,
    silent_ticks: u64,
    ticks: u64,
}

#[derive(Debug)]
struct Heard {
    at: u64,
    silent: bool,
}

impl Liveness {
    pub fn new(options: &StoreOptions) -> Self {
        Liveness {
            stores: BTreeMap::new(),
            every_ticks: options.heartbeat_ticks.max(1) as u64,
            silent_ticks: options.election_ticks as u64,
            ticks: 0,
        }
    }

    /// Something came from `store`.
    pub fn heard(&mut self, store: u64) {
        let heard = Heard {
            at: self.ticks,
            silent: false,
        };
        self.stores.insert(store, heard);
    }

    /// Something was sent to `store`: from now on it is to be heard.
    pub fn sent(&mut self, store: u64) {
        let at = self.ticks;
        let silent = false;
        self.stores.entry(store).or_insert(Heard { at, silent });
    }
}

impl StoreCore {
    /// Says that this store lives, and wakes the regions of those that have fallen silent.
    pub(super) fn check_liveness(&mut self) {
        let own = self.out.store_id;
        let liveness = &mut self.liveness;
        liveness.ticks += 1;
        let (now, limit) = (liveness.ticks, liveness.silent_ticks);
        let mut fallen = Vec::new();
        for (store, heard) in &mut liveness.stores {
            if !heard.silent && now - heard.at > limit {
                heard.silent = true;
                fallen.push(*store);
            }
        }
        if now.is_multiple_of(liveness.every_ticks) {
            let max_id = self.placement.max_id();
            for store in liveness.stores.keys().filter(|s| **s != own) {
                self.transport.send(*store, StoreMessage::Alive { max_id });
            }
        }
        for store in fallen {
            tracing::info!(store, "store fell silent");
            self.wake_all(|peer| peer.leader().is_some_and(|l| l.store_id == store));
        }
    }
}
