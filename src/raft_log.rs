//! The seam under which the logs of all regions of a node are kept. Uses: types, proto, error.

use std::ops::Range;

use raft::eraftpb::Entry;

use crate::error::Result;
use crate::proto::RaftLocalState;
use crate::types::{Durability, RegionId};

/// The logs and raft states of every region of a node, in one store with one fsync.
///
/// # Contract
/// - A [`LogBatch`] is written whole or not at all, also across a power cut.
/// - [`Durability::Synced`] returns after the medium has it. Concurrent callers may share an fsync.
/// - After a failed write or fsync every later write fails with `Poisoned` until the store is opened
///   again; reads go on.
/// - Reads see every batch whose `write` has returned. No read holds a lock across I/O.
/// - Entries come back with every field that was written, and in order.
/// - A region's entries are contiguous; the caller sees to that, a store may rely on it.
pub trait RaftLogStorage: Send + Sync {
    /// Writes `batch`, its operations in their order, all or nothing. An empty batch does nothing
    /// and does not sync.
    ///
    /// # Errors
    /// `DiskFull`, `Io` or `Engine` if it was refused, `Poisoned` after an earlier failure.
    fn write(&self, batch: &LogBatch, durability: Durability) -> Result<()>;

    /// The entries of `[range.start, range.end)`, cut after the first entries whose sizes (as
    /// protobuf messages) reach `bytes_max`, but at least one if the range is not empty.
    ///
    /// # Errors
    /// `Corruption` if an entry of the range, before the cut, is missing or does not decode.
    fn read_entries(
        &self,
        region: RegionId,
        range: Range<u64>,
        bytes_max: u64,
    ) -> Result<Vec<Entry>>;

    /// One entry, or nothing if the log does not hold it.
    ///
    /// # Errors
    /// `Corruption` if it does not decode.
    fn read_entry(&self, region: RegionId, index: u64) -> Result<Option<Entry>>;

    /// The last written raft state of `region`, if it has one.
    ///
    /// # Errors
    /// `Corruption` if it does not decode.
    fn read_state(&self, region: RegionId) -> Result<Option<RaftLocalState>>;

    /// Every region that has a state or an entry, in ascending order.
    ///
    /// # Errors
    /// Those of the store's reads.
    fn regions(&self) -> Result<Vec<RegionId>>;

    /// About how many bytes the entries of `[range.start, range.end)` take on disk. May leave out
    /// what was written last.
    ///
    /// # Errors
    /// Those of the store's reads.
    fn approximate_bytes(&self, region: RegionId, range: Range<u64>) -> Result<u64>;

    /// Makes everything that was written before durable.
    ///
    /// # Errors
    /// As [`RaftLogStorage::write`].
    fn sync(&self) -> Result<()>;

    /// What the store has done since it was opened.
    fn stats(&self) -> LogStats;

    /// What is wrong with the store as far as it knows by itself, beside what its calls answer, if
    /// anything is: for a check of the health.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// What the store takes on disk, where it keeps segments of its own.
    fn usage(&self) -> LogUsage {
        LogUsage::default()
    }
}

/// What a log store that keeps segments of its own takes on disk; all 0 for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogUsage {
    /// Segments in use.
    pub segments: u64,
    /// The bytes of their files.
    pub disk_bytes: u64,
    /// What of them is still needed, in bytes.
    pub live_bytes: u64,
    /// Segments in reserve.
    pub spare_segments: u64,
    /// How many there should be.
    pub spare_segments_wanted: u64,
    /// The bytes of entries that were copied out of nearly dead segments since it was opened.
    pub copied_bytes: u64,
}

/// What a log store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Batches written.
    pub writes: u64,
    /// fsyncs issued for them.
    pub syncs: u64,
    /// Entries written.
    pub entries: u64,
    /// Bytes of keys and values written.
    pub bytes: u64,
}

/// One operation of a [`LogBatch`].
#[derive(Clone, Debug, PartialEq)]
pub enum LogOp {
    /// Puts entries; one that is there already is overwritten, nothing behind the last is removed.
    Append {
        /// The region.
        region: RegionId,
        /// Contiguous, ascending, not empty.
        entries: Vec<Entry>,
    },
    /// Removes the entries of `[range.start, range.end)`: the front of a log or its tail, never its
    /// middle. A start of 0 is fine where the first index is not known.
    Remove {
        /// The region.
        region: RegionId,
        /// Half-open.
        range: Range<u64>,
    },
    /// Puts the raft state.
    State {
        /// The region.
        region: RegionId,
        /// The state.
        state: RaftLocalState,
    },
    /// Removes every entry and the state.
    Clear {
        /// The region.
        region: RegionId,
    },
}

/// Writes for many regions that become durable together: all of them or none.
///
/// ```
/// use peerstore::{LogBatch, RaftLocalState};
/// let mut batch = LogBatch::default();
/// batch.state(1.into(), RaftLocalState::default());
/// batch.remove(2.into(), 0..10);
/// assert_eq!(batch.ops().len(), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogBatch {
    ops: Vec<LogOp>,
    must_sync: bool,
}

impl LogBatch {
    /// An empty batch.
    pub fn new() -> Self {
        LogBatch::default()
    }

    /// Puts `entries`: contiguous and ascending. None does nothing.
    pub fn append(&mut self, region: RegionId, entries: Vec<Entry>) {
        if !entries.is_empty() {
            self.ops.push(LogOp::Append { region, entries });
        }
    }

    /// Removes `[range.start, range.end)`, a front or a tail of the log. An empty range does nothing.
    pub fn remove(&mut self, region: RegionId, range: Range<u64>) {
        if !range.is_empty() {
            self.ops.push(LogOp::Remove { region, range });
        }
    }

    /// Puts the raft state.
    pub fn state(&mut self, region: RegionId, state: RaftLocalState) {
        self.ops.push(LogOp::State { region, state });
    }

    /// Removes everything of `region`.
    pub fn clear_region(&mut self, region: RegionId) {
        self.ops.push(LogOp::Clear { region });
    }

    /// Says that somebody will be answered because of this batch, so it needs an fsync.
    pub fn require_sync(&mut self) {
        self.must_sync = true;
    }

    /// What the batch needs: `Synced` after [`LogBatch::require_sync`]; a batch that only moves
    /// commits forward can do without.
    pub fn durability(&self) -> Durability {
        if self.must_sync {
            Durability::Synced
        } else {
            Durability::Buffered
        }
    }

    /// The operations, in order.
    pub fn ops(&self) -> &[LogOp] {
        &self.ops
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// How many entries it puts.
    pub fn entry_count(&self) -> u64 {
        let count = |op: &LogOp| match op {
            LogOp::Append { entries, .. } => entries.len() as u64,
            _ => 0,
        };
        self.ops.iter().map(count).sum()
    }

    /// Adds what `other` holds, behind what is here.
    pub fn merge(&mut self, other: LogBatch) {
        self.must_sync |= other.must_sync;
        match self.ops.is_empty() {
            true => self.ops = other.ops,
            false => self.ops.extend(other.ops),
        }
    }

    /// Empties it, to be filled again.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.must_sync = false;
    }
}
