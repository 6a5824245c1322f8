//! What a transport has done since it was bound.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::reason::{Reason, Refusal};

/// What a transport has done since it was bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpStats {
    /// Connections that other stores opened and that were welcomed.
    pub accepted: u64,
    /// Connections that this store opened and that were welcomed.
    pub connected: u64,
    /// Why connections, messages and snapshots of others were refused or ended, and how often.
    pub refused: BTreeMap<Reason, u64>,
    /// Why connections that this store opened, or tried to, ended, and how often.
    pub ended: BTreeMap<Reason, u64>,
    /// Messages written to a connection.
    pub messages_sent: u64,
    /// Messages handed to the inbox.
    pub messages_received: u64,
    /// Messages that were to be sent and were not.
    pub messages_dropped: u64,
    /// Frames of messages written.
    pub frames_sent: u64,
    /// Frames of messages read.
    pub frames_received: u64,
    /// Bytes of frames of messages written.
    pub bytes_sent: u64,
    /// Bytes of frames of messages read.
    pub bytes_received: u64,
    /// Snapshots with a file that arrived whole at another store.
    pub snapshots_sent: u64,
    /// Snapshots with a file that did not.
    pub snapshots_failed: u64,
    /// Snapshots with a file that arrived here and went to the inbox.
    pub snapshots_received: u64,
    /// Snapshots with a file that were refused or cut on their way here.
    pub snapshots_refused: u64,
    /// Bytes of snapshot files sent.
    pub snapshot_bytes_sent: u64,
    /// Bytes of snapshot files received.
    pub snapshot_bytes_received: u64,
    /// The pauses that the limit of `snapshot_bytes_per_second` asked for, in microseconds.
    pub snapshot_pauses_us: u64,
}

/// A number that only grows.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The numbers behind [`TcpStats`].
#[derive(Default)]
pub(super) struct Counters {
    pub accepted: Counter,
    pub connected: Counter,
    pub messages_sent: Counter,
    pub messages_received: Counter,
    pub messages_dropped: Counter,
    pub frames_sent: Counter,
    pub frames_received: Counter,
    pub bytes_sent: Counter,
    pub bytes_received: Counter,
    pub snapshots_sent: Counter,
    pub snapshots_failed: Counter,
    pub snapshots_received: Counter,
    pub snapshots_refused: Counter,
    pub snapshot_bytes_sent: Counter,
    pub snapshot_bytes_received: Counter,
    pub snapshot_pauses_us: Counter,
    refused: Mutex<BTreeMap<Reason, u64>>,
    ended: Mutex<BTreeMap<Reason, u64>>,
    told: Mutex<HashSet<(String, Reason)>>,
}

/// How many things are remembered as told. More peers than that are strangers who change addresses.
const TOLD_MAX: usize = 4096;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counts and sets: whole after each call, whoever panics elsewhere.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counters {
    /// Counts what was refused to `peer`, an address or a store, and logs it the first time.
    pub fn refuse(&self, peer: &str, refusal: &Refusal) {
        *lock(&self.refused).entry(refusal.reason).or_default() += 1;
        if self.is_first(peer, refusal.reason) {
            tracing::warn!(peer, %refusal, "refused");
        }
    }

    /// Counts why a connection to `peer` ended, and logs it the first time.
    pub fn end(&self, peer: &str, refusal: &Refusal) {
        *lock(&self.ended).entry(refusal.reason).or_default() += 1;
        if self.is_first(peer, refusal.reason) {
            tracing::warn!(peer, %refusal, "no connection");
        }
    }

    fn is_first(&self, peer: &str, reason: Reason) -> bool {
        let mut told = lock(&self.told);
        if told.len() >= TOLD_MAX {
            told.clear();
        }
        told.insert((peer.to_string(), reason))
    }

    /// `peer` is reached again: what ends that is news.
    pub fn forget(&self, peer: &str) {
        lock(&self.told).retain(|(other, _)| other != peer);
    }

    pub fn stats(&self) -> TcpStats {
        TcpStats {
            accepted: self.accepted.value(),
            connected: self.connected.value(),
            refused: lock(&self.refused).clone(),
            ended: lock(&self.ended).clone(),
            messages_sent: self.messages_sent.value(),
            messages_received: self.messages_received.value(),
            messages_dropped: self.messages_dropped.value(),
            frames_sent: self.frames_sent.value(),
            frames_received: self.frames_received.value(),
            bytes_sent: self.bytes_sent.value(),
            bytes_received: self.bytes_received.value(),
            snapshots_sent: self.snapshots_sent.value(),
            snapshots_failed: self.snapshots_failed.value(),
            snapshots_received: self.snapshots_received.value(),
            snapshots_refused: self.snapshots_refused.value(),
            snapshot_bytes_sent: self.snapshot_bytes_sent.value(),
            snapshot_bytes_received: self.snapshot_bytes_received.value(),
            snapshot_pauses_us: self.snapshot_pauses_us.value(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_told_once_for_each_peer_and_counted_each_time() {
        let counters = Counters::default();
        let refusal = Refusal::new(Reason::Cluster, "cluster 8, expected 7");
        (0..3).for_each(|_| counters.refuse("store 2", &refusal));
        assert_eq!(counters.stats().refused, [(Reason::Cluster, 3)].into());
        assert!(!counters.is_first("store 2", Reason::Cluster));
        assert!(counters.is_first("store 2", Reason::Slow));
        assert!(counters.is_first("store 3", Reason::Cluster));
        counters.forget("store 2");
        assert!(counters.is_first("store 2", Reason::Cluster));
        assert!(!counters.is_first("store 3", Reason::Cluster));
    }

    #[test]
    fn strangers_without_number_are_not_remembered_without_end() {
        let counters = Counters::default();
        for peer in 0..2 * TOLD_MAX {
            counters.is_first(&peer.to_string(), Reason::Stranger);
        }
        assert!(lock(&counters.told).len() <= TOLD_MAX);
    }
}
