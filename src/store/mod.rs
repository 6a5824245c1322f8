//! The driver of every region of a node: proposals, reads, members, splits, merges. Uses: peer, workers,
//! composite, transport.
//!
//! | file | what it does |
//! |---|---|
//! | `client` | what a client asks: [`Store`]'s calls |
//! | `core` | the raft thread's state: what comes in, what goes out |
//! | `open`, `start`, `stepped` | a store from its config; the threads, or their steps on one thread |
//! | `receive` | messages of other stores; peers that are made by one |
//! | `lifecycle` | peers that are opened, filled by a snapshot, removed |
//! | `admin`, `change`, `merge` | what admin entries do |
//! | `liveness` | signs of life, so that regions can sleep |
//! | `expiring` | what has expired is proposed to go |
//! | `metrics` | what the driver shows |
//! | `ranges`, `shared`, `options`, `message` | plain data |

mod admin;
mod change;
mod client;
mod core;
mod expiring;
mod lifecycle;
mod liveness;
mod merge;
mod message;
mod metrics;
mod open;
mod options;
mod ranges;
mod receive;
mod shared;
mod start;
mod stepped;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;

pub use change::ChangePeer;
pub use options::{ExpiryOptions, StoreOptions};
pub use shared::{RegionProgress, RegionStage, RegionStatus, StoreStats};
pub use stepped::{SteppedStore, StorePart};

use crate::health::HealthChecker;
use crate::mailbox::Sender;
use crate::peer_storage::Engines;
use crate::proto::RegionLocalState;
use crate::transport::{Placement, Transport};
use crate::types::RegionId;
use message::StoreMsg;
use metrics::StoreMetrics;
use shared::Shared;

/// The peers that were removed from this store.
pub(crate) type Tombstones = BTreeMap<RegionId, RegionLocalState>;

/// A region that has grown too large.
pub(crate) struct SplitWanted {
    pub region: RegionId,
    pub key: Vec<u8>,
    pub peers: usize,
}

/// What a store needs of how it is run.
pub(crate) struct Run {
    /// Tells this run's reads from those of an earlier one.
    pub nonce: u64,
    /// Hears that a region is to be split.
    pub split_wanted: Box<dyn Fn(SplitWanted) + Send>,
}

/// Every region of a node, driven: raft, the log, the state machines and the other stores of the
/// cluster, on a few threads however many regions there are.
///
/// A call that changes something answers with a [`Ticket`](crate::Ticket). Calls never wait for a disk or
/// for the network, except where they say so. Dropping the store stops it: what was acknowledged is
/// durable, and tickets that wait answer `StoreStopped`.
///
/// ```
/// use std::time::Duration;
/// use peerstore::memory::MemoryNetwork;
/// use peerstore::{CompositeStorage, Config, KvCommand, KvStateMachine, Region, Store, StoreOptions};
///
/// let dir = tempfile::tempdir()?;
/// let node = CompositeStorage::open(dir.path(), Config { store_id: 1, ..Config::default() })?;
/// let network = MemoryNetwork::immediate();
/// let transport = network.transport(1);
/// let machine = |_: &Region| -> Box<dyn peerstore::StateMachine> { Box::new(KvStateMachine) };
/// let store = Store::start(node, machine, transport, StoreOptions::default())?;
///
/// store.create_region(&Region::single(1, 1))?; // every key, one replica
/// store.wait_for_leader(1, Duration::from_secs(10))?;
/// let put = KvCommand::put("greeting", "hello").encode();
/// store.propose(1, put).wait(Duration::from_secs(10))?; // replicated, durable and applied
/// let reader = store.read(1).wait(Duration::from_secs(10))?; // linearizable
/// assert_eq!(reader.get(b"greeting")?.as_deref(), Some(&b"hello"[..]));
/// store.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Store {
    handle: Handle,
    threads: Mutex<Vec<JoinHandle<()>>>,
    transport: Arc<dyn Transport>,
}

/// The way to the raft thread, and what it shows.
#[derive(Clone)]
pub(crate) struct Handle {
    messages: Sender<StoreMsg>,
    shared: Arc<Shared>,
    placement: Arc<dyn Placement>,
    // Not its owner: a store that was stopped lets its node go.
    engines: Weak<Engines>,
    waiting_bytes_max: u64,
    store_id: u64,
    metrics: Arc<StoreMetrics>,
    // It holds the stores, as the engines do.
    health: Weak<HealthChecker>,
}
