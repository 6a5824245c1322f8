//! What the section `raft_storage` means, and what it cannot.

use super::*;
use crate::config::MemoryConfig;
use crate::error::Result;

/// The config of the section `raft_storage` with one layer.
fn layer(layer: &str) -> Result<Config> {
    Config::from_yaml_str(&format!("raft_storage: {{{layer}}}"))
}

#[test]
fn every_key_of_raft_storage_is_read_in_both_spellings() {
    for (log, app, kind) in [
        ("log_backend", "app_backend", "type"),
        ("log_storage", "app_storage", "backend_type"),
    ] {
        let config = layer(&format!(
            "{log}: {{{kind}: append_log, config: {{buffer_size: 10, flush_interval_ms: 20,
             sync_policy: always, checksum_validation: true}}}}, persistence: mem_first,
             health_check_interval: 30s"
        ));
        let expected = Config {
            log: LogBackend::AppendLog,
            sync_policy: SyncPolicy::Always,
            flush_policy: FlushPolicy::Batched {
                threshold: 10,
                interval_ms: 20,
            },
            persistence: PersistenceStrategy::MemFirst,
            health_interval_ms: 30_000,
            ..Config::default()
        };
        assert_eq!(config.unwrap(), expected);
        let config = layer(&format!(
            "{log}: {{{kind}: memory_log, config: {{max_entries: 5, circular_buffer: false}}}},
             {app}: {{{kind}: memory, config: {{max_size_mb: 2}}}}"
        ));
        let config = config.unwrap();
        assert_eq!(
            (config.log, config.app),
            (LogBackend::Memory, AppBackend::Memory)
        );
        let expected = MemoryConfig {
            log_entries_max: 5,
            log_compacts: false,
            data_bytes_max: 2 << 20,
        };
        assert_eq!(config.memory, expected);
    }
}

#[test]
fn each_retention_strategy_has_its_limits() {
    let all = "keep_count: 3, max_age_hours: 4, max_total_size: 1GiB";
    for (strategy, limits) in [
        ("keep_latest", (3, 0, 0)),
        ("keep_by_age", (0, 4, 0)),
        ("combined", (3, 4, 0)),
        ("size_based_lru", (0, 0, 1 << 30)),
    ] {
        let config = layer(&format!(
            "snapshot_backend: {{type: compressed_file, config: {{compression: gzip,
             compression_level: 2, retention: {{strategy: {strategy}, {all}}}}}}}"
        ));
        let snapshot = config.unwrap().snapshot;
        let found = (
            snapshot.keep_latest,
            snapshot.max_age_hours,
            snapshot.total_bytes_max,
        );
        assert_eq!(found, limits, "{strategy}");
        assert_eq!(snapshot.compression, Compression::Gzip { level: 2 });
        let without = format!(
            "snapshot_backend: {{type: compressed_file, config: {{retention: {{strategy: {strategy}}}}}}}"
        );
        let error = layer(&without).unwrap_err().to_string();
        assert!(error.contains("with this strategy"), "{error}");
    }
}

#[test]
fn what_raft_storage_cannot_mean_is_refused() {
    let cases = [
        (
            "log_backnd: {type: append_log}",
            "did you mean `log_backend`?",
        ),
        (
            "log_storage: {type: append_log, config: {bufer_size: 1}}",
            "did you mean `buffer_size`?",
        ),
        (
            "log_storage: {type: append_log, config: {max_entries: 1}}",
            "memory_log",
        ),
        (
            "log_storage: {type: append_log, config: {checksum_validation: false}}",
            "expected true",
        ),
        (
            "log_storage: {type: append_logg}",
            "did you mean `append_log`?",
        ),
        ("log_storage: {config: {}}", "type"),
        (
            "snapshot_storage: {type: memory_snapshot, config: {compression: zstd}}",
            "compressed_file",
        ),
        (
            "snapshot_storage: {type: compressed_file, config: {max_snapshots: 3}}",
            "memory_snapshot",
        ),
        (
            "snapshot_storage: {type: compressed_file, config: {compression_level: 99}}",
            "1 to 22",
        ),
        (
            "app_storage: {type: memory, config: {cache_size: 1GB}}",
            "rocksdb",
        ),
        (
            "app_storage: {type: rocksdb, config: {max_size_mb: 1}}",
            "backend memory",
        ),
        (
            "app_storage: {type: rocksdb, config: {compaction_style: universal}}",
            "level",
        ),
        (
            "app_storage: {type: rocksdb, config: {cache_size: 1GB, cache_size_mb: 1}}",
            "one of them",
        ),
        ("health_check_interval: 5 hours", "500ms"),
    ];
    for (text, expected) in cases {
        let error = layer(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let both = Config::from_yaml_str("log: memory\nraft_storage: {}\n").unwrap_err();
    assert!(both.to_string().contains("both say it"), "{both}");
}
