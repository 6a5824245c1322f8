//! A node over any backends that can be closed, killed and opened again. Shared by several tests.
//! Uses: the public API.

use std::sync::Arc;

use peerstore::memory::{MemoryData, MemoryLog, MemorySnapshots};
use peerstore::segment_log::{SegmentLog, SegmentLogOptions};
use peerstore::{
    ApplicationDataStorage, CompositeStorage, Config, DiskFs, Parts, RaftLogStorage, Result,
};
use tempfile::TempDir;

/// Where a node keeps its log and its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backends {
    /// Everything in memory: the power can be cut.
    Memory,
    /// The log in segment files, the data in memory.
    SegmentLog,
    /// As `CompositeStorage::open` makes it.
    #[cfg(feature = "rocksdb")]
    Rocks,
    /// The log in RocksDB, the data in memory.
    #[cfg(feature = "rocksdb")]
    RocksLog,
    /// The data in RocksDB, the log in memory.
    #[cfg(feature = "rocksdb")]
    RocksData,
}

/// What is left of a node when nobody has it open.
pub struct Site {
    pub backends: Backends,
    pub log: Arc<MemoryLog>,
    pub data: Arc<MemoryData>,
    snapshots: MemorySnapshots,
    config: Config,
    // Only for what is not in memory.
    dir: Option<TempDir>,
}

impl Site {
    pub fn new(backends: Backends, mut config: Config) -> Self {
        // Many small stores live side by side in a test.
        config.rocksdb.write_buffer_bytes = 1 << 20;
        config.rocksdb.block_cache_bytes = 1 << 20;
        let in_memory = backends == Backends::Memory;
        Site {
            backends,
            log: Arc::default(),
            data: Arc::default(),
            snapshots: MemorySnapshots::new(),
            config,
            dir: (!in_memory).then(|| tempfile::tempdir().expect("tempdir")),
        }
    }

    /// Opens the node; whoever had it must have dropped it. Of what a memory store had not synced,
    /// the first `kept_log` and `kept_data` batches are there.
    pub fn open(&mut self, kept_log: usize, kept_data: usize) -> Result<CompositeStorage> {
        self.log = Arc::new(self.log.crash_copy(kept_log));
        self.data = Arc::new(self.data.crash_copy(kept_data));
        #[cfg(feature = "rocksdb")]
        if let (Backends::Rocks, Some(dir)) = (self.backends, &self.dir) {
            return CompositeStorage::open(dir.path().join("node"), self.config.clone());
        }
        let parts = Parts {
            log: self.open_log()?,
            app: self.open_data()?,
            snapshots: Arc::new(self.snapshots.clone()),
        };
        CompositeStorage::from_parts(parts, &self.config)
    }

    fn open_log(&self) -> Result<Arc<dyn RaftLogStorage>> {
        if let (Backends::SegmentLog, Some(dir)) = (self.backends, &self.dir) {
            let options = SegmentLogOptions {
                segment_bytes: 64 << 10,
                ..SegmentLogOptions::default()
            };
            let log = SegmentLog::open(Arc::new(DiskFs), dir.path().join("raft"), options)?;
            return Ok(Arc::new(log));
        }
        #[cfg(feature = "rocksdb")]
        if let (Backends::RocksLog, Some(dir)) = (self.backends, &self.dir) {
            let log = peerstore::rocks::RocksLog::open(&dir.path().join("raft"), &options())?;
            return Ok(Arc::new(log));
        }
        Ok(Arc::clone(&self.log) as _)
    }

    fn open_data(&self) -> Result<Arc<dyn ApplicationDataStorage>> {
        #[cfg(feature = "rocksdb")]
        if let (Backends::RocksData, Some(dir)) = (self.backends, &self.dir) {
            let data = peerstore::rocks::RocksData::open(&dir.path().join("kv"), &options())?;
            return Ok(Arc::new(data));
        }
        Ok(Arc::clone(&self.data) as _)
    }
}

#[cfg(feature = "rocksdb")]
fn options() -> peerstore::rocks::RocksOptions {
    peerstore::rocks::RocksOptions {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 1 << 20,
        ..Default::default()
    }
}
