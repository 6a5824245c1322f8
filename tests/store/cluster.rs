//! Some stores of one cluster in this process, on real threads.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use peerstore::memory::{MemoryNetwork, MemoryPlacement};
use peerstore::{
    CompositeStorage, Config, Error, KeyRange, KvCommand, KvStateMachine, PeerId, Region, RegionId,
    StateMachine, Store, StoreOptions,
};

/// Nothing here takes this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub network: MemoryNetwork,
    pub stores: BTreeMap<u64, Store>,
    pub options: StoreOptions,
    pub machine: Arc<Machine>,
}

/// Makes the state machine of a region on a store.
pub type Machine = dyn Fn(u64, &Region) -> Box<dyn StateMachine> + Send + Sync;

impl Cluster {
    /// Stores 1 to `count`, without regions.
    pub fn new(count: u64) -> Cluster {
        Cluster::with(count, StoreOptions::default())
    }

    pub fn with(count: u64, options: StoreOptions) -> Cluster {
        let placement = Arc::new(MemoryPlacement::default());
        let options = StoreOptions {
            tick: Duration::from_millis(5),
            placement: Some(placement.clone()),
            ..options
        };
        let mut cluster = Cluster {
            dir: tempfile::tempdir().unwrap(),
            network: MemoryNetwork::immediate(),

            stores: BTreeMap::new(),
            options,
            machine: Arc::new(|_, _| Box::new(KvStateMachine)),
        };
        for id in 1..=count {
            cluster.start(id);
        }
        cluster
    }

    pub fn path(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("store-{id}"))
    }

    pub fn start(&mut self, id: u64) {
        let mut config = Config {
            store_id: id,
            cluster_id: 7,
            ..Config::default()
        };
        config.append_log.segment_bytes = 1 << 20;
        let node = CompositeStorage::open(self.path(id), config).unwrap();
        let make = Arc::clone(&self.machine);
        let machine = move |region: &Region| make(id, region);
        let transport = self.network.transport(id);
        let store = Store::start(node, machine, transport, self.options.clone()).unwrap();
        self.stores.insert(id, store);
    }

    pub fn stop(&mut self, id: u64) {
        self.stores.remove(&id).unwrap().stop();
    }

    /// Region 1 over every key, with a voter on each store: peer 100 + store.
    pub fn create_region(&self) {
        let voters = self.stores.keys().map(|id| (PeerId(100 + id), *id));
        let region = Region::with_voters(1, KeyRange::all(), voters);
        for store in self.stores.values() {
            match store.create_region(&region) {
                // The others have a leader already, and it has spoken to this one: it gets a snapshot.
                Ok(()) | Err(Error::RegionExists { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The store that leads the region, as soon as there is one.
    pub fn leader(&self, region: u64) -> &Store {
        wait("a leader", || {
            let mut stores = self.stores.values();
            stores.find(|s| s.region(region).is_some_and(|r| r.is_leader))
        })
    }

    pub fn put(&self, key: &str, value: &str) {
        self.propose(key, KvCommand::put(key, value));
    }

    /// Proposes where `key` is led, as often as it takes.
    pub fn propose(&self, key: &str, command: KvCommand) -> Vec<u8> {
        wait("a proposal", || {
            let region = self.region_of(key)?;
            let store = self.leader(region.0);
            store.propose(region, command.encode()).wait(PATIENCE).ok()
        })
    }

    pub fn region_of(&self, key: &str) -> Option<RegionId> {
        let mut stores = self.stores.values();
        let led = stores.find_map(|s| s.region_of(key.as_bytes()).filter(|r| r.is_leader));
        led.map(|r| r.region.region_id())
    }

    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        wait("a read", || {
            let region = self.region_of(key)?;
            let reader = self.leader(region.0).read(region).wait(PATIENCE).ok()?;
            reader.get(key.as_bytes()).ok()
        })
    }
}

/// What `probe` answers, as soon as it answers.
pub fn wait<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} took too long");
        std::thread::sleep(Duration::from_millis(3));
    }
}
