//! The three storages of one node, opened from a config: log, data and snapshots, with the workers.
//! Uses: everything below.
//!
//! | file | what it does |
//! |---|---|
//! | `builder` | which config, directory and backends a node is put together from |
//! | `open` | the backends of a config, opened; who the store is |
//! | `snapshots` | snapshots that are kept, of one region or all, and the way back to them |
//! | `stats` | what the node has done |

mod builder;
mod open;
mod snapshots;
mod stats;

use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::app_store::{AppStats, ApplicationDataStorage};
use crate::config::Config;
use crate::entry_cache::{CacheBudget, CacheStats};
use crate::error::{Error, Result};
use crate::health::{HealthChecker, HealthThread, NodeHealth};
use crate::metrics::{NodeMetrics, Scope};
use crate::peer_storage::{
    Clock, Engines, OpenRegions, PeerStorage, StorageOptions, TaskSenders, WakeUp, Waker,
    finish_removals, read_region, region_ids, regions, tombstones,
};
use crate::persistence::{PersistenceStrategy, SyncPolicy};
use crate::proto::{Region, RegionLocalState, StoreIdent};
use crate::raft_log::{LogBatch, LogStats, RaftLogStorage};
use crate::snapshot_store::RaftSnapshotStorage;
use crate::types::{PeerId, RegionId};
use crate::workers::{BehindOptions, SteppedWorkers, Workers};

pub use builder::CompositeBuilder;
use builder::Opened;
pub use stats::{CompositeMetrics, RaftLogStats};

/// One node's storage: any number of regions over one log, one data store and one snapshot store.
///
/// The regions keep it open: it closes when it and every [`PeerStorage`] of it are dropped, which also
/// ends its two worker threads and lets go of its lock.
///
/// ```
/// use peerstore::{CompositeStorage, Config, Region};
/// let dir = tempfile::tempdir()?;
/// let node = CompositeStorage::open(dir.path(), Config::default())?;
/// let storage = node.create_region(&Region::single(1, 1))?;
/// assert_eq!((storage.truncated_index(), storage.applied_index()), (5, 5));
/// drop(storage);
/// let storage = node.open_region(1)?;
/// assert_eq!(storage.raft_state().last_index, 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CompositeStorage {
    // Dropped first: it holds the stores, whose end the engines order.
    health: Arc<HealthChecker>,
    engines: Arc<Engines>,
    ident: StoreIdent,
}

/// The storages of a node that is put together by hand, from any backends.
pub struct Parts {
    /// The log.
    pub log: Arc<dyn RaftLogStorage>,
    /// The data.
    pub app: Arc<dyn ApplicationDataStorage>,
    /// The snapshots.
    pub snapshots: Arc<dyn RaftSnapshotStorage>,
}

impl CompositeStorage {
    /// Opens the node in `dir`, creating it if the config says so. The directory and everything in it
    /// is durable on return. The same as [`CompositeStorage::builder`] with a directory and a config.
    ///
    /// # Errors
    /// `Config`; `StoreNotFound`, `ForeignDirectory`, `IncompleteStore`, `ForeignStore`,
    /// `UnsupportedVersion`: nothing was touched then; `Locked`; those of the stores.
    pub fn open(dir: impl AsRef<Path>, config: Config) -> Result<Self> {
        CompositeStorage::builder().config(config).dir(dir).open()
    }

    /// Begins to put a node together: a config, a directory, and for each of its layers the config's
    /// backend or one of your own.
    pub fn builder() -> CompositeBuilder {
        CompositeBuilder::default()
    }

    /// Puts a node together from stores that are open already, your own among them. Of `config`, what
    /// opens stores is not used.
    ///
    /// # Errors
    /// `Config`; `Io` if the system gives no thread; those of the stores.
    pub fn from_parts(parts: Parts, config: &Config) -> Result<Self> {
        CompositeBuilder::of_parts(parts, config).open()
    }

    /// The same without threads: what the workers would do is done when [`SteppedWorkers`] is told to,
    /// on the caller's thread, and the clock stands still until it is moved. For simulations that are
    /// the same each time.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use peerstore::memory::{MemoryData, MemoryLog, MemorySnapshots};
    /// use peerstore::{CompositeStorage, Config, Parts, Region};
    /// use raft::Storage as _;
    /// let parts = Parts {
    ///     log: Arc::new(MemoryLog::new()),
    ///     app: Arc::new(MemoryData::new()),
    ///     snapshots: Arc::new(MemorySnapshots::new()),
    /// };
    /// let (node, workers) = CompositeStorage::from_parts_stepped(parts, &Config::default())?;
    /// let storage = node.create_region(&Region::single(1, 1))?;
    /// assert!(storage.snapshot(0, 2).is_err(), "asked for, not built");
    /// assert!(workers.step_snapshot());
    /// assert_eq!(storage.snapshot(0, 2)?.get_metadata().index, 5);
    /// assert!(!workers.step_snapshot(), "there is nothing more to do");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`CompositeStorage::from_parts`].
    pub fn from_parts_stepped(parts: Parts, config: &Config) -> Result<(Self, SteppedWorkers)> {
        CompositeBuilder::of_parts(parts, config).open_stepped()
    }

    fn stepped(mut opened: Opened) -> Result<(Self, SteppedWorkers)> {
        let wake = Arc::new(WakeUp::default());
        let metrics = Arc::new(NodeMetrics::new(&Scope::new(opened.ident.store_id)));
        let behind = behind_options(&opened.config, &metrics);
        let parts = &opened.parts;
        let (tasks, stepped) = SteppedWorkers::new(&parts.log, &parts.snapshots, &wake, behind);
        let health = opened.health(stepped.clock());
        let background = Background {
            tasks,
            workers: Box::new(()),
            wake,
            clock: stepped.clock().clone(),
            metrics,
        };
        let node = Self::assemble(opened, background, health)?;
        Ok((node, stepped))
    }

    fn start(mut opened: Opened) -> Result<Self> {
        let wake = Arc::new(WakeUp::default());
        let metrics = Arc::new(NodeMetrics::new(&Scope::new(opened.ident.store_id)));
        let behind = match opened.config.persistence {
            PersistenceStrategy::MemFirst => Some(behind_options(&opened.config, &metrics)),
            PersistenceStrategy::DiskFirst => None,
        };
        let parts = &opened.parts;
        let (tasks, workers) = Workers::start(&parts.log, &parts.snapshots, &wake, behind)?;
        let clock = Clock::machine();
        let health = opened.health(&clock);
        let background = Background {
            tasks,
            workers: Box::new((workers, HealthThread::start(&health)?)),
            wake,
            clock,
            metrics,
        };
        Self::assemble(opened, background, health)
    }

    fn assemble(
        opened: Opened,
        background: Background,
        health: Arc<HealthChecker>,
    ) -> Result<Self> {
        let Opened {
            parts,
            config,
            ident,
            lock,
            ..
        } = opened;
        let engines = Engines {
            tasks: background.tasks,
            _workers: background.workers,
            log: parts.log,
            app: parts.app,
            snapshots: parts.snapshots,
            cache: CacheBudget::new(config.entry_cache_bytes),
            metrics: background.metrics,
            options: StorageOptions {
                durability: config.effective_durability(),
                inline_bytes_max: config.snapshot.inline_bytes_max,
                retry_backoff: Duration::from_millis(config.snapshot.retry_backoff_ms),
                gc: config.effective_gc(),
                retention: config.snapshot.retention(),
                persistence: config.persistence,
                flush: config.flush_policy,
                snapshot_policy: config.snapshot_policy(),
            },
            wake: background.wake,
            clock: background.clock,
            open_regions: Arc::new(OpenRegions::default()),
            _lock: lock.map(|lock| Box::new(lock) as Box<dyn Any + Send + Sync>),
        };
        let retention = engines.options.retention;
        (engines.tasks.needed).set_keeps_many(retention.is_some());
        finish_removals(&engines)?;
        engines.clean_up_snapshots();
        Ok(CompositeStorage {
            health,
            engines: Arc::new(engines),
            ident,
        })
    }

    /// The id of this store in its cluster: the config's, or if that gives none, the one that the
    /// directory was given before; 0 if neither has.
    pub fn store_id(&self) -> u64 {
        self.ident.store_id
    }

    /// The id of the cluster, in the same way.
    pub fn cluster_id(&self) -> u64 {
        self.ident.cluster_id
    }

    /// Creates a region with its peers. This node's own is the only one, or the one whose store id is
    /// the config's.
    ///
    /// Regions of a node that hold data must not overlap: a snapshot that is installed in one, and its
    /// removal, clear the keys of its whole range. Whoever hands out the ranges sees to that.
    ///
    /// # Errors
    /// `RegionExists`, `RegionTombstone` unless the peer is larger than the one that was removed,
    /// `InvalidArgument` if the region cannot be, or no peer is this node's.
    pub fn create_region(&self, region: &Region) -> Result<PeerStorage> {
        PeerStorage::create(&self.engines, region, self.own_peer(region)?)
    }

    /// The peer of `region` that is this node's.
    ///
    /// # Errors
    /// `InvalidArgument` if there is none.
    pub(crate) fn own_peer(&self, region: &Region) -> Result<PeerId> {
        let own = match &region.peers[..] {
            [peer] => Some(peer),
            peers => peers.iter().find(|p| p.store_id == self.store_id()),
        };
        let peer = own.ok_or_else(|| {
            let stores: Vec<u64> = region.peers.iter().map(|p| p.store_id).collect();
            Error::invalid(
                region.region_id(),
                "create_region",
                format!("peers on the stores {stores:?}"),
                format!("one on this store, {}", self.store_id()),
            )
        })?;
        Ok(PeerId(peer.id))
    }

    /// Creates a peer that knows nothing but its ids, and waits for a snapshot or for entries.
    ///
    /// # Errors
    /// `RegionExists`, `RegionTombstone`, `InvalidArgument` if the peer id is 0.
    pub fn create_uninitialized(
        &self,
        region_id: impl Into<RegionId>,
        peer_id: impl Into<PeerId>,
    ) -> Result<PeerStorage> {
        PeerStorage::create_uninitialized(&self.engines, region_id.into(), peer_id.into())
    }

    /// Opens a region that is on this node.
    ///
    /// # Errors
    /// `RegionNotFound`, `RegionTombstone`, `RegionOpen`; `Recovery` with what contradicts what, if the
    /// stored states do; `Corruption` if one does not decode. Nothing has changed then, except that an
    /// install may have come further and what a removed peer left was removed.
    pub fn open_region(&self, region_id: impl Into<RegionId>) -> Result<PeerStorage> {
        PeerStorage::open(&self.engines, region_id.into())
    }

    /// The regions, ascending by id, without those that were removed. One whose state is damaged is
    /// left out and reported to the log; opening it says what is wrong.
    ///
    /// # Errors
    /// Those of the data store.
    pub fn regions(&self) -> Result<Vec<RegionLocalState>> {
        regions(&self.engines)
    }

    /// The log of every region.
    pub fn log(&self) -> &Arc<dyn RaftLogStorage> {
        &self.engines.log
    }

    /// The data of every region.
    pub fn app(&self) -> &Arc<dyn ApplicationDataStorage> {
        &self.engines.app
    }

    /// The snapshots of every region.
    pub fn snapshots(&self) -> &Arc<dyn RaftSnapshotStorage> {
        &self.engines.snapshots
    }

    /// What the entry caches of all regions have done and hold.
    pub fn cache_stats(&self) -> CacheStats {
        self.engines.cache.stats()
    }

    /// What the log has done.
    pub fn log_stats(&self) -> LogStats {
        self.engines.log.stats()
    }

    /// What the data store has done.
    pub fn app_stats(&self) -> AppStats {
        self.engines.app.stats()
    }

    /// How the node stood when it was last checked, at once. A thread checks every
    /// `health_interval_ms`; with 0 nobody does but [`CompositeStorage::check_health`].
    pub fn health(&self) -> NodeHealth {
        self.health.last()
    }

    /// Checks now: writes a little into each layer, reads it back and removes it. It waits for the disk.
    ///
    /// ```
    /// use peerstore::{CompositeStorage, Config};
    /// let dir = tempfile::tempdir()?;
    /// let node = CompositeStorage::open(dir.path(), Config::default())?;
    /// let health = node.check_health();
    /// assert_eq!(health.log, peerstore::HealthStatus::Healthy, "{health}");
    /// assert_eq!(node.health().log, health.log);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check_health(&self) -> NodeHealth {
        self.health.check()
    }

    /// From now on `changed` is called when a layer has become better or worse, with all of them, on the
    /// thread that checks. It may ask what was found, but must neither check nor drop the node.
    pub fn on_health_change(&self, changed: impl Fn(&NodeHealth) + Send + Sync + 'static) {
        self.health.subscribe(Arc::new(changed));
    }

    /// Shows in the metrics what is counted here anyway ([`crate::metrics`]). To be called before they
    /// are read; [`Store::report_metrics`](crate::Store::report_metrics) does so too.
    pub fn report_metrics(&self) {
        self.engines.report_metrics();
    }

    /// Writes a batch that [`PeerStorage::stage`] filled, with the durability that it needs and the
    /// config allows. Then tell each region with [`PeerStorage::persisted`].
    ///
    /// # Errors
    /// Those of the log store.
    pub fn write_log(&self, batch: &LogBatch) -> Result<()> {
        self.engines.write_log(batch)
    }
}

/// What the driver of many regions needs of its node.
impl CompositeStorage {
    /// What checks it. To be held weakly: it holds the stores.
    pub(crate) fn health_checker(&self) -> &Arc<HealthChecker> {
        &self.health
    }

    /// What every region shares.
    pub(crate) fn engines(&self) -> &Arc<Engines> {
        &self.engines
    }

    /// From now on `waker` is called, on a worker's thread, with each region that a worker has answered.
    /// It must not keep the node alive, or the node's last share could be dropped by its own worker.
    pub(crate) fn set_waker(&self, waker: Waker) {
        self.engines.wake.set(waker);
    }

    /// What this node knows about `region`, also if it was removed.
    ///
    /// # Errors
    /// `Corruption` if it does not decode, else those of the data store.
    pub(crate) fn local_state(&self, region: RegionId) -> Result<Option<RegionLocalState>> {
        read_region(&self.engines, region)
    }

    /// The ids of the regions that were not removed, also of those whose state is damaged.
    ///
    /// # Errors
    /// Those of the data store.
    pub(crate) fn region_ids(&self) -> Result<Vec<RegionId>> {
        region_ids(&self.engines)
    }

    /// The regions that were removed from this node, ascending by id.
    ///
    /// # Errors
    /// Those of the data store.
    pub(crate) fn tombstones(&self) -> Result<Vec<RegionLocalState>> {
        tombstones(&self.engines)
    }
}

/// What works for the regions of a node beside their own threads.
struct Background {
    tasks: TaskSenders,
    // Dropped after the senders: joins what runs.
    workers: Box<dyn Any + Send + Sync>,
    wake: Arc<WakeUp>,
    clock: Clock,
    metrics: Arc<NodeMetrics>,
}

fn behind_options(config: &Config, metrics: &Arc<NodeMetrics>) -> BehindOptions {
    BehindOptions {
        durability: config.effective_durability(),
        flush: config.flush_policy,
        alone: config.sync_policy == SyncPolicy::Always,
        metrics: Arc::clone(metrics),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app_store::{AppBatch, Keyspace};
    use crate::keys::region_key;
    use crate::memory::{MemoryData, MemoryLog, MemorySnapshots};
    use crate::proto::PeerState;
    use crate::types::Durability;

    #[test]
    fn a_peer_in_the_place_of_one_half_removed_finds_nothing() -> Result<()> {
        let (log, app) = (
            Arc::new(MemoryLog::default()),
            Arc::new(MemoryData::default()),
        );
        let open = || {
            let parts = Parts {
                log: log.clone(),
                app: app.clone(),
                snapshots: Arc::new(MemorySnapshots::default()),
            };
            CompositeStorage::from_parts(parts, &Config::default())
        };
        let storage = open()?.create_region(&Region::single(1, 1))?;
        // As a crash leaves it behind the first step of a removal.
        let tombstone = RegionLocalState {
            state: PeerState::Tombstone,
            ..storage.region_state().clone()
        };
        drop(storage);
        let mut batch = AppBatch::default();
        let key = region_key(1.into());
        batch.put(Keyspace::RegionState, key, tombstone.encode_to_vec());
        batch.put(Keyspace::Data, "key", "of the old peer");
        app.write(&batch, Durability::Synced)?;
        let storage = open()?.create_region(&Region::single(1, 2))?;
        assert_eq!(storage.get(b"key")?, None);
        Ok(())
    }
}
