//! When a write to the log is acknowledged, and how often it is synced. Uses: nothing of ours. Never does I/O.

use serde::Deserialize;

/// Which fsync a durable write to the log waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncPolicy {
    /// Its own: one fsync for each write, whoever else is writing.
    Always,
    /// One that it shares with the writes that wait at the same time: group commit, by the
    /// [`FlushPolicy`].
    #[default]
    Batch,
    /// None: the operating system writes when it likes. An acknowledged write survives the death of the
    /// process, not of the machine, as with [`Durability::Buffered`](crate::Durability::Buffered).
    Os,
}

/// How long a group of writes waits for others before its fsync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FlushPolicy {
    /// Not at all: those that wait when an fsync ends are the next group.
    #[default]
    Immediate,
    /// Until so many entries wait, or so long after the last fsync, whatever comes first.
    #[serde(alias = "batch")]
    Batched {
        /// So many entries are not waited with; at least 1.
        threshold: u64,
        /// Nor longer than this, in milliseconds.
        interval_ms: u64,
    },
}

/// When entries can be read, and when they count.
///
/// Whatever the strategy, only what is durable counts for an acknowledgement:
/// [`PeerStorage::durable_index`](crate::PeerStorage::durable_index).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PersistenceStrategy {
    /// Entries are on the disk when [`PeerStorage::submit`](crate::PeerStorage::submit) returns.
    #[default]
    DiskFirst,
    /// They can be read when it returns; a worker writes them, by the [`FlushPolicy`], and the ticket
    /// says when they are durable.
    MemFirst,
}
