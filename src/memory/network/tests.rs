//! What only the inside shows: `tests/network` has the rest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::{MemoryNetwork, MessageKind};
use crate::error::Result;
use crate::memory::MemorySnapshots;
use crate::proto::{Peer, RegionEpoch};
use crate::snapshot_store::SnapshotKey;
use crate::transport::{Inbox, PeerBody, PeerMessage, StoreMessage, Transport};
use crate::types::{PeerId, RegionId};

const PATIENCE: Duration = Duration::from_secs(60);

/// An inbox whose call lasts until it is let go.
struct Slow {
    entered: Mutex<mpsc::Sender<()>>,
    go: Mutex<mpsc::Receiver<()>>,
    has_left: AtomicBool,
}

impl Slow {
    fn wait(&self) {
        self.entered.lock().unwrap().send(()).unwrap();
        self.go.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        self.has_left.store(true, Ordering::SeqCst);
    }
}

impl Inbox for Slow {
    fn message(&self, _: u64, _: StoreMessage) {
        self.wait();
    }

    fn unreachable(&self, _: RegionId, _: PeerId) {}

    fn snapshot_sent(&self, _: RegionId, _: PeerId, _: bool) {}

    fn accepts_snapshot(&self, _: u64, _: &PeerMessage) -> Result<()> {
        self.wait();
        Ok(())
    }
}

/// A slow inbox, what tells that it is entered, and what lets it go.
fn slow() -> (Arc<Slow>, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let ((entered, has_entered), (go, may_go)) = (mpsc::channel(), mpsc::channel());
    let slow = Slow {
        entered: Mutex::new(entered),
        go: Mutex::new(may_go),
        has_left: AtomicBool::new(false),
    };
    (Arc::new(slow), has_entered, go)
}

fn connect(network: &MemoryNetwork, store: u64, slow: &Arc<Slow>) -> Arc<dyn Transport> {
    let transport = network.transport(store);
    let snapshots = Arc::new(MemorySnapshots::new());
    transport.start(Arc::clone(slow) as _, snapshots).unwrap();
    transport
}

#[test]
fn a_snapshot_does_not_hold_up_its_sender() {
    let network = MemoryNetwork::immediate();
    let (slow, has_entered, go) = slow();
    let (sender, receiver) = (connect(&network, 1, &slow), connect(&network, 2, &slow));
    let peer = Peer::default();
    let message = PeerMessage {
        region: RegionId(1),
        from: peer,
        to: peer,
        epoch: RegionEpoch::default(),
        range: None,
        body: PeerBody::Wake,
    };
    sender.send_snapshot(2, message, SnapshotKey::default());
    go.send(()).unwrap(); // the receiver waits for what comes after the call
    has_entered.recv_timeout(PATIENCE).unwrap();
    receiver.stop();
    sender.stop();
    assert!(slow.has_left.load(Ordering::SeqCst));
    // Counted by the thread of the snapshot, behind the call.
    let deadline = Instant::now() + PATIENCE;
    while network.traffic(MessageKind::Snapshot).refused != 1 {
        assert!(Instant::now() < deadline, "the snapshot is not counted");
        thread::yield_now();
    }
}

#[test]
fn stop_waits_for_a_call_that_has_begun() {
    let network = MemoryNetwork::immediate();
    let (slow, has_entered, go) = slow();
    let (sender, receiver) = (connect(&network, 1, &slow), connect(&network, 2, &slow));
    thread::scope(|scope| {
        scope.spawn(|| sender.send(2, StoreMessage::Alive { max_id: 0 }));
        has_entered.recv_timeout(PATIENCE).unwrap();
        let stopping = scope.spawn(|| {
            receiver.stop();
            assert!(slow.has_left.load(Ordering::SeqCst));
        });
        // Once the store is off the network, stop can do nothing but wait.
        let deadline = Instant::now() + PATIENCE;
        while network.shared.state().endpoints.len() == 2 {
            assert!(Instant::now() < deadline, "the store is not taken off");
            thread::yield_now();
        }
        go.send(()).unwrap();
        stopping.join().unwrap();
    });
    sender.stop();
}
