//! A region ends: its tombstone, and what a removed peer leaves. Uses: the seams.
//!
//! A tombstone whose apply state is gone owns no data: somebody else may hold the range by then. So the
//! data goes in the batch that removes the apply state, or, where a merge hands it over, never.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::coordinated::remove_record;
use super::open::{read_region, scan_regions};
use super::snapshot::SnapshotTask;
use super::{Engines, Ownership, PeerStorage};
use crate::app_store::{AppBatch, Keyspace};
use crate::error::{Error, Result};
use crate::keys::region_key;
use crate::proto::{PeerState, RegionLocalState};
use crate::raft_log::LogBatch;
use crate::types::RegionId;

/// What becomes of the data of a region that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// It goes with the region.
    Nothing,
    /// It stays: another region takes the range over.
    Data,
}

/// The removal of a peer, to be run on a thread that may wait for the disk. It shares in the ownership
/// of its region: nobody can open or create the region before it has run or was dropped.
#[must_use = "the peer stays until the task has run"]
pub struct DestroyTask {
    engines: Arc<Engines>,
    tombstone: RegionLocalState,
    leaves: Leaves,
    _ownership: Arc<Ownership>,
}

impl DestroyTask {
    /// The removal of a region that cannot be opened, from what is stored of it.
    ///
    /// # Errors
    /// `RegionNotFound`, `RegionOpen`; `Corruption` if not even its range can be read.
    pub(crate) fn of_stored(engines: &Arc<Engines>, region: RegionId) -> Result<Self> {
        let ownership = engines.open_regions.acquire(region)?;
        let stored = read_region(engines, region)?;
        let stored = stored.filter(|s| s.state != PeerState::Tombstone);
        let stored = stored.ok_or(Error::RegionNotFound { region })?;
        Ok(DestroyTask::new(
            engines,
            stored,
            Leaves::Nothing,
            ownership,
        ))
    }

    fn new(
        engines: &Arc<Engines>,
        state: RegionLocalState,
        leaves: Leaves,
        ownership: Arc<Ownership>,
    ) -> Self {
        DestroyTask {
            engines: Arc::clone(engines),
            tombstone: RegionLocalState {
                state: PeerState::Tombstone,
                // A tombstone that names a target says that the merge has come to its end.
                merge_state: None,
                ..state
            },
            leaves,
            _ownership: ownership,
        }
    }

    /// The region as it will be remembered.
    pub(crate) fn tombstone(&self) -> &RegionLocalState {
        &self.tombstone
    }

    /// Makes the tombstone durable first, then removes log and states, then the data unless it stays.
    ///
    /// # Errors
    /// Those of the stores; the next open of the node goes on with it.
    pub fn run(self) -> Result<()> {
        let engines = &self.engines;
        let region = self.tombstone.region.region_id();
        let mut batch = AppBatch::default();
        match self.leaves {
            Leaves::Nothing => put_tombstone(&self.tombstone, &mut batch),
            // In one batch: behind a tombstone with an apply state, the next open removes the data.
            Leaves::Data => tombstone_ops(&self.tombstone, Leaves::Data, &mut batch),
        }
        let written = engines.app.write(&batch, engines.options.durability);
        if written.is_err() {
            engines.open_regions.doubt(region);
        }
        written?;
        // An install that failed before this has left its file in need.
        engines.tasks.needed.release_region(region);
        remove_leftovers(engines, &self.tombstone)
    }
}

impl PeerStorage {
    /// Removes the peer for ever: its tombstone is made durable first, then its log and states go,
    /// then the data in its range. Its peer id never comes back to this region.
    ///
    /// # Errors
    /// Those of the stores; the next open of the node goes on with it.
    pub fn destroy(self) -> Result<()> {
        let task = self.destroy_task(Leaves::Nothing);
        drop(self);
        task.run()
    }

    /// The same for another thread. Drop the `PeerStorage` before the task runs, or do nothing with it
    /// any more: the region is over. No install of it may be under way: its last write would bring the
    /// peer back to life.
    pub(crate) fn destroy_task(&self, leaves: Leaves) -> DestroyTask {
        self.assert_alone();
        self.cancel_snapshot();
        let (state, ownership) = (self.region_state.clone(), Arc::clone(&self.ownership));
        DestroyTask::new(&self.engines, state, leaves, ownership)
    }
}

/// Turns the region of `state` into a tombstone, by one batch: its states go, and its data too unless
/// somebody else takes it over in the same batch (rule 27). The log goes later, once that is durable.
pub(crate) fn tombstone_ops(state: &RegionLocalState, leaves: Leaves, batch: &mut AppBatch) {
    put_tombstone(state, batch);
    if leaves == Leaves::Nothing {
        remove_data(state, batch);
    }
    remove_states(state.region.region_id(), batch);
}

fn put_tombstone(state: &RegionLocalState, batch: &mut AppBatch) {
    let tombstone = RegionLocalState {
        state: PeerState::Tombstone,
        ..state.clone()
    };
    let key = region_key(state.region.region_id());
    batch.put(Keyspace::RegionState, key, tombstone.encode_to_vec());
}

fn remove_data(state: &RegionLocalState, batch: &mut AppBatch) {
    // A peer that never learned its range has no data; its empty range would mean every key.
    if state.region.is_initialized() {
        for keyspace in Keyspace::APPLICATION {
            batch.delete_range(keyspace, &state.region.range());
        }
    }
}

fn remove_states(region: RegionId, batch: &mut AppBatch) {
    let key = region_key(region);
    batch.delete(Keyspace::ApplyState, key);
    batch.delete(Keyspace::SnapshotState, key);
    remove_record(region, batch);
}

/// The regions that were removed from this node, ascending by id. One whose state cannot be read is
/// left out: it concerns its own region only, and is reported when that is opened.
///
/// # Errors
/// Those of the data store.
pub fn tombstones(engines: &Engines) -> Result<Vec<RegionLocalState>> {
    let mut removed = Vec::new();
    scan_regions(engines, &mut |found| {
        removed.extend(found.ok().filter(|s| s.state == PeerState::Tombstone));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(removed)
}

/// Goes on with removals that a crash interrupted. To be called before a region can be created: who
/// got a removed peer's range would find its data there, or lose its own to a late removal.
///
/// # Errors
/// Those of the stores.
pub fn finish_removals(engines: &Engines) -> Result<()> {
    (tombstones(engines)?.iter()).try_for_each(|tombstone| remove_leftovers(engines, tombstone))
}

/// What a removed peer left: its log first, then, in one batch, its states and its data. If the apply
/// state is gone, so is the data, and somebody else may own the range by now.
pub(super) fn remove_leftovers(engines: &Engines, tombstone: &RegionLocalState) -> Result<()> {
    let region = tombstone.region.region_id();
    let durability = engines.options.durability;
    let had_log = match engines.log.read_state(region) {
        Ok(state) => state.is_some(),
        // It is on its way out, whatever it says.
        Err(Error::Corruption { .. }) => true,
        Err(error) => return Err(error),
    };
    if had_log {
        let mut batch = LogBatch::default();
        batch.clear_region(region);
        engines.log.write(&batch, durability)?;
    }
    let key = region_key(region);
    let had_states = engines.app.get(Keyspace::ApplyState, &key)?.is_some();
    if had_states {
        let mut batch = AppBatch::default();
        remove_data(tombstone, &mut batch);
        remove_states(region, &mut batch);
        engines.app.write(&batch, durability)?;
    }
    if had_log || had_states {
        engines.tasks.needed.forget(region);
        remove_orphans(engines, region)?;
    }
    Ok(())
}

/// Snapshot files that nobody will ask for: what was built or received before this open. Not by the
/// worker: it might come too late, and take a file that was received again meanwhile.
pub(super) fn remove_orphans(engines: &Engines, region: RegionId) -> Result<()> {
    for info in engines.snapshots.list(Some(region))? {
        // At once: the worker might come to it when the same file has been received again. One that is
        // still being sent is left to the worker; without it, the next open removes the file.
        if let Some(later) =
            SnapshotTask::Remove(info.key).run(&*engines.snapshots, &engines.tasks.needed)
        {
            let _ = engines.tasks.snapshot.send(later);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
