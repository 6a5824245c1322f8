//! What the driver shows. Uses: metrics, core.

use std::time::Duration;

use ::metrics::Histogram;

use super::core::StoreCore;
use super::message::StoreMsg;
use super::{RegionStage, Store, StoreStats};
use crate::error::Result;
use crate::metrics::{Number, Scope, Shown, Stopwatch};
use crate::ticket::Ticket;
use crate::transport::TransportStats;

/// The raft thread answers sooner, or it is stuck.
const ANSWER_MAX: Duration = Duration::from_secs(5);

const COUNTED: &[Number<StoreStats>] = &[
    ("peerstore_proposals_total", "", |s| s.proposals),
    ("peerstore_reads_total", "", |s| s.reads),
    ("peerstore_elections_total", "", |s| s.elections),
    ("peerstore_ticks_total", "", |s| s.ticks),
    ("peerstore_region_ticks_total", "", |s| s.region_ticks),
    ("peerstore_readies_total", "", |s| s.readies),
    ("peerstore_write_tasks_total", "", |s| s.write_tasks),
    ("peerstore_messages_refused_total", "", |s| {
        s.refused.values().sum()
    }),
    ("peerstore_regions_stopped_total", "", |s| s.regions_stopped),
    ("peerstore_waiting_bytes", "", |s| s.waiting_bytes),
];

const CARRIED: &[Number<TransportStats>] = &[
    ("peerstore_transport_messages_total", "sent", |s| {
        s.messages_sent
    }),
    ("peerstore_transport_messages_total", "received", |s| {
        s.messages_received
    }),
    ("peerstore_transport_messages_total", "dropped", |s| {
        s.messages_dropped
    }),
    ("peerstore_transport_bytes_total", "sent", |s| s.bytes_sent),
    ("peerstore_transport_bytes_total", "received", |s| {
        s.bytes_received
    }),
    ("peerstore_transport_snapshot_bytes_total", "sent", |s| {
        s.snapshot_bytes_sent
    }),
    (
        "peerstore_transport_snapshot_bytes_total",
        "received",
        |s| s.snapshot_bytes_received,
    ),
    ("peerstore_transport_connections_total", "accepted", |s| {
        s.accepted
    }),
    ("peerstore_transport_connections_total", "connected", |s| {
        s.connected
    }),
    ("peerstore_transport_refused_total", "", |s| s.refused),
];

/// What the raft thread sees when it is asked.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    active: u64,
    merging: u64,
    installing: u64,
    leaving: u64,
    stopped: u64,
    leaders: u64,
    asleep: u64,
    log_entries: u64,
    log_longest: u64,
    apply_lag: u64,
    write_queue: u64,
    apply_queue: u64,
    slow_queue: u64,
}

const SEEN: &[Number<Seen>] = &[
    ("peerstore_regions", "active", |s| s.active),
    ("peerstore_regions", "merging", |s| s.merging),
    ("peerstore_regions", "installing", |s| s.installing),
    ("peerstore_regions", "leaving", |s| s.leaving),
    ("peerstore_regions", "stopped", |s| s.stopped),
    ("peerstore_leaders", "", |s| s.leaders),
    ("peerstore_regions_asleep", "", |s| s.asleep),
    ("peerstore_log_entries", "", |s| s.log_entries),
    ("peerstore_log_longest_entries", "", |s| s.log_longest),
    ("peerstore_apply_lag_entries", "", |s| s.apply_lag),
    ("peerstore_queue_depth", "write", |s| s.write_queue),
    ("peerstore_queue_depth", "apply", |s| s.apply_queue),
    ("peerstore_queue_depth", "slow", |s| s.slow_queue),
];

/// The handles of one store.
pub(crate) struct StoreMetrics {
    counted: Shown<StoreStats>,
    carried: Shown<TransportStats>,
    seen: Shown<Seen>,
    raft_queue: ::metrics::Gauge,
    round_seconds: Histogram,
    round_messages: Histogram,
}

impl StoreMetrics {
    pub fn new(store_id: u64) -> Self {
        let scope = Scope::new(store_id);
        StoreMetrics {
            counted: Shown::new(&scope, COUNTED),
            carried: Shown::new(&scope, CARRIED),
            seen: Shown::new(&scope, SEEN),
            raft_queue: scope.gauge("peerstore_queue_depth", "raft"),
            round_seconds: scope.histogram("peerstore_round_seconds", ""),
            round_messages: scope.histogram("peerstore_round_messages", ""),
        }
    }

    /// A round of the raft thread is over, which took so many messages in from `start` on.
    pub fn round(&self, messages: usize, start: Stopwatch) {
        self.round_seconds.record(start.elapsed());
        self.round_messages.record(messages as f64);
    }
}

impl Store {
    /// Shows in the metrics what the store, its node and its transport count anyway, and how its regions
    /// stand ([`crate::metrics`]). To be called before they are read. It looks at every region once.
    ///
    /// # Errors
    /// `StoreStopped`; `Timeout` if the raft thread is stuck: what it alone knows is not shown then.
    pub fn report_metrics(&self) -> Result<()> {
        let (handle, metrics) = (&self.handle, &self.handle.metrics);
        if let Some(engines) = handle.engines.upgrade() {
            engines.report_metrics();
        }
        metrics.counted.show(&handle.shared.stats());
        metrics.carried.show(&self.transport.stats());
        metrics.raft_queue.set(handle.messages.waiting() as f64);
        let (ticket, done) = Ticket::new();
        handle.send(StoreMsg::Call(Box::new(move |core| {
            done.answer(Ok(core.seen()));
        })));
        metrics.seen.show(&ticket.wait(ANSWER_MAX)?);
        Ok(())
    }
}

impl StoreCore {
    fn seen(&self) -> Seen {
        let mut seen = Seen {
            write_queue: self.tasks.write.waiting() as u64,
            apply_queue: self.tasks.apply.iter().map(|q| q.waiting() as u64).sum(),
            slow_queue: self.tasks.slow.waiting() as u64,
            ..Seen::default()
        };
        for peer in self.peers.values() {
            match super::core::stage_of(peer) {
                RegionStage::Active => seen.active += 1,
                RegionStage::Merging => seen.merging += 1,
                RegionStage::Installing => seen.installing += 1,
                RegionStage::Leaving => seen.leaving += 1,
                RegionStage::Stopped(_) => seen.stopped += 1,
            }
            let (storage, log) = (peer.storage(), &peer.raft().raft.raft_log);
            let entries = log.last_index().saturating_sub(storage.truncated_index());
            seen.log_entries += entries;
            seen.log_longest = seen.log_longest.max(entries);
            seen.apply_lag += log.committed.saturating_sub(storage.applied_index());
            seen.leaders += u64::from(peer.is_leader());
            seen.asleep += u64::from(peer.is_asleep());
        }
        seen
    }
}
