//! How a node is set up: plain data, from code or from a YAML file. Uses: types, error. Reads one
//! file when asked to, and never writes.
//!
//! Every key may be left out. A key that does not exist is an error, because a setting that is
//! silently ignored is a setting that somebody relies on. `docs/config.example.yaml` shows them all.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::peer_storage::GcPolicy;
use crate::types::Durability;

mod driver;
mod snapshot;
mod yaml;

pub use driver::{StoreConfig, TlsConfig, TransportConfig};
pub use snapshot::{SnapshotBackend, SnapshotConfig};

#[cfg(test)]
mod tests;

/// The settings of one node.
///
/// ```
/// let config = peerstore::Config::from_yaml_str("entry_cache_bytes: 16MiB")?;
/// assert_eq!(config.entry_cache_bytes, 16 << 20);
/// assert!(config.create_if_missing);
/// # Ok::<(), peerstore::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether a directory that is missing or empty becomes a new store.
    pub create_if_missing: bool,
    /// The cluster that the store belongs to; 0 is not compared with what the store says.
    pub cluster_id: u64,
    /// The id of the store in its cluster; 0 is not compared with what the store says.
    pub store_id: u64,
    /// What an acknowledged write has survived.
    pub durability: Durability,
    /// Where the logs are kept.
    pub log: LogBackend,
    /// Where the application's data is kept.
    pub app: AppBackend,
    /// How snapshots are kept and built.
    pub snapshot: SnapshotConfig,
    /// The memory for the newest entries of all regions together.
    #[serde(deserialize_with = "crate::size::bytes")]
    pub entry_cache_bytes: u64,
    /// The segments of the append-only log, where the logs are in it.
    pub append_log: AppendLogConfig,
    /// The memory of RocksDB, where a store is in it.
    pub rocksdb: RocksConfig,
    /// When a log is compacted.
    pub gc: GcPolicy,
    /// How its regions are driven, by a [`Store`](crate::Store).
    pub store: StoreConfig,
    /// How it reaches the other stores.
    pub transport: TransportConfig,
}

/// Where the logs of a node are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogBackend {
    /// In RocksDB.
    Rocksdb,
    /// In segment files of this crate's own, which are only appended to.
    AppendLog,
    /// In memory: gone with the process. For tests.
    Memory,
}

/// Where the application's data is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppBackend {
    /// In RocksDB.
    Rocksdb,
    /// In memory: gone with the process. For tests.
    Memory,
}

/// The segments of the append-only log.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AppendLogConfig {
    /// The size of a segment file, a multiple of 4 KiB.
    #[serde(deserialize_with = "crate::size::bytes")]
    pub segment_bytes: u64,
    /// How many segments are kept in reserve.
    pub spare_segments: u64,
    /// 0 syncs a group of writes as soon as it is there; more waits so long between two fsyncs.
    pub flush_interval_ms: u64,
    /// The memory for the newest frames of all regions.
    #[serde(deserialize_with = "crate::size::bytes")]
    pub ring_bytes: u64,
    /// The memory for the places of entries, of which old ones are dropped beyond it.
    #[serde(deserialize_with = "crate::size::bytes")]
    pub index_bytes_max: u64,
    /// Whether entries are compressed where that pays.
    pub compress: bool,
}

/// The memory of RocksDB.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RocksConfig {
    /// The cache of blocks read from disk, shared by all keyspaces.
    #[serde(deserialize_with = "crate::size::bytes")]
    pub block_cache_bytes: u64,
    /// What one keyspace collects in memory before it writes a file.
    #[serde(deserialize_with = "crate::size::bytes")]
    pub write_buffer_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        let rocksdb = cfg!(feature = "rocksdb");
        Config {
            create_if_missing: true,
            cluster_id: 0,
            store_id: 0,
            durability: Durability::Synced,
            log: if rocksdb {
                LogBackend::Rocksdb
            } else {
                LogBackend::Memory
            },
            app: if rocksdb {
                AppBackend::Rocksdb
            } else {
                AppBackend::Memory
            },
            snapshot: SnapshotConfig::default(),
            entry_cache_bytes: 64 << 20,
            append_log: AppendLogConfig::default(),
            rocksdb: RocksConfig::default(),
            gc: GcPolicy::default(),
            store: StoreConfig::default(),
            transport: TransportConfig::default(),
        }
    }
}

impl Default for AppendLogConfig {
    fn default() -> Self {
        AppendLogConfig {
            segment_bytes: 32 << 20,
            spare_segments: 2,
            flush_interval_ms: 0,
            ring_bytes: 4 << 20,
            index_bytes_max: 256 << 20,
            compress: true,
        }
    }
}

impl Default for RocksConfig {
    fn default() -> Self {
        RocksConfig {
            block_cache_bytes: 256 << 20,
            write_buffer_bytes: 64 << 20,
        }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`Error::Config`] with the file, the line, what is there and what was expected; [`Error::Io`]
    /// if it cannot be read.
    pub fn from_yaml_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::io("read the config", path, source))?;
        Config::parse(&text, Some(path))
    }

    /// Reads and checks the text of a file. A text without any key is the default.
    ///
    /// # Errors
    /// [`Error::Config`] with the line, what is there and what was expected.
    pub fn from_yaml_str(text: &str) -> Result<Self> {
        Config::parse(text, None)
    }

    fn parse(text: &str, path: Option<&Path>) -> Result<Self> {
        let refuse = |message| Error::Config {
            path: path.map(Path::to_path_buf),
            message,
        };
        let config = yaml::parse(text).map_err(refuse)?;
        config.check().map_err(refuse)?;
        Ok(config)
    }

    /// Checks the values, as reading a file does. For a config that was filled in by code.
    ///
    /// # Errors
    /// [`Error::Config`] with the key, its value and what was expected.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|message| Error::Config {
            path: None,
            message,
        })
    }

    fn check(&self) -> Result<(), String> {
        self.check_append_log()?;
        let has_rocksdb = cfg!(feature = "rocksdb");
        let in_rocksdb = [
            ("log", self.log == LogBackend::Rocksdb),
            ("app", self.app == AppBackend::Rocksdb),
        ];
        if let Some((key, _)) = in_rocksdb.iter().find(|(_, used)| *used && !has_rocksdb) {
            let others = if *key == "log" {
                "append_log or memory"
            } else {
                "memory"
            };
            return Err(format!(
                "{key}: got rocksdb, expected {others}: this build is without the feature `rocksdb`"
            ));
        }
        let gc = &self.gc;
        self.snapshot.check()?;
        let buffer = (
            "rocksdb.write_buffer_bytes",
            self.rocksdb.write_buffer_bytes,
        );
        within(buffer, WRITE_BUFFER_BYTES_MIN, u64::MAX)?;
        let cache = ("rocksdb.block_cache_bytes", self.rocksdb.block_cache_bytes);
        within(cache, 1, u64::MAX)?;
        within(("entry_cache_bytes", self.entry_cache_bytes), 1, u64::MAX)?;
        within(("gc.bytes_max", gc.bytes_max), 1, u64::MAX)?;
        within(("gc.entries_max", gc.entries_max), 1, u64::MAX)?;
        self.store.check()?;
        self.transport.check(self.cluster_id, self.store_id)?;
        if gc.entries_trailing > gc.entries_max {
            let (trailing, max) = (gc.entries_trailing, gc.entries_max);
            return Err(format!(
                "gc.entries_trailing: got {trailing}, expected at most gc.entries_max, {max}"
            ));
        }
        Ok(())
    }
}

impl Config {
    fn check_append_log(&self) -> Result<(), String> {
        let log = &self.append_log;
        let segment = ("append_log.segment_bytes", log.segment_bytes);
        within(segment, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)?;
        if !log.segment_bytes.is_multiple_of(SEGMENT_STEP) {
            let got = log.segment_bytes;
            return Err(format!(
                "append_log.segment_bytes: got {got}, expected a multiple of {SEGMENT_STEP}"
            ));
        }
        let spares = ("append_log.spare_segments", log.spare_segments);
        within(spares, 0, SPARE_SEGMENTS_MAX)?;
        let interval = ("append_log.flush_interval_ms", log.flush_interval_ms);
        within(interval, 0, FLUSH_INTERVAL_MS_MAX)
    }
}

/// What the append-only log takes.
const SEGMENT_BYTES_MIN: u64 = 16 << 10;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
const SEGMENT_STEP: u64 = 4 << 10;
/// More in reserve is a mistake: each is a file of its full size.
const SPARE_SEGMENTS_MAX: u64 = 64;
/// Raft's own timeouts are not far from this.
const FLUSH_INTERVAL_MS_MAX: u64 = 10_000;

/// RocksDB itself raises smaller ones to this.
const WRITE_BUFFER_BYTES_MIN: u64 = 64 << 10;

/// Whether the value of a key lies in `min..=max`.
fn within((key, value): (&str, u64), min: u64, max: u64) -> Result<(), String> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let expected = if max == u64::MAX {
        format!("at least {min}")
    } else {
        format!("{min} to {max}")
    };
    Err(format!("{key}: got {value}, expected {expected}"))
}
