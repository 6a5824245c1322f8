//! Snapshots read and written by async code, and tickets awaited in it, on several runtimes.
#![cfg(feature = "tokio")]

mod streams;
mod tickets;
mod trouble;

use std::future::Future;
use std::sync::Arc;

use peerstore::async_io::AsyncSnapshots;
use peerstore::memory::{MemFs, MemorySnapshots};
use peerstore::snapshot_dir::{SnapshotDir, SnapshotOptions};
use peerstore::{LogPosition, RaftSnapshotStorage, Region, SnapshotMeta};
use tokio::runtime::{Builder, Handle, Runtime};

/// One that has threads of its own for its tasks, and one that has only its caller's.
fn runtimes() -> [Runtime; 2] {
    let many = Builder::new_multi_thread().worker_threads(2).build();
    let one = Builder::new_current_thread().build();
    [many.unwrap(), one.unwrap()]
}

/// Runs `case` on every kind of runtime, over every kind of store.
fn everywhere<F: Future<Output = ()>>(case: impl Fn(AsyncSnapshots) -> F) {
    for runtime in runtimes() {
        let dir = SnapshotDir::open(Arc::new(MemFs::new()), "s", SnapshotOptions::default());
        let stores: [Arc<dyn RaftSnapshotStorage>; 2] =
            [Arc::new(MemorySnapshots::new()), Arc::new(dir.unwrap())];
        for store in stores {
            let snapshots = AsyncSnapshots::new(store, runtime.handle().clone());
            runtime.block_on(case(snapshots));
        }
    }
}

/// On the caller's thread alone: whatever blocks it blocks everything.
fn on_one_thread<F: Future<Output = ()>>(case: impl FnOnce(Handle) -> F) {
    let runtime = Builder::new_current_thread().build().unwrap();
    let handle = runtime.handle().clone();
    runtime.block_on(case(handle));
}

fn meta(index: u64) -> SnapshotMeta {
    let region = Region::single(1, 1);
    SnapshotMeta {
        conf_state: region.conf_state(),
        position: LogPosition::new(6, index),
        region,
    }
}

/// Bytes that a compressor can do something with, but not everything.
fn sample(bytes: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 60) as u8
    };
    (0..bytes).map(|_| next()).collect()
}
