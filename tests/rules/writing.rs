//! Rules 13 to 19: what is one batch, what is synced, and in which order.

use peerstore::memory::WriteFault;
use peerstore::{
    Durability, Error, Keyspace, LogBatch, LogOp, PeerStorage, RaftApplyState, RaftLocalState,
    Region, RegionLocalState,
};
use raft::eraftpb::ConfState;
use raft::{GetEntriesContext, RawNode, Storage as _};

use crate::recording::Step;
use crate::support::{
    PATIENCE, Rig, apply, assert_says, config, data_of, entries, entry, fill, hard_state,
};

fn rig_with_region() -> (Rig, PeerStorage) {
    let rig = Rig::new(config(1));
    let storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    rig.trace.take();
    (rig, storage)
}

fn all_entries(storage: &PeerStorage) -> Vec<(u64, u64)> {
    let (first, last) = (
        storage.first_index().unwrap(),
        storage.last_index().unwrap(),
    );
    let context = GetEntriesContext::empty(false);
    (storage.entries(first, last + 1, None, context).unwrap())
        .iter()
        .map(|e| (e.term, e.index))
        .collect()
}

#[test]
fn rule_13_entries_cut_and_state_are_one_synced_log_batch() {
    let (rig, mut storage) = rig_with_region();
    storage.append(&entries(5, 6..12)).unwrap();
    rig.trace.take();
    storage.append(&entries(6, 8..10)).unwrap();
    let steps = rig.trace.take();
    let [Step::Log(batch, Durability::Synced)] = &steps[..] else {
        panic!("{steps:?}");
    };
    let state = batch.ops().iter().find_map(|op| match op {
        LogOp::State { state, .. } => Some(state),
        _ => None,
    });
    assert_eq!(state.unwrap().last_index, 9);
    let kinds = |op: &LogOp| matches!(op, LogOp::Append { .. } | LogOp::Remove { .. });
    assert_eq!(batch.ops().iter().filter(|op| kinds(op)).count(), 2);
}

#[test]
fn rule_13_what_a_ready_persists_survives_a_power_cut_at_once() {
    let (rig, storage) = rig_with_region();
    let config = storage.raft_config();
    let mut node = RawNode::new(&config, storage, &peerstore::raft_logger()).unwrap();
    node.campaign().unwrap();
    for _ in 0..4 {
        if !node.has_ready() {
            break;
        }
        let mut ready = node.ready();
        node.mut_store().persist(&mut ready).unwrap();
        let (vote, last) = (node.raft.vote, node.store().last_index().unwrap());
        let crashed = rig.crash(0);
        let reopened = crashed.node.open_region(1).unwrap();
        assert_eq!((reopened.hard_state().vote, vote), (1, 1));
        assert_eq!(reopened.last_index(), Ok(last));
        node.advance(ready);
    }
    assert_eq!(node.raft.state, raft::StateRole::Leader);
    assert_eq!(node.store().last_index(), Ok(6), "the leader's empty entry");
}

#[test]
fn rule_13_a_vote_is_synced_and_a_commit_alone_is_not() {
    let (rig, mut storage) = rig_with_region();
    storage.append(&entries(5, 6..8)).unwrap();
    rig.trace.take();
    storage.set_hard_state(&hard_state(7, 2, 5)).unwrap();
    storage.set_hard_state(&hard_state(7, 2, 7)).unwrap();
    let steps = rig.trace.take();
    assert_eq!(
        steps.iter().map(Step::is_synced).collect::<Vec<_>>(),
        [true, false]
    );
    let reopened = rig
        .crash(0)
        .node
        .open_region(1)
        .unwrap()
        .hard_state()
        .clone();
    assert_eq!(reopened, hard_state(7, 2, 5));
}

#[test]
fn rule_14_an_overwrite_removes_the_old_tail() {
    let (rig, mut storage) = rig_with_region();
    storage.append(&entries(5, 6..20)).unwrap();
    storage.append(&entries(6, 9..11)).unwrap();
    assert_eq!(
        all_entries(&storage),
        [(5, 6), (5, 7), (5, 8), (6, 9), (6, 10)]
    );
    for index in 11..20 {
        assert_eq!(rig.log.inner.crash_copy(0).read(index), None, "{index}");
        assert!(storage.term(index).is_err());
    }
    drop(storage);
    let mut storage = rig.node.open_region(1).unwrap();
    assert_eq!(storage.last_index(), Ok(10));
    // What was cut must not come back when the log grows over it again.
    storage.append(&[entry(7, 11)]).unwrap();
    assert_eq!(storage.term(11), Ok(7));
    assert!(storage.term(12).is_err());
}

trait ReadOne {
    fn read(&self, index: u64) -> Option<u64>;
}

impl ReadOne for peerstore::memory::MemoryLog {
    fn read(&self, index: u64) -> Option<u64> {
        use peerstore::RaftLogStorage as _;
        Some(self.read_entry(1.into(), index).unwrap()?.term)
    }
}

#[test]
fn rule_15_data_and_applied_index_are_one_kv_batch_and_never_apart() {
    let (rig, mut storage) = rig_with_region();
    let log = entries(5, 6..10);
    storage.append(&log).unwrap();
    rig.trace.take();
    for entry in &log {
        apply(&mut storage, std::slice::from_ref(entry)).unwrap();
    }
    let steps = rig.trace.take();
    assert_eq!(steps.len(), 4);
    for step in &steps {
        assert!(step.kv_value(Keyspace::Data).is_some());
        assert!(step.kv_value(Keyspace::ApplyState).is_some());
        assert!(!step.is_synced(), "the log replays an ordinary write");
    }
    for kept in 0..5 {
        let crashed = rig.crash(kept);
        let reopened = crashed.node.open_region(1).unwrap();
        assert_eq!(reopened.applied_index(), 5 + kept as u64);
        assert_eq!(data_of(&crashed.node).len(), kept);
    }
}

#[test]
fn rule_15_a_configuration_travels_with_its_applied_index_and_is_synced() {
    let (rig, mut storage) = rig_with_region();
    let log = entries(5, 6..8);
    storage.append(&log).unwrap();
    rig.trace.take();
    let conf_state = ConfState::from((vec![1, 2, 3], vec![]));
    let change = |_: &_, batch: &mut peerstore::ApplyBatch| {
        batch.put("k", "v");
        batch.set_conf_state(conf_state.clone());
        Ok(())
    };
    storage.apply(&log[..1], change).unwrap();
    let steps = rig.trace.take();
    let [Step::Kv(_, Durability::Synced)] = &steps[..] else {
        panic!("{steps:?}");
    };
    let state = steps[0].kv_value(Keyspace::RegionState).unwrap();
    let state = RegionLocalState::decode_of(1.into(), state).unwrap();
    assert_eq!(state.conf_state, conf_state);
    assert_eq!(state.region.region_epoch.conf_ver, 2);
    assert!(steps[0].kv_value(Keyspace::ApplyState).is_some());
    let reopened = rig.crash(0).node.open_region(1).unwrap();
    assert_eq!(reopened.conf_state(), &conf_state);
    assert_eq!(reopened.applied_index(), 6);
}

#[test]
fn rule_15_a_state_machine_that_fails_changes_nothing() {
    let (rig, mut storage) = rig_with_region();
    storage.append(&entries(5, 6..8)).unwrap();
    let before = rig.dump();
    let refuse = |e: &raft::eraftpb::Entry, batch: &mut peerstore::ApplyBatch| {
        batch.put("k", "v");
        match e.index {
            7 => Err(Error::state_machine(1.into(), 7, "no")),
            _ => Ok(()),
        }
    };
    let error = storage.apply(&entries(5, 6..8), refuse).unwrap_err();
    assert_says(&error, &["region 1", "index 7", "no"]);
    assert_eq!((rig.dump(), storage.applied_index()), (before, 5));
}

#[test]
fn a_state_machine_is_never_called_with_what_cannot_be_applied() {
    let (_rig, mut storage) = rig_with_region();
    storage.append(&entries(5, 6..8)).unwrap();
    let never = |_: &_, _: &mut peerstore::ApplyBatch| panic!("called");
    for wrong in [
        entries(5, 7..8),
        entries(5, 6..9),
        vec![entry(5, 6), entry(5, 8)],
    ] {
        let error = storage.apply(&wrong, never).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
        assert_says(&error, &["region 1", "got index", "expected"]);
    }
    assert_eq!(storage.applied_index(), 5);
}

#[test]
fn an_entry_reads_what_the_entries_before_it_have_put() {
    let (_rig, mut storage) = rig_with_region();
    storage.append(&entries(5, 6..10)).unwrap();
    let mut count = |_: &_, batch: &mut peerstore::ApplyBatch| {
        let mut text = batch.get(b"k")?.unwrap_or_default();
        text.push(b'+');
        batch.put("k", text);
        Ok(())
    };
    storage.apply(&entries(5, 6..7), &mut count).unwrap();
    storage.apply(&entries(5, 7..10), &mut count).unwrap();
    assert_eq!(storage.get(b"k").unwrap().as_deref(), Some(&b"++++"[..]));
}

#[test]
fn a_key_outside_the_region_is_refused_with_its_batch() {
    let rig = Rig::new(config(1));
    let range = peerstore::KeyRange::new("b", "d");
    let region = Region::with_voters(1, range, [(1.into(), 1)]);
    let mut storage = rig.node.create_region(&region).unwrap();
    storage.append(&entries(5, 6..7)).unwrap();
    let before = rig.dump();
    let outside = |_: &_, batch: &mut peerstore::ApplyBatch| {
        batch.put("c", "inside");
        batch.put("d", "outside");
        Ok(())
    };
    let error = storage.apply(&entries(5, 6..7), outside).unwrap_err();
    assert_says(&error, &["region 1", "\"d\"", "[\"b\", \"d\")"]);
    assert_eq!(rig.dump(), before);
}

#[test]
fn rule_16_the_recorded_commit_is_persisted_and_never_goes_back() {
    let (rig, mut storage) = rig_with_region();
    storage.append(&entries(5, 6..10)).unwrap();
    let error = apply(&mut storage, &entries(5, 6..11)).unwrap_err();
    assert_says(&error, &["region 1", "got index 10", "durable index 9"]);
    assert!(storage.advance_applied(10).is_err());
    let mut last = 5;
    for index in 6..10 {
        apply(&mut storage, &entries(5, index..index + 1)).unwrap();
        let RaftApplyState {
            commit_index,
            commit_term,
            ..
        } = *storage.apply_state();
        assert!(commit_index >= last && commit_index <= storage.persisted_index());
        assert_eq!(commit_term, 5);
        last = commit_index;
    }
    assert!(storage.advance_applied(8).is_err(), "it never goes back");
    storage.compact(8).unwrap();
    assert_eq!(storage.apply_state().commit_index, 9);
    drop(storage);
    assert_eq!(rig.node.open_region(1).unwrap().hard_state().commit, 9);
}

#[test]
fn rule_16_staged_entries_cannot_be_applied_before_they_are_durable() {
    let (rig, storage) = rig_with_region();
    let config = storage.raft_config();
    let mut node = RawNode::new(&config, storage, &peerstore::raft_logger()).unwrap();
    node.campaign().unwrap();
    let mut batch = LogBatch::default();
    let mut ready = node.ready();
    let staged = node.mut_store().stage(&mut ready, &mut batch).unwrap();
    let store = node.mut_store();
    assert_eq!((store.last_index(), store.persisted_index()), (Ok(6), 5));
    let error = store.apply(&[entry(6, 6)], |_, _| Ok(())).unwrap_err();
    assert_says(&error, &["got index 6", "durable index 5"]);
    rig.node.write_log(&batch).unwrap();
    let store = node.mut_store();
    store.persisted(staged).unwrap();
    assert_eq!(store.persisted_index(), 6);
    store.apply(&[entry(6, 6)], |_, _| Ok(())).unwrap();
}

#[test]
fn rule_17_the_truncated_state_is_durable_before_an_entry_is_removed() {
    let (rig, mut storage) = rig_with_region();
    fill(&mut storage, 5, 6..20);
    rig.trace.take();
    storage.compact(15).unwrap();
    let steps = rig.trace.take();
    let [Step::Kv(_, Durability::Synced), Step::Log(batch, _)] = &steps[..] else {
        panic!("{steps:?}");
    };
    let state = steps[0].kv_value(Keyspace::ApplyState).unwrap();
    let state = RaftApplyState::decode_of(1.into(), state).unwrap();
    assert_eq!(state.truncated().index, 14);
    assert!(matches!(batch.ops(), [LogOp::Remove { range, .. }] if range.end == 15));
}

#[test]
fn rule_17_a_compaction_that_is_cut_anywhere_leaves_a_whole_log() {
    for cut in 0..2 {
        for kept in [0, usize::MAX] {
            let (rig, mut storage) = rig_with_region();
            fill(&mut storage, 5, 6..20);
            rig.trace.cut_after(cut);
            assert!(storage.compact(15).is_err());
            let crashed = rig.crash(kept);
            let mut reopened = crashed.node.open_region(1).unwrap();
            let first = if cut == 0 { 6 } else { 15 };
            assert_eq!(reopened.first_index(), Ok(first));
            assert_eq!(all_entries(&reopened).len() as u64, 20 - first);
            // Entries that were left behind go with the next compaction.
            let replay = entries(5, reopened.applied_index() + 1..20);
            apply(&mut reopened, &replay).unwrap();
            reopened.compact(16).unwrap();
            for index in 6..16 {
                assert_eq!(crashed.log.inner.read(index), None, "{index}");
            }
            assert_eq!(crashed.log.inner.read(16), Some(5));
        }
    }
}

#[test]
fn rule_18_truncated_never_passes_applied_and_moves_with_one_write() {
    let (rig, mut storage) = rig_with_region();
    fill(&mut storage, 5, 6..12);
    rig.data.inner.fail_next_write(WriteFault::SyncFailed);
    let before = storage.apply_state().clone();
    assert!(storage.compact(9).is_err());
    assert_eq!(
        storage.apply_state(),
        &before,
        "a failed write shows nothing"
    );
    assert_eq!(storage.first_index(), Ok(6));
    for kept in [0, usize::MAX] {
        let mut reopened = rig.crash(kept).node.open_region(1).unwrap();
        let state = reopened.apply_state().clone();
        assert!(state.truncated_state.index <= state.applied_index);
        let replay = entries(5, reopened.applied_index() + 1..12);
        apply(&mut reopened, &replay).unwrap();
        assert!(reopened.compact(13).is_err(), "beyond the log");
    }
}

#[test]
fn rule_19_what_is_not_cached_is_in_the_log() {
    let mut config = config(1);
    config.entry_cache_bytes = 1;
    let rig = Rig::new(config);
    let storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    let raft_config = storage.raft_config();
    let mut node = RawNode::new(&raft_config, storage, &peerstore::raft_logger()).unwrap();
    node.campaign().unwrap();
    let mut waiting = Vec::new();
    for round in 0..6u64 {
        if round > 1 {
            node.propose(vec![], vec![round as u8; 64]).unwrap();
        }
        if !node.has_ready() {
            continue;
        }
        let mut batch = LogBatch::default();
        let mut ready = node.ready();
        let number = ready.number();
        let staged = node.mut_store().stage(&mut ready, &mut batch).unwrap();
        node.advance_append_async(ready);
        waiting.push((staged, batch, number));
        if round < 2 {
            let (staged, batch, number) = waiting.remove(0);
            rig.node.write_log(&batch).unwrap();
            node.mut_store().persisted(staged).unwrap();
            node.on_persist_ready(number);
        }
        // Nothing that was staged may have left the cache, though the budget is one byte.
        let store = node.store();
        let read = store.entries(6, store.last_index().unwrap() + 1, None, sync());
        let last = store.last_index().unwrap();
        assert_eq!(read.map_or(0, |e| e.len() as u64), last.saturating_sub(5));
    }
    assert!(waiting.len() >= 3, "several were in flight");
    for (staged, batch, _) in waiting {
        rig.node.write_log(&batch).unwrap();
        node.mut_store().persisted(staged).unwrap();
    }
    let store = node.store();
    assert_eq!(store.persisted_index(), store.last_index().unwrap());
    assert_eq!(store.cache_stats().bytes, 0, "durable, so all may leave");
    let last = store.last_index().unwrap();
    assert_eq!(all_entries(store).len() as u64, last - 5);
}

fn sync() -> GetEntriesContext {
    GetEntriesContext::empty(false)
}

#[test]
fn nothing_is_written_past_what_is_staged() {
    let (rig, storage) = rig_with_region();
    let config = storage.raft_config();
    let mut node = RawNode::new(&config, storage, &peerstore::raft_logger()).unwrap();
    node.campaign().unwrap();
    let mut batch = LogBatch::default();
    let mut ready = node.ready();
    let staged = node.mut_store().stage(&mut ready, &mut batch).unwrap();
    let before = rig.dump();
    let store = node.mut_store();
    let hard_state = hard_state(9, 1, 5);
    for refused in [
        store.append(&entries(6, 6..7)),
        store.set_hard_state(&hard_state),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
        assert_says(&error, &["region 1", "not durable yet", "persisted"]);
    }
    assert_eq!(rig.dump(), before);
    rig.node.write_log(&batch).unwrap();
    store.persisted(staged).unwrap();
    store.set_hard_state(&hard_state).unwrap();
}

#[test]
fn what_another_region_staged_is_refused() {
    let rig = Rig::new(config(1));
    let mut other = rig.node.create_region(&Region::single(2, 1)).unwrap();
    let storage = rig.node.create_region(&Region::single(1, 1)).unwrap();
    let config = storage.raft_config();
    let mut node = RawNode::new(&config, storage, &peerstore::raft_logger()).unwrap();
    node.campaign().unwrap();
    let mut ready = node.ready();
    let mut batch = LogBatch::default();
    let staged = node.mut_store().stage(&mut ready, &mut batch).unwrap();
    let error = other.persisted(staged).unwrap_err();
    assert_says(&error, &["region 2", "what region 1 staged", "expected"]);
}

#[test]
fn a_failed_write_leaves_memory_as_it_was() {
    for fault in [WriteFault::DiskFull, WriteFault::SyncFailed] {
        let (rig, mut storage) = rig_with_region();
        storage.append(&entries(5, 6..9)).unwrap();
        let (raft, terms) = (storage.raft_state().clone(), all_entries(&storage));
        rig.log.inner.fail_next_write(fault);
        assert!(storage.append(&entries(6, 7..12)).is_err());
        assert_eq!(storage.raft_state(), &raft);
        assert_eq!(
            (storage.persisted_index(), all_entries(&storage)),
            (8, terms)
        );
        assert_eq!(storage.term(8), Ok(5));
        let error = storage.set_hard_state(&hard_state(9, 2, 5)).unwrap_err();
        assert!(matches!(error, Error::Poisoned { .. }), "never retried");
        assert_eq!(storage.hard_state().vote, 0);
        for kept in [0, usize::MAX] {
            let reopened = rig.crash(kept).node.open_region(1).unwrap();
            let RaftLocalState { last_index, .. } = *reopened.raft_state();
            assert!([8, 11].contains(&last_index), "all of it or nothing");
        }
    }
}

#[test]
fn a_failed_apply_leaves_memory_as_it_was() {
    let (rig, mut storage) = rig_with_region();
    storage.append(&entries(5, 6..9)).unwrap();
    rig.data.inner.fail_next_write(WriteFault::DiskFull);
    assert!(apply(&mut storage, &entries(5, 6..9)).is_err());
    assert_eq!((storage.applied_index(), data_of(&rig.node).len()), (5, 0));
    assert_eq!(storage.hard_state().commit, 5);
    let mut reopened = rig.crash(0).node.open_region(1).unwrap();
    apply(&mut reopened, &entries(5, 6..9)).unwrap();
    assert!(reopened.wait_snapshot(PATIENCE).is_ok());
}
