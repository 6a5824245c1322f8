//! Peers that come and go: opened, filled by a snapshot, removed. Uses: peer, peer_storage.

use super::RegionProgress;
use super::core::StoreCore;
use super::shared::count;
use crate::app_store::AppBatch;
use crate::error::{Error, Result};
use crate::peer::Stage;
use crate::peer_storage::{DestroyTask, Installed, Leaves, PeerStorage, tombstone_ops};
use crate::proto::{PeerState, Region, RegionLocalState};
use crate::snapshot_data::RaftSnapshotData;
use crate::ticket::Completer;
use crate::transport::{PeerBody, PeerMessage};
use crate::types::{PeerId, RegionId};
use crate::workers::{ApplyTask, ApplyWork, NewPeer, PeerKey, SlowTask, SplitCheck};

/// A region that a worker is opening.
#[derive(Default)]
pub struct Opening {
    /// It was on its way out when it was opened again.
    leaves: bool,
    /// The operator who waits for it, if it is new.
    done: Option<Completer<()>>,
}

impl Opening {
    fn for_operator(done: Completer<()>) -> Self {
        Opening {
            leaves: false,
            done: Some(done),
        }
    }
}

impl StoreCore {
    /// Opens every region of the node. One that cannot be opened is shown as stopped, with its error;
    /// the others serve.
    ///
    /// # Errors
    /// Those of the data store itself.
    pub(super) fn open_all(&mut self) -> Result<()> {
        let tombstones = self.node.tombstones()?;
        let by_id = tombstones.into_iter().map(|t| (t.region.region_id(), t));
        self.tombstones = by_id.collect();
        for region in self.node.region_ids()? {
            // Also if it cannot be opened: what is in its range is its own, and waits for it.
            if let Ok(Some(state)) = self.node.local_state(region) {
                self.ranges.put(&state.region);
            }
            let opened = self.node.open_region(region).and_then(|storage| {
                self.ranges.put(storage.region());
                self.add_peer(storage).map(|_| ())
            });
            if let Err(error) = opened {
                self.show_unopened(region, &error);
            }
        }
        Ok(())
    }

    /// Shows a region that could not be opened, so that nobody takes it for one that was never here.
    pub(super) fn show_unopened(&self, region: RegionId, error: &Error) {
        count(&self.shared.counts.regions_stopped);
        tracing::error!(%region, %error, "region not opened");
        let status = super::RegionStatus {
            region: Region {
                id: region.0,
                ..Default::default()
            },
            peer: PeerId(0),
            leader: None,
            term: 0,
            is_leader: false,
            state: super::RegionStage::Stopped(error.to_string()),
        };
        let mut shown = self
            .shared
            .regions
            .write()
            .unwrap_or_else(|p| p.into_inner());
        shown.insert(region, status);
    }

    /// Creates a region that the operator starts the cluster with, or adds to it. Its range is its own from
    /// now on.
    pub(super) fn create_region(&mut self, region: &Region, done: Completer<()>) {
        match self.plan_creation(region) {
            Ok(peer) => {
                self.ranges.put(region);
                let id = region.region_id();
                let new = NewPeer::Created(Box::new(region.clone()), peer);
                self.open_later(id, new, Opening::for_operator(done));
            }
            Err(error) => done.answer(Err(error)),
        }
    }

    fn plan_creation(&self, region: &Region) -> Result<PeerId> {
        let id = region.region_id();
        if self.peers.contains_key(&id) || self.is_busy(id) {
            return Err(Error::RegionExists { region: id });
        }
        if let Some(other) = self.ranges.overlapping(&region.range()).first() {
            let reason = format!("region {other} holds keys of {}", region.range());
            return Err(Error::Refused {
                region: id,
                what: "creation",
                reason,
            });
        }
        self.node.own_peer(region)
    }

    /// Whether a region is on its way in or out.
    pub(super) fn is_busy(&self, region: RegionId) -> bool {
        self.closed.contains_key(&region) || self.opening.contains_key(&region)
    }

    /// Lets a worker open a region, or make it: that waits for the disk.
    pub(super) fn open_later(&mut self, region: RegionId, new: NewPeer, opening: Opening) {
        self.opening.insert(region, opening);
        self.out.slow.push(SlowTask::Open(region, new));
    }

    /// A worker has opened a region, or could not.
    pub(super) fn opened(&mut self, region: RegionId, result: Result<Box<PeerStorage>>) {
        let Some(opening) = self.opening.remove(&region) else {
            return;
        };
        let added = result.and_then(|storage| {
            self.tombstones.remove(&region);
            self.ranges.put(storage.region());
            self.add_peer(*storage).map(drop)
        });
        match (added, opening.done) {
            (Ok(()), done) => {
                if opening.leaves {
                    self.leave(region);
                }
                if let Some(done) = done {
                    done.answer(Ok(()));
                }
            }
            (Err(error), Some(done)) => {
                self.ranges.remove(region);
                done.answer(Err(error));
            }
            (Err(error), None) => {
                self.show_unopened(region, &error);
                self.answer_leaving(region, Some(&error.to_string()));
            }
        }
    }

    /// How far a region has come.
    ///
    /// # Errors
    /// `RegionNotFound`.
    pub(super) fn progress(&self, region: RegionId) -> Result<RegionProgress> {
        let peer = self
            .peers
            .get(&region)
            .ok_or(Error::RegionNotFound { region })?;
        let (storage, raft) = (peer.storage(), &peer.raft().raft);
        let own = peer.id();
        let followers = raft.prs().iter().map(|(id, p)| (PeerId(*id), p.matched));
        Ok(RegionProgress {
            first_index: storage.truncated_index() + 1,
            last_index: raft.raft_log.last_index(),
            persisted_index: storage.persisted_index(),
            committed_index: raft.raft_log.committed,
            applied_index: storage.applied_index(),
            term: raft.term,
            is_asleep: peer.is_asleep(),
            followers: match peer.is_leader() {
                true => followers.filter(|(id, _)| *id != own).collect(),
                false => Vec::new(),
            },
        })
    }

    /// The peer goes as soon as nothing of it is on its way.
    pub(super) fn leave(&mut self, region: RegionId) {
        self.with_peer(region, |peer, out| {
            peer.leave();
            out.changed.push(peer.key());
        });
    }

    /// Removes a peer that leaves, if its last write and its last apply are done.
    pub(super) fn finish_leaving(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get(&key.region) else {
            return;
        };
        if !matches!(peer.stage(), Stage::Leaving) || !peer.is_settled() {
            return;
        }
        let region = key.region;
        let task = peer.storage().destroy_task(Leaves::Nothing);
        self.peers.remove(&region);
        self.admin.remove(&region);
        self.hand_removal(key, task);
    }

    /// Hands the removal of a region to its applier. The region is closed until that is done.
    pub(super) fn hand_removal(&mut self, key: PeerKey, task: DestroyTask) {
        let region = key.region;
        self.tombstones.insert(region, task.tombstone().clone());
        self.closed.insert(region, key);
        self.out.changed.push(key);
        self.out.apply.push(ApplyTask {
            peer: key,
            work: ApplyWork::Destroy(Box::new(task)),
        });
    }

    /// A peer's log, states and data are gone.
    pub(super) fn destroyed(&mut self, key: PeerKey, result: Result<()>) {
        if self.closed.get(&key.region) == Some(&key) {
            self.closed.remove(&key.region);
            // Only now: whoever took over its keys before would lose them to its removal.
            self.ranges.remove(key.region);
        }
        let failure = result.as_ref().err().map(Error::to_string);
        self.answer_leaving(key.region, failure.as_deref());
        if let Err(error) = result {
            // Its tombstone stands, or the write that failed has poisoned the store, which says so
            // itself. The next open goes on with it.
            tracing::error!(region = %key.region, %error, "removal of a peer not finished");
        }
    }

    /// Answers those who asked for the removal of a peer.
    pub(super) fn answer_leaving(&mut self, region: RegionId, failure: Option<&str>) {
        for (done, shown) in self.leaving.remove(&region).unwrap_or_default() {
            done.answer(match failure.map(str::to_owned) {
                None => Ok(shown),
                Some(reason) => Err(Error::RegionStopped { region, reason }),
            });
        }
    }

    /// Installs the snapshot that waits, if its turn has come.
    pub(super) fn install_waiting(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key.region) else {
            return;
        };
        // A split that is half done is finished first: its new region is on its way to the disk.
        if self.admin.contains_key(&key.region) {
            return;
        }
        let Some(message) = peer.snapshot_to_install() else {
            return;
        };
        if let Some(reason) = self.snapshot_obstacle(key.region, &message) {
            tracing::info!(region = %key.region, reason, "snapshot not installed");
            return;
        }
        let also = self.take_over_covered(key.region, &message);
        let brought = RaftSnapshotData::of_snapshot(key.region, message.get_snapshot());
        self.try_peer(key, |peer, out| peer.install(message, also, out));
        let Some(peer) = self.peers.get(&key.region) else {
            return;
        };
        let is_stopped = match peer.stage() {
            Stage::Installing(_) => {
                // From now on, or two snapshots could bring the same keys at the same time.
                if let Ok(Some(data)) = brought {
                    let before = peer.region().clone();
                    self.ranges.put(&both(before, data.region));
                }
                return;
            }
            stage => matches!(stage, Stage::Stopped(_)),
        };
        // raft had no use for it, or it cannot be installed: nothing was written.
        self.settle_taken_over(key.region);
        if is_stopped {
            self.reopen(key);
        }
    }

    /// Ends the regions whose keys a snapshot brings, because they were merged into its region: their
    /// tombstones are written with it.
    fn take_over_covered(
        &mut self,
        region: RegionId,
        message: &raft::eraftpb::Message,
    ) -> AppBatch {
        let mut also = AppBatch::default();
        let Ok(Some(data)) = RaftSnapshotData::of_snapshot(region, message.get_snapshot()) else {
            return also;
        };
        let others = self.ranges.overlapping(&data.region.range());
        let others: Vec<RegionId> = others.into_iter().filter(|id| *id != region).collect();
        for other in &others {
            let leaves = match self.is_covered(*other, &data.region) {
                true => Leaves::Data,
                // Its keys are not all in the snapshot: another region brings the rest.
                false => Leaves::Nothing,
            };
            self.end_merged(*other, leaves, &mut also);
        }
        if !others.is_empty() {
            self.taken_over.insert(region, others);
        }
        also
    }

    /// Ends a region that was merged into another one: its tombstone goes into `batch`.
    pub(super) fn end_merged(&mut self, region: RegionId, leaves: Leaves, batch: &mut AppBatch) {
        let Some(mut peer) = self.peers.remove(&region) else {
            return;
        };
        let key = peer.key();
        peer.leave();
        self.answer_leaving(region, Some("it was merged into its neighbour meanwhile"));
        let state = peer.storage().region_state();
        tombstone_ops(state, leaves, batch);
        let tombstone = RegionLocalState {
            state: PeerState::Tombstone,
            ..state.clone()
        };
        self.admin.remove(&region);
        self.tombstones.insert(region, tombstone);
        self.closed.insert(region, key);
        self.out.apply.push(ApplyTask {
            peer: key,
            work: ApplyWork::End,
        });
        self.out.changed.push(key);
    }

    /// The tombstone of a region that was merged is durable: the rest of it goes.
    pub(super) fn forget_merged(&mut self, region: RegionId) {
        self.closed.remove(&region);
        self.ranges.remove(region);
        self.out.write.batch.clear_region(region);
    }

    /// What becomes of the regions that a snapshot has taken over, or was to.
    fn settle_taken_over(&mut self, region: RegionId) {
        for other in self.taken_over.remove(&region).unwrap_or_default() {
            if let Ok(Some(state)) = self.node.local_state(other)
                && state.state == PeerState::Tombstone
            {
                self.forget_merged(other);
                continue;
            }
            self.closed.remove(&other);
            self.tombstones.remove(&other);
            self.open_later(other, NewPeer::Known, Opening::default());
        }
    }

    /// A snapshot is in, or not.
    pub(super) fn installed(&mut self, key: PeerKey, result: Result<Box<Installed>>) {
        if !self.is_current(key) {
            return;
        }
        match result {
            Ok(installed) => {
                count(&self.shared.counts.snapshots_installed);
                self.settle_taken_over(key.region);
                self.with_peer(key.region, |peer, out| peer.installed(*installed, out));
                self.admin.remove(&key.region);
                if let Some(peer) = self.peers.get(&key.region) {
                    self.ranges.put(peer.region());
                }
            }
            Err(error) => {
                tracing::error!(region = %key.region, %error, "snapshot not installed");
                self.settle_taken_over(key.region);
                self.reopen(key);
            }
        }
    }

    /// Opens a region again from what is on disk: what raft holds of it in memory cannot be taken back.
    fn reopen(&mut self, key: PeerKey) {
        let region = key.region;
        let before = self.peers.remove(&region);
        let was_leaving = before.is_some_and(|p| matches!(p.stage(), Stage::Leaving));
        self.out.apply.push(ApplyTask {
            peer: key,
            work: ApplyWork::End,
        });
        self.out.changed.push(key);
        let leaves = was_leaving;
        self.open_later(region, NewPeer::Known, Opening { leaves, done: None });
    }

    /// Sends a snapshot by the transport's own way for files.
    pub(super) fn send_snapshot(&mut self, store: u64, envelope: PeerMessage) {
        let (region, to) = (envelope.region, PeerId(envelope.to.id));
        let key = match &envelope.body {
            PeerBody::Raft(message) => {
                let snapshot = message.get_snapshot();
                let data = RaftSnapshotData::of_snapshot(region, snapshot);
                data.ok().flatten().map(|data| data.key(snapshot))
            }
            _ => None,
        };
        match key {
            Some(key) => {
                count(&self.shared.counts.snapshots_sent);
                self.liveness.sent(store);
                self.transport.send_snapshot(store, envelope, key);
            }
            None => self.with_peer(region, |peer, _| peer.snapshot_sent(to.0, false)),
        }
    }

    /// Looks whether a region has grown too large, when it has written enough for that.
    pub(super) fn check_size(&mut self, key: PeerKey) {
        let bytes_max = self.options.region_bytes_max;
        let Some(peer) = self.peers.get_mut(&key.region) else {
            return;
        };
        if bytes_max == 0 || !peer.is_leader() || peer.written_bytes() < bytes_max / 4 {
            return;
        }
        peer.take_written_bytes();
        self.out.slow.push(SlowTask::SplitCheck(SplitCheck {
            peer: key,
            range: peer.region().range(),
            bytes_max,
        }));
    }

    /// What looking at a region's size has found.
    pub(super) fn split_checked(&mut self, key: PeerKey, result: Result<Option<Vec<u8>>>) {
        match result {
            Ok(Some(split_key)) if self.is_current(key) => {
                let request = super::SplitWanted {
                    region: key.region,
                    key: split_key,
                    peers: self
                        .peers
                        .get(&key.region)
                        .map_or(0, |p| p.region().peers.len()),
                };
                (self.run.split_wanted)(request);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(region = %key.region, %error, "size not known"),
        }
    }
}

/// The region `after`, over what it and `before` hold: until it is known to be the one, it is both.
fn both(before: Region, mut after: Region) -> Region {
    if before.is_initialized() {
        after.start_key = after.start_key.min(before.start_key);
        after.end_key = match after.end_key.is_empty() || before.end_key.is_empty() {
            true => Vec::new(),
            false => after.end_key.max(before.end_key),
        };
    }
    after
}
