//! Who is woken when a worker has answered.

use std::sync::Arc;

use crossbeam_channel::{Receiver, unbounded};
use raft::{GetEntriesContext, Storage as _};

use crate::composite::{CompositeStorage, Parts};
use crate::config::Config;
use crate::error::Result;
use crate::memory::{MemoryData, MemoryLog, MemorySnapshots};
use crate::proto::Region;
use crate::types::RegionId;

fn parts() -> Parts {
    Parts {
        log: Arc::new(MemoryLog::new()),
        app: Arc::new(MemoryData::new()),
        snapshots: Arc::new(MemorySnapshots::new()),
    }
}

fn woken(node: &CompositeStorage) -> Receiver<RegionId> {
    let (sender, receiver) = unbounded();
    node.set_waker(Arc::new(move |region| {
        let _ = sender.send(region);
    }));
    receiver
}

fn entry(index: u64) -> raft::eraftpb::Entry {
    let mut entry = raft::eraftpb::Entry::default();
    (entry.term, entry.index) = (5, index);
    entry
}

#[test]
fn a_region_is_woken_after_its_answer_is_there_and_only_then() -> Result<()> {
    let (node, workers) = CompositeStorage::from_parts_stepped(parts(), &Config::default())?;
    let woken = woken(&node);
    let mut storage = node.create_region(&Region::single(4, 1))?;
    storage.append(&[entry(6), entry(7)])?;
    drop(storage);
    let storage = node.open_region(4)?;
    assert!(storage.snapshot(0, 2).is_err());
    let ask = || storage.entries(6, 8, None, GetEntriesContext::empty(true));
    assert!(ask().is_err());
    assert!(woken.is_empty());
    assert!(workers.step_fetch());
    assert_eq!(woken.try_iter().collect::<Vec<_>>(), [RegionId(4)]);
    assert_eq!(storage.take_fetched().len(), 1);
    assert_eq!(ask().map(|e| e.len()), Ok(2));
    assert!(workers.step_snapshot());
    assert_eq!(woken.try_iter().collect::<Vec<_>>(), [RegionId(4)]);
    assert!(storage.snapshot(0, 2).is_ok());
    storage.cancel_snapshot();
    assert!(workers.step_snapshot());
    assert!(woken.is_empty(), "nobody waits for a removal");
    Ok(())
}

#[test]
fn whoever_drives_next_is_woken_in_place_of_the_one_before() -> Result<()> {
    let (node, workers) = CompositeStorage::from_parts_stepped(parts(), &Config::default())?;
    let (first, second) = (woken(&node), woken(&node));
    let storage = node.create_region(&Region::single(4, 1))?;
    assert!(storage.snapshot(0, 2).is_err());
    assert!(workers.step_snapshot());
    assert_eq!((first.len(), second.len()), (0, 1));
    Ok(())
}

#[test]
fn threads_wake_too_and_outlive_a_waker_that_panics() -> Result<()> {
    let node = CompositeStorage::from_parts(parts(), &Config::default())?;
    let storage = node.create_region(&Region::single(4, 1))?;
    node.set_waker(Arc::new(|_| panic!("a bug of the driver")));
    let patience = std::time::Duration::from_secs(60);
    storage.wait_snapshot(patience)?;
    storage.cancel_snapshot();
    let woken = woken(&node);
    assert!(storage.snapshot(0, 2).is_err());
    assert_eq!(woken.recv_timeout(patience), Ok(RegionId(4)));
    assert!(storage.snapshot(0, 2).is_ok());
    Ok(())
}

#[test]
fn who_is_woken_finds_the_answer_already_there() -> Result<()> {
    let parts = parts();
    let (snapshots, (sender, files)) = (Arc::clone(&parts.snapshots), unbounded());
    let (node, workers) = CompositeStorage::from_parts_stepped(parts, &Config::default())?;
    node.set_waker(Arc::new(move |region| {
        let _ = sender.send(snapshots.list(Some(region)).map(|files| files.len()));
    }));
    let storage = node.create_region(&Region::single(4, 1))?;
    assert!(storage.snapshot(0, 2).is_err());
    assert!(workers.step_snapshot());
    let found: Result<Vec<usize>> = files.try_iter().collect();
    assert_eq!(found?, [1]);
    Ok(())
}
