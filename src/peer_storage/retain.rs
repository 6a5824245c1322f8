//! Removing the snapshots that a policy does not keep. Uses: the seams. Runs on the snapshot worker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::snapshot_data::PendingSnapshot;
use super::{Clock, NeededFiles};
use crate::app_store::{ApplicationDataStorage, Keyspace};
use crate::error::{Error, Result};
use crate::keys::region_key;
use crate::proto::{INITIAL_INDEX, RaftApplyState, decode};
use crate::snapshot_store::{
    CleanUp, RaftSnapshotStorage, Retention, SnapshotInfo, SnapshotKey, clean_up,
};
use crate::types::RegionId;

/// Looks at every snapshot of the node once.
pub struct CleanUpTask {
    retention: Retention,
    // It knows where each region's log was truncated.
    app: Arc<dyn ApplicationDataStorage>,
    clock: Clock,
}

impl CleanUpTask {
    /// Keeps what `retention` says.
    pub fn new(retention: Retention, app: &Arc<dyn ApplicationDataStorage>, clock: &Clock) -> Self {
        CleanUpTask {
            retention,
            app: Arc::clone(app),
            clock: clock.clone(),
        }
    }

    /// Does it. What is being installed stays.
    ///
    /// # Errors
    /// Those of the stores. A state that cannot be read keeps everything: nobody knows what is needed.
    pub fn run(&self, store: &dyn RaftSnapshotStorage, needed: &NeededFiles) -> Result<CleanUp> {
        let infos = store.list(None)?;
        let needs = self.needs(&infos)?;
        let truncated = |region| needs.truncated.get(&region).copied();
        let goes = (self.retention).superseded(&infos, &truncated, self.clock.wall());
        clean_up(&infos, &goes, &mut |key| {
            if needs.installing.contains(key) || needed.is_used(key) {
                let name = key.to_string();
                return Err(Error::SnapshotInUse { name });
            }
            needed.remove(store, key)
        })
    }

    fn needs(&self, infos: &[SnapshotInfo]) -> Result<Needs> {
        let mut needs = Needs::default();
        let regions: BTreeSet<RegionId> = infos.iter().map(|info| info.key.region).collect();
        for region in regions {
            let key = region_key(region);
            if let Some(bytes) = self.app.get(Keyspace::ApplyState, &key)? {
                let truncated = RaftApplyState::decode_of(region, &bytes)?.truncated();
                // A log that was never truncated begins with nothing: everything is in it.
                let index = (truncated.index > INITIAL_INDEX).then_some(truncated.index);
                needs.truncated.extend(index.map(|index| (region, index)));
            }
            if let Some(bytes) = self.app.get(Keyspace::SnapshotState, &key)? {
                let pending: PendingSnapshot = decode(region, "PendingSnapshot", &bytes)?;
                let file = pending.file.map(|file| file.key(region));
                needs.installing.extend(file);
            }
        }
        Ok(needs)
    }
}

/// What the states of the regions say that must stay.
#[derive(Default)]
struct Needs {
    /// Where each log was truncated.
    truncated: BTreeMap<RegionId, u64>,
    /// The files of installs that are to go on when their regions are opened. Nobody has said so in
    /// [`NeededFiles`] before that.
    installing: BTreeSet<SnapshotKey>,
}
