//! What every region of a node shares: the three stores, the cache's budget, the way to the workers.
//! Uses: the seams. Never does I/O itself.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use crossbeam_channel::Sender;

use super::behind::BehindTask;
use super::clock::Clock;
use super::coordinated::Counts;
use super::fetch::FetchTask;
use super::gc::GcPolicy;
use super::retain::CleanUpTask;
use super::snapshot::SnapshotTask;
use super::upkeep::SnapshotPolicy;
use crate::app_store::ApplicationDataStorage;
use crate::entry_cache::CacheBudget;
use crate::error::{Error, Result};
use crate::metrics::{NodeMetrics, NodeStats};
use crate::persistence::{FlushPolicy, PersistenceStrategy};
use crate::raft_log::{LogBatch, RaftLogStorage};
use crate::snapshot_store::{RaftSnapshotStorage, Retention, SnapshotKey};
use crate::types::{Durability, RegionId};

/// What can be chosen for the regions of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageOptions {
    /// What a write to the log has survived when it is acknowledged.
    pub durability: Durability,
    /// A snapshot file of up to this many bytes travels inside raft's message; a larger one has to be
    /// transferred with `RaftSnapshotStorage::send` and `receive` before it is installed.
    pub inline_bytes_max: u64,
    /// How long a failed snapshot waits for its next try; doubled with each failure, up to 64 times.
    pub retry_backoff: Duration,
    /// When the log is compacted by policy.
    pub gc: GcPolicy,
    /// Which snapshots are kept when raft has no more use for them; without, none.
    pub retention: Option<Retention>,
    /// Whether submitted writes are on the disk first.
    pub persistence: PersistenceStrategy,
    /// How long a group of writes waits for others.
    pub flush: FlushPolicy,
    /// When a region makes a snapshot of its own accord.
    pub snapshot_policy: SnapshotPolicy,
}

impl Default for StorageOptions {
    fn default() -> Self {
        StorageOptions {
            durability: Durability::Synced,
            inline_bytes_max: 64 << 10,
            retry_backoff: Duration::from_secs(1),
            gc: GcPolicy::default(),
            retention: None,
            persistence: PersistenceStrategy::DiskFirst,
            flush: FlushPolicy::Immediate,
            snapshot_policy: SnapshotPolicy::never(),
        }
    }
}

/// Where a region sends what must not run on its raft thread.
pub struct TaskSenders {
    /// To the worker that reads cold entries.
    pub fetch: Sender<FetchTask>,
    /// To the worker that builds and removes snapshot files.
    pub snapshot: Sender<SnapshotTask>,
    /// To the worker that writes the log behind its callers.
    pub behind: Sender<BehindTask>,
    /// What the worker of the snapshots must not remove.
    pub needed: Arc<NeededFiles>,
}

/// The snapshot files that are being installed. A crash needs them again, so the worker leaves them
/// alone, whoever has asked for their removal: the region itself may have built and given up the very
/// file that now came from its leader.
#[derive(Debug, Default)]
pub struct NeededFiles {
    uses: Mutex<FileUses>,
    counts: Counts,
    // Whether a policy says which snapshots stay; else each region keeps one at most.
    keeps_many: AtomicBool,
}

#[derive(Debug, Default)]
struct FileUses {
    needed: HashSet<SnapshotKey>,
    removing: HashSet<SnapshotKey>,
    // The last one that was built of each region, until the region gives it up.
    offered: HashMap<RegionId, SnapshotKey>,
    // The last one that each region has made for itself, or gone back to.
    kept: HashMap<RegionId, SnapshotKey>,
    // Those that somebody looks at.
    pinned: Vec<SnapshotKey>,
}

impl NeededFiles {
    /// From now on `key` is needed, unless the worker removes it at this moment: then false.
    #[must_use]
    pub fn need(&self, key: SnapshotKey) -> bool {
        let mut uses = self.lock();
        if uses.removing.contains(&key) {
            return false;
        }
        uses.needed.insert(key);
        true
    }

    /// `key` is not needed any more.
    pub fn release(&self, key: &SnapshotKey) {
        self.lock().needed.remove(key);
    }

    /// No file of `region` is needed any more: its last install has come to its end.
    pub fn release_region(&self, region: RegionId) {
        let mut uses = self.lock();
        uses.needed.retain(|key| key.region != region);
        uses.offered.remove(&region);
    }

    /// raft is offered `key`, until the region builds another one or gives it up. A policy leaves it
    /// alone meanwhile, whatever is newer; who asks for its removal gets it.
    pub fn offer(&self, key: SnapshotKey) {
        self.lock().offered.insert(key.region, key);
    }

    /// The region has given up what it had built.
    pub fn withdraw(&self, region: RegionId) {
        self.lock().offered.remove(&region);
    }

    /// Whether a policy has to leave `key` alone.
    pub fn is_used(&self, key: &SnapshotKey) -> bool {
        let uses = self.lock();
        uses.must_stay(key) || uses.offered.get(&key.region) == Some(key)
    }

    /// From now on its region keeps `key`. Returns the one that it kept before, if that is another.
    pub fn keep(&self, key: SnapshotKey) -> Option<SnapshotKey> {
        let before = self.lock().kept.insert(key.region, key);
        before.filter(|before| *before != key)
    }

    /// What `region` keeps.
    pub fn kept(&self, region: RegionId) -> Option<SnapshotKey> {
        self.lock().kept.get(&region).copied()
    }

    /// `region` keeps nothing any more: its peer is gone.
    pub fn forget(&self, region: RegionId) {
        self.lock().kept.remove(&region);
    }

    /// Nobody removes `key` while the guard lives.
    pub fn pin(self: &Arc<Self>, key: SnapshotKey) -> PinnedFile {
        self.lock().pinned.push(key);
        PinnedFile {
            files: Arc::clone(self),
            key,
        }
    }

    /// What the regions of the node have done.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Says whether a policy decides which snapshots stay.
    pub fn set_keeps_many(&self, keeps_many: bool) {
        self.keeps_many.store(keeps_many, Ordering::Relaxed);
    }

    pub(super) fn keeps_many(&self) -> bool {
        self.keeps_many.load(Ordering::Relaxed)
    }

    /// Removes `key` from `store`, unless it is needed.
    ///
    /// # Errors
    /// Those of the store.
    pub fn remove(&self, store: &dyn RaftSnapshotStorage, key: &SnapshotKey) -> Result<()> {
        let mut uses = self.lock();
        if uses.must_stay(key) {
            return Ok(());
        }
        uses.removing.insert(*key);
        drop(uses);
        let _removing = Removing { files: self, key };
        store.delete(key)
    }

    fn lock(&self) -> MutexGuard<'_, FileUses> {
        self.uses.lock().unwrap_or_else(|p| p.into_inner())
    }
}

impl FileUses {
    fn must_stay(&self, key: &SnapshotKey) -> bool {
        self.needed.contains(key)
            || self.kept.get(&key.region) == Some(key)
            || self.pinned.contains(key)
    }
}

/// A file that stays until this is dropped.
#[must_use = "the file stays only while this lives"]
pub struct PinnedFile {
    files: Arc<NeededFiles>,
    key: SnapshotKey,
}

impl Drop for PinnedFile {
    fn drop(&mut self) {
        let mut uses = self.files.lock();
        if let Some(at) = uses.pinned.iter().position(|key| *key == self.key) {
            uses.pinned.swap_remove(at);
        }
    }
}

/// Says that a file is being removed, until it is dropped: a store that panics must not leave the file
/// unusable for ever.
struct Removing<'a> {
    files: &'a NeededFiles,
    key: &'a SnapshotKey,
}

impl Drop for Removing<'_> {
    fn drop(&mut self) {
        self.files.lock().removing.remove(self.key);
    }
}

/// What is called with the id of a region for which a worker has something.
pub type Waker = Arc<dyn Fn(RegionId) + Send + Sync>;

/// Tells who drives the regions that a worker has answered one, so that nobody has to poll.
#[derive(Default)]
pub struct WakeUp(RwLock<Option<Waker>>);

impl WakeUp {
    /// From now on `waker` is called, on the worker's thread, and nobody that was called before.
    pub fn set(&self, waker: Waker) {
        *self.0.write().unwrap_or_else(|p| p.into_inner()) = Some(waker);
    }

    /// Calls it, if there is one.
    pub fn wake(&self, region: RegionId) {
        // Not under the lock: it may take as long as it wants.
        let waker = self.0.read().unwrap_or_else(|p| p.into_inner()).clone();
        if let Some(waker) = waker {
            waker(region);
        }
    }
}

/// The shared parts of a node. Fields are dropped in their order: the senders first, so that the
/// workers end; then the workers, which are joined; then the stores; the lock of the directory last.
pub struct Engines {
    /// To the workers.
    pub tasks: TaskSenders,
    /// Dropped after the senders and before the stores: joins the workers.
    pub _workers: Box<dyn Any + Send + Sync>,
    /// The log of every region.
    pub log: Arc<dyn RaftLogStorage>,
    /// The data and the apply states.
    pub app: Arc<dyn ApplicationDataStorage>,
    /// The snapshots.
    pub snapshots: Arc<dyn RaftSnapshotStorage>,
    /// The bytes that all entry caches share.
    pub cache: Arc<CacheBudget>,
    /// What is measured.
    pub metrics: NodeMetrics,
    /// What was chosen.
    pub options: StorageOptions,
    /// Called when a worker has answered a region.
    pub wake: Arc<WakeUp>,
    /// Measures the pause of a failed snapshot.
    pub clock: Clock,
    /// The regions that have an owner.
    pub open_regions: Arc<OpenRegions>,
    /// Dropped last: the lock of the directory, where there is one.
    pub _lock: Option<Box<dyn Any + Send + Sync>>,
}

impl Engines {
    /// Writes to the log with the durability that the batch needs and the options allow.
    ///
    /// # Errors
    /// Those of the log store.
    pub fn write_log(&self, batch: &LogBatch) -> Result<()> {
        let durability = match self.options.durability {
            Durability::Synced => batch.durability(),
            Durability::Buffered => Durability::Buffered,
        };
        let write = || self.log.write(batch, durability);
        self.metrics.append(batch, durability, write)
    }

    /// Shows in the metrics what the stores have counted.
    pub fn report_metrics(&self) {
        self.metrics.show(&NodeStats {
            log: self.log.stats(),
            usage: self.log.usage(),
            app: self.app.stats(),
            cache: self.cache.stats(),
        });
    }

    /// Has the worker remove a snapshot file that raft has no more use for, or what has become too
    /// much with it if some are kept.
    pub fn remove_snapshot_file(&self, key: SnapshotKey) {
        if self.options.retention.is_some() {
            return self.clean_up_snapshots();
        }
        // Without a worker the node is going down; the file is an orphan and removed at the next open.
        let _ = self.tasks.snapshot.send(SnapshotTask::Remove(key));
    }

    /// Has the worker remove the snapshots that the policy does not keep, if there is one.
    pub fn clean_up_snapshots(&self) {
        if let Some(retention) = self.options.retention {
            let task = CleanUpTask::new(retention, &self.app, &self.clock);
            // Without a worker the node is going down, and the next open does it.
            let _ = (self.tasks.snapshot).send(SnapshotTask::CleanUp(task));
        }
    }
}

/// Sees to it that each region has one owner: two would vote twice.
#[derive(Debug, Default)]
pub struct OpenRegions(Mutex<Owned>);

#[derive(Debug, Default)]
struct Owned {
    open: HashSet<RegionId>,
    // A write of their state failed, and may be on the disk all the same.
    doubtful: HashSet<RegionId>,
}

/// Held by the owner of a region; dropping the last share of it lets another one open the region. What
/// works for the region on another thread has a share, so that nobody opens it under that work.
#[derive(Debug)]
pub struct Ownership {
    regions: Arc<OpenRegions>,
    region: RegionId,
}

impl OpenRegions {
    /// Makes the caller the owner of `region`.
    ///
    /// # Errors
    /// `RegionOpen` if it has one.
    pub fn acquire(self: &Arc<Self>, region: RegionId) -> Result<Arc<Ownership>> {
        if !self.lock().open.insert(region) {
            return Err(Error::RegionOpen { region });
        }
        Ok(Arc::new(Ownership {
            regions: Arc::clone(self),
            region,
        }))
    }

    /// Nobody knows what the disk says about `region` now: the write that changed it failed.
    pub fn doubt(&self, region: RegionId) {
        self.lock().doubtful.insert(region);
    }

    /// Whether that is so.
    pub fn is_doubtful(&self, region: RegionId) -> bool {
        self.lock().doubtful.contains(&region)
    }

    /// The disk says what can be read.
    pub fn trust(&self, region: RegionId) {
        self.lock().doubtful.remove(&region);
    }

    fn lock(&self) -> MutexGuard<'_, Owned> {
        self.0.lock().unwrap_or_else(|p| p.into_inner())
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        self.regions.lock().open.remove(&self.region);
    }
}
