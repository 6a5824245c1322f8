//! Which snapshots may go. Uses: snapshot_store, types. Never does I/O.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime};

use super::{SnapshotId, SnapshotInfo, SnapshotKey};
use crate::error::{Error, Result};
use crate::types::RegionId;

/// Which snapshots are kept. Each limit that is set holds by itself: a snapshot goes if any of them
/// says so. Without any limit everything is kept.
///
/// Whatever the limits say, these stay: the newest snapshot of each region; one that is read or sent;
/// and the first that reaches to where its region's log was truncated, from which, with the log behind
/// it, everything can be had again.
///
/// ```
/// use std::time::Duration;
/// use peerstore::Retention;
/// let week = Duration::from_secs(7 * 24 * 3600);
/// let combined = Retention { max_age: Some(week), ..Retention::keep_latest(5) };
/// assert_eq!(combined, Retention::combined(5, week));
/// assert!(Retention::default().is_unlimited());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// How many snapshots of a region are kept, the newest ones. 0 keeps one.
    pub keep_latest: Option<u64>,
    /// How long ago a snapshot may have been built. One that does not say when it was built stays.
    pub max_age: Option<Duration>,
    /// What the files of all regions together may take. The newest are kept, up to the first that does
    /// not fit any more.
    pub total_bytes_max: Option<u64>,
}

/// What cleaning up did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleanUp {
    /// How many snapshots were removed.
    pub removed: u64,
    /// The bytes of their files.
    pub removed_bytes: u64,
    /// How many should have gone and are in use. The next clean-up finds them.
    pub in_use: u64,
}

impl Retention {
    /// The `count` newest snapshots of each region.
    pub fn keep_latest(count: u64) -> Self {
        Retention {
            keep_latest: Some(count),
            ..Retention::default()
        }
    }

    /// Those that are not older than `max_age`.
    pub fn by_age(max_age: Duration) -> Self {
        Retention {
            max_age: Some(max_age),
            ..Retention::default()
        }
    }

    /// Those that are both among the `count` newest and not older than `max_age`.
    pub fn combined(count: u64, max_age: Duration) -> Self {
        Retention {
            max_age: Some(max_age),
            ..Retention::keep_latest(count)
        }
    }

    /// The newest whose files take `bytes_max` together.
    pub fn by_size(bytes_max: u64) -> Self {
        Retention {
            total_bytes_max: Some(bytes_max),
            ..Retention::default()
        }
    }

    /// Whether everything is kept.
    pub fn is_unlimited(&self) -> bool {
        *self == Retention::default()
    }

    /// Those of `snapshots` that should go, ascending. `truncated` gives the index of the last entry
    /// that a region's log no longer has, if the region has a log; `now` is what ages count from.
    pub fn superseded(
        &self,
        snapshots: &[SnapshotInfo],
        truncated: &dyn Fn(RegionId) -> Option<u64>,
        now: SystemTime,
    ) -> Vec<SnapshotKey> {
        let mut regions: BTreeMap<RegionId, Vec<&SnapshotInfo>> = BTreeMap::new();
        for info in snapshots {
            regions.entry(info.key.region).or_default().push(info);
        }
        let (mut needed, mut goes) = (HashSet::new(), HashSet::new());
        for (region, infos) in &mut regions {
            infos.sort_by_key(|info| newest_first(&info.key.id));
            needed.extend(infos.first().map(|info| info.key));
            if let Some(index) = truncated(*region) {
                let reaches = infos.iter().rev().find(|info| info.key.id.index >= index);
                needed.extend(reaches.map(|info| info.key));
            }
            for (rank, info) in (0..).zip(infos.iter()) {
                let too_many = self.keep_latest.is_some_and(|count| rank >= count);
                if too_many || self.is_too_old(info, now) {
                    goes.insert(info.key);
                }
            }
        }
        goes.retain(|key| !needed.contains(key));
        self.shrink(snapshots, &needed, &mut goes);
        let mut goes: Vec<SnapshotKey> = goes.into_iter().collect();
        goes.sort();
        goes
    }

    fn is_too_old(&self, info: &SnapshotInfo, now: SystemTime) -> bool {
        let (Some(max_age), Some(created)) = (self.max_age, info.created) else {
            return false;
        };
        // One from the future was built by a clock that was set back since: it has no age yet.
        now.duration_since(created).is_ok_and(|age| age > max_age)
    }

    /// Adds those that do not fit into the total, the oldest ones.
    fn shrink(
        &self,
        snapshots: &[SnapshotInfo],
        needed: &HashSet<SnapshotKey>,
        goes: &mut HashSet<SnapshotKey>,
    ) {
        let Some(limit) = self.total_bytes_max else {
            return;
        };
        let (stay, mut rest): (Vec<_>, Vec<_>) = (snapshots.iter())
            .filter(|info| !goes.contains(&info.key))
            .partition(|info| needed.contains(&info.key));
        let mut total = stay
            .iter()
            .fold(0u64, |sum, info| sum.saturating_add(info.file_bytes));
        rest.sort_by_key(|info| std::cmp::Reverse((info.created, info.key)));
        for info in rest {
            total = total.saturating_add(info.file_bytes);
            if total > limit {
                goes.insert(info.key);
            }
        }
    }
}

fn newest_first(id: &SnapshotId) -> std::cmp::Reverse<SnapshotId> {
    std::cmp::Reverse(*id)
}

/// Removes what `retention` says, one after the other; one that cannot be removed does not keep the
/// others.
pub(crate) fn clean_up(
    snapshots: &[SnapshotInfo],
    goes: &[SnapshotKey],
    remove: &mut dyn FnMut(&SnapshotKey) -> Result<()>,
) -> Result<CleanUp> {
    let (mut done, mut failed) = (CleanUp::default(), None);
    for info in snapshots.iter().filter(|info| goes.contains(&info.key)) {
        match remove(&info.key) {
            Ok(()) => {
                done.removed += 1;
                done.removed_bytes += info.file_bytes;
            }
            Err(Error::SnapshotInUse { .. }) => done.in_use += 1,
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(done), Err)
}
