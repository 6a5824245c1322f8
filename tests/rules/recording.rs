//! A log and a data store that record every write in one common order, and fail from the Nth on.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use peerstore::memory::{MemoryData, MemoryLog};
use peerstore::{
    AppBatch, AppOp, AppStats, ApplicationDataStorage, DataImport, DataRead, DataView, Durability,
    Error, KeyRange, Keyspace, LogBatch, LogStats, RaftLocalState, RaftLogStorage, RegionId,
    Result, Visit,
};
use raft::eraftpb::Entry;

/// One write of a node, in the order of all of them.
#[derive(Clone, Debug)]
pub enum Step {
    Log(LogBatch, Durability),
    Kv(AppBatch, Durability),
    /// An import has cleared its range.
    ImportCleared,
    /// An import has put its data.
    Imported,
    LogSync,
    KvSync,
}

impl Step {
    pub fn is_synced(&self) -> bool {
        !matches!(
            self,
            Step::Log(_, Durability::Buffered) | Step::Kv(_, Durability::Buffered)
        )
    }

    /// The value that a kv batch puts into `keyspace`.
    pub fn kv_value(&self, wanted: Keyspace) -> Option<&[u8]> {
        let Step::Kv(batch, _) = self else {
            return None;
        };
        batch.ops().find_map(|op| match op {
            AppOp::Put {
                keyspace, value, ..
            } if keyspace == wanted => Some(value),
            _ => None,
        })
    }
}

/// The writes so far, and how many more succeed.
#[derive(Debug, Default)]
pub struct Trace(Mutex<Writes>);

#[derive(Debug, Default)]
struct Writes {
    steps: Vec<Step>,
    left: Option<usize>,
}

impl Trace {
    /// Takes what was recorded.
    pub fn take(&self) -> Vec<Step> {
        std::mem::take(&mut self.0.lock().unwrap().steps)
    }

    /// Lets `count` more writes succeed, and every later one fail without doing anything.
    pub fn cut_after(&self, count: usize) {
        self.0.lock().unwrap().left = Some(count);
    }

    fn step(&self, step: Step) -> Result<()> {
        let mut writes = self.0.lock().unwrap();
        match &mut writes.left {
            Some(0) => {
                let path = "the cut".into();
                return Err(Error::DiskFull { op: "write", path });
            }
            Some(left) => *left -= 1,
            None => {}
        }
        writes.steps.push(step);
        Ok(())
    }
}

pub struct RecordingLog {
    pub inner: MemoryLog,
    trace: Arc<Trace>,
}

impl RecordingLog {
    pub fn new(inner: MemoryLog, trace: &Arc<Trace>) -> Self {
        let trace = Arc::clone(trace);
        RecordingLog { inner, trace }
    }
}

impl RaftLogStorage for RecordingLog {
    fn write(&self, batch: &LogBatch, durability: Durability) -> Result<()> {
        self.trace.step(Step::Log(batch.clone(), durability))?;
        self.inner.write(batch, durability)
    }
    fn read_entries(&self, region: RegionId, r: Range<u64>, bytes_max: u64) -> Result<Vec<Entry>> {
        self.inner.read_entries(region, r, bytes_max)
    }
    fn read_entry(&self, region: RegionId, index: u64) -> Result<Option<Entry>> {
        self.inner.read_entry(region, index)
    }
    fn read_state(&self, region: RegionId) -> Result<Option<RaftLocalState>> {
        self.inner.read_state(region)
    }
    fn regions(&self) -> Result<Vec<RegionId>> {
        self.inner.regions()
    }
    fn approximate_bytes(&self, region: RegionId, range: Range<u64>) -> Result<u64> {
        self.inner.approximate_bytes(region, range)
    }
    fn sync(&self) -> Result<()> {
        self.trace.step(Step::LogSync)?;
        self.inner.sync()
    }
    fn stats(&self) -> LogStats {
        self.inner.stats()
    }
}

pub struct RecordingData {
    pub inner: Arc<MemoryData>,
    trace: Arc<Trace>,
}

impl RecordingData {
    pub fn new(inner: MemoryData, trace: &Arc<Trace>) -> Self {
        RecordingData {
            inner: Arc::new(inner),
            trace: Arc::clone(trace),
        }
    }
}

impl DataRead for RecordingData {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.inner.get(keyspace, key)
    }
    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        self.inner.multi_get(keyspace, keys)
    }
    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.inner.scan(keyspace, range, visit)
    }
    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.inner.scan_back(keyspace, range, visit)
    }
}

impl ApplicationDataStorage for RecordingData {
    fn write(&self, batch: &AppBatch, durability: Durability) -> Result<()> {
        self.trace.step(Step::Kv(batch.clone(), durability))?;
        self.inner.write(batch, durability)
    }
    fn view(&self) -> Result<Box<dyn DataView>> {
        self.inner.view()
    }
    fn begin_import(&self, range: &KeyRange) -> Result<Box<dyn DataImport>> {
        Ok(Box::new(RecordingImport {
            import: self.inner.begin_import(range)?,
            data: Arc::clone(&self.inner),
            range: range.clone(),
            trace: Arc::clone(&self.trace),
        }))
    }
    fn sync(&self) -> Result<()> {
        self.trace.step(Step::KvSync)?;
        self.inner.sync()
    }
    fn stats(&self) -> AppStats {
        self.inner.stats()
    }
}

/// An import in two steps, as a store may do it: between them the range is empty.
struct RecordingImport {
    import: Box<dyn DataImport>,
    data: Arc<MemoryData>,
    range: KeyRange,
    trace: Arc<Trace>,
}

impl DataImport for RecordingImport {
    fn put(&mut self, keyspace: Keyspace, key: &[u8], value: &[u8]) -> Result<()> {
        self.import.put(keyspace, key, value)
    }
    fn finish(self: Box<Self>) -> Result<()> {
        self.trace.step(Step::ImportCleared)?;
        let mut clear = AppBatch::default();
        for keyspace in Keyspace::APPLICATION {
            clear.delete_range(keyspace, &self.range);
        }
        self.data.write(&clear, Durability::Synced)?;
        self.trace.step(Step::Imported)?;
        self.import.finish()
    }
}
