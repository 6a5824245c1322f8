//! Stores on a network that note what they hear.

use std::io::Write as _;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use peerstore::memory::{MemoryNetwork, MemorySnapshots, NetworkOptions};
use peerstore::{
    Error, Inbox, KeyRange, LogPosition, Peer, PeerBody, PeerId, PeerMessage, PeerRole,
    RaftSnapshotStorage, Region, RegionEpoch, RegionId, Result, SnapshotKey, SnapshotMeta,
    StoreMessage, Transport,
};
use raft::eraftpb::{Message, MessageType};

/// What an inbox heard.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Message { from: u64, message: StoreMessage },
    Unreachable(RegionId, PeerId),
    SnapshotSent(RegionId, PeerId, bool),
    Asked { from: u64 },
}

/// What all inboxes of a network heard, with the store, in the order of the calls.
pub type Trace = Arc<Mutex<Vec<(u64, Heard)>>>;

pub struct Ears {
    store: u64,
    pub trace: Trace,
    pub snapshots: MemorySnapshots,
    refuses: bool,
    pub stopped: AtomicBool,
}

impl Ears {
    fn hear(&self, heard: Heard) {
        assert!(!self.stopped.load(Ordering::SeqCst), "it was stopped");
        self.trace.lock().unwrap().push((self.store, heard));
    }
}

impl Inbox for Ears {
    fn message(&self, from: u64, message: StoreMessage) {
        if let StoreMessage::Peer(message) = &message
            && message.range.is_some()
        {
            let files = self.snapshots.list(None).unwrap();
            assert_eq!(files.len(), 1, "the file comes before its message");
        }
        self.hear(Heard::Message { from, message });
    }

    fn unreachable(&self, region: RegionId, peer: PeerId) {
        self.hear(Heard::Unreachable(region, peer));
    }

    fn snapshot_sent(&self, region: RegionId, peer: PeerId, arrived: bool) {
        self.hear(Heard::SnapshotSent(region, peer, arrived));
    }

    fn accepts_snapshot(&self, from: u64, message: &PeerMessage) -> Result<()> {
        self.hear(Heard::Asked { from });
        match self.refuses {
            false => Ok(()),
            true => Err(Error::SnapshotRefused {
                region: message.region,
                reason: "not wanted".into(),
            }),
        }
    }
}

/// A store on the network.
pub struct Store {
    pub transport: Arc<dyn Transport>,
    pub ears: Arc<Ears>,
}

/// A network, what its stores heard, and one of them for each number from 1 on.
pub struct Town {
    pub network: MemoryNetwork,
    pub trace: Trace,
    pub stores: Vec<Store>,
}

impl Drop for Town {
    fn drop(&mut self) {
        for store in &self.stores {
            store.transport.stop();
        }
    }
}

impl Town {
    pub fn new(network: MemoryNetwork, stores: u64) -> Town {
        let mut town = Town {
            network,
            trace: Trace::default(),
            stores: Vec::new(),
        };
        for store in 1..=stores {
            let store = town.connect(store, false);
            town.stores.push(store);
        }
        town
    }

    pub fn stepped(seed: u64, options: NetworkOptions) -> Town {
        Town::new(MemoryNetwork::new(seed, options), 3)
    }

    pub fn connect(&self, store: u64, refuses: bool) -> Store {
        let transport = self.network.transport(store);
        let ears = Arc::new(Ears {
            store,
            trace: Arc::clone(&self.trace),
            snapshots: MemorySnapshots::new(),
            refuses,
            stopped: AtomicBool::new(false),
        });
        let snapshots = Arc::new(ears.snapshots.clone());
        transport.start(Arc::clone(&ears) as _, snapshots).unwrap();
        Store { transport, ears }
    }

    pub fn store(&self, store: u64) -> &Store {
        &self.stores[store as usize - 1]
    }

    pub fn send(&self, from: u64, to: u64, number: u64) {
        let message = peer_message(from, to, number);
        let message = StoreMessage::Peer(Box::new(message));
        self.store(from).transport.send(to, message);
    }

    /// Lets time go by until nothing is on its way.
    pub fn settle(&self) {
        while self.network.in_flight() > 0 {
            self.network.tick();
            while self.network.deliver_next() {}
        }
    }

    pub fn heard(&self) -> Vec<(u64, Heard)> {
        std::mem::take(&mut *self.trace.lock().unwrap())
    }

    /// The numbers that `to` heard of `from`, in order.
    pub fn numbers(&self, from: u64, to: u64) -> Vec<u64> {
        let trace = self.trace.lock().unwrap();
        let of = |(store, heard): &(u64, Heard)| match heard {
            Heard::Message { from: f, message } if (*f, *store) == (from, to) => number(message),
            _ => None,
        };
        trace.iter().filter_map(of).collect()
    }

    /// Every message is accounted for.
    pub fn assert_balanced(&self) {
        let t = self.network.total();
        let ends = t.delivered + t.lost + t.cut + t.unreached + t.refused;
        let on_their_way = self.network.in_flight() as u64;
        assert_eq!(t.sent + t.duplicated, ends + on_their_way, "{t:?}");
    }
}

pub fn peer(store: u64) -> Peer {
    Peer {
        id: store + 100,
        store_id: store,
        role: PeerRole::Voter as i32,
    }
}

pub fn peer_message(from: u64, to: u64, number: u64) -> PeerMessage {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    (message.from, message.to, message.index) = (from + 100, to + 100, number);
    PeerMessage {
        region: RegionId(7),
        from: peer(from),
        to: peer(to),
        epoch: RegionEpoch {
            conf_ver: 1,
            version: 2,
        },
        range: None,
        body: PeerBody::Raft(message),
    }
}

pub fn number(message: &StoreMessage) -> Option<u64> {
    match message {
        StoreMessage::Peer(message) => match &message.body {
            PeerBody::Raft(message) => Some(message.index),
            _ => None,
        },
        StoreMessage::Alive { max_id } => Some(*max_id),
    }
}

pub fn rough() -> NetworkOptions {
    NetworkOptions {
        delay_ticks: 0..=5,
        loss_per_mille: 100,
        duplicate_per_mille: 100,
        reorder: true,
    }
}

pub fn of_delay(delay_ticks: RangeInclusive<u64>) -> NetworkOptions {
    NetworkOptions {
        delay_ticks,
        ..NetworkOptions::default()
    }
}

/// A snapshot of several chunks in the store of `ears`.
pub fn snapshot_of(ears: &Ears) -> SnapshotKey {
    let meta = SnapshotMeta {
        region: Region::single(7, 101),
        position: LogPosition::new(5, 6),
        ..SnapshotMeta::default()
    };
    let mut writer = ears.snapshots.create(meta).unwrap();
    let mut dice = Dice::new(1);
    let content: Vec<u8> = (0..100_000).map(|_| dice.within(0..=255) as u8).collect();
    writer.write_all(&content).unwrap();
    writer.commit().unwrap().key
}

pub fn snapshot_message(from: u64, to: u64) -> PeerMessage {
    PeerMessage {
        range: Some(KeyRange::all()),
        ..peer_message(from, to, 0)
    }
}

/// Numbers that look like chance.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// One of `range`.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        // Xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        range.start() + self.0 % (range.end() - range.start() + 1)
    }
}

pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        thread::yield_now();
    }
}
