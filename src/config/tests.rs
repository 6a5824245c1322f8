//! Tests of the config: what is accepted, and what a refusal says.

use super::*;
use crate::snapshot_store::Compression;

const EXAMPLE: &str = include_str!("../../docs/config.example.yaml");
const TOML_EXAMPLE: &str = include_str!("../../docs/config.example.toml");

/// The text of the refusal of `yaml`.
#[track_caller]
fn refusal(yaml: &str) -> String {
    match Config::from_yaml_str(yaml) {
        Err(Error::Config { message, .. }) => message,
        other => panic!("expected a refusal of {yaml:?}, got {other:?}"),
    }
}

#[test]
fn a_config_without_keys_is_the_default() {
    for text in ["", "\n", "# nothing but a comment\n", "{}", "---\n"] {
        assert_eq!(Config::from_yaml_str(text).unwrap(), Config::default());
    }
    Config::default().validate().unwrap();
}

#[cfg(feature = "rocksdb")]
#[test]
fn the_example_spells_out_the_defaults() {
    assert_eq!(Config::from_yaml_str(EXAMPLE).unwrap(), Config::default());
    assert_eq!(
        Config::from_toml_str(TOML_EXAMPLE).unwrap(),
        Config::default()
    );
}

#[test]
fn the_example_names_every_key() {
    for section in [
        "",
        "snapshot: ",
        "append_log: ",
        "rocksdb: ",
        "memory: ",
        "gc: ",
        "store: ",
        "transport: ",
    ] {
        let message = refusal(&format!("{section}{{zzzzzz: 1}}"));
        let (_, keys) = message.split_once("the keys here are ").unwrap();
        for key in keys.split(", ") {
            let spelled = EXAMPLE
                .lines()
                .any(|line| line.trim_start().starts_with(&format!("{key}:")));
            assert!(spelled, "{key} is missing in the example");
            let spelled = TOML_EXAMPLE.lines().any(|line| {
                let line = line.trim_start_matches("# ");
                let section = line.starts_with('[') && line.ends_with(&format!("{key}]"));
                section || line.starts_with(&format!("{key} ="))
            });
            assert!(spelled, "{key} is missing in the example in TOML");
        }
    }
}

const EVERY_KEY: &str = "
create_if_missing: false
cluster_id: 7
store_id: 8
durability: buffered
sync_policy: always
flush_policy: {batched: {threshold: 7, interval_ms: 5}}
persistence: mem_first
health_interval_ms: 250
log: memory
app: memory
indexes: [city, name]
snapshot: {backend: memory, compression: gzip, compression_level: 9, inline_bytes_max: 0, retry_backoff_ms: 5,
  keep_latest: 3, max_age_hours: 4, total_bytes_max: 1GiB, partial_age_hours: 2, after_entries: 6, after_bytes: 1KiB}
entry_cache_bytes: 1GB
append_log: {segment_bytes: 1MiB, spare_segments: 1, ring_bytes: 0, index_bytes_max: 1KiB, compress: false}
rocksdb: {block_cache_bytes: 1MiB, write_buffer_bytes: 2 MiB, write_buffers_max: 3, compaction_style: level}
memory: {log_entries_max: 9, log_compacts: false, data_bytes_max: 1MiB}
gc: {entries_max: 10, bytes_max: 4096, entries_trailing: 3}
";

#[test]
fn every_key_is_read() {
    let expected = Config {
        create_if_missing: false,
        cluster_id: 7,
        store_id: 8,
        durability: Durability::Buffered,
        sync_policy: SyncPolicy::Always,
        flush_policy: FlushPolicy::Batched {
            threshold: 7,
            interval_ms: 5,
        },
        persistence: PersistenceStrategy::MemFirst,
        health_interval_ms: 250,
        log: LogBackend::Memory,
        app: AppBackend::Memory,
        indexes: vec!["city".into(), "name".into()],
        snapshot: SnapshotConfig {
            backend: SnapshotBackend::Memory,
            compression: Compression::Gzip { level: 9 },
            inline_bytes_max: 0,
            retry_backoff_ms: 5,
            keep_latest: 3,
            max_age_hours: 4,
            total_bytes_max: 1 << 30,
            partial_age_hours: 2,
            after_entries: 6,
            after_bytes: 1 << 10,
        },
        entry_cache_bytes: 1_000_000_000,
        append_log: AppendLogConfig {
            segment_bytes: 1 << 20,
            spare_segments: 1,
            ring_bytes: 0,
            index_bytes_max: 1 << 10,
            compress: false,
        },
        rocksdb: RocksConfig {
            block_cache_bytes: 1 << 20,
            write_buffer_bytes: 2 << 20,
            write_buffers_max: 3,
            compaction_style: CompactionStyle::Level,
        },
        memory: MemoryConfig {
            log_entries_max: 9,
            log_compacts: false,
            data_bytes_max: 1 << 20,
        },
        gc: GcPolicy {
            entries_max: 10,
            bytes_max: 4096,
            entries_trailing: 3,
        },
        ..Config::default()
    };
    assert_eq!(Config::from_yaml_str(EVERY_KEY).unwrap(), expected);
}

#[test]
fn every_key_of_the_driver_is_read() {
    let yaml = "
cluster_id: 7
store_id: 8
store: {tick_ms: 1, election_ticks: 8, heartbeat_ticks: 3, sleep_after_ticks: 0, gc_ticks: 4,
        region_bytes_max: 1MiB, waiting_bytes_max: 2MiB, apply_threads: 5}
transport:
  listen: 0.0.0.0:1
  stores: {2: \"b:2\"}
  tls: {ca: a.pem, cert: b.pem, key: c.pem}
  frame_bytes_max: 1MiB
  queue_bytes_max: 2MiB
  snapshot_bytes_max: 3MiB
  snapshot_bytes_per_second: 0
";
    let expected = Config {
        cluster_id: 7,
        store_id: 8,
        store: StoreConfig {
            tick_ms: 1,
            election_ticks: 8,
            heartbeat_ticks: 3,
            sleep_after_ticks: 0,
            gc_ticks: 4,
            region_bytes_max: 1 << 20,
            waiting_bytes_max: 2 << 20,
            apply_threads: 5,
        },
        transport: TransportConfig {
            listen: "0.0.0.0:1".into(),
            stores: [(2, "b:2".into())].into(),
            tls: Some(TlsConfig {
                ca: "a.pem".into(),
                cert: "b.pem".into(),
                key: "c.pem".into(),
            }),
            frame_bytes_max: 1 << 20,
            queue_bytes_max: 2 << 20,
            snapshot_bytes_max: 3 << 20,
            snapshot_bytes_per_second: 0,
        },
        ..Config::default()
    };
    assert_eq!(Config::from_yaml_str(yaml).unwrap(), expected);
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    let message = refusal("cluster_id: 1\ndurabilty: synced\n");
    assert!(message.contains("line 2"), "{message}");
    assert!(message.contains("unknown key `durabilty`"), "{message}");
    assert!(message.contains("did you mean `durability`?"), "{message}");

    let message = refusal("snapshot:\n  compresion: lz4\n");
    assert!(message.contains("line 2"), "{message}");
    assert!(message.contains("did you mean `compression`?"), "{message}");

    let message = refusal("storage: {}\n");
    assert!(!message.contains("did you mean"), "{message}");
    assert!(message.contains("create_if_missing"), "{message}");
}

#[test]
fn a_wrong_value_is_refused_with_its_line_and_what_was_expected() {
    let cases = [
        ("cluster_id: 1\nstore_id: many\n", "line 2", "integer"),
        ("cluster_id: -1\n", "line 1", "integer"),
        ("create_if_missing: 3\n", "line 1", "true or false"),
        ("log: rocksbd\n", "line 1", "did you mean `rocksdb`?"),
        ("rocksdb: {compaction_style: fifo}\n", "line 1", "level"),
        (
            "persistence: memfirst\n",
            "line 1",
            "did you mean `mem_first`?",
        ),
        (
            "flush_policy: {batched: {treshold: 1}}\n",
            "line 1",
            "did you mean `threshold`?",
        ),
        ("app: postgres\n", "line 1", "rocksdb or memory"),
        ("durability: os\n", "line 1", "synced or buffered"),
        ("entry_cache_bytes: 64MX\n", "line 1", "64KiB"),
        ("entry_cache_bytes: -5\n", "line 1", "64KiB"),
        ("entry_cache_bytes: [1]\n", "line 1", "64KiB"),
        ("gc: 5\n", "line 1", "mapping"),
        ("- a\n", "line 1", "mapping"),
        ("store_id: 1\nstore_id: 2\n", "line 2", "store_id"),
    ];
    for (yaml, line, expected) in cases {
        let message = refusal(yaml);
        assert!(message.contains(line), "{yaml:?}: {message}");
        assert!(message.contains(expected), "{yaml:?}: {message}");
    }
}

#[test]
fn a_value_out_of_range_is_refused_with_its_key() {
    let cases = [
        ("snapshot: {compression_level: 0}", "1 to 22"),
        ("snapshot: {compression_level: 23}", "1 to 22"),
        ("snapshot: {inline_bytes_max: 17MiB}", "0 to 16777216"),
        ("snapshot: {retry_backoff_ms: 0}", "at least 1"),
        ("entry_cache_bytes: 0", "at least 1"),
        ("append_log: {segment_bytes: 4KiB}", "16384 to 1073741824"),
        ("append_log: {segment_bytes: 100001}", "multiple of 4096"),
        ("append_log: {spare_segments: 65}", "0 to 64"),
        (
            "flush_policy: {batched: {threshold: 1, interval_ms: 10001}}",
            "0 to 10000",
        ),
        (
            "flush_policy: {batched: {interval_ms: 1, threshold: 0}}",
            "at least 1",
        ),
        ("rocksdb: {write_buffers_max: 1}", "2 to 64"),
        ("rocksdb: {block_cache_bytes: 0}", "at least 1"),
        ("rocksdb: {write_buffer_bytes: 1KiB}", "at least 65536"),
        ("gc: {entries_max: 0}", "at least 1"),
        ("gc: {bytes_max: 0}", "at least 1"),
        ("gc: {entries_max: 5}", "at most gc.entries_max, 5"),
    ];
    for (yaml, expected) in cases {
        let message = refusal(yaml);
        let last_word = yaml.rsplit_once(':').unwrap().0;
        let key = last_word.rsplit(['{', ' ']).next().unwrap();
        let key = if expected.contains("gc.entries_max") {
            "gc.entries_trailing"
        } else {
            key
        };
        assert!(message.contains(key), "{yaml:?}: {message}");
        assert!(message.contains(expected), "{yaml:?}: {message}");
    }
}

#[cfg(not(feature = "rocksdb"))]
#[test]
fn rocksdb_is_refused_by_a_build_without_it() {
    assert!(refusal("log: rocksdb").contains("feature `rocksdb`"));
    assert!(refusal("app: rocksdb").contains("feature `rocksdb`"));
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("absent.yaml");
    let error = Config::from_yaml_file(&path).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert!(error.to_string().contains("absent.yaml"), "{error}");
}

#[test]
fn a_refused_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.yaml");
    std::fs::write(&path, "cluster_id: 3\n").unwrap();
    assert_eq!(Config::from_yaml_file(&path).unwrap().cluster_id, 3);
    for bad in ["gc: {entries_max: 0}", "no_such_key: 1"] {
        std::fs::write(&path, bad).unwrap();
        let error = Config::from_yaml_file(&path).unwrap_err();
        assert!(error.to_string().contains("node.yaml"), "{error}");
    }
}

#[test]
fn sizes_are_read_with_their_unit_or_not_at_all() {
    let good = [
        ("0", 0),
        ("4096", 4096),
        ("5B", 5),
        ("64KiB", 64 << 10),
        ("3 MiB", 3 << 20),
        ("1GB", 1_000_000_000),
        ("16TiB", 16 << 40),
    ];
    for (text, bytes) in good {
        assert_eq!(crate::size::parse(text), Some(bytes), "{text}");
    }
    let bad = [
        "",
        "MiB",
        "1.5GB",
        "-1",
        "1 M",
        "64mib",
        "1e3",
        "99999999999TiB",
        "0x10",
    ];
    for text in bad {
        assert_eq!(crate::size::parse(text), None, "{text}");
    }
}

#[test]
fn edits_are_counted() {
    let cases = [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3)];
    for (a, b, expected) in cases {
        assert_eq!(words::edits(a, b), expected);
    }
}

/// The text of the refusal of `toml`.
#[track_caller]
fn toml_refusal(toml: &str) -> String {
    match Config::from_toml_str(toml) {
        Err(Error::Config { message, .. }) => message,
        other => panic!("expected a refusal of {toml:?}, got {other:?}"),
    }
}

#[test]
fn toml_says_the_same_as_yaml() {
    for text in ["", "\n", "# nothing but a comment\n"] {
        assert_eq!(Config::from_toml_str(text).unwrap(), Config::default());
    }
    let yaml = "
cluster_id: 1
store_id: 2
log: memory
app: memory
flush_policy: {batched: {threshold: 7, interval_ms: 5}}
entry_cache_bytes: 1GB
snapshot: {compression: gzip, compression_level: 9, total_bytes_max: 1GiB}
memory: {data_bytes_max: 4096, log_compacts: false}
transport: {listen: \"a:1\", stores: {1: \"b:2\", 20: \"c:3\"}, tls: {ca: a, cert: b, key: c}}
";
    let toml = "
cluster_id = 1
store_id = 2
log = 'memory'
app = \"memory\"
flush_policy = {batched = {threshold = 7, interval_ms = 0x5}}
entry_cache_bytes = '1GB'
memory = {data_bytes_max = 4_096, log_compacts = false}
snapshot.compression = 'gzip'
snapshot.compression_level = 9
snapshot.total_bytes_max = '1GiB'
[transport]
listen = 'a:1'
stores = {1 = 'b:2', 20 = 'c:3'}
tls = {ca = 'a', cert = 'b', key = 'c'}
";
    let (yaml, toml) = (Config::from_yaml_str(yaml), Config::from_toml_str(toml));
    assert_eq!(yaml.unwrap(), toml.unwrap());
}

#[test]
fn a_refusal_of_toml_has_its_line_and_what_was_expected() {
    let cases = [
        (
            "cluster_id = 1\ndurabilty = 'synced'\n",
            "line 2",
            "did you mean `durability`?",
        ),
        (
            "\n[snapshot]\ncompresion = 'lz4'\n",
            "line 3",
            "did you mean `compression`?",
        ),
        (
            "[snapsot]\ncompression = 'lz4'\n",
            "line 1",
            "did you mean `snapshot`?",
        ),
        ("cluster_id = 1\nstore_id = 'many'\n", "line 2", "integer"),
        ("store_id = -1\n", "line 1", "integer"),
        (
            "store_id = 99999999999999999999\n",
            "line 1",
            "number of 64 bits",
        ),
        ("create_if_missing = 3\n", "line 1", "true or false"),
        ("log = 'rocksbd'\n", "line 1", "did you mean `rocksdb`?"),
        ("log = 7\n", "line 1", "expected"),
        ("log = {rocksdb = 1}\n", "line 1", "the word alone"),
        ("entry_cache_bytes = '64MX'\n", "line 1", "64KiB"),
        ("entry_cache_bytes = 1.5\n", "line 1", "64KiB"),
        ("gc = 5\n", "line 1", "struct GcPolicy"),
        ("store_id = 1\nstore_id = 2\n", "line 2", "duplicate key"),
        ("store_id 1\n", "line 1", "="),
        ("[transport.stores]\nx = 'a:1'\n", "line 2", "integer"),
        ("\n[gc]\nentries_max = 0\n", "gc.entries_max", "at least 1"),
    ];
    for (toml, place, expected) in cases {
        let message = toml_refusal(toml);
        assert!(message.contains(place), "{toml:?}: {message}");
        assert!(message.contains(expected), "{toml:?}: {message}");
    }
}

#[test]
fn the_ending_of_a_file_says_how_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("node.toml", "cluster_id = 3\n"),
        ("node.yaml", "cluster_id: 3\n"),
        ("node.yml", "cluster_id: 3\n"),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        assert_eq!(Config::from_file(&path).unwrap().cluster_id, 3, "{name}");
        std::fs::write(&path, "cluster_id").unwrap();
        let error = Config::from_file(&path).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn os_means_buffered_whatever_else_is_said() {
    let config = Config::from_yaml_str("sync_policy: os").unwrap();
    assert_eq!(config.effective_durability(), Durability::Buffered);
    let config = Config::from_yaml_str("sync_policy: always").unwrap();
    assert_eq!(config.effective_durability(), Durability::Synced);
}
