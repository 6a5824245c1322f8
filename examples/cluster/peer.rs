//! One region on one store: a RawNode, driven by hand.

use std::time::{Duration, Instant};

use peerstore::{Error, LogBatch, PeerStorage, Staged, raft_logger};
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{RawNode, StateRole};

use super::Outcome;
use super::command::Command;

/// The replica of one region.
pub struct Peer {
    pub raft: RawNode<PeerStorage>,
    // How many parts are not durable yet.
    staged: usize,
    // A snapshot is being installed: nothing else happens to the region meanwhile.
    installing: bool,
    // The compaction that was proposed last: its term and first index.
    compaction: (u64, u64),
    pub snapshots: Snapshots,
    /// Entries that a worker read back from the log for a slow follower.
    pub cold_reads: u64,
}

/// What snapshots have done to a peer.
#[derive(Clone, Copy, Default)]
pub struct Snapshots {
    pub installed: u64,
    /// Of their files.
    pub bytes: u64,
    /// Spent on reading the files and replacing the data.
    pub time: Duration,
}

/// What a Ready leaves to be done once its writes are durable.
pub struct Part {
    pub region: u64,
    number: u64,
    staged: Staged,
    messages: Vec<Message>,
}

/// What goes out of a store.
#[derive(Default)]
pub struct Outbox {
    /// Region and message.
    pub messages: Vec<(u64, Message)>,
    /// The contexts of applied commands: which items they were.
    pub applied: Vec<u64>,
}

impl Outbox {
    fn send(&mut self, region: u64, messages: Vec<Message>) {
        let messages = messages.into_iter().map(|message| (region, message));
        self.messages.extend(messages);
    }
}

impl Peer {
    pub fn new(storage: PeerStorage) -> Outcome<Peer> {
        let config = storage.raft_config();
        Ok(Peer {
            raft: RawNode::new(&config, storage, &raft_logger())?,
            staged: 0,
            installing: false,
            compaction: (0, 0),
            snapshots: Snapshots::default(),
            cold_reads: 0,
        })
    }

    pub fn region(&self) -> u64 {
        self.raft.store().region_id().0
    }

    pub fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    /// Whether the data is as of `index`. While a snapshot is installed the applied index is ahead of
    /// the data already.
    pub fn has_applied(&self, index: u64) -> bool {
        !self.installing && self.raft.store().applied_index() == index
    }

    pub fn tick(&mut self) {
        if !self.installing {
            self.raft.tick();
        }
    }

    /// Gives raft the cold entries that the worker has read.
    pub fn take_fetched(&mut self) {
        for context in self.raft.store().take_fetched() {
            self.raft.on_entries_fetched(context);
            self.cold_reads += 1;
        }
    }

    /// Has every replica compact its log, if the policy says so and no compaction is under way.
    /// `slowest` is the follower that is furthest behind, of those that are worth waiting for.
    pub fn compact_by_policy(&mut self, slowest: Option<u64>) -> Outcome<()> {
        let (storage, term) = (self.raft.store(), self.raft.raft.term);
        let is_under_way =
            self.compaction.0 == term && self.compaction.1 > storage.truncated_index() + 1;
        match storage.first_index_by_policy(slowest)? {
            Some(first_index) if !is_under_way => self.propose_compaction(first_index),
            _ => Ok(()),
        }
    }

    pub fn propose_compaction(&mut self, first_index: u64) -> Outcome<()> {
        self.compaction = (self.raft.raft.term, first_index);
        let entry = Entry {
            data: Command::Compact { first_index }.encode().into(),
            ..Default::default()
        };
        self.propose(vec![entry])?;
        Ok(())
    }

    /// Proposes entries in one message. False if raft has dropped them: the leader is on its way out.
    pub fn propose(&mut self, entries: Vec<Entry>) -> Outcome<bool> {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.raft.raft.id;
        message.set_entries(entries.into());
        match self.raft.step(message) {
            Ok(()) => Ok(true),
            Err(raft::Error::ProposalDropped) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the next Ready, if raft has one: its writes go into `batch`, where the other regions'
    /// are, and what has to wait for them is handed back.
    pub fn take_ready(&mut self, batch: &mut LogBatch, out: &mut Outbox) -> Outcome<Option<Part>> {
        // A snapshot replaces the log, so everything before it has to be durable first.
        let snapshot_must_wait = self.staged > 0 && self.raft.snap().is_some();
        if self.installing || snapshot_must_wait || !self.raft.has_ready() {
            return Ok(None);
        }
        let region = self.region();
        let mut ready = self.raft.ready();
        // A leader's messages leave before its own write: the followers' disks work at the same time.
        out.send(region, ready.take_messages());
        let applied = self.apply(&ready.take_committed_entries(), out)?;
        self.installing = !ready.snapshot().is_empty();
        let started = Instant::now();
        let staged = self.raft.mut_store().stage(&mut ready, batch)?;
        self.staged += 1;
        if self.installing {
            self.snapshots.time += started.elapsed();
        }
        let part = Part {
            region,
            number: ready.number(),
            staged,
            messages: ready.take_persisted_messages(),
        };
        self.raft.advance_append_async(ready);
        if applied {
            let index = self.raft.store().applied_index();
            self.raft.advance_apply_to(index);
        }
        Ok(Some(part))
    }

    /// The writes of `part` are durable: now its messages may leave, and a snapshot is restored.
    pub fn on_durable(&mut self, part: Part, out: &mut Outbox) -> Outcome<()> {
        let started = Instant::now();
        self.raft.mut_store().persisted(part.staged)?;
        self.staged -= 1;
        out.send(part.region, part.messages);
        self.raft.on_persist_ready(part.number);
        if self.installing {
            let index = self.raft.store().applied_index();
            self.raft.advance_apply_to(index);
            self.snapshots.installed += 1;
            self.snapshots.time += started.elapsed();
            self.installing = false;
        }
        Ok(())
    }

    /// Applies committed entries: all of them in one batch, with the applied index.
    fn apply(&mut self, entries: &[Entry], out: &mut Outbox) -> Outcome<bool> {
        if entries.is_empty() {
            return Ok(false);
        }
        let (storage, mut compact_to) = (self.raft.mut_store(), 0);
        let region = storage.region_id();
        storage.apply(entries, |entry, batch| {
            if entry.data.is_empty() {
                return Ok(()); // A new leader's first.
            }
            match Command::decode(&entry.data) {
                Some(Command::Put { key, value }) => batch.put(key, value),
                Some(Command::Compact { first_index }) => compact_to = first_index,
                None => {
                    let reason = "not a command of this example";
                    return Err(Error::state_machine(region, entry.index, reason));
                }
            }
            Ok(())
        })?;
        storage.compact(compact_to)?;
        let contexts = entries.iter().map(|entry| entry.context[..].try_into());
        out.applied
            .extend(contexts.flatten().map(u64::from_be_bytes));
        Ok(true)
    }
}
