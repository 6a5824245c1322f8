//! An operator who splits, merges and moves regions, hands their leadership over and cuts their logs,
//! whatever else is going on.

use peerstore::{ChangePeer, PeerId, PeerRole, Placement, Region, RegionStatus, Ticket};

use crate::checks::show_region;
use crate::world::World;

/// Where a region may be cut.
const CUTS: [&str; 7] = ["aa", "b", "c", "d", "n", "n2", "n4"];

pub struct Asked {
    kind: &'static str,
    what: String,
    ticket: Ticket<Region>,
}

impl World {
    /// A region where it is led, and the number of the node.
    fn some_leader(&mut self) -> Option<(usize, RegionStatus)> {
        let led = self.led();
        self.dice.pick(&led)
    }

    /// Every region that some store says it leads, with the number of the node.
    pub fn led(&self) -> Vec<(usize, RegionStatus)> {
        let mut led = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let regions = node.store().map(|s| s.regions()).unwrap_or_default();
            led.extend(regions.into_iter().filter(|r| r.is_leader).map(|r| (at, r)));
        }
        led
    }

    pub fn operate(&mut self) {
        let Some((at, status)) = self.some_leader() else {
            return;
        };
        self.repair();
        match self.dice.below(20) {
            0..=3 => self.split(at, &status.region),
            4..=8 => self.merge(at, &status.region),
            9..=13 => self.change_peers(at, &status.region),
            14..=16 => self.transfer(at, &status.region),
            17 => self.compact(at, &status.region),
            18 => {
                let node = self.dice.below(self.nodes.len());
                let region = status.region.region_id();
                if let Some(store) = self.nodes[node].store() {
                    let ticket = store.campaign(region);
                    self.ask("campaigns", format!("{region} on {node}"), ticket);
                }
            }
            _ => self.destroy_stopped(),
        }
    }

    pub fn ask(&mut self, kind: &'static str, what: String, ticket: Ticket<Region>) {
        self.note(format!("operator: {kind} {what}"));
        self.asked.push(Asked { kind, what, ticket });
    }

    /// Hears what has become of it.
    pub fn hear_operator(&mut self) {
        let mut index = 0;
        while index < self.asked.len() {
            let Some(answer) = self.asked[index].ticket.try_take() else {
                index += 1;
                continue;
            };
            let Asked { kind, what, .. } = self.asked.remove(index);
            match answer {
                Ok(region) => {
                    self.count(kind);
                    self.note(format!(
                        "operator: {kind} {what} done: {}",
                        show_region(&region)
                    ));
                }
                Err(error) => self.note(format!("operator: {kind} {what} not done: {error}")),
            }
        }
    }

    fn split(&mut self, at: usize, region: &Region) {
        let inside: Vec<&str> = (CUTS.iter().copied())
            .filter(|key| region.range().contains(key.as_bytes()))
            .filter(|key| key.as_bytes() != region.start_key)
            .collect();
        let Some(key) = self.dice.pick(&inside) else {
            return;
        };
        let Some(store) = self.nodes[at].store() else {
            return;
        };
        let ticket = store.split(region.region_id(), key);
        self.ask("splits", format!("{} at {key}", region.id), ticket);
    }

    /// Merges with a neighbour; where the two do not live together, moves the neighbour there.
    fn merge(&mut self, at: usize, region: &Region) {
        let led = self.led();
        let next_to = |other: &&(usize, RegionStatus)| {
            let other = &other.1.region;
            let after = !region.end_key.is_empty() && region.end_key == other.start_key;
            let before = !other.end_key.is_empty() && other.end_key == region.start_key;
            after || before
        };
        let neighbours: Vec<_> = led.iter().filter(next_to).cloned().collect();
        let Some((_, neighbour)) = self.dice.pick(&neighbours) else {
            return;
        };
        let target = neighbour.region;
        // What is not on a store cannot be taken in there.
        if self.wounded.contains_key(&region.id) || self.wounded.contains_key(&target.id) {
            return;
        }
        let changes = moves_to(region, &target, &mut || self.next_id());
        if changes.is_empty() {
            let Some(store) = self.nodes[at].store() else {
                return;
            };
            let ticket = store.merge(region.region_id(), target.region_id());
            self.ask(
                "merges",
                format!("{} into {}", region.id, target.id),
                ticket,
            );
        } else {
            self.change(at, region, changes);
        }
    }

    fn next_id(&self) -> u64 {
        self.placement.allocate_ids(1).expect("ids are counted")[0]
    }

    fn change_peers(&mut self, at: usize, region: &Region) {
        let mut free: Vec<u64> = self.nodes.iter().map(|n| n.id).collect();
        free.retain(|id| region.peers.iter().all(|p| p.store_id != *id));
        let free = self.dice.pick(&free);
        let voters: Vec<_> = (region.peers.iter())
            .filter(|p| p.role() == PeerRole::Voter)
            .copied()
            .collect();
        let learners: Vec<_> = (region.peers.iter())
            .filter(|p| p.role() == PeerRole::Learner)
            .copied()
            .collect();
        let id = PeerId(self.next_id());
        let some_voter = self
            .dice
            .pick(&voters)
            .map(|p| ChangePeer::Remove(PeerId(p.id)));
        let changes = match (self.dice.below(6), free, self.dice.pick(&learners)) {
            (0 | 1, Some(store), _) => vec![ChangePeer::AddVoter { peer: id, store }],
            (2, Some(store), _) => vec![ChangePeer::AddLearner { peer: id, store }],
            (_, _, Some(learner)) if self.dice.happens(500) => {
                let (peer, store) = (PeerId(learner.id), learner.store_id);
                vec![ChangePeer::AddVoter { peer, store }]
            }
            (_, _, Some(learner)) => vec![ChangePeer::Remove(PeerId(learner.id))],
            (3, Some(store), _) => {
                let comes = ChangePeer::AddVoter { peer: id, store };
                some_voter.into_iter().chain([comes]).collect()
            }
            _ if voters.len() > 3 => some_voter.into_iter().collect(),
            (4, ..) if voters.len() > 3 => {
                let voter = self.dice.pick(&voters);
                let learns = |p: peerstore::Peer| ChangePeer::AddLearner {
                    peer: PeerId(p.id),
                    store: p.store_id,
                };
                voter.map(learns).into_iter().collect()
            }
            _ => Vec::new(),
        };
        if !changes.is_empty() {
            self.change(at, region, changes);
        }
    }

    pub fn change(&mut self, at: usize, region: &Region, changes: Vec<ChangePeer>) {
        if self.wounded.contains_key(&region.id) {
            return;
        }
        // Of two voters none may go: when the one that stays is not told in time that this is committed,
        // it asks for the vote of the other for ever.
        let voters = region.peers.iter().filter(|p| p.role() == PeerRole::Voter);
        if voters.count() < 3 && !matches!(changes[..], [ChangePeer::AddVoter { .. }]) {
            return;
        }
        let kind = match changes.len() {
            1 => "simple changes",
            _ => "joint changes",
        };
        let what = format!("{}: {changes:?}", region.id);
        if let Some(store) = self.nodes[at].store() {
            let ticket = store.change_peers_at(region.region_id(), region.region_epoch, changes);
            self.ask(kind, what, ticket);
        }
    }

    fn transfer(&mut self, at: usize, region: &Region) {
        let Some(to) = self.dice.pick(&region.peers) else {
            return;
        };
        if let Some(store) = self.nodes[at].store() {
            let ticket = store.transfer_leader(region.region_id(), PeerId(to.id));
            self.ask("transfers", format!("{} to {}", region.id, to.id), ticket);
        }
    }

    fn compact(&mut self, at: usize, region: &Region) {
        let id = region.region_id();
        let Some(apply) = crate::checks::apply_state(&self.nodes[at].data, id) else {
            return;
        };
        if let Some(store) = self.nodes[at].store() {
            let ticket = store.compact(id, apply.applied_index);
            self.ask("compactions", format!("{id}"), ticket);
        }
    }
}

/// What brings the peers of `region` to where those of `target` are.
fn moves_to(region: &Region, target: &Region, id: &mut dyn FnMut() -> u64) -> Vec<ChangePeer> {
    let mut changes = Vec::new();
    for peer in &region.peers {
        if target.peers.iter().all(|p| p.store_id != peer.store_id) {
            changes.push(ChangePeer::Remove(PeerId(peer.id)));
        }
    }
    for peer in &target.peers {
        let own = region.peers.iter().find(|p| p.store_id == peer.store_id);
        if own.is_some_and(|own| own.role == peer.role) {
            continue;
        }
        let store = peer.store_id;
        let own = PeerId(own.map_or_else(&mut *id, |own| own.id));
        changes.push(match peer.role() {
            PeerRole::Learner => ChangePeer::AddLearner { peer: own, store },
            _ => ChangePeer::AddVoter { peer: own, store },
        });
    }
    changes
}
