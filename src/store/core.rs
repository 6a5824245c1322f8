//! The raft thread's own: every peer of the store, what is to be done, and what comes in. Uses: peer,
//! workers, transport. Waits for nothing but its channel.
//!
//! One thread drives all regions, because what it does for one is a few microseconds: whatever takes
//! longer is a worker's. It takes in all messages that wait, lets every peer that was touched say what it
//! wants, and hands that over: so the writes of many regions are one task, and one fsync.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::admin::AdminInFlight;
use super::expiring::Expiry;
use super::lifecycle::Opening;
use super::liveness::Liveness;
use super::message::StoreMsg;
use super::ranges::Ranges;
use super::shared::{RegionStage, RegionStatus, Shared, count};
use super::{Run, StoreOptions, Tombstones};
use crate::composite::CompositeStorage;
use crate::error::{Error, Result, catch_panic};
use crate::mailbox::Sender;
use crate::peer::{Outbox, Peer, PeerOptions, Stage};
use crate::peer_storage::PeerStorage;
use crate::proto::Region;
use crate::ticket::Completer;
use crate::transport::{Placement, StoreMessage, Transport};
use crate::types::RegionId;
use crate::workers::{Applied, ApplyTask, Done, PeerKey, SlowTask, WriteTask};

/// No cluster gets there.
const IDS_END: u64 = u64::MAX / 2;

/// The raft thread's state. Every method returns soon.
pub struct StoreCore {
    pub(super) node: CompositeStorage,
    pub(super) peers: BTreeMap<RegionId, Box<Peer>>,
    pub(super) ranges: Ranges,
    pub(super) tombstones: Tombstones,
    /// Regions that are on their way out, or in by a split: messages for them wait, that is, are lost.
    pub(super) closed: BTreeMap<RegionId, PeerKey>,
    pub(super) admin: BTreeMap<RegionId, AdminInFlight>,
    pub(super) out: Outbox,
    pub(super) options: Arc<StoreOptions>,
    pub(super) placement: Arc<dyn Placement>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) shared: Arc<Shared>,
    pub(super) liveness: Liveness,
    pub(super) compaction: Compaction,
    pub(super) expiry: Expiry,
    /// Regions that a worker is opening; their messages are lost meanwhile.
    pub(super) opening: BTreeMap<RegionId, Opening>,
    /// Regions whose keys a snapshot that is being installed takes over, by its region.
    pub(super) taken_over: BTreeMap<RegionId, Vec<RegionId>>,
    /// Who waits for the removal of a peer, with its region as it was.
    pub(super) leaving: BTreeMap<RegionId, Vec<(Completer<Region>, Region)>>,
    pub(super) merge_ticks: u64,
    pub(super) run: Run,
    peer_options: Arc<PeerOptions>,
    pub(super) tasks: Tasks,
    // Touched since they last said what they want.
    dirty: BTreeSet<RegionId>,
    // Not asleep.
    ticking: BTreeSet<RegionId>,
    opened: u64,
    poisoned: Option<String>,
}

/// The ways to the workers.
pub struct Tasks {
    pub write: Sender<WriteTask>,
    /// A region belongs to one of them.
    pub apply: Vec<Sender<ApplyTask>>,
    pub slow: Sender<SlowTask>,
}

/// Logs whose front may go as soon as the truncated states that cover it are durable (rule 17).
#[derive(Default)]
pub(super) struct Compaction {
    // From the truncated index on, exclusive.
    waiting: Vec<(PeerKey, u64)>,
    syncing: Vec<(PeerKey, u64)>,
    number: u64,
}

impl StoreCore {
    /// The core of a store over `node`, without its peers yet.
    pub(super) fn new(
        node: CompositeStorage,
        out: Outbox,
        options: Arc<StoreOptions>,
        parts: (Arc<dyn Transport>, Arc<dyn Placement>, Arc<Shared>),
        tasks: Tasks,
        run: Run,
    ) -> Self {
        let (transport, placement, shared) = parts;
        StoreCore {
            peers: BTreeMap::new(),
            ranges: Ranges::default(),
            tombstones: Tombstones::default(),
            closed: BTreeMap::new(),
            admin: BTreeMap::new(),
            liveness: Liveness::new(&options),
            compaction: Compaction::default(),
            expiry: Expiry::default(),
            opening: BTreeMap::new(),
            taken_over: BTreeMap::new(),
            leaving: BTreeMap::new(),
            merge_ticks: 0,
            run,
            peer_options: Arc::new(options.peer_options()),
            dirty: BTreeSet::new(),
            ticking: BTreeSet::new(),
            opened: 0,
            poisoned: None,
            node,
            out,
            options,
            placement,
            transport,
            shared,
            tasks,
        }
    }

    /// Takes one message in. False if it asks to stop.
    pub(super) fn handle(&mut self, message: StoreMsg) -> bool {
        match message {
            StoreMsg::Propose(region, proposal) => {
                count(&self.shared.counts.proposals);
                match self.serving(region) {
                    Ok(peer) => {
                        peer.propose(proposal);
                        self.touch(region);
                    }
                    Err(error) => proposal.done.answer(Err(error)),
                }
            }
            StoreMsg::Read(region, done) => {
                count(&self.shared.counts.reads);
                match self.serving(region) {
                    Ok(peer) => {
                        peer.read(done);
                        self.touch(region);
                    }
                    Err(error) => done.answer(Err(error)),
                }
            }
            StoreMsg::Admin(region, request, done) => self.request(region, request, done),
            StoreMsg::Message(from, message) => {
                count(&self.shared.counts.messages_in);
                self.liveness.heard(from);
                match message {
                    StoreMessage::Peer(envelope) => self.receive(from, *envelope),
                    // A store that has gone mad must not use up the ids of the others.
                    StoreMessage::Alive { max_id } if max_id > IDS_END => {
                        self.shared.refuse("ids");
                    }
                    StoreMessage::Alive { max_id } => self.placement.observe_id(max_id),
                }
            }
            StoreMsg::Unreachable(region, peer) => {
                self.with_peer(region, |p, _| p.unreachable(peer.0));
            }
            StoreMsg::SnapshotSent(region, peer, arrived) => {
                self.with_peer(region, |p, _| p.snapshot_sent(peer.0, arrived));
            }
            StoreMsg::Offer(from, envelope, reply) => {
                let _ = reply.send(self.offered(from, &envelope));
            }
            StoreMsg::Done(done) => self.done(done),
            StoreMsg::Call(call) => call(self),
            StoreMsg::Stop => return false,
        }
        true
    }

    /// The peer that clients are served by.
    fn serving(&mut self, region: RegionId) -> Result<&mut Peer> {
        if let Some(cause) = &self.poisoned {
            return Err(Error::RegionStopped {
                region,
                reason: cause.clone(),
            });
        }
        let peer = self.peers.get_mut(&region);
        peer.map(|p| &mut **p)
            .ok_or(Error::RegionNotFound { region })
    }

    /// Lets `work` at a peer; what goes wrong in it stops that region and no other. A region that slept
    /// is awake then.
    pub(super) fn with_peer(
        &mut self,
        region: RegionId,
        work: impl FnOnce(&mut Peer, &mut Outbox),
    ) {
        let Some(peer) = self.peers.get_mut(&region) else {
            return;
        };
        let out = &mut self.out;
        let worked = catch_panic("raft", || {
            work(peer, out);
            Ok(())
        });
        if let Err(error) = worked {
            self.stop_region(region, &error.to_string());
        }
        self.touch(region);
    }

    /// The peer has something to say, or to do.
    pub(super) fn touch(&mut self, region: RegionId) {
        if let Some(peer) = self.peers.get_mut(&region) {
            if peer.wake() || !matches!(peer.stage(), Stage::Stopped(_)) {
                self.ticking.insert(region);
            }
            self.dirty.insert(region);
        }
    }

    /// Stops one region: it answers with this error from now on.
    pub(super) fn stop_region(&mut self, region: RegionId, reason: &str) {
        let Some(peer) = self.peers.get_mut(&region) else {
            return;
        };
        if !matches!(peer.stage(), Stage::Stopped(_)) {
            count(&self.shared.counts.regions_stopped);
        }
        let key = peer.key();
        peer.stop(reason);
        self.ticking.remove(&region);
        self.admin.remove(&region);
        self.out.changed.push(key);
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Persisted(readies) => {
                for (key, number) in readies {
                    if number == super::admin::SPLIT_LOG {
                        self.split_log_durable(key);
                    } else if self.is_current(key) {
                        self.try_peer(key, |peer, out| peer.persisted(number, out));
                    }
                }
            }
            Done::Applied(all) => all.into_iter().for_each(|applied| self.applied(applied)),
            Done::Failed(key, error) => {
                if self.is_current(key) {
                    self.with_peer(key.region, |peer, _| peer.applier_failed());
                    self.stop_region(key.region, &error.to_string());
                }
            }
            Done::Poisoned(error) => self.poison(&error),
            Done::Installed(key, result) => self.installed(key, result),
            Done::Destroyed(key, result) => self.destroyed(key, result),
            Done::Opened(region, result) => self.opened(region, result),
            Done::Synced(number) => self.synced(number),
            Done::Woken(region) => self.woken(region),
            Done::SplitKey(key, result) => self.split_checked(key, result),
            Done::Expired(now_ms, result) => self.expired(now_ms, result),
            Done::Warmed(key, result) => {
                if self.is_current(key) {
                    self.with_peer(key.region, |peer, out| peer.warmed(result, out));
                }
            }
        }
    }

    /// Whether this peer is still the one that is meant.
    pub(super) fn is_current(&self, key: PeerKey) -> bool {
        self.peers.get(&key.region).is_some_and(|p| p.key() == key)
    }

    /// As `with_peer`, for work that may fail.
    pub(super) fn try_peer(
        &mut self,
        key: PeerKey,
        work: impl FnOnce(&mut Peer, &mut Outbox) -> Result<()>,
    ) {
        let mut failed = None;
        self.with_peer(key.region, |peer, out| failed = work(peer, out).err());
        if let Some(error) = failed {
            self.stop_region(key.region, &error.to_string());
        }
    }

    fn applied(&mut self, applied: Applied) {
        let key = applied.peer;
        if !self.is_current(key) {
            return;
        }
        let mut admin = false;
        let mut removable = None;
        self.with_peer(key.region, |peer, out| {
            peer.applied(applied, out);
            admin = peer.admin_applied();
            removable = peer.storage().removable();
        });
        if let Some(range) = removable {
            self.compaction.waiting.push((key, range.end));
        }
        if admin {
            self.admin_done(key);
        }
        self.check_size(key);
    }

    /// A fetch or a snapshot has come further.
    fn woken(&mut self, region: RegionId) {
        self.with_peer(region, |peer, _| peer.fetched());
    }

    /// The truncated states that were written before are durable: the logs they cover may go.
    fn synced(&mut self, number: u64) {
        assert_eq!(number, self.compaction.number, "one sync at a time");
        for (key, first_index) in std::mem::take(&mut self.compaction.syncing) {
            if self.is_current(key)
                && let Some(peer) = self.peers.get_mut(&key.region)
            {
                peer.stage_removal(first_index, &mut self.out.write.batch);
            }
        }
    }

    /// A write failed: what is on the disk is for the next open to find out, and nothing is done until
    /// then.
    fn poison(&mut self, error: &Error) {
        tracing::error!(%error, "the store stops: a write failed");
        let reason = error.to_string();
        let regions: Vec<RegionId> = self.peers.keys().copied().collect();
        for region in regions {
            self.stop_region(region, &reason);
        }
        for region in self.leaving.keys().copied().collect::<Vec<_>>() {
            self.answer_leaving(region, Some(&reason));
        }
        self.poisoned = Some(reason);
    }

    /// One unit of time has passed.
    pub(super) fn tick(&mut self) {
        count(&self.shared.counts.ticks);
        for region in self.awake() {
            count(&self.shared.counts.region_ticks);
            let Some(peer) = self.peers.get_mut(&region) else {
                self.ticking.remove(&region);
                continue;
            };
            let out = &mut self.out;
            let ticked = catch_panic("raft", || {
                peer.tick(out);
                Ok(())
            });
            if let Err(error) = ticked {
                self.stop_region(region, &error.to_string());
                continue;
            }
            let Some(peer) = self.peers.get(&region) else {
                continue;
            };
            let has_work = peer.has_work();
            if peer.is_asleep() {
                self.ticking.remove(&region);
            }
            if has_work {
                self.dirty.insert(region);
            }
        }
        self.check_liveness();
        self.check_merges();
        self.look_for_expired();
    }

    /// Lets every peer that was touched say what it wants, and hands it over.
    pub(super) fn flush(&mut self) {
        while !self.dirty.is_empty() || !self.out.admin.is_empty() {
            for region in std::mem::take(&mut self.dirty) {
                let Some(peer) = self.peers.get(&region) else {
                    continue;
                };
                let key = peer.key();
                self.collect(key);
            }
            for key in std::mem::take(&mut self.out.admin) {
                self.run_admin(key);
            }
        }
        for key in std::mem::take(&mut self.out.changed) {
            self.publish(key);
        }
        self.start_sync();
        self.hand_over();
    }

    fn collect(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key.region) else {
            return;
        };
        let out = &mut self.out;
        if let Err(error) = catch_panic("raft", || peer.collect(out)) {
            self.stop_region(key.region, &error.to_string());
        }
        self.install_waiting(key);
        self.finish_leaving(key);
    }

    /// Asks for a sync of the data if logs wait for one and none is under way.
    fn start_sync(&mut self) {
        let compaction = &mut self.compaction;
        if compaction.waiting.is_empty() || !compaction.syncing.is_empty() {
            return;
        }
        compaction.number += 1;
        compaction.syncing = std::mem::take(&mut compaction.waiting);
        self.out.slow.push(SlowTask::Sync(compaction.number));
    }

    /// Sends what the peers want done to whoever does it. The leaders' messages leave first.
    fn hand_over(&mut self) {
        if self.poisoned.is_some() {
            let machines = Arc::clone(&self.out.machines);
            self.out = Outbox::new(self.out.store_id, machines);
            return;
        }
        for (store, message) in self.out.messages.drain(..) {
            count(&self.shared.counts.messages_out);
            self.liveness.sent(store);
            self.transport
                .send(store, StoreMessage::Peer(Box::new(message)));
        }
        self.transport.flush();
        for (store, message) in std::mem::take(&mut self.out.snapshots) {
            self.send_snapshot(store, message);
        }
        if !self.out.write.batch.is_empty() {
            let task = std::mem::take(&mut self.out.write);
            count(&self.shared.counts.write_tasks);
            let readies = task.readies.len() as u64;
            (self.shared.counts.readies).fetch_add(readies, std::sync::atomic::Ordering::Relaxed);
            self.tasks.write.send(task);
        }
        // All of a worker's tasks at once: it is woken once, and writes once.
        let workers = self.tasks.apply.len() as u64;
        for (number, worker) in (0..).zip(&self.tasks.apply) {
            let own = |task: &mut ApplyTask| task.peer.region.0 % workers == number;
            worker.send_all(self.out.apply.extract_if(.., own).collect());
        }
        self.tasks.slow.send_all(std::mem::take(&mut self.out.slow));
    }

    /// Takes a peer in.
    ///
    /// # Errors
    /// Those of raft.
    pub(super) fn add_peer(&mut self, storage: PeerStorage) -> Result<PeerKey> {
        self.opened += 1;
        let region = storage.region_id();
        let key = PeerKey {
            region,
            incarnation: self.opened,
        };
        let nonce = self.run.nonce.wrapping_add(self.opened << 32);
        let options = Arc::clone(&self.peer_options);
        let peer = catch_panic("raft", || Peer::new(key, storage, options, nonce))?;
        self.peers.insert(region, Box::new(peer));
        // A crash may have come between its removal from the region and its end.
        self.with_peer(region, |peer, _| peer.leave_if_removed());
        self.out.changed.push(key);
        Ok(key)
    }

    /// Shows a peer as it is now to whoever asks.
    fn publish(&mut self, key: PeerKey) {
        let mut shown = self
            .shared
            .regions
            .write()
            .unwrap_or_else(|p| p.into_inner());
        let Some(peer) = self.peers.get(&key.region) else {
            shown.remove(&key.region);
            return;
        };
        let region = peer.region().clone();
        // While a snapshot is installed, what it brings is held too.
        if !matches!(peer.stage(), Stage::Installing(_)) {
            self.ranges.put(&region);
        }
        for id in region.peers.iter().map(|p| p.id).chain([region.id]) {
            self.placement.observe_id(id);
        }
        // One that was stopped may have been the leader, and is of no use as one.
        let serves = !matches!(peer.stage(), Stage::Stopped(_) | Stage::Leaving);
        let own = peer.id().0;
        let status = RegionStatus {
            peer: peer.id(),
            leader: peer.leader().filter(|leader| serves || leader.id != own),
            term: peer.raft().raft.term,
            is_leader: peer.is_leader() && serves,
            state: stage_of(peer),
            region,
        };
        if status.is_leader {
            if !shown.get(&key.region).is_some_and(|s| s.is_leader) {
                count(&self.shared.counts.elections);
            }
            self.placement.report(&crate::transport::RegionReport {
                region: status.region.clone(),
                leader: peer.own_meta(self.out.store_id),
                term: status.term,
            });
        }
        shown.insert(key.region, status);
    }

    /// The regions that do not sleep.
    pub(super) fn awake(&self) -> Vec<RegionId> {
        self.ticking.iter().copied().collect()
    }

    /// Wakes the peers that `which` names.
    pub(super) fn wake_all(&mut self, which: impl Fn(&Peer) -> bool) {
        let woken: Vec<RegionId> = (self.peers.iter())
            .filter(|(_, p)| p.is_asleep() && which(p))
            .map(|(id, _)| *id)
            .collect();
        for region in woken {
            self.touch(region);
        }
    }
}

pub(super) fn stage_of(peer: &Peer) -> RegionStage {
    match peer.stage() {
        Stage::Active if peer.is_merging() => RegionStage::Merging,
        Stage::Active => RegionStage::Active,
        Stage::Installing(_) => RegionStage::Installing,
        Stage::Leaving => RegionStage::Leaving,
        Stage::Stopped(reason) => RegionStage::Stopped(reason.clone()),
    }
}
