//! Writes that are handed in and become durable later: what they bring can be read at once, and only what
//! is durable counts. Uses: write, ticket. Never waits for the disk, except where it says so.
//!
//! d-engine's two strategies, chosen by the config's `persistence`: with `disk_first` a write is durable
//! when it was handed in, with `mem_first` a worker writes it, many with one fsync.

use std::collections::VecDeque;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use raft::Ready;
use raft::eraftpb::Entry;

use super::PeerStorage;
use super::snapshot::PAUSE_MAX;
use super::write::Staged;
use crate::error::{Error, Result};
use crate::persistence::PersistenceStrategy;
use crate::raft_log::LogBatch;
use crate::ticket::{Completer, Ticket};
use crate::types::RegionId;

/// A write for the worker that writes behind its callers. It comes to the disk in the order in which it
/// was sent, or not at all.
pub struct BehindTask {
    /// Whose.
    pub region: RegionId,
    /// What.
    pub batch: LogBatch,
    reply: Sender<Result<(), String>>,
    done: Completer<()>,
}

impl BehindTask {
    /// Says that it is durable, or that it is not and never will be.
    pub fn finish(self, written: Result<(), String>) {
        // The region may be gone.
        let _ = self.reply.send(written.clone());
        self.done.answer(written.map_err(poisoned));
    }
}

/// The writes of a region that are on their way, in their order.
#[derive(Debug, Default)]
pub(super) struct Behind {
    writes: VecDeque<(Staged, Receiver<Result<(), String>>)>,
    // Why the first that failed has failed. Those behind it are not durable either.
    failed: Option<String>,
}

fn poisoned(cause: String) -> Error {
    Error::Poisoned {
        path: "the log".into(),
        cause,
    }
}

impl PeerStorage {
    /// Hands in everything of a Ready that raft wants durable, as the config's `persistence` says: with
    /// `disk_first` it is durable on return; with `mem_first` it can be read on return, a worker writes
    /// it, and the ticket answers when it is durable. Either way go on with
    /// `RawNode::advance_append_async`; when the ticket has answered, call
    /// [`PeerStorage::poll_durable`], then `RawNode::on_persist_ready`, and send the persisted messages.
    /// Nobody may be told of an entry before that.
    ///
    /// A Ready with a snapshot is durable on return with both.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use peerstore::{CompositeStorage, Config, Region};
    /// # let dir = tempfile::tempdir()?;
    /// let node = CompositeStorage::open(dir.path(), Config::from_yaml_str("persistence: mem_first")?)?;
    /// let storage = node.create_region(&Region::single(1, 1))?;
    /// let mut raft = raft::RawNode::new(&storage.raft_config(), storage, &peerstore::raft_logger())?;
    /// raft.campaign()?;
    /// let mut ready = raft.ready();
    /// let number = ready.number();
    /// let ticket = raft.mut_store().submit(&mut ready)?;
    /// raft.advance_append_async(ready);
    /// ticket.wait(Duration::from_secs(10))?;
    /// assert_eq!(raft.mut_store().poll_durable()?, 6);
    /// raft.on_persist_ready(number);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`PeerStorage::persist`]; then nothing has changed.
    pub fn submit(&mut self, ready: &mut Ready) -> Result<Ticket<()>> {
        if self.writes_first() || !ready.snapshot().is_empty() {
            return self.persist(ready).map(|()| Ticket::answered(Ok(())));
        }
        self.keep_up();
        let mut batch = LogBatch::default();
        let staged = self.stage(ready, &mut batch)?;
        Ok(self.write_behind(staged, batch))
    }

    /// The same for entries, as [`PeerStorage::append`] takes them.
    ///
    /// # Errors
    /// As [`PeerStorage::append`]; then nothing has changed.
    pub fn submit_append(&mut self, entries: &[Entry]) -> Result<Ticket<()>> {
        if self.writes_first() {
            return self.append(entries).map(|()| Ticket::answered(Ok(())));
        }
        self.keep_up();
        let mut batch = LogBatch::default();
        let staged = self.stage_append(entries, &mut batch)?;
        Ok(self.write_behind(staged, batch))
    }

    /// Every entry up to here is durable: what may be acknowledged. As of the last
    /// [`PeerStorage::poll_durable`]; entries behind it can be read, and a power cut takes them.
    pub fn durable_index(&self) -> u64 {
        self.persisted_index()
    }

    /// Takes in which of the submitted writes have become durable, and returns the durable index.
    ///
    /// # Errors
    /// `Poisoned` once a write has failed: what was submitted with it and behind it never becomes durable,
    /// and the region has to be opened again.
    pub fn poll_durable(&mut self) -> Result<u64> {
        self.take_written(None)
    }

    /// Waits until everything that was submitted is durable, and returns the durable index.
    ///
    /// # Errors
    /// As [`PeerStorage::poll_durable`]; `Timeout`.
    pub fn flush(&mut self, timeout: Duration) -> Result<u64> {
        self.take_written(Some(timeout))
    }

    fn take_written(&mut self, wait: Option<Duration>) -> Result<u64> {
        let now = self.engines.clock.now();
        let deadline = wait.map(|timeout| now + timeout.min(PAUSE_MAX));
        while self.behind.failed.is_none()
            && let Some((_, reply)) = self.behind.writes.front()
        {
            let left = match deadline {
                None => Duration::ZERO,
                Some(deadline) => deadline.saturating_sub(self.engines.clock.now()),
            };
            match reply.recv_timeout(left) {
                Ok(Ok(())) => {
                    if let Some((staged, _)) = self.behind.writes.pop_front() {
                        self.persisted(staged)?;
                    }
                }
                Ok(Err(cause)) => self.behind.failed = Some(cause),
                Err(RecvTimeoutError::Disconnected) => {
                    self.behind.failed = Some("the node was shut down".into());
                }
                Err(RecvTimeoutError::Timeout) => {
                    let Some(timeout) = wait else { break };
                    let (what, limit_ms) = ("the write", timeout.as_millis() as u64);
                    return Err(Error::Timeout { what, limit_ms });
                }
            }
        }
        match &self.behind.failed {
            None => Ok(self.durable_index()),
            Some(cause) => Err(poisoned(cause.clone())),
        }
    }

    fn writes_first(&self) -> bool {
        self.engines.options.persistence == PersistenceStrategy::DiskFirst
    }

    fn write_behind(&mut self, staged: Staged, batch: LogBatch) -> Ticket<()> {
        let (ticket, done) = Ticket::new();
        let (reply, written) = crossbeam_channel::bounded(1);
        let task = BehindTask {
            region: self.region_id(),
            batch,
            reply,
            done,
        };
        // Without a worker the node is going down, and the ticket says so.
        let _ = self.engines.tasks.behind.send(task);
        self.behind.writes.push_back((staged, written));
        ticket
    }
}
