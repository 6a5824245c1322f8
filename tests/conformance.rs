//! The backends of this crate under the public suites.

#[path = "conformance/broken_data.rs"]
mod broken_data;
#[path = "conformance/broken_logs.rs"]
mod broken_logs;
#[path = "conformance/broken_snapshots.rs"]
mod broken_snapshots;
#[path = "conformance/broken_transactions.rs"]
mod broken_transactions;
mod nodes;
#[path = "conformance/peer_storage.rs"]
mod peer_storage;
#[path = "conformance/plain_storage.rs"]
mod plain_storage;
#[cfg(feature = "rocksdb")]
#[path = "conformance/rocks.rs"]
mod rocks;
#[path = "conformance/segment_log.rs"]
mod segment_log;

#[path = "conformance/snapshots.rs"]
mod snapshots;

use peerstore::conformance::{self, Harness};
use peerstore::memory::{MemoryData, MemoryLog};
use peerstore::{
    ApplicationDataStorage, Extractor, IndexedData, RaftLogStorage, Result, TransactionalStorage,
};
use std::sync::Arc;

struct CrashingLog(MemoryLog);

impl Harness<dyn RaftLogStorage> for CrashingLog {
    fn store(&self) -> &(dyn RaftLogStorage + 'static) {
        &self.0
    }
    fn reopen(&mut self) -> Result<bool> {
        self.0 = self.0.crash_copy(usize::MAX);
        Ok(true)
    }
    fn crash(&mut self) -> Result<bool> {
        self.0 = self.0.crash_copy(self.0.unsynced() / 2);
        Ok(true)
    }
}

struct CrashingData(MemoryData);

impl Harness<dyn ApplicationDataStorage> for CrashingData {
    fn store(&self) -> &(dyn ApplicationDataStorage + 'static) {
        &self.0
    }
    fn reopen(&mut self) -> Result<bool> {
        self.0 = self.0.crash_copy(usize::MAX);
        Ok(true)
    }
    fn crash(&mut self) -> Result<bool> {
        self.0 = self.0.crash_copy(self.0.unsynced() / 2);
        Ok(true)
    }
}

impl Harness<dyn TransactionalStorage> for CrashingData {
    fn store(&self) -> &(dyn TransactionalStorage + 'static) {
        &self.0
    }
    fn crash(&mut self) -> Result<bool> {
        self.0 = self.0.crash_copy(0);
        Ok(true)
    }
}

/// Memory under indexes, which nobody may notice.
struct Indexed {
    memory: Arc<MemoryData>,
    data: IndexedData,
}

impl Indexed {
    fn new(memory: MemoryData) -> Self {
        let whole: Extractor = Arc::new(|_, value| vec![value.to_vec()]);
        let memory = Arc::new(memory);
        let data = IndexedData::open(memory.clone(), [("value", whole)]).expect("open");
        if data.indexes().is_empty() {
            data.create_index("value").expect("create_index");
        }
        Indexed { memory, data }
    }
}

impl Harness<dyn ApplicationDataStorage> for Indexed {
    fn store(&self) -> &(dyn ApplicationDataStorage + 'static) {
        &self.data
    }
    fn reopen(&mut self) -> Result<bool> {
        *self = Indexed::new(self.memory.crash_copy(usize::MAX));
        Ok(true)
    }
    fn crash(&mut self) -> Result<bool> {
        *self = Indexed::new(self.memory.crash_copy(self.memory.unsynced() / 2));
        Ok(true)
    }
}

#[test]
fn indexed_data_conforms() {
    conformance::app_store::run(|| Indexed::new(MemoryData::new()));
}

#[test]
fn memory_transactions_conform() {
    conformance::transactions::run(|| CrashingData(MemoryData::new()));
}

#[test]
fn memory_log_conforms() {
    conformance::raft_log::run(|| CrashingLog(MemoryLog::new()));
}

#[test]
fn memory_data_conforms() {
    conformance::app_store::run(|| CrashingData(MemoryData::new()));
}
