//! What every region of a node shares: the three stores, the cache's budget, the way to the workers.
//! Uses: the seams. Never does I/O itself.

use std::any::Any;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crossbeam_channel::Sender;

use super::fetch::FetchTask;
use super::gc::GcPolicy;
use super::snapshot::SnapshotTask;
use crate::app_store::ApplicationDataStorage;
use crate::entry_cache::CacheBudget;
use crate::error::{Error, Result};
use crate::raft_log::{LogBatch, RaftLogStorage};
use crate::snapshot_store::{RaftSnapshotStorage, SnapshotKey};
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
}

impl Default for StorageOptions {
    fn default() -> Self {
        StorageOptions {
            durability: Durability::Synced,
            inline_bytes_max: 64 << 10,
            retry_backoff: Duration::from_secs(1),
            gc: GcPolicy::default(),
        }
    }
}

/// Where a region sends what must not run on its raft thread.
pub struct TaskSenders {
    /// To the worker that reads cold entries.
    pub fetch: Sender<FetchTask>,
    /// To the worker that builds and removes snapshot files.
    pub snapshot: Sender<SnapshotTask>,
    /// What that worker must not remove.
    pub needed: Arc<NeededFiles>,
}

/// The snapshot files that are being installed. A crash needs them again, so the worker leaves them
/// alone, whoever has asked for their removal: the region itself may have built and given up the very
/// file that now came from its leader.
#[derive(Debug, Default)]
pub struct NeededFiles(Mutex<FileUses>);

#[derive(Debug, Default)]
struct FileUses {
    needed: HashSet<SnapshotKey>,
    removing: HashSet<SnapshotKey>,
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

    /// Removes `key` from `store`, unless it is needed.
    ///
    /// # Errors
    /// Those of the store.
    pub fn remove(&self, store: &dyn RaftSnapshotStorage, key: &SnapshotKey) -> Result<()> {
        let mut uses = self.lock();
        if uses.needed.contains(key) {
            return Ok(());
        }
        uses.removing.insert(*key);
        drop(uses);
        let removed = store.delete(key);
        self.lock().removing.remove(key);
        removed
    }

    fn lock(&self) -> MutexGuard<'_, FileUses> {
        self.0.lock().unwrap_or_else(|p| p.into_inner())
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
    /// What was chosen.
    pub options: StorageOptions,
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
        self.log.write(batch, durability)
    }
}

/// Sees to it that each region has one owner: two would vote twice.
#[derive(Debug, Default)]
pub struct OpenRegions(Mutex<HashSet<RegionId>>);

/// Held by the owner of a region; dropping it lets another one open the region.
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
    pub fn acquire(self: &Arc<Self>, region: RegionId) -> Result<Ownership> {
        let mut open = self.0.lock().unwrap_or_else(|p| p.into_inner());
        if !open.insert(region) {
            return Err(Error::RegionOpen { region });
        }
        Ok(Ownership {
            regions: Arc::clone(self),
            region,
        })
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        let mut open = self.regions.0.lock().unwrap_or_else(|p| p.into_inner());
        open.remove(&self.region);
    }
}
