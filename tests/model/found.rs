//! What the model once found, each as short as it gets: a node in memory, its power cut at a step.

use std::time::Duration;

use peerstore::memory::WriteFault;
use peerstore::{CompositeStorage, Config, Error, LogBatch, PeerStorage, Region, Result};
use raft::Storage;
use raft::eraftpb::{Entry, HardState, Snapshot};

use crate::node::new_region;
use crate::nodes::{Backends, Site};
use crate::readies;
use crate::region::conf;

const LIMIT: Duration = Duration::from_secs(60);

fn site() -> (Site, CompositeStorage) {
    let mut site = Site::new(Backends::Memory, Config::default());
    let node = site.open(usize::MAX, usize::MAX).expect("open");
    (site, node)
}

fn entries(range: std::ops::Range<u64>) -> Vec<Entry> {
    let entry = |index| Entry {
        index,
        term: 5,
        data: format!("value {index}").into_bytes().into(),
        ..Entry::default()
    };
    range.map(entry).collect()
}

/// Appends and commits `range`, and puts each entry under its index.
fn fill(storage: &mut PeerStorage, range: std::ops::Range<u64>) -> Result<()> {
    let entries = entries(range.clone());
    storage.append(&entries)?;
    let mut state: HardState = storage.hard_state().clone();
    state.commit = range.end - 1;
    storage.set_hard_state(&state)?;
    storage.apply(&entries, |entry, batch| {
        batch.put(entry.index.to_string(), &entry.data);
        Ok(())
    })
}

/// A snapshot at 8 of a region in another node.
fn snapshot_at_8() -> Result<Snapshot> {
    let (_, node) = site();
    let mut storage = node.create_region(&Region::single(1, 1))?;
    fill(&mut storage, 6..9)?;
    storage.wait_snapshot(LIMIT)
}

#[test]
fn a_write_does_not_overtake_a_staged_ready() -> Result<()> {
    let (mut site, node) = site();
    let mut storage = node.create_region(&Region::single(1, 1))?;
    let model = new_region(0, 1, true);
    let mut ready = readies::append(&model, 6, &entries(6..8), 5).expect("a Ready");
    let mut batch = LogBatch::default();
    let staged = storage.stage(&mut ready, &mut batch)?;
    let before = storage.raft_state().clone();
    let appended = storage.append(&entries(8..9));
    assert!(matches!(appended, Err(Error::InvalidArgument { .. })));
    let set = storage.set_hard_state(&HardState::default());
    assert!(matches!(set, Err(Error::InvalidArgument { .. })));
    assert_eq!(
        storage.raft_state(),
        &before,
        "a refused write changes nothing"
    );
    drop((storage, staged, node));
    let node = site.open(usize::MAX, usize::MAX)?;
    assert_eq!(node.open_region(1)?.last_index(), Ok(5));
    Ok(())
}

#[test]
fn a_peer_that_comes_back_finds_nothing_of_its_predecessor() -> Result<()> {
    let (mut site, node) = site();
    let mut storage = node.create_region(&Region::single(1, 1))?;
    fill(&mut storage, 6..9)?;
    site.log.fail_next_write(WriteFault::DiskFull);
    assert!(
        storage.destroy().is_err(),
        "its tombstone is all that was written"
    );
    drop(node);
    let node = site.open(usize::MAX, usize::MAX)?;
    let storage = node.create_region(&Region::single(1, 2))?;
    assert_eq!(storage.get(b"7")?, None);
    Ok(())
}

#[test]
fn a_log_that_reaches_behind_a_snapshot_does_not_survive_its_interrupted_install() -> Result<()> {
    let (mut site, node) = site();
    let mut storage = node.create_region(&Region::single(1, 1))?;
    fill(&mut storage, 6..8)?;
    storage.append(&entries(8..20))?;
    let mut state = storage.hard_state().clone();
    state.commit = 15;
    storage.set_hard_state(&state)?;
    site.log.fail_next_write(WriteFault::DiskFull);
    let installed = storage.install_snapshot(snapshot_at_8()?);
    assert!(installed.is_err(), "the log was not replaced any more");
    drop((storage, node));
    let node = site.open(usize::MAX, usize::MAX)?;
    let storage = node.open_region(1)?;
    assert_eq!(
        (storage.first_index(), storage.last_index()),
        (Ok(9), Ok(8))
    );
    assert_eq!(storage.hard_state().commit, 8);
    assert_eq!(storage.get(b"8")?.as_deref(), Some(&b"value 8"[..]));
    Ok(())
}

#[test]
fn a_snapshot_file_that_is_needed_is_not_removed_as_ones_own() -> Result<()> {
    let (mut site, node) = site();
    let mut storage = node.create_region(&Region::single(1, 1))?;
    fill(&mut storage, 6..9)?;
    let own = storage.wait_snapshot(LIMIT)?;
    assert_eq!(own.get_metadata().index, storage.applied_index());
    site.log.fail_next_write(WriteFault::DiskFull);
    assert!(storage.install_snapshot(own).is_err());
    drop((storage, node));
    let node = site.open(usize::MAX, usize::MAX)?;
    let storage = node.open_region(1)?;
    assert_eq!(storage.get(b"8")?.as_deref(), Some(&b"value 8"[..]));
    Ok(())
}

#[test]
fn a_change_that_was_counted_twice_does_not_keep_snapshots_away() -> Result<()> {
    let (_site, node) = site();
    let mut storage = node.create_region(&Region::single(1, 1))?;
    storage.set_conf_state(&conf(0))?;
    storage.set_conf_state(&conf(1))?;
    storage.install_snapshot(snapshot_at_8()?)?;
    assert_eq!(storage.applied_index(), 8);
    Ok(())
}

#[test]
fn changes_in_one_batch_count_like_changes_in_several() -> Result<()> {
    let (_site, node) = site();
    let log = entries(6..8);
    let mut epochs = Vec::new();
    for (region, at_once) in [(1, 1), (2, 2)] {
        let mut storage = node.create_region(&Region::single(region, 1))?;
        storage.append(&log)?;
        for chunk in log.chunks(at_once) {
            storage.apply(chunk, |entry, batch| {
                batch.set_conf_state(conf(entry.index as u8));
                Ok(())
            })?;
        }
        assert_eq!(storage.conf_state(), &conf(7));
        epochs.push(storage.region().region_epoch);
    }
    assert_eq!(epochs[0], epochs[1]);
    Ok(())
}
