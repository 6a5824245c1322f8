//! Nodes whose layers can be made to fail.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerstore::memory::{MemFs, MemoryData, MemoryLog, MemorySnapshots};
use peerstore::{
    AppBatch, AppStats, ApplicationDataStorage, CompositeStorage, Config, DataImport, DataRead,
    DataView, Durability, Error, HealthStatus, KeyRange, Keyspace, LogBatch, LogStats, LogUsage,
    Parts, RaftLocalState, RaftLogStorage, RegionId, Result, Visit,
};
use raft::eraftpb::Entry;

/// Nothing here takes this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A node whose log and snapshots are files of `fs`; nobody checks it by itself.
pub fn node(fs: &MemFs) -> Result<CompositeStorage> {
    let config = Config::from_yaml_str(
        "{log: append_log, health_interval_ms: 0, append_log: {segment_bytes: 64KiB, spare_segments: 0}}",
    )?;
    let builder = CompositeStorage::builder().config(config).dir("node");
    let builder = builder.app(Arc::new(MemoryData::new()));
    builder.file_system(Arc::new(fs.clone())).open()
}

/// Parts in memory, with a log and data that can be told to fail.
pub fn parts(log: &Arc<Log>, data: &Arc<Data>) -> Parts {
    Parts {
        log: Arc::clone(log) as Arc<dyn RaftLogStorage>,
        app: Arc::clone(data) as Arc<dyn ApplicationDataStorage>,
        snapshots: Arc::new(MemorySnapshots::new()),
    }
}

/// The reason of what is degraded.
#[track_caller]
pub fn degraded(status: &HealthStatus) -> &str {
    match status {
        HealthStatus::Degraded { reason } => reason,
        other => panic!("expected degraded, got {other}"),
    }
}

/// The error of what is unhealthy.
#[track_caller]
pub fn unhealthy(status: &HealthStatus) -> &str {
    match status {
        HealthStatus::Unhealthy { error } => error,
        other => panic!("expected unhealthy, got {other}"),
    }
}

/// A log in memory that says of itself what it is told to, and waits at a gate if there is one.
#[derive(Default)]
pub struct Log {
    inner: MemoryLog,
    pub usage: Mutex<LogUsage>,
    pub trouble: Mutex<Option<String>>,
    pub panics: AtomicBool,
    gate: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

impl Log {
    /// From now on a write says that it has begun, and waits until it is let.
    pub fn close(&self) -> (Receiver<()>, Sender<()>) {
        let (begun, begins) = channel();
        let (open, opened) = channel();
        *self.gate.lock().unwrap() = Some((begun, opened));
        (begins, open)
    }
}

impl RaftLogStorage for Log {
    fn write(&self, batch: &LogBatch, durability: Durability) -> Result<()> {
        assert!(!self.panics.load(SeqCst), "a bug of the log");
        if let Some((begun, opened)) = self.gate.lock().unwrap().take() {
            begun.send(()).unwrap();
            opened.recv_timeout(PATIENCE).unwrap();
        }
        self.inner.write(batch, durability)
    }

    fn read_entries(&self, region: RegionId, range: Range<u64>, bytes: u64) -> Result<Vec<Entry>> {
        self.inner.read_entries(region, range, bytes)
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
        self.inner.sync()
    }

    fn stats(&self) -> LogStats {
        self.inner.stats()
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap().clone()
    }

    fn usage(&self) -> LogUsage {
        *self.usage.lock().unwrap()
    }
}

/// Data in memory whose writes fail while they are told to, or come back as other bytes.
#[derive(Default)]
pub struct Data {
    inner: MemoryData,
    pub fails: AtomicBool,
    pub lies: AtomicBool,
    pub trouble: Mutex<Option<String>>,
}

impl DataRead for Data {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut value = self.inner.get(keyspace, key)?;
        if let Some(byte) = value.as_mut().and_then(|v| v.first_mut())
            && self.lies.load(SeqCst)
        {
            *byte ^= 1;
        }
        Ok(value)
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

impl ApplicationDataStorage for Data {
    fn write(&self, batch: &AppBatch, durability: Durability) -> Result<()> {
        if self.fails.load(SeqCst) {
            let source = std::io::Error::from_raw_os_error(5);
            return Err(Error::io("write", "data".as_ref(), source));
        }
        self.inner.write(batch, durability)
    }

    fn view(&self) -> Result<Box<dyn DataView>> {
        self.inner.view()
    }

    fn begin_import(&self, range: &KeyRange) -> Result<Box<dyn DataImport>> {
        self.inner.begin_import(range)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn stats(&self) -> AppStats {
        self.inner.stats()
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap().clone()
    }
}
