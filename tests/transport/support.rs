//! Stores without regions: a transport, an inbox that remembers, snapshots; and a client by hand.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use peerstore::memory::{MemFs, MemoryData};
use peerstore::snapshot_dir::{Compression, SnapshotDir, SnapshotOptions};
use peerstore::tcp::{Reason, TcpOptions, TcpStats, TcpTransport};
use peerstore::{
    Error, Inbox, LogPosition, Peer, PeerBody, PeerId, PeerMessage, RaftSnapshotData,
    RaftSnapshotStorage, Region, RegionEpoch, RegionId, Result, SnapshotInfo, SnapshotKey,
    SnapshotMeta, StaticPlacement, StoreMessage, Transport,
};
use prost::Message as _;
use raft::eraftpb::{Entry, Message, MessageType, Snapshot};

pub const CLUSTER: u64 = 7;
/// A generous time for what happens at once.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What has come to an inbox.
#[derive(Default)]
pub struct Seen {
    pub messages: Vec<(u64, StoreMessage)>,
    pub unreachable: Vec<(RegionId, PeerId)>,
    pub snapshots_sent: Vec<(RegionId, PeerId, bool)>,
    pub asked: usize,
}

/// An inbox that remembers, and refuses snapshots of the regions it is told to.
#[derive(Default)]
pub struct Memory {
    seen: Mutex<Seen>,
    changed: Condvar,
    pub unwanted: Mutex<Vec<RegionId>>,
    /// While it is held, whoever asks about a snapshot waits.
    pub asking: Mutex<()>,
}

impl Memory {
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// Waits until `what` is so.
    #[track_caller]
    pub fn wait(&self, what: impl Fn(&Seen) -> bool) {
        drop(self.when(what));
    }

    /// What has come, once `what` is so.
    #[track_caller]
    pub fn when(&self, what: impl Fn(&Seen) -> bool) -> MutexGuard<'_, Seen> {
        let waited = self
            .changed
            .wait_timeout_while(self.seen(), PATIENCE, |seen| !what(seen));
        let (seen, timeout) = waited.unwrap();
        assert!(
            !timeout.timed_out(),
            "in vain; {} messages, unreachable {:?}, snapshots {:?}",
            seen.messages.len(),
            seen.unreachable,
            seen.snapshots_sent
        );
        seen
    }

    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen());
        self.changed.notify_all();
    }
}

impl Inbox for Memory {
    fn message(&self, from: u64, message: StoreMessage) {
        self.note(|seen| seen.messages.push((from, message)));
    }

    fn unreachable(&self, region: RegionId, peer: PeerId) {
        self.note(|seen| seen.unreachable.push((region, peer)));
    }

    fn snapshot_sent(&self, region: RegionId, peer: PeerId, arrived: bool) {
        self.note(|seen| seen.snapshots_sent.push((region, peer, arrived)));
    }

    fn accepts_snapshot(&self, _from: u64, message: &PeerMessage) -> Result<()> {
        self.note(|seen| seen.asked += 1);
        drop(self.asking.lock().unwrap());
        let region = message.region;
        if self.unwanted.lock().unwrap().contains(&region) {
            let reason = "no peer here waits for one".into();
            return Err(Error::SnapshotRefused { region, reason });
        }
        Ok(())
    }
}

/// A store of the cluster.
pub struct Store {
    pub id: u64,
    pub transport: Arc<TcpTransport>,
    pub inbox: Arc<Memory>,
    pub placement: Arc<StaticPlacement>,
    pub snapshots: Arc<SnapshotDir>,
    pub fs: MemFs,
}

/// Options that give up and come back fast.
pub fn options(id: u64) -> TcpOptions {
    TcpOptions {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(20),
        ..TcpOptions::new("127.0.0.1:0", CLUSTER, id)
    }
}

pub fn snapshot_dir(fs: &MemFs) -> SnapshotDir {
    let options = SnapshotOptions {
        compression: Compression::None,
        ..SnapshotOptions::default()
    };
    SnapshotDir::open(Arc::new(fs.clone()), "snapshots", options).unwrap()
}

impl Store {
    pub fn new(id: u64) -> Store {
        Store::with(options(id))
    }

    pub fn with(options: TcpOptions) -> Store {
        let id = options.store_id;
        let app = Arc::new(MemoryData::new());
        let placement = Arc::new(StaticPlacement::open(app, id, BTreeMap::new()).unwrap());
        let transport = TcpTransport::bind(options, placement.clone()).unwrap();
        let inbox = Arc::new(Memory::default());
        let fs = MemFs::new();
        let snapshots = Arc::new(snapshot_dir(&fs));
        transport.start(inbox.clone(), snapshots.clone()).unwrap();
        Store {
            id,
            transport,
            inbox,
            placement,
            snapshots,
            fs,
        }
    }

    pub fn knows(&self, other: &Store) {
        self.knows_address(other.id, &other.transport.local_address().to_string());
    }

    pub fn knows_address(&self, id: u64, address: &str) {
        self.placement.set_address(id, address);
    }

    pub fn send(&self, to: u64, message: PeerMessage) {
        self.transport
            .send(to, StoreMessage::Peer(Box::new(message)));
    }

    /// Waits until the numbers of the transport are so.
    #[track_caller]
    pub fn wait_stats(&self, what: impl Fn(&TcpStats) -> bool) -> TcpStats {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stats = self.transport.stats();
            if what(&stats) {
                return stats;
            }
            assert!(Instant::now() < deadline, "in vain: {stats:?}");
            std::thread::yield_now();
        }
    }

    #[track_caller]
    pub fn wait_refused(&self, reason: Reason, count: u64) {
        self.wait_stats(|stats| stats.refused.get(&reason) == Some(&count));
    }

    #[track_caller]
    pub fn wait_ended(&self, reason: Reason) {
        self.wait_stats(|stats| stats.ended.contains_key(&reason));
    }

    /// The names of what is in the directory of the snapshots.
    pub fn snapshot_names(&self) -> Vec<String> {
        use peerstore::FileSystem as _;
        let names = self.fs.list("snapshots".as_ref()).unwrap();
        let names = names.iter().map(|name| name.to_str().unwrap().to_string());
        names.filter(|name| name != "LOCK").collect()
    }
}

/// Two stores that know each other.
pub fn pair() -> (Store, Store) {
    let (one, two) = (Store::new(1), Store::new(2));
    one.knows(&two);
    two.knows(&one);
    (one, two)
}

pub fn peer_on(store: u64) -> Peer {
    Peer {
        id: 10 + store,
        store_id: store,
        role: 0,
    }
}

/// An append of one entry whose index is `number`.
pub fn numbered(region: u64, from: u64, to: u64, number: u64, bytes: usize) -> PeerMessage {
    let mut entry = Entry::default();
    (entry.term, entry.index) = (1, number);
    entry.data = vec![number as u8; bytes].into();
    let mut raft = Message::default();
    raft.set_msg_type(MessageType::MsgAppend);
    raft.set_entries(vec![entry].into());
    message(region, from, to, PeerBody::Raft(raft))
}

pub fn message(region: u64, from: u64, to: u64, body: PeerBody) -> PeerMessage {
    PeerMessage {
        region: RegionId(region),
        from: peer_on(from),
        to: peer_on(to),
        epoch: RegionEpoch::default(),
        range: None,
        body,
    }
}

/// The number of a [`numbered`] message.
pub fn number_of(message: &StoreMessage) -> u64 {
    match message {
        StoreMessage::Peer(peer) => match &peer.body {
            PeerBody::Raft(raft) => raft.entries[0].index,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// A snapshot of `region` with `bytes` of content, written to `store`.
pub fn write_snapshot(store: &dyn RaftSnapshotStorage, region: u64, bytes: usize) -> SnapshotInfo {
    let region = Region::single(region, 1);
    let meta = SnapshotMeta {
        position: LogPosition::new(6, 42),
        conf_state: region.conf_state(),
        region,
    };
    let mut writer = store.create(meta).unwrap();
    let content: Vec<u8> = (0..bytes).map(|at| ((at * at) >> 7) as u8).collect();
    writer.write_all(&content).unwrap();
    writer.commit().unwrap()
}

/// The message of a snapshot whose file is, or travels inside as, `inline`.
pub fn snapshot_message(info: &SnapshotInfo, from: u64, to: u64, inline: Vec<u8>) -> PeerMessage {
    let mut snapshot = Snapshot::default();
    snapshot.data = RaftSnapshotData::of(info, inline).encode_to_vec().into();
    let meta = snapshot.mut_metadata();
    (meta.index, meta.term) = (info.key.id.index, info.key.id.term);
    meta.set_conf_state(info.meta.conf_state.clone());
    let mut raft = Message::default();
    raft.set_msg_type(MessageType::MsgSnapshot);
    raft.set_snapshot(snapshot);
    message(info.key.region.0, from, to, PeerBody::Raft(raft))
}

pub fn file_of(store: &dyn RaftSnapshotStorage, key: &SnapshotKey) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.send(key).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

pub fn framed(payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_le_bytes().to_vec();
    frame.extend(crc32c::crc32c(payload).to_le_bytes());
    frame.extend(payload);
    frame
}

/// A frame with messages.
pub fn messages_frame(messages: &[PeerMessage]) -> Vec<u8> {
    let mut payload = vec![1];
    for message in messages {
        let mut bytes = Vec::new();
        StoreMessage::Peer(Box::new(message.clone()))
            .encode(&mut bytes)
            .unwrap();
        payload.extend((bytes.len() as u32).to_le_bytes());
        payload.extend(bytes);
    }
    framed(&payload)
}

pub const MESSAGES: u8 = 1;
pub const SNAPSHOT: u8 = 2;

/// What a stranger says: version, purpose, cluster, from, to.
pub fn hello(version: u32, purpose: u8, ids: [u64; 3]) -> Vec<u8> {
    let mut payload = b"peerwire".to_vec();
    payload.extend(version.to_le_bytes());
    payload.push(purpose);
    for id in ids {
        payload.extend(id.to_le_bytes());
    }
    framed(&payload)
}

/// A client that speaks by hand.
pub struct Client(pub TcpStream);

impl Client {
    pub fn connect(store: &Store) -> Client {
        let tcp = TcpStream::connect(store.transport.local_address()).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_write_timeout(Some(PATIENCE)).unwrap();
        Client(tcp)
    }

    /// Connects as store `from`, and is welcomed.
    pub fn welcomed(store: &Store, from: u64, purpose: u8) -> Client {
        let mut client = Client::connect(store);
        client.write(&hello(1, purpose, [CLUSTER, from, store.id]));
        let answer = client.read_frame().unwrap();
        assert_eq!(answer[36], 0, "{answer:?}");
        client
    }

    /// Writes; the other side may have closed already.
    pub fn write(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    pub fn finish_writing(&self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }

    /// The payload of the next frame; nothing if the connection was closed.
    pub fn read_frame(&mut self) -> Option<Vec<u8>> {
        let mut head = [0; 8];
        self.0.read_exact(&mut head).ok()?;
        let length = u32::from_le_bytes(head[..4].try_into().unwrap());
        assert!(length <= 1 << 20, "{head:?}");
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).ok()?;
        assert_eq!(head[4..], crc32c::crc32c(&payload).to_le_bytes());
        Some(payload)
    }

    /// Whether the other side has closed, or closes now.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// The reason and the text of a refused handshake.
pub fn refusal(answer: &[u8]) -> (u8, String) {
    assert_eq!(&answer[..12], b"peerwire\x01\0\0\0");
    (
        answer[36],
        String::from_utf8(answer[37..].to_vec()).unwrap(),
    )
}

/// A good client still gets a message through.
pub fn assert_serves(store: &Store) {
    let region = 900 + store.inbox.seen().messages.len() as u64;
    let mut client = Client::welcomed(store, 99, MESSAGES);
    client.write(&messages_frame(&[numbered(region, 99, store.id, 1, 1)]));
    let of_region = |m: &StoreMessage| matches!(m, StoreMessage::Peer(p) if p.region.0 == region);
    store
        .inbox
        .wait(|seen| seen.messages.iter().any(|(_, m)| of_region(m)));
}
