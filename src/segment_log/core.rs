//! What the callers, the leader and the background share. Uses: fs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

use super::batch::Encoded;
use super::checkpoint::Position;
use super::entries::Compressor;
use super::format::{Identity, SegmentId};
use super::group::Active;
use super::index::Index;
use super::options::SegmentLogOptions;
use super::pool::Pool;
use super::queue::Queue;
use super::ring::Ring;
use super::segment::Info;
use super::upkeep::Upkeep;
use super::writer::Writer;
use crate::error::{Error, Result};
use crate::fs::FileSystem;
use crate::raft_log::LogBatch;
use crate::types::RegionId;

/// An open log. Locks are taken in the order of the fields; none is held while a reader reads.
pub(super) struct Core {
    pub fs: Arc<dyn FileSystem>,
    pub dir: PathBuf,
    pub options: SegmentLogOptions,
    pub compressor: Compressor,
    pub store: u64,
    /// What the background is at; held through its work.
    pub upkeep: Mutex<Upkeep>,
    pub queue: Queue,
    /// The segment that is written to; the leader's, held through a write and its fsync.
    pub active: Mutex<Active>,
    pub pool: Pool,
    pub tables: RwLock<Tables>,
    /// Whether a checkpoint of this incarnation is durable. No segment is written before.
    pub is_begun: AtomicBool,
    /// The first failure of a write or fsync.
    poison: OnceLock<String>,
    pub counters: Counters,
    /// Wakes the background, if there is one.
    wake: OnceLock<crossbeam_channel::Sender<()>>,
    /// Writes what nobody's thread waits for, once there was something like that.
    pub writer: Mutex<Option<Writer>>,
    is_stopped: AtomicBool,
    incarnation: u64,
}

/// What readers look things up in. Changed by the leader once a group is as durable as was asked.
#[derive(Default)]
pub(super) struct Tables {
    pub index: Index,
    pub segments: BTreeMap<SegmentId, Info>,
    pub ring: Ring,
    /// Behind the last group.
    pub position: Position,
    /// The size of the last checkpoint.
    pub checkpoint_bytes: u64,
}

/// What was done since the open.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub writes: AtomicU64,
    pub groups: AtomicU64,
    pub syncs: AtomicU64,
    pub entries: AtomicU64,
    pub bytes: AtomicU64,
    pub log_bytes: AtomicU64,
    pub rotations: AtomicU64,
    pub checkpoints: AtomicU64,
    pub copied_bytes: AtomicU64,
    pub read_bytes: AtomicU64,
    /// What an fsync takes, in nanoseconds, smoothed.
    pub sync_ns: AtomicU64,
}

impl Counters {
    /// Notes an fsync that took so long. Only under the lock of the active segment.
    pub fn synced(&self, took_ns: u64) {
        add(&self.syncs, 1);
        let next = match self.sync_ns.load(Relaxed) {
            0 => took_ns,
            // One that takes much longer is the machine's doing.
            smoothed => (smoothed * 7 + took_ns.min(smoothed * 4)) / 8,
        };
        self.sync_ns.store(next, Relaxed);
    }
}

/// Adds to a counter that only one thread at a time changes.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Relaxed) + count, Relaxed);
}

/// The content of a lock. A panic under one is a bug of ours that has been reported by then; the
/// content is whole, because it is changed after everything that can fail.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    pub fn new(
        fs: Arc<dyn FileSystem>,
        dir: PathBuf,
        options: SegmentLogOptions,
        pool: Pool,
        identity: Identity,
    ) -> Self {
        Core {
            compressor: Compressor::new(options.compress),
            upkeep: Mutex::default(),
            queue: Queue::default(),
            active: Mutex::new(Active::default()),
            tables: RwLock::default(),
            is_begun: AtomicBool::new(false),
            poison: OnceLock::new(),
            counters: Counters::default(),
            wake: OnceLock::new(),
            writer: Mutex::default(),
            is_stopped: AtomicBool::new(false),
            incarnation: identity.incarnation,
            store: identity.store,
            fs,
            dir,
            options,
            pool,
        }
    }

    pub fn read_tables(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write_tables(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// As [`Encoded::of`].
    pub fn encode(&self, batch: &LogBatch) -> Result<Encoded> {
        Encoded::of(batch, &self.compressor, self.queue.spare())
    }

    /// # Errors
    /// `Poisoned` after a failure.
    pub fn check(&self) -> Result<()> {
        match self.poison.get() {
            None => Ok(()),
            Some(cause) => Err(Error::Poisoned {
                path: self.dir.clone(),
                cause: cause.clone(),
            }),
        }
    }

    pub fn is_poisoned(&self) -> bool {
        self.poison.get().is_some()
    }

    /// Notes that `error` leaves it open what is on the medium: nothing more is written.
    pub fn fail(&self, error: &Error) {
        self.poison.get_or_init(|| error.to_string());
    }

    /// Which opening of the log this is.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub fn set_wake(&self, wake: crossbeam_channel::Sender<()>) {
        self.wake.set(wake).ok();
    }

    /// Lets the background come to its end.
    pub fn stop(&self) {
        self.is_stopped.store(true, Release);
        self.wake_background();
    }

    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Acquire)
    }

    /// Lets the background look whether there is something to do.
    pub fn wake_background(&self) {
        if let Some(wake) = self.wake.get() {
            // A full channel has a wake-up in it already.
            wake.try_send(()).ok();
        }
    }
}
