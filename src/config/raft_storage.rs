//! The section `raft_storage`: the three layers of a node as two other designs spell them, so that their
//! files can be read. Uses: snapshot_store, persistence. Never does I/O.
//!
//! | layer | in the one | in the other |
//! |---|---|---|
//! | log | `log_backend: {type, config}` | `log_storage: {backend_type, config}` |
//! | snapshots | `snapshot_backend` | `snapshot_storage` |
//! | data | `app_backend` | `app_storage` |

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::{AppBackend, CompactionStyle, Config, LogBackend, SnapshotBackend};
use crate::persistence::{FlushPolicy, PersistenceStrategy, SyncPolicy};
use crate::snapshot_store::{Codec, Compression};

const MIB: u64 = 1 << 20;

/// The section.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RaftStorage {
    #[serde(alias = "log_storage")]
    log_backend: Option<LogLayer>,
    #[serde(alias = "snapshot_storage")]
    snapshot_backend: Option<SnapshotLayer>,
    #[serde(alias = "app_storage")]
    app_backend: Option<AppLayer>,
    persistence: Option<PersistenceStrategy>,
    #[serde(deserialize_with = "interval_ms")]
    health_check_interval: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogLayer {
    #[serde(rename = "type", alias = "backend_type")]
    backend: LogType,
    #[serde(default)]
    config: LogKeys,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum LogType {
    AppendLog,
    MemoryLog,
    Rocksdb,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LogKeys {
    buffer_size: Option<u64>,
    flush_interval_ms: Option<u64>,
    sync_policy: Option<SyncPolicy>,
    checksum_validation: Option<bool>,
    max_entries: Option<u64>,
    circular_buffer: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotLayer {
    #[serde(rename = "type", alias = "backend_type")]
    backend: SnapshotBackend,
    #[serde(default)]
    config: SnapshotKeys,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SnapshotKeys {
    compression: Option<Codec>,
    compression_level: Option<i32>,
    retention: Option<RetentionKeys>,
    max_snapshots: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RetentionKeys {
    strategy: RetentionStrategy,
    keep_count: Option<u64>,
    max_age_hours: Option<u64>,
    #[serde(default, deserialize_with = "crate::size::optional_bytes")]
    max_total_size: Option<u64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RetentionStrategy {
    KeepLatest,
    KeepByAge,
    Combined,
    SizeBasedLru,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AppLayer {
    #[serde(rename = "type", alias = "backend_type")]
    backend: AppBackend,
    #[serde(default)]
    config: AppKeys,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AppKeys {
    #[serde(deserialize_with = "crate::size::optional_bytes")]
    cache_size: Option<u64>,
    cache_size_mb: Option<u64>,
    write_buffer_size_mb: Option<u64>,
    max_write_buffer_number: Option<u64>,
    compaction_style: Option<CompactionStyle>,
    max_size_mb: Option<u64>,
}

impl RaftStorage {
    /// Sets what it says, or says what is wrong with it.
    pub fn put_into(self, config: &mut Config) -> Result<(), String> {
        if let Some(layer) = self.log_backend {
            layer.put_into(config)?;
        }
        if let Some(layer) = self.snapshot_backend {
            layer.put_into(config)?;
        }
        if let Some(layer) = self.app_backend {
            layer.put_into(config)?;
        }
        set(&mut config.persistence, self.persistence);
        set(&mut config.health_interval_ms, self.health_check_interval);
        Ok(())
    }
}

impl LogLayer {
    fn put_into(self, config: &mut Config) -> Result<(), String> {
        let keys = self.config;
        if keys.checksum_validation == Some(false) {
            let expected = "expected true: every frame that is read is checked";
            return Err(format!("log checksum_validation: got false, {expected}"));
        }
        config.log = match self.backend {
            LogType::AppendLog => LogBackend::AppendLog,
            LogType::MemoryLog => LogBackend::Memory,
            LogType::Rocksdb => LogBackend::Rocksdb,
        };
        let in_memory = self.backend == LogType::MemoryLog;
        only_of("memory_log", in_memory, "max_entries", keys.max_entries)?;
        let circular = keys.circular_buffer;
        only_of("memory_log", in_memory, "circular_buffer", circular)?;
        set(&mut config.memory.log_entries_max, keys.max_entries);
        set(&mut config.memory.log_compacts, circular);
        set(&mut config.sync_policy, keys.sync_policy);
        if keys.buffer_size.is_some() || keys.flush_interval_ms.is_some() {
            config.flush_policy = FlushPolicy::Batched {
                threshold: keys.buffer_size.unwrap_or(u64::MAX),
                interval_ms: keys.flush_interval_ms.unwrap_or(0),
            };
        }
        Ok(())
    }
}

impl SnapshotLayer {
    fn put_into(self, config: &mut Config) -> Result<(), String> {
        let (keys, snapshot) = (self.config, &mut config.snapshot);
        snapshot.backend = self.backend;
        let in_memory = self.backend == SnapshotBackend::Memory;
        let kind = "compressed_file";
        only_of(kind, !in_memory, "compression", keys.compression)?;
        only_of(
            kind,
            !in_memory,
            "compression_level",
            keys.compression_level,
        )?;
        only_of(
            "memory_snapshot",
            in_memory,
            "max_snapshots",
            keys.max_snapshots,
        )?;
        if keys.compression.is_some() || keys.compression_level.is_some() {
            let codec = keys.compression.unwrap_or(snapshot.compression.codec());
            snapshot.compression = Compression::of(codec, keys.compression_level)
                .map_err(|what| format!("snapshot compression_level: {what}"))?;
        }
        set(&mut snapshot.keep_latest, keys.max_snapshots);
        if let Some(retention) = keys.retention {
            let [count, age, size] = retention.limits()?;
            set(&mut snapshot.keep_latest, count);
            set(&mut snapshot.max_age_hours, age);
            set(&mut snapshot.total_bytes_max, size);
        }
        Ok(())
    }
}

impl RetentionKeys {
    /// Count, age in hours and bytes, as far as the strategy asks for them; its other limits do not count.
    fn limits(&self) -> Result<[Option<u64>; 3], String> {
        let need = |key: &str, value: Option<u64>| match value {
            Some(1..) => Ok(value),
            Some(_) => Err(format!("retention {key}: got 0, expected at least 1")),
            None => Err(format!(
                "retention {key}: got nothing, expected it with this strategy"
            )),
        };
        let count = || need("keep_count", self.keep_count);
        let age = || need("max_age_hours", self.max_age_hours);
        Ok(match self.strategy {
            RetentionStrategy::KeepLatest => [count()?, None, None],
            RetentionStrategy::KeepByAge => [None, age()?, None],
            RetentionStrategy::Combined => [count()?, age()?, None],
            RetentionStrategy::SizeBasedLru => {
                [None, None, need("max_total_size", self.max_total_size)?]
            }
        })
    }
}

impl AppLayer {
    fn put_into(self, config: &mut Config) -> Result<(), String> {
        let keys = self.config;
        config.app = self.backend;
        let in_memory = self.backend == AppBackend::Memory;
        only_of("memory", in_memory, "max_size_mb", keys.max_size_mb)?;
        let rocksdb = "rocksdb";
        only_of(rocksdb, !in_memory, "cache_size", keys.cache_size)?;
        only_of(rocksdb, !in_memory, "cache_size_mb", keys.cache_size_mb)?;
        let (buffer, buffers) = (keys.write_buffer_size_mb, keys.max_write_buffer_number);
        only_of(rocksdb, !in_memory, "write_buffer_size_mb", buffer)?;
        only_of(rocksdb, !in_memory, "max_write_buffer_number", buffers)?;
        let style = keys.compaction_style;
        only_of(rocksdb, !in_memory, "compaction_style", style)?;
        if keys.cache_size.is_some() && keys.cache_size_mb.is_some() {
            return Err("cache_size stands beside cache_size_mb, expected one of them".into());
        }
        let cache = keys.cache_size.or(keys.cache_size_mb.map(mib));
        set(&mut config.rocksdb.block_cache_bytes, cache);
        set(&mut config.rocksdb.write_buffer_bytes, buffer.map(mib));
        set(&mut config.rocksdb.write_buffers_max, buffers);
        set(&mut config.rocksdb.compaction_style, style);
        set(&mut config.memory.data_bytes_max, keys.max_size_mb.map(mib));
        Ok(())
    }
}

fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

fn mib(count: u64) -> u64 {
    count.saturating_mul(MIB)
}

/// Refuses a key that says nothing about the backend that was chosen.
fn only_of<T>(backend: &str, is_it: bool, key: &str, value: Option<T>) -> Result<(), String> {
    match value {
        Some(_) if !is_it => Err(format!(
            "{key}: got a value, expected none: it is a key of the backend {backend}"
        )),
        _ => Ok(()),
    }
}

/// A time such as `500ms`, `30s` or `5m`, in milliseconds.
fn interval_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    deserializer.deserialize_str(IntervalVisitor).map(Some)
}

struct IntervalVisitor;

impl Visitor<'_> for IntervalVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time such as 500ms, 30s or 5m")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<u64, E> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = match unit.trim() {
            "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            _ => None,
        };
        let ms = number.parse::<u64>().ok().zip(factor);
        ms.and_then(|(number, factor)| number.checked_mul(factor))
            .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests;
