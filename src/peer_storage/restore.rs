//! Going back to snapshots of this node: staged first, then switched to in one step for all regions. Uses:
//! install, coordinated.
//!
//! | step | what becomes durable | a crash after it |
//! |---|---|---|
//! | 1 | kv, one batch of all regions: Applying, the snapshots' apply states, what each log is to be | each open goes on with it |
//! | 2 | log, one batch: the entries of all regions gone, their raft states at the snapshots | the same |
//! | 3, 4 | as of an install, region by region | the same |

use std::sync::Arc;

use super::install::{Install, Target};
use super::{Engines, PeerStorage};
use crate::app_store::AppBatch;
use crate::error::{Error, Result};
use crate::proto::PeerState;
use crate::raft_log::LogBatch;
use crate::snapshot_data::RaftSnapshotData;
use crate::snapshot_store::{SnapshotInfo, SnapshotKey};

/// A region between its staging and its switch. Its `PeerStorage` keeps everybody else from it.
struct Staged {
    _storage: PeerStorage,
    target: Target,
    install: Install,
}

/// Takes the regions of `keys` back to these snapshots: data, log, configuration, commit and applied index
/// together. Nobody may have one of them open.
///
/// # Errors
/// `SnapshotNotFound`, `RegionNotFound`, `RegionOpen`, `SnapshotOutOfDate`, `SnapshotRefused` or
/// `Corruption`: nothing was changed then. After any other error each region is what it was, or its next
/// open goes on with the restore.
pub fn restore(engines: &Arc<Engines>, keys: &[SnapshotKey]) -> Result<()> {
    let needed = &engines.tasks.needed;
    // Opening a region removes the files that nobody needs.
    let _pins: Vec<_> = keys.iter().map(|key| needed.pin(*key)).collect();
    let mut staged = Vec::new();
    for key in keys {
        match stage(engines, key) {
            Ok(one) => staged.push(one),
            Err(error) => {
                staged.iter().for_each(|one| one.install.give_up(engines));
                return Err(error);
            }
        }
    }
    let mut states = AppBatch::new();
    let mut log = LogBatch::new();
    for one in &staged {
        one.target.add_applying(&one.install, &mut states);
        one.target.add_to_log(&mut log);
    }
    if states.is_empty() {
        return Ok(());
    }
    if let Err(error) = engines.app.write(&states, engines.options.durability) {
        // It may be on the disk all the same.
        for one in &staged {
            let region = one.target.region_state.region.region_id();
            engines.open_regions.doubt(region);
        }
        return Err(error);
    }
    for key in keys {
        needed.keep(*key);
    }
    engines.write_log(&log)?;
    for one in staged {
        one.install.finish(engines, &one.target.region_state)?;
    }
    Ok(())
}

fn stage(engines: &Arc<Engines>, key: &SnapshotKey) -> Result<Staged> {
    let infos = engines.snapshots.list(Some(key.region))?;
    let info = infos.into_iter().find(|info| info.key == *key);
    let info = info.ok_or_else(|| Error::SnapshotNotFound {
        name: key.to_string(),
        path: "the node's snapshots".into(),
    })?;
    let storage = PeerStorage::open(engines, key.region)?;
    let target = storage.plan_restore(&info)?;
    let install = target.stage_data(engines)?;
    Ok(Staged {
        _storage: storage,
        target,
        install,
    })
}

impl PeerStorage {
    /// Whether the region can go back to `info`, and to what it switches then.
    fn plan_restore(&self, info: &SnapshotInfo) -> Result<Target> {
        let region = self.region_id();
        if self.region_state.state != PeerState::Normal {
            let reason = format!(
                "the region is {:?}, expected Normal",
                self.region_state.state
            );
            return Err(Error::SnapshotRefused { region, reason });
        }
        let (index, first_index) = (info.meta.position.index, self.log_first());
        // The truncated position itself may be gone back to: its term is known, and nothing behind it
        // is needed.
        if index + 1 < first_index {
            return Err(Error::SnapshotOutOfDate {
                region,
                index,
                first_index,
            });
        }
        let snapshot = RaftSnapshotData::of(info, Vec::new()).into_snapshot(info);
        let target = self.plan_switch(&snapshot, None, &[])?;
        Ok(target.into_restore(info.key))
    }
}
