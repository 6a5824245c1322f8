//! What only the inside shows: `tests/network` has the rest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::MemoryNetwork;
use crate::error::Result;
use crate::memory::MemorySnapshots;
use crate::transport::{Inbox, PeerMessage, StoreMessage};
use crate::types::{PeerId, RegionId};

const PATIENCE: Duration = Duration::from_secs(60);

/// An inbox whose call lasts until it is let go.
struct Slow {
    entered: Mutex<mpsc::Sender<()>>,
    go: Mutex<mpsc::Receiver<()>>,
    has_left: AtomicBool,
}

impl Inbox for Slow {
    fn message(&self, _: u64, _: StoreMessage) {
        self.entered.lock().unwrap().send(()).unwrap();
        self.go.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        self.has_left.store(true, Ordering::SeqCst);
    }

    fn unreachable(&self, _: RegionId, _: PeerId) {}

    fn snapshot_sent(&self, _: RegionId, _: PeerId, _: bool) {}

    fn accepts_snapshot(&self, _: u64, _: &PeerMessage) -> Result<()> {
        Ok(())
    }
}

#[test]
fn stop_waits_for_a_call_that_has_begun() {
    let network = MemoryNetwork::immediate();
    let ((entered, has_entered), (go, may_go)) = (mpsc::channel(), mpsc::channel());
    let slow = Arc::new(Slow {
        entered: Mutex::new(entered),
        go: Mutex::new(may_go),
        has_left: AtomicBool::new(false),
    });
    let connect = |store| {
        let transport = network.transport(store);
        let snapshots = Arc::new(MemorySnapshots::new());
        transport.start(Arc::clone(&slow) as _, snapshots).unwrap();
        transport
    };
    let (sender, receiver) = (connect(1), connect(2));
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
