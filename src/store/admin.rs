//! Admin entries: worked out on the raft thread when their turn has come, the same on every replica.
//! Uses: command, peer, peer_storage.
//!
//! An admin entry is worked out when everything before it is applied, so the region in memory is the
//! region at that entry. What it does is a pure function of that region and the entry; only splits and
//! merges look at other regions of this store, at those that the entry itself names.

use std::sync::Arc;

use raft::eraftpb::{ConfState, Entry};

use super::ChangePeer;
use super::core::StoreCore;
use super::lifecycle::Opening;
use super::message::AdminRequest;
use crate::app_store::{AppBatch, Keyspace};
use crate::command::{
    AdminCommand, ChangePeers, CompactLog, EntryHeader, Split, conf_change_of, position_of,
};
use crate::error::{Error, Result};
use crate::peer::{AdminEntry, Stage};
use crate::peer_storage::{DestroyTask, Leaves, NewRegion};
use crate::proto::{Peer, PeerRole, PeerState, Region, RegionLocalState};
use crate::raft_log::LogBatch;
use crate::ticket::Completer;
use crate::types::{KeyRange, LogPosition, PeerId, RegionId};
use crate::workers::{AdminWork, ApplyTask, ApplyWork, NewPeer, PeerKey};

/// The number under which the log of a split's new regions is reported durable. Readies begin at 1.
pub const SPLIT_LOG: u64 = 0;

/// An admin entry between its working out and its end.
pub struct AdminInFlight {
    /// Who waits for it here.
    pub done: Option<Completer<Region>>,
    /// Why it did nothing, if so: the same on every replica.
    pub refusal: Option<Error>,
    /// What follows when it is applied.
    pub follow: Follow,
}

/// See [`AdminInFlight::follow`].
pub enum Follow {
    /// Nothing.
    Nothing,
    /// The log of a new region is being written; then this is handed to the applier.
    WriteSplit(Box<AdminWork>, Box<NewRegion>),
    /// A new region begins.
    Begin(Box<NewRegion>),
    /// What is left of a region that was taken in goes.
    Forget(RegionId),
}

/// What an admin entry does to its region.
pub(super) enum Change {
    /// Nothing, and why.
    Refused(Error),
    /// The log ends earlier.
    Compact(CompactLog),
    /// The region is this now, and this is written with it.
    Region(Box<RegionLocalState>, AppBatch),
    /// The same, and a new region begins.
    Split(Box<RegionLocalState>, Box<Region>, PeerId),
    /// The same, and this region ends, whose keys it takes over.
    TakeIn(Box<RegionLocalState>, RegionId),
    /// It has to wait for something; it will be worked out again.
    Wait,
}

impl StoreCore {
    /// Works out the admin entry of `key` whose turn has come, and hands it on.
    pub(super) fn run_admin(&mut self, key: PeerKey) {
        // One whose new region's log is being written has been worked out: a second time it would find
        // that region taken.
        if !self.is_current(key) || self.admin.contains_key(&key.region) {
            return;
        }
        let Some(peer) = self.peers.get(&key.region) else {
            return;
        };
        // A snapshot that has come meanwhile covers it, or the peer goes.
        if !matches!(peer.stage(), Stage::Active) {
            return;
        }
        match peer.admin_entry() {
            Ok(Some(AdminEntry { entry, header })) => {
                let position = position_of(&entry);
                match self.work_out(key, &entry, header) {
                    Ok(change) => self.carry_out(key, position, change),
                    Err(error) => self.stop_region(key.region, &error.to_string()),
                }
            }
            Ok(None) => {}
            Err(error) => self.stop_region(key.region, &error.to_string()),
        }
    }

    /// What the entry does.
    ///
    /// # Errors
    /// What stops the region: the entry cannot be understood.
    fn work_out(&mut self, key: PeerKey, entry: &Entry, header: EntryHeader) -> Result<Change> {
        let region = key.region;
        let Some(peer) = self.peers.get(&region) else {
            return Ok(Change::Wait);
        };
        let current = peer.region();
        if header.version != 0 && header.version != current.region_epoch.version {
            let mut got = current.region_epoch;
            got.version = header.version;
            return Ok(Change::Refused(Error::StaleEpoch {
                region,
                got,
                current: Box::new(current.clone()),
            }));
        }
        let merging = peer.is_merging();
        match header.admin {
            Some(AdminCommand::RollbackMerge(rollback)) => self.rollback_merge(key, rollback),
            _ if merging => Ok(Change::Refused(refused(region, "it is being merged"))),
            // A peer of the new region that was here before is still being removed.
            Some(AdminCommand::Split(split)) if self.is_busy(RegionId(split.region_id)) => {
                Ok(Change::Wait)
            }
            Some(AdminCommand::CompactLog(compact)) => Ok(self.compact(key, compact)),
            Some(AdminCommand::Split(split)) => Ok(self.split(key, &split)),
            Some(AdminCommand::PrepareMerge(prepare)) => {
                self.prepare_merge(key, prepare, position_of(entry))
            }
            Some(AdminCommand::CommitMerge(commit)) => self.commit_merge(key, commit),
            Some(AdminCommand::ChangePeers(change)) => self.change_peers(key, entry, &change),
            // raft's own, which ends a joint configuration.
            None => self.change_peers(key, entry, &ChangePeers::default()),
        }
    }

    fn compact(&self, key: PeerKey, compact: CompactLog) -> Change {
        let storage = self.peers.get(&key.region).map(|p| p.storage());
        let truncated = storage.map_or(0, |s| s.truncated_index());
        match compact.index > truncated {
            true => Change::Compact(compact),
            false => Change::Refused(refused(key.region, "the log starts further on already")),
        }
    }

    fn change_peers(
        &mut self,
        key: PeerKey,
        entry: &Entry,
        change: &ChangePeers,
    ) -> Result<Change> {
        let region = key.region;
        let conf_change = conf_change_of(region, entry)?;
        let Some(peer) = self.peers.get_mut(&region) else {
            return Ok(Change::Wait);
        };
        for comer in &change.peers {
            peer.learn(*comer);
        }
        if !peer.may_leave_lead(&conf_change, entry.index) {
            return Ok(Change::Wait);
        }
        let conf_state = match peer.raft_mut().apply_conf_change(&conf_change) {
            Ok(conf_state) => conf_state,
            Err(error) => return Ok(Change::Refused(refused(region, &error.to_string()))),
        };
        peer.step_down_without_vote();
        let state = peer.storage().region_state();
        let mut next = state.clone();
        next.region.peers = peers_of(&conf_state, &state.region.peers, &change.peers);
        next.region.region_epoch.conf_ver += 1;
        next.conf_state = conf_state;
        Ok(Change::Region(Box::new(next), AppBatch::default()))
    }

    fn split(&self, key: PeerKey, split: &Split) -> Change {
        let region = key.region;
        let Some(peer) = self.peers.get(&region) else {
            return Change::Wait;
        };
        let state = peer.storage().region_state();
        let current = &state.region;
        let refusal = |reason: &str| Change::Refused(refused(region, reason));
        let joint = !state.conf_state.voters_outgoing.is_empty();
        if split.key <= current.start_key || !current.range().contains(&split.key) {
            return refusal("the key does not lie inside the region, behind its first key");
        }
        if joint {
            return refusal("its members are being changed");
        }
        if split.peer_ids.len() != current.peers.len() {
            return refusal("its members have changed");
        }
        let mut left = state.clone();
        left.region.end_key = split.key.clone();
        left.region.region_epoch.version += 1;
        let mut right = current.clone();
        right.id = split.region_id;
        right.start_key = split.key.clone();
        right.region_epoch.version += 1;
        let mut own = PeerId(0);
        for (new, id) in right.peers.iter_mut().zip(&split.peer_ids) {
            if new.id == peer.id().0 {
                own = PeerId(*id);
            }
            new.id = *id;
        }
        Change::Split(Box::new(left), Box::new(right), own)
    }

    /// Hands a change to the applier, or first to the log what has to be durable before.
    fn carry_out(&mut self, key: PeerKey, position: LogPosition, change: Change) {
        if matches!(change, Change::Wait) {
            return;
        }
        let mut work = AdminWork {
            position,
            region: None,
            truncated: None,
            also: AppBatch::default(),
            sync: false,
        };
        let mut refusal = None;
        let mut follow = Follow::Nothing;
        match change {
            Change::Wait => {}
            Change::Refused(error) => refusal = Some(error),
            Change::Compact(compact) => {
                let truncated = LogPosition::new(compact.term, compact.index);
                work.truncated = Some(truncated.into());
            }
            Change::Region(state, also) => {
                (work.region, work.also, work.sync) = (Some(Arc::from(state)), also, true);
            }
            Change::TakeIn(state, source) => {
                (work.region, work.sync) = (Some(Arc::from(state)), true);
                self.end_merged(source, Leaves::Data, &mut work.also);
                follow = Follow::Forget(source);
            }
            Change::Split(left, right, own) => {
                (work.region, work.sync) = (Some(Arc::from(left)), true);
                match self.begin_split(key, &right, own, &mut work.also) {
                    Ok(Some(new)) => {
                        new.add_to_app(&mut work.also);
                        follow = Follow::WriteSplit(Box::new(work), Box::new(new));
                        self.await_admin(key, position, None, follow);
                        return;
                    }
                    Ok(None) => {}
                    // What was there is being removed: it is worked out again when that is done.
                    Err(Error::RegionOpen { .. }) => return,
                    Err(error) => return self.stop_region(key.region, &error.to_string()),
                }
            }
        }
        self.await_admin(key, position, refusal, follow);
        self.try_peer(key, |peer, out| {
            peer.hand_admin(work, out);
            Ok(())
        });
    }

    fn await_admin(
        &mut self,
        key: PeerKey,
        position: LogPosition,
        refusal: Option<Error>,
        follow: Follow,
    ) {
        let Some(peer) = self.peers.get_mut(&key.region) else {
            return;
        };
        let in_flight = AdminInFlight {
            done: peer.take_admin_wait(position),
            refusal,
            follow,
        };
        self.admin.insert(key.region, in_flight);
    }

    /// Puts the new region's log on its way. None if this store is to have no peer of it (any more): then
    /// the keys that the parent gives away go with it.
    ///
    /// # Errors
    /// Whatever is no answer to that: nothing has changed then.
    fn begin_split(
        &mut self,
        key: PeerKey,
        right: &Region,
        own: PeerId,
        also: &mut AppBatch,
    ) -> Result<Option<NewRegion>> {
        let id = right.region_id();
        // A peer that messages have made before the split came here: its votes count.
        let waits = self.peers.get(&id).filter(|p| !p.region().is_initialized());
        let waits = waits.filter(|p| p.id() <= own);
        let absorbed = waits.map(|p| p.storage().hard_state().clone());
        if absorbed.is_some()
            && let Some(peer) = self.peers.remove(&id)
        {
            self.out.apply.push(ApplyTask {
                peer: peer.key(),
                work: ApplyWork::End,
            });
        }
        let engines = self.node.engines();
        match NewRegion::of_split(engines, right, own, absorbed.as_ref()) {
            Ok(new) => {
                let mut batch = LogBatch::default();
                new.add_to_log(&mut batch);
                self.out.write.batch.merge(batch);
                self.out.write.readies.push((key, SPLIT_LOG));
                self.closed.insert(id, key);
                Ok(Some(new))
            }
            Err(error @ (Error::RegionExists { .. } | Error::RegionTombstone { .. })) => {
                tracing::info!(region = %id, %error, "the split makes no peer here");
                for keyspace in Keyspace::APPLICATION {
                    also.delete_range(keyspace, &right.range());
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The log of the new region is durable: now the split is applied.
    pub(super) fn split_log_durable(&mut self, key: PeerKey) {
        let admin = self.admin.get_mut(&key.region);
        let Some(admin) =
            admin.filter(|_| self.peers.get(&key.region).is_some_and(|p| p.key() == key))
        else {
            return self.abandon_split(key);
        };
        let follow = std::mem::replace(&mut admin.follow, Follow::Nothing);
        if let Follow::WriteSplit(work, new) = follow {
            admin.follow = Follow::Begin(new);
            self.try_peer(key, |peer, out| {
                peer.hand_admin(*work, out);
                Ok(())
            });
        }
    }

    /// The parent has left before its split was applied here. The new region comes by messages, or what
    /// waited for it is there again.
    fn abandon_split(&mut self, parent: PeerKey) {
        let children = self.closed.iter();
        let children = children.filter(|(id, key)| **key == parent && **id != parent.region);
        let children: Vec<RegionId> = children.map(|(id, _)| *id).collect();
        for child in children {
            self.closed.remove(&child);
            let waits = |s: &RegionLocalState| s.state != PeerState::Tombstone;
            if !matches!(self.node.local_state(child), Ok(Some(state)) if waits(&state)) {
                continue;
            }
            self.open_later(child, NewPeer::Known, Opening::default());
        }
    }

    /// The admin entry of `key` is applied.
    pub(super) fn admin_done(&mut self, key: PeerKey) {
        let Some(admin) = self.admin.remove(&key.region) else {
            return;
        };
        if let Follow::Forget(source) = admin.follow {
            self.forget_merged(source);
        }
        if let Some(peer) = self.peers.get(&key.region) {
            self.ranges.put(peer.region());
        }
        if let Follow::Begin(new) = admin.follow {
            self.begin_region(key, *new);
        }
        if let Some(done) = admin.done {
            let region = self.peers.get(&key.region).map(|p| p.region().clone());
            done.answer(match (admin.refusal, region) {
                (Some(error), _) => Err(error),
                (None, Some(region)) => Ok(region),
                (None, None) => Err(Error::RegionNotFound { region: key.region }),
            });
        }
        self.merge_moved(key.region);
    }

    /// A new region begins, led from where its parent is led.
    fn begin_region(&mut self, parent: PeerKey, new: NewRegion) {
        let storage = new.into_storage(self.node.engines());
        let region = storage.region_id();
        self.closed.remove(&region);
        self.tombstones.remove(&region);
        self.ranges.put(storage.region());
        let led = self
            .peers
            .get(&parent.region)
            .is_some_and(|p| p.is_leader());
        match self.add_peer(storage) {
            Ok(key) if led => self.try_peer(key, |peer, _| {
                let _ = peer.raft_mut().campaign();
                Ok(())
            }),
            Ok(_) => {}
            Err(error) => tracing::error!(%region, %error, "new region not started"),
        }
    }

    /// Does, or proposes, what a client asks of a region.
    pub(super) fn request(
        &mut self,
        region: RegionId,
        request: AdminRequest,
        done: Completer<Region>,
    ) {
        if let AdminRequest::Destroy = request {
            return self.destroy(region, done);
        }
        let Some(peer) = self.peers.get(&region) else {
            return done.answer(Err(Error::RegionNotFound { region }));
        };
        if let AdminRequest::Campaign = request {
            return self.campaign(region, done);
        }
        if let Err(error) = peer.check_proposal("admin command", None) {
            return done.answer(Err(error));
        }
        let command = match request {
            AdminRequest::Destroy | AdminRequest::Campaign => return,
            AdminRequest::ChangePeers(epoch, changes) => {
                let current = peer.region();
                if let Some(got) = epoch.filter(|e| *e != current.region_epoch) {
                    let current = Box::new(current.clone());
                    let stale = Error::StaleEpoch {
                        region,
                        got,
                        current,
                    };
                    return done.answer(Err(stale));
                }
                return self.request_change(region, &changes, done);
            }
            AdminRequest::Merge(target) => return self.request_merge(region, target, done),
            AdminRequest::TransferLeader(to) => {
                return self.with_peer(region, |peer, out| peer.transfer_leader(to, done, out));
            }
            AdminRequest::Split {
                key,
                region_id,
                peer_ids,
            } => AdminCommand::Split(Split {
                key,
                region_id,
                peer_ids,
            }),
            AdminRequest::Compact(index) => {
                let applied = peer.storage().applied_index();
                match peer.storage().truncated_at(index + 1) {
                    Ok(Some(position)) if position.index <= applied => {
                        AdminCommand::CompactLog(CompactLog {
                            index: position.index,
                            term: position.term,
                        })
                    }
                    Ok(_) => {
                        let reason = format!("{index} is compacted, or beyond applied {applied}");
                        return done.answer(Err(refused(region, &reason)));
                    }
                    Err(error) => return done.answer(Err(error)),
                }
            }
        };
        self.with_peer(region, |peer, _| peer.propose_admin(command, Some(done)));
    }

    fn request_change(
        &mut self,
        region: RegionId,
        changes: &[ChangePeer],
        done: Completer<Region>,
    ) {
        let Some(peer) = self.peers.get(&region) else {
            return;
        };
        // Its last messages might be lost, and the others would need the vote of a peer that is gone.
        if changes.contains(&ChangePeer::Remove(peer.id())) {
            let reason = "it leads the region; transfer the leadership first, and ask there";
            return done.answer(Err(refused(region, reason)));
        }
        match super::change::conf_change(peer.region(), changes) {
            Ok((change, comers)) => self.with_peer(region, |peer, _| {
                let command = AdminCommand::ChangePeers(ChangePeers { peers: comers });
                peer.propose_conf_change(&change, command, done);
            }),
            Err(error) => done.answer(Err(error)),
        }
    }

    fn campaign(&mut self, region: RegionId, done: Completer<Region>) {
        self.with_peer(region, |peer, _| {
            let campaigned = peer.campaign();
            done.answer(campaigned.map(|()| peer.region().clone()));
        });
    }

    /// Leaves a region because its operator says so.
    pub(super) fn destroy(&mut self, region: RegionId, done: Completer<Region>) {
        match self.peers.get(&region).map(|p| p.region().clone()) {
            Some(shown) => {
                self.leaving.entry(region).or_default().push((done, shown));
                self.leave(region);
            }
            None => match DestroyTask::of_stored(self.node.engines(), region) {
                Ok(task) if !self.is_busy(region) => self.destroy_unopened(region, task, done),
                Ok(_) => done.answer(Err(Error::RegionOpen { region })),
                Err(error) => done.answer(Err(error)),
            },
        }
    }

    /// The same for a region that could not be opened.
    fn destroy_unopened(&mut self, region: RegionId, task: DestroyTask, done: Completer<Region>) {
        let key = PeerKey {
            region,
            incarnation: 0,
        };
        let shown = task.tombstone().region.clone();
        self.leaving.entry(region).or_default().push((done, shown));
        self.hand_removal(key, task);
    }
}

/// Why an admin command does nothing.
pub(super) fn refused(region: RegionId, reason: &str) -> Error {
    Error::Refused {
        region,
        what: "admin command",
        reason: reason.to_owned(),
    }
}

/// The peers of a configuration, in the order of their ids: from the region, or from the change that
/// brings them.
fn peers_of(conf_state: &ConfState, known: &[Peer], comers: &[Peer]) -> Vec<Peer> {
    let lists = [
        &conf_state.voters,
        &conf_state.voters_outgoing,
        &conf_state.learners,
    ];
    let mut ids: Vec<u64> = lists.into_iter().flatten().copied().collect();
    ids.sort_unstable();
    ids.dedup();
    let find = |id: u64| comers.iter().chain(known).find(|p| p.id == id);
    let joint = !conf_state.voters_outgoing.is_empty();
    (ids.into_iter())
        .filter_map(|id| {
            let voter = conf_state.voters.contains(&id);
            let outgoing = conf_state.voters_outgoing.contains(&id);
            let role = match (voter, outgoing) {
                (true, _) if !joint || outgoing => PeerRole::Voter,
                (true, _) => PeerRole::IncomingVoter,
                (false, true) => PeerRole::DemotingVoter,
                (false, false) => PeerRole::Learner,
            };
            find(id).map(|peer| Peer {
                role: role as i32,
                ..*peer
            })
        })
        .collect()
}

/// Whether `state` may take in or give away keys now.
pub(super) fn is_normal(state: &RegionLocalState) -> bool {
    state.state == PeerState::Normal && state.conf_state.voters_outgoing.is_empty()
}

/// Whether `left` ends where `right` begins.
pub(super) fn adjoins(left: &KeyRange, right: &KeyRange) -> bool {
    !left.end.is_empty() && left.end == right.start
}
