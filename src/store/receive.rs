//! What other stores send: to the peer it is for, or to one that is made for it, or to nobody. Uses:
//! peer, transport.

use raft::eraftpb::{Message, MessageType};

use super::core::StoreCore;
use super::lifecycle::Opening;
use crate::error::{Error, Result};
use crate::peer::Refusal;
use crate::proto::{Region, RegionEpoch};
use crate::snapshot_data::RaftSnapshotData;
use crate::transport::{PeerBody, PeerMessage};
use crate::types::{PeerId, RegionId};
use crate::workers::NewPeer;

impl StoreCore {
    /// Takes in a message of the store `from`.
    pub(super) fn receive(&mut self, from: u64, envelope: PeerMessage) {
        if let Err(refusal) = self.try_receive(from, envelope) {
            self.refused(from, &refusal);
        }
    }

    /// Counts a refusal; the first of its kind is worth a line.
    fn refused(&self, from: u64, refusal: &Refusal) {
        let Refusal { kind, detail } = refusal;
        if self.shared.refuse(kind) {
            tracing::warn!(
                from,
                kind,
                detail,
                "message refused; more of its kind are counted only"
            );
        }
    }

    fn try_receive(&mut self, from: u64, envelope: PeerMessage) -> Result<(), Refusal> {
        self.check_envelope(from, &envelope)?;
        let region = envelope.region;
        if self.is_busy(region) {
            return Ok(());
        }
        if !self.is_for_our_peer(&envelope) && !self.make_room_for(&envelope)? {
            return Ok(());
        }
        if let Some(peer) = self.peers.get_mut(&region) {
            peer.heard_epoch(envelope.epoch);
        }
        match envelope.body {
            PeerBody::Raft(_) => self.step(from, envelope),
            PeerBody::Gone { ref into } => {
                self.told_gone(&envelope, into.as_ref());
                Ok(())
            }
            PeerBody::Sleep { term, commit } => {
                if let Some(peer) = self.peers.get_mut(&region) {
                    peer.told_to_sleep(envelope.from.id, term, commit);
                }
                Ok(())
            }
            PeerBody::Wake => {
                self.check_sender(&envelope)?;
                self.touch(region);
                Ok(())
            }
            PeerBody::Prepare { low } => {
                let from = envelope.from;
                self.with_peer(region, |peer, out| peer.prepare_to_lead(from, low, out));
                Ok(())
            }
            PeerBody::Prepared => {
                self.with_peer(region, |peer, _| peer.target_prepared(envelope.from.id));
                Ok(())
            }
        }
    }

    fn check_envelope(&self, from: u64, envelope: &PeerMessage) -> Result<(), Refusal> {
        let own = self.out.store_id;
        let (sender, to) = (envelope.from, envelope.to);
        if sender.store_id != from {
            let detail = format!("store {from} speaks for store {}", sender.store_id);
            return Err(Refusal::new("foreign sender", detail));
        }
        if to.store_id != own {
            let detail = format!("for store {}, this is store {own}", to.store_id);
            return Err(Refusal::new("foreign store", detail));
        }
        if envelope.region.0 == 0 || sender.id == 0 || to.id == 0 {
            return Err(Refusal::new("ids", "region, sender or addressee is 0"));
        }
        Ok(())
    }

    fn is_for_our_peer(&self, envelope: &PeerMessage) -> bool {
        let ours = self.peers.get(&envelope.region);
        ours.is_some_and(|peer| peer.id().0 == envelope.to.id)
    }

    /// The message is for a peer that is not here. Whether it is now.
    fn make_room_for(&mut self, envelope: &PeerMessage) -> Result<bool, Refusal> {
        let (region, to) = (envelope.region, PeerId(envelope.to.id));
        if let Some(peer) = self.peers.get_mut(&region) {
            let own = peer.region().region_epoch;
            if to < peer.id() {
                // For one that was here before: its place was taken.
                let region = peer.region().clone();
                self.say_gone(envelope, &region, None);
            } else if can_create(envelope) && envelope.epoch.conf_ver > own.conf_ver {
                // This peer was removed from its region and has not heard of it, or never got anything.
                self.leave(region);
            }
            return Ok(false);
        }
        if let Some(tombstone) = self.tombstones.get(&region)
            && to <= tombstone.peer_id
        {
            let ended = tombstone.region.clone();
            let merge = tombstone.merge_state.as_ref();
            let into = merge.and_then(|m| m.target.clone());
            self.say_gone(envelope, &ended, into);
            return Ok(false);
        }
        if !can_create(envelope) {
            return Ok(false);
        }
        self.create_by_message(envelope)
    }

    fn create_by_message(&mut self, envelope: &PeerMessage) -> Result<bool, Refusal> {
        let (region, to) = (envelope.region, PeerId(envelope.to.id));
        if let Some(range) = &envelope.range
            && let Some(other) = self.ranges.overlapping(range).first()
        {
            // Its keys are still with a region that will be split, or is about to go.
            let detail = format!("region {region} overlaps region {other}, which is still here");
            return Err(Refusal::new("overlap", detail));
        }
        self.open_later(region, NewPeer::Waiting(to), Opening::default());
        Ok(false)
    }

    /// Tells a peer that asks for votes of a region it does not belong to any more. `known` is the region
    /// as this store knows it; a peer that is among its members is behind, and not gone, unless the
    /// region itself has ended.
    fn say_gone(&mut self, envelope: &PeerMessage, known: &Region, into: Option<Region>) {
        let epoch = known.region_epoch;
        let is_member = known.peers.iter().any(|p| p.id == envelope.from.id);
        if !known.is_initialized() || (is_member && into.is_none()) {
            return;
        }
        // Only those that know a region can have been removed from it.
        if envelope.epoch == RegionEpoch::default() || !expects_answer(envelope) {
            return;
        }
        let gone = PeerMessage {
            region: envelope.region,
            from: envelope.to,
            to: envelope.from,
            epoch,
            range: None,
            body: PeerBody::Gone { into },
        };
        self.out.messages.push((envelope.from.store_id, gone));
    }

    /// Whoever says so has seen a newer epoch than this peer, or the end of its region.
    fn told_gone(&mut self, envelope: &PeerMessage, into: Option<&Region>) {
        let region = envelope.region;
        let Some(peer) = self.peers.get(&region) else {
            return;
        };
        let (own, theirs) = (peer.region().region_epoch, envelope.epoch);
        let newer = theirs.conf_ver > own.conf_ver || theirs.version > own.version;
        let ended = into.is_some() && theirs == own;
        if !newer && !ended {
            return;
        }
        if let Some(target) = into.filter(|target| self.is_needed_by(target)) {
            // Its target may still take it in by its log. If that comes by a snapshot, this goes then.
            if let Some(peer) = self.peers.get_mut(&region) {
                peer.set_taken_in(target);
            }
            return;
        }
        tracing::info!(%region, ?own, ?theirs, "this peer was removed from its region");
        self.leave(region);
    }

    fn step(&mut self, from: u64, envelope: PeerMessage) -> Result<(), Refusal> {
        let region = envelope.region;
        let PeerBody::Raft(message) = envelope.body.clone() else {
            return Ok(());
        };
        self.check_sender(&envelope)?;
        let mut stepped = Ok(());
        self.with_peer(region, |peer, _| stepped = peer.step(&envelope, message));
        if let Err(refusal) = &stepped {
            tracing::debug!(%region, from, ?refusal, "message refused");
        }
        stepped
    }

    /// A sender that is no member of the region: it was removed, or comes in with a change that this
    /// peer has not applied yet.
    fn check_sender(&mut self, envelope: &PeerMessage) -> Result<(), Refusal> {
        let Some(peer) = self.peers.get(&envelope.region) else {
            return Ok(());
        };
        let region = peer.region();
        let own = region.region_epoch;
        let sender = envelope.from;
        let member = region.peers.iter().find(|p| p.id == sender.id);
        match member {
            Some(member) if member.store_id != sender.store_id => {
                let (id, store) = (member.id, member.store_id);
                let detail = format!("peer {id} lives on store {store}, not {}", sender.store_id);
                Err(Refusal::new("unknown sender", detail))
            }
            Some(_) => Ok(()),
            None if !region.is_initialized() || envelope.epoch.conf_ver > own.conf_ver => Ok(()),
            // What it answers may still count, while raft knows it.
            None if peer.raft().raft.prs().get(sender.id).is_some() => Ok(()),
            None => {
                if envelope.epoch.conf_ver < own.conf_ver {
                    let known = region.clone();
                    self.say_gone(envelope, &known, None);
                }
                let detail = format!("peer {} is not in region {}", sender.id, envelope.region);
                Err(Refusal::new("unknown sender", detail))
            }
        }
    }

    /// Whether the file of a snapshot may be sent here.
    ///
    /// # Errors
    /// `SnapshotRefused`.
    pub(super) fn offered(&mut self, from: u64, envelope: &PeerMessage) -> Result<()> {
        let region = envelope.region;
        let refused = |reason: String| Err(Error::SnapshotRefused { region, reason });
        let PeerBody::Raft(message) = &envelope.body else {
            return refused("the message is not raft's".into());
        };
        let checked = self
            .check_envelope(from, envelope)
            .and_then(|()| match self.peers.get(&region) {
                Some(peer) if peer.id().0 == envelope.to.id => {
                    peer.check_message(envelope, message)
                }
                _ => Err(Refusal::new("no peer", "there is no such peer here")),
            })
            .and_then(|()| self.check_sender(envelope));
        if let Err(refusal) = checked {
            self.refused(from, &refusal);
            return refused(format!("{}: {}", refusal.kind, refusal.detail));
        }
        if let Some(reason) = self.snapshot_obstacle(region, message) {
            return refused(reason);
        }
        Ok(())
    }

    /// What stands in the way of a snapshot, if anything does: a region with some of its keys that is
    /// not known to be gone, or one that is being merged into it and may not be.
    pub(super) fn snapshot_obstacle(&self, region: RegionId, message: &Message) -> Option<String> {
        let data = RaftSnapshotData::of_snapshot(region, message.get_snapshot());
        let Ok(Some(data)) = data else {
            return Some("it has no data that this build reads".into());
        };
        let range = data.region.range();
        for other in self.ranges.overlapping(&range) {
            if other == region {
                continue;
            }
            if self.peers.get(&other).is_some_and(|p| !p.is_settled()) {
                // What its applier has not written yet would be written over the snapshot's data.
                return Some(format!(
                    "region {other}, which it takes over, is still busy here"
                ));
            }
            if !self.is_covered(other, &data.region) && !self.is_superseded(other, &data.region) {
                return Some(format!("region {other} still holds keys of {range} here"));
            }
        }
        self.merge_obstacle(region, &data.region)
    }

    /// Whether `other` is known to be gone because a newer region has all its keys. A region keeps its
    /// first key for as long as it lives (a split gives the upper part away), so one whose whole range
    /// is another's was merged into that one, or into one that was.
    pub(super) fn is_covered(&self, other: RegionId, taker: &Region) -> bool {
        let Some(peer) = self.peers.get(&other) else {
            return false;
        };
        let (own, theirs) = (peer.region().range(), taker.range());
        let starts = theirs.start <= own.start;
        let ends = theirs.end.is_empty() || (!own.end.is_empty() && own.end <= theirs.end);
        let newer = taker.region_epoch.version > peer.region().region_epoch.version;
        newer && starts && ends
    }
}

/// Whether a message may make the peer it is for.
fn can_create(envelope: &PeerMessage) -> bool {
    match &envelope.body {
        PeerBody::Raft(message) => match message.get_msg_type() {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => true,
            MessageType::MsgHeartbeat => message.commit == 0,
            _ => false,
        },
        _ => false,
    }
}

fn expects_answer(envelope: &PeerMessage) -> bool {
    match &envelope.body {
        PeerBody::Raft(message) => matches!(
            message.get_msg_type(),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
        ),
        PeerBody::Wake => true,
        _ => false,
    }
}
