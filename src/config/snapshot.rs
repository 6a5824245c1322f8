//! The part of the config that is about snapshots. Uses: snapshot_store. Never does I/O.

use std::time::Duration;

use serde::Deserialize;

use super::within;
use crate::snapshot_store::{Codec, Compression, Retention};

/// raft-rs keeps a message in memory, and so do transports: larger snapshots are files.
const INLINE_BYTES_LIMIT: u64 = 16 << 20;

/// An hour.
const HOUR: Duration = Duration::from_secs(3600);

/// How snapshots are kept and built.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Keys")]
pub struct SnapshotConfig {
    /// Where they are kept.
    pub backend: SnapshotBackend,
    /// How their files are compressed, by the keys `compression` and `compression_level`.
    pub compression: Compression,
    /// A snapshot of at most this size travels inside raft's message, a larger one as a file.
    pub inline_bytes_max: u64,
    /// The pause after a snapshot could not be built, before it is tried again.
    pub retry_backoff_ms: u64,
    /// How many snapshots of a region are kept beyond raft's use of them; 0 for no limit.
    pub keep_latest: u64,
    /// For how long they are kept, in hours; 0 for no limit.
    pub max_age_hours: u64,
    /// What the files of all regions together may take; 0 for no limit.
    pub total_bytes_max: u64,
    /// For how long what has come of a file that broke off is kept, in hours.
    pub partial_age_hours: u64,
    /// After how many applied entries a region takes a snapshot of its own accord, and drops what it covers
    /// from the log but for the entries that trail; 0 for never.
    pub after_entries: u64,
    /// After how many bytes of them; 0 for never.
    pub after_bytes: u64,
}

/// Where the snapshots of a node are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotBackend {
    /// In files, checksummed block by block.
    CompressedFile,
    /// In memory: gone with the process. For tests.
    #[serde(alias = "memory_snapshot")]
    Memory,
}

/// The keys as they are in a file: the codec has one, its level another.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    backend: SnapshotBackend,
    compression: Codec,
    compression_level: Option<i32>,
    #[serde(deserialize_with = "crate::size::bytes")]
    inline_bytes_max: u64,
    retry_backoff_ms: u64,
    keep_latest: u64,
    max_age_hours: u64,
    #[serde(deserialize_with = "crate::size::bytes")]
    total_bytes_max: u64,
    partial_age_hours: u64,
    after_entries: u64,
    #[serde(deserialize_with = "crate::size::bytes")]
    after_bytes: u64,
}

impl Default for Keys {
    fn default() -> Self {
        let config = SnapshotConfig::default();
        Keys {
            backend: config.backend,
            compression: config.compression.codec(),
            compression_level: None,
            inline_bytes_max: config.inline_bytes_max,
            retry_backoff_ms: config.retry_backoff_ms,
            keep_latest: config.keep_latest,
            max_age_hours: config.max_age_hours,
            total_bytes_max: config.total_bytes_max,
            partial_age_hours: config.partial_age_hours,
            after_entries: config.after_entries,
            after_bytes: config.after_bytes,
        }
    }
}

impl TryFrom<Keys> for SnapshotConfig {
    type Error = String;

    fn try_from(keys: Keys) -> Result<Self, String> {
        let compression = Compression::of(keys.compression, keys.compression_level);
        Ok(SnapshotConfig {
            backend: keys.backend,
            compression: compression.map_err(at_level)?,
            inline_bytes_max: keys.inline_bytes_max,
            retry_backoff_ms: keys.retry_backoff_ms,
            keep_latest: keys.keep_latest,
            max_age_hours: keys.max_age_hours,
            total_bytes_max: keys.total_bytes_max,
            partial_age_hours: keys.partial_age_hours,
            after_entries: keys.after_entries,
            after_bytes: keys.after_bytes,
        })
    }
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        SnapshotConfig {
            backend: SnapshotBackend::CompressedFile,
            compression: Compression::default(),
            inline_bytes_max: 64 << 10,
            retry_backoff_ms: 1_000,
            keep_latest: 0,
            max_age_hours: 0,
            total_bytes_max: 0,
            partial_age_hours: 24,
            after_entries: 0,
            after_bytes: 0,
        }
    }
}

impl SnapshotConfig {
    /// What is kept of the snapshots that raft has no more use for; nothing if none of them is.
    pub fn retention(&self) -> Option<Retention> {
        let limit = |value: u64| (value > 0).then_some(value);
        let retention = Retention {
            keep_latest: limit(self.keep_latest),
            max_age: limit(self.max_age_hours).map(hours),
            total_bytes_max: limit(self.total_bytes_max),
        };
        (!retention.is_unlimited()).then_some(retention)
    }

    /// For how long what has come of a file that broke off is kept.
    pub(crate) fn partial_age_max(&self) -> Duration {
        hours(self.partial_age_hours)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.compression.check().map_err(at_level)?;
        let inline = ("snapshot.inline_bytes_max", self.inline_bytes_max);
        within(inline, 0, INLINE_BYTES_LIMIT)?;
        let backoff = ("snapshot.retry_backoff_ms", self.retry_backoff_ms);
        within(backoff, 1, u64::MAX)
    }
}

fn at_level(what: String) -> String {
    format!("snapshot.compression_level: {what}")
}

fn hours(count: u64) -> Duration {
    HOUR.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}
