//! What the store shows to other threads: the regions, and counts. Uses: proto, types.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crate::app_store::AppStats;
use crate::entry_cache::CacheStats;
use crate::proto::{Peer, Region};
use crate::raft_log::LogStats;
use crate::types::{PeerId, RegionId};

/// A region of this store, as it was when it last changed.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionStatus {
    /// Its range, epoch and peers, as far as they are applied here.
    pub region: Region,
    /// This store's peer.
    pub peer: PeerId,
    /// The leader, if it is known.
    pub leader: Option<Peer>,
    /// raft's term.
    pub term: u64,
    /// Whether this store's peer leads.
    pub is_leader: bool,
    /// How this store's peer stands.
    pub state: RegionStage,
}

/// How far a region of this store has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionProgress {
    /// The first index of the log.
    pub first_index: u64,
    /// The last index of the log, durable or not.
    pub last_index: u64,
    /// Everything up to this index is durable here.
    pub persisted_index: u64,
    /// Everything up to this index is committed, as far as this peer knows.
    pub committed_index: u64,
    /// Everything up to this index is applied here.
    pub applied_index: u64,
    /// raft's term.
    pub term: u64,
    /// Whether it gets no ticks because it has nothing to do.
    pub is_asleep: bool,
    /// Where a leader knows each other peer's log to agree with its own: peer and index.
    pub followers: Vec<(PeerId, u64)>,
}

/// How a peer of a store stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionStage {
    /// It takes part.
    Active,
    /// It waits to be merged into its neighbour.
    Merging,
    /// It installs a snapshot.
    Installing,
    /// It is being removed.
    Leaving,
    /// It was stopped by this error of its own. What is on disk is as it was.
    Stopped(String),
}

/// Shared between the raft thread and whoever asks.
#[derive(Default)]
pub struct Shared {
    pub regions: RwLock<BTreeMap<RegionId, RegionStatus>>,
    /// The bytes of the proposals that wait.
    pub waiting_bytes: Arc<AtomicU64>,
    pub counts: Counts,
    refused: Mutex<BTreeMap<&'static str, u64>>,
}

/// Counted by the raft thread.
#[derive(Default)]
pub struct Counts {
    pub ticks: AtomicU64,
    pub region_ticks: AtomicU64,
    pub messages_in: AtomicU64,
    pub messages_out: AtomicU64,
    pub readies: AtomicU64,
    pub write_tasks: AtomicU64,
    pub snapshots_sent: AtomicU64,
    pub snapshots_installed: AtomicU64,
    pub regions_stopped: AtomicU64,
    pub proposals: AtomicU64,
    pub reads: AtomicU64,
    pub elections: AtomicU64,
}

/// What a store has done since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Ticks of the store.
    pub ticks: u64,
    /// Ticks of regions: those that sleep get none.
    pub region_ticks: u64,
    /// Messages of other stores that were taken in.
    pub messages_in: u64,
    /// Messages to other stores.
    pub messages_out: u64,
    /// Readies that had something to write.
    pub readies: u64,
    /// Batches handed to the write worker, each of which may carry many regions.
    pub write_tasks: u64,
    /// Snapshots handed to the transport.
    pub snapshots_sent: u64,
    /// Snapshots that were installed.
    pub snapshots_installed: u64,
    /// Regions that were stopped by an error of their own.
    pub regions_stopped: u64,
    /// Proposals that clients made, those that were refused among them.
    pub proposals: u64,
    /// Linearizable reads that clients asked for.
    pub reads: u64,
    /// Times that a region of this store became its leader.
    pub elections: u64,
    /// Messages that were refused, by the kind of the refusal.
    pub refused: BTreeMap<&'static str, u64>,
    /// The bytes of the proposals that wait now.
    pub waiting_bytes: u64,
    /// What the log has done since the node was opened.
    pub log: LogStats,
    /// What the data store has done since the node was opened.
    pub app: AppStats,
    /// What the entry caches have done and hold.
    pub cache: CacheStats,
}

impl Shared {
    /// Counts a refusal; whether it is the first of its kind.
    pub fn refuse(&self, kind: &'static str) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(|p| p.into_inner());
        let count = refused.entry(kind).or_default();
        *count += 1;
        *count == 1
    }

    /// The regions that were stopped by an error, as words, if there are any.
    pub fn stopped_regions(&self) -> Option<String> {
        let regions = self.regions.read().unwrap_or_else(|p| p.into_inner());
        let mut stopped = regions
            .iter()
            .filter_map(|(id, status)| match &status.state {
                RegionStage::Stopped(reason) => Some((id, reason)),
                _ => None,
            });
        let (region, reason) = stopped.next()?;
        let count = 1 + stopped.count();
        Some(format!(
            "{count} regions were stopped, the first is {region}: {reason}"
        ))
    }

    /// The counts as of now.
    pub fn stats(&self) -> StoreStats {
        let counts = &self.counts;
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        StoreStats {
            ticks: load(&counts.ticks),
            region_ticks: load(&counts.region_ticks),
            messages_in: load(&counts.messages_in),
            messages_out: load(&counts.messages_out),
            readies: load(&counts.readies),
            write_tasks: load(&counts.write_tasks),
            snapshots_sent: load(&counts.snapshots_sent),
            snapshots_installed: load(&counts.snapshots_installed),
            regions_stopped: load(&counts.regions_stopped),
            proposals: load(&counts.proposals),
            reads: load(&counts.reads),
            elections: load(&counts.elections),
            refused: self
                .refused
                .lock()
                .unwrap_or_else(|p| p.into_inner())
                .clone(),
            waiting_bytes: load(&self.waiting_bytes),
            ..StoreStats::default()
        }
    }
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
