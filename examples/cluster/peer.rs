//! One region on one store: a RawNode, driven by hand.

use std::time::{Duration, Instant};

use peerstore::{Error, LogBatch, PeerStorage, Staged, raft_logger};
use raft::eraftpb::{Entry, Message};
use raft::{RawNode, StateRole};

use super::Outcome;
use super::command::Command;

/// The replica of one region.
pub struct Peer {
    pub raft: RawNode<PeerStorage>,
    // How many parts are not durable yet.
    staged: usize,
    // Since when a snapshot is being installed. Nothing else happens to the region meanwhile.
    installing: Option<Instant>,
    pub snapshots: Snapshots,
    /// Entries that a worker read back from the log for a slow follower.
    pub cold_reads: u64,
}

/// What snapshots have done to a peer.
#[derive(Clone, Copy, Default)]
pub struct Snapshots {
    pub installed: u64,
    pub bytes: u64,
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
            installing: None,
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
        self.installing.is_none() && self.raft.store().applied_index() == index
    }

    pub fn tick(&mut self) {
        if self.installing.is_none() {
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

    /// Takes the next Ready, if raft has one: its writes go into `batch`, where the other regions'
    /// are, and what has to wait for them is handed back.
    pub fn take_ready(&mut self, batch: &mut LogBatch, out: &mut Outbox) -> Outcome<Option<Part>> {
        // A snapshot replaces the log, so everything before it has to be durable first.
        let snapshot_must_wait = self.staged > 0 && self.raft.snap().is_some();
        if self.installing.is_some() || snapshot_must_wait || !self.raft.has_ready() {
            return Ok(None);
        }
        let region = self.region();
        let mut ready = self.raft.ready();
        // A leader's messages leave before its own write: the followers' disks work at the same time.
        out.send(region, ready.take_messages());
        let applied = self.apply(&ready.take_committed_entries(), out)?;
        if !ready.snapshot().is_empty() {
            self.installing = Some(Instant::now());
        }
        let staged = self.raft.mut_store().stage(&mut ready, batch)?;
        self.staged += 1;
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
        self.raft.mut_store().persisted(part.staged)?;
        self.staged -= 1;
        out.send(part.region, part.messages);
        self.raft.on_persist_ready(part.number);
        if let Some(since) = self.installing.take() {
            let index = self.raft.store().applied_index();
            self.raft.advance_apply_to(index);
            self.snapshots.installed += 1;
            self.snapshots.time += since.elapsed();
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
