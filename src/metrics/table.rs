//! Every metric there is.

use super::MetricKind::{Counter, Gauge, Histogram};
use super::MetricUnit::{Bytes, Count, Seconds};
use super::{Metric, MetricKind, MetricUnit};

const fn plain(
    name: &'static str,
    kind: MetricKind,
    unit: MetricUnit,
    meaning: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        unit,
        label: None,
        meaning,
    }
}

const fn by(label: &'static str, values: &'static [&'static str], metric: Metric) -> Metric {
    let label = Some((label, values));
    Metric { label, ..metric }
}

/// What happens to snapshots.
const EVENTS: &[&str] = &["build", "receive", "install", "verify", "remove"];

/// Every metric, in the order of `docs/metrics.md`. The names are part of what users rely on.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    by("durability", &["synced", "buffered"], plain("peerstore_log_append_seconds", Histogram, Seconds, "how long a batch of the log took to be written, with its fsync where it asks for one")),
    plain("peerstore_log_append_entries", Histogram, Count, "entries of a batch of the log, over all regions in it"),
    plain("peerstore_log_append_bytes", Histogram, Bytes, "data of the entries of a batch of the log"),
    plain("peerstore_log_append_failures_total", Counter, Count, "batches of the log that failed"),
    plain("peerstore_log_writes_total", Counter, Count, "batches written; by the syncs it is the batches of an fsync"),
    plain("peerstore_log_syncs_total", Counter, Count, "fsyncs that the log has issued for them"),
    plain("peerstore_log_entries_total", Counter, Count, "entries written"),
    plain("peerstore_log_bytes_total", Counter, Bytes, "keys and values written"),
    plain("peerstore_log_compacted_entries_total", Counter, Count, "entries removed from the front of logs"),
    plain("peerstore_log_copied_bytes_total", Counter, Bytes, "entries that were copied out of nearly dead segments"),
    plain("peerstore_log_segments", Gauge, Count, "segments in use; 0 for a log without any"),
    plain("peerstore_log_disk_bytes", Gauge, Bytes, "the files of those segments"),
    plain("peerstore_log_live_bytes", Gauge, Bytes, "what of them is still needed"),
    by("part", &["log", "snapshots"], plain("peerstore_fsync_seconds", Histogram, Seconds, "how long an fsync of a file took; not those that RocksDB issues")),
    plain("peerstore_apply_seconds", Histogram, Seconds, "how long applying a group of entries to the data took"),
    plain("peerstore_apply_entries", Histogram, Count, "entries of such a group, over all regions in it"),
    plain("peerstore_apply_bytes", Histogram, Bytes, "keys and values of such a group"),
    plain("peerstore_data_writes_total", Counter, Count, "batches written to the data"),
    plain("peerstore_data_syncs_total", Counter, Count, "fsyncs that the data store has issued"),
    plain("peerstore_data_bytes_total", Counter, Bytes, "keys and values written to the data"),
    by("event", EVENTS, plain("peerstore_snapshots_total", Counter, Count, "snapshots that were built, received, installed (data restored from them), found intact, removed")),
    by("event", EVENTS, plain("peerstore_snapshot_failures_total", Counter, Count, "of those, the ones that failed; verify: found damaged")),
    by("event", EVENTS, plain("peerstore_snapshot_bytes_total", Counter, Bytes, "their bytes: of files where files are built, received, removed, of content where it is installed or verified")),
    by("event", EVENTS, plain("peerstore_snapshot_seconds", Histogram, Seconds, "how long it took, from its beginning to its end")),
    plain("peerstore_cache_hits_total", Counter, Count, "reads of entries that the entry cache answered"),
    plain("peerstore_cache_misses_total", Counter, Count, "reads of entries that needed the log"),
    plain("peerstore_cache_bytes", Gauge, Bytes, "what the entry caches hold"),
    plain("peerstore_proposals_total", Counter, Count, "proposals that clients made"),
    plain("peerstore_reads_total", Counter, Count, "linearizable reads that clients asked for (read index)"),
    plain("peerstore_elections_total", Counter, Count, "times that a region of this store became its leader"),
    plain("peerstore_ticks_total", Counter, Count, "ticks of the store"),
    plain("peerstore_region_ticks_total", Counter, Count, "ticks of regions; those that sleep get none"),
    plain("peerstore_readies_total", Counter, Count, "readies of raft that had something to write"),
    plain("peerstore_write_tasks_total", Counter, Count, "batches handed to the write worker"),
    plain("peerstore_messages_refused_total", Counter, Count, "messages of other stores that contradicted what is known here"),
    plain("peerstore_regions_stopped_total", Counter, Count, "regions that were stopped by an error of their own"),
    plain("peerstore_waiting_bytes", Gauge, Bytes, "proposals that wait"),
    by("state", &["active", "merging", "installing", "leaving", "stopped"], plain("peerstore_regions", Gauge, Count, "regions of this store, by how they stand")),
    plain("peerstore_leaders", Gauge, Count, "regions that are led from here"),
    plain("peerstore_regions_asleep", Gauge, Count, "regions that get no ticks because they have nothing to do"),
    plain("peerstore_log_entries", Gauge, Count, "entries that the logs of all regions hold"),
    plain("peerstore_log_longest_entries", Gauge, Count, "entries of the longest of them"),
    plain("peerstore_apply_lag_entries", Gauge, Count, "entries that are committed and not applied yet"),
    by("queue", &["raft", "write", "apply", "slow"], plain("peerstore_queue_depth", Gauge, Count, "tasks that wait for a thread of the store")),
    plain("peerstore_round_seconds", Histogram, Seconds, "a round of the raft thread: messages in, readies out, without waiting"),
    plain("peerstore_round_messages", Histogram, Count, "messages of such a round"),
    by("direction", &["sent", "received", "dropped"], plain("peerstore_transport_messages_total", Counter, Count, "messages between stores; dropped: were to be sent and were not")),
    by("direction", &["sent", "received"], plain("peerstore_transport_bytes_total", Counter, Bytes, "frames of messages between stores")),
    by("direction", &["sent", "received"], plain("peerstore_transport_snapshot_bytes_total", Counter, Bytes, "snapshot files between stores")),
    by("direction", &["accepted", "connected"], plain("peerstore_transport_connections_total", Counter, Count, "connections that other stores, and that this store opened")),
    plain("peerstore_transport_refused_total", Counter, Count, "connections, messages and snapshots of others that were refused"),
    by("layer", &["log", "snapshots", "data", "regions", "overall"], plain("peerstore_health", Gauge, Count, "0 healthy, 1 degraded, 2 unhealthy, as of the last check")),
    plain("peerstore_health_check_seconds", Histogram, Seconds, "how long a check of the health took"),
];
