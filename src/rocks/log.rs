//! The logs of all regions in a RocksDB of their own. Uses: types, error, proto, keys, raft_log.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use raft::eraftpb::Entry;
use rocksdb::{DEFAULT_COLUMN_FAMILY_NAME, ReadOptions, WriteBatch};

use super::engine::Engine;
use super::open::Layout;
use super::{entry, options::RocksOptions};
use crate::error::{Error, Result};
use crate::keys::{self, LOG_KEY_BYTES};
use crate::proto::RaftLocalState;
use crate::raft_log::{LogBatch, LogOp, LogStats, RaftLogStorage};
use crate::types::{Durability, RegionId};

const FAMILIES: [&str; 2] = [keys::RAFT_LOG, keys::RAFT_STATE];
const LOG: usize = 0;
const STATE: usize = 1;

/// So many entries are read one by one: an iterator costs more to set up than it saves.
const POINT_READS_MAX: u64 = 8;
/// From so many entries on, a scan reads ahead from its start.
const READAHEAD_ENTRIES: u64 = 256;
const READAHEAD_BYTES: usize = 1 << 20;
/// More entries than this are removed by one range tombstone. Fewer are removed one by one, because
/// every read after a new range tombstone has to sort all of the memtable's again.
const POINT_DELETES_MAX: u64 = 1024;

/// The logs and raft states of every region of a node in one RocksDB.
///
/// Column families: `raft_log` (an entry a key), `raft_state`, and `default` for the format version.
/// One write-ahead log carries all of them, so a batch over many regions is one record and, if it is
/// `Synced`, one fsync, which concurrent writers share.
pub struct RocksLog {
    engine: Arc<Engine>,
    entries: AtomicU64,
}

impl RocksLog {
    /// Opens the log store in `dir`, or creates it, durable on return with the directories above it.
    ///
    /// # Errors
    /// `StoreNotFound`, `Locked`, `ForeignDirectory`, `IncompleteStore` or `UnsupportedVersion`, with
    /// nothing modified; `Corruption`; `Config`; `Io`, `DiskFull` or `Engine`.
    pub fn open(dir: &Path, options: &RocksOptions) -> Result<RocksLog> {
        let layout = Layout {
            families: &|| options.log_families(),
            format_family: DEFAULT_COLUMN_FAMILY_NAME,
        };
        let engine = Engine::open(dir, options, &layout, &FAMILIES)?;
        Ok(RocksLog {
            engine,
            entries: AtomicU64::new(0),
        })
    }

    fn read_by_key(&self, region: RegionId, range: Range<u64>, taken: &mut Taken) -> Result<()> {
        for index in range {
            let key = keys::log_key(region, index);
            let value = self.engine.db().get_pinned_cf(self.engine.family(LOG), key);
            match value.map_err(|e| self.entry_error(region, index, e))? {
                None => return Err(missing(region, index)),
                Some(value) if !taken.take(region, index, &value)? => break,
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn read_by_scan(&self, region: RegionId, range: Range<u64>, taken: &mut Taken) -> Result<()> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(keys::log_key(region, range.end));
        if range.end - range.start >= READAHEAD_ENTRIES {
            options.set_readahead_size(READAHEAD_BYTES);
        }
        let mut entries = self
            .engine
            .db()
            .raw_iterator_cf_opt(self.engine.family(LOG), options);
        entries.seek(keys::log_key(region, range.start));
        for index in range {
            let Some((key, value)) = entries.item() else {
                entries
                    .status()
                    .map_err(|e| self.entry_error(region, index, e))?;
                return Err(missing(region, index));
            };
            if key != keys::log_key(region, index) {
                return Err(missing(region, index));
            }
            if !taken.take(region, index, value)? {
                break;
            }
            entries.next();
        }
        Ok(())
    }

    fn entry_error(&self, region: RegionId, index: u64, error: rocksdb::Error) -> Error {
        self.engine
            .read_error(Some(region), format!("entry {index}"), error)
    }

    /// The regions that have an entry: one seek each, however long their logs are.
    fn regions_with_entries(&self) -> Result<Vec<RegionId>> {
        let mut regions = Vec::new();
        let mut entries = self.engine.db().raw_iterator_cf(self.engine.family(LOG));
        entries.seek_to_first();
        while let Some(key) = entries.key() {
            let (region, _) =
                keys::parse_log_key(key).ok_or_else(|| bad_key(keys::RAFT_LOG, key))?;
            regions.push(region);
            match region.0.checked_add(1) {
                None => break,
                Some(next) => entries.seek(keys::log_key(RegionId(next), 0)),
            }
        }
        let status = entries.status();
        status.map_err(|e| self.engine.read_error(None, "the list of logs", e))?;
        Ok(regions)
    }

    fn regions_with_state(&self) -> Result<Vec<RegionId>> {
        let mut regions = Vec::new();
        let mut states = self.engine.db().raw_iterator_cf(self.engine.family(STATE));
        states.seek_to_first();
        while let Some(key) = states.key() {
            let region = keys::parse_region_key(key);
            regions.push(region.ok_or_else(|| bad_key(keys::RAFT_STATE, key))?);
            states.next();
        }
        let status = states.status();
        status.map_err(|e| self.engine.read_error(None, "the list of raft states", e))?;
        Ok(regions)
    }
}

impl RaftLogStorage for RocksLog {
    fn write(&self, batch: &LogBatch, durability: Durability) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut writer = Writer {
            engine: &self.engine,
            batch: self.engine.batch(expected_bytes(batch)),
            buffer: Vec::new(),
            entries: 0,
            bytes: 0,
        };
        for op in batch.ops() {
            writer.add(op);
        }
        self.engine.write(writer.batch, durability, writer.bytes)?;
        self.entries.fetch_add(writer.entries, Relaxed);
        Ok(())
    }

    fn read_entries(
        &self,
        region: RegionId,
        range: Range<u64>,
        bytes_max: u64,
    ) -> Result<Vec<Entry>> {
        let mut taken = Taken {
            entries: Vec::new(),
            bytes: 0,
            bytes_max,
        };
        if range.is_empty() {
            return Ok(taken.entries);
        }
        if range.end - range.start <= POINT_READS_MAX {
            self.read_by_key(region, range, &mut taken)?;
        } else {
            self.read_by_scan(region, range, &mut taken)?;
        }
        Ok(taken.entries)
    }

    fn read_entry(&self, region: RegionId, index: u64) -> Result<Option<Entry>> {
        let key = keys::log_key(region, index);
        let value = self.engine.db().get_pinned_cf(self.engine.family(LOG), key);
        let value = value.map_err(|e| self.entry_error(region, index, e))?;
        value
            .map(|bytes| entry::decode(region, index, &bytes))
            .transpose()
    }

    fn read_state(&self, region: RegionId) -> Result<Option<RaftLocalState>> {
        let key = keys::region_key(region);
        let value = self
            .engine
            .db()
            .get_pinned_cf(self.engine.family(STATE), key);
        let value = value.map_err(|e| self.engine.read_error(Some(region), "RaftLocalState", e))?;
        value
            .map(|bytes| RaftLocalState::decode_of(region, &bytes))
            .transpose()
    }

    fn regions(&self) -> Result<Vec<RegionId>> {
        let mut regions = self.regions_with_state()?;
        regions.append(&mut self.regions_with_entries()?);
        regions.sort_unstable();
        regions.dedup();
        Ok(regions)
    }

    /// Only what has left the memtables is counted: RocksDB's interface offers no more here.
    fn approximate_bytes(&self, region: RegionId, range: Range<u64>) -> Result<u64> {
        if range.is_empty() {
            return Ok(0);
        }
        let (start, end) = (
            keys::log_key(region, range.start),
            keys::log_key(region, range.end),
        );
        let range = rocksdb::Range::new(&start, &end);
        let sizes = self
            .engine
            .db()
            .get_approximate_sizes_cf(self.engine.family(LOG), &[range]);
        Ok(sizes.iter().sum())
    }

    fn sync(&self) -> Result<()> {
        self.engine.sync()
    }

    fn trouble(&self) -> Option<String> {
        self.engine.trouble()
    }

    fn stats(&self) -> LogStats {
        LogStats {
            writes: self.engine.writes(),
            syncs: self.engine.syncs(),
            entries: self.entries.load(Relaxed),
            bytes: self.engine.bytes(),
        }
    }
}

/// What a read has gathered, and how much more it may.
struct Taken {
    entries: Vec<Entry>,
    bytes: u64,
    bytes_max: u64,
}

impl Taken {
    /// Takes the entry if it is the first or still fits, as raft's `limit_size` does. The bytes of
    /// its value are its size as a message: fields at their default are not written.
    fn take(&mut self, region: RegionId, index: u64, value: &[u8]) -> Result<bool> {
        self.bytes = self.bytes.saturating_add(value.len() as u64);
        if !self.entries.is_empty() && self.bytes > self.bytes_max {
            return Ok(false);
        }
        self.entries.push(entry::decode(region, index, value)?);
        Ok(true)
    }
}

fn missing(region: RegionId, index: u64) -> Error {
    let detail = "it is missing, expected because the log reaches beyond it";
    Error::corruption(Some(region), format!("entry {index}"), detail)
}

fn bad_key(family: &str, key: &[u8]) -> Error {
    let detail = format!("key \"{}\" of {} bytes", key.escape_ascii(), key.len());
    Error::corruption(None, format!("column family {family}"), detail)
}

/// About what RocksDB's batch will take, so that it grows at most once.
fn expected_bytes(batch: &LogBatch) -> usize {
    let entry = |e: &Entry| e.data.len() + e.context.len() + LOG_KEY_BYTES + 48;
    let op = |op: &LogOp| match op {
        LogOp::Append { entries, .. } => entries.iter().map(entry).sum(),
        _ => 128,
    };
    batch.ops().iter().map(op).sum()
}

/// Turns operations into RocksDB's.
struct Writer<'a> {
    engine: &'a Engine,
    batch: WriteBatch,
    // One buffer for all entries, so that an entry costs no allocation.
    buffer: Vec<u8>,
    entries: u64,
    bytes: u64,
}

impl Writer<'_> {
    fn add(&mut self, op: &LogOp) {
        let (log, state_family) = (self.engine.family(LOG), self.engine.family(STATE));
        match op {
            LogOp::Append { region, entries } => {
                for entry in entries {
                    entry::encode(entry, &mut self.buffer);
                    let key = keys::log_key(*region, entry.index);
                    self.batch.put_cf(log, key, &self.buffer);
                    self.bytes += (LOG_KEY_BYTES + self.buffer.len()) as u64;
                }
                self.entries += entries.len() as u64;
            }
            LogOp::Remove { region, range } => self.remove(*region, range.clone()),
            LogOp::State { region, state } => {
                let (key, value) = (keys::region_key(*region), state.encode_to_vec());
                self.batch.put_cf(state_family, key, &value);
                self.bytes += (key.len() + value.len()) as u64;
            }
            LogOp::Clear { region } => {
                // One byte longer than the last key that the region can have, so that it goes too.
                let mut end = [0; LOG_KEY_BYTES + 1];
                end[..LOG_KEY_BYTES].copy_from_slice(&keys::log_key(*region, u64::MAX));
                let start = keys::log_key(*region, 0);
                self.batch
                    .delete_range_cf(log, start.as_slice(), end.as_slice());
                self.batch
                    .delete_cf(state_family, keys::region_key(*region));
            }
        }
    }

    fn remove(&mut self, region: RegionId, range: Range<u64>) {
        let log = self.engine.family(LOG);
        // A start of 0 says that the first index is not known: most of the range may be empty.
        if range.start == 0 || range.end.saturating_sub(range.start) > POINT_DELETES_MAX {
            if !range.is_empty() {
                let (start, end) = (range.start, range.end);
                let (start, end) = (keys::log_key(region, start), keys::log_key(region, end));
                self.batch.delete_range_cf(log, start, end);
            }
            return;
        }
        for index in range {
            self.batch.delete_cf(log, keys::log_key(region, index));
        }
    }
}
