//! One store of the demonstration, and how it answers its clients. Uses: protocol.

use std::net::Ipv4Addr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use peerstore::memory::MemoryNetwork;
use peerstore::tcp::{TcpOptions, TcpTransport};
use peerstore::{
    AppBatch, ApplicationDataStorage, ChangePeer, CompositeStorage, Config, Durability, Error,
    GcPolicy, KeyRange, Keyspace, KvStateMachine, LogBackend, PeerId, PeerRole, Placement,
    RaftApplyState, RaftLogStorage, Region, RegionEpoch, RegionId, RegionStage, StateMachine,
    StaticPlacement, Store, StoreOptions, Ticket, Transport, keys,
};

use super::Outcome;
use super::protocol::{
    Answer, Ask, Change, Damage, Digest, Failure, Figures, KeyDigest, Keys, Known, Propose, Range,
    Reason, Regions, Value,
};

const CLUSTER_ID: u64 = 7;
/// A client that hears nothing asks again.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// So many keys are listed at once.
const KEYS_MAX: usize = 4096;

/// What a scan calls for each key and value.
type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// What a store has to know when it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub store: u64,
    pub dir: PathBuf,
    pub log: LogBackend,
    /// A region that grows beyond this is split.
    pub region_bytes_max: u64,
}

/// A store that runs.
pub struct Node {
    store: Store,
    placement: Arc<StaticPlacement>,
    log: Arc<dyn RaftLogStorage>,
    app: Arc<dyn ApplicationDataStorage>,
    /// Where the other stores find it; empty without TCP.
    pub raft_address: String,
    started: Instant,
}

impl Node {
    /// Opens the store, or creates it. Its messages go over TCP, or over `network` if one is given.
    pub fn open(settings: &Settings, network: Option<&MemoryNetwork>) -> Outcome<Node> {
        let half = settings.region_bytes_max / 2;
        let config = Config {
            cluster_id: CLUSTER_ID,
            store_id: settings.store,
            log: settings.log,
            // So short that a store which was away for a while gets snapshots.
            gc: GcPolicy {
                bytes_max: half.max(64 << 10),
                entries_trailing: 16,
                ..GcPolicy::default()
            },
            ..Config::default()
        };
        let node = CompositeStorage::open(&settings.dir, config)?;
        let (log, app) = (Arc::clone(node.log()), Arc::clone(node.app()));
        let placement = StaticPlacement::open(Arc::clone(&app), settings.store, [].into())?;
        let placement = Arc::new(placement);
        let mut raft_address = String::new();
        let transport: Arc<dyn Transport> = match network {
            Some(network) => network.transport(settings.store),
            None => {
                let options = TcpOptions {
                    backoff_max: Duration::from_millis(500),
                    ..TcpOptions::new(
                        format!("{}:0", Ipv4Addr::LOCALHOST),
                        CLUSTER_ID,
                        settings.store,
                    )
                };
                let transport = TcpTransport::bind(options, placement.clone())?;
                raft_address = transport.local_address().to_string();
                transport
            }
        };
        let options = StoreOptions {
            tick: Duration::from_millis(50),
            region_bytes_max: settings.region_bytes_max,
            placement: Some(placement.clone()),
            seed: settings.store,
            ..StoreOptions::default()
        };
        let machine = |_: &Region| -> Box<dyn StateMachine> { Box::new(KvStateMachine) };
        Ok(Node {
            store: Store::start(node, machine, transport, options)?,
            placement,
            log,
            app,
            raft_address,
            started: Instant::now(),
        })
    }

    pub fn stop(&self) {
        self.store.stop();
    }

    /// Answers, soon.
    pub fn answer(&self, ask: Ask) -> Answer {
        match self.try_answer(ask) {
            Ok(answer) => answer,
            Err(error) => Answer::Failure(failure(&error)),
        }
    }

    fn try_answer(&self, ask: Ask) -> peerstore::Result<Answer> {
        let done = |ticket: Ticket<Region>| ticket.wait(ANSWER_TIME).map(|_| Answer::Done(()));
        match ask {
            Ask::Propose(Propose {
                region,
                version,
                command,
            }) => {
                // The members may have changed, the range may not.
                let conf_ver = 0;
                let epoch = RegionEpoch { conf_ver, version };
                let ticket = self.store.propose_at(region, epoch, command);
                ticket.wait(ANSWER_TIME).map(Answer::Reply)
            }
            Ask::Regions(()) => self.regions(),
            Ask::Create(region) => self.store.create_region(&region).map(|_| Answer::Done(())),
            Ask::Address(at) => {
                self.placement.set_address(at.store, at.address);
                Ok(Answer::Done(()))
            }
            Ask::Split(split) => done(self.store.split(split.region, split.key)),
            Ask::Change(change) => {
                let changes = self.changes(&change)?;
                done(self.store.change_peers(change.region, changes))
            }
            Ask::Merge(pair) => done(self.store.merge(pair.region, pair.other)),
            Ask::Transfer(pair) => done(self.store.transfer_leader(pair.region, pair.other)),
            Ask::Digest(range) => self.digest(&range),
            Ask::Keys(range) => self.keys(&range),
            Ask::Value(key) => {
                let value = self.app.get(Keyspace::Data, &key)?;
                Ok(Answer::Value(Value { value }))
            }
            Ask::Damage(damage) => self.damage(&damage),
            Ask::Figures(()) => Ok(Answer::Figures(self.figures())),
        }
    }

    fn changes(&self, change: &Change) -> peerstore::Result<Vec<ChangePeer>> {
        let mut changes = Vec::new();
        if let Some(comer) = &change.comes {
            let id = match comer.id {
                0 => self.placement.allocate_ids(1)?.first().copied(),
                id => Some(id),
            };
            let (peer, store) = (PeerId(id.unwrap_or_default()), comer.store_id);
            changes.push(match comer.role() {
                PeerRole::Learner => ChangePeer::AddLearner { peer, store },
                _ => ChangePeer::AddVoter { peer, store },
            });
        }
        if change.goes != 0 {
            changes.push(ChangePeer::Remove(PeerId(change.goes)));
        }
        Ok(changes)
    }

    fn regions(&self) -> peerstore::Result<Answer> {
        let mut regions = Vec::new();
        for status in self.store.regions() {
            let id = status.region.region_id();
            regions.push(Known {
                leader: status.leader,
                term: status.term,
                is_leader: status.is_leader,
                stage: match status.state {
                    RegionStage::Stopped(error) => format!("stopped: {error}"),
                    stage => format!("{stage:?}"),
                },
                applied: self.applied(id)?,
                region: status.region,
            });
        }
        Ok(Answer::Regions(Regions { regions }))
    }

    fn applied(&self, region: RegionId) -> peerstore::Result<u64> {
        let bytes = (self.app).get(Keyspace::ApplyState, &keys::region_key(region))?;
        let state = bytes.map(|bytes| RaftApplyState::decode_of(region, &bytes));
        Ok(state.transpose()?.map_or(0, |state| state.applied_index))
    }

    fn digest(&self, range: &Range) -> peerstore::Result<Answer> {
        let (mut hasher, mut keys) = (blake3::Hasher::new(), 0);
        self.scan(range, &mut |key, value| {
            keys += 1;
            hash_pair(&mut hasher, key, value);
            ControlFlow::Continue(())
        })?;
        let hash = hasher.finalize().as_bytes().to_vec();
        Ok(Answer::Digest(Digest { keys, hash }))
    }

    fn keys(&self, range: &Range) -> peerstore::Result<Answer> {
        let (mut keys, mut more) = (Vec::new(), false);
        self.scan(range, &mut |key, value| {
            more = keys.len() == KEYS_MAX;
            if more {
                return ControlFlow::Break(());
            }
            keys.push(KeyDigest {
                key: key.to_vec(),
                hash: blake3::hash(value).as_bytes().to_vec(),
            });
            ControlFlow::Continue(())
        })?;
        Ok(Answer::Keys(Keys { keys, more }))
    }

    /// What this store has, whoever leads.
    fn scan(&self, range: &Range, visit: &mut Visit<'_>) -> peerstore::Result<()> {
        let range = KeyRange::new(&range.start[..], &range.end[..]);
        (self.app).scan(Keyspace::Data, &range, &mut |key, value| {
            Ok(visit(key, value))
        })
    }

    fn damage(&self, damage: &Damage) -> peerstore::Result<Answer> {
        let value = self.app.get(Keyspace::Data, &damage.changed)?;
        let mut value = value.unwrap_or_default();
        match value.last_mut() {
            Some(byte) => *byte ^= 1,
            None => value.push(0),
        }
        let mut batch = AppBatch::default();
        batch.put(Keyspace::Data, &damage.changed, &value);
        batch.put(Keyspace::Data, &damage.added, "");
        batch.delete(Keyspace::Data, &damage.removed);
        self.app.write(&batch, Durability::Buffered)?;
        Ok(Answer::Done(()))
    }

    fn figures(&self) -> Figures {
        let (log, store) = (self.log.stats(), self.store.stats());
        Figures {
            log_entries: log.entries,
            log_bytes: log.bytes,
            log_syncs: log.syncs,
            data_syncs: self.app.stats().syncs,
            messages_out: store.messages_out,
            snapshots_sent: store.snapshots_sent,
            snapshots_installed: store.snapshots_installed,
            milliseconds: self.started.elapsed().as_millis() as u64,
        }
    }
}

/// Adds a key and its value to the digest of a range.
pub fn hash_pair(hasher: &mut blake3::Hasher, key: &[u8], value: &[u8]) {
    for part in [key, value] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
}

fn failure(error: &Error) -> Failure {
    let (reason, leader) = match error {
        Error::NotLeader { leader, .. } => (Reason::NotLeader, *leader),
        Error::StaleEpoch { .. } | Error::RegionNotFound { .. } => (Reason::Stale, None),
        Error::Timeout { .. }
        | Error::ProposalDropped { .. }
        | Error::Uncertain { .. }
        | Error::Busy { .. } => (Reason::Again, None),
        _ => (Reason::Refused, None),
    };
    Failure {
        reason: reason as i32,
        text: error.to_string(),
        leader,
    }
}
