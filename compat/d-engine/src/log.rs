//! d-engine's storage engine: the entries and the hard state of one raft group.

use std::ops::RangeInclusive;
use std::sync::Arc;

use async_trait::async_trait;
use d_engine_core::{Error, HardState, LogStore, MetaStore, StorageEngine};
use d_engine_proto::common::{Entry, LogId};

use crate::raft_state::RaftState;

/// The log and the hard state of one raft group, in the log store of a node.
#[derive(Debug)]
pub struct PeerstoreEngine {
    log: Arc<PeerstoreLog>,
    meta: Arc<PeerstoreMeta>,
}

impl PeerstoreEngine {
    pub(crate) fn new(state: Arc<RaftState>) -> Self {
        PeerstoreEngine {
            log: Arc::new(PeerstoreLog(Arc::clone(&state))),
            meta: Arc::new(PeerstoreMeta(state)),
        }
    }
}

impl StorageEngine for PeerstoreEngine {
    type LogStore = PeerstoreLog;
    type MetaStore = PeerstoreMeta;

    fn log_store(&self) -> Arc<PeerstoreLog> {
        Arc::clone(&self.log)
    }

    fn meta_store(&self) -> Arc<PeerstoreMeta> {
        Arc::clone(&self.meta)
    }
}

/// The entries. Each call is one batch of the log store: all of it is there after a crash, or none.
///
/// It blocks where it writes, as d-engine expects: its log has a thread of its own.
#[derive(Debug)]
pub struct PeerstoreLog(Arc<RaftState>);

#[async_trait]
impl LogStore for PeerstoreLog {
    /// Durable on return with [`Persistence::DiskFirst`](crate::Persistence::DiskFirst), else with the
    /// next flush.
    async fn persist_entries(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.0.persist(entries)
    }

    async fn entry(&self, index: u64) -> Result<Option<Entry>, Error> {
        let mut entries = self.0.entries(index..index.saturating_add(1))?;
        Ok(entries.pop())
    }

    fn get_entries(&self, range: RangeInclusive<u64>) -> Result<Vec<Entry>, Error> {
        let (start, last) = range.into_inner();
        self.0.entries(start..last.saturating_add(1))
    }

    async fn purge(&self, cutoff_index: LogId) -> Result<(), Error> {
        self.0.purge(cutoff_index)
    }

    async fn truncate(&self, from_index: u64) -> Result<(), Error> {
        self.0.truncate(from_index)
    }

    async fn replace_range(&self, from_index: u64, new_entries: Vec<Entry>) -> Result<(), Error> {
        self.0.replace(from_index, new_entries)
    }

    fn is_write_durable(&self) -> bool {
        self.0.is_durable()
    }

    fn flush(&self) -> Result<(), Error> {
        self.0.flush()
    }

    async fn flush_async(&self) -> Result<(), Error> {
        self.0.flush()
    }

    async fn reset(&self) -> Result<(), Error> {
        self.0.reset()
    }

    fn last_index(&self) -> u64 {
        self.0.last_index()
    }

    fn load_purge_boundary(&self) -> Result<Option<LogId>, Error> {
        Ok(self.0.purged())
    }
}

/// The hard state. A vote is durable on return, whatever the persistence of entries.
#[derive(Debug)]
pub struct PeerstoreMeta(Arc<RaftState>);

#[async_trait]
impl MetaStore for PeerstoreMeta {
    fn save_hard_state(&self, state: &HardState) -> Result<(), Error> {
        self.0.save_hard_state(state)
    }

    fn load_hard_state(&self) -> Result<Option<HardState>, Error> {
        Ok(self.0.hard_state())
    }

    fn flush(&self) -> Result<(), Error> {
        self.0.flush()
    }

    async fn flush_async(&self) -> Result<(), Error> {
        self.0.flush()
    }
}
