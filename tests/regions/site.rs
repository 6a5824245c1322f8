//! What is left of a store when its process is gone. Uses: the public API.

use std::sync::Arc;

use peerstore::memory::{MemoryData, MemorySnapshots};
use peerstore::{
    ApplicationDataStorage, CompositeStorage, Config, Extractor, GcPolicy, IndexedData, Parts,
    RaftLogStorage, SteppedWorkers,
};
use tempfile::TempDir;

use crate::disk_log::{DiskLog, LogKind};

/// How a store dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The process: what it had written is there.
    Process,
    /// The power: of what was not synced, the log keeps this much and the data that.
    Power { log: usize, data: usize },
}

impl Death {
    /// Those that a store in memory can die.
    pub const ALL: [Death; 4] = [
        Death::Process,
        Death::Power { log: 0, data: 0 },
        Death::Power {
            log: usize::MAX,
            data: 0,
        },
        Death::Power { log: 0, data: 1 },
    ];
}

/// Where a store keeps what it has.
pub enum Site {
    Memory {
        log: Arc<DiskLog>,
        data: Arc<MemoryData>,
        snapshots: MemorySnapshots,
    },
    #[cfg(feature = "rocksdb")]
    Rocks(TempDir),
    #[cfg(not(feature = "rocksdb"))]
    #[allow(dead_code, reason = "without RocksDB there is only memory")]
    Rocks(TempDir),
}

/// A node that was opened, its workers, and its stores to be looked into.
pub struct Opened {
    pub node: CompositeStorage,
    pub workers: SteppedWorkers,
    pub log: Arc<dyn RaftLogStorage>,
    pub app: Arc<dyn ApplicationDataStorage>,
}

impl Site {
    pub fn memory() -> Site {
        Site::with_log(LogKind::Memory)
    }

    /// The log in segment files, which are in memory as well.
    pub fn segments() -> Site {
        Site::with_log(LogKind::Segments)
    }

    fn with_log(log: LogKind) -> Site {
        Site::Memory {
            log: Arc::new(DiskLog::new(log)),
            data: Arc::default(),
            snapshots: MemorySnapshots::new(),
        }
    }

    #[cfg(feature = "rocksdb")]
    pub fn rocks() -> Site {
        // The death of a process asks nothing of a disk, so memory will do if there is a file system of it.
        let memory = std::path::Path::new("/dev/shm");
        let dir = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        Site::Rocks(dir.expect("a directory"))
    }

    /// Lets the store die; whoever had it open must have dropped it.
    pub fn die(&mut self, death: Death) {
        if let Site::Memory { log, data, .. } = self {
            let (kept_log, kept_data) = match death {
                Death::Process => (usize::MAX, usize::MAX),
                Death::Power { log, data } => (log, data),
            };
            *log = Arc::new(log.crash_copy(kept_log));
            *data = Arc::new(data.crash_copy(kept_data));
        }
    }

    pub fn open(
        &self,
        store_id: u64,
        gc: GcPolicy,
        extractors: &[(&'static str, Extractor)],
    ) -> Opened {
        let config = Config {
            store_id,
            cluster_id: 7,
            gc,
            ..Config::default()
        };
        let mut parts = self.parts();
        if !extractors.is_empty() {
            let indexed = IndexedData::open(parts.app, extractors.to_vec());
            parts.app = Arc::new(indexed.expect("indexes open again"));
        }
        let (log, app) = (Arc::clone(&parts.log), Arc::clone(&parts.app));
        let opened = CompositeStorage::from_parts_stepped(parts, &config);
        let (node, workers) = opened.expect("a store that died opens again");
        Opened {
            node,
            workers,
            log,
            app,
        }
    }

    fn parts(&self) -> Parts {
        match self {
            Site::Memory {
                log,
                data,
                snapshots,
            } => Parts {
                log: Arc::clone(log) as _,
                app: Arc::clone(data) as _,
                snapshots: Arc::new(snapshots.clone()),
            },
            Site::Rocks(dir) => rocks_parts(dir.path()),
        }
    }
}

#[cfg(feature = "rocksdb")]
fn rocks_parts(dir: &std::path::Path) -> Parts {
    use peerstore::rocks::{RocksData, RocksLog, RocksOptions};
    use peerstore::snapshot_dir::{SnapshotDir, SnapshotOptions};
    let options = RocksOptions {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 1 << 20,
        background_jobs: 1,
        ..Default::default()
    };
    let snapshots = SnapshotDir::open(
        Arc::new(peerstore::DiskFs),
        dir.join("snapshots"),
        SnapshotOptions::default(),
    );
    Parts {
        log: Arc::new(RocksLog::open(&dir.join("raft"), &options).expect("the log opens")),
        app: Arc::new(RocksData::open(&dir.join("kv"), &options).expect("the data opens")),
        snapshots: Arc::new(snapshots.expect("the snapshots open")),
    }
}

#[cfg(not(feature = "rocksdb"))]
fn rocks_parts(_: &std::path::Path) -> Parts {
    unreachable!("this build is without RocksDB")
}
