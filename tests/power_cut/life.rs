//! The life of a node that is cut short again and again: every kind of write, in a fixed order.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use peerstore::{
    CompositeStorage, Config, Error, KeyRange, LogBackend, LogBatch, PeerId, PeerStorage,
    RaftSnapshotData, Region, Result,
};
use raft::RawNode;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};

use crate::journal::{Journal, Node, Synced, apply_entries, observe, read};

const STORE: u64 = 1;
const ELSEWHERE: u64 = 2;

thread_local! {
    /// Where the nodes of this thread keep their logs.
    static LOG: Cell<LogBackend> = const { Cell::new(LogBackend::Rocksdb) };
}

/// Lets the nodes of this thread keep their logs there from now on.
pub fn keep_logs_in(log: LogBackend) {
    LOG.set(log);
}

/// Where they keep them.
pub fn log_backend() -> LogBackend {
    LOG.get()
}

/// The config of the node that lives.
pub fn config() -> Config {
    config_of(STORE)
}

/// Small enough for a short life to fill memtables.
fn config_of(store_id: u64) -> Config {
    let mut config = Config::default();
    (config.cluster_id, config.store_id) = (7, store_id);
    config.log = log_backend();
    (
        config.append_log.segment_bytes,
        config.append_log.spare_segments,
    ) = (16 << 10, 1);
    config.rocksdb.write_buffer_bytes = 64 << 10;
    config.rocksdb.block_cache_bytes = 1 << 20;
    config.snapshot.inline_bytes_max = 4 << 10;
    config
}

/// What another node sends for region 2: a small snapshot, and a large one with its file.
pub struct Donation {
    small: Snapshot,
    large: Snapshot,
    large_file: Vec<u8>,
}

pub fn donation() -> Donation {
    let dir = crate::mount::fast_dir();
    let donor = CompositeStorage::open(dir.path(), config_of(ELSEWHERE)).expect("a donor");
    let range = KeyRange::new("m", "t");
    let voters = [(PeerId(21), STORE), (PeerId(22), ELSEWHERE)];
    let mut storage = donor
        .create_region(&Region::with_voters(2, range, voters))
        .expect("a region");
    let mut grow = |range: std::ops::Range<u64>, bytes: usize| {
        let entries: Vec<Entry> = range.map(|i| put(8, i, "m", bytes)).collect();
        storage.append(&entries)?;
        apply_entries(&mut storage, &entries)?;
        storage.wait_snapshot(Duration::from_secs(60))
    };
    let small = grow(6..20, 16).expect("a small snapshot");
    let large = grow(20..50, 700).expect("a large snapshot");
    let data = RaftSnapshotData::of_snapshot(2.into(), &large).expect("its data");
    let key = data.expect("its data").key(&large);
    let mut large_file = Vec::new();
    let mut file = donor.snapshots().send(&key).expect("its file");
    file.read_to_end(&mut large_file).expect("its bytes");
    Donation {
        small,
        large,
        large_file,
    }
}

/// An entry that puts a value of so many bytes, which do not compress.
pub fn put(term: u64, index: u64, prefix: &str, bytes: usize) -> Entry {
    let mut entry = Entry::default();
    (entry.term, entry.index) = (term, index);
    let mut data = format!("{prefix}{:02}=", index % 20).into_bytes();
    let mut state = index.wrapping_mul(31).wrapping_add(term);
    data.extend((0..bytes).map(|_| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    }));
    entry.data = data.into();
    entry
}

enum Peer {
    Plain(Box<PeerStorage>),
    Driven(Box<RawNode<PeerStorage>>),
}

impl Peer {
    fn storage(&self) -> &PeerStorage {
        match self {
            Peer::Plain(storage) => storage,
            Peer::Driven(node) => node.store(),
        }
    }

    fn storage_mut(&mut self) -> &mut PeerStorage {
        match self {
            Peer::Plain(storage) => storage,
            Peer::Driven(node) => node.mut_store(),
        }
    }
}

/// A node that lives, and the journal of what it acknowledged.
pub struct Life<'a> {
    // Before the node: it closes with the last of them.
    peers: BTreeMap<u64, Peer>,
    node: Option<CompositeStorage>,
    dir: &'a Path,
    config: Config,
    // No two rounds write the same.
    round: usize,
    position: &'a dyn Fn() -> usize,
    pub journal: Journal,
}

impl<'a> Life<'a> {
    pub fn new(
        dir: &'a Path,
        config: Config,
        round: usize,
        position: &'a dyn Fn() -> usize,
    ) -> Life<'a> {
        Life {
            peers: BTreeMap::new(),
            node: None,
            dir,
            config,
            round,
            position,
            journal: Journal::new(),
        }
    }

    /// Lives to the end, or to the first error.
    pub fn live(&mut self, donation: &Donation) -> Result<()> {
        self.open()?;
        self.begin()?;
        self.elect()?;
        self.compact()?;
        self.receive(donation)?;
        self.reopen()?;
        self.destroy_and_return()?;
        self.overwrite_large()?;
        self.reopen()
    }

    /// The node, while it is open.
    pub fn node(&self) -> Option<&CompositeStorage> {
        self.node.as_ref()
    }

    /// What memory says of every region now.
    pub fn observe(&self) -> Result<Node> {
        let seen = |(region, peer): (&u64, &Peer)| Ok((*region, observe(peer.storage())?));
        self.peers.iter().map(seen).collect()
    }

    pub fn close(&mut self) {
        self.peers.clear();
        self.node = None;
    }

    fn put(&self, term: u64, index: u64, prefix: &str, bytes: usize) -> Entry {
        put(term, index, prefix, bytes + 13 * self.round)
    }

    fn open_node(&self) -> Result<&CompositeStorage> {
        self.node
            .as_ref()
            .ok_or(Error::WorkerGone { worker: "node" })
    }

    fn ack(&mut self, what: impl Into<String>, synced: Synced) -> Result<()> {
        let position = (self.position)();
        let node = self.observe()?;
        self.journal.ack(position, what.into(), node, synced);
        Ok(())
    }

    fn region(&mut self, region: u64) -> &mut PeerStorage {
        self.peers
            .get_mut(&region)
            .expect("a region of this life")
            .storage_mut()
    }

    fn open(&mut self) -> Result<()> {
        self.node = Some(CompositeStorage::open(self.dir, self.config.clone())?);
        self.ack("open", Synced::Both)
    }

    fn reopen(&mut self) -> Result<()> {
        self.close();
        let node = CompositeStorage::open(self.dir, self.config.clone())?;
        for state in node.regions()? {
            let region = state.region.id;
            self.peers
                .insert(region, Peer::Plain(Box::new(node.open_region(region)?)));
        }
        self.node = Some(node);
        self.ack("reopen", Synced::Both)
    }

    fn create(&mut self, region: Region) -> Result<()> {
        let storage = self.open_node()?.create_region(&region)?;
        self.peers.insert(region.id, Peer::Plain(Box::new(storage)));
        self.ack(format!("create region {}", region.id), Synced::Both)
    }

    fn append(&mut self, region: u64, entries: &[Entry]) -> Result<()> {
        self.region(region).append(entries)?;
        let (first, last) = (entries[0].index, entries[entries.len() - 1].index);
        let storage = self.peers[&region].storage();
        assert_eq!(
            (storage.last_position().index, storage.persisted_index()),
            (last, last)
        );
        self.ack(
            format!("append {first}..={last} to region {region}"),
            Synced::Log,
        )
    }

    fn hard_state(&mut self, region: u64, term: u64, vote: u64, commit: u64) -> Result<()> {
        let mut state = HardState::default();
        (state.term, state.vote, state.commit) = (term, vote, commit);
        let old = self.region(region).hard_state().clone();
        self.region(region).set_hard_state(&state)?;
        let synced = match (old.term, old.vote) == (term, vote) {
            true => Synced::Nothing,
            false => Synced::Log,
        };
        let what = format!("term {term} vote {vote} commit {commit} in region {region}");
        self.ack(what, synced)
    }

    fn apply_up_to(&mut self, region: u64, index: u64) -> Result<()> {
        let storage = self.region(region);
        let (low, peer) = (storage.applied_index() + 1, storage.peer_id().0);
        let entries = read(storage, low, index + 1)?;
        self.apply(region, peer, &entries)
    }

    fn apply(&mut self, region: u64, peer: u64, entries: &[Entry]) -> Result<()> {
        let Some(last) = entries.last() else {
            return Ok(());
        };
        let what = format!("apply up to {} in region {region}", last.index);
        self.journal.expect_applied(region, peer, entries);
        apply_entries(self.region(region), entries)?;
        self.ack(what, Synced::Nothing)
    }

    /// Two regions that only write, and one that waits for a snapshot.
    fn begin(&mut self) -> Result<()> {
        let voters = [(PeerId(11), STORE), (PeerId(12), ELSEWHERE)];
        self.create(Region::with_voters(1, KeyRange::new("a", "m"), voters))?;
        let waiting = self.open_node()?.create_uninitialized(2, 21)?;
        self.peers.insert(2, Peer::Plain(Box::new(waiting)));
        self.ack("create the waiting peer of region 2", Synced::Both)?;
        self.hard_state(2, 8, 22, 0)?;
        self.hard_state(1, 6, 11, 5)?;
        let entries: Vec<Entry> = (6..13).map(|i| self.put(6, i, "a", 100)).collect();
        self.append(1, &entries)?;
        self.hard_state(1, 6, 11, 9)?;
        self.apply_up_to(1, 9)?;
        self.hard_state(1, 7, 12, 9)?;
        // Shorter than what it replaces, then longer.
        self.append(1, &[self.put(7, 11, "b", 40)])?;
        let entries: Vec<Entry> = (11..15).map(|i| self.put(7, i, "b", 300)).collect();
        self.append(1, &entries)?;
        self.hard_state(1, 7, 12, 13)?;
        self.apply_up_to(1, 12)?;
        self.reconfigure(1, 13)
    }

    /// Applies one entry together with a new configuration.
    fn reconfigure(&mut self, region: u64, index: u64) -> Result<()> {
        let storage = self.region(region);
        let mut conf_state = storage.conf_state().clone();
        conf_state.learners.push(90 + index);
        let entries = read(storage, index, index + 1)?;
        let peer = storage.peer_id().0;
        self.journal.expect_applied(region, peer, &entries);
        self.region(region).apply(&entries, |entry, batch| {
            if let Some((key, Some(value))) = crate::journal::effect(entry) {
                batch.put(key, value);
            }
            batch.set_conf_state(conf_state.clone());
            Ok(())
        })?;
        self.ack(
            format!("a learner by entry {index} in region {region}"),
            Synced::Data,
        )
    }

    fn set_conf_state(&mut self, region: u64, conf_state: &ConfState) -> Result<()> {
        self.region(region).set_conf_state(conf_state)?;
        self.ack(
            format!("set the configuration of region {region}"),
            Synced::Data,
        )
    }

    /// A region that raft drives: elections, proposals, Readies.
    fn elect(&mut self) -> Result<()> {
        let own = [(PeerId(31), STORE)];
        self.create(Region::with_voters(3, KeyRange::new("t", ""), own))?;
        let Some(Peer::Plain(storage)) = self.peers.remove(&3) else {
            unreachable!("it was just created");
        };
        let config = storage.raft_config();
        let raft = RawNode::new(&config, *storage, &peerstore::raft_logger()).expect("a raft node");
        self.peers.insert(3, Peer::Driven(Box::new(raft)));
        self.raft().campaign().expect("a campaign");
        self.drive()?;
        for i in 0..3 {
            let entry = self.put(0, i, "t", 500);
            self.raft()
                .propose(Vec::new(), entry.data.to_vec())
                .expect("a leader");
            self.drive()?;
        }
        Ok(())
    }

    fn raft(&mut self) -> &mut RawNode<PeerStorage> {
        match self.peers.get_mut(&3) {
            Some(Peer::Driven(raft)) => raft,
            _ => unreachable!("region 3 is driven"),
        }
    }

    fn drive(&mut self) -> Result<()> {
        while self.raft().has_ready() {
            let raft = self.raft();
            let mut ready = raft.ready();
            let synced = match ready.must_sync() {
                true => Synced::Log,
                false => Synced::Nothing,
            };
            if ready.number().is_multiple_of(2) {
                raft.mut_store().persist(&mut ready)?;
            } else {
                let mut batch = LogBatch::default();
                let staged = raft.mut_store().stage(&mut ready, &mut batch)?;
                self.open_node()?.write_log(&batch)?;
                self.region(3).persisted(staged)?;
            }
            self.ack("persist a Ready of region 3", synced)?;
            let committed = ready.take_committed_entries();
            self.apply(3, 31, &committed)?;
            let mut light = self.raft().advance(ready);
            if let Some(commit) = light.commit_index() {
                let (term, vote) = (self.raft().raft.term, self.raft().raft.vote);
                self.hard_state(3, term, vote, commit)?;
            }
            self.apply(3, 31, &light.take_committed_entries())?;
            self.raft().advance_apply();
        }
        Ok(())
    }

    /// A snapshot of its own, a log that is cut at its front, and entries behind it.
    fn compact(&mut self) -> Result<()> {
        self.region(1).wait_snapshot(Duration::from_secs(60))?;
        self.ack("build a snapshot of region 1", Synced::Nothing)?;
        self.region(1).compact(11)?;
        self.ack("compact region 1 to 11", Synced::Data)?;
        self.append(1, &[self.put(7, 15, "c", 2000), self.put(7, 16, "c", 2000)])?;
        self.hard_state(1, 7, 12, 16)?;
        self.apply_up_to(1, 16)?;
        self.region(1).compact(16)?;
        self.ack("compact region 1 to 16", Synced::Data)?;
        self.append(1, &[self.put(7, 17, "c", 20)])?;
        let mut conf_state = self.region(1).conf_state().clone();
        conf_state.learners.clear();
        self.set_conf_state(1, &conf_state)
    }

    /// Snapshots from elsewhere: over nothing, and over a log and data.
    fn receive(&mut self, donation: &Donation) -> Result<()> {
        self.install(donation.small.clone())?;
        let entries: Vec<Entry> = (20..24).map(|i| self.put(8, i, "n", 200)).collect();
        self.append(2, &entries)?;
        self.hard_state(2, 8, 22, 22)?;
        self.apply_up_to(2, 22)?;
        let mut receiver = self.open_node()?.snapshots().receive()?;
        receiver
            .write_all(&donation.large_file)
            .map_err(unwrapped)?;
        receiver.commit()?;
        self.ack("receive a snapshot file", Synced::Nothing)?;
        self.install(donation.large.clone())?;
        self.append(2, &[self.put(9, 50, "o", 60), self.put(9, 51, "o", 60)])?;
        self.hard_state(2, 9, 21, 51)?;
        self.apply_up_to(2, 51)
    }

    fn install(&mut self, snapshot: Snapshot) -> Result<()> {
        let index = snapshot.get_metadata().index;
        self.region(2).install_snapshot(snapshot)?;
        let storage = self.peers[&2].storage();
        assert_eq!(
            (storage.applied_index(), storage.truncated_index()),
            (index, index)
        );
        self.ack(
            format!("install a snapshot at {index} in region 2"),
            Synced::Both,
        )
    }

    /// The end of a peer, and another one in its place.
    fn destroy_and_return(&mut self) -> Result<()> {
        let Some(Peer::Plain(storage)) = self.peers.remove(&3) else {
            unreachable!("it was just opened");
        };
        storage.destroy()?;
        self.ack("destroy region 3", Synced::Both)?;
        let own = [(PeerId(33), STORE)];
        self.create(Region::with_voters(3, KeyRange::new("t", ""), own))?;
        self.append(3, &[self.put(5, 6, "u", 80)])
    }

    /// Enough to fill a memtable of the log and of the data.
    fn overwrite_large(&mut self) -> Result<()> {
        for round in 0..4 {
            let first = 17 + 5 * round;
            let entries: Vec<Entry> = (first..first + 6)
                .map(|i| self.put(10, i, "d", 5000))
                .collect();
            self.hard_state(1, 10 + round, 11, 16)?;
            self.append(1, &entries)?;
        }
        self.hard_state(1, 13, 11, 37)?;
        self.apply_up_to(1, 30)?;
        self.apply_up_to(1, 37)?;
        self.region(1).compact(35)?;
        self.ack("compact region 1 to 35", Synced::Data)?;
        self.append(1, &[self.put(13, 38, "e", 10)])
    }
}

/// The error of ours that a stream carries.
fn unwrapped(error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(source) => Error::Io {
            op: "receive",
            path: "a snapshot".into(),
            source,
        },
    }
}
