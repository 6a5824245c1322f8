//! Some stores of a cluster, driven step by step on this thread; one of them may die behind a step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use peerstore::memory::{MemoryNetwork, MemoryPlacement, NetworkOptions};
use peerstore::{
    ApplicationDataStorage, ChangePeer, ExpiryOptions, Extractor, GcPolicy, KvStateMachine, PeerId,
    PeerMessage, RaftLogStorage, Region, RegionId, RegionStatus, StateMachine, SteppedStore,
    SteppedWorkers, Store, StoreMessage, StoreOptions, StorePart,
};

use crate::site::{Death, Opened, Site};

/// Rounds without the wanted end: an election takes about forty.
const ROUNDS_MAX: usize = 6_000;

/// How many rounds a tick takes while there is always something to do.
const BUSY_ROUNDS: u64 = 16;

/// Which store dies, and when.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Behind this step, whoever took it.
    pub step: u64,
    pub death: Death,
}

/// A store that runs. Fields are dropped in their order: the driver before what it stands on.
pub struct Running {
    pub store: SteppedStore,
    pub workers: SteppedWorkers,
    pub log: Arc<dyn RaftLogStorage>,
    pub app: Arc<dyn ApplicationDataStorage>,
}

pub struct World {
    pub network: MemoryNetwork,
    placement: MemoryPlacement,
    pub running: BTreeMap<u64, Running>,
    sites: BTreeMap<u64, Site>,
    cut: Option<Cut>,
    /// How many steps were taken.
    pub steps: u64,
    rounds: u64,
    /// How often a store was opened, so that no two runs of one are alike.
    opened: u64,
    /// When the stores that are started from now on compact their logs by themselves.
    pub gc: GcPolicy,
    /// Parts that do nothing for now.
    pub held: Vec<(u64, StorePart)>,
    /// What the stores that are started from now on make indexes by.
    pub extractors: Vec<(&'static str, Extractor)>,
    /// The clocks by which values expire, of the stores that have one when they are started.
    pub clocks: BTreeMap<u64, Arc<AtomicU64>>,
    /// What was acknowledged.
    pub data: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl World {
    /// Stores 1 to `count`, each at a site of its own.
    pub fn new(count: u64, site: fn() -> Site, cut: Option<Cut>) -> World {
        let options = NetworkOptions {
            delay_ticks: 0..=0,
            ..NetworkOptions::default()
        };
        let mut world = World {
            network: MemoryNetwork::new(1, options),
            placement: MemoryPlacement::new(),
            running: BTreeMap::new(),
            sites: (1..=count).map(|id| (id, site())).collect(),
            cut,
            steps: 0,
            rounds: 0,
            opened: 0,
            gc: GcPolicy::default(),
            held: Vec::new(),
            extractors: Vec::new(),
            clocks: BTreeMap::new(),
            data: BTreeMap::new(),
        };
        for id in 1..=count {
            world.start(id);
        }
        world
    }

    /// Three stores in memory that nobody kills but the test.
    pub fn three() -> World {
        World::new(3, Site::memory, None)
    }

    pub fn start(&mut self, id: u64) {
        self.opened += 1;
        let Opened {
            node,
            workers,
            log,
            app,
        } = self.sites[&id].open(id, self.gc, &self.extractors);
        let expiry = self.clocks.get(&id).cloned().map(|clock| ExpiryOptions {
            every_ticks: 10,
            now_ms: Arc::new(move || clock.load(Relaxed)),
            ..ExpiryOptions::default()
        });
        let options = StoreOptions {
            placement: Some(Arc::new(self.placement.clone())),
            apply_threads: 1,
            expiry,
            ..StoreOptions::default()
        };
        let machine = |_: &Region| -> Box<dyn StateMachine> { Box::new(KvStateMachine) };
        let transport = self.network.transport(id);
        let store = SteppedStore::start(node, machine, transport, options, self.opened);
        let running = Running {
            store: store.expect("a store that died starts again"),
            workers,
            log,
            app,
        };
        self.running.insert(id, running);
    }

    /// Starts a store more.
    pub fn add(&mut self, id: u64, site: Site) {
        self.sites.insert(id, site);
        self.start(id);
    }

    /// Lets a store die; it stays dead until it is started.
    pub fn kill(&mut self, id: u64, death: Death) {
        drop(self.running.remove(&id).expect("it runs"));
        let site = self.sites.get_mut(&id).expect("it has a site");
        site.die(death);
    }

    pub fn restart(&mut self, id: u64, death: Death) {
        self.kill(id, death);
        self.start(id);
    }

    /// Loses every message between peers that `lost` names, until the next call.
    pub fn lose(&self, lost: impl Fn(u64, u64, &PeerMessage) -> bool + Send + Sync + 'static) {
        self.network
            .set_filter(move |from, to, message| match &message {
                StoreMessage::Peer(peer) if lost(from, to, peer) => None,
                _ => Some(message),
            });
    }

    pub fn lose_nothing(&self) {
        self.lose(|_, _, _| false);
    }

    /// What the store `id` shows of a region.
    pub fn status(&self, id: u64, region: u64) -> Option<RegionStatus> {
        self.running.get(&id)?.store.store().region(region)
    }

    pub fn store(&self, id: u64) -> &Store {
        self.running[&id].store.store()
    }

    /// The store that leads the region, by the newest term.
    pub fn leader(&self, region: impl Into<RegionId>) -> Option<u64> {
        let region = region.into().0;
        let statuses = self
            .running
            .keys()
            .filter_map(|id| Some((*id, self.status(*id, region)?)));
        let leaders = statuses.filter(|(_, status)| status.is_leader);
        leaders.max_by_key(|(_, s)| s.term).map(|(id, _)| id)
    }

    /// A region as its leader has it.
    pub fn region(&self, region: u64) -> Option<Region> {
        let leader = self.leader(region)?;
        self.status(leader, region).map(|s| s.region)
    }

    /// The region that holds `key`, by the newest version that leads.
    pub fn region_of(&self, key: &[u8]) -> Option<Region> {
        let all = self
            .running
            .values()
            .flat_map(|r| r.store.store().regions());
        let holding = all
            .filter(|s| s.is_leader && s.region.is_initialized() && s.region.range().contains(key));
        let newest = holding.max_by_key(|s| s.region.region_epoch.version);
        newest.map(|s| s.region)
    }

    /// A step of the store `id`, if there is one to take; then it may die.
    fn act(&mut self, id: u64, act: impl FnOnce(&mut Running) -> bool) -> bool {
        let acted = self.running.get_mut(&id).is_some_and(act);
        if acted {
            self.counted(id);
        }
        acted
    }

    fn counted(&mut self, id: u64) {
        self.steps += 1;
        if let Some(cut) = self.cut
            && cut.step == self.steps
            && self.running.contains_key(&id)
        {
            self.restart(id, cut.death);
        }
    }

    /// Lets every part of every store do what waits for it, once; if nothing does, time passes.
    pub fn round(&mut self) {
        let ids: Vec<u64> = self.running.keys().copied().collect();
        let mut any = false;
        for id in &ids {
            let parts = [
                StorePart::Raft,
                StorePart::Write,
                StorePart::Apply(0),
                StorePart::Slow,
                StorePart::Split,
            ];
            for part in parts {
                if self.held.contains(&(*id, part)) {
                    continue;
                }
                any |= self.act(*id, |r| r.store.step(part));
            }
            any |= self.act(*id, |r| r.workers.step_fetch());
            any |= self.act(*id, |r| r.workers.step_snapshot());
        }
        while self.network.deliver_next() {
            any = true;
            let id = ids[self.steps as usize % ids.len()];
            self.counted(id);
        }
        self.rounds += 1;
        // Time also passes while everybody is busy, or a client that asks again and again would hold it up.
        if !any || self.rounds.is_multiple_of(BUSY_ROUNDS) {
            for id in &ids {
                self.act(*id, |r| {
                    r.workers.advance_clock(Duration::from_millis(50));
                    r.store.tick();
                    true
                });
            }
            self.network.tick();
        }
    }

    /// Goes on until `probe` answers.
    pub fn wait<T>(&mut self, what: &str, mut probe: impl FnMut(&mut World) -> Option<T>) -> T {
        for _ in 0..ROUNDS_MAX {
            if let Some(found) = probe(self) {
                return found;
            }
            self.round();
        }
        panic!("{what}: not reached\n{}", self.picture());
    }

    /// Lets a number of rounds pass, for what must not happen in them.
    pub fn pass(&mut self, rounds: usize) {
        (0..rounds).for_each(|_| self.round());
    }

    /// What every store shows, for whoever has to find out what went wrong.
    pub fn picture(&self) -> String {
        let mut lines = vec![format!("after {} steps", self.steps)];
        for (id, running) in &self.running {
            for status in running.store.store().regions() {
                let RegionStatus {
                    region,
                    peer,
                    term,
                    is_leader,
                    state,
                    ..
                } = status;
                let peers: Vec<_> = region.peers.iter().map(|p| (p.id, p.role)).collect();
                lines.push(format!(
                    "store {id} region {} {} {:?} peer {peer} of {peers:?} term {term} leads {is_leader} {state:?}",
                    region.id,
                    region.range(),
                    region.region_epoch,
                ));
            }
            lines.push(format!(
                "store {id} keeps {:?}",
                crate::check::Kept::of(running)
            ));
            let stats = running.store.store().stats();
            lines.push(format!("store {id} {stats:?}"));
        }
        lines.push(format!("{:?}", self.network.total()));
        lines.join("\n")
    }
}

/// A change that makes `peer` of `store` a voter.
pub fn voter(peer: u64, store: u64) -> ChangePeer {
    let peer = PeerId(peer);
    ChangePeer::AddVoter { peer, store }
}

/// The same for a learner.
pub fn learner(peer: u64, store: u64) -> ChangePeer {
    let peer = PeerId(peer);
    ChangePeer::AddLearner { peer, store }
}
