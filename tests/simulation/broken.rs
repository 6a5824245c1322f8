//! Disks that break their contract, so that it is seen that the simulation would notice.

use std::ops::Range;
use std::sync::Arc;

use peerstore::memory::MemoryData;
use peerstore::{
    AppBatch, AppOp, AppStats, ApplicationDataStorage, DataImport, DataRead, DataView, Durability,
    KeyRange, Keyspace, LogBatch, LogOp, LogStats, RaftLocalState, RaftLogStorage, RegionId,
    Result, Visit,
};
use raft::eraftpb::Entry;

use crate::disk_log::DiskLog;

/// What is wrong with the disks of a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flaw {
    #[default]
    None,
    /// The log acknowledges what it has not synced.
    LogNotSynced,
    /// What a new leader overwrites does not go: the log keeps its old entries.
    TailKept,
    /// Data and apply state are two batches.
    ApplyStateApart,
}

pub struct BrokenLog {
    log: Arc<DiskLog>,
    flaw: Flaw,
}

impl BrokenLog {
    pub fn new(log: Arc<DiskLog>, flaw: Flaw) -> BrokenLog {
        BrokenLog { log, flaw }
    }

    /// The same batch, without what would replace an entry that is there.
    fn with_tail(&self, batch: &LogBatch) -> LogBatch {
        let mut kept = LogBatch::default();
        for op in batch.ops() {
            match op {
                LogOp::Append { region, entries } => {
                    let is_new = |e: &&Entry| {
                        let there = self.log.read_entry(*region, e.index);
                        there.is_ok_and(|entry| entry.is_none())
                    };
                    let new = entries.iter().filter(is_new).cloned().collect();
                    kept.append(*region, new);
                }
                LogOp::Remove { region, range } => kept.remove(*region, range.clone()),
                LogOp::State { region, state } => kept.state(*region, state.clone()),
                LogOp::Clear { region } => kept.clear_region(*region),
            }
        }
        kept
    }
}

impl RaftLogStorage for BrokenLog {
    fn write(&self, batch: &LogBatch, durability: Durability) -> Result<()> {
        match self.flaw {
            Flaw::LogNotSynced => self.log.write(batch, Durability::Buffered),
            Flaw::TailKept => self.log.write(&self.with_tail(batch), durability),
            _ => self.log.write(batch, durability),
        }
    }

    fn read_entries(&self, r: RegionId, range: Range<u64>, bytes_max: u64) -> Result<Vec<Entry>> {
        self.log.read_entries(r, range, bytes_max)
    }

    fn read_entry(&self, region: RegionId, index: u64) -> Result<Option<Entry>> {
        self.log.read_entry(region, index)
    }

    fn read_state(&self, region: RegionId) -> Result<Option<RaftLocalState>> {
        self.log.read_state(region)
    }

    fn regions(&self) -> Result<Vec<RegionId>> {
        self.log.regions()
    }

    fn approximate_bytes(&self, region: RegionId, range: Range<u64>) -> Result<u64> {
        self.log.approximate_bytes(region, range)
    }

    fn sync(&self) -> Result<()> {
        self.log.sync()
    }

    fn stats(&self) -> LogStats {
        self.log.stats()
    }
}

pub struct BrokenData(pub Arc<MemoryData>);

impl DataRead for BrokenData {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.0.get(keyspace, key)
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        self.0.multi_get(keyspace, keys)
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.0.scan(keyspace, range, visit)
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.0.scan_back(keyspace, range, visit)
    }
}

impl ApplicationDataStorage for BrokenData {
    fn write(&self, batch: &AppBatch, durability: Durability) -> Result<()> {
        let (mut data, mut states) = (AppBatch::default(), AppBatch::default());
        for op in batch.ops() {
            match op {
                AppOp::Put {
                    keyspace,
                    key,
                    value,
                } => match keyspace {
                    Keyspace::ApplyState => states.put(keyspace, key, value),
                    _ => data.put(keyspace, key, value),
                },
                AppOp::Delete { keyspace, key } => data.delete(keyspace, key),
                AppOp::DeleteRange {
                    keyspace,
                    start,
                    end,
                } => {
                    data.delete_range(keyspace, &KeyRange::new(start, end));
                }
            }
        }
        self.0.write(&data, durability)?;
        self.0.write(&states, durability)
    }

    fn view(&self) -> Result<Box<dyn DataView>> {
        self.0.view()
    }

    fn begin_import(&self, range: &KeyRange) -> Result<Box<dyn DataImport>> {
        self.0.begin_import(range)
    }

    fn sync(&self) -> Result<()> {
        self.0.sync()
    }

    fn stats(&self) -> AppStats {
        self.0.stats()
    }
}
