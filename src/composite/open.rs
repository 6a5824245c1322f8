//! The backends that a config names, opened, and who the store is. Uses: every backend, config.

use std::path::Path;
use std::sync::Arc;

use prost::Message as _;

use crate::app_store::{AppBatch, ApplicationDataStorage, Keyspace};
#[cfg(feature = "rocksdb")]
use crate::config::CompactionStyle;
use crate::config::{AppBackend, Config, LogBackend, SnapshotBackend};
use crate::error::{Error, Result};
use crate::fs::FileSystem;
use crate::keys::STORE_IDENT_KEY;
use crate::memory::{MemoryData, MemoryLog, MemorySnapshots};
use crate::node_dir::{Contents, Part};
use crate::proto::StoreIdent;
use crate::raft_log::RaftLogStorage;
use crate::segment_log::{SegmentLog, SegmentLogOptions};
use crate::snapshot_dir::{SnapshotDir, SnapshotOptions};
use crate::snapshot_store::RaftSnapshotStorage;
use crate::types::Durability;

/// The directories of the parts.
const RAFT: &str = Part::Raft.name();
const KV: &str = Part::Kv.name();
const SNAPSHOTS: &str = Part::Snapshots.name();

/// Who the config says that the store is.
pub(super) fn ident_of(config: &Config) -> StoreIdent {
    StoreIdent {
        cluster_id: config.cluster_id,
        store_id: config.store_id,
    }
}

/// What the config keeps in the directory.
pub(super) fn contents(config: &Config) -> Contents {
    let mut parts = Vec::new();
    match config.log {
        LogBackend::Rocksdb => parts.push((Part::Raft, "rocksdb")),
        LogBackend::AppendLog => parts.push((Part::Raft, "append_log")),
        LogBackend::Memory => {}
    }
    if config.app == AppBackend::Rocksdb {
        parts.push((Part::Kv, "rocksdb"));
    }
    if config.snapshot.backend == SnapshotBackend::CompressedFile {
        parts.push((Part::Snapshots, "compressed_file"));
    }
    Contents { parts }
}

pub(super) fn open_snapshots(
    fs: Arc<dyn FileSystem>,
    dir: &Path,
    config: &Config,
) -> Result<Arc<dyn RaftSnapshotStorage>> {
    match config.snapshot.backend {
        SnapshotBackend::Memory => Ok(Arc::new(MemorySnapshots::default())),
        SnapshotBackend::CompressedFile => {
            let options = SnapshotOptions {
                compression: config.snapshot.compression,
                partial_age_max: config.snapshot.partial_age_max(),
                ..Default::default()
            };
            Ok(Arc::new(SnapshotDir::open(
                fs,
                dir.join(SNAPSHOTS),
                options,
            )?))
        }
    }
}

#[cfg(feature = "rocksdb")]
fn rocks_options(config: &Config) -> crate::rocks::RocksOptions {
    let rocksdb = &config.rocksdb;
    // RocksDB knows one style that keeps everything, and that is the config's only one.
    let CompactionStyle::Level = rocksdb.compaction_style;
    let (buffers, wal_bytes_max) = (
        rocksdb.write_buffers_max,
        crate::rocks::RocksOptions::default().wal_bytes_max,
    );
    crate::rocks::RocksOptions {
        block_cache_bytes: rocksdb.block_cache_bytes as usize,
        write_buffer_bytes: rocksdb.write_buffer_bytes as usize,
        write_buffers_max: buffers as u32,
        wal_bytes_max: wal_bytes_max.max(buffers.saturating_mul(rocksdb.write_buffer_bytes)),
        ..Default::default()
    }
}

fn segment_options(config: &Config) -> SegmentLogOptions {
    let config = &config.append_log;
    SegmentLogOptions {
        segment_bytes: config.segment_bytes,
        spare_segments: config.spare_segments as usize,
        ring_bytes: config.ring_bytes as usize,
        index_bytes_max: config.index_bytes_max,
        compress: config.compress,
        ..Default::default()
    }
}

pub(super) fn open_log(
    fs: Arc<dyn FileSystem>,
    dir: &Path,
    config: &Config,
) -> Result<Arc<dyn RaftLogStorage>> {
    let dir = &dir.join(RAFT);
    match config.log {
        LogBackend::AppendLog => {
            let log = SegmentLog::open(fs, dir, segment_options(config))?;
            Ok(Arc::new(log))
        }
        LogBackend::Memory => Ok(match config.memory.log_entries_max {
            0 => Arc::new(MemoryLog::new()),
            limit => Arc::new(MemoryLog::with_entries_max(limit)),
        }),
        #[cfg(feature = "rocksdb")]
        LogBackend::Rocksdb => {
            let log = crate::rocks::RocksLog::open(dir, &rocks_options(config))?;
            Ok(Arc::new(log))
        }
        #[cfg(not(feature = "rocksdb"))]
        LogBackend::Rocksdb => Err(without_rocksdb(dir)),
    }
}

pub(super) fn open_app(dir: &Path, config: &Config) -> Result<Arc<dyn ApplicationDataStorage>> {
    let dir = &dir.join(KV);
    match config.app {
        AppBackend::Memory => Ok(match config.memory.data_bytes_max {
            0 => Arc::new(MemoryData::new()),
            limit => Arc::new(MemoryData::with_bytes_max(limit)),
        }),
        #[cfg(feature = "rocksdb")]
        AppBackend::Rocksdb => {
            let data = crate::rocks::RocksData::open(dir, &rocks_options(config))?;
            Ok(Arc::new(data))
        }
        #[cfg(not(feature = "rocksdb"))]
        AppBackend::Rocksdb => Err(without_rocksdb(dir)),
    }
}

#[cfg(not(feature = "rocksdb"))]
fn without_rocksdb(dir: &Path) -> Error {
    Error::Config {
        path: Some(dir.to_path_buf()),
        message: "backend rocksdb, but this build is without the feature `rocksdb`".into(),
    }
}

/// Compares who the store is with who the config says, and notes it where one of them is new. Returns
/// who it is.
pub(super) fn check_ident(
    dir: &Path,
    config: &Config,
    app: &dyn ApplicationDataStorage,
) -> Result<StoreIdent> {
    let stored = match app.get(Keyspace::Store, STORE_IDENT_KEY)? {
        Some(bytes) => StoreIdent::decode(&*bytes)
            .map_err(|e| Error::corruption(None, "StoreIdent", e.to_string()))?,
        None => StoreIdent::default(),
    };
    let given = ident_of(config);
    let differs = |stored: u64, given: u64| stored != 0 && given != 0 && stored != given;
    if differs(stored.cluster_id, given.cluster_id) || differs(stored.store_id, given.store_id) {
        let shown =
            |ident: StoreIdent| format!("store {} of cluster {}", ident.store_id, ident.cluster_id);
        return Err(Error::ForeignStore {
            path: dir.to_path_buf(),
            got: shown(stored),
            expected: shown(given),
        });
    }
    let either = |stored: u64, given: u64| if given == 0 { stored } else { given };
    let ident = StoreIdent {
        cluster_id: either(stored.cluster_id, given.cluster_id),
        store_id: either(stored.store_id, given.store_id),
    };
    if ident != stored {
        let mut batch = AppBatch::default();
        batch.put(Keyspace::Store, STORE_IDENT_KEY, ident.encode_to_vec());
        app.write(&batch, Durability::Synced)?;
    }
    Ok(ident)
}
