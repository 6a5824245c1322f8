//! When what is written counts: on the disk first, or in memory first and behind that on the disk.

use std::sync::Arc;

use peerstore::memory::{MemoryData, MemoryLog, MemorySnapshots, WriteFault};
use peerstore::{
    CompositeStorage, Config, Error, FlushPolicy, PeerStorage, PersistenceStrategy, RaftLogStorage,
    Region, SteppedWorkers, SyncPolicy, Ticket,
};
use raft::{GetEntriesContext, Storage as _};

use super::support::*;

fn config_of(persistence: PersistenceStrategy) -> Config {
    Config {
        persistence,
        ..config(1)
    }
}

/// A node in memory whose power can be cut.
struct Node {
    log: Arc<MemoryLog>,
    data: Arc<MemoryData>,
    node: CompositeStorage,
    workers: SteppedWorkers,
}

fn open(config: &Config, log: MemoryLog, data: MemoryData) -> Node {
    let (log, data) = (Arc::new(log), Arc::new(data));
    let (node, workers) = CompositeStorage::builder()
        .config(config.clone())
        .log(log.clone())
        .app(data.clone())
        .snapshots(Arc::new(MemorySnapshots::new()))
        .open_stepped()
        .unwrap();
    Node {
        log,
        data,
        node,
        workers,
    }
}

fn new(config: &Config) -> (Node, PeerStorage) {
    let node = open(config, MemoryLog::new(), MemoryData::new());
    let storage = node.node.create_region(&Region::single(1, 1)).unwrap();
    (node, storage)
}

impl Node {
    /// What a power cut leaves: the last index.
    fn last_after_a_power_cut(&self, config: &Config) -> u64 {
        let cut = open(config, self.log.crash_copy(0), self.data.crash_copy(0));
        cut.node.open_region(1).unwrap().last_index().unwrap()
    }
}

fn indexes(storage: &PeerStorage, first: u64) -> Vec<u64> {
    let (end, context) = (
        storage.last_index().unwrap() + 1,
        GetEntriesContext::empty(false),
    );
    let found = storage.entries(first, end, None, context).unwrap();
    found.iter().map(|entry| entry.index).collect()
}

fn is_done(ticket: &mut Ticket<()>) -> bool {
    ticket.try_take().is_some_and(|answer| answer.is_ok())
}

#[test]
fn disk_first_is_durable_when_it_is_handed_in() {
    let config = config_of(PersistenceStrategy::DiskFirst);
    let (node, mut storage) = new(&config);
    let before = node.node.log_stats().syncs;
    let mut ticket = storage.submit_append(&entries(5, 6..9)).unwrap();
    assert!(is_done(&mut ticket));
    assert_eq!(node.node.log_stats().syncs, before + 1);
    assert_eq!(storage.durable_index(), 8);
    assert_eq!(node.last_after_a_power_cut(&config), 8);
    assert!(!node.workers.step_write(), "nothing is left to write");
}

#[test]
fn mem_first_can_be_read_at_once_and_counts_when_it_is_durable() {
    let config = config_of(PersistenceStrategy::MemFirst);
    let (node, mut storage) = new(&config);
    let before = node.node.log_stats().syncs;
    let mut first = storage.submit_append(&entries(5, 6..9)).unwrap();
    let mut second = storage.submit_append(&entries(5, 9..11)).unwrap();
    assert_eq!(indexes(&storage, 6), [6, 7, 8, 9, 10], "it can be read");
    assert_eq!(storage.term(10).unwrap(), 5);
    assert_eq!(storage.poll_durable().unwrap(), 5, "and does not count");
    assert!(!is_done(&mut first) && !is_done(&mut second));
    // Nobody can apply, and so acknowledge, what a power cut would take.
    let error = apply(&mut storage, &entries(5, 6..7)).unwrap_err();
    assert_says(&error, &["index 6", "at most the last durable index 5"]);
    assert_eq!(node.node.log_stats().syncs, before);
    assert_eq!(node.last_after_a_power_cut(&config), 5);

    assert!(node.workers.step_write());
    assert!(is_done(&mut first) && is_done(&mut second));
    assert_eq!(
        node.node.log_stats().syncs,
        before + 1,
        "one fsync for both"
    );
    assert_eq!(storage.durable_index(), 5, "as of the last poll");
    assert_eq!(storage.poll_durable().unwrap(), 10);
    assert_eq!(node.last_after_a_power_cut(&config), 10);
    apply(&mut storage, &entries(5, 6..11)).unwrap();
    // The third is in memory when the power is cut: the first two are there, and nothing of it.
    drop(storage.submit_append(&entries(5, 11..20)).unwrap());
    assert_eq!(storage.last_index().unwrap(), 19);
    assert_eq!(node.last_after_a_power_cut(&config), 10);
}

#[test]
fn what_overwrites_a_write_that_is_on_its_way_wins() {
    let config = config_of(PersistenceStrategy::MemFirst);
    let (node, mut storage) = new(&config);
    drop(storage.submit_append(&entries(5, 6..10)).unwrap());
    drop(storage.submit_append(&entries(6, 8..9)).unwrap());
    assert_eq!(indexes(&storage, 6), [6, 7, 8]);
    assert!(node.workers.step_write());
    assert_eq!(storage.poll_durable().unwrap(), 8);
    let cut = open(&config, node.log.crash_copy(0), node.data.crash_copy(0));
    let after = cut.node.open_region(1).unwrap();
    assert_eq!(
        (after.last_index().unwrap(), after.term(8).unwrap()),
        (8, 6)
    );
}

#[test]
fn a_leader_does_not_count_itself_before_its_disk_has_it() {
    let config = config_of(PersistenceStrategy::MemFirst);
    let (node, storage) = new(&config);
    let mut raft = raft_of(storage);
    raft.campaign().unwrap();
    let mut acknowledged = Vec::new();
    for payload in ["", "a", "b"] {
        if !payload.is_empty() {
            raft.propose(Vec::new(), payload.into()).unwrap();
        }
        let mut ready = raft.ready();
        let number = ready.number();
        let ticket = raft.mut_store().submit(&mut ready).unwrap();
        raft.advance_append_async(ready);
        let durable = node.last_after_a_power_cut(&config);
        let committed = raft.raft.raft_log.committed;
        assert!(
            committed <= durable,
            "committed {committed}, a cut leaves {durable}"
        );
        assert!(node.workers.step_write());
        ticket.wait(PATIENCE).unwrap();
        raft.mut_store().poll_durable().unwrap();
        raft.on_persist_ready(number);
        let mut ready = raft.ready();
        let committed = ready.take_committed_entries();
        apply(raft.mut_store(), &committed).unwrap();
        acknowledged.extend(committed.iter().map(|entry| entry.index));
        let ticket = raft.mut_store().submit(&mut ready).unwrap();
        let number = ready.number();
        raft.advance_append_async(ready);
        node.workers.step_write();
        ticket.wait(PATIENCE).unwrap();
        raft.mut_store().poll_durable().unwrap();
        raft.on_persist_ready(number);
        raft.advance_apply_to(raft.store().applied_index());
        let last = node.last_after_a_power_cut(&config);
        assert!(acknowledged.iter().all(|index| *index <= last));
    }
    assert_eq!(acknowledged, [6, 7, 8]);
}

#[test]
fn a_failed_fsync_answers_everybody_who_waits_and_nothing_of_it_ever_counts() {
    let config = config_of(PersistenceStrategy::MemFirst);
    let (node, mut storage) = new(&config);
    drop(storage.submit_append(&entries(5, 6..8)).unwrap());
    assert!(node.workers.step_write());
    let doomed = storage.submit_append(&entries(5, 8..10)).unwrap();
    node.log.fail_next_write(WriteFault::SyncFailed);
    assert!(node.workers.step_write());
    let late = storage.submit_append(&entries(5, 10..12)).unwrap();
    assert!(node.workers.step_write());
    for ticket in [doomed, late] {
        let error = ticket.wait(PATIENCE).unwrap_err();
        assert!(matches!(error, Error::Poisoned { .. }), "{error}");
    }
    for _ in 0..2 {
        let error = storage.poll_durable().unwrap_err();
        assert_says(&error, &["poisoned", "injected"]);
    }
    assert_eq!(storage.durable_index(), 7);
    assert_eq!(
        indexes(&storage, 6).len(),
        6,
        "it can be read, and does not count"
    );
    assert_eq!(node.last_after_a_power_cut(&config), 7);
}

#[test]
fn writes_gather_by_number_and_are_written_when_the_node_closes() {
    let mut config = config_of(PersistenceStrategy::MemFirst);
    config.flush_policy = FlushPolicy::Batched {
        threshold: 10,
        interval_ms: 10_000,
    };
    let log = Arc::new(MemoryLog::new());
    let node = CompositeStorage::builder()
        .config(config)
        .log(log.clone())
        .app(Arc::new(MemoryData::new()))
        .snapshots(Arc::new(MemorySnapshots::new()))
        .open()
        .unwrap();
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    // A log that was idle is written at once.
    drop(storage.submit_append(&entries(5, 6..7)).unwrap());
    storage.flush(PATIENCE).unwrap();
    let before = log.stats().syncs;
    for index in 7..17 {
        drop(
            storage
                .submit_append(&entries(5, index..index + 1))
                .unwrap(),
        );
    }
    assert_eq!(storage.flush(PATIENCE).unwrap(), 16);
    assert_eq!(log.stats().syncs, before + 1);
    // Less than a group.
    drop(storage.submit_append(&entries(5, 17..20)).unwrap());
    drop((storage, node));
    assert_eq!(log.read_state(1.into()).unwrap().unwrap().last_index, 19);
    assert_eq!(log.unsynced(), 0);
}

#[test]
fn always_gives_a_write_behind_its_own_fsync_too() {
    let mut config = config_of(PersistenceStrategy::MemFirst);
    config.sync_policy = SyncPolicy::Always;
    let node = CompositeStorage::builder()
        .config(config)
        .log(Arc::new(MemoryLog::new()))
        .app(Arc::new(MemoryData::new()))
        .snapshots(Arc::new(MemorySnapshots::new()))
        .open()
        .unwrap();
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    let before = node.log_stats().syncs;
    for index in 6..16 {
        drop(
            storage
                .submit_append(&entries(5, index..index + 1))
                .unwrap(),
        );
    }
    assert_eq!(storage.flush(PATIENCE).unwrap(), 15);
    assert_eq!(node.log_stats().syncs, before + 10);
}

#[test]
fn while_a_write_is_on_its_way_no_other_way_of_writing_overtakes_it() {
    let (node, mut storage) = new(&config_of(PersistenceStrategy::MemFirst));
    drop(storage.submit_append(&entries(5, 6..8)).unwrap());
    assert!(storage.append(&entries(5, 8..9)).is_err());
    assert!(storage.submit_append(&entries(5, 9..10)).is_err(), "a gap");
    assert!(node.workers.step_write());
    storage.poll_durable().unwrap();
    storage.append(&entries(5, 8..9)).unwrap();
    assert_eq!(storage.durable_index(), 8);
}
