//! The contenders behind one face. Uses: their public APIs.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use peerstore::segment_log::{SegmentLog, SegmentLogOptions};
use peerstore::{DiskFs, Durability, RaftLocalState, RaftLogStorage, RegionId};
use raft::eraftpb::Entry;

pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What a batch brings to one region: entries, and the state after them.
pub struct Write {
    pub region: u64,
    pub entries: Vec<Entry>,
}

pub trait Engine: Send + Sync {
    fn write(&self, writes: &[Write], sync: bool) -> Outcome;

    /// The bytes of the entries.
    fn read(&self, region: u64, range: Range<u64>) -> Outcome<u64>;

    /// Lets go of the entries of each region before its index, without a sync.
    fn compact(&self, _: &[(u64, u64)]) -> Outcome {
        Err("this engine is not soaked".into())
    }

    /// Frees space, where the engine does not do it by itself.
    fn purge(&self) -> Outcome {
        Ok(())
    }

    /// Hands the batches in from one thread, then waits for all of them.
    fn write_together(&self, _: &[Vec<Write>]) -> Outcome {
        Err("this engine has no tickets".into())
    }

    /// Writes and fsyncs so far, where the engine counts them.
    fn counts(&self) -> (u64, u64) {
        (0, 0)
    }

    /// The bytes of its log so far, without those that only fill pages, where the engine counts them.
    fn log_bytes(&self) -> Option<u64> {
        None
    }
}

pub fn open(name: &str, dir: &Path) -> Outcome<Box<dyn Engine>> {
    Ok(match name {
        "segment" => {
            let options = SegmentLogOptions::default();
            Box::new(Peerstore(SegmentLog::open(Arc::new(DiskFs), dir, options)?))
        }
        #[cfg(feature = "rocksdb")]
        "rocksdb" => Box::new(Peerstore(peerstore::rocks::RocksLog::open(
            dir,
            &Default::default(),
        )?)),
        "raft-engine" => Box::new(RaftEngine(raft_engine::Engine::open(
            raft_engine::Config {
                dir: dir.to_string_lossy().into(),
                ..limits()
            },
        )?)),
        "raw" => Box::new(Raw::open(dir)?),
        other => return Err(format!("no engine {other}").into()),
    })
}

/// With `COMPARE_PURGE_MIB` files as large as ours, and so much of the log before it is purged: its own
/// ten gigabytes would not be reached in a minute.
fn limits() -> raft_engine::Config {
    let mut config = raft_engine::Config::default();
    let purge = std::env::var("COMPARE_PURGE_MIB").ok();
    if let Some(mib) = purge.and_then(|mib| mib.parse().ok()) {
        config.purge_threshold = raft_engine::ReadableSize::mb(mib);
        config.target_file_size = raft_engine::ReadableSize::mb(32);
    }
    config
}

fn state(write: &Write) -> RaftLocalState {
    let mut state = RaftLocalState::default();
    let last = write.entries.last().map_or(0, |e| e.index);
    (state.hard_state.term, state.hard_state.vote) = (6, 2);
    (state.hard_state.commit, state.last_index) = (last.saturating_sub(1), last);
    state
}

struct Peerstore<L>(L);

fn batch(writes: &[Write]) -> peerstore::LogBatch {
    let mut batch = peerstore::LogBatch::default();
    for write in writes {
        batch.append(RegionId(write.region), write.entries.clone());
        batch.state(RegionId(write.region), state(write));
    }
    batch
}

trait Together {
    fn together(&self, _: &[Vec<Write>]) -> Outcome {
        Err("this engine has no tickets".into())
    }

    fn framed(&self) -> Option<u64> {
        None
    }
}

impl Together for SegmentLog {
    fn together(&self, groups: &[Vec<Write>]) -> Outcome {
        let submit = |writes: &Vec<Write>| self.submit(&batch(writes), Durability::Synced);
        let tickets = groups.iter().map(submit).collect::<Result<Vec<_>, _>>()?;
        for ticket in tickets {
            ticket.wait(Duration::MAX)?;
        }
        Ok(())
    }

    fn framed(&self) -> Option<u64> {
        Some(self.segment_stats().log_bytes)
    }
}

#[cfg(feature = "rocksdb")]
impl Together for peerstore::rocks::RocksLog {}

impl<L: RaftLogStorage + Together> Engine for Peerstore<L> {
    fn write(&self, writes: &[Write], sync: bool) -> Outcome {
        let durability = match sync {
            true => Durability::Synced,
            false => Durability::Buffered,
        };
        Ok(self.0.write(&batch(writes), durability)?)
    }

    fn read(&self, region: u64, range: Range<u64>) -> Outcome<u64> {
        if range.end - range.start == 1 {
            let entry = self.0.read_entry(RegionId(region), range.start)?;
            return Ok(entry.map_or(0, |e| e.data.len() as u64));
        }
        let entries = self.0.read_entries(RegionId(region), range, u64::MAX)?;
        Ok(entries.iter().map(|e| e.data.len() as u64).sum())
    }

    fn compact(&self, firsts: &[(u64, u64)]) -> Outcome {
        let mut batch = peerstore::LogBatch::default();
        for (region, first) in firsts {
            batch.remove(RegionId(*region), 0..*first);
        }
        Ok(self.0.write(&batch, Durability::Buffered)?)
    }

    fn write_together(&self, groups: &[Vec<Write>]) -> Outcome {
        self.0.together(groups)
    }

    fn counts(&self) -> (u64, u64) {
        let stats = self.0.stats();
        (stats.writes, stats.syncs)
    }

    fn log_bytes(&self) -> Option<u64> {
        self.0.framed()
    }
}

struct RaftEngine(raft_engine::Engine);

#[derive(Clone)]
struct Entries;

impl raft_engine::MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

impl Engine for RaftEngine {
    fn write(&self, writes: &[Write], sync: bool) -> Outcome {
        let mut batch = raft_engine::LogBatch::default();
        for write in writes {
            // As for the others: the caller keeps its entries.
            let entries = write.entries.clone();
            batch.add_entries::<Entries>(write.region, &entries)?;
            batch.put(write.region, b"s".to_vec(), state(write).encode_to_vec())?;
        }
        self.0.write(&mut batch, sync)?;
        Ok(())
    }

    fn compact(&self, firsts: &[(u64, u64)]) -> Outcome {
        let mut batch = raft_engine::LogBatch::default();
        for (region, first) in firsts {
            batch.add_command(*region, raft_engine::Command::Compact { index: *first });
        }
        self.0.write(&mut batch, false)?;
        Ok(())
    }

    fn purge(&self) -> Outcome {
        // The regions that it names are those that are soaked for being slow: they stay as they are.
        self.0.purge_expired_files()?;
        Ok(())
    }

    fn read(&self, region: u64, range: Range<u64>) -> Outcome<u64> {
        if range.end - range.start == 1 {
            let entry = self.0.get_entry::<Entries>(region, range.start)?;
            return Ok(entry.map_or(0, |e| e.data.len() as u64));
        }
        let mut entries = Vec::new();
        self.0
            .fetch_entries_to::<Entries>(region, range.start, range.end, None, &mut entries)?;
        Ok(entries.iter().map(|e| e.data.len() as u64).sum())
    }
}

/// One `pwrite` and one `fdatasync` of the payload alone, into a file that was written before.
struct Raw {
    file: File,
    end: AtomicU64,
}

const RAW_BYTES: u64 = 256 << 20;

impl Raw {
    fn open(dir: &Path) -> Outcome<Raw> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join("raw");
        let file = File::options().create_new(true).write(true).open(path)?;
        let block = vec![0; 1 << 20];
        for at in (0..RAW_BYTES).step_by(block.len()) {
            file.write_all_at(&block, at)?;
        }
        file.sync_all()?;
        let end = AtomicU64::new(0);
        Ok(Raw { file, end })
    }

    fn put(&self, bytes: &[u8], sync: bool) -> Outcome {
        let length = bytes.len() as u64;
        let at = self.end.fetch_add(length, Relaxed) % (RAW_BYTES - length);
        self.file.write_all_at(bytes, at)?;
        if sync {
            self.file.sync_data()?;
        }
        Ok(())
    }
}

fn payload(writes: &[Write], out: &mut Vec<u8>) {
    for entry in writes.iter().flat_map(|write| &write.entries) {
        out.extend_from_slice(&entry.data);
    }
}

impl Engine for Raw {
    fn write(&self, writes: &[Write], sync: bool) -> Outcome {
        let mut bytes = Vec::new();
        payload(writes, &mut bytes);
        self.put(&bytes, sync)
    }

    fn read(&self, _: u64, _: Range<u64>) -> Outcome<u64> {
        Err("it reads nothing".into())
    }

    fn write_together(&self, groups: &[Vec<Write>]) -> Outcome {
        let mut bytes = Vec::new();
        groups.iter().for_each(|writes| payload(writes, &mut bytes));
        self.put(&bytes, true)
    }
}
