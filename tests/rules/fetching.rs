//! Cold entries: asked for, read by the worker, called back, used, freed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use peerstore::memory::{MemoryData, MemoryLog, MemorySnapshots};
use peerstore::{
    CompositeStorage, Durability, Error, LogBatch, LogStats, Parts, PeerStorage, RaftLocalState,
    RaftLogStorage, Region, RegionId, Result,
};
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{Error as RaftError, GetEntriesContext, RawNode, Storage as _, StorageError};

use crate::support::{PATIENCE, config, entries, fill, hard_state, on_disk};

/// A log whose reads are counted, can be held up, can find damage, and can panic.
#[derive(Default)]
pub struct SlowLog {
    inner: MemoryLog,
    gate: Mutex<()>,
    reads: AtomicU64,
    damaged_from: AtomicU64,
    pub panics: AtomicBool,
}

impl RaftLogStorage for SlowLog {
    fn write(&self, batch: &LogBatch, durability: Durability) -> Result<()> {
        self.inner.write(batch, durability)
    }
    fn read_entries(
        &self,
        region: RegionId,
        range: std::ops::Range<u64>,
        bytes_max: u64,
    ) -> Result<Vec<Entry>> {
        assert!(!self.panics.load(Ordering::SeqCst), "a bug of the log");
        let _open = self.gate.lock().unwrap();
        self.reads.fetch_add(1, Ordering::SeqCst);
        let damaged = self.damaged_from.load(Ordering::SeqCst);
        if damaged > 0 && range.end > damaged {
            return Err(Error::corruption(Some(region), "entry", "crc"));
        }
        self.inner.read_entries(region, range, bytes_max)
    }
    fn read_entry(&self, region: RegionId, index: u64) -> Result<Option<Entry>> {
        self.inner.read_entry(region, index)
    }
    fn read_state(&self, region: RegionId) -> Result<Option<RaftLocalState>> {
        self.inner.read_state(region)
    }
    fn regions(&self) -> Result<Vec<RegionId>> {
        self.inner.regions()
    }
    fn approximate_bytes(&self, region: RegionId, range: std::ops::Range<u64>) -> Result<u64> {
        self.inner.approximate_bytes(region, range)
    }
    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }
    fn stats(&self) -> LogStats {
        self.inner.stats()
    }
}

/// A region with entries 6 to 19, none of them cached: it was just opened.
fn cold() -> (Arc<SlowLog>, CompositeStorage, PeerStorage) {
    let log = Arc::new(SlowLog::default());
    let parts = Parts {
        log: log.clone(),
        app: Arc::new(MemoryData::new()),
        snapshots: Arc::new(MemorySnapshots::new()),
    };
    let node = CompositeStorage::from_parts(parts, &config(1)).unwrap();
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..8);
    storage.append(&entries(5, 8..20)).unwrap();
    drop(storage);
    let storage = node.open_region(1).unwrap();
    (log, node, storage)
}

pub fn ask(storage: &PeerStorage, low: u64, high: u64) -> raft::Result<Vec<Entry>> {
    storage.entries(low, high, None, GetEntriesContext::empty(true))
}

pub fn later() -> raft::Result<Vec<Entry>> {
    let later = StorageError::LogTemporarilyUnavailable;
    Err(RaftError::Store(later))
}

#[test]
fn cold_entries_come_after_the_callback() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..20);
    drop(storage);
    let storage = node.open_region(1).unwrap();
    assert_eq!(ask(&storage, 6, 20), later());
    assert_eq!(storage.wait_fetched(PATIENCE).len(), 1);
    assert_eq!(ask(&storage, 6, 20).unwrap(), entries(5, 6..20));
    assert!(storage.take_fetched().is_empty());
}

#[test]
fn one_fetch_per_low_is_in_flight_and_every_asker_is_called_back() {
    let (log, _node, storage) = cold();
    let held = log.gate.lock().unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&storage, 6, 20), later());
    }
    assert_eq!(ask(&storage, 9, 20), later());
    assert!(storage.take_fetched().is_empty());
    drop(held);
    let mut called = 0;
    while called < 4 {
        called += storage.wait_fetched(PATIENCE).len();
    }
    assert_eq!(log.reads.load(Ordering::SeqCst), 2, "one read per low");
    for _ in 0..3 {
        assert_eq!(ask(&storage, 6, 20).unwrap().len(), 14);
    }
    assert_eq!(ask(&storage, 9, 20).unwrap().len(), 11);
}

#[test]
fn a_result_is_freed_after_its_use() {
    let (log, _node, storage) = cold();
    assert_eq!(ask(&storage, 6, 20), later());
    storage.wait_fetched(PATIENCE);
    ask(&storage, 6, 20).unwrap();
    assert_eq!(ask(&storage, 6, 20), later(), "it has to be read again");
    storage.wait_fetched(PATIENCE);
    assert_eq!(log.reads.load(Ordering::SeqCst), 2);
    assert_eq!(storage.cache_stats().bytes, 0, "never put into the cache");
}

#[test]
fn who_only_asks_again_is_answered_too() {
    let (_log, _node, storage) = cold();
    assert_eq!(ask(&storage, 6, 20), later());
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match ask(&storage, 6, 20) {
            Ok(found) => break assert_eq!(found, entries(5, 6..20)),
            error => assert_eq!(error, later()),
        }
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
}

#[test]
fn an_overwrite_makes_what_was_fetched_stale() {
    let (_log, _node, mut storage) = cold();
    assert_eq!(ask(&storage, 12, 20), later());
    storage.wait_fetched(PATIENCE);
    storage.append(&entries(6, 12..15)).unwrap();
    let found = ask(&storage, 12, 15).unwrap();
    assert_eq!(found, entries(6, 12..15), "the new ones, from the cache");
    assert_eq!(ask(&storage, 6, 15), later());
    storage.wait_fetched(PATIENCE);
    let found = ask(&storage, 6, 15).unwrap();
    assert_eq!((found.len(), found[6].term), (9, 6));
}

#[test]
fn an_overwrite_while_a_fetch_is_in_flight_makes_it_stale() {
    let (log, _node, mut storage) = cold();
    let held = log.gate.lock().unwrap();
    assert_eq!(ask(&storage, 6, 20), later());
    storage.append(&entries(6, 12..15)).unwrap();
    drop(held);
    assert_eq!(storage.wait_fetched(PATIENCE).len(), 1, "raft asks again");
    assert_eq!(ask(&storage, 6, 15), later(), "what came is not used");
    storage.wait_fetched(PATIENCE);
    let found = ask(&storage, 6, 15).unwrap();
    assert_eq!(found[..6], entries(5, 6..12)[..]);
    assert_eq!(found[6..], entries(6, 12..15)[..]);
}

#[test]
fn a_new_term_makes_what_was_fetched_stale() {
    let (log, _node, mut storage) = cold();
    assert_eq!(ask(&storage, 6, 20), later());
    storage.wait_fetched(PATIENCE);
    storage.set_hard_state(&hard_state(9, 0, 7)).unwrap();
    assert_eq!(ask(&storage, 6, 20), later());
    storage.wait_fetched(PATIENCE);
    assert_eq!(log.reads.load(Ordering::SeqCst), 2);
}

#[test]
fn what_was_compacted_meanwhile_is_compacted() {
    let (_log, _node, mut storage) = cold();
    assert_eq!(ask(&storage, 6, 20), later());
    storage.compact(8).unwrap();
    storage.wait_fetched(PATIENCE);
    let compacted = Err(RaftError::Store(StorageError::Compacted));
    assert_eq!(ask(&storage, 6, 20), compacted);
    assert_eq!(ask(&storage, 8, 20), later());
    storage.wait_fetched(PATIENCE);
    assert_eq!(ask(&storage, 8, 20).unwrap().len(), 12);
}

#[test]
fn a_damaged_cold_entry_makes_a_leader_send_a_snapshot() {
    let (log, _node, storage) = cold();
    log.damaged_from.store(15, Ordering::SeqCst);
    assert_eq!(ask(&storage, 6, 20), later());
    storage.wait_fetched(PATIENCE);
    let compacted = Err(RaftError::Store(StorageError::Compacted));
    assert_eq!(ask(&storage, 6, 20), compacted);
    assert_eq!(ask(&storage, 6, 15), later(), "what is whole is served");
    storage.wait_fetched(PATIENCE);
    assert_eq!(ask(&storage, 6, 15).unwrap().len(), 9);
}

#[test]
fn contexts_that_cannot_wait_read_at_once() {
    let (log, _node, storage) = cold();
    let read = |max| storage.entries(6, 20, max, GetEntriesContext::empty(false));
    assert_eq!(read(None).unwrap(), entries(5, 6..20));
    assert_eq!(read(Some(0)).unwrap().len(), 1, "at least one");
    assert_eq!(log.reads.load(Ordering::SeqCst), 2);
}

#[test]
fn a_leader_with_a_cold_log_serves_its_follower_through_the_callback() {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let region = crate::support::two_voters();
    let mut storage = node.create_region(&region).unwrap();
    fill(&mut storage, 5, 6..20);
    drop(storage);
    let storage = node.open_region(1).unwrap();
    let config = storage.raft_config();
    let mut leader = RawNode::new(&config, storage, &peerstore::raft_logger()).unwrap();
    leader.raft.become_candidate();
    leader.raft.become_leader();
    let mut ready = leader.ready();
    leader.mut_store().persist(&mut ready).unwrap();
    leader.advance(ready);
    // The follower has up to 9: its answer makes the leader read from 10 on.
    let mut reject = Message::default();
    reject.set_msg_type(MessageType::MsgAppendResponse);
    (reject.from, reject.to, reject.term) = (2, 1, 6);
    (reject.index, reject.reject, reject.reject_hint) = (19, true, 9);
    reject.log_term = 5;
    leader.step(reject).unwrap();
    let appends = |leader: &mut RawNode<PeerStorage>| {
        let messages = match leader.has_ready() {
            true => leader.ready().take_messages(),
            false => Vec::new(),
        };
        (messages.into_iter().filter(|m| !m.entries.is_empty()))
            .map(|m| m.entries[0].index)
            .collect::<Vec<_>>()
    };
    assert_eq!(appends(&mut leader), [0; 0], "they are being read");
    let contexts = leader.store().wait_fetched(PATIENCE);
    assert_eq!(contexts.len(), 1);
    for context in contexts {
        leader.on_entries_fetched(context);
    }
    assert_eq!(appends(&mut leader), [10]);
}
