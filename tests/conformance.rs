//! The backends of this crate under the public suites.

#[path = "conformance/broken_data.rs"]
mod broken_data;
#[path = "conformance/broken_logs.rs"]
mod broken_logs;
#[path = "conformance/broken_snapshots.rs"]
mod broken_snapshots;
mod nodes;
#[path = "conformance/peer_storage.rs"]
mod peer_storage;
#[path = "conformance/plain_storage.rs"]
mod plain_storage;
#[cfg(feature = "rocksdb")]
#[path = "conformance/rocks.rs"]
mod rocks;

#[path = "conformance/snapshots.rs"]
mod snapshots;

use peerstore::conformance::{self, Harness};
use peerstore::memory::{MemoryData, MemoryLog};
use peerstore::{ApplicationDataStorage, RaftLogStorage, Result};

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

#[test]
fn memory_log_conforms() {
    conformance::raft_log::run(|| CrashingLog(MemoryLog::new()));
}

#[test]
fn memory_data_conforms() {
    conformance::app_store::run(|| CrashingData(MemoryData::new()));
}
