//! Log, state machine and snapshots under openraft 0.9, the successor of async-raft. Uses: composite,
//! peer_storage, workers, entry_cache, kv, async_io and the seams.
//!
//! [`Groups`] opens raft groups over the stores of a node; each is a [`LogStore`] and a [`StateMachine`] to
//! be given to `openraft::Raft::new`. The stores are the same as under raft-rs, and so are the promises:
//! what is acknowledged is durable, what is read was checked, a failed fsync is never retried.
//!
//! ```
//! use openraft::storage::{RaftLogStorage, RaftStateMachine};
//! use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, Vote};
//! use peerstore::openraft::{Groups, TypeConfig};
//! use peerstore::{AppBackend, CompositeStorage, Config, KvCommand, KvReply, LogBackend};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let config = Config {
//!     log: LogBackend::AppendLog,
//!     app: AppBackend::Memory, // in earnest, RocksDB
//!     ..Config::default()
//! };
//! let node = CompositeStorage::open(dir.path(), config)?;
//! let (mut log, mut machine) = Groups::of(&node)?.open(1)?;
//! // From here on it is openraft that calls: `Raft::new(1, config, network, log, machine)`.
//! log.save_vote(&Vote::new_committed(1, 1)).await?;
//! let entry = Entry {
//!     log_id: LogId::new(CommittedLeaderId::new(1, 1), 0),
//!     payload: EntryPayload::<TypeConfig>::Normal(KvCommand::put("key", "value")),
//! };
//! let replies = machine.apply([entry]).await?;
//! assert_eq!(replies, [Some(KvReply::Done)]);
//! assert_eq!(machine.reader().get(b"key").await?.as_deref(), Some(&b"value"[..]));
//! # Ok(())
//! # }
//! ```
//!
//! What is durable when, what runs where and whose index is inclusive: `docs/openraft.md`. It needs a tokio
//! runtime, and openraft without its feature `single-term-leader`.

mod book;
mod failure;
mod gate;
mod install;
mod log;
mod machine;
mod serde;
mod snapshot;
mod stream;
mod wire;
mod writer;

use std::any::Any;
use std::sync::Arc;

use crate::app_store::{ApplicationDataStorage, Keyspace};
use crate::composite::{CompositeStorage, Parts};
use crate::entry_cache::CacheBudget;
use crate::error::{Error, RecoveryError, Result};
use crate::keys::region_key;
use crate::kv::{KvCommand, KvReply, KvStateMachine};
use crate::peer_storage::OpenRegions;
use crate::raft_log::RaftLogStorage;
use crate::snapshot_store::RaftSnapshotStorage;
use crate::types::{KeyRange, RegionId};
use gate::Gate;
use log::LogParts;
use machine::MachineCore;
use snapshot::{Applied, Files};
use writer::Writer;

pub use log::{LogReader, LogStore};
pub use machine::{DataReader, SnapshotBuilder, StateMachine};
pub use stream::SnapshotStream;

openraft::declare_raft_types!(
    /// The types of a group: commands of keys and values in, their replies out. An entry that is no
    /// command is answered with `None`.
    pub TypeConfig:
        D = KvCommand,
        R = Option<KvReply>,
        NodeId = u64,
        Node = openraft::BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = SnapshotStream,
        AsyncRuntime = openraft::TokioRuntime,
);

type Entry = openraft::Entry<TypeConfig>;

/// Set in the id of the second region of a group, which holds what its log knows beside the entries.
const META_BIT: u64 = 1 << 63;

/// The second region of the group `region`.
fn meta_region(region: RegionId) -> RegionId {
    RegionId(region.0 | META_BIT)
}

/// The memory for the newest entries of groups over stores that were put together by hand.
const CACHE_BYTES: u64 = 32 << 20;

/// The groups of one node. They share the stores, and one thread that writes their logs: appends of any
/// number of groups share an fsync.
///
/// A group is open once at a time: until its `LogStore`, `StateMachine` and all readers are dropped,
/// opening it again is `RegionOpen`. The node stays open as long as one of its groups.
///
/// ```
/// use std::sync::Arc;
/// use peerstore::memory::{MemoryData, MemoryLog, MemorySnapshots};
/// use peerstore::openraft::Groups;
/// use peerstore::{KeyRange, Parts};
/// let groups = Groups::from_parts(Parts {
///     log: Arc::new(MemoryLog::new()),
///     app: Arc::new(MemoryData::new()),
///     snapshots: Arc::new(MemorySnapshots::new()),
/// })?;
/// // Groups of one node divide the keys.
/// let (_log, _machine) = groups.open_range(1, KeyRange::new("", "m"))?;
/// let (_log, _machine) = groups.open_range(2, KeyRange::new("m", ""))?;
/// assert!(groups.open(1).is_err(), "it is open");
/// # Ok::<(), peerstore::Error>(())
/// ```
pub struct Groups {
    log: Arc<dyn RaftLogStorage>,
    app: Arc<dyn ApplicationDataStorage>,
    snapshots: Arc<dyn RaftSnapshotStorage>,
    writer: Arc<Writer>,
    cache: Arc<CacheBudget>,
    open: Arc<OpenRegions>,
    // Keeps the node and its lock.
    node: Arc<dyn Any + Send + Sync>,
}

impl Groups {
    /// Over the stores of `node`, which stays open with them. Once for a node.
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
    pub fn of(node: &CompositeStorage) -> Result<Groups> {
        let engines = node.engines();
        Ok(Groups {
            log: Arc::clone(&engines.log),
            app: Arc::clone(&engines.app),
            snapshots: Arc::clone(&engines.snapshots),
            writer: Arc::new(Writer::start(Arc::clone(&engines.log))?),
            cache: Arc::clone(&engines.cache),
            open: Arc::clone(&engines.open_regions),
            node: Arc::clone(engines) as Arc<dyn Any + Send + Sync>,
        })
    }

    /// Over stores of any kind, your own among them.
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
    pub fn from_parts(parts: Parts) -> Result<Groups> {
        Ok(Groups {
            writer: Arc::new(Writer::start(Arc::clone(&parts.log))?),
            log: parts.log,
            app: parts.app,
            snapshots: parts.snapshots,
            cache: CacheBudget::new(CACHE_BYTES),
            open: Arc::default(),
            node: Arc::new(()),
        })
    }

    /// Opens the group `id`, which has all keys, or begins it. Blocks: reads the states, and goes on with
    /// an install that was cut.
    ///
    /// # Errors
    /// `InvalidArgument` if the id is 2^63 or more, or is that of a region of raft-rs; `RegionOpen`;
    /// `Recovery` if the stores contradict each other; `Corruption`; those of the stores.
    pub fn open(&self, id: impl Into<RegionId>) -> Result<(LogStore, StateMachine)> {
        self.open_range(id.into(), KeyRange::all())
    }

    /// Opens a group that has the keys of `range` only. Groups of one node must not overlap: a snapshot
    /// that is installed replaces all of the range.
    ///
    /// # Errors
    /// As [`Groups::open`].
    pub fn open_range(
        &self,
        id: impl Into<RegionId>,
        range: KeyRange,
    ) -> Result<(LogStore, StateMachine)> {
        let region = id.into();
        let owner = self.own(region)?;
        let files = Files {
            store: Arc::clone(&self.snapshots),
            region,
            range,
        };
        let applied = install::recover(&*self.app, &files)?;
        let gate = Gate::new(Arc::clone(&self.app), applied.end());
        let log = LogStore::open(self.log_parts(region, Some(Arc::clone(&gate)), &owner))?;
        check(region, &log, &applied)?;
        let app = Arc::clone(&self.app);
        let machine = MachineCore::new(app, files, gate, applied, owner);
        Ok((log, StateMachine::new(machine)))
    }

    /// Opens the log of a group alone, for a state machine of your own. That one has to be durable before
    /// the log is purged: openraft purges while a snapshot is still being installed, and a crash in between
    /// would leave neither.
    ///
    /// # Errors
    /// As [`Groups::open`].
    pub fn open_log(&self, id: impl Into<RegionId>) -> Result<LogStore> {
        let region = id.into();
        let owner = self.own(region)?;
        LogStore::open(self.log_parts(region, None, &owner))
    }

    fn log_parts(&self, region: RegionId, gate: Option<Arc<Gate>>, owner: &Arc<Owner>) -> LogParts {
        LogParts {
            log: Arc::clone(&self.log),
            region,
            writer: Arc::clone(&self.writer),
            cache: Arc::clone(&self.cache),
            gate,
            owner: Arc::clone(owner) as Arc<dyn Any + Send + Sync>,
        }
    }

    /// Makes the caller the one who has the group.
    fn own(&self, region: RegionId) -> Result<Arc<Owner>> {
        let invalid = |got: String, expected: &str| {
            Err(Error::invalid(region, "openraft group", got, expected))
        };
        if region.0 & META_BIT != 0 {
            return invalid(format!("id {region}"), "an id below 2^63");
        }
        let ownership = self.open.acquire(region)?;
        let key = region_key(region);
        if self.app.get(Keyspace::RegionState, &key)?.is_some() {
            return invalid("a region of raft-rs".into(), "an id that no region has");
        }
        Ok(Arc::new(Owner {
            _ownership: ownership,
            _node: Arc::clone(&self.node),
        }))
    }
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Groups").finish_non_exhaustive()
    }
}

/// What the parts of a group hold: first the group, then the node.
struct Owner {
    _ownership: Arc<dyn Any + Send + Sync>,
    _node: Arc<dyn Any + Send + Sync>,
}

/// Whether the log and the data belong together.
fn check(region: RegionId, log: &LogStore, applied: &Applied) -> Result<()> {
    let recovery = |source| Err(Error::Recovery { region, source });
    let purged = log.purged();
    if purged > applied.log_id {
        // Entries that were never applied are gone.
        return recovery(RecoveryError::AppliedEntryMissing {
            applied: applied.log_id.map_or(0, |id| id.index),
            truncated_index: purged.map_or(0, |id| id.index),
        });
    }
    if applied.log_id.is_some() && !log.has_vote() {
        return recovery(RecoveryError::HardStateMissing);
    }
    Ok(())
}
