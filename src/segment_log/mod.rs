//! An append-only log of all regions in segment files. Uses: types, error, proto, raft_log, fs.
//!
//! What is on disk is in `docs/log-format.md`. In short: batches that arrive together are one frame,
//! written at the end of a segment by one write and one fsync; an index in memory says where every live
//! entry lies; a checkpoint says what every region was when a segment was finished, so that opening
//! reads little; a segment of which nothing lives is used again.

mod batch;
mod checkpoint;
mod chunks;
mod codec;
mod cohort;
mod copy;
mod core;
mod entries;
mod footer;
mod format;
mod group;
mod index;
mod options;
mod pace;
mod part;
mod places;
mod pool;
mod queue;
mod reader;
mod recover;
mod ring;
mod scan;
mod segment;
mod space;
mod upkeep;
mod writer;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use raft::eraftpb::Entry;

use self::core::Core;
use crate::error::{Error, Result};
use crate::fs::{FileLock, FileSystem};
use crate::proto::RaftLocalState;
use crate::raft_log::{LogBatch, LogStats, LogUsage, RaftLogStorage};
use crate::ticket::Ticket;
use crate::types::{Durability, RegionId};

pub use options::{Laggard, LaggardCallback, SegmentLogOptions, SyncPolicy};

/// The smallest segment: the header's page and some frames.
const SEGMENT_BYTES_MIN: u64 = 16 << 10;
/// The background looks for space to give back so often, even if no segment was begun meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Offsets have 32 bits, and a huge batch may make one segment longer than this.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// The logs and raft states of every region of a node, appended to segment files.
///
/// Dropping it writes a checkpoint, so that the next open reads little; nothing depends on that.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use peerstore::memory::MemFs;
/// use peerstore::segment_log::{SegmentLog, SegmentLogOptions};
/// use peerstore::{Durability, LogBatch, RaftLocalState, RaftLogStorage};
/// # fn main() -> peerstore::Result<()> {
/// let options = SegmentLogOptions { segment_bytes: 64 << 10, ..Default::default() };
/// let log = SegmentLog::open(Arc::new(MemFs::new()), "log", options)?;
/// let mut batch = LogBatch::default();
/// batch.state(1.into(), RaftLocalState::default());
/// log.write(&batch, Durability::Synced)?;
/// // Or hand several in, and then wait: they share one fsync.
/// let tickets = [log.submit(&batch, Durability::Synced)?, log.submit(&batch, Durability::Synced)?];
/// for ticket in tickets {
///     ticket.wait(Duration::MAX)?;
/// }
/// assert_eq!(log.regions()?, [1.into()]);
/// # Ok(())
/// # }
/// ```
pub struct SegmentLog {
    core: Arc<Core>,
    background: Option<JoinHandle<()>>,
    // Let go of last.
    _lock: Box<dyn FileLock>,
}

/// What a [`SegmentLog`] holds and has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentLogStats {
    /// Frames written: groups of batches.
    pub groups: u64,
    /// Bytes of those frames.
    pub log_bytes: u64,
    /// Segments that were begun.
    pub rotations: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Bytes of entries copied out of nearly dead segments.
    pub copied_bytes: u64,
    /// Bytes of entries read from files.
    pub read_bytes: u64,
    /// Segments in use.
    pub segments: u64,
    /// Of those, the ones that hold copies.
    pub cold_segments: u64,
    /// Segments in reserve.
    pub spare_segments: u64,
    /// The bytes of the files of the segments in use.
    pub segment_bytes: u64,
    /// The bytes of runs of which an entry lives.
    pub live_bytes: u64,
    /// The memory that the places of entries take.
    pub index_bytes: u64,
}

impl SegmentLog {
    /// Opens the log in `dir`, or creates it, durable on return with the directories above it.
    ///
    /// # Errors
    /// `Config` if an option cannot be; `StoreNotFound`, `Locked`, `ForeignDirectory`,
    /// `IncompleteStore`, `UnsupportedVersion` or `Corruption`, with nothing modified; `Io`, or
    /// `DiskFull` while it is created.
    pub fn open(
        fs: Arc<dyn FileSystem>,
        dir: impl AsRef<Path>,
        options: SegmentLogOptions,
    ) -> Result<SegmentLog> {
        let dir = dir.as_ref();
        check(&options)?;
        recover::check_dir(&*fs, dir, options.create_if_missing)?;
        let lock = fs.lock(&dir.join(recover::LOCK))?;
        let core = recover::open(fs, dir, options)?;
        let background = match core.options.background {
            true => Some(start(&core, dir)?),
            false => None,
        };
        Ok(SegmentLog {
            core,
            background,
            _lock: lock,
        })
    }

    /// Hands a batch in without waiting for it. Batches that are handed in by one thread are written
    /// in that order, with one fsync for those that wait together.
    ///
    /// Whoever waits for a ticket may write its batch, and others, on its own thread, and then longer
    /// than its timeout. A ticket that is awaited is written by a thread of the log, or, without
    /// [`SegmentLogOptions::background`], by the poll. A batch whose ticket is neither is written with
    /// the next group, or when the log is closed.
    ///
    /// # Errors
    /// `InvalidArgument` if its entries are not contiguous; `Poisoned`. Everything else is the
    /// ticket's to say: what [`RaftLogStorage::write`] says.
    pub fn submit(&self, batch: &LogBatch, durability: Durability) -> Result<Ticket<()>> {
        let encoded = self.core.encode(batch)?;
        let sync = durability == Durability::Synced && !batch.is_empty();
        self.core.submit(encoded, sync)
    }

    /// Seals, checkpoints, copies and frees what there is, and fills the reserve. A background thread
    /// does so by itself.
    ///
    /// # Errors
    /// `DiskFull`: the log goes on as long as it has space. `Io`: it is poisoned.
    pub fn maintain(&self) -> Result<()> {
        self.core.maintain()
    }

    /// Drops everything of `region`, whatever its bytes are, durable on return. For a region whose
    /// entries turned out to be damaged: its replica has to be replaced.
    ///
    /// # Errors
    /// As [`RaftLogStorage::write`].
    pub fn quarantine(&self, region: RegionId) -> Result<()> {
        let mut batch = LogBatch::default();
        batch.clear_region(region);
        self.write(&batch, Durability::Synced)
    }

    /// What the log holds and has done. Looks at every segment.
    pub fn segment_stats(&self) -> SegmentLogStats {
        let core = &self.core;
        let tables = core.read_tables();
        let infos = || tables.segments.values();
        let counters = &core.counters;
        SegmentLogStats {
            groups: counters.groups.load(Relaxed),
            log_bytes: counters.log_bytes.load(Relaxed),
            rotations: counters.rotations.load(Relaxed),
            checkpoints: counters.checkpoints.load(Relaxed),
            copied_bytes: counters.copied_bytes.load(Relaxed),
            read_bytes: counters.read_bytes.load(Relaxed),
            segments: infos().count() as u64,
            cold_segments: infos().filter(|info| info.is_cold).count() as u64,
            spare_segments: core.pool.ready() as u64,
            segment_bytes: tables.segment_bytes(),
            live_bytes: tables.index.usages.total().bytes,
            index_bytes: tables.index.usages.total().memory,
        }
    }
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        self.core.stop();
        self.core.stop_writer();
        if let Some(background) = self.background.take() {
            // It ends by itself; a panic of it was reported when it happened.
            background.join().ok();
        }
        if let Err(error) = self.core.close() {
            tracing::warn!(%error, "the log was closed without a checkpoint");
        }
        let closed = Error::WorkerGone { worker: "log" };
        self.core.fail(&closed);
    }
}

fn check(options: &SegmentLogOptions) -> Result<()> {
    let bytes = options.segment_bytes;
    let is_right = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes)
        && bytes.is_multiple_of(format::PAGE_BYTES);
    if is_right {
        return Ok(());
    }
    Err(Error::Config {
        path: None,
        message: format!(
            "segment_bytes: got {bytes}, expected a multiple of {} from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}",
            format::PAGE_BYTES
        ),
    })
}

/// Starts the thread that looks after the log whenever a segment was begun.
fn start(core: &Arc<Core>, dir: &Path) -> Result<JoinHandle<()>> {
    core.be_ready()?;
    let (wake, woken) = crossbeam_channel::bounded(1);
    // The rest of the reserve is made by the thread.
    wake.try_send(()).ok();
    core.set_wake(wake);
    let core = Arc::clone(core);
    let thread = std::thread::Builder::new().name("peerstore-log".into());
    let started = thread.spawn(move || run(&core, &woken));
    started.map_err(|e| Error::io("start a thread for", dir, e))
}

fn run(core: &Core, woken: &Receiver<()>) {
    let wait = match core.options.sync {
        SyncPolicy::EachGroup => LOOK_EVERY,
        SyncPolicy::Interval(interval) => interval.min(LOOK_EVERY),
    };
    let mut looked = Instant::now();
    while !core.is_stopped() {
        let is_woken = match woken.recv_timeout(wait) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if core.is_stopped() {
            return;
        }
        if !is_woken && core.options.sync != SyncPolicy::EachGroup {
            // A failure poisons, which the next writer is told.
            core.flush().ok();
        }
        if is_woken || looked.elapsed() >= LOOK_EVERY {
            looked = Instant::now();
            if let Err(error) = core.maintain() {
                tracing::warn!(%error, "the log could not be looked after");
            }
        }
    }
}

impl RaftLogStorage for SegmentLog {
    fn write(&self, batch: &LogBatch, durability: Durability) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let encoded = self.core.encode(batch)?;
        let sync = durability == Durability::Synced;
        self.core.submit_and_wait(encoded, sync)
    }

    fn read_entries(
        &self,
        region: RegionId,
        range: Range<u64>,
        bytes_max: u64,
    ) -> Result<Vec<Entry>> {
        self.core.read_entries(region, range, bytes_max)
    }

    fn read_entry(&self, region: RegionId, index: u64) -> Result<Option<Entry>> {
        self.core.read_entry(region, index)
    }

    fn read_state(&self, region: RegionId) -> Result<Option<RaftLocalState>> {
        let tables = self.core.read_tables();
        let state = tables.index.regions.get(&region).and_then(|log| log.state);
        Ok(state.map(RaftLocalState::from))
    }

    fn regions(&self) -> Result<Vec<RegionId>> {
        let tables = self.core.read_tables();
        let mut regions: Vec<RegionId> = tables.index.regions.keys().copied().collect();
        drop(tables);
        regions.sort_unstable();
        Ok(regions)
    }

    fn approximate_bytes(&self, region: RegionId, range: Range<u64>) -> Result<u64> {
        Ok(self.core.approximate_bytes(region, &range))
    }

    fn sync(&self) -> Result<()> {
        self.core.flush()
    }

    fn stats(&self) -> LogStats {
        let counters = &self.core.counters;
        LogStats {
            writes: counters.writes.load(Relaxed),
            syncs: counters.syncs.load(Relaxed),
            entries: counters.entries.load(Relaxed),
            bytes: counters.bytes.load(Relaxed),
        }
    }

    fn usage(&self) -> LogUsage {
        let tables = self.core.read_tables();
        let infos = tables.segments.values();
        LogUsage {
            segments: tables.segments.len() as u64,
            disk_bytes: infos.map(|info| info.file_bytes()).sum(),
            live_bytes: tables.index.usages.total().bytes,
            spare_segments: self.core.pool.ready() as u64,
            spare_segments_wanted: match self.core.options.background {
                true => self.core.options.spare_segments as u64,
                false => 0,
            },
            copied_bytes: self.core.counters.copied_bytes.load(Relaxed),
        }
    }
}
