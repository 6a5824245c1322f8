//! Two neighbours become one, in two logs: the source stops, then the target takes it in. Uses:
//! command, peer, peer_storage.
//!
//! 1. `PrepareMerge` in the source's log: its last entry. Every replica has the log from `min_index` on.
//! 2. Every store's peer of the source asks the target, if that leads here, for `CommitMerge`. It carries
//!    the source's entries from `min_index` on, for a replica whose source is behind.
//! 3. `CommitMerge` in the target's log is taken in only by the target exactly as the source named it:
//!    whichever replica applies it finds the same. It waits until the source of its own store has applied
//!    its last entry, then one batch holds the target's new range and the source's tombstone.
//! 4. If the target has moved on without it, which is told from a target of this store that *applied*
//!    another change, the merge can never be taken in any more, and `RollbackMerge` in the source's log
//!    lets it go on.
//!
//! What makes step 4 safe is that a target never jumps past a merge unseen: a snapshot of the target
//! is not installed over a source that waits here, unless it brings the source's keys.

use protobuf::Message as _;
use raft::eraftpb::Entry;

use super::admin::{Change, adjoins, is_normal, refused};
use super::core::StoreCore;
use crate::app_store::AppBatch;
use crate::command::{AdminCommand, CommitMerge, PrepareMerge, RollbackMerge};
use crate::error::{Error, Result};
use crate::peer::{MergeElsewhere, Peer, Stage};
use crate::proto::{MergeState, PeerState, Region, RegionEpoch};
use crate::ticket::Completer;
use crate::types::{LogPosition, RegionId};
use crate::workers::PeerKey;

/// The source's entries travel inside one entry of the target.
const CARRIED_BYTES_MAX: u64 = 4 << 20;

impl StoreCore {
    /// Proposes to merge `source` into `target`.
    pub(super) fn request_merge(
        &mut self,
        source: RegionId,
        target: RegionId,
        done: Completer<Region>,
    ) {
        match self.plan_merge(source, target) {
            Ok(prepare) => self.with_peer(source, |peer, _| {
                peer.propose_admin(AdminCommand::PrepareMerge(prepare), Some(done));
            }),
            Err(error) => done.answer(Err(error)),
        }
    }

    fn plan_merge(&self, source: RegionId, target: RegionId) -> Result<PrepareMerge> {
        let missing = |region| Error::RegionNotFound { region };
        let from = self.peers.get(&source).ok_or_else(|| missing(source))?;
        let into = self.peers.get(&target).ok_or_else(|| missing(target))?;
        from.check_proposal("merge", None)?;
        into.check_active("merge")?;
        let refuse = |reason: &str| Err(refused(source, reason));
        let (left, right) = (from.storage().region_state(), into.storage().region_state());
        if !is_normal(left) || !is_normal(right) {
            return refuse("one of the two is being merged, or its members are being changed");
        }
        if !are_neighbours(&left.region, &right.region) {
            return refuse("the two are not neighbours");
        }
        if !live_together(&left.region, &right.region) {
            return refuse("the two do not live on the same stores; move one of them first");
        }
        if from.has_admin_ahead() {
            return refuse("another change of it is not applied yet; try again");
        }
        let raft = &from.raft().raft;
        let min_index = raft.prs().iter().map(|(_, p)| p.matched).min().unwrap_or(0);
        let last = raft.raft_log.last_index();
        let first = from.storage().truncated_index() + 1;
        // Rule 28: what a replica may miss of the source must still be in the log.
        if min_index + 1 < first {
            return refuse(
                "a replica is behind the start of the log; try again when it has caught up",
            );
        }
        let carried = raft.raft_log.slice(
            min_index + 1,
            last + 1,
            CARRIED_BYTES_MAX,
            raft::GetEntriesContext::empty(false),
        );
        let whole = carried.is_ok_and(|e| e.len() as u64 == last - min_index);
        if !whole {
            return refuse("a replica is too far behind; try again when it has caught up");
        }
        Ok(PrepareMerge {
            min_index,
            target: right.region.clone(),
        })
    }

    /// The source stops.
    pub(super) fn prepare_merge(
        &mut self,
        key: PeerKey,
        prepare: PrepareMerge,
        position: LogPosition,
    ) -> Result<Change> {
        let Some(peer) = self.peers.get(&key.region) else {
            return Ok(Change::Wait);
        };
        let storage = peer.storage();
        let state = storage.region_state();
        // The members may have changed between the proposal and here, and each store of the target needs
        // a peer of the source to take in. Where the log starts is not looked at: a replica that came by
        // a snapshot would find another answer than the others.
        if !is_normal(state) || !live_together(&state.region, &prepare.target) {
            let reason = "it has changed since the merge was asked for";
            return Ok(Change::Refused(refused(key.region, reason)));
        }
        let mut next = state.clone();
        next.state = PeerState::Merging;
        next.region.region_epoch.version += 1;
        next.region.region_epoch.conf_ver += 1;
        next.merge_state = Some(MergeState {
            min_index: prepare.min_index,
            target: Some(prepare.target),
            commit: position.index,
        });
        Ok(Change::Region(Box::new(next), AppBatch::default()))
    }

    /// The source goes on by itself.
    pub(super) fn rollback_merge(
        &mut self,
        key: PeerKey,
        rollback: RollbackMerge,
    ) -> Result<Change> {
        let Some(peer) = self.peers.get(&key.region) else {
            return Ok(Change::Wait);
        };
        let state = peer.storage().region_state();
        if state.merge_state.as_ref().map(|m| m.commit) != Some(rollback.commit) {
            return Ok(Change::Refused(refused(
                key.region,
                "no such merge is waiting",
            )));
        }
        let mut next = state.clone();
        next.state = PeerState::Normal;
        next.region.region_epoch.version += 1;
        next.merge_state = None;
        Ok(Change::Region(Box::new(next), AppBatch::default()))
    }

    /// The target takes the source in.
    pub(super) fn commit_merge(&mut self, key: PeerKey, commit: CommitMerge) -> Result<Change> {
        let source = commit.source.region_id();
        let Some(peer) = self.peers.get(&key.region) else {
            return Ok(Change::Wait);
        };
        let state = peer.storage().region_state();
        if state.region != commit.target {
            let reason = format!("it has changed since region {source} was prepared for it");
            return Ok(Change::Refused(refused(key.region, &reason)));
        }
        let mut next = state.clone();
        let (own, theirs) = (state.region.range(), commit.source.range());
        match adjoins(&own, &theirs) {
            true => next.region.end_key = theirs.end,
            false => next.region.start_key = theirs.start,
        }
        // Larger than either ever was, so that nobody takes a message of the old ones for one of it.
        let versions = [state.region.region_epoch, commit.source.region_epoch];
        next.region.region_epoch.version =
            versions.iter().map(|e| e.version).max().unwrap_or(0) + 1;
        if !self.is_ready_to_be_taken_in(source, &commit)? {
            return Ok(Change::Wait);
        }
        Ok(Change::TakeIn(Box::new(next), source))
    }

    /// Whether the source of this store has applied its last entry. One that is behind is given what it
    /// misses: those entries are committed, because the last of them is.
    fn is_ready_to_be_taken_in(&mut self, source: RegionId, commit: &CommitMerge) -> Result<bool> {
        if self.is_busy(source) {
            return Ok(false);
        }
        let Some(peer) = self.peers.get_mut(&source) else {
            let reason = format!("region {source}, which it takes in, is not on this store");
            return Err(Error::Refused {
                region: commit.target.region_id(),
                what: "merge",
                reason,
            });
        };
        if let Stage::Stopped(reason) = peer.stage() {
            let reason = format!("region {source}, which it takes in, was stopped: {reason}");
            return Err(Error::Refused {
                region: commit.target.region_id(),
                what: "merge",
                reason,
            });
        }
        // Entries behind its last one are new leaders' empty ones.
        let merging = peer.storage().region_state().merge_state.as_ref();
        if merging.is_some_and(|m| m.commit == commit.commit) {
            return Ok(peer.is_settled());
        }
        let mut entries = Vec::with_capacity(commit.entries.len());
        for bytes in &commit.entries {
            let mut entry = Entry::default();
            entry.merge_from_bytes(bytes).map_err(|e| {
                Error::corruption(Some(source), "entry carried by a merge", e.to_string())
            })?;
            entries.push(entry);
        }
        let before = LogPosition::new(commit.before_term, commit.before_index);
        self.with_peer(source, |peer, _| {
            peer.catch_up(before, commit.commit, &entries)
        });
        Ok(false)
    }

    /// Goes on with the merges of this store: asks targets, or gives up. Called now and then, and when
    /// something has moved.
    pub(super) fn check_merges(&mut self) {
        self.merge_ticks += 1;
        if !self.merge_ticks.is_multiple_of(MERGE_EVERY_TICKS) {
            return;
        }
        for region in self.awake() {
            let Some(peer) = self.peers.get(&region) else {
                continue;
            };
            if peer.waits_at_admin() {
                self.out.admin.push(peer.key());
            }
            if peer.is_merging() {
                self.check_merge(region);
            }
        }
    }

    fn check_merge(&mut self, source: RegionId) {
        let Some(peer) = self.peers.get(&source) else {
            return;
        };
        let Some(merge) = peer.storage().region_state().merge_state.clone() else {
            return;
        };
        let Some(expected) = merge.target else {
            return;
        };
        let id = expected.region_id();
        let moved = match self.peers.get(&id) {
            Some(target) => compare(target.region().region_epoch, expected.region_epoch),
            None => self.compare_tombstone(&expected),
        };
        match moved {
            // The target of this store is behind; another one may ask.
            Moved::Behind => self.let_another_look(source),
            Moved::On => {
                let rollback = RollbackMerge {
                    commit: merge.commit,
                };
                self.with_peer(source, |peer, _| {
                    if peer.is_leader() {
                        peer.propose_admin(AdminCommand::RollbackMerge(rollback), None);
                    }
                });
            }
            Moved::Not if self.peers.get(&id).is_some_and(|p| p.is_leader()) => {
                self.ask_target(source, &expected, merge.commit);
            }
            // Where it leads, it is asked. If nothing comes of that, the target of this store may be one
            // that waits for a snapshot, which waits for this merge to end.
            Moved::Not => self.let_another_look(source),
        }
    }

    /// A target that has come to its own end by a merge has not taken the source of this store in, or
    /// that would have ended with it.
    fn compare_tombstone(&self, expected: &Region) -> Moved {
        let tombstone = self.tombstones.get(&expected.region_id());
        match tombstone.filter(|t| t.merge_state.is_some()) {
            Some(t) => compare(t.region.region_epoch, expected.region_epoch),
            None => Moved::Behind,
        }
    }

    /// The leader of a source that cannot see here what has become of its target lets another one lead.
    fn let_another_look(&mut self, source: RegionId) {
        if !self.merge_ticks.is_multiple_of(LOOK_ELSEWHERE_TICKS) {
            return;
        }
        self.with_peer(source, |peer, _| {
            if !peer.is_leader() {
                return;
            }
            let own = peer.id().0;
            let mut voters = peer.storage().conf_state().voters.clone();
            voters.sort_unstable();
            let next = voters.iter().find(|id| **id > own).or(voters.first());
            if let Some(next) = next.copied().filter(|id| *id != own) {
                peer.raft_mut().transfer_leader(next);
            }
        });
    }

    /// Asks the target, which leads here, to take the source in.
    fn ask_target(&mut self, source: RegionId, target: &Region, commit: u64) {
        let Some(peer) = self.peers.get(&source) else {
            return;
        };
        let state = peer.storage().region_state();
        let min_index = state.merge_state.as_ref().map_or(0, |m| m.min_index);
        let Some((before_term, entries)) = peer.entries_to_carry(min_index, commit) else {
            return;
        };
        let command = CommitMerge {
            source: state.region.clone(),
            commit,
            before_index: min_index,
            before_term,
            entries,
            target: target.clone(),
        };
        self.with_peer(target.region_id(), |peer, _| peer.propose_merge(command));
    }

    /// A region has applied something: a target that waits for it looks again.
    pub(super) fn merge_moved(&mut self, source: RegionId) {
        let Some(peer) = self.peers.get(&source) else {
            return;
        };
        let state = peer.storage().region_state();
        let target = state.merge_state.as_ref().and_then(|m| m.target.as_ref());
        if let Some(target) = target.map(Region::region_id)
            && let Some(peer) = self.peers.get(&target)
        {
            let key = peer.key();
            self.out.admin.push(key);
            self.touch(target);
        }
    }

    /// Whether this region, which others say was merged into `target`, is still needed here: by a target
    /// that may take it in by its log.
    pub(super) fn is_needed_by(&self, target: &Region) -> bool {
        let id = target.region_id();
        match self.peers.get(&id) {
            Some(peer) if peer.region().is_initialized() => {
                let moved = compare(peer.region().region_epoch, target.region_epoch);
                !matches!(moved, Moved::On)
            }
            // It comes yet, by the split that makes it or by a snapshot, if it has a place here.
            _ => {
                let own = self.out.store_id;
                let has_place = target.peers.iter().any(|p| p.store_id == own);
                has_place && !self.tombstones.contains_key(&id)
            }
        }
    }

    /// Whether `other` was taken in by `taker`, which has given some of its keys away again since: it is
    /// known that the merge has happened, and `taker` is from behind it.
    pub(super) fn is_superseded(&self, other: RegionId, taker: &Region) -> bool {
        let elsewhere = self.peers.get(&other).map(|p| p.merge_elsewhere());
        let Some(MergeElsewhere::TakenIn(target)) = elsewhere else {
            return false;
        };
        let moved = compare(taker.region_epoch, target.region_epoch);
        target.id == taker.id && matches!(moved, Moved::On)
    }

    /// Why a snapshot of `taker` must not be installed yet: a region that waits here to be merged into it
    /// would not know any more whether it was.
    pub(super) fn merge_obstacle(&self, region: RegionId, taker: &Region) -> Option<String> {
        let waits_for_it = |peer: &&Peer| {
            if matches!(peer.merge_elsewhere(), MergeElsewhere::RolledBack) {
                return false;
            }
            let merge = peer.storage().region_state().merge_state.as_ref();
            // A snapshot from before the merge leaves it to the log to come to it.
            merge.and_then(|m| m.target.as_ref()).is_some_and(|t| {
                let moved = compare(taker.region_epoch, t.region_epoch);
                t.id == region.0 && matches!(moved, Moved::On)
            })
        };
        let peers = self.peers.values().map(|peer| &**peer);
        let mut waiting = peers.filter(waits_for_it);
        let stays = |id| !self.is_covered(id, taker) && !self.is_superseded(id, taker);
        let open = waiting.find(|peer| stays(peer.region_id()))?;
        let id = open.region_id();
        Some(format!(
            "region {id} waits to be merged into it, and its keys are not in the snapshot"
        ))
    }
}

/// How far the target has come, seen from the one that the source named.
enum Moved {
    Behind,
    Not,
    On,
}

fn compare(now: RegionEpoch, expected: RegionEpoch) -> Moved {
    if now == expected {
        Moved::Not
    } else if now.version > expected.version || now.conf_ver > expected.conf_ver {
        Moved::On
    } else {
        Moved::Behind
    }
}

fn are_neighbours(one: &Region, other: &Region) -> bool {
    let (one, other) = (one.range(), other.range());
    adjoins(&one, &other) || adjoins(&other, &one)
}

/// Whether the two have peers with the same roles on the same stores.
fn live_together(one: &Region, other: &Region) -> bool {
    let places = |region: &Region| {
        let mut places: Vec<(u64, i32)> =
            region.peers.iter().map(|p| (p.store_id, p.role)).collect();
        places.sort_unstable();
        places
    };
    places(one) == places(other)
}

/// A leader that cannot tell what has become of a merge goes on trying for so many ticks.
const LOOK_ELSEWHERE_TICKS: u64 = 64;
/// Merges are looked after every so many ticks.
const MERGE_EVERY_TICKS: u64 = 2;
