//! What the tests share: nodes on real files, entries, waiting.

use std::future::Future;

use openraft::testing::StoreBuilder;
use openraft::{StorageError, StorageIOError};
use peerstore::openraft::{Groups, LogStore, StateMachine, TypeConfig};
use peerstore::{AppBackend, CompositeStorage, Config, Error, LogBackend};
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
