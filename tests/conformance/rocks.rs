//! RocksDB under the suites, opened again by dropping it.

use peerstore::conformance::{self, Harness};
use peerstore::rocks::{RocksData, RocksLog, RocksOptions, RocksTransactions};
use peerstore::{ApplicationDataStorage, RaftLogStorage, Result, TransactionalStorage};
use tempfile::TempDir;

/// A store in a directory of its own; `None` only while it is being opened again.
struct InDir<S> {
    store: Option<S>,
    dir: TempDir,
    open: fn(&TempDir) -> Result<S>,
}

impl<S> InDir<S> {
    fn new(open: fn(&TempDir) -> Result<S>) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Some(open(&dir).expect("open"));
        InDir { store, dir, open }
    }

    fn open_again(&mut self) -> Result<bool> {
        self.store = None;
        self.store = Some((self.open)(&self.dir)?);
        Ok(true)
    }
}

impl Harness<dyn RaftLogStorage> for InDir<RocksLog> {
    fn store(&self) -> &(dyn RaftLogStorage + 'static) {
        self.store.as_ref().expect("it is open")
    }
    fn reopen(&mut self) -> Result<bool> {
        self.open_again()
    }
}

impl Harness<dyn ApplicationDataStorage> for InDir<RocksData> {
    fn store(&self) -> &(dyn ApplicationDataStorage + 'static) {
        self.store.as_ref().expect("it is open")
    }
    fn reopen(&mut self) -> Result<bool> {
        self.open_again()
    }
}

impl Harness<dyn TransactionalStorage> for InDir<RocksTransactions> {
    fn store(&self) -> &(dyn TransactionalStorage + 'static) {
        self.store.as_ref().expect("it is open")
    }
    fn reopen(&mut self) -> Result<bool> {
        self.open_again()
    }
}

#[test]
fn rocks_transactions_conform() {
    let open =
        |dir: &TempDir| RocksTransactions::open(&dir.path().join("kv"), &RocksOptions::default());
    conformance::transactions::run(|| InDir::new(open));
}

#[test]
fn rocks_log_conforms() {
    let open = |dir: &TempDir| RocksLog::open(&dir.path().join("raft"), &RocksOptions::default());
    conformance::raft_log::run(|| InDir::new(open));
}

#[test]
fn rocks_data_conforms() {
    let open = |dir: &TempDir| RocksData::open(&dir.path().join("kv"), &RocksOptions::default());
    conformance::app_store::run(|| InDir::new(open));
}
