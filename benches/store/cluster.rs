//! Three stores of one process over RocksDB, connected in memory.

use std::path::Path;
use std::time::{Duration, Instant};

use peerstore::memory::MemoryNetwork;
use peerstore::{
    CompositeStorage, Config, KeyRange, PeerId, Region, StateMachine, Store, StoreOptions, Ticket,
};
use raft::eraftpb::Entry;

use crate::support::Outcome;

pub const PATIENCE: Duration = Duration::from_secs(120);

/// Puts an entry's data under a key of its own: the least that a state machine can do.
struct Puts {
    prefix: Vec<u8>,
    next: u64,
}

impl StateMachine for Puts {
    fn apply(
        &mut self,
        entry: &Entry,
        batch: &mut peerstore::ApplyBatch<'_>,
    ) -> peerstore::Result<Vec<u8>> {
        // A thousand keys a region, so that a run of any length keeps its size.
        self.next = (self.next + 1) % 1000;
        let key = [&self.prefix[..], &self.next.to_be_bytes()].concat();
        batch.put(key, &entry.data);
        Ok(Vec::new())
    }
}

pub fn machine(region: &Region) -> Box<dyn StateMachine> {
    Box::new(Puts {
        prefix: region.start_key.clone(),
        next: 0,
    })
}

/// A region with a range of its own and a voter on each of three stores; `lead` comes first.
pub fn region(id: u64, stores: u64) -> Region {
    let range = KeyRange::new(id.to_be_bytes(), (id + 1).to_be_bytes());
    let voters = (1..=stores).map(|store| (PeerId(10 * id + store), store));
    Region::with_voters(id, range, voters)
}

pub struct Cluster {
    pub network: MemoryNetwork,
    pub stores: Vec<Store>,
    pub regions: u64,
}

impl Cluster {
    /// `stores` stores below `dir`, each with `regions` regions, all led from the first store.
    pub fn start(dir: &Path, stores: u64, regions: u64, config: &Config) -> Outcome<Cluster> {
        let network = MemoryNetwork::immediate();
        let mut cluster = Cluster {
            network,
            stores: Vec::new(),
            regions,
        };
        for id in 1..=stores {
            let store = cluster.open(&dir.join(id.to_string()), id, config)?;
            cluster.stores.push(store);
        }
        for id in 1..=regions {
            for store in &cluster.stores {
                store.create_region(&region(id, stores))?;
            }
        }
        cluster.lead_from_first()?;
        Ok(cluster)
    }

    pub fn open(&self, dir: &Path, id: u64, config: &Config) -> Outcome<Store> {
        let config = Config {
            store_id: id,
            ..config.clone()
        };
        let node = CompositeStorage::open(dir, config)?;
        let options = StoreOptions {
            tick: Duration::from_millis(50),
            ..StoreOptions::default()
        };
        let transport = self.network.transport(id);
        Ok(Store::start(node, machine, transport, options)?)
    }

    fn lead_from_first(&self) -> Outcome {
        let first = &self.stores[0];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let led = |id: &u64| first.region(*id).is_some_and(|r| r.is_leader);
            let others: Vec<u64> = (1..=self.regions).filter(|id| !led(id)).collect();
            if others.is_empty() {
                return Ok(());
            }
            for id in &others {
                let at = self
                    .stores
                    .iter()
                    .find(|s| s.region(*id).is_some_and(|r| r.is_leader));
                let ticket = match at {
                    Some(store) => store.transfer_leader(*id, 10 * id + 1),
                    None => first.campaign(*id),
                };
                drop(ticket);
            }
            if Instant::now() > deadline {
                return Err(format!("{} regions are not led from store 1", others.len()).into());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    pub fn propose(&self, region: u64, data: &[u8]) -> Ticket<Vec<u8>> {
        self.stores[0].propose(region, data)
    }
}
