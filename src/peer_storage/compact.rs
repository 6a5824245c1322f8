//! The front of the log goes: first the truncated state, then memory, then the entries. Uses: raft_log,
//! app_store.

use std::ops::Range;

use super::PeerStorage;
use super::coordinated::Counts;
use crate::app_store::{AppBatch, Keyspace};
use crate::error::{Error, Result};
use crate::keys::region_key;
use crate::proto::{PeerState, RaftApplyState};
use crate::raft_log::LogBatch;
use crate::types::{Durability, LogPosition};

impl PeerStorage {
    /// Drops the entries below `first_index`; the term of the last one dropped stays known. Compacting
    /// at or below the present first index does nothing. As with `MemStorage`, the caller answers for
    /// it that the state machine has what is dropped: applied and commit move along if they were
    /// behind.
    ///
    /// # Errors
    /// `Unavailable` if `first_index` is beyond `last_index + 1`, or not all of it is durable yet.
    pub fn compact(&mut self, first_index: u64) -> Result<()> {
        self.check_writable("compact")?;
        let Some(truncated) = self.truncated_at(first_index)? else {
            return Ok(());
        };
        let dropped = truncated.index;
        self.reach_term(truncated.term)?;
        let mut apply_state = self.apply_state.clone();
        apply_state.truncated_state = truncated.into();
        if apply_state.applied_index < dropped {
            apply_state.applied_index = dropped;
        }
        if apply_state.commit_index < dropped {
            (apply_state.commit_index, apply_state.commit_term) = (dropped, truncated.term);
        }
        // The truncated state is durable before an entry goes: the other way round, a crash between
        // the two would leave a log without its beginning.
        let mut batch = AppBatch::default();
        let key = region_key(self.region_id());
        batch.put(Keyspace::ApplyState, key, apply_state.encode_to_vec());
        (self.engines.app).write(&batch, self.engines.options.durability)?;
        self.accept_truncated(apply_state);
        self.recheck_snapshot();
        self.assert_invariants();

        let (mut batch, log_start) = (LogBatch::default(), self.log_start);
        self.stage_removal(&mut batch);
        let removed = self.engines.log.write(&batch, Durability::Buffered);
        if removed.is_err() {
            self.log_start = log_start;
        }
        removed
    }

    /// The truncated position with which the log starts at `first_index`; None if it does already, or
    /// further on.
    ///
    /// # Errors
    /// `Unavailable` if not all of what would be dropped is durable.
    pub(crate) fn truncated_at(&self, first_index: u64) -> Result<Option<LogPosition>> {
        if first_index <= self.log_first() {
            return Ok(None);
        }
        let index = first_index - 1;
        if index > self.persisted {
            return Err(Error::Unavailable {
                region: self.region_id(),
                index,
                last_index: self.persisted,
            });
        }
        Ok(Some(LogPosition::new(self.term_of(index)?, index)))
    }

    /// Makes an apply state true in memory, and drops from there what lies below its truncated index.
    pub(super) fn accept_truncated(&mut self, state: RaftApplyState) {
        let truncated = state.truncated();
        if truncated.index == self.truncated_index() {
            return self.accept_apply_state(state);
        }
        let first_index = truncated.index + 1;
        let before = self.log_last() + 1 - self.log_first();
        let kept = self.log_last() - truncated.index;
        Counts::add(&self.engines.tasks.needed.counts().log_compactions);
        self.log_bytes.get_mut().shrink(kept, before);
        self.accept_apply_state(state);
        let terms = self.terms.get_mut();
        terms.compact_to(truncated.index);
        terms.learn(truncated);
        self.cache.compact_to(first_index);
        if let Some(fetches) = self.fetches.get_mut() {
            fetches.compact_to(first_index);
        }
    }

    /// The indexes `[low, high)` below first_index that the log store may still hold, if there are any;
    /// after an open that is not known, so `low` is 0.
    pub(crate) fn removable(&self) -> Option<Range<u64>> {
        let range = self.log_start..self.log_first();
        let is_free = self.region_state.state != PeerState::Applying;
        (is_free && !range.is_empty()).then_some(range)
    }

    /// Puts their removal into `batch`, once: they are not removable any more then. The truncated state
    /// must be durable before the batch is written (rule 17): sync the data store first, for one region
    /// or for many. The removal itself needs no sync; entries that a power cut brings back are never
    /// read, and go with the next compaction.
    pub(crate) fn stage_removal(&mut self, batch: &mut LogBatch) {
        self.stage_removal_to(self.log_first(), batch);
    }

    /// The same for what lies below `first_index` only: a truncated state may be known that is not
    /// durable yet.
    pub(crate) fn stage_removal_to(&mut self, first_index: u64, batch: &mut LogBatch) {
        if let Some(range) = self.removable()
            && range.start < first_index.min(range.end)
        {
            let range = range.start..first_index.min(range.end);
            self.log_start = range.end;
            // Where the log began is not known after an open: what was there before is not counted.
            if range.start > 0 {
                self.engines.metrics.compacted(range.end - range.start);
            }
            batch.remove(self.region_id(), range);
        }
    }
}
