//! What a node has done since it was opened, and how long its logs are. Uses: the seams.

use std::sync::atomic::Ordering::Relaxed;

use super::CompositeStorage;
use crate::app_store::Keyspace;
use crate::error::{Error, Result};
use crate::keys::region_key;
use crate::proto::{INITIAL_INDEX, RaftApplyState};
use crate::types::RegionId;

/// What a node has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompositeMetrics {
    /// Snapshots that were built, to be kept or for raft to send.
    pub snapshots_created: u64,
    /// Regions whose data a snapshot has replaced: one of this node, or a leader's.
    pub snapshots_restored: u64,
    /// How often a log lost its front.
    pub log_compactions: u64,
    /// Batches that were written to the log and to the data.
    pub total_operations: u64,
}

/// The log of one region.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RaftLogStats {
    /// The index of the first entry; nothing if there is none.
    pub first_index: Option<u64>,
    /// The index of the last entry; nothing if there is none.
    pub last_index: Option<u64>,
    /// How many entries there are.
    pub entry_count: u64,
    /// About how many bytes they take; from their mean size where the store does not know it.
    pub total_size_bytes: u64,
    /// How many entries have gone from its front, in its whole life.
    pub compacted_entries: u64,
    /// Entries written per second, of all regions of the node, since it was opened.
    pub write_throughput_ops_per_sec: f64,
    /// The mean size of an entry, with its key: of this log, or if its store does not know that, of what all
    /// regions have written since the node was opened; 0 if that is nothing.
    pub avg_entry_size_bytes: f64,
}

impl CompositeStorage {
    /// What the node has done since it was opened.
    pub fn metrics(&self) -> CompositeMetrics {
        let counts = self.engines.tasks.needed.counts();
        CompositeMetrics {
            snapshots_created: counts.snapshots_created.load(Relaxed),
            snapshots_restored: counts.snapshots_restored.load(Relaxed),
            log_compactions: counts.log_compactions.load(Relaxed),
            total_operations: self.log_stats().writes + self.app_stats().writes,
        }
    }

    /// The log of a region, whether it is open or not.
    ///
    /// # Errors
    /// `RegionNotFound`; those of the stores.
    pub fn raft_log_stats(&self, region: impl Into<RegionId>) -> Result<RaftLogStats> {
        let region = region.into();
        let engines = &self.engines;
        let apply = engines.app.get(Keyspace::ApplyState, &region_key(region))?;
        let apply = apply.ok_or(Error::RegionNotFound { region })?;
        let truncated = RaftApplyState::decode_of(region, &apply)?.truncated().index;
        let last = engines
            .log
            .read_state(region)?
            .unwrap_or_default()
            .last_index;
        let entry_count = last.saturating_sub(truncated);
        let stats = engines.log.stats();
        let written_mean = ratio(stats.bytes, stats.entries as f64);
        let known = (engines.log).approximate_bytes(region, truncated + 1..last + 1)?;
        let total_size_bytes = match known {
            0 => (written_mean * entry_count as f64) as u64,
            known => known,
        };
        let avg_entry_size_bytes = match known {
            0 => written_mean,
            known => ratio(known, entry_count as f64),
        };
        Ok(RaftLogStats {
            first_index: (entry_count > 0).then_some(truncated + 1),
            last_index: (entry_count > 0).then_some(last),
            entry_count,
            total_size_bytes,
            compacted_entries: truncated.saturating_sub(INITIAL_INDEX),
            write_throughput_ops_per_sec: ratio(stats.entries, engines.clock.now().as_secs_f64()),
            avg_entry_size_bytes,
        })
    }
}

fn ratio(count: u64, of: f64) -> f64 {
    if of > 0.0 { count as f64 / of } else { 0.0 }
}
