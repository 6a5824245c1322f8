//! What a user may choose about RocksDB, and how each column family is tuned for what it holds.
//! Uses: types, error, keys, app_store. Never does I/O.

use std::sync::Arc;

use rocksdb::statistics::StatsLevel;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompactionStyle, DBCompressionType,
    DBRecoveryMode, Options,
};

use super::reclaim::{Filters, Reclaim};
use crate::app_store::Keyspace;
use crate::error::{Error, Result};
use crate::keys;

/// How blocks are compressed on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RocksCompression {
    /// As they are.
    None,
    /// Faster than most disks.
    #[default]
    Lz4,
    /// Smaller, for more time.
    Zstd,
}

/// The choices that matter. Each database has its own.
///
/// ```
/// let options = peerstore::rocks::RocksOptions::default();
/// assert!(options.create_if_missing);
/// ```
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RocksOptions {
    /// Whether a missing or empty directory becomes a new store. Default: true.
    pub create_if_missing: bool,
    /// Bytes of uncompressed blocks kept in memory, with their indexes and filters. Default: 128 MiB.
    pub block_cache_bytes: usize,
    /// Bytes of the largest memtable before it is written out; lesser column families take a fraction.
    /// Default: 64 MiB. At least 64 KiB.
    pub write_buffer_bytes: usize,
    /// How many memtables a column family may have, full ones that are being written out among them.
    /// Default: 4. At least 2.
    pub write_buffers_max: u32,
    /// Bytes of the write-ahead log before the oldest memtable is written out: what an open after a
    /// crash has to replay at most. Default: 512 MiB. At least one write buffer.
    pub wal_bytes_max: u64,
    /// Default: LZ4.
    pub compression: RocksCompression,
    /// How many table files are kept open. Default: 1,024. At least 16.
    pub max_open_files: u32,
    /// Threads that write memtables out and compact. Default: 4. At least 1.
    pub background_jobs: u32,
}

impl Default for RocksOptions {
    fn default() -> Self {
        RocksOptions {
            create_if_missing: true,
            block_cache_bytes: 128 << 20,
            write_buffer_bytes: 64 << 20,
            write_buffers_max: 4,
            wal_bytes_max: 512 << 20,
            compression: RocksCompression::Lz4,
            max_open_files: 1024,
            background_jobs: 4,
        }
    }
}

/// Bytes of the memtable of a column family that holds one small value per region.
const STATE_BUFFER_BYTES: usize = 4 << 20;

impl RocksOptions {
    /// # Errors
    /// `Config`, naming the field.
    pub(super) fn check(&self) -> Result<()> {
        let message = if self.write_buffer_bytes < 64 << 10 {
            format!(
                "write_buffer_bytes is {}, expected at least 65536",
                self.write_buffer_bytes
            )
        } else if !(2..=64).contains(&self.write_buffers_max) {
            let got = self.write_buffers_max;
            format!("write_buffers_max is {got}, expected 2 to 64")
        } else if self.wal_bytes_max < self.write_buffer_bytes as u64 {
            let (wal, buffer) = (self.wal_bytes_max, self.write_buffer_bytes);
            format!("wal_bytes_max is {wal}, expected at least write_buffer_bytes, {buffer}")
        } else if !(16..=1 << 20).contains(&self.max_open_files) {
            format!(
                "max_open_files is {}, expected 16 to 1048576",
                self.max_open_files
            )
        } else if !(1..=64).contains(&self.background_jobs) {
            format!(
                "background_jobs is {}, expected 1 to 64",
                self.background_jobs
            )
        } else {
            return Ok(());
        };
        Err(Error::Config {
            path: None,
            message,
        })
    }

    /// What holds for a whole database.
    pub(super) fn database(&self) -> Options {
        let mut options = Options::default();
        options.set_paranoid_checks(true);
        // Replays up to the first damage: a power cut leaves a torn tail, and its store must open. That
        // damage is only a tail is checked before, by `wal`: this mode alone would not notice.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        // A log file that vanished, or lost a part that was synced, is noticed at open.
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_max_total_wal_size(self.wal_bytes_max);
        options.set_max_open_files(i32::try_from(self.max_open_files).unwrap_or(i32::MAX));
        options.set_max_background_jobs(i32::try_from(self.background_jobs).unwrap_or(i32::MAX));
        // Table files go to the disk as they are written, so that a compaction's last fsync does not
        // hold up the log's.
        options.set_bytes_per_sync(1 << 20);
        options.set_keep_log_file_num(4);
        options.set_max_log_file_size(8 << 20);
        options.set_stats_dump_period_sec(0);
        // Counters only, no clocks: they tell how many fsyncs there really were, which RocksDB alone
        // knows, since it gathers concurrent writers into one.
        options.enable_statistics();
        options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
        options
    }

    fn compression(&self) -> DBCompressionType {
        match self.compression {
            RocksCompression::None => DBCompressionType::None,
            RocksCompression::Lz4 => DBCompressionType::Lz4,
            RocksCompression::Zstd => DBCompressionType::Zstd,
        }
    }

    /// A column family whose memtable takes `buffer_bytes`.
    fn family(&self, buffer_bytes: usize, table: &BlockBasedOptions) -> Options {
        let mut options = Options::default();
        options.set_write_buffer_size(buffer_bytes);
        let buffers = i32::try_from(self.write_buffers_max).unwrap_or(i32::MAX);
        options.set_max_write_buffer_number(buffers);
        options.set_compaction_style(DBCompactionStyle::Level);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_compression_type(self.compression());
        options.set_block_based_table_factory(table);
        options
    }

    /// Blocks in `cache`, with their indexes and filters, so that memory is bounded by one number.
    fn table(&self, cache: &Cache, block_bytes: usize) -> BlockBasedOptions {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(cache);
        table.set_block_size(block_bytes);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table
    }

    /// One small value per region, overwritten again and again: a small memtable takes it all in.
    fn state_family(&self, cache: &Cache) -> Options {
        self.family(
            self.write_buffer_bytes.min(STATE_BUFFER_BYTES),
            &self.table(cache, 4 << 10),
        )
    }

    /// The column families of the log.
    pub(super) fn log_families(&self) -> Vec<ColumnFamilyDescriptor> {
        let cache = Cache::new_lru_cache(self.block_cache_bytes);
        // Entries are written in order, read in order by range, and soon removed. So: the largest
        // memtables, in which most entries die before they reach a table; large blocks for scans; no
        // bloom filter, because entries that are asked for are there.
        let mut log = self.family(self.write_buffer_bytes, &self.table(&cache, 32 << 10));
        // Tables are written once from the memtable and mostly dropped whole, so few levels and a
        // first level as large as what four memtables make.
        let buffers = u64::from(self.write_buffers_max);
        log.set_max_bytes_for_level_base(buffers * self.write_buffer_bytes as u64);
        log.set_target_file_size_base(self.write_buffer_bytes as u64);
        vec![
            ColumnFamilyDescriptor::new(keys::RAFT_LOG, log),
            ColumnFamilyDescriptor::new(keys::RAFT_STATE, self.state_family(&cache)),
            ColumnFamilyDescriptor::new(
                rocksdb::DEFAULT_COLUMN_FAMILY_NAME,
                self.state_family(&cache),
            ),
        ]
    }

    /// The column families of the data, in the order of [`Keyspace::ALL`], and the unused default.
    pub(super) fn data_families(&self, reclaim: &Arc<Reclaim>) -> Vec<ColumnFamilyDescriptor> {
        let cache = Cache::new_lru_cache(self.block_cache_bytes);
        let mut families: Vec<_> = Keyspace::ALL
            .iter()
            .map(|keyspace| {
                let options = match keyspace {
                    Keyspace::Data => self.user_family(&cache, self.write_buffer_bytes),
                    Keyspace::Index => {
                        self.user_family(&cache, self.write_buffer_bytes.div_ceil(4))
                    }
                    Keyspace::Ttl => {
                        let buffer_bytes = self.write_buffer_bytes.div_ceil(4);
                        let mut options = self.user_family(&cache, buffer_bytes);
                        options.set_compaction_filter_factory(Filters(Arc::clone(reclaim)));
                        // Where nothing is written any more, what has expired goes after a day.
                        options.set_periodic_compaction_seconds(24 * 60 * 60);
                        options
                    }
                    _ => self.state_family(&cache),
                };
                ColumnFamilyDescriptor::new(keyspace.name(), options)
            })
            .collect();
        let default = rocksdb::DEFAULT_COLUMN_FAMILY_NAME;
        families.push(ColumnFamilyDescriptor::new(
            default,
            self.state_family(&cache),
        ));
        families
    }

    /// The application's keys: written and read at random, often asked for in vain, so a bloom filter
    /// of 10 bits a key (1 % false positives) spares the read of a block in every table.
    fn user_family(&self, cache: &Cache, buffer_bytes: usize) -> Options {
        let mut table = self.table(cache, 16 << 10);
        table.set_bloom_filter(10.0, false);
        table.set_optimize_filters_for_memory(true);
        let mut options = self.family(buffer_bytes, &table);
        options.set_target_file_size_base(64 << 20);
        options
    }

    /// For tables that an import brings in: as the keyspace's own.
    pub(super) fn import_tables(&self) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_size(16 << 10);
        table.set_bloom_filter(10.0, false);
        table.set_optimize_filters_for_memory(true);
        let mut options = Options::default();
        options.set_compression_type(self.compression());
        options.set_block_based_table_factory(&table);
        options
    }
}
