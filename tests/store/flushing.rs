//! A driver's writes gather as the config says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use peerstore::memory::{MemoryData, MemoryLog, MemoryNetwork, MemorySnapshots};
use peerstore::{
    CompositeStorage, Config, FlushPolicy, KvCommand, KvStateMachine, PersistenceStrategy,
    RaftLogStorage as _, Region, StateMachine, Store, StoreOptions,
};

const PATIENCE: Duration = Duration::from_secs(60);
const INTERVAL_MS: u64 = 10;

/// However slow the machine is: between two fsyncs lies the interval.
#[test]
fn a_drivers_fsyncs_come_no_closer_than_the_interval() {
    for persistence in [
        PersistenceStrategy::DiskFirst,
        PersistenceStrategy::MemFirst,
    ] {
        let log = Arc::new(MemoryLog::new());
        let config = Config {
            store_id: 1,
            persistence,
            flush_policy: FlushPolicy::Batched {
                threshold: u64::MAX,
                interval_ms: INTERVAL_MS,
            },
            ..Config::default()
        };
        let node = CompositeStorage::builder()
            .config(config)
            .log(log.clone())
            .app(Arc::new(MemoryData::new()))
            .snapshots(Arc::new(MemorySnapshots::new()))
            .open()
            .unwrap();
        let machine = |_: &Region| -> Box<dyn StateMachine> { Box::new(KvStateMachine) };
        let transport = MemoryNetwork::immediate().transport(1);
        let options = StoreOptions {
            tick: Duration::from_millis(10),
            ..StoreOptions::default()
        };
        let store = Store::start(node, machine, transport, options).unwrap();
        store.create_region(&Region::single(1, 1)).unwrap();
        store.wait_for_leader(1, PATIENCE).unwrap();
        let (begun, before) = (Instant::now(), log.stats().syncs);
        for number in 0..50 {
            let put = KvCommand::put(format!("key{number}"), "1").encode();
            store.propose(1, put).wait(PATIENCE).unwrap();
        }
        let syncs = log.stats().syncs - before;
        let most = begun.elapsed().as_millis() as u64 / INTERVAL_MS + 2;
        assert!(
            syncs <= most,
            "{persistence:?}: {syncs} fsyncs, at most {most} fit"
        );
        store.stop();
    }
}
