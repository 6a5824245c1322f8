//! d-engine's storage over peerstore: the log, the hard state and the state machine of one raft group, in
//! the three stores of a [`CompositeStorage`]. `docs/d-engine.md` has the table of what becomes what.
//!
//! ```
//! use std::sync::Arc;
//! use d_engine_core::{LogStore as _, StateMachine as _, StorageEngine as _};
//! use peerstore::{AppBackend, CompositeStorage, Config, LogBackend};
//! use peerstore_d_engine::Options;
//!
//! let dir = tempfile::tempdir()?;
//! let mut config = Config::default();
//! (config.log, config.app) = (LogBackend::AppendLog, AppBackend::Memory);
//! let node = Arc::new(CompositeStorage::open(dir.path(), config)?);
//! let (engine, state_machine) = peerstore_d_engine::open(&node, Options::default())?;
//! // d-engine's NodeBuilder takes both.
//! assert_eq!(engine.log_store().last_index(), 0);
//! assert_eq!(state_machine.last_applied().index, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(missing_docs)]

mod error;
mod log;
mod raft_state;
mod record;
mod snapshot;
mod state_machine;

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use d_engine_core::Error;
use peerstore::{CompositeStorage, RegionId};

pub use log::{PeerstoreEngine, PeerstoreLog, PeerstoreMeta};
pub use raft_state::RECORD_REGION_BIT;
pub use snapshot::SNAPSHOT_FILE;
pub use state_machine::PeerstoreStateMachine;

/// When persisted entries are durable. A vote always is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// When `persist_entries` returns: an fsync each, which concurrent writers of the node share.
    /// `is_write_durable` is true.
    #[default]
    DiskFirst,
    /// When `flush` returns. Before it they survive the death of the process, and can be read.
    /// `is_write_durable` is false, so that d-engine flushes before it counts them as durable.
    MemFirst,
}

/// The wall time in milliseconds since 1970, which leases are measured with.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How the storage of one raft group is opened.
#[derive(Clone)]
pub struct Options {
    /// The group's place in the node: not 0, without [`RECORD_REGION_BIT`], and no region of a
    /// `PeerStorage`. The data of all groups of a node is in the same keys, so that a node has one group.
    pub region: RegionId,
    /// When entries are durable.
    pub persistence: Persistence,
    /// The time.
    pub now_ms: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            region: RegionId(1),
            persistence: Persistence::default(),
            now_ms: Arc::new(machine_time),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("region", &self.region)
            .field("persistence", &self.persistence)
            .finish_non_exhaustive()
    }
}

/// Opens what d-engine's `NodeBuilder` takes. Both keep the node open, and share nothing else. One that is
/// open already in `node` must not be opened again before both are dropped.
///
/// A snapshot that was half applied when the process died is applied again here.
///
/// # Errors
/// `DataCorruption` if what is there does not fit together; those of the stores.
pub fn open(
    node: &Arc<CompositeStorage>,
    options: Options,
) -> Result<(PeerstoreEngine, PeerstoreStateMachine), Error> {
    let state = raft_state::RaftState::open(node, &options)?;
    let engine = PeerstoreEngine::new(Arc::new(state));
    let state_machine = PeerstoreStateMachine::open(node, options)?;
    Ok((engine, state_machine))
}

fn machine_time() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
