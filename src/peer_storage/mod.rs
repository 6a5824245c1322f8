//! One region's raft storage: what raft-rs asks of `Storage`, and the writes that keep it true.
//! Uses: the seams and the entry cache. No threads and no files of its own.
//!
//! | file | what it does |
//! |---|---|
//! | `create` | a region begins; `split` makes one of a part of its neighbour |
//! | `open` | a region is found again; `recovery` holds the rules that an open checks |
//! | `destroy` | a region ends, here or on another thread |
//! | `read` | `raft::Storage` |
//! | `write` | entries, hard state; `behind` writes them on another thread |
//! | `apply` | the data, the applied index and the configuration |
//! | `applied` | what was applied on another thread, taken over |
//! | `compact` | the front of the log goes; `gc` is the policy |
//! | `snapshot` | the snapshot to send: its state, its worker's task |
//! | `coordinated`, `restore` | the snapshot that is kept, and the way back to it; `upkeep` makes them by policy |
//! | `install` | the snapshot that came: replaces log, data and configuration; `install_task` on another thread |
//! | `fetch` | cold entries, read by a worker |

mod applied;
mod apply;
mod behind;
mod clock;
mod compact;
mod coordinated;
mod create;
mod destroy;
mod engines;
mod fetch;
mod gc;
mod install;
mod install_task;
mod log_bytes;
mod open;
mod read;
mod recovery;
mod restore;
mod retain;
mod snapshot;
mod snapshot_content;
mod snapshot_data;
mod split;
mod term_runs;
#[cfg(test)]
mod tests;
mod upkeep;
mod write;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use raft::eraftpb::{ConfState, Entry, HardState};

pub use applied::{AppliedStates, next_apply_state};
pub use behind::BehindTask;
pub use clock::Clock;
pub use coordinated::SnapshotMaker;
pub(crate) use destroy::{DestroyTask, Leaves, tombstone_ops};
pub use destroy::{finish_removals, tombstones};
pub use engines::{
    Engines, NeededFiles, OpenRegions, Ownership, StorageOptions, TaskSenders, WakeUp, Waker,
};
pub use fetch::FetchTask;
pub use gc::{GcInput, GcPolicy};
pub use install_task::{InstallTask, Installed};
pub use open::{read_region, region_ids, regions};
pub use restore::restore;
pub use snapshot::{SNAPSHOT_TRANSITIONS, SnapshotState, SnapshotTask};
pub(crate) use snapshot_content::Cancel;
#[cfg(feature = "openraft")]
pub(crate) use snapshot_content::{read_content, write_content};
#[cfg(feature = "openraft")]
pub(crate) use snapshot_data::PendingFile;
pub(crate) use split::NewRegion;
pub use upkeep::SnapshotPolicy;
pub use write::Staged;

use crate::app_store::{ApplicationDataStorage, DataRead as _, Keyspace};
use crate::entry_cache::{CacheStats, EntryCache};
use crate::error::{Error, Result};
use crate::expiry;
use crate::proto::{PeerState, RaftApplyState, RaftLocalState, Region, RegionLocalState};
use crate::reader::Reader;
use crate::types::{LogPosition, PeerId, RegionId};
use behind::Behind;
use fetch::Fetches;
use log_bytes::LogBytes;
use snapshot::Slot;
use term_runs::TermRuns;
use upkeep::Upkeep;

/// The durable storage of one region under one `RawNode`, which owns it. It comes from a
/// [`CompositeStorage`](crate::CompositeStorage); `RawNode::mut_store` gives access to it again.
///
/// | what happens | call |
/// |---|---|
/// | a `Ready` | [`persist`](Self::persist), or [`submit`](Self::submit), or [`stage`](Self::stage) and [`persisted`](Self::persisted) |
/// | committed entries | [`apply`](Self::apply) |
/// | the log grows | [`compact_by_policy`](Self::compact_by_policy), or [`compact`](Self::compact) |
/// | raft was told `LogTemporarilyUnavailable` | [`take_fetched`](Self::take_fetched) |
/// | the peer leaves its region | [`destroy`](Self::destroy) |
///
/// Reads answer from memory where they can: the states, the newest entries, the terms as runs. Writes
/// return after what they wrote is durable, in one batch, and a refused write has changed nothing,
/// neither in memory nor on disk. A failed write or fsync poisons the store below: open it again.
///
/// It is [`Send`], not `Sync`: raft-rs drives a region from one thread at a time.
pub struct PeerStorage {
    engines: Arc<Engines>,
    // Invariant: region_state.region.id names this region; its state is Normal, or Applying between
    // the steps of an install.
    region_state: RegionLocalState,
    // Invariant: last_index is the index of the last entry, or the truncated index.
    raft_state: RaftLocalState,
    // Invariant: truncated index <= applied index <= last index; commit_index <= persisted.
    apply_state: RaftApplyState,
    // Invariant: every entry up to here is durable; persisted <= last index.
    persisted: u64,
    // Invariant: covers the truncated and the last position.
    terms: RefCell<TermRuns>,
    cache: EntryCache,
    // No entry below this index is in the log store. Invariant: log_start <= first_index.
    log_start: u64,
    // Snapshots that the region makes of its own accord, and what goes with them.
    upkeep: Upkeep,
    // Writes that were submitted and are on their way.
    behind: Behind,
    // After an open unknown until somebody asks.
    log_bytes: RefCell<LogBytes>,
    // How many `Staged` wait for their `persisted`.
    staged: usize,
    slot: RefCell<Slot>,
    // Most regions never fetch: nothing is allocated for them.
    fetches: RefCell<Option<Box<Fetches>>>,
    // Declared last, so that it is let go of last.
    ownership: Arc<Ownership>,
}

impl PeerStorage {
    /// The id of the region.
    pub fn region_id(&self) -> RegionId {
        self.region_state.region.region_id()
    }

    /// The id of this node's peer: raft's node id.
    pub fn peer_id(&self) -> PeerId {
        self.region_state.peer_id
    }

    /// The range, epoch and peers of the region.
    pub fn region(&self) -> &Region {
        &self.region_state.region
    }

    /// The region with its state and configuration, as it is stored.
    pub fn region_state(&self) -> &RegionLocalState {
        &self.region_state
    }

    /// Hard state and last index, with what is staged.
    pub fn raft_state(&self) -> &RaftLocalState {
        &self.raft_state
    }

    /// Term, vote and commit, with what is staged.
    pub fn hard_state(&self) -> &HardState {
        &self.raft_state.hard_state
    }

    /// The configuration.
    pub fn conf_state(&self) -> &ConfState {
        &self.region_state.conf_state
    }

    /// Applied and truncated position.
    pub fn apply_state(&self) -> &RaftApplyState {
        &self.apply_state
    }

    /// The state machine contains every entry up to this index, inclusive. While a snapshot is being
    /// installed ([`SnapshotState::Applying`]) it is the snapshot's, whose data is not all there yet.
    pub fn applied_index(&self) -> u64 {
        self.apply_state.applied_index
    }

    /// The index of the last entry that was dropped from the front; first_index is one more.
    pub fn truncated_index(&self) -> u64 {
        self.apply_state.truncated_state.index
    }

    /// The term of that entry.
    pub fn truncated_term(&self) -> u64 {
        self.apply_state.truncated_state.term
    }

    /// What `Storage::first_index` answers, whether or not there is an entry yet.
    fn log_first(&self) -> u64 {
        self.truncated_index() + 1
    }

    /// What `Storage::last_index` answers: the truncated index if the log is empty.
    fn log_last(&self) -> u64 {
        self.raft_state.last_index
    }

    /// Every entry up to this index is durable.
    pub fn persisted_index(&self) -> u64 {
        self.persisted
    }

    /// The hits, misses and bytes of the region's entry cache.
    pub fn cache_stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// The lowest index that the region's entry cache holds; it holds all from there to the last.
    pub fn cached_from(&self) -> Option<u64> {
        self.cache.first_index()
    }

    /// Drops cached entries below `index`: every follower worth waiting for has them.
    pub fn compact_cache(&self, index: u64) {
        self.cache.compact_to(index);
    }

    /// The value of `key` in the application's data, as of the last applied entry. One that expires is
    /// there until the region's clock has passed it.
    ///
    /// # Errors
    /// Those of the data store.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let value = self.engines.app.get(Keyspace::Data, key)?;
        if value.is_some() {
            return Ok(value);
        }
        // As of one moment, because a write may take a key from one keyspace to the other.
        let view = self.engines.app.view()?;
        let data = &*view;
        let now_ms = expiry::clock(data, &self.region().start_key)?;
        expiry::At { data, now_ms }.get(Keyspace::Data, key)
    }

    /// A view of the region's data as of the last applied entry, for scans and for what expires. It is
    /// linearizable only behind a read index that has been applied.
    ///
    /// ```
    /// # use peerstore::{CompositeStorage, Config, Region};
    /// # let dir = tempfile::tempdir()?;
    /// # let node = CompositeStorage::open(dir.path(), Config::default())?;
    /// # let storage = node.create_region(&Region::single(1, 1))?;
    /// let reader = storage.reader()?;
    /// assert_eq!(reader.value_at(b"session", 1_000)?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of the data store.
    pub fn reader(&self) -> Result<Reader> {
        let view = self.engines.app.view()?;
        Ok(Reader::new(view, self.region_state.clone().into()))
    }

    /// The data of the node, for scans and views; every region's, not only this one's.
    pub fn app(&self) -> &Arc<dyn ApplicationDataStorage> {
        &self.engines.app
    }

    /// A `raft::Config` to start the `RawNode` with: the id of the peer and the durable applied index.
    /// Starting with another applied index would apply entries twice or never.
    pub fn raft_config(&self) -> raft::Config {
        raft::Config {
            id: self.peer_id().0,
            applied: self.applied_index(),
            election_tick: 10,
            heartbeat_tick: 2,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            ..Default::default()
        }
    }

    /// The last index and its term.
    pub fn last_position(&self) -> LogPosition {
        let index = self.log_last();
        let term = self.terms.borrow().term(index);
        LogPosition::new(term.unwrap_or(self.truncated_term()), index)
    }

    /// About how many bytes the log takes.
    fn log_bytes(&self) -> Result<u64> {
        let mut size = self.log_bytes.borrow_mut();
        match *size {
            LogBytes::Known(bytes) => Ok(bytes),
            LogBytes::Unknown { old_end, added } => {
                let old = self.log_first()..old_end;
                let old = (self.engines.log).approximate_bytes(self.region_id(), old)?;
                *size = LogBytes::Known(old + added);
                Ok(old + added)
            }
        }
    }

    /// Refuses writes while a snapshot is half installed: the region has to be opened again, which
    /// finishes it.
    fn check_writable(&self, what: &'static str) -> Result<()> {
        if self.region_state.state == PeerState::Applying {
            return Err(Error::invalid(
                self.region_id(),
                what,
                "state Applying: a snapshot is not fully installed",
                "state Normal; finish the install, or open the region again",
            ));
        }
        Ok(())
    }

    /// The log was replaced or its tail was cut at `index`: nothing remembered from there on holds.
    fn forget_from(&mut self, index: u64) {
        self.terms.get_mut().cut_from(index);
        if let Some(fetches) = self.fetches.get_mut() {
            fetches.drop_results();
        }
    }

    /// Nothing that another thread does for the region is under way: it has a share in the ownership.
    fn assert_alone(&self) {
        let shares = Arc::strong_count(&self.ownership);
        assert_eq!(
            shares,
            1,
            "region {}: a task is under way",
            self.region_id()
        );
    }

    fn assert_invariants(&self) {
        let apply = &self.apply_state;
        assert!(apply.truncated_state.index <= apply.applied_index);
        assert!(apply.applied_index <= self.raft_state.last_index);
        assert!(self.persisted <= self.raft_state.last_index);
        assert!(apply.commit_index <= self.persisted);
        assert!(self.log_start <= self.log_first());
    }
}

/// The indexes `[low, high)`, for an error.
fn shown(range: &Range<u64>) -> String {
    format!("[{}, {})", range.start, range.end)
}

/// Whether the indexes go up one by one from `first`.
fn check_contiguous(region: RegionId, first: u64, entries: &[Entry]) -> Result<()> {
    match (first..).zip(entries).find(|(index, e)| e.index != *index) {
        None => Ok(()),
        Some((expected, entry)) => {
            let (got, expected) = (
                format!("index {}", entry.index),
                format!("index {expected}"),
            );
            Err(Error::invalid(region, "entries", got, expected))
        }
    }
}

impl std::fmt::Debug for PeerStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerStorage")
            .field("region", &self.region_id())
            .field("peer", &self.peer_id())
            .field("first_index", &self.log_first())
            .field("last", &self.last_position())
            .field("applied", &self.applied_index())
            .field("snapshot", &self.snapshot_state().name())
            .finish_non_exhaustive()
    }
}
