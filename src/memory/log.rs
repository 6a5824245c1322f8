//! The logs of all regions, in memory. Uses: raft_log, memory::journal. Never does I/O.

use std::collections::BTreeMap;
use std::ops::Range;

use protobuf::Message as _;
use raft::eraftpb::Entry;

use crate::error::{Error, Result};
use crate::keys::LOG_KEY_BYTES;
use crate::proto::RaftLocalState;
use crate::raft_log::{LogBatch, LogOp, LogStats, RaftLogStorage};
use crate::types::{Durability, RegionId};

use super::journal::{Image, Journal, WriteFault};

/// A [`RaftLogStorage`] for tests, with power cuts and failing writes.
///
/// Every batch is held twice, as written and as synced, and a batch that is not synced a third
/// time, until the next sync.
///
/// ```
/// use peerstore::memory::MemoryLog;
/// use peerstore::{Durability, LogBatch, RaftLocalState, RaftLogStorage};
/// # fn main() -> peerstore::Result<()> {
/// let log = MemoryLog::new();
/// let mut batch = LogBatch::default();
/// batch.state(1.into(), RaftLocalState::default());
/// log.write(&batch, Durability::Buffered)?;
/// assert!(log.crash_copy(0).regions()?.is_empty());
/// log.sync()?;
/// assert_eq!(log.crash_copy(0).regions()?, [1.into()]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MemoryLog {
    journal: Journal<Logs>,
    entries_max: Option<u64>,
}

/// Invariant: no region is empty.
#[derive(Clone, Debug, Default)]
struct Logs(BTreeMap<RegionId, RegionLog>);

#[derive(Clone, Debug, Default)]
struct RegionLog {
    entries: BTreeMap<u64, Entry>,
    state: Option<RaftLocalState>,
}

impl MemoryLog {
    /// An empty store.
    pub fn new() -> Self {
        MemoryLog {
            journal: Journal::new("memory log"),
            entries_max: None,
        }
    }

    /// An empty store that holds at most so many entries, of all regions together: a write of more is
    /// refused with `StoreFull`, and changes nothing.
    pub fn with_entries_max(entries_max: u64) -> Self {
        MemoryLog {
            entries_max: Some(entries_max),
            ..MemoryLog::new()
        }
    }

    /// The store as it is after a power cut now, of which the first `kept` batches of
    /// [`MemoryLog::unsynced`] were spared: 0 is the worst, `usize::MAX` is the death of the process
    /// alone. The copy is not poisoned; this store is not changed.
    pub fn crash_copy(&self, kept: usize) -> Self {
        MemoryLog {
            journal: self.journal.crash_copy(kept),
            entries_max: self.entries_max,
        }
    }

    /// How many batches a power cut could take away.
    pub fn unsynced(&self) -> usize {
        self.journal.unsynced()
    }

    /// Lets the next write or fsync fail, which poisons the store.
    pub fn fail_next_write(&self, fault: WriteFault) {
        self.journal.fail_next_write(fault);
    }
}

impl Default for MemoryLog {
    fn default() -> Self {
        MemoryLog::new()
    }
}

impl Image for Logs {
    type Batch = LogBatch;

    fn apply(&mut self, batch: &LogBatch) {
        for op in batch.ops() {
            match op {
                LogOp::Append { region, entries } => {
                    let log = self.0.entry(*region).or_default();
                    log.entries
                        .extend(entries.iter().map(|e| (e.index, e.clone())));
                }
                LogOp::Remove { region, range } => self.remove(*region, range),
                LogOp::State { region, state } => {
                    self.0.entry(*region).or_default().state = Some(state.clone());
                }
                LogOp::Clear { region } => {
                    self.0.remove(region);
                }
            }
        }
    }
}

impl Logs {
    fn count(&self) -> u64 {
        self.0.values().map(|log| log.entries.len() as u64).sum()
    }

    /// How many entries there are when `batch` is written. What it overwrites and removes makes room.
    fn count_after(&self, batch: &LogBatch) -> u64 {
        if (batch.ops().iter()).any(|op| matches!(op, LogOp::Clear { .. })) {
            // Rare, and what comes behind it depends on it.
            let mut next = self.clone();
            next.apply(batch);
            return next.count();
        }
        let (mut added, mut removed) = (0, 0);
        for op in batch.ops() {
            match op {
                LogOp::Append { region, entries } => {
                    let first = entries.first().map_or(0, |entry| entry.index);
                    let known = self.entries(*region, first..first + entries.len() as u64);
                    added += entries.len() as u64 - known.count() as u64;
                }
                LogOp::Remove { region, range } => {
                    removed += self.entries(*region, range.clone()).count() as u64;
                }
                LogOp::State { .. } | LogOp::Clear { .. } => {}
            }
        }
        self.count() + added - removed
    }

    /// Refuses `batch`, which brings `added` entries, if there would be more than `limit` then.
    fn admit(&self, batch: &LogBatch, added: u64, limit: u64) -> Result<()> {
        let count = self.count();
        if added == 0 || count + added <= limit {
            return Ok(());
        }
        let got = self.count_after(batch);
        if got <= limit || got <= count {
            return Ok(());
        }
        let what = "the memory log, in entries,";
        Err(Error::StoreFull { what, got, limit })
    }

    fn remove(&mut self, region: RegionId, range: &Range<u64>) {
        let Some(log) = self.0.get_mut(&region) else {
            return;
        };
        let mut behind = log.entries.split_off(&range.start);
        log.entries.append(&mut behind.split_off(&range.end));
        if log.entries.is_empty() && log.state.is_none() {
            self.0.remove(&region);
        }
    }

    fn entries(&self, region: RegionId, range: Range<u64>) -> impl Iterator<Item = &Entry> {
        // An empty range may be the wrong way round, which `BTreeMap::range` does not take.
        let log = self.0.get(&region).filter(|_| !range.is_empty());
        log.into_iter()
            .flat_map(move |log| log.entries.range(range.clone()))
            .map(|(_, entry)| entry)
    }

    fn read_entries(
        &self,
        region: RegionId,
        range: Range<u64>,
        bytes_max: u64,
    ) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let mut found = self.entries(region, range.clone());
        for index in range {
            let Some(entry) = found.next().filter(|e| e.index == index) else {
                let detail = "it is missing from the log".to_string();
                let what = format!("entry {index}");
                return Err(Error::corruption(Some(region), what, detail));
            };
            bytes += u64::from(entry.compute_size());
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }
}

impl RaftLogStorage for MemoryLog {
    fn write(&self, batch: &LogBatch, durability: Durability) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let (mut entries, mut bytes) = (0, 0);
        for op in batch.ops() {
            match op {
                LogOp::Append { entries: new, .. } => {
                    entries += new.len() as u64;
                    bytes += new.iter().map(entry_bytes).sum::<u64>();
                }
                LogOp::State { state, .. } => {
                    bytes += (size_of::<u64>() + state.encode_to_vec().len()) as u64;
                }
                LogOp::Remove { .. } | LogOp::Clear { .. } => {}
            }
        }
        let limit = self.entries_max.unwrap_or(u64::MAX);
        let admit = |logs: &Logs| logs.admit(batch, entries, limit);
        self.journal.write(admit, batch, durability, entries, bytes)
    }

    fn read_entries(
        &self,
        region: RegionId,
        range: Range<u64>,
        bytes_max: u64,
    ) -> Result<Vec<Entry>> {
        self.journal
            .read(|logs| logs.read_entries(region, range, bytes_max))
    }

    fn read_entry(&self, region: RegionId, index: u64) -> Result<Option<Entry>> {
        let entry = |logs: &Logs| logs.0.get(&region)?.entries.get(&index).cloned();
        Ok(self.journal.read(entry))
    }

    fn read_state(&self, region: RegionId) -> Result<Option<RaftLocalState>> {
        let state = |logs: &Logs| logs.0.get(&region)?.state.clone();
        Ok(self.journal.read(state))
    }

    fn regions(&self) -> Result<Vec<RegionId>> {
        Ok(self.journal.read(|logs| logs.0.keys().copied().collect()))
    }

    fn approximate_bytes(&self, region: RegionId, range: Range<u64>) -> Result<u64> {
        let bytes = |logs: &Logs| logs.entries(region, range).map(entry_bytes).sum();
        Ok(self.journal.read(bytes))
    }

    fn sync(&self) -> Result<()> {
        self.journal.sync()
    }

    fn stats(&self) -> LogStats {
        let counts = self.journal.counts();
        LogStats {
            writes: counts.writes,
            syncs: counts.syncs,
            entries: counts.entries,
            bytes: counts.bytes,
        }
    }
}

fn entry_bytes(entry: &Entry) -> u64 {
    LOG_KEY_BYTES as u64 + u64::from(entry.compute_size())
}
