//! A node that is put together: which layers, which directory, which file system; what is in memory and
//! limited.

use std::sync::Arc;

use peerstore::memory::{MemFs, MemoryData, MemoryLog};
use peerstore::{
    AppBackend, AppBatch, ApplicationDataStorage as _, CompositeStorage, Config, DataRead as _,
    Durability, Error, FlushPolicy, KeyRange, Keyspace, LogBackend, LogBatch, RaftLogStorage as _,
    Region, SnapshotBackend, SyncPolicy,
};
use raft::Storage as _;

use super::support::*;

fn in_memory() -> Config {
    let mut config = config(1);
    (config.log, config.app) = (LogBackend::Memory, AppBackend::Memory);
    config.snapshot.backend = SnapshotBackend::Memory;
    config
}

#[test]
fn layers_that_are_given_are_used_and_the_others_come_from_the_config() {
    let (log, fs) = (Arc::new(MemoryLog::new()), MemFs::new());
    let mut config = in_memory();
    config.snapshot.backend = SnapshotBackend::CompressedFile;
    let open = |log: Arc<MemoryLog>| {
        CompositeStorage::builder()
            .config(config.clone())
            .log(log)
            .file_system(Arc::new(fs.clone()))
            .dir("node")
            .open()
    };
    let node = open(log.clone()).unwrap();
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..10);
    storage.wait_snapshot(PATIENCE).unwrap();
    assert_eq!(log.regions().unwrap(), [1.into()]);
    let paths: Vec<_> = fs.history().into_iter().map(|(_, path)| path).collect();
    assert!(
        paths.iter().any(|p| p.starts_with("node/snapshots")),
        "{paths:?}"
    );
    assert!(
        !paths.iter().any(|p| p.starts_with("node/raft")),
        "{paths:?}"
    );
    let error = open(Arc::default()).err().expect("the lock is held");
    assert!(matches!(error, Error::Locked { .. }), "{error}");
}

#[test]
fn a_node_without_the_directory_that_it_needs_is_refused() {
    let mut config = in_memory();
    config.log = LogBackend::AppendLog;
    let error = CompositeStorage::builder().config(config).open().err();
    assert_says(&error.unwrap(), &["dir: got none, expected one"]);
    let node = CompositeStorage::builder().config(in_memory()).open();
    assert!(node.unwrap().regions().unwrap().is_empty());
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocksdb_brings_its_own_file_system() {
    let builder = CompositeStorage::builder().file_system(Arc::new(MemFs::new()));
    let error = builder.dir("node").open().err().unwrap();
    assert_says(&error, &["file_system", "expected none"]);
}

#[test]
fn a_file_system_that_fails_fails_the_node() {
    let fs = MemFs::new();
    fs.cut_at(3);
    let mut config = in_memory();
    config.log = LogBackend::AppendLog;
    let node = CompositeStorage::builder()
        .config(config)
        .file_system(Arc::new(fs))
        .dir("node")
        .open();
    assert!(matches!(node.err(), Some(Error::Io { .. })));
}

#[test]
fn always_syncs_each_write_and_os_none() {
    for (policy, each) in [
        (SyncPolicy::Always, 1),
        (SyncPolicy::Batch, 1),
        (SyncPolicy::Os, 0),
    ] {
        for backend in [
            LogBackend::Memory,
            LogBackend::AppendLog,
            Config::default().log,
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut config = in_memory();
            (config.log, config.sync_policy) = (backend, policy);
            let node = CompositeStorage::open(dir.path(), config).unwrap();
            let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
            let before = node.log_stats().syncs;
            for index in 6..16 {
                storage.append(&entries(5, index..index + 1)).unwrap();
            }
            let syncs = node.log_stats().syncs - before;
            assert_eq!(syncs, 10 * each, "{policy:?} on {backend:?}");
        }
    }
}

#[test]
fn a_full_memory_log_refuses_more_and_goes_on_when_it_is_compacted() {
    let mut config = in_memory();
    config.memory.log_entries_max = 10;
    config.memory.log_compacts = false;
    let node = CompositeStorage::builder().config(config).open().unwrap();
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..15);
    let before = storage.raft_state().clone();
    let error = storage.append(&entries(5, 15..17)).unwrap_err();
    assert_says(&error, &["memory log", "11", "limit is 10"]);
    assert_eq!(*storage.raft_state(), before);
    assert_eq!(node.log().read_entry(1.into(), 15).unwrap(), None);
    // What replaces others needs no room.
    storage.append(&entries(5, 15..16)).unwrap();
    storage.append(&entries(6, 15..16)).unwrap();
    storage.compact(15).unwrap();
    storage.append(&entries(6, 16..24)).unwrap();
    assert_eq!(storage.last_index().unwrap(), 23);
}

#[test]
fn full_memory_data_refuses_a_batch_whole() {
    let data = MemoryData::with_bytes_max(100);
    let mut batch = AppBatch::new();
    batch.put(Keyspace::Data, "a", [0; 89]);
    data.write(&batch, Durability::Synced).unwrap();
    let mut more = AppBatch::new();
    more.put(Keyspace::Data, "b", [0; 5]);
    more.put(Keyspace::Data, "c", [0; 5]);
    let error = data.write(&more, Durability::Synced).unwrap_err();
    assert_says(&error, &["memory data", "102", "limit is 100"]);
    assert_eq!(data.get(Keyspace::Data, b"b").unwrap(), None, "none of it");
    // States are not counted, what is replaced makes room, and so does what is removed.
    let mut state = AppBatch::new();
    state.put(Keyspace::ApplyState, "key", [0; 500]);
    data.write(&state, Durability::Synced).unwrap();
    let mut smaller = AppBatch::new();
    smaller.put(Keyspace::Data, "a", [0; 70]);
    smaller.put(Keyspace::Data, "b", [0; 20]);
    data.write(&smaller, Durability::Synced).unwrap();
    let mut cleared = AppBatch::new();
    cleared.delete_range(Keyspace::Data, &KeyRange::all());
    cleared.put(Keyspace::Data, "c", [0; 99]);
    data.write(&cleared, Durability::Synced).unwrap();
    let mut again = AppBatch::new();
    again.put(Keyspace::Data, "d", "");
    assert!(data.write(&again, Durability::Synced).is_err());
    let mut import = data.begin_import(&KeyRange::all()).unwrap();
    import.put(Keyspace::Data, b"a", &[0; 60]).unwrap();
    let error = import.put(Keyspace::Data, b"b", &[0; 60]).unwrap_err();
    assert!(matches!(error, Error::StoreFull { .. }), "{error}");
    assert_eq!(data.get(Keyspace::Data, b"c").unwrap().unwrap().len(), 99);
}

#[test]
fn an_apply_that_does_not_fit_changes_nothing() {
    let mut config = in_memory();
    config.memory.data_bytes_max = 40;
    let node = CompositeStorage::builder().config(config).open().unwrap();
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    let all = entries(5, 6..20);
    storage.append(&all).unwrap();
    apply(&mut storage, &all[..5]).unwrap();
    let error = apply(&mut storage, &all[5..]).unwrap_err();
    assert!(matches!(error, Error::StoreFull { .. }), "{error}");
    assert_eq!((storage.applied_index(), data_of(&node).len()), (10, 5));
}

#[test]
fn a_group_of_a_nodes_log_goes_with_one_fsync_when_enough_entries_wait() {
    for backend in [
        LogBackend::Memory,
        LogBackend::AppendLog,
        Config::default().log,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = in_memory();
        config.log = backend;
        config.flush_policy = FlushPolicy::Batched {
            threshold: 4,
            interval_ms: 10_000,
        };
        let node = CompositeStorage::open(dir.path(), config).unwrap();
        let write = |region: u64| {
            let mut batch = LogBatch::new();
            batch.append(region.into(), entries(5, 6..7));
            batch.require_sync();
            node.write_log(&batch).unwrap();
        };
        // A log that was idle does not wait.
        write(100);
        let before = node.log_stats().syncs;
        std::thread::scope(|scope| {
            for region in 1..5 {
                let write = &write;
                scope.spawn(move || write(region));
            }
        });
        assert_eq!(node.log_stats().syncs, before + 1, "{backend:?}");
        assert_eq!(node.log_stats().entries, 5, "{backend:?}");
    }
}
