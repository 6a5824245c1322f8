//! A replica that its state machine has stopped is destroyed, and the region goes on without it.

use std::collections::BTreeSet;

use peerstore::{ChangePeer, PeerId, PeerRole, RaftLogStorage as _, RegionStage, RegionStatus};

use crate::checks::{apply_state, show_region};
use crate::world::World;

impl World {
    /// Destroys a replica that is stopped, if nothing else is wrong with its region: all others have
    /// applied the same, and no change of it is under way that could take another one out.
    pub fn destroy_stopped(&mut self) {
        let stopped = |s: &RegionStatus| matches!(s.state, RegionStage::Stopped(_));
        let mut found = None;
        for (at, node) in self.nodes.iter().enumerate() {
            let regions = node.store().map(|s| s.regions()).unwrap_or_default();
            let failed = node.apply_failed.load(std::sync::atomic::Ordering::Relaxed);
            if failed && !node.faulty {
                found = found.or(regions.into_iter().find(stopped).map(|s| (at, s)));
            }
        }
        let Some((at, status)) = found else {
            return;
        };
        let id = status.region.id;
        if !self.asked.is_empty() || self.wounded.contains_key(&id) || !self.others_agree(at, id) {
            return;
        }
        let Some(store) = self.nodes[at].store() else {
            return;
        };
        let ticket = store.destroy(id);
        let what = format!("{} of {}", status.peer, show_region(&status.region));
        self.wounded.insert(id, status.peer.0);
        self.ask("destroys", what, ticket);
    }

    fn others_agree(&self, stopped: usize, id: u64) -> bool {
        let Some((_, led)) = self.led().into_iter().find(|(_, s)| s.region.id == id) else {
            return false;
        };
        let voters = led
            .region
            .peers
            .iter()
            .filter(|p| p.role() == PeerRole::Voter);
        let is_plain = voters.count() == led.region.peers.len() && led.region.peers.len() >= 3;
        let member = |store| led.region.peers.iter().any(|p| p.store_id == store);
        let mut ends = BTreeSet::new();
        for (at, node) in self.nodes.iter().enumerate() {
            if at == stopped || !member(node.id) {
                continue;
            }
            let shown = node.store().and_then(|s| s.region(id));
            let same = shown.is_some_and(|s| {
                s.region == led.region && s.state == RegionStage::Active && s.term == led.term
            });
            let log = node.log.read_state(id.into()).expect("a read in memory");
            let last = log.map(|s| s.last_index);
            let applied = apply_state(&node.data, id.into()).map(|a| a.applied_index);
            if !same || node.faulty || last != applied {
                return false;
            }
            ends.insert(last);
        }
        is_plain && member(self.nodes[stopped].id) && ends.len() == 1
    }

    /// Takes replicas that are gone for good out of their regions.
    pub fn repair(&mut self) {
        for (at, status) in self.led() {
            let region = status.region;
            let Some(gone) = self.wounded.get(&region.id).copied() else {
                continue;
            };
            if region.peers.iter().all(|p| p.id != gone) {
                self.wounded.remove(&region.id);
                continue;
            }
            if let Some(store) = self.nodes[at].store() {
                let change = [ChangePeer::Remove(PeerId(gone))];
                let ticket = store.change_peers_at(region.id, region.region_epoch, change);
                self.ask("repairs", format!("{}", region.id), ticket);
            }
        }
    }
}
