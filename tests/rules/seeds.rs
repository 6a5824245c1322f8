//! The example configurations of other designs, literally: each opens a node that writes, is opened again
//! where it is on disk, and reads.

use peerstore::{AppBackend, CompositeStorage, Config, LogBackend, Region, SnapshotBackend};
#[cfg(feature = "rocksdb")]
use peerstore::{CompactionStyle, Compression, FlushPolicy, SyncPolicy};
use raft::Storage as _;

use super::support::{PATIENCE, data_of, fill};

fn config(text: &str) -> Config {
    Config::from_yaml_str(text).unwrap()
}

/// A life of a node: what it keeps on disk is there when it is opened again.
fn live(config: Config) {
    if Config::default().app == AppBackend::Memory && config.app == AppBackend::Rocksdb {
        return; // a build without RocksDB refuses the example, as another test says
    }
    let durable = config.app == AppBackend::Rocksdb;
    let dir = tempfile::tempdir().unwrap();
    let node = CompositeStorage::open(dir.path(), config.clone()).unwrap();
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..50);
    let snapshot = storage.wait_snapshot(PATIENCE).unwrap();
    assert_eq!(snapshot.get_metadata().index, 49);
    assert_eq!(storage.last_index().unwrap(), 49);
    assert_eq!(data_of(&node).len(), 44);
    drop((storage, node));
    let node = CompositeStorage::open(dir.path(), config).unwrap();
    if durable {
        let storage = node.open_region(1).unwrap();
        assert_eq!(storage.applied_index(), 49);
        assert_eq!(data_of(&node).len(), 44);
    } else {
        assert!(node.regions().unwrap().is_empty());
        assert_eq!(dir.path().read_dir().unwrap().count(), 0, "no file");
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn the_high_performance_configuration_of_backends() {
    let config = config(include_str!("seeds/high_performance_backend.yaml"));
    let mut expected = Config {
        log: LogBackend::AppendLog,
        app: AppBackend::Rocksdb,
        sync_policy: SyncPolicy::Batch,
        flush_policy: FlushPolicy::Batched {
            threshold: 10_000,
            interval_ms: 0,
        },
        ..Config::default()
    };
    expected.snapshot.compression = Compression::Zstd { level: 3 };
    expected.rocksdb.block_cache_bytes = 1_000_000_000;
    assert_eq!(config, expected);
    live(config);
}

#[cfg(feature = "rocksdb")]
#[test]
fn the_high_performance_configuration_of_storages() {
    let config = config(include_str!("seeds/high_performance_storage.yaml"));
    let mut expected = Config {
        log: LogBackend::AppendLog,
        app: AppBackend::Rocksdb,
        flush_policy: FlushPolicy::Batched {
            threshold: 10_000,
            interval_ms: 100,
        },
        ..Config::default()
    };
    expected.snapshot.keep_latest = 5;
    expected.rocksdb.block_cache_bytes = 1 << 30;
    expected.rocksdb.write_buffer_bytes = 64 << 20;
    expected.rocksdb.write_buffers_max = 3;
    expected.rocksdb.compaction_style = CompactionStyle::Level;
    assert_eq!(config, expected);
    live(config);
}

#[test]
fn the_memory_optimized_configuration_of_backends() {
    let config = config(include_str!("seeds/memory_backend.yaml"));
    assert_eq!(
        (config.log, config.app),
        (LogBackend::Memory, AppBackend::Memory)
    );
    assert_eq!(config.snapshot.backend, SnapshotBackend::Memory);
    assert_eq!(config.memory.log_entries_max, 100_000);
    live(config);
}

#[test]
fn the_memory_optimized_configuration_of_storages() {
    let config = config(include_str!("seeds/memory_storage.yaml"));
    assert_eq!(
        (config.log, config.app),
        (LogBackend::Memory, AppBackend::Memory)
    );
    assert_eq!(config.snapshot.keep_latest, 3);
    let memory = &config.memory;
    assert_eq!(
        (memory.log_entries_max, memory.log_compacts),
        (100_000, true)
    );
    assert_eq!(memory.data_bytes_max, 512 << 20);
    live(config);
}
