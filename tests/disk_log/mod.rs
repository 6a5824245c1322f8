//! The log of a store that can die: all in memory, or segment files on a file system in memory whose
//! power is cut, and whose next write may fail. Shared by several tests. Uses: the public API.

use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use peerstore::memory::{Lost, MemFs, MemoryLog, WriteFault};
use peerstore::segment_log::{SegmentLog, SegmentLogOptions};
use peerstore::{
    Durability, File, FileLock, FileSystem, LogBatch, LogStats, RaftLocalState, RaftLogStorage,
    RegionId, Result,
};
use raft::eraftpb::Entry;

/// There is no background: after so many writes the log is looked after, on the thread that writes.
const WRITES_PER_LOOK: u64 = 24;

/// Which log a store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    Memory,
    Segments,
}

/// A log and what is under it.
pub enum DiskLog {
    Memory(MemoryLog),
    Segments {
        fs: MemFs,
        next_fault: Fault,
        writes: AtomicU64,
        log: Box<SegmentLog>,
    },
}

type Fault = Arc<Mutex<Option<ErrorKind>>>;

impl DiskLog {
    pub fn new(kind: LogKind) -> DiskLog {
        match kind {
            LogKind::Memory => DiskLog::Memory(MemoryLog::new()),
            LogKind::Segments => DiskLog::on(MemFs::new()),
        }
    }

    /// The log in segments that is on `fs`.
    fn on(fs: MemFs) -> DiskLog {
        let next_fault = Fault::default();
        let faulty = Faulty {
            inner: fs.clone(),
            next_fault: Arc::clone(&next_fault),
        };
        // So small that segments are begun, copied and used again within a life.
        let options = SegmentLogOptions {
            segment_bytes: 16 << 10,
            ring_bytes: 4 << 10,
            index_bytes_max: 4 << 10,
            background: false,
            store_id: 77,
            ..SegmentLogOptions::default()
        };
        let log = SegmentLog::open(Arc::new(faulty), "log", options);
        let log = Box::new(log.unwrap_or_else(|e| panic!("a log that died opens again: {e}")));
        DiskLog::Segments {
            fs,
            next_fault,
            writes: AtomicU64::new(0),
            log,
        }
    }

    fn inner(&self) -> &dyn RaftLogStorage {
        match self {
            DiskLog::Memory(log) => log,
            DiskLog::Segments { log, .. } => &**log,
        }
    }

    /// The largest argument of `crash_copy` that is another power cut than the one below it.
    #[allow(dead_code, reason = "not every test that has this module asks")]
    pub fn unsynced(&self) -> usize {
        match self {
            DiskLog::Memory(log) => log.unsynced(),
            DiskLog::Segments { .. } => 2,
        }
    }

    /// The log after the power was cut. Of what was not synced so many batches are kept, or, of
    /// segments, nothing, half, or all; with `usize::MAX` only the process dies.
    pub fn crash_copy(&self, kept: usize) -> DiskLog {
        match self {
            DiskLog::Memory(log) => DiskLog::Memory(log.crash_copy(kept)),
            DiskLog::Segments { fs, .. } => {
                let lost = match kept {
                    0 => Lost::Everything,
                    1 => Lost::Half,
                    usize::MAX => return DiskLog::on(fs.after_kill()),
                    _ => Lost::Nothing,
                };
                DiskLog::on(fs.after_power_cut(lost, fs.operations()))
            }
        }
    }

    /// Lets the next write, or in segments the next change of a file, fail.
    #[allow(dead_code, reason = "not every test that has this module asks")]
    pub fn fail_next_write(&self, fault: WriteFault) {
        match self {
            DiskLog::Memory(log) => log.fail_next_write(fault),
            DiskLog::Segments { next_fault, .. } => {
                let kind = match fault {
                    WriteFault::DiskFull => ErrorKind::StorageFull,
                    WriteFault::SyncFailed => ErrorKind::Other,
                };
                *lock(next_fault) = Some(kind);
            }
        }
    }
}

fn lock(fault: &Fault) -> std::sync::MutexGuard<'_, Option<ErrorKind>> {
    fault.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RaftLogStorage for DiskLog {
    fn write(&self, batch: &LogBatch, durability: Durability) -> Result<()> {
        self.inner().write(batch, durability)?;
        if let DiskLog::Segments { log, writes, .. } = self
            && writes.fetch_add(1, Relaxed) % WRITES_PER_LOOK == 0
        {
            // As in the background: whoever writes next is told.
            log.maintain().ok();
        }
        Ok(())
    }

    fn read_entries(&self, r: RegionId, range: Range<u64>, bytes_max: u64) -> Result<Vec<Entry>> {
        self.inner().read_entries(r, range, bytes_max)
    }

    fn read_entry(&self, region: RegionId, index: u64) -> Result<Option<Entry>> {
        self.inner().read_entry(region, index)
    }

    fn read_state(&self, region: RegionId) -> Result<Option<RaftLocalState>> {
        self.inner().read_state(region)
    }

    fn regions(&self) -> Result<Vec<RegionId>> {
        self.inner().regions()
    }

    fn approximate_bytes(&self, region: RegionId, range: Range<u64>) -> Result<u64> {
        self.inner().approximate_bytes(region, range)
    }

    fn sync(&self) -> Result<()> {
        self.inner().sync()
    }

    fn stats(&self) -> LogStats {
        self.inner().stats()
    }
}

/// A file system whose next change may fail.
struct Faulty {
    inner: MemFs,
    next_fault: Fault,
}

impl Faulty {
    fn change(&self) {
        if let Some(kind) = lock(&self.next_fault).take() {
            self.inner.fail_at(self.inner.operations(), kind);
        }
    }

    fn file(&self, inner: Box<dyn File>) -> Box<dyn File> {
        let fs = Faulty {
            inner: self.inner.clone(),
            next_fault: Arc::clone(&self.next_fault),
        };
        Box::new(FaultyFile { fs, inner })
    }
}

impl FileSystem for Faulty {
    fn create(&self, path: &Path) -> Result<Box<dyn File>> {
        self.change();
        Ok(self.file(self.inner.create(path)?))
    }
    fn open(&self, path: &Path) -> Result<Box<dyn File>> {
        self.inner.open(path)
    }
    fn open_for_write(&self, path: &Path) -> Result<Box<dyn File>> {
        Ok(self.file(self.inner.open_for_write(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.change();
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> Result<()> {
        self.change();
        self.inner.remove(path)
    }
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.inner.create_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.change();
        self.inner.sync_dir(path)
    }
    fn list(&self, path: &Path) -> Result<Vec<PathBuf>> {
        self.inner.list(path)
    }
    fn exists(&self, path: &Path) -> Result<bool> {
        self.inner.exists(path)
    }
    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>> {
        self.inner.lock(path)
    }
}

struct FaultyFile {
    fs: Faulty,
    inner: Box<dyn File>,
}

impl File for FaultyFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read_exact_at(buffer, offset)
    }
    fn write_all_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.fs.change();
        self.inner.write_all_at(data, offset)
    }
    fn reserve(&self, bytes: u64) -> Result<bool> {
        self.fs.change();
        self.inner.reserve(bytes)
    }
    fn length(&self) -> Result<u64> {
        self.inner.length()
    }
    fn sync(&self) -> Result<()> {
        self.fs.change();
        self.inner.sync()
    }
}
