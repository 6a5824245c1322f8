//! What a stranger claims to send takes no memory: alone in its process, because it counts
//! allocations.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use peerstore::memory::{MemoryData, MemorySnapshots};
use peerstore::tcp::{Reason, TcpOptions, TcpTransport};
use peerstore::{
    Inbox, PeerId, PeerMessage, RegionId, Result, StaticPlacement, StoreMessage, Transport as _,
};

/// Remembers the largest allocation.
struct Largest(AtomicUsize);

// SAFETY: each call is passed on as it is.
unsafe impl GlobalAlloc for Largest {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.0.fetch_max(size, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static LARGEST: Largest = Largest(AtomicUsize::new(0));

/// Takes nothing.
struct Nobody;

impl Inbox for Nobody {
    fn message(&self, _: u64, _: StoreMessage) {}
    fn unreachable(&self, _: RegionId, _: PeerId) {}
    fn snapshot_sent(&self, _: RegionId, _: PeerId, _: bool) {}
    fn accepts_snapshot(&self, _: u64, _: &PeerMessage) -> Result<()> {
        Ok(())
    }
}

/// Sends the head of a frame of `claimed` bytes and ten of them, and waits for the end. `purpose` is
/// of the handshake before it; without one the frame comes at once.
fn claim(transport: &TcpTransport, purpose: Option<u8>, claimed: u32) {
    let mut tcp = TcpStream::connect(transport.local_address()).unwrap();
    if let Some(purpose) = purpose {
        let mut hello = b"peerwire\x01\0\0\0".to_vec();
        hello.push(purpose);
        for id in [7_u64, 2, 1] {
            hello.extend(id.to_le_bytes());
        }
        let crc = crc32c::crc32c(&hello).to_le_bytes();
        let head = [(hello.len() as u32).to_le_bytes(), crc].concat();
        tcp.write_all(&[head, hello].concat()).unwrap();
        tcp.read_exact(&mut [0; 8 + 37]).unwrap();
    }
    let head = [claimed.to_le_bytes(), [0; 4]].concat();
    tcp.write_all(&[head, vec![1; 10]].concat()).unwrap();
    tcp.shutdown(std::net::Shutdown::Write).unwrap();
    let _ = tcp.read_to_end(&mut Vec::new()); // Closed, or reset.
}

#[test]
fn a_claimed_length_takes_no_memory_whether_it_is_allowed_or_not() {
    let app = Arc::new(MemoryData::new());
    let placement = StaticPlacement::open(app, 1, BTreeMap::new()).unwrap();
    let options = TcpOptions::new("127.0.0.1:0", 7, 1);
    let allowed = options.frame_bytes_max;
    let transport = TcpTransport::bind(options, Arc::new(placement)).unwrap();
    let snapshots = Arc::new(MemorySnapshots::new());
    transport.start(Arc::new(Nobody), snapshots).unwrap();
    LARGEST.0.store(0, Ordering::Relaxed);
    for claimed in [allowed, allowed + 1, 1 << 30, u32::MAX] {
        for purpose in [None, Some(1), Some(2)] {
            claim(&transport, purpose, claimed);
        }
    }
    // A refusal is counted after its connection was closed.
    let deadline = Instant::now() + Duration::from_secs(30);
    while transport.stats().refused.values().sum::<u64>() < 11 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    transport.stop();
    let refused = transport.stats().refused;
    assert_eq!(refused[&Reason::Stranger], 4);
    assert_eq!(refused[&Reason::TooLong], 6);
    assert_eq!(refused[&Reason::Closed], 1, "the offer that was cut");
    let largest = LARGEST.0.load(Ordering::Relaxed);
    assert!(largest <= 1 << 20, "{largest} bytes were taken at once");
}
