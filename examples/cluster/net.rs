//! The three stores and what is between them: messages, snapshot files, time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use peerstore::{KeyRange, PeerId, Region};
use raft::SnapshotStatus;
use raft::eraftpb::{Message, MessageType};

use super::Outcome;
use super::lane::Leadership;
use super::peer::{Outbox, Peer};
use super::store::{Figures, Store};

pub const STORES: u64 = 3;
const TICK: Duration = Duration::from_millis(30);
/// How long the driver sleeps at most when there is nothing to do: the workers that read cold entries
/// and build snapshots do not wake it.
const NAP: Duration = Duration::from_millis(1);

pub struct Cluster {
    dir: PathBuf,
    pub regions: Vec<Region>,
    /// The stores that are up. Peers have the ids of their stores.
    pub stores: BTreeMap<u64, Store>,
    // What stores had done before they were stopped.
    before: BTreeMap<u64, Figures>,
    out: Outbox,
    next_tick: Instant,
}

impl Cluster {
    /// Creates the stores in `dir`, with a region from each of `starts` to the next.
    pub fn create(dir: PathBuf, starts: &[Vec<u8>]) -> Outcome<Cluster> {
        let ends = starts[1..].iter().cloned().chain([Vec::new()]);
        let ranges = starts.iter().zip(ends);
        let voters = (1..=STORES).map(|id| (PeerId(id), id));
        let regions = ranges.zip(1..).map(|((start, end), id): (_, u64)| {
            let range = KeyRange::new(start.clone(), end);
            Region::with_voters(id, range, voters.clone())
        });
        let mut cluster = Cluster {
            dir,
            regions: regions.collect(),
            stores: BTreeMap::new(),
            before: BTreeMap::new(),
            out: Outbox::default(),
            next_tick: Instant::now() + TICK,
        };
        for id in 1..=STORES {
            cluster.start(id)?;
        }
        for region in 1..=cluster.regions.len() as u64 {
            // Spread, instead of waiting until somebody's patience ends.
            if let Some(peer) = cluster.peer(region % STORES + 1, region) {
                peer.raft.campaign()?;
            }
        }
        Ok(cluster)
    }

    pub fn start(&mut self, id: u64) -> Outcome<()> {
        let dir = self.dir.join(format!("store-{id}"));
        self.stores
            .insert(id, Store::open(&dir, id, &self.regions)?);
        Ok(())
    }

    /// Stops a store without a word to anybody: what is under way is dropped. Returns where its logs
    /// ended, by region.
    pub fn stop(&mut self, id: u64) -> BTreeMap<u64, u64> {
        let Some(store) = self.stores.remove(&id) else {
            return BTreeMap::new();
        };
        store.add_to(self.before.entry(id).or_default());
        let last_index = |peer: &Peer| peer.raft.store().last_position().index;
        let peers = store.peers.iter();
        peers
            .map(|(region, peer)| (*region, last_index(peer)))
            .collect()
    }

    pub fn figures(&self, id: u64) -> Figures {
        let mut figures = self.before.get(&id).copied().unwrap_or_default();
        if let Some(store) = self.stores.get(&id) {
            store.add_to(&mut figures);
        }
        figures
    }

    fn peer(&mut self, store: u64, region: u64) -> Option<&mut Peer> {
        self.stores.get_mut(&store)?.peers.get_mut(&region)
    }

    /// The living leader of `region`: of two, the one with the higher term.
    pub fn leader(&mut self, region: u64) -> Option<(Leadership, &mut Peer)> {
        let stores = self.stores.iter_mut();
        let peers = stores.filter_map(|(id, store)| Some((*id, store.peers.get_mut(&region)?)));
        let leaders = peers.filter(|(_, peer)| peer.is_leader());
        leaders
            .map(|(id, peer)| ((id, peer.raft.raft.term), peer))
            .max_by_key(|((_, term), _)| *term)
    }

    /// One turn of everybody. Returns what was applied; sleeps if there was nothing to do.
    pub fn turn(&mut self) -> Outcome<Vec<u64>> {
        let mut happened = false;
        if Instant::now() >= self.next_tick {
            self.next_tick = Instant::now() + TICK;
            self.tick()?;
            happened = true;
        }
        for store in self.stores.values_mut() {
            happened |= store.step(&mut self.out)?;
        }
        for (region, message) in std::mem::take(&mut self.out.messages) {
            self.deliver(region, message)?;
            happened = true;
        }
        if !happened {
            std::thread::park_timeout(NAP);
        }
        Ok(std::mem::take(&mut self.out.applied))
    }

    fn tick(&mut self) -> Outcome<()> {
        for peer in self.stores.values_mut().flat_map(|s| s.peers.values_mut()) {
            peer.tick();
        }
        let up: Vec<u64> = self.stores.keys().copied().collect();
        for region in 1..=self.regions.len() as u64 {
            let Some((_, leader)) = self.leader(region) else {
                continue;
            };
            // Followers that are down are not waited for: they will get a snapshot.
            let progress = leader.raft.raft.prs().iter();
            let slowest = progress
                .filter(|(id, _)| up.contains(id))
                .map(|(_, p)| p.matched);
            let slowest = slowest.min();
            leader.compact_by_policy(slowest)?;
        }
        Ok(())
    }

    /// Has every region compact what is applied. The caller sees to it that nobody who is up needs it.
    pub fn compact_applied(&mut self) -> Outcome<()> {
        for region in 1..=self.regions.len() as u64 {
            if let Some((_, leader)) = self.leader(region) {
                let first_index = leader.raft.store().applied_index() + 1;
                leader.propose_compaction(first_index)?;
            }
        }
        Ok(())
    }

    fn deliver(&mut self, region: u64, message: Message) -> Outcome<()> {
        let (from, to) = (message.from, message.to);
        let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
        let arrived = match (self.stores.get(&from), self.stores.get(&to)) {
            (Some(sender), Some(receiver)) if is_snapshot => {
                let snapshot = message.get_snapshot();
                // If it is of no more use by now, the sender makes another.
                receiver.receive_snapshot(sender, snapshot, region).ok()
            }
            (Some(_), Some(_)) => Some(0),
            _ => None,
        };
        if let (Some(bytes), Some(peer)) = (arrived, self.peer(to, region)) {
            peer.snapshots.bytes += bytes;
            match peer.raft.step(message) {
                Ok(()) | Err(raft::Error::StepPeerNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let Some(sender) = self.peer(from, region) else {
            return Ok(());
        };
        if is_snapshot {
            let status = match arrived {
                Some(_) => SnapshotStatus::Finish,
                None => SnapshotStatus::Failure,
            };
            sender.raft.report_snapshot(to, status);
        } else if arrived.is_none() {
            sender.raft.report_unreachable(to);
        }
        Ok(())
    }

    /// Whether every replica has applied everything that its leader's log holds.
    pub fn is_settled(&mut self) -> bool {
        (1..=self.regions.len() as u64).all(|region| {
            let Some((_, leader)) = self.leader(region) else {
                return false;
            };
            let last = leader.raft.store().last_position().index;
            let mut peers = self.stores.values().filter_map(|s| s.peers.get(&region));
            peers.all(|peer| peer.has_applied(last))
        })
    }

    /// The sum of all applied indexes: grows as long as anything moves.
    pub fn applied(&self) -> u64 {
        let peers = self.stores.values().flat_map(|s| s.peers.values());
        peers.map(|peer| peer.raft.store().applied_index()).sum()
    }

    /// How far every replica is, for a message about a cluster that stands still.
    pub fn describe(&self) -> String {
        let peers = self.stores.values().flat_map(|s| s.peers.values());
        let lines = peers.map(|peer| {
            let raft = &peer.raft.raft;
            format!(
                "\n  {:?} term {} {:?}",
                raft.state,
                raft.term,
                peer.raft.store()
            )
        });
        lines.collect()
    }
}
