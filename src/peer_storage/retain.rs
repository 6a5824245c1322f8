//! Removing the snapshots that a policy does not keep. Uses: the seams. Runs on the snapshot worker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::NeededFiles;
use crate::app_store::{ApplicationDataStorage, Keyspace};
use crate::error::{Error, Result};
use crate::keys::region_key;
use crate::proto::RaftApplyState;
use crate::snapshot_store::{CleanUp, RaftSnapshotStorage, Retention, SnapshotInfo, clean_up};
use crate::types::RegionId;

/// Looks at every snapshot of the node once.
pub struct CleanUpTask {
    retention: Retention,
    // It knows where each region's log was truncated.
    app: Arc<dyn ApplicationDataStorage>,
}

impl CleanUpTask {
    /// Keeps what `retention` says.
    pub fn new(retention: Retention, app: &Arc<dyn ApplicationDataStorage>) -> Self {
        CleanUpTask {
            retention,
            app: Arc::clone(app),
        }
    }

    /// Does it. What is being installed stays.
    ///
    /// # Errors
    /// Those of the stores. A region whose state cannot be read keeps everybody's snapshots: nobody
    /// knows what it needs.
    pub fn run(&self, store: &dyn RaftSnapshotStorage, needed: &NeededFiles) -> Result<CleanUp> {
        let infos = store.list(None)?;
        let truncated = self.truncated_indexes(&infos)?;
        let of_region = |region| truncated.get(&region).copied();
        let goes = (self.retention).superseded(&infos, &of_region, SystemTime::now());
        clean_up(&infos, &goes, &mut |key| match needed.is_needed(key) {
            true => Err(Error::SnapshotInUse {
                name: key.to_string(),
            }),
            false => needed.remove(store, key),
        })
    }

    fn truncated_indexes(&self, infos: &[SnapshotInfo]) -> Result<BTreeMap<RegionId, u64>> {
        let mut indexes = BTreeMap::new();
        for region in infos.iter().map(|info| info.key.region) {
            if indexes.contains_key(&region) {
                continue;
            }
            let state = self.app.get(Keyspace::ApplyState, &region_key(region))?;
            if let Some(bytes) = state {
                let state = RaftApplyState::decode_of(region, &bytes)?;
                indexes.insert(region, state.truncated().index);
            }
        }
        Ok(indexes)
    }
}
