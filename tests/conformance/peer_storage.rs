//! [`PeerStorage`] under the suite of `raft::Storage`, over every pair of backends.

use std::time::Duration;

use peerstore::conformance::raft_storage::{StorageUnderTest, run};
use peerstore::{CompositeStorage, Config, PeerStorage, RaftSnapshotData};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};

use crate::nodes::{Backends, Site};

const REGION: u64 = 7;
const LIMIT: Duration = Duration::from_secs(60);

/// A region on a node of its own. The fields are dropped in their order: the region first.
struct Stored {
    // None only while it is being opened again.
    storage: Option<PeerStorage>,
    node: Option<CompositeStorage>,
    site: Site,
    config: Config,
}

impl Stored {
    fn new(backends: Backends, config: &Config, peer: u64) -> Self {
        let mut site = Site::new(backends, config.clone());
        let node = site.open(usize::MAX, usize::MAX).expect("open");
        let storage = node.create_uninitialized(REGION, peer).expect("create");
        Stored {
            storage: Some(storage),
            node: Some(node),
            site,
            config: config.clone(),
        }
    }

    fn region(&mut self) -> &mut PeerStorage {
        self.storage.as_mut().expect("it is open")
    }
}

impl StorageUnderTest for Stored {
    type Storage = PeerStorage;

    fn storage(&self) -> &PeerStorage {
        self.storage.as_ref().expect("it is open")
    }

    fn append(&mut self, entries: &[Entry]) -> raft::Result<()> {
        Ok(self.region().append(entries)?)
    }

    fn set_hard_state(&mut self, state: &HardState) -> raft::Result<()> {
        Ok(self.region().set_hard_state(state)?)
    }

    fn set_conf_state(&mut self, state: &ConfState) -> raft::Result<()> {
        Ok(self.region().set_conf_state(state)?)
    }

    fn compact(&mut self, first_index: u64) -> raft::Result<()> {
        Ok(self.region().compact(first_index)?)
    }

    fn install_snapshot(&mut self, snapshot: Snapshot) -> raft::Result<()> {
        Ok(self.region().install_snapshot(snapshot)?)
    }

    fn advance_applied(&mut self, index: u64) -> raft::Result<()> {
        Ok(self.region().advance_applied(index)?)
    }

    fn snapshot_now(&mut self, request_index: u64) -> raft::Result<Snapshot> {
        self.region().wait_snapshot(LIMIT)?;
        raft::Storage::snapshot(self.storage(), request_index, 2)
    }

    fn fetch(&mut self) {
        self.region().wait_fetched(LIMIT);
    }

    fn reopen(&mut self) -> raft::Result<bool> {
        self.storage = None;
        self.node = None;
        let node = self.site.open(usize::MAX, usize::MAX)?;
        self.storage = Some(node.open_region(REGION)?);
        self.node = Some(node);
        Ok(true)
    }

    fn another(&mut self, id: u64) -> raft::Result<Option<Self>> {
        Ok(Some(Stored::new(self.site.backends, &self.config, id)))
    }

    fn transfer(&mut self, from: &Self, snapshot: &Snapshot) -> raft::Result<()> {
        let data = RaftSnapshotData::of_snapshot(REGION.into(), snapshot)?;
        let Some(data) = data.filter(RaftSnapshotData::needs_transfer) else {
            return Ok(());
        };
        let (sender, receiver) = (from.node.as_ref(), self.node.as_ref());
        let sender = sender.expect("it is open").snapshots();
        let receiver = receiver.expect("it is open").snapshots();
        let mut file = sender.send(&data.key(snapshot))?;
        let mut received = receiver.receive()?;
        std::io::copy(&mut file, &mut received)?;
        received.commit()?;
        Ok(())
    }
}

fn conforms(backends: Backends, config: &Config) {
    run(|| Stored::new(backends, config, 1));
}

#[test]
fn peer_storage_in_memory_conforms() {
    conforms(Backends::Memory, &Config::default());
}

#[test]
fn peer_storage_with_a_tiny_cache_and_with_snapshot_files_conforms() {
    let mut config = Config {
        entry_cache_bytes: 1,
        ..Config::default()
    };
    config.snapshot.inline_bytes_max = 0;
    conforms(Backends::Memory, &config);
}

#[test]
fn peer_storage_conforms_with_its_log_in_segments() {
    conforms(Backends::SegmentLog, &Config::default());
}

#[cfg(feature = "rocksdb")]
#[test]
fn peer_storage_on_rocks_conforms() {
    conforms(Backends::Rocks, &Config::default());
}

#[cfg(feature = "rocksdb")]
#[test]
fn peer_storage_on_rocks_with_a_tiny_cache_and_with_snapshot_files_conforms() {
    let mut config = Config {
        entry_cache_bytes: 1,
        ..Config::default()
    };
    config.snapshot.inline_bytes_max = 0;
    conforms(Backends::Rocks, &config);
}

#[cfg(feature = "rocksdb")]
#[test]
fn peer_storage_with_its_log_on_rocks_conforms() {
    conforms(Backends::RocksLog, &Config::default());
}

#[cfg(feature = "rocksdb")]
#[test]
fn peer_storage_with_its_data_on_rocks_conforms() {
    conforms(Backends::RocksData, &Config::default());
}
