//! How a node is set up: plain data, from code, YAML or TOML. Uses: types, persistence, error. Reads one
//! file when asked to, and never writes.
//!
//! Every key may be left out. A key that does not exist is an error, because a setting that is
//! silently ignored is a setting that somebody relies on. `docs/config.example.yaml` and
//! `docs/config.example.toml` show them all.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::peer_storage::{GcPolicy, SnapshotPolicy};
use crate::persistence::{FlushPolicy, PersistenceStrategy, SyncPolicy};
use crate::types::Durability;

mod backends;
mod document;
mod driver;
mod raft_storage;
mod snapshot;
mod toml_text;
mod words;
mod yaml;

pub use backends::{
    AppBackend, AppendLogConfig, CompactionStyle, LogBackend, MemoryConfig, RocksConfig,
};
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
    /// Which fsync a write to the log waits for; `os` takes `durability` back to `buffered`.
    pub sync_policy: SyncPolicy,
    /// How long a group of writes waits for others.
    pub flush_policy: FlushPolicy,
    /// Whether entries can be read before they are on the disk.
    pub persistence: PersistenceStrategy,
    /// Where the logs are kept.
    pub log: LogBackend,
    /// Where the application's data is kept.
    pub app: AppBackend,
    /// The indexes that the data of a node has, which is opened with an extractor for each of them:
    /// [`CompositeBuilder::extractor`](crate::CompositeBuilder::extractor).
    pub indexes: Vec<String>,
    /// How snapshots are kept and built.
    pub snapshot: SnapshotConfig,
    /// The memory for the newest entries of all regions together.
    #[serde(deserialize_with = "crate::size::bytes")]
    pub entry_cache_bytes: u64,
    /// The segments of the append-only log, where the logs are in it.
    pub append_log: AppendLogConfig,
    /// The memory of RocksDB, where a store is in it.
    pub rocksdb: RocksConfig,
    /// The limits of the stores that are in memory.
    pub memory: MemoryConfig,
    /// When a log is compacted.
    pub gc: GcPolicy,
    /// How its regions are driven, by a [`Store`](crate::Store).
    pub store: StoreConfig,
    /// How it reaches the other stores.
    pub transport: TransportConfig,
    /// How often a thread checks the health of the node, in milliseconds; 0 for never: then it is checked
    /// when it is asked for.
    pub health_interval_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        let rocksdb = cfg!(feature = "rocksdb");
        Config {
            create_if_missing: true,
            cluster_id: 0,
            store_id: 0,
            durability: Durability::Synced,
            sync_policy: SyncPolicy::default(),
            flush_policy: FlushPolicy::default(),
            persistence: PersistenceStrategy::default(),
            log: if rocksdb {
                LogBackend::AppendLog
            } else {
                LogBackend::Memory
            },
            app: if rocksdb {
                AppBackend::Rocksdb
            } else {
                AppBackend::Memory
            },
            indexes: Vec::new(),
            snapshot: SnapshotConfig::default(),
            entry_cache_bytes: 64 << 20,
            append_log: AppendLogConfig::default(),
            rocksdb: RocksConfig::default(),
            memory: MemoryConfig::default(),
            gc: GcPolicy::default(),
            store: StoreConfig::default(),
            transport: TransportConfig::default(),
            health_interval_ms: 10_000,
        }
    }
}

impl Config {
    /// Reads and checks a file: TOML if its name ends in `.toml`, else YAML.
    ///
    /// # Errors
    /// [`Error::Config`] with the file, the line, what is there and what was expected; [`Error::Io`]
    /// if it cannot be read.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        match path.extension().is_some_and(|ending| ending == "toml") {
            true => Config::from_toml_file(path),
            false => Config::from_yaml_file(path),
        }
    }

    /// Reads and checks a YAML file.
    ///
    /// # Errors
    /// As [`Config::from_file`].
    pub fn from_yaml_file(path: impl AsRef<Path>) -> Result<Self> {
        Config::read(path.as_ref(), yaml::parse)
    }

    /// Reads and checks a TOML file.
    ///
    /// # Errors
    /// As [`Config::from_file`].
    pub fn from_toml_file(path: impl AsRef<Path>) -> Result<Self> {
        Config::read(path.as_ref(), toml_text::parse)
    }

    /// Reads and checks the text of a YAML file. A text without any key is the default.
    ///
    /// # Errors
    /// [`Error::Config`] with the line, what is there and what was expected.
    pub fn from_yaml_str(text: &str) -> Result<Self> {
        Config::checked(yaml::parse(text), None)
    }

    /// Reads and checks the text of a TOML file. A text without any key is the default.
    ///
    /// ```
    /// let config = peerstore::Config::from_toml_str("[snapshot]\ncompression = \"lz4\"")?;
    /// assert_eq!(config.snapshot.compression, peerstore::Compression::Lz4);
    /// # Ok::<(), peerstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Config::from_yaml_str`].
    pub fn from_toml_str(text: &str) -> Result<Self> {
        Config::checked(toml_text::parse(text), None)
    }

    /// How durable writes to the log wait for each other. Where they are written behind their callers, they
    /// have waited before they come to the log.
    pub(crate) fn group_policy(&self) -> FlushPolicy {
        match self.persistence {
            PersistenceStrategy::DiskFirst => self.flush_policy,
            PersistenceStrategy::MemFirst => FlushPolicy::Immediate,
        }
    }

    /// The policy of the logs. A log in memory that is limited is compacted before it is full.
    pub(crate) fn effective_gc(&self) -> GcPolicy {
        let mut gc = self.gc;
        if let Some(limit) = self.circular_entries() {
            gc.entries_max = gc.entries_max.min(limit / 2).max(1);
            gc.entries_trailing = gc.entries_trailing.min(limit / 4);
        }
        gc
    }

    /// When regions make snapshots of their own accord.
    pub(crate) fn snapshot_policy(&self) -> SnapshotPolicy {
        let (entries, bytes) = (self.snapshot.after_entries, self.snapshot.after_bytes);
        let entries = match (entries, self.circular_entries()) {
            (entries, None) => entries,
            (0, Some(limit)) => (limit / 2).max(1),
            (entries, Some(limit)) => entries.min((limit / 2).max(1)),
        };
        SnapshotPolicy { entries, bytes }
    }

    /// The entries of a log whose space is used again.
    fn circular_entries(&self) -> Option<u64> {
        let limit = self.memory.log_entries_max;
        let is_circular = self.log == LogBackend::Memory && self.memory.log_compacts;
        (is_circular && limit > 0).then_some(limit)
    }

    fn read(path: &Path, parse: fn(&str) -> Result<Config, String>) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::io("read the config", path, source))?;
        Config::checked(parse(&text), Some(path))
    }

    fn checked(parsed: Result<Config, String>, path: Option<&Path>) -> Result<Self> {
        let checked = parsed.and_then(|config| config.check().map(|()| config));
        checked.map_err(|message| Error::Config {
            path: path.map(Path::to_path_buf),
            message,
        })
    }

    /// What an acknowledged write has survived, by `durability` and `sync_policy` together.
    pub fn effective_durability(&self) -> Durability {
        match self.sync_policy {
            SyncPolicy::Os => Durability::Buffered,
            SyncPolicy::Always | SyncPolicy::Batch => self.durability,
        }
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
        self.append_log.check()?;
        self.rocksdb.check()?;
        self.check_flush()?;
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
    fn check_flush(&self) -> Result<(), String> {
        let FlushPolicy::Batched {
            threshold,
            interval_ms,
        } = self.flush_policy
        else {
            return Ok(());
        };
        within(("flush_policy.batched.threshold", threshold), 1, u64::MAX)?;
        let interval = ("flush_policy.batched.interval_ms", interval_ms);
        within(interval, 0, FLUSH_INTERVAL_MS_MAX)
    }
}

/// Raft's own timeouts are not far from this.
const FLUSH_INTERVAL_MS_MAX: u64 = 10_000;

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
