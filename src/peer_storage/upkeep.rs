//! What a region does of its own accord: a snapshot every so many entries, and behind it the front of the
//! log. Uses: coordinated, the seams. Never waits for a disk: the worker does.
//!
//! | step | where | what becomes durable |
//! |---|---|---|
//! | a snapshot of what is applied | worker | the file, then its record, and with it the data |
//! | the truncated state | with the owner's next write | nothing yet |
//! | sync of the data | worker | the truncated state |
//! | removal of the entries | with the owner's next write | nothing: entries that come back are never read (rule 17) |
//!
//! async-raft's `SnapshotPolicy::LogsSinceLast` and its rule, that a snapshot's position is the last one
//! applied in the view that is exported, not one that somebody chose.

use std::sync::Arc;

use crossbeam_channel::{Receiver, TryRecvError};

use super::PeerStorage;
use super::coordinated::{MakeTask, SnapshotMaker};
use super::snapshot::{SnapshotTask, SyncTask};
use super::snapshot_content::Cancel;
use crate::app_store::{AppBatch, Keyspace};
use crate::error::Result;
use crate::keys::region_key;
use crate::proto::PeerState;
use crate::raft_log::LogBatch;
use crate::snapshot_store::SnapshotInfo;
use crate::types::{Durability, LogPosition};

/// When a region makes a snapshot of its own accord. Each limit that is not 0 holds by itself.
///
/// ```
/// use peerstore::SnapshotPolicy;
/// let policy = SnapshotPolicy::logs_since_last(5_000);
/// assert!(policy.is_due(5_000, 0) && !policy.is_due(4_999, u64::MAX));
/// assert!(!SnapshotPolicy::never().is_due(u64::MAX, u64::MAX));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// So many applied entries after the last one; 0 for never.
    pub entries: u64,
    /// So many bytes of them, about; 0 for never.
    pub bytes: u64,
}

impl SnapshotPolicy {
    /// Never.
    pub fn never() -> Self {
        SnapshotPolicy::default()
    }

    /// After `entries` applied entries.
    pub fn logs_since_last(entries: u64) -> Self {
        SnapshotPolicy { entries, bytes: 0 }
    }

    /// Whether there are ever any.
    pub fn is_never(&self) -> bool {
        *self == SnapshotPolicy::never()
    }

    /// Whether one is due when so much was applied since the last.
    pub fn is_due(&self, entries: u64, bytes: u64) -> bool {
        self.entries > 0 && entries >= self.entries || self.bytes > 0 && bytes >= self.bytes
    }
}

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    making: Option<Making>,
    syncing: Option<Syncing>,
    // The applied index of the last try, so that one that fails is not tried again at once.
    tried: u64,
}

#[derive(Debug)]
struct Making {
    cancel: Arc<Cancel>,
    reply: Receiver<Result<SnapshotInfo>>,
}

/// What is being made ends with its region.
impl Drop for Making {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[derive(Debug)]
struct Syncing {
    // Below it everything may go once the data is durable.
    first_index: u64,
    reply: Receiver<Result<()>>,
}

impl PeerStorage {
    /// The index that the last snapshot which the region keeps covers; 0 without one.
    pub fn kept_snapshot_index(&self) -> u64 {
        let kept = self.engines.tasks.needed.kept(self.region_id());
        kept.map_or(0, |key| key.id.index)
    }

    /// Takes in what the worker has done, and has it make a snapshot if the policy asks for one.
    /// [`PeerStorage::apply`] does that by itself; a driver that applies elsewhere calls it now and then.
    ///
    /// # Errors
    /// Those of the stores.
    pub fn snapshot_by_policy(&mut self) -> Result<()> {
        self.poll_making();
        let policy = self.engines.options.snapshot_policy;
        if policy.is_never()
            || self.upkeep.making.is_some()
            || self.region_state.state != PeerState::Normal
        {
            return Ok(());
        }
        let applied = self.applied_index();
        let last = self.kept_snapshot_index().max(self.truncated_index());
        let entries = applied.saturating_sub(last.max(self.upkeep.tried));
        let bytes = match policy.bytes {
            0 => 0,
            // About: as if all entries had one size.
            _ => self.log_bytes()? / (applied + 1 - self.log_first()).max(1) * entries,
        };
        if !policy.is_due(entries, bytes) {
            return Ok(());
        }
        self.upkeep.tried = applied;
        let (reply, receiver) = crossbeam_channel::bounded(1);
        let cancel = Arc::new(Cancel::default());
        let task = MakeTask {
            maker: SnapshotMaker::new(&self.engines),
            region: self.region_id(),
            view: self.engines.app.view()?,
            cancel: Arc::clone(&cancel),
            reply,
        };
        // Without a worker the node is going down.
        let _ = (self.engines.tasks.snapshot).send(SnapshotTask::Make(Box::new(task)));
        self.engines.clean_up_snapshots();
        self.upkeep.making = Some(Making {
            cancel,
            reply: receiver,
        });
        Ok(())
    }

    fn poll_making(&mut self) {
        let Some(making) = &self.upkeep.making else {
            return;
        };
        match making.reply.try_recv() {
            Err(TryRecvError::Empty) => return,
            Ok(Ok(_)) | Err(TryRecvError::Disconnected) => {}
            Ok(Err(error)) => {
                let region = self.region_id();
                tracing::warn!(%region, %error, "snapshot by policy not made");
            }
        }
        self.upkeep.making = None;
    }

    /// Where the log may start behind the snapshot that is kept, if that is further on than it does: the
    /// trailing entries stay.
    fn truncated_by_snapshot(&self) -> Result<Option<LogPosition>> {
        let covered = self.kept_snapshot_index();
        let keep = (covered + 1).saturating_sub(self.engines.options.gc.entries_trailing);
        // One that is not this log's own: it may lie behind its end.
        if covered > self.applied_index() || covered == 0 {
            return Ok(None);
        }
        self.truncated_at(keep)
    }

    /// Makes the log start behind the kept snapshot, and asks for the sync without which its entries must
    /// not go. A crash before it finds the log as long as it was.
    fn truncate_behind_snapshot(&mut self) -> Result<()> {
        if self.upkeep.syncing.is_some() {
            return Ok(());
        }
        let Some(truncated) = self.truncated_by_snapshot()? else {
            return Ok(());
        };
        let mut state = self.apply_state().clone();
        state.truncated_state = truncated.into();
        let mut batch = AppBatch::new();
        let key = region_key(self.region_id());
        batch.put(Keyspace::ApplyState, key, state.encode_to_vec());
        self.engines.app.write(&batch, Durability::Buffered)?;
        self.accept_truncated(state);
        self.recheck_snapshot();
        self.assert_invariants();
        let (reply, receiver) = crossbeam_channel::bounded(1);
        let task = SyncTask {
            region: self.region_id(),
            app: Arc::clone(&self.engines.app),
            reply,
        };
        // Without a worker the node is going down; the next compaction removes them.
        let _ = self.engines.tasks.snapshot.send(SnapshotTask::Sync(task));
        self.upkeep.syncing = Some(Syncing {
            first_index: truncated.index + 1,
            reply: receiver,
        });
        Ok(())
    }

    /// Removes the entries whose truncated state has become durable.
    fn poll_syncing(&mut self) -> Result<()> {
        let Some(syncing) = &self.upkeep.syncing else {
            return Ok(());
        };
        let first_index = match syncing.reply.try_recv() {
            Err(TryRecvError::Empty) => return Ok(()),
            Ok(Ok(())) => Some(syncing.first_index),
            // What has failed there fails the next write too, with the reason.
            Ok(Err(_)) | Err(TryRecvError::Disconnected) => None,
        };
        self.upkeep.syncing = None;
        let Some(first_index) = first_index else {
            return Ok(());
        };
        let (mut batch, log_start) = (LogBatch::default(), self.log_start);
        self.stage_removal_to(first_index, &mut batch);
        let removed = self.engines.log.write(&batch, Durability::Buffered);
        if removed.is_err() {
            self.log_start = log_start;
        }
        removed
    }

    /// What can be done now of all that. A failure is for the log of the program: what the caller has
    /// written is written.
    pub(super) fn keep_up(&mut self) {
        if self.region_state.state != PeerState::Normal {
            return;
        }
        let done = (self.poll_syncing())
            .and_then(|()| self.snapshot_by_policy())
            .and_then(|()| self.truncate_behind_snapshot());
        if let Err(error) = done {
            let region = self.region_id();
            tracing::warn!(%region, %error, "the front of the log was not dropped");
        }
    }

    /// Drops the front of the log that the kept snapshot covers, now, and durably.
    ///
    /// # Errors
    /// As [`PeerStorage::compact`].
    pub(crate) fn compact_behind_snapshot(&mut self) -> Result<()> {
        match self.truncated_by_snapshot()? {
            Some(truncated) => self.compact(truncated.index + 1),
            None => Ok(()),
        }
    }
}
