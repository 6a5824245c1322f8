//! RocksDB without us: the same column families and options as the log store's, one batch, one fsync.

use std::path::Path;

use peerstore::{Keyspace, RaftLocalState, RegionId, keys};
use raft::eraftpb::{Entry, HardState};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    Options, WriteBatch, WriteOptions, statistics::StatsLevel,
};

use super::{Outcome, Took, clock};

/// As long as the mark that the log store puts before every write.
const MARK: [u8; 11] = *b"psD\0\0\0\0\0\0\0\0";

/// A database, and where its log has got to.
pub struct RawRocks {
    db: DB,
    index: u64,
    marked: bool,
}

impl RawRocks {
    /// Opens a new database in `dir`. If `marked`, every write starts with what the log store starts
    /// with, which goes to the write-ahead log only.
    pub fn open(dir: &Path, marked: bool) -> Outcome<RawRocks> {
        let cache = Cache::new_lru_cache(256 << 20);
        let mut log = family(64 << 20, &table(&cache, 32 << 10));
        log.set_max_bytes_for_level_base(256 << 20);
        log.set_target_file_size_base(64 << 20);
        let state = || family(4 << 20, &table(&cache, 4 << 10));
        let families = vec![
            ColumnFamilyDescriptor::new(keys::RAFT_LOG, log),
            ColumnFamilyDescriptor::new(keys::RAFT_STATE, state()),
            ColumnFamilyDescriptor::new("default", state()),
        ];
        let db = DB::open_cf_descriptors(&database(), dir, families)?;
        Ok(RawRocks {
            db,
            index: 0,
            marked,
        })
    }

    /// Opens a new database in `dir` for data: as the data store's, as far as a write goes.
    pub fn open_data(dir: &Path) -> Outcome<RawRocks> {
        let cache = Cache::new_lru_cache(256 << 20);
        let data = family(64 << 20, &table(&cache, 16 << 10));
        let state = family(4 << 20, &table(&cache, 4 << 10));
        let families = vec![
            ColumnFamilyDescriptor::new(Keyspace::Data.name(), data),
            ColumnFamilyDescriptor::new(Keyspace::ApplyState.name(), state),
        ];
        let db = DB::open_cf_descriptors(&database(), dir, families)?;
        Ok(RawRocks {
            db,
            index: 0,
            marked: false,
        })
    }

    /// Writes `count` values and an apply state without an fsync.
    pub fn write_data(&mut self, count: usize, payload: &[u8]) -> Outcome<Took> {
        // Each with bytes of its own, as entries have.
        let values = vec![payload.to_vec(); count];
        let first = self.index + 1;
        self.index += count as u64;
        let state = [0xa5; 20];
        let missing = "a column family is missing";
        let data = self.db.cf_handle(Keyspace::Data.name()).ok_or(missing)?;
        let states = self.db.cf_handle(Keyspace::ApplyState.name());
        let states = states.ok_or(missing)?;
        let (result, took) = clock(|| {
            let mut batch = WriteBatch::default();
            for (index, value) in (first..).zip(&values) {
                batch.put_cf(data, index.to_be_bytes(), value);
            }
            batch.put_cf(states, keys::region_key(RegionId(1)), state);
            self.db.write(batch)
        });
        result?;
        Ok(took)
    }

    /// Writes `count` entries and a raft state: the keys and values that a `persist` would write. They
    /// are encoded before the clock starts.
    pub fn write(&mut self, count: usize, payload: &[u8]) -> Outcome<Took> {
        let region = RegionId(1);
        let puts: Vec<_> = (1..=count as u64)
            .map(|step| {
                let mut entry = Entry::default();
                (entry.term, entry.index) = (6, self.index + step);
                entry.data = payload.to_vec().into();
                let value = protobuf::Message::write_to_bytes(&entry)?;
                Ok((keys::log_key(region, entry.index), value))
            })
            .collect::<Outcome<_>>()?;
        self.index += count as u64;
        let mut hard_state = HardState::default();
        (hard_state.term, hard_state.vote, hard_state.commit) = (6, 1, self.index);
        let last_index = self.index;
        let state = RaftLocalState {
            hard_state,
            last_index,
        };
        let state = state.encode_to_vec();
        let missing = "a column family is missing";
        let log = self.db.cf_handle(keys::RAFT_LOG).ok_or(missing)?;
        let states = self.db.cf_handle(keys::RAFT_STATE).ok_or(missing)?;
        let (result, took) = clock(|| {
            let mut batch = WriteBatch::default();
            if self.marked {
                batch.put_log_data(MARK);
            }
            for (key, value) in &puts {
                batch.put_cf(log, key, value);
            }
            batch.put_cf(states, keys::region_key(region), &state);
            let mut options = WriteOptions::default();
            options.set_sync(true);
            self.db.write_opt(batch, &options)
        });
        result?;
        Ok(took)
    }
}

pub fn database() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_total_wal_size(512 << 20);
    options.set_max_open_files(1024);
    options.set_max_background_jobs(4);
    options.set_bytes_per_sync(1 << 20);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(8 << 20);
    options.set_stats_dump_period_sec(0);
    options.enable_statistics();
    options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
    options
}

pub fn family(buffer_bytes: usize, table: &BlockBasedOptions) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(buffer_bytes);
    options.set_max_write_buffer_number(4);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_block_based_table_factory(table);
    options
}

pub fn table(cache: &Cache, block_bytes: usize) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(block_bytes);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table
}
