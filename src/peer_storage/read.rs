//! `raft::Storage`: what raft-rs reads. Uses: raft_log, entry_cache, fetch.
//!
//! raft 0.7.0 panics on any error that it does not know, and in contexts that cannot wait on any error
//! at all. So a read fails only where the stored bytes are damaged; the states were checked at open.

use std::time::Duration;

use raft::eraftpb::{Entry, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage};

use super::fetch::{FetchAnswer, Wanted};
use super::{PeerStorage, shown};
use crate::error::{Error, Result};
use crate::types::LogPosition;

impl Storage for PeerStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let hard_state = self.raft_state.hard_state.clone();
        Ok(RaftState::new(hard_state, self.conf_state().clone()))
    }

    /// The entries of `[low, high)`, cut by size but at least one.
    ///
    /// # Panics
    /// As the trait says: if `high` is beyond `last_index + 1`.
    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        Ok(self.read_entries(low, high, bytes_max, context)?)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        Ok(self.term_of(index)?)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.log_first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.log_last())
    }

    /// The snapshot, or `SnapshotTemporarilyUnavailable` while a worker builds it.
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        Ok(self.answer_snapshot(request_index)?)
    }
}

impl PeerStorage {
    /// The term of the entry at `index`, for `first_index - 1 ..= last_index`. From memory, except for
    /// old entries after an open: those are looked up in the log, once.
    pub(crate) fn term_of(&self, index: u64) -> Result<u64> {
        let region = self.region_id();
        if index == self.truncated_index() {
            return Ok(self.truncated_term());
        }
        let first_index = self.log_first();
        if index < first_index {
            return Err(Error::Compacted {
                region,
                index,
                first_index,
            });
        }
        let last_index = self.log_last();
        if index > last_index {
            return Err(Error::Unavailable {
                region,
                index,
                last_index,
            });
        }
        if let Some(term) = self.terms.borrow().term(index) {
            return Ok(term);
        }
        let entry = self.engines.log.read_entry(region, index)?;
        let term = entry.ok_or_else(|| self.missing_entry(index))?.term;
        self.terms.borrow_mut().learn(LogPosition::new(term, index));
        Ok(term)
    }

    fn missing_entry(&self, index: u64) -> Error {
        let detail = format!(
            "missing, though the log is [{}, {}]",
            self.log_first(),
            self.log_last()
        );
        Error::corruption(Some(self.region_id()), format!("entry {index}"), detail)
    }

    fn read_entries(
        &self,
        low: u64,
        high: u64,
        bytes_max: u64,
        context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        let first_index = self.log_first();
        if low < first_index {
            return Err(Error::Compacted {
                region: self.region_id(),
                index: low,
                first_index,
            });
        }
        let last_index = self.log_last();
        assert!(
            high <= last_index + 1,
            "entries {}: the log ends at {last_index}",
            shown(&(low..high))
        );
        if low >= high {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.cache.entries(low, high, bytes_max) {
            return Ok(entries);
        }
        // The cache reaches to the end of the log, so what is below it is in the log store.
        let cold = low..self.cache.first_index().unwrap_or(high).min(high);
        let can_async = context.can_async();
        let mut entries = if can_async {
            self.fetch_cold(&cold, bytes_max, context)?
        } else {
            (self.engines.log).read_entries(self.region_id(), cold.clone(), bytes_max)?
        };
        if entries.len() as u64 == cold.end - cold.start && cold.end < high {
            let warm = match self.cache.entries(cold.end, high, bytes_max) {
                Some(warm) => warm,
                // They left the cache meanwhile. Who can wait asks again for what is missing; who
                // cannot relies on getting everything: raft looks for configuration changes in it.
                None if can_async => Vec::new(),
                None => {
                    (self.engines.log).read_entries(self.region_id(), cold.end..high, bytes_max)?
                }
            };
            entries.extend(warm);
            raft::util::limit_size(&mut entries, Some(bytes_max));
        }
        Ok(entries)
    }

    /// Asks the worker. In the contexts that may wait, `Compacted` makes a leader send a snapshot
    /// instead: so damaged entries do not end the process, and the follower is served all the same.
    fn fetch_cold(
        &self,
        cold: &std::ops::Range<u64>,
        bytes_max: u64,
        context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        let region = self.region_id();
        let wanted = Wanted {
            region,
            low: cold.start,
            high: cold.end,
            bytes_max,
        };
        let worker = &self.engines.tasks.fetch;
        let mut fetches = self.fetches.borrow_mut();
        let answer = fetches.get_or_insert_default().ask(wanted, context, worker);
        let failed = match answer {
            FetchAnswer::Entries(entries) => return Ok(entries),
            FetchAnswer::Later => {
                let index = cold.start;
                return Err(Error::LogTemporarilyUnavailable { region, index });
            }
            FetchAnswer::ReadHere => {
                match (self.engines.log).read_entries(region, cold.clone(), bytes_max) {
                    Ok(entries) => return Ok(entries),
                    Err(error) => error,
                }
            }
            FetchAnswer::Failed(error) => error,
        };
        tracing::error!(%region, error = %failed, "cold entries unreadable; a snapshot is sent instead");
        Err(Error::Compacted {
            region,
            index: cold.start,
            first_index: self.log_first(),
        })
    }

    /// The contexts of `entries()` calls that got `LogTemporarilyUnavailable` and whose entries have
    /// arrived. Give each to `RawNode::on_entries_fetched`; raft then asks again. Never waits.
    pub fn take_fetched(&self) -> Vec<GetEntriesContext> {
        match self.fetches.borrow_mut().as_mut() {
            Some(fetches) => fetches.collect(None),
            None => Vec::new(),
        }
    }

    /// As [`PeerStorage::take_fetched`], but waits up to `timeout` for the first, if any is expected.
    pub fn wait_fetched(&self, timeout: Duration) -> Vec<GetEntriesContext> {
        match self.fetches.borrow_mut().as_mut() {
            Some(fetches) if fetches.in_flight() => fetches.collect(Some(timeout)),
            Some(fetches) => fetches.collect(None),
            None => Vec::new(),
        }
    }

    /// Drops what was fetched and not asked for again: the peer is no longer leader.
    pub fn drop_fetched(&self) {
        if let Some(fetches) = self.fetches.borrow_mut().as_mut() {
            fetches.drop_results();
        }
    }
}
