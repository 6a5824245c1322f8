//! What the tests share: nodes on real files, entries, waiting.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::testing::StoreBuilder;
use openraft::{StorageError, StorageIOError};
use peerstore::memory::MemoryData;
use peerstore::openraft::{Groups, LogStore, StateMachine, TypeConfig};
use peerstore::segment_log::{SegmentLog, SegmentLogOptions};
use peerstore::snapshot_dir::{SnapshotDir, SnapshotOptions};
use peerstore::{
    AppBackend, ApplicationDataStorage, CompositeStorage, Config, DiskFs, Error, LogBackend, Parts,
};
use tempfile::TempDir;

pub type StorageResult<T> = Result<T, StorageError<u64>>;

/// Where a node keeps its log and its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The log in segment files, the data in memory.
    AppendLog,
    /// Both in RocksDB.
    #[cfg(feature = "rocksdb")]
    Rocks,
}

pub fn config(backend: Backend) -> Config {
    let (log, app) = match backend {
        Backend::AppendLog => (LogBackend::AppendLog, AppBackend::Memory),
        #[cfg(feature = "rocksdb")]
        Backend::Rocks => (LogBackend::Rocksdb, AppBackend::Rocksdb),
    };
    let mut config = Config {
        log,
        app,
        ..Config::default()
    };
    // Many small stores live side by side.
    config.rocksdb.write_buffer_bytes = 1 << 20;
    config.rocksdb.block_cache_bytes = 1 << 20;
    config.append_log.segment_bytes = 64 << 10;
    config.append_log.spare_segments = 1;
    config
}

pub fn open(dir: &TempDir, backend: Backend) -> peerstore::Result<(LogStore, StateMachine)> {
    let node = CompositeStorage::open(dir.path(), config(backend))?;
    Groups::of(&node)?.open(1)
}

pub struct Builder(pub Backend);

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> StorageResult<(TempDir, LogStore, StateMachine)> {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let (log, machine) = open(&dir, self.0).map_err(storage_error)?;
        Ok((dir, log, machine))
    }
}

/// A node on real files that can be closed and opened again.
pub struct Site {
    backend: Backend,
    pub dir: TempDir,
    // Where the data is not on disk.
    pub data: Arc<MemoryData>,
}

impl Site {
    pub fn new(backend: Backend) -> Site {
        Site {
            backend,
            dir: tempfile::tempdir().expect("a directory for the test"),
            data: Arc::default(),
        }
    }

    pub fn groups(&self) -> peerstore::Result<Groups> {
        if self.backend != Backend::AppendLog {
            return Groups::of(&CompositeStorage::open(
                self.dir.path(),
                config(self.backend),
            )?);
        }
        let options = SegmentLogOptions {
            segment_bytes: 64 << 10,
            spare_segments: 1,
            ..SegmentLogOptions::default()
        };
        let (log, snapshots) = (
            self.dir.path().join("raft"),
            self.dir.path().join("snapshots"),
        );
        Groups::from_parts(Parts {
            log: Arc::new(SegmentLog::open(Arc::new(DiskFs), log, options)?),
            app: Arc::clone(&self.data) as Arc<dyn ApplicationDataStorage>,
            snapshots: Arc::new(SnapshotDir::open(
                Arc::new(DiskFs),
                snapshots,
                SnapshotOptions::default(),
            )?),
        })
    }

    pub fn open(&self) -> peerstore::Result<(LogStore, StateMachine)> {
        self.groups()?.open(1)
    }

    /// Opens it as soon as whoever had it has let go of it: tasks of openraft end by and by.
    pub async fn open_when_free(&self) -> (LogStore, StateMachine) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.open() {
                Ok(opened) => return opened,
                Err(Error::Locked { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// The backends that this was built with.
pub const BACKENDS: &[Backend] = &[
    Backend::AppendLog,
    #[cfg(feature = "rocksdb")]
    Backend::Rocks,
];

/// Nothing takes this long, unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn storage_error(error: Error) -> StorageError<u64> {
    StorageIOError::read(openraft::AnyError::new(&error)).into()
}

/// Runs one case of openraft's suite.
#[track_caller]
pub fn run<F: Future<Output = StorageResult<()>>>(
    backend: Backend,
    case: fn(LogStore, StateMachine) -> F,
) {
    run_with(async {
        let (_dir, log, machine) = Builder(backend).build().await?;
        case(log, machine).await
    });
}

#[track_caller]
pub fn run_with<F: Future<Output = StorageResult<()>>>(case: F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime for the test");
    if let Err(error) = runtime.block_on(case) {
        panic!("{error}");
    }
}
