//! What only the inside can show: the fetches, one by one. What is here for a driver of many regions is
//! tested beside it, on the same nodes as the rules; everything else is tested from outside.

#[allow(dead_code, reason = "the rules need more of it")]
#[path = "../../tests/rules/recording.rs"]
pub mod recording;
#[allow(dead_code, reason = "the rules need more of it")]
#[path = "../../tests/rules/support.rs"]
pub mod support;

use crossbeam_channel::{Receiver, Sender, unbounded};
use raft::eraftpb::Entry;
use raft::{GetEntriesContext, RawNode};

use super::PeerStorage;
use super::fetch::{FetchAnswer, FetchTask, Fetches, Wanted};
use crate::error::{Error, Result};
use crate::memory::MemoryLog;
use crate::raft_log::{LogBatch, RaftLogStorage};
use crate::types::{Durability, RegionId};

const REGION: RegionId = RegionId(1);

#[test]
fn a_raw_node_over_it_can_move_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<RawNode<PeerStorage>>();
    is_send::<crate::composite::CompositeStorage>();
}

/// A log with the entries 1 to 9 and a worker that works when it is told to.
struct Worker {
    log: MemoryLog,
    sender: Sender<FetchTask>,
    tasks: Receiver<FetchTask>,
}

impl Worker {
    fn new() -> Result<Self> {
        let log = MemoryLog::default();
        let mut batch = LogBatch::default();
        let entry = |index| {
            let mut entry = Entry::default();
            (entry.index, entry.term) = (index, 1);
            entry
        };
        batch.append(REGION, (1..10).map(entry).collect());
        log.write(&batch, Durability::Synced)?;
        let (sender, tasks) = unbounded();
        Ok(Worker { log, sender, tasks })
    }

    /// Does what was asked for; how much it was.
    fn work(&self) -> usize {
        let tasks = self.tasks.try_iter();
        tasks.map(|task| task.run(&self.log)).count()
    }

    fn ask(&self, fetches: &mut Fetches, low: u64, high: u64) -> FetchAnswer {
        let wanted = Wanted {
            region: REGION,
            low,
            high,
            bytes_max: u64::MAX,
        };
        fetches.ask(wanted, GetEntriesContext::empty(true), &self.sender)
    }
}

fn indexes(answer: FetchAnswer) -> Vec<u64> {
    match answer {
        FetchAnswer::Entries(entries) => entries.iter().map(|e| e.index).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_fetch_is_in_flight_for_a_low_and_calls_everybody_back() -> Result<()> {
    let (worker, mut fetches) = (Worker::new()?, Fetches::default());
    for _ in 0..3 {
        assert!(matches!(worker.ask(&mut fetches, 2, 5), FetchAnswer::Later));
    }
    assert!(fetches.collect(None).is_empty(), "not read yet");
    assert_eq!(worker.work(), 1);
    assert_eq!(fetches.collect(None).len(), 3);
    for _ in 0..3 {
        assert_eq!(indexes(worker.ask(&mut fetches, 2, 5)), [2, 3, 4]);
    }
    let fourth = worker.ask(&mut fetches, 2, 5);
    assert!(matches!(fourth, FetchAnswer::Later), "freed after three");
    Ok(())
}

#[test]
fn what_was_asked_for_before_a_change_of_the_log_is_not_used() -> Result<()> {
    let (worker, mut fetches) = (Worker::new()?, Fetches::default());
    worker.ask(&mut fetches, 2, 5);
    fetches.drop_results();
    worker.work();
    assert_eq!(fetches.collect(None).len(), 1, "raft is called back");
    let again = worker.ask(&mut fetches, 2, 5);
    assert!(matches!(again, FetchAnswer::Later), "and asks again");
    Ok(())
}

#[test]
fn fewer_entries_than_were_fetched_can_be_asked_for() -> Result<()> {
    let (worker, mut fetches) = (Worker::new()?, Fetches::default());
    worker.ask(&mut fetches, 2, 9);
    worker.work();
    fetches.collect(None);
    assert_eq!(indexes(worker.ask(&mut fetches, 2, 4)), [2, 3]);
    Ok(())
}

#[test]
fn a_worker_that_is_gone_or_always_late_makes_the_caller_read() -> Result<()> {
    let (mut worker, mut fetches) = (Worker::new()?, Fetches::default());
    for _ in 0..3 {
        let answer = worker.ask(&mut fetches, 5, 9);
        assert!(matches!(answer, FetchAnswer::Later), "{answer:?}");
        fetches.drop_results();
        worker.work();
        fetches.collect(None);
    }
    let answer = worker.ask(&mut fetches, 5, 9);
    assert!(matches!(answer, FetchAnswer::ReadHere), "{answer:?}");
    worker.tasks = unbounded().1;
    let answer = worker.ask(&mut fetches, 7, 9);
    assert!(matches!(answer, FetchAnswer::ReadHere), "{answer:?}");
    Ok(())
}

#[test]
fn an_error_of_the_worker_reaches_the_one_who_asks() -> Result<()> {
    let (worker, mut fetches) = (Worker::new()?, Fetches::default());
    worker.ask(&mut fetches, 8, 12);
    worker.work();
    fetches.collect(None);
    let answer = worker.ask(&mut fetches, 8, 12);
    let FetchAnswer::Failed(Error::Corruption { region, .. }) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(region, Some(REGION));
    Ok(())
}
