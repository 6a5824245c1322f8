//! Where a node keeps what it has, and with how much memory and disk. Uses: nothing of ours. Never does I/O.

use serde::Deserialize;

use super::within;

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
    /// The cache of blocks read from disk, shared by all keyspaces of a database.
    #[serde(deserialize_with = "crate::size::bytes")]
    pub block_cache_bytes: u64,
    /// What one keyspace collects in memory before it writes a file.
    #[serde(deserialize_with = "crate::size::bytes")]
    pub write_buffer_bytes: u64,
    /// How many of these one keyspace may have, full ones that are being written among them.
    pub write_buffers_max: u64,
    /// How files are merged.
    pub compaction_style: CompactionStyle,
}

/// How RocksDB merges its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompactionStyle {
    /// In levels, each ten times the one before. RocksDB's others are not offered: `fifo` drops what is
    /// old, and a database cannot change to `universal` and back.
    #[default]
    Level,
}

/// The limits of the stores that are in memory; 0 for none.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// How many entries the logs of all regions have together. A write of more is refused with
    /// [`Error::StoreFull`](crate::Error::StoreFull).
    pub log_entries_max: u64,
    /// Whether a log that fills up has a snapshot taken and its front dropped, before it is full: its space
    /// is used again, and nothing that was not applied is ever lost.
    pub log_compacts: bool,
    /// What the application's keys and values take. A batch beyond is refused with
    /// [`Error::StoreFull`](crate::Error::StoreFull), whole.
    #[serde(deserialize_with = "crate::size::bytes")]
    pub data_bytes_max: u64,
}

impl Default for AppendLogConfig {
    fn default() -> Self {
        AppendLogConfig {
            segment_bytes: 32 << 20,
            spare_segments: 2,
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
            write_buffers_max: 4,
            compaction_style: CompactionStyle::Level,
        }
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        MemoryConfig {
            log_entries_max: 0,
            log_compacts: true,
            data_bytes_max: 0,
        }
    }
}

impl AppendLogConfig {
    /// Says what is wrong, if something is.
    pub(super) fn check(&self) -> Result<(), String> {
        let segment = ("append_log.segment_bytes", self.segment_bytes);
        within(segment, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)?;
        if !self.segment_bytes.is_multiple_of(SEGMENT_STEP) {
            let got = self.segment_bytes;
            return Err(format!(
                "append_log.segment_bytes: got {got}, expected a multiple of {SEGMENT_STEP}"
            ));
        }
        let spares = ("append_log.spare_segments", self.spare_segments);
        within(spares, 0, SPARE_SEGMENTS_MAX)
    }
}

impl RocksConfig {
    /// Says what is wrong, if something is.
    pub(super) fn check(&self) -> Result<(), String> {
        let buffer = ("rocksdb.write_buffer_bytes", self.write_buffer_bytes);
        within(buffer, WRITE_BUFFER_BYTES_MIN, u64::MAX)?;
        let buffers = ("rocksdb.write_buffers_max", self.write_buffers_max);
        within(buffers, 2, WRITE_BUFFERS_LIMIT)?;
        let cache = ("rocksdb.block_cache_bytes", self.block_cache_bytes);
        within(cache, 1, u64::MAX)
    }
}

/// What the append-only log takes.
const SEGMENT_BYTES_MIN: u64 = 16 << 10;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
const SEGMENT_STEP: u64 = 4 << 10;
/// More in reserve is a mistake: each is a file of its full size.
const SPARE_SEGMENTS_MAX: u64 = 64;

/// RocksDB itself raises smaller ones to this.
const WRITE_BUFFER_BYTES_MIN: u64 = 64 << 10;
/// With one alone every write waits for the disk; more than this is a mistake.
const WRITE_BUFFERS_LIMIT: u64 = 64;
