//! The placement of a cluster in one process. Uses: transport, error. Never does I/O.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::transport::{Placement, RegionReport};
use crate::types::RegionId;

/// A [`Placement`] for tests: a counter that its clones share, and what the leaders have reported.
/// Stores have no addresses, because a [`MemoryNetwork`](super::MemoryNetwork) needs none.
///
/// ```
/// use peerstore::Placement;
/// use peerstore::memory::MemoryPlacement;
/// let placement = MemoryPlacement::new();
/// placement.observe_id(7);
/// assert_eq!(placement.allocate_ids(2)?, [8, 9]);
/// assert_eq!(placement.clone().allocate_ids(1)?, [10]);
/// # Ok::<(), peerstore::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryPlacement {
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    max_id: u64,
    reports: BTreeMap<RegionId, RegionReport>,
}

impl MemoryPlacement {
    /// One that has seen no id and no region.
    pub fn new() -> Self {
        MemoryPlacement::default()
    }

    /// The newest report of each region, by its id.
    pub fn reports(&self) -> Vec<RegionReport> {
        self.known().reports.values().cloned().collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change of it is one assignment: a panic elsewhere leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Placement for MemoryPlacement {
    fn address(&self, _store: u64) -> Option<String> {
        None
    }

    fn allocate_ids(&self, count: usize) -> Result<Vec<u64>> {
        let mut known = self.known();
        let first = known.max_id + 1;
        known.max_id += count as u64;
        Ok((first..=known.max_id).collect())
    }

    fn observe_id(&self, id: u64) {
        let mut known = self.known();
        known.max_id = known.max_id.max(id);
    }

    fn max_id(&self) -> u64 {
        self.known().max_id
    }

    fn report(&self, report: &RegionReport) {
        let age = |report: &RegionReport| {
            let epoch = report.region.region_epoch;
            (epoch.version, epoch.conf_ver, report.term)
        };
        let mut known = self.known();
        let last = known.reports.get(&report.region.region_id());
        if last.is_none_or(|last| age(last) <= age(report)) {
            let id = report.region.region_id();
            known.reports.insert(id, report.clone());
        }
    }
}
