//! What the rules are tried on: nodes in RocksDB, nodes in memory whose writes are recorded and cut,
//! and snapshots to install.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use peerstore::memory::{MemoryData, MemoryLog, MemorySnapshots};
use peerstore::{
    CompositeStorage, Config, Error, KeyRange, Keyspace, Parts, PeerId, PeerStorage,
    RaftApplyState, RaftLocalState, RaftSnapshotData, RaftSnapshotStorage, Region,
    RegionLocalState,
};
use raft::eraftpb::{Entry, HardState, Message, MessageType, Snapshot};
use raft::{GetEntriesContext, RawNode, Ready, Storage as _};

use super::recording::{RecordingData, RecordingLog, Trace};

/// Long enough for any worker on any machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn entry(term: u64, index: u64) -> Entry {
    entry_with(term, index, format!("key{index:04}={term}").as_bytes())
}

pub fn entry_with(term: u64, index: u64, data: &[u8]) -> Entry {
    let mut entry = Entry::default();
    (entry.term, entry.index) = (term, index);
    entry.data = data.to_vec().into();
    entry
}

pub fn entries(term: u64, indexes: std::ops::Range<u64>) -> Vec<Entry> {
    indexes.map(|index| entry(term, index)).collect()
}

pub fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    let mut state = HardState::default();
    (state.term, state.vote, state.commit) = (term, vote, commit);
    state
}

/// Region 1 with the voters 1 on store 1 and 2 on store 2.
pub fn two_voters() -> Region {
    Region::with_voters(1, KeyRange::all(), [(PeerId(1), 1), (PeerId(2), 2)])
}

pub fn config(store_id: u64) -> Config {
    let mut config = Config {
        store_id,
        ..Config::default()
    };
    config.snapshot.retry_backoff_ms = 1;
    config.append_log.segment_bytes = 1 << 20;
    config.rocksdb.block_cache_bytes = 1 << 20;
    config.rocksdb.write_buffer_bytes = 1 << 20;
    config
}

/// A config whose snapshots never travel inside the message.
pub fn config_with_files(store_id: u64) -> Config {
    let mut config = config(store_id);
    config.snapshot.inline_bytes_max = 0;
    config
}

/// A node on disk: in RocksDB, where the build has it.
pub fn on_disk(dir: &Path) -> CompositeStorage {
    CompositeStorage::open(dir, config(1)).unwrap()
}

/// A node in memory whose log and data are recorded and can be cut.
pub struct Rig {
    pub log: Arc<RecordingLog>,
    pub data: Arc<RecordingData>,
    pub snapshots: Arc<dyn RaftSnapshotStorage>,
    pub trace: Arc<Trace>,
    pub config: Config,
    pub node: CompositeStorage,
}

impl Rig {
    pub fn new(config: Config) -> Rig {
        let snapshots = Arc::new(MemorySnapshots::new());
        Rig::of(config, MemoryLog::new(), MemoryData::new(), snapshots)
    }

    pub fn of(
        config: Config,
        log: MemoryLog,
        data: MemoryData,
        snapshots: Arc<dyn RaftSnapshotStorage>,
    ) -> Rig {
        let trace = Arc::new(Trace::default());
        let log = Arc::new(RecordingLog::new(log, &trace));
        let data = Arc::new(RecordingData::new(data, &trace));
        let parts = Parts {
            log: log.clone(),
            app: data.clone(),
            snapshots: Arc::clone(&snapshots),
        };
        let node = CompositeStorage::from_parts(parts, &config).unwrap();
        Rig {
            log,
            data,
            snapshots,
            trace,
            config,
            node,
        }
    }

    /// The node after a power cut (`kept` 0) or after the death of the process (`usize::MAX`).
    pub fn crash(&self, kept: usize) -> Rig {
        let (log, data) = (
            self.log.inner.crash_copy(kept),
            self.data.inner.crash_copy(kept),
        );
        Rig::of(self.config.clone(), log, data, Arc::clone(&self.snapshots))
    }

    pub fn dump(&self) -> Dump {
        dump(&self.node)
    }
}

/// Everything that log and data store hold, as text by name.
pub type Dump = BTreeMap<String, Vec<u8>>;

pub fn dump(node: &CompositeStorage) -> Dump {
    let mut all = Dump::new();
    for keyspace in Keyspace::ALL {
        let mut visit = |key: &[u8], value: &[u8]| {
            let name = format!("{} {}", keyspace.name(), key.escape_ascii());
            all.insert(name, value.to_vec());
            Ok(std::ops::ControlFlow::Continue(()))
        };
        (node.app())
            .scan(keyspace, &KeyRange::all(), &mut visit)
            .unwrap();
    }
    for region in node.log().regions().unwrap() {
        if let Some(state) = node.log().read_state(region).unwrap() {
            all.insert(format!("raft_state {region}"), state.encode_to_vec());
        }
        for index in 0..100 {
            if let Some(entry) = node.log().read_entry(region, index).unwrap() {
                let name = format!("entry {region} {index:03}");
                all.insert(name, format!("{} {:?}", entry.term, entry.data).into());
            }
        }
    }
    all
}

/// The application's data of a node.
pub fn data_of(node: &CompositeStorage) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        found.push((text(key), text(value)));
        Ok(std::ops::ControlFlow::Continue(()))
    };
    let all = KeyRange::all();
    (node.app()).scan(Keyspace::Data, &all, &mut visit).unwrap();
    found
}

/// Puts `key=value` of each entry's data.
pub fn apply(storage: &mut PeerStorage, entries: &[Entry]) -> peerstore::Result<()> {
    storage.apply(entries, |entry, batch| {
        let mut parts = entry.data.splitn(2, |b| *b == b'=');
        if let (Some(key), Some(value)) = (parts.next(), parts.next()) {
            batch.put(key, value);
        }
        Ok(())
    })
}

/// Appends and applies the entries `[first, end)` of `term`.
pub fn fill(storage: &mut PeerStorage, term: u64, indexes: std::ops::Range<u64>) {
    let entries = entries(term, indexes);
    storage.append(&entries).unwrap();
    let last = entries.last().unwrap().index;
    let vote = storage.hard_state().vote;
    storage
        .set_hard_state(&hard_state(term, vote, last))
        .unwrap();
    apply(storage, &entries).unwrap();
}

/// A leader's node with its region applied up to `index` in `term`, and its snapshot of that.
pub struct Leader {
    pub node: CompositeStorage,
    pub storage: PeerStorage,
    pub snapshot: Snapshot,
}

pub fn leader(config: Config, region: &Region, term: u64, index: u64) -> Leader {
    let rig = Rig::new(config);
    let mut storage = rig.node.create_region(region).unwrap();
    fill(&mut storage, term, 6..index + 1);
    let snapshot = storage.wait_snapshot(PATIENCE).unwrap();
    Leader {
        node: rig.node,
        storage,
        snapshot,
    }
}

impl Leader {
    /// The bytes of the snapshot's file.
    pub fn file(&self) -> Vec<u8> {
        let data = RaftSnapshotData::of_snapshot(1.into(), &self.snapshot)
            .unwrap()
            .unwrap();
        let mut bytes = Vec::new();
        (self
            .node
            .snapshots()
            .send(&data.key(&self.snapshot))
            .unwrap())
        .read_to_end(&mut bytes)
        .unwrap();
        bytes
    }

    /// Transfers the file to another node's store.
    pub fn send_to(&self, store: &dyn RaftSnapshotStorage) -> peerstore::SnapshotInfo {
        receive(store, &self.file()).unwrap()
    }
}

pub fn receive(
    store: &dyn RaftSnapshotStorage,
    file: &[u8],
) -> peerstore::Result<peerstore::SnapshotInfo> {
    let mut receiver = store.receive()?;
    std::io::Write::write_all(&mut receiver, file).map_err(|e| e.downcast::<Error>().unwrap())?;
    receiver.commit()
}

/// The text of `error` has each of `parts`.
#[track_caller]
pub fn assert_says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "\"{text}\" does not say \"{part}\"");
    }
}

pub fn put_region_state(node: &CompositeStorage, state: &RegionLocalState) {
    put_state(
        node,
        Keyspace::RegionState,
        state.region.id,
        state.encode_to_vec(),
    );
}

/// Writes the raw bytes of a region's state.
pub fn put_state(node: &CompositeStorage, keyspace: Keyspace, region: u64, bytes: Vec<u8>) {
    let mut batch = peerstore::AppBatch::default();
    batch.put(keyspace, peerstore::keys::region_key(region.into()), bytes);
    (node.app())
        .write(&batch, peerstore::Durability::Synced)
        .unwrap();
}

/// What the leader has applied, and what of it the follower still has.
pub const LEADER_INDEX: u64 = 15;
/// See [`LEADER_INDEX`].
pub const FOLLOWER_LAST: u64 = 8;

/// A follower whose log is of term 5, applied up to `FOLLOWER_LAST`, and its node.
pub fn follower(last: u64) -> (Rig, PeerStorage) {
    let rig = Rig::new(config(2));
    let mut storage = rig.node.create_region(&two_voters()).unwrap();
    fill(&mut storage, 5, 6..FOLLOWER_LAST + 1);
    if last > FOLLOWER_LAST {
        storage
            .append(&entries(5, FOLLOWER_LAST + 1..last + 1))
            .unwrap();
    }
    (rig.node.log().sync()).and(rig.node.app().sync()).unwrap();
    (rig, storage)
}

pub fn raft_of(storage: PeerStorage) -> RawNode<PeerStorage> {
    RawNode::new(&storage.raft_config(), storage, &peerstore::raft_logger()).unwrap()
}

/// The Ready of a follower that got a snapshot, and `tail` entries behind it, all committed but one.
pub fn ready_with(raft: &mut RawNode<PeerStorage>, snapshot: Snapshot, tail: u64) -> Ready {
    let index = snapshot.get_metadata().index;
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgSnapshot);
    (message.from, message.to, message.term) = (1, 2, 7);
    message.set_snapshot(snapshot);
    raft.step(message).unwrap();
    if tail > 0 {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        (message.from, message.to, message.term) = (1, 2, 7);
        (message.index, message.log_term) = (index, 6);
        message.commit = index + tail - 1;
        message.entries = entries(7, index + 1..index + 1 + tail).into();
        raft.step(message).unwrap();
    }
    let ready = raft.ready();
    assert_eq!(ready.snapshot().get_metadata().index, index);
    assert_eq!(ready.entries().len() as u64, tail);
    ready
}

/// Everything that can be read of a region.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub raft: RaftLocalState,
    pub apply: RaftApplyState,
    pub region: RegionLocalState,
    pub entries: Vec<(u64, u64)>,
    pub data: Vec<(String, String)>,
}

pub fn seen(rig: &Rig, storage: &PeerStorage) -> Seen {
    let (first, last) = (
        storage.first_index().unwrap(),
        storage.last_index().unwrap(),
    );
    let entries = storage.entries(first, last + 1, None, GetEntriesContext::empty(false));
    Seen {
        raft: storage.raft_state().clone(),
        apply: storage.apply_state().clone(),
        region: storage.region_state().clone(),
        entries: (entries.unwrap().iter())
            .map(|e| (e.term, e.index))
            .collect(),
        data: data_of(&rig.node),
    }
}
