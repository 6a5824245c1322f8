//! A store's tickets, awaited.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::{Duration, Instant};

use peerstore::memory::{MemoryData, MemoryLog, MemoryNetwork, MemorySnapshots};
use peerstore::{
    CompositeStorage, Config, Error, KvCommand, KvStateMachine, Parts, Region, Result, Store,
    StoreOptions,
};

use crate::runtimes;

/// Nothing here takes this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A store that leads region 1 alone.
fn store() -> Store {
    let parts = Parts {
        log: Arc::new(MemoryLog::new()),
        app: Arc::new(MemoryData::new()),
        snapshots: Arc::new(MemorySnapshots::new()),
    };
    let config = Config {
        store_id: 1,
        ..Config::default()
    };
    let node = CompositeStorage::from_parts(parts, &config).unwrap();
    let options = StoreOptions {
        tick: Duration::from_millis(5),
        ..StoreOptions::default()
    };
    let machine = |_: &Region| -> Box<dyn peerstore::StateMachine> { Box::new(KvStateMachine) };
    let transport = MemoryNetwork::immediate().transport(1);
    let store = Store::start(node, machine, transport, options).unwrap();
    store.create_region(&Region::single(1, 1)).unwrap();
    store.wait_for_leader(1, PATIENCE).unwrap();
    store
}

/// Puts and reads again, and gives some tickets up on the way.
async fn use_it(store: &Store) -> Result<()> {
    for number in 0..20 {
        let put = |value: String| store.propose(1, KvCommand::put("key", value).encode());
        drop(put(format!("nobody waits for {number}")));
        let all: Vec<_> = (0..10).map(|i| put(format!("{number} {i}"))).collect();
        for ticket in all {
            ticket.await?;
        }
        let value = store.read(1).await?.get(b"key")?;
        assert_eq!(value, Some(format!("{number} 9").into_bytes()));
    }
    let refused = store.propose(99, KvCommand::put("key", "no such region").encode());
    assert!(matches!(refused.await, Err(Error::RegionNotFound { .. })));
    Ok(())
}

#[test]
fn tickets_are_awaited_on_every_runtime_of_tokio() {
    let store = Arc::new(store());
    for runtime in runtimes() {
        runtime.block_on(use_it(&store)).unwrap();
        // On the runtime's own threads, many at once.
        let tasks: Vec<_> = (0..8)
            .map(|number| {
                let store = Arc::clone(&store);
                runtime.spawn(async move {
                    let put = KvCommand::put(format!("of {number}"), "1").encode();
                    store.propose(1, put).await
                })
            })
            .collect();
        for task in tasks {
            runtime.block_on(task).unwrap().unwrap();
        }
    }
}

/// The least that a runtime can be.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        assert!(Instant::now() < deadline, "nobody woke it");
        std::thread::park_timeout(PATIENCE);
    }
}

#[test]
fn tickets_are_awaited_without_any_runtime() {
    block_on(use_it(&store())).unwrap();
}

#[test]
fn a_store_that_stops_answers_whoever_awaits() {
    let store = store();
    store.stop();
    let late = block_on(store.propose(1, KvCommand::put("key", "too late").encode()));
    assert!(matches!(late, Err(Error::StoreStopped)), "{late:?}");
}
