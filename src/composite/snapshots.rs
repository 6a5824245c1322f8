//! Snapshots of a node that are kept, and the way back to them. Uses: peer_storage.

use super::CompositeStorage;
use crate::error::{Error, Result};
use crate::peer_storage::{Cancel, PeerStorage, SnapshotMaker, restore};
use crate::snapshot_store::{SnapshotInfo, SnapshotKey};
use crate::types::RegionId;

impl CompositeStorage {
    /// Makes a snapshot of what the region has applied, keeps it, and drops the front of the log that it
    /// covers, but for the entries that trail by the config's `gc`. The snapshot carries the
    /// configuration, and it is durable before the log is touched.
    ///
    /// The region may be open: then its owner drops the front with the next
    /// [`PeerStorage::apply`]. Runs on the caller's thread, and takes as long as the data needs.
    ///
    /// The newest of a region stays until the next one is durable; more of them stay by the config's
    /// `snapshot` limits.
    ///
    /// ```
    /// # use peerstore::{CompositeStorage, Config, Region};
    /// # use raft::eraftpb::Entry;
    /// # let dir = tempfile::tempdir()?;
    /// let node = CompositeStorage::open(dir.path(), Config::default())?;
    /// let mut storage = node.create_region(&Region::single(1, 1))?;
    /// # let mut entry = Entry::default();
    /// # (entry.index, entry.term) = (6, 5);
    /// # storage.append(&[entry.clone()])?;
    /// storage.apply(&[entry.clone()], |_, batch| { batch.put("key", "old"); Ok(()) })?;
    /// let snapshot = node.create_coordinated_snapshot(1)?;
    /// # entry.index = 7;
    /// # storage.append(&[entry.clone()])?;
    /// storage.apply(&[entry], |_, batch| { batch.put("key", "new"); Ok(()) })?;
    /// drop(storage);
    /// node.restore_from_snapshot(&snapshot.key)?;
    /// let storage = node.open_region(1)?;
    /// assert_eq!(storage.get(b"key")?.as_deref(), Some(&b"old"[..]));
    /// assert_eq!((storage.applied_index(), storage.hard_state().commit), (6, 6));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `RegionNotFound`; `SnapshotTemporarilyUnavailable` while the region waits for a merge;
    /// `InvalidArgument` if nothing was applied yet; those of the stores and of
    /// [`CompositeStorage::open_region`]. The log is as it was then.
    pub fn create_coordinated_snapshot(&self, region: impl Into<RegionId>) -> Result<SnapshotInfo> {
        let made = self.make_snapshots(&[region.into()])?;
        // One was asked for, so one was made.
        let made = made.into_iter().next();
        made.ok_or(Error::WorkerGone { worker: "snapshot" })
    }

    /// The same for every region of the node, all as of one moment. Regions to which nothing was applied
    /// yet are left out.
    ///
    /// # Errors
    /// As [`CompositeStorage::create_coordinated_snapshot`]; those that were made before are kept.
    pub fn create_coordinated_snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        let states = self.regions()?;
        let begun = states.iter().filter(|state| state.region.is_initialized());
        let regions: Vec<_> = begun.map(|state| state.region.region_id()).collect();
        self.make_snapshots(&regions)
    }

    fn make_snapshots(&self, regions: &[RegionId]) -> Result<Vec<SnapshotInfo>> {
        // Where nobody has a region open, we do: its log is compacted here.
        let mut owned = Vec::with_capacity(regions.len());
        for region in regions {
            match PeerStorage::open(&self.engines, *region) {
                Ok(storage) => owned.push(storage),
                Err(Error::RegionOpen { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let maker = SnapshotMaker::new(&self.engines);
        let view = self.engines.app.view()?;
        let (store, needed) = (&*self.engines.snapshots, &self.engines.tasks.needed);
        let mut made = Vec::with_capacity(regions.len());
        for region in regions {
            let never = Cancel::default();
            made.push(maker.make(*region, &*view, &never, store, needed)?);
        }
        drop(view);
        for storage in &mut owned {
            storage.compact_behind_snapshot()?;
        }
        self.engines.clean_up_snapshots();
        Ok(made)
    }

    /// Takes a region back to a snapshot of this node: data, log, configuration, commit and applied index
    /// move together. The file is read whole before anything is changed; then the region is switched by
    /// one batch, and a crash anywhere leaves the old state or the new one. Term and vote stay.
    ///
    /// Nobody may have the region open: what raft has in memory would contradict the disk. Entries behind
    /// the snapshot are gone, acknowledged ones too: with several voters take every replica back to the
    /// same position, or the one that is taken back has lost what it had promised.
    ///
    /// # Errors
    /// `SnapshotNotFound`, `RegionNotFound`, `RegionOpen`; `SnapshotOutOfDate` if it ends before the log
    /// starts, `SnapshotRefused` if it is of another range, or from before a change of range or members;
    /// `Corruption` if the file is damaged: nothing was changed then. After an error of the stores the
    /// region is what it was, or its next open goes on with the restore.
    pub fn restore_from_snapshot(&self, key: &SnapshotKey) -> Result<()> {
        restore(&self.engines, std::slice::from_ref(key))
    }

    /// The same for several regions, each with a snapshot of its own: all are staged before the first is
    /// switched, and all are switched by the same batch.
    ///
    /// # Errors
    /// As [`CompositeStorage::restore_from_snapshot`].
    pub fn restore_from_snapshots(&self, keys: &[SnapshotKey]) -> Result<()> {
        restore(&self.engines, keys)
    }
}
