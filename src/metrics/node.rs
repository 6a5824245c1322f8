//! What is measured where a node writes its log, applies and installs. Uses: raft_log, app_store,
//! entry_cache.

use metrics::{Counter, Histogram};

use super::snapshots::EventMetrics;
use super::{Number, Scope, Shown, Stopwatch};
use crate::app_store::AppStats;
use crate::entry_cache::CacheStats;
use crate::error::Result;
use crate::raft_log::{LogBatch, LogOp, LogStats, LogUsage};
use crate::types::Durability;

/// What a node counts anyway.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NodeStats {
    pub log: LogStats,
    pub usage: LogUsage,
    pub app: AppStats,
    pub cache: CacheStats,
}

const NUMBERS: &[Number<NodeStats>] = &[
    ("peerstore_log_writes_total", "", |s| s.log.writes),
    ("peerstore_log_syncs_total", "", |s| s.log.syncs),
    ("peerstore_log_entries_total", "", |s| s.log.entries),
    ("peerstore_log_bytes_total", "", |s| s.log.bytes),
    ("peerstore_log_copied_bytes_total", "", |s| {
        s.usage.copied_bytes
    }),
    ("peerstore_log_segments", "", |s| s.usage.segments),
    ("peerstore_log_disk_bytes", "", |s| s.usage.disk_bytes),
    ("peerstore_log_live_bytes", "", |s| s.usage.live_bytes),
    ("peerstore_data_writes_total", "", |s| s.app.writes),
    ("peerstore_data_syncs_total", "", |s| s.app.syncs),
    ("peerstore_data_bytes_total", "", |s| s.app.bytes),
    ("peerstore_cache_hits_total", "", |s| s.cache.hits),
    ("peerstore_cache_misses_total", "", |s| s.cache.misses),
    ("peerstore_cache_bytes", "", |s| s.cache.bytes),
];

/// The handles of one node. Each method is called once a batch, a group or a snapshot.
pub(crate) struct NodeMetrics {
    shown: Shown<NodeStats>,
    synced: Histogram,
    buffered: Histogram,
    append_entries: Histogram,
    append_bytes: Histogram,
    append_failures: Counter,
    compacted: Counter,
    apply_seconds: Histogram,
    apply_entries: Histogram,
    apply_bytes: Histogram,
    install: EventMetrics,
}

impl NodeMetrics {
    pub fn new(scope: &Scope) -> Self {
        let append = |durability| scope.histogram("peerstore_log_append_seconds", durability);
        NodeMetrics {
            shown: Shown::new(scope, NUMBERS),
            synced: append("synced"),
            buffered: append("buffered"),
            append_entries: scope.histogram("peerstore_log_append_entries", ""),
            append_bytes: scope.histogram("peerstore_log_append_bytes", ""),
            append_failures: scope.counter("peerstore_log_append_failures_total", ""),
            compacted: scope.counter("peerstore_log_compacted_entries_total", ""),
            apply_seconds: scope.histogram("peerstore_apply_seconds", ""),
            apply_entries: scope.histogram("peerstore_apply_entries", ""),
            apply_bytes: scope.histogram("peerstore_apply_bytes", ""),
            install: EventMetrics::new(scope, "install"),
        }
    }

    /// Shows what is counted elsewhere.
    pub fn show(&self, stats: &NodeStats) {
        self.shown.show(stats);
    }

    /// Measures a write of the log.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn append(
        &self,
        batch: &LogBatch,
        durability: Durability,
        write: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let (mut count, mut bytes) = (0, 0);
        for op in batch.ops() {
            if let LogOp::Append { entries, .. } = op {
                count += entries.len();
                let sizes = entries.iter().map(|e| e.data.len() + e.context.len());
                bytes += sizes.sum::<usize>();
            }
        }
        let start = Stopwatch::start();
        let written = write();
        let took = start.elapsed();
        match durability {
            Durability::Synced => self.synced.record(took),
            Durability::Buffered => self.buffered.record(took),
        }
        if written.is_err() {
            self.append_failures.increment(1);
        }
        if count > 0 {
            self.append_entries.record(count as f64);
            self.append_bytes.record(bytes as f64);
        }
        written
    }

    /// `entries` of the front of a log go.
    pub fn compacted(&self, entries: u64) {
        self.compacted.increment(entries);
    }

    /// A group was applied, from `start` on.
    pub fn applied(&self, entries: usize, bytes: usize, start: Stopwatch) {
        self.apply_seconds.record(start.elapsed());
        self.apply_entries.record(entries as f64);
        self.apply_bytes.record(bytes as f64);
    }

    /// Measures the data of a snapshot being put in the place of the old. `bytes` are those of its content.
    ///
    /// # Errors
    /// Those of `install`.
    pub fn install<T>(&self, bytes: u64, install: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Stopwatch::start();
        let installed = install();
        self.install.ended(&installed, |_| bytes, start);
        installed
    }

    /// A snapshot could not be installed, and nothing has changed.
    pub fn install_refused(&self) {
        self.install.failed();
    }
}

impl std::fmt::Debug for NodeMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeMetrics")
    }
}
