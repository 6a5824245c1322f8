//! A node under test beside the model of its two regions.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use peerstore::{
    CompositeStorage, Config, Error, KeyRange, Keyspace, LogBatch, LogPosition, PeerId,
    PeerStorage, Result, Staged,
};
use raft::{GetEntriesContext, Storage};

use crate::commands::{At, Kept};
use crate::nodes::{Backends, Site};
use crate::region::{Kv, Log, Observed, Region};

pub struct Node {
    pub open: Option<Open>,
    pub site: Site,
    pub store: u64,
    pub regions: Vec<Region>,
}

/// The fields are dropped in their order: the regions first.
pub struct Open {
    pub storages: Vec<Option<PeerStorage>>,
    pub filling: Batch,
    pub written: VecDeque<Batch>,
    pub node: CompositeStorage,
}

/// A batch over all regions, and what is told to each once it is durable.
#[derive(Default)]
pub struct Batch {
    pub log: LogBatch,
    pub staged: Vec<StagedReady>,
}

pub struct StagedReady {
    pub at: At,
    pub token: Staged,
    pub after: Log,
    pub is_install: bool,
}

impl Open {
    pub fn storage(&mut self, at: At) -> &mut PeerStorage {
        self.storages[at].as_mut().expect("the region is open")
    }

    fn staged(&self, at: At) -> impl Iterator<Item = &StagedReady> {
        let batches = self.written.iter().chain([&self.filling]);
        batches
            .flat_map(|batch| &batch.staged)
            .filter(move |staged| staged.at == at)
    }

    /// Whether something of the region waits for its `persisted`.
    pub fn is_busy(&self, at: At) -> bool {
        self.staged(at).next().is_some()
    }

    pub fn is_installing(&self, at: At) -> bool {
        self.staged(at).any(|staged| staged.is_install)
    }
}

pub fn region_id(at: At) -> u64 {
    at as u64 + 1
}

fn key_range(at: At) -> KeyRange {
    KeyRange::new(region_id(at).to_string(), (region_id(at) + 1).to_string())
}

/// A region as it is created: with peers it begins at 5, without at 0.
pub fn new_region(at: At, peer: u64, initialized: bool) -> Region {
    let (mut log, mut kv) = (Log::default(), Kv::default());
    if initialized {
        (log.last, log.hard.term, log.hard.commit) = (5, 5, 5);
        (kv.truncated, kv.applied) = (LogPosition::new(5, 5), 5);
        kv.conf.voters = (1..=9).collect();
    }
    Region {
        id: region_id(at),
        peer,
        initialized,
        commit_min: log.hard.commit,
        visible: log.clone(),
        durable: log,
        kv: vec![kv],
    }
}

impl Node {
    pub fn new(backends: Backends, config: &Config, store: u64) -> Self {
        let mut config = config.clone();
        config.store_id = store;
        let mut site = Site::new(backends, config);
        let node = site.open(usize::MAX, usize::MAX).expect("open a new node");
        // The second node begins with a region that waits for a snapshot.
        let regions = [store == 1, true].into_iter().enumerate();
        let regions: Vec<_> = regions.map(|(at, i)| new_region(at, store, i)).collect();
        let create = |(at, region)| Some(create(&node, store, at, region).expect("create"));
        let storages = regions.iter().enumerate().map(create).collect();
        let open = Open {
            storages,
            filling: Batch::default(),
            written: VecDeque::new(),
            node,
        };
        Node {
            open: Some(open),
            site,
            store,
            regions,
        }
    }

    pub fn open(&mut self) -> &mut Open {
        self.open.as_mut().expect("the node is open")
    }

    /// Kills the node, with as much as was `kept` of what it had not synced, and opens it again. What
    /// is found must be one of `candidates`, for all regions together.
    pub fn crash(&mut self, kept: Kept, candidates: &[Vec<Region>]) {
        self.open = None;
        let share = |of: usize, share: u8| of * usize::from(share) / 255;
        let log = share(self.site.log.unsynced(), kept.log);
        let data = share(self.site.data.unsynced(), kept.data);
        let node = self.site.open(log, data).expect("open after a crash");
        let listed = node.regions().expect("regions");
        let newest = candidates.last().expect("at least one candidate");
        let mut storages = Vec::new();
        for (at, region) in newest.iter().enumerate() {
            // A region that was being destroyed is created again, whatever is left of it.
            let storage = if listed.iter().any(|state| state.region.id == region.id) {
                node.open_region(region.id)
            } else {
                create(&node, self.store, at, region)
            };
            let storage = storage.unwrap_or_else(|e| panic!("region {}: {e}", region.id));
            storages.push(Some(storage));
        }
        let mut open = Open {
            storages,
            filling: Batch::default(),
            written: VecDeque::new(),
            node,
        };
        let seen: Vec<_> = (0..newest.len()).map(|at| observe(&mut open, at)).collect();
        let found: Vec<_> = candidates
            .iter()
            .map(|regions| -> Result<Vec<Region>, String> {
                regions.iter().zip(&seen).map(|(r, s)| r.after(s)).collect()
            })
            .collect();
        let Some(regions) = found.iter().rev().find_map(|found| found.as_ref().ok()) else {
            panic!("after a crash: {found:#?}");
        };
        self.regions = regions.clone();
        self.open = Some(open);
    }
}

pub fn create(
    node: &CompositeStorage,
    store: u64,
    at: At,
    region: &Region,
) -> Result<PeerStorage, Error> {
    if !region.initialized {
        return node.create_uninitialized(region.id, region.peer);
    }
    let peer = |id: u64| (PeerId(id), if id == region.peer { store } else { 100 + id });
    let peers = (1..=9).map(peer);
    node.create_region(&peerstore::Region::with_voters(
        region.id,
        key_range(at),
        peers,
    ))
}

/// Everything of a region, read through its public face.
pub fn observe(open: &mut Open, at: At) -> Observed {
    let data = scan(&open.node, at);
    let storage = open.storage(at);
    let state = storage.initial_state().expect("initial_state");
    let (first, last) = (storage.truncated_index() + 1, storage.last_index());
    let last = last.expect("last_index");
    let context = GetEntriesContext::empty(false);
    let entries = storage.entries(first, last + 1, None, context);
    let entries = entries.expect("entries").into_iter();
    Observed {
        peer: storage.peer_id().0,
        log: Log {
            entries: entries.map(|e| (e.index, e)).collect(),
            last,
            hard: state.hard_state,
        },
        kv: Kv {
            truncated: LogPosition::new(storage.truncated_term(), storage.truncated_index()),
            applied: storage.applied_index(),
            conf: state.conf_state,
            data,
        },
    }
}

/// The data of the region.
pub fn scan(node: &CompositeStorage, at: At) -> std::collections::BTreeMap<Vec<u8>, Vec<u8>> {
    let mut data = std::collections::BTreeMap::new();
    let scanned = node
        .app()
        .scan(Keyspace::Data, &key_range(at), &mut |key, value| {
            data.insert(key.to_vec(), value.to_vec());
            Ok(ControlFlow::Continue(()))
        });
    scanned.expect("scan");
    data
}
