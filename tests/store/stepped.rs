//! What only an order of steps of our choice can show.

use std::sync::Arc;

use peerstore::memory::{MemoryData, MemoryLog, MemoryNetwork, MemorySnapshots};
use peerstore::{
    CompositeStorage, Config, KvCommand, KvStateMachine, Parts, RaftLogStorage as _,
    RaftSnapshotStorage as _, Region, StateMachine, SteppedStore, StoreOptions, StorePart,
};

fn run(store: &mut SteppedStore, parts: &[StorePart], times: usize) {
    for _ in 0..times {
        for part in parts {
            store.step(*part);
        }
    }
}

#[test]
fn a_split_whose_log_is_being_written_is_not_worked_out_again() {
    let parts = Parts {
        log: Arc::new(MemoryLog::new()),
        app: Arc::new(MemoryData::new()),
        snapshots: Arc::new(MemorySnapshots::new()),
    };
    let config = Config {
        store_id: 1,
        ..Config::default()
    };
    let (node, _workers) = CompositeStorage::from_parts_stepped(parts, &config).unwrap();
    let machine = |_: &Region| -> Box<dyn StateMachine> { Box::new(KvStateMachine) };
    let transport = MemoryNetwork::immediate().transport(1);
    let options = StoreOptions::default();
    let mut store = SteppedStore::start(node, machine, transport, options, 1).unwrap();
    store.create_region(&Region::single(1, 1)).unwrap();
    let all = store.parts();
    for _ in 0..100 {
        store.tick();
        run(&mut store, &all, 3);
    }
    for key in ["a", "z"] {
        drop(store.store().propose(1, KvCommand::put(key, "1").encode()));
    }
    run(&mut store, &all, 10);
    let mut split = store.store().split(1, "m");
    // Between any two steps there is time enough for everything that is looked at now and then.
    for _ in 0..20 {
        for part in &all {
            store.step(*part);
            for _ in 0..100 {
                store.tick();
                store.step(StorePart::Raft);
            }
        }
    }
    split.try_take().unwrap().unwrap();
    let right = store.store().region_of(b"z").unwrap();
    assert_eq!(right.region.start_key, b"m", "the new region is here");
    let mut read = store.store().read(right.region.region_id());
    run(&mut store, &all, 10);
    let reader = read.try_take().unwrap().unwrap();
    assert_eq!(reader.get(b"z").unwrap().as_deref(), Some(&b"1"[..]));
}

#[test]
fn a_driven_region_takes_snapshots_by_policy_and_its_compaction_waits_for_them() {
    let (log, snapshots) = (Arc::new(MemoryLog::new()), MemorySnapshots::new());
    let mut config = Config {
        store_id: 1,
        ..Config::default()
    };
    config.snapshot.after_entries = 20;
    config.gc.entries_trailing = 2;
    let (node, workers) = CompositeStorage::builder()
        .config(config)
        .log(log.clone())
        .app(Arc::new(MemoryData::new()))
        .snapshots(Arc::new(snapshots.clone()))
        .open_stepped()
        .unwrap();
    let machine = |_: &Region| -> Box<dyn StateMachine> { Box::new(KvStateMachine) };
    let transport = MemoryNetwork::immediate().transport(1);
    let options = StoreOptions {
        sleep_after_ticks: 0,
        ..StoreOptions::default()
    };
    let mut store = SteppedStore::start(node, machine, transport, options, 1).unwrap();
    store.create_region(&Region::single(1, 1)).unwrap();
    let all = store.parts();
    let ticks = |store: &mut SteppedStore| {
        for _ in 0..100 {
            store.tick();
            run(store, &all, 3);
        }
    };
    ticks(&mut store);
    for number in 0..30 {
        let put = KvCommand::put(format!("key{number}"), "1").encode();
        drop(store.store().propose(1, put));
    }
    ticks(&mut store);
    assert!(
        log.read_entry(1.into(), 6).unwrap().is_some(),
        "no snapshot covers it yet"
    );
    assert!(workers.step_snapshot());
    let infos = snapshots.list(None).unwrap();
    assert!(infos[0].meta.position.index >= 36, "{infos:?}");
    ticks(&mut store);
    let covered = infos[0].meta.position.index;
    assert!(log.read_entry(1.into(), covered - 2).unwrap().is_none());
    assert!(
        log.read_entry(1.into(), covered).unwrap().is_some(),
        "what trails"
    );
}
