//! One region's driver: turns a Ready into tasks, and what became of them into calls of raft.
//! Uses: peer_storage, command, transport, the tasks of workers. Never does I/O, never waits, has no clock.
//!
//! | file | what it does |
//! |---|---|
//! | `ready` | a Ready, step by step; what is durable; what was installed |
//! | `handover` | committed entries on their way to the applier; admin entries as barriers |
//! | `propose` | proposals, gathered and proposed together |
//! | `reads` | linearizable reads by read index |
//! | `check` | what a message must satisfy before raft sees it |
//! | `send` | messages on their way out, and in |
//! | `stage` | how a peer stands |
//! | `transfer` | leadership that is handed over |
//! | `merging` | what a merge needs of a source's log |
//! | `sleep` | ticks, and the sleep of a region that has nothing to do |
//!
//! raft-rs decides what is right; the order in which it is told is this module's work. The order is that
//! of `docs/architecture.md`, and breaking it is an assertion here.

mod check;
mod handover;
mod merging;
mod propose;
mod reads;
mod ready;
mod send;
mod sleep;
mod stage;
#[cfg(test)]
mod tests;
mod transfer;

use std::collections::VecDeque;
use std::sync::Arc;

use raft::eraftpb::Message;
use raft::{RawNode, StateRole};

pub use check::Refusal;
pub use handover::{AdminEntry, Machines};
pub use propose::ProposeData;
pub use stage::{Installing, REGION_TRANSITIONS, Stage};

use crate::error::{Error, Result};
use crate::peer_storage::{PeerStorage, Staged};
use crate::proto::{Peer as PeerMeta, PeerState, Region, RegionEpoch};
use crate::raft_log::LogBatch;
use crate::transport::PeerMessage;
use crate::types::{LogPosition, PeerId, RegionId};
use crate::workers::{ApplyTask, PeerKey, SlowTask, WriteTask};
use handover::Handover;
use propose::Proposals;
use reads::Reads;
use sleep::Rest;
use transfer::{Preparation, Transfer};

/// What a peer is driven with, the same for all of a store.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// A follower that has heard nothing for this many ticks, and up to twice as many, campaigns.
    pub election_ticks: usize,
    /// A leader says that it is there every so many ticks.
    pub heartbeat_ticks: usize,
    /// A leader with nothing to do for this many ticks puts its region to sleep; 0 for never.
    pub sleep_after_ticks: u32,
    /// A leader looks every so many ticks whether its log is to be compacted.
    pub gc_ticks: u32,
    /// The largest append message.
    pub message_bytes_max: u64,
    /// How many append messages are on their way to a follower at most.
    pub inflight_messages_max: usize,
    /// Where the election timeouts come from: the same seed gives the same ones.
    pub seed: u64,
}

impl Default for PeerOptions {
    fn default() -> Self {
        PeerOptions {
            election_ticks: 10,
            heartbeat_ticks: 2,
            sleep_after_ticks: 20,
            gc_ticks: 10,
            message_bytes_max: 1 << 20,
            inflight_messages_max: 64,
            seed: 0,
        }
    }
}

/// What the peers of a store want done; filled by all of them, emptied by the store.
pub struct Outbox {
    /// For the log.
    pub write: WriteTask,
    /// For the appliers.
    pub apply: Vec<ApplyTask>,
    /// For the worker of slow things.
    pub slow: Vec<SlowTask>,
    /// To other stores, each with the id of its store.
    pub messages: Vec<(u64, PeerMessage)>,
    /// Snapshots to other stores.
    pub snapshots: Vec<(u64, PeerMessage)>,
    /// Admin entries whose turn has come.
    pub admin: Vec<PeerKey>,
    /// Peers whose region, role or leader has changed.
    pub changed: Vec<PeerKey>,
    /// Makes the state machines.
    pub machines: Arc<Machines>,
    /// The store that they all live on.
    pub store_id: u64,
}

impl Outbox {
    /// An empty one.
    pub fn new(store_id: u64, machines: Arc<Machines>) -> Self {
        Outbox {
            write: WriteTask::default(),
            apply: Vec::new(),
            slow: Vec::new(),
            messages: Vec::new(),
            snapshots: Vec::new(),
            admin: Vec::new(),
            changed: Vec::new(),
            machines,
            store_id,
        }
    }
}

/// What has become of a merge where this peer has not come to yet.
#[derive(Debug)]
pub enum MergeElsewhere {
    /// Nobody has said anything.
    Unknown,
    /// The region was taken in by this one, as that was before.
    TakenIn(Region),
    /// The region has gone on by itself.
    RolledBack,
}

/// Writes that are on their way to the disk.
#[derive(Debug)]
struct InFlight {
    // The ready that is told about.
    number: u64,
    // Later readies that had nothing to write: durable with this one.
    up_to: u64,
    staged: Staged,
    // Leave when it is durable, and not before.
    messages: Vec<Message>,
}

/// One region's driver.
pub struct Peer {
    key: PeerKey,
    raft: RawNode<PeerStorage>,
    options: Arc<PeerOptions>,
    stage: Stage,
    // Invariant: ascending by number; number <= up_to < the next one's number.
    in_flight: VecDeque<InFlight>,
    handover: Handover,
    proposals: Proposals,
    reads: Reads,
    rest: Rest,
    // A snapshot's message that waits until everything before it is done.
    snapshot: Option<Box<Message>>,
    // Raft is told when its ready is advanced that these did not get their messages.
    unsent: Vec<u64>,
    // Where peers live that the region does not name (any more, or yet).
    known: Vec<PeerMeta>,
    // What the store was last told.
    leader: u64,
    role: StateRole,
    transfer: Option<Transfer>,
    preparation: Option<Preparation>,
    // A worker has its install: nobody else may write what the region is, whatever its stage is by now.
    installing: bool,
    merge_elsewhere: MergeElsewhere,
    // The last merge that was proposed here.
    merge_proposed: LogPosition,
    // The index of the last compaction by policy that was proposed here.
    compaction_proposed: u64,
}

impl Peer {
    /// Drives `storage`. `nonce` tells this run's reads from those of an earlier run.
    ///
    /// # Errors
    /// Those of raft, which the checks of an open rule out.
    pub fn new(
        key: PeerKey,
        storage: PeerStorage,
        options: Arc<PeerOptions>,
        nonce: u64,
    ) -> Result<Self> {
        let config = raft::Config {
            election_tick: options.election_ticks,
            heartbeat_tick: options.heartbeat_ticks,
            max_size_per_msg: options.message_bytes_max,
            max_inflight_msgs: options.inflight_messages_max,
            max_committed_size_per_ready: COMMITTED_BYTES_MAX,
            ..storage.raft_config()
        };
        let region = key.region;
        let applied = storage.applied_index();
        let peer_id = storage.peer_id().0;
        let raft = RawNode::new(&config, storage, &crate::logger::raft_logger())
            .map_err(|e| stopped(region, format!("raft refused to start: {e}")))?;
        Ok(Peer {
            key,
            raft,
            options,
            stage: Stage::Active,
            in_flight: VecDeque::new(),
            handover: Handover::from(applied),
            proposals: Proposals::default(),
            reads: Reads::new(nonce, peer_id),
            rest: Rest::default(),
            snapshot: None,
            unsent: Vec::new(),
            known: Vec::new(),
            leader: 0,
            role: StateRole::Follower,
            transfer: None,
            preparation: None,
            installing: false,
            merge_elsewhere: MergeElsewhere::Unknown,
            merge_proposed: LogPosition::default(),
            compaction_proposed: 0,
        })
    }

    /// Who it is for the workers.
    pub fn key(&self) -> PeerKey {
        self.key
    }

    /// The region.
    pub fn region_id(&self) -> RegionId {
        self.key.region
    }

    /// The region as of what is applied.
    pub fn region(&self) -> &Region {
        self.storage().region()
    }

    /// The peer's own id.
    pub fn id(&self) -> PeerId {
        self.storage().peer_id()
    }

    /// The storage.
    pub fn storage(&self) -> &PeerStorage {
        self.raft.store()
    }

    /// raft, to be looked at.
    pub fn raft(&self) -> &RawNode<PeerStorage> {
        &self.raft
    }

    /// raft, for what only an admin entry does.
    pub fn raft_mut(&mut self) -> &mut RawNode<PeerStorage> {
        &mut self.raft
    }

    /// How it stands.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Whether it leads.
    pub fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    /// Whether its region is being merged into another one.
    pub fn is_merging(&self) -> bool {
        self.storage().region_state().state == PeerState::Merging
    }

    /// Where the leader lives, if it is known.
    pub fn leader(&self) -> Option<PeerMeta> {
        self.peer_meta(self.raft.raft.leader_id)
    }

    /// The peer with this id: of the region, or one that was heard of.
    pub fn peer_meta(&self, id: u64) -> Option<PeerMeta> {
        let of_region = self.region().peers.iter().find(|p| p.id == id);
        of_region
            .or_else(|| self.known.iter().find(|p| p.id == id))
            .copied()
    }

    /// This peer, as its messages name it.
    pub fn own_meta(&self, store_id: u64) -> PeerMeta {
        let id = self.id().0;
        self.peer_meta(id).unwrap_or(PeerMeta {
            id,
            store_id,
            role: 0,
        })
    }

    /// Remembers where a peer lives that the region does not name.
    pub fn learn(&mut self, peer: PeerMeta) {
        if self.peer_meta(peer.id) != Some(peer) {
            self.known.retain(|p| p.id != peer.id);
            self.known.push(peer);
            // Only those count that come and go around a change: the newest few.
            let extra = self.known.len().saturating_sub(KNOWN_PEERS_MAX);
            self.known.drain(..extra);
        }
    }

    /// Stops the region: whoever waits is told why. What is on disk stays as it is. One that leaves goes
    /// on leaving: what has failed in it goes with it.
    pub fn stop(&mut self, reason: &str) {
        if !matches!(self.stage, Stage::Stopped(_) | Stage::Leaving) {
            tracing::error!(region = %self.key.region, reason, "region stopped");
            self.stage.go(Stage::Stopped(reason.to_owned()));
        }
        let region = self.key.region;
        // What is in the log may have left it for other replicas, and be applied there.
        self.proposals
            .stop(region, || stopped(region, reason.to_owned()));
        self.fail_waiters(|| stopped(region, reason.to_owned()));
    }

    /// Whether it can do anything now.
    ///
    /// # Errors
    /// `RegionStopped`, or `Refused` while a snapshot is being installed or it is leaving.
    pub fn check_active(&self, what: &'static str) -> Result<()> {
        let region = self.key.region;
        let refused = |reason: &str| {
            let reason = reason.to_owned();
            Err(Error::Refused {
                region,
                what,
                reason,
            })
        };
        match &self.stage {
            Stage::Active => Ok(()),
            Stage::Installing(_) => refused("a snapshot is being installed; try again"),
            Stage::Leaving => refused("the peer leaves this store; ask another one"),
            Stage::Stopped(reason) => Err(stopped(region, reason.clone())),
        }
    }

    /// Begins to leave: no ready is taken any more, and whoever waits is told.
    pub fn leave(&mut self) {
        let region = self.key.region;
        if !matches!(self.stage, Stage::Leaving) {
            self.stage.go(Stage::Leaving);
        }
        self.reads.fail(|| Error::RegionNotFound { region });
        self.fail_waiters(|| Error::Uncertain { region });
    }

    fn fail_waiters(&mut self, error: impl Fn() -> Error) {
        self.proposals.fail(&error);
        self.reads.fail(&error);
        if let Some(transfer) = self.transfer.take() {
            transfer.fail(error());
        }
    }

    /// Whether everything that is committed here is durable and applied.
    pub fn is_idle(&self) -> bool {
        self.is_settled() && self.handover.is_empty()
    }

    /// Whether no worker has anything of it, so that it can go.
    pub fn is_settled(&self) -> bool {
        let applied = self.storage().applied_index();
        self.in_flight.is_empty()
            && !self.installing
            && (self.handover.handed() == applied || self.handover.has_failed())
    }

    /// Stages the removal of the log below `first_index`, which is covered durably.
    pub fn stage_removal(&mut self, first_index: u64, batch: &mut LogBatch) {
        if matches!(self.stage, Stage::Active) {
            self.raft.mut_store().stage_removal_to(first_index, batch);
        }
    }

    /// A fetch or a snapshot has come further: raft asks again.
    pub fn fetched(&mut self) {
        if !matches!(self.stage, Stage::Active) {
            return;
        }
        for context in self.raft.store().take_fetched() {
            self.raft.on_entries_fetched(context);
        }
        self.busy();
    }

    /// What has become elsewhere of a merge that has not come to its end here.
    pub fn merge_elsewhere(&self) -> &MergeElsewhere {
        &self.merge_elsewhere
    }

    /// Somebody has said that the region was taken in by `target`, which is what it was before.
    pub fn set_taken_in(&mut self, target: &Region) {
        self.merge_elsewhere = MergeElsewhere::TakenIn(target.clone());
    }

    /// Others of the region are at `epoch`. A region that waits for a merge has a newer one only if the
    /// merge was given up.
    pub fn heard_epoch(&mut self, epoch: RegionEpoch) {
        if self.is_merging() && epoch.version > self.region().region_epoch.version {
            self.merge_elsewhere = MergeElsewhere::RolledBack;
        }
    }
}

/// Committed entries are taken out of raft in portions of this size.
const COMMITTED_BYTES_MAX: u64 = 8 << 20;
/// How many peers are remembered that the region does not name.
const KNOWN_PEERS_MAX: usize = 8;

fn stopped(region: RegionId, reason: String) -> Error {
    Error::RegionStopped { region, reason }
}
