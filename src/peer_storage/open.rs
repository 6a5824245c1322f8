//! A region begins, is found again, ends. Uses: the seams, recovery, install.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::Arc;

use prost::Message as _;
use raft::eraftpb::HardState;

use super::install::stage_import;
use super::log_bytes::LogBytes;
use super::recovery::{Refusal, Stored};
use super::snapshot::{Slot, SnapshotTask};
use super::snapshot_data::PendingSnapshot;
use super::term_runs::TermRuns;
use super::{Engines, Ownership, PeerStorage};
use crate::app_store::{AppBatch, Keyspace};
use crate::conf::check_conf_state;
use crate::entry_cache::EntryCache;
use crate::error::{Error, RecoveryError, Result};
use crate::keys::region_key;
use crate::proto::{
    INITIAL_INDEX, INITIAL_TERM, PeerState, RaftApplyState, RaftLocalState, RaftTruncatedState,
    Region, RegionLocalState, decode,
};
use crate::raft_log::LogBatch;
use crate::types::{KeyRange, LogPosition, PeerId, RegionId};

impl PeerStorage {
    /// Creates `region` with its peers, of which `peer` is this node's: from [`INITIAL_INDEX`] and
    /// [`INITIAL_TERM`] on, the same on every node that creates it. Durable on return.
    ///
    /// # Errors
    /// `RegionExists`, `RegionTombstone` unless `peer` is larger than the one that was removed,
    /// `InvalidArgument` if the region cannot be.
    pub(crate) fn create(engines: &Arc<Engines>, region: &Region, peer: PeerId) -> Result<Self> {
        let mut hard_state = HardState::default();
        (hard_state.term, hard_state.commit) = (INITIAL_TERM, INITIAL_INDEX);
        check_region(region, peer)?;
        let state = Stored {
            region: RegionLocalState {
                conf_state: region.conf_state(),
                region: region.clone(),
                peer_id: peer,
                ..Default::default()
            },
            raft: RaftLocalState {
                hard_state,
                last_index: INITIAL_INDEX,
            },
            apply: RaftApplyState {
                applied_index: INITIAL_INDEX,
                truncated_state: RaftTruncatedState {
                    index: INITIAL_INDEX,
                    term: INITIAL_TERM,
                },
                commit_index: INITIAL_INDEX,
                commit_term: INITIAL_TERM,
            },
        };
        write_new(engines, state)
    }

    /// Creates a peer that knows nothing but its ids, with everything 0: it waits for a snapshot. What
    /// it writes is kept all the same, or a restart would let it vote twice in a term.
    ///
    /// # Errors
    /// As [`PeerStorage::create`].
    pub(crate) fn create_uninitialized(
        engines: &Arc<Engines>,
        region: RegionId,
        peer: PeerId,
    ) -> Result<Self> {
        check_peer_id(region, peer)?;
        let region = Region {
            id: region.0,
            ..Default::default()
        };
        let state = Stored {
            region: RegionLocalState {
                region,
                peer_id: peer,
                ..Default::default()
            },
            raft: RaftLocalState::default(),
            apply: RaftApplyState::default(),
        };
        write_new(engines, state)
    }

    /// Opens a region that is on this node: finishes a snapshot that was being installed, then checks
    /// everything that raft relies on.
    ///
    /// # Errors
    /// `RegionNotFound`, `RegionTombstone`, `RegionOpen`; `Recovery` with what contradicts what, if the
    /// stored states do; `Corruption` if one does not decode. Nothing has changed then, except that an
    /// install may have come further and what a removed peer left was removed.
    pub(crate) fn open(engines: &Arc<Engines>, region: RegionId) -> Result<Self> {
        let ownership = engines.open_regions.acquire(region)?;
        let state = read_region(engines, region)?.ok_or(Error::RegionNotFound { region })?;
        if state.state == PeerState::Tombstone {
            remove_leftovers(engines, &state)?;
            return Err(Error::RegionTombstone {
                region,
                peer: state.peer_id.0,
            });
        }
        let mut stored = Stored {
            raft: read_raft(engines, &state)?,
            apply: read_apply(engines, region)?,
            region: state,
        };
        if stored.region.state == PeerState::Applying {
            resume_install(engines, &mut stored)?;
        }
        let term_of = |index| Ok(engines.log.read_entry(region, index)?.map(|e| e.term));
        let last_term = stored.check(term_of).map_err(|refusal| match refusal {
            Refusal::Rule(source) => Error::Recovery { region, source },
            Refusal::Read(error) => error,
        })?;
        remove_orphans(engines, region)?;
        let storage = PeerStorage::build(engines, stored, last_term, 0, ownership);
        Ok(storage)
    }

    /// Removes the peer for ever: its tombstone is made durable first, then its log and states go,
    /// then the data in its range. Its peer id never comes back to this region.
    ///
    /// # Errors
    /// Those of the stores; the next open of the node goes on with it.
    pub fn destroy(self) -> Result<()> {
        let tombstone = RegionLocalState {
            state: PeerState::Tombstone,
            ..self.region_state.clone()
        };
        let key = region_key(self.region_id());
        let mut batch = AppBatch::default();
        batch.put(Keyspace::RegionState, key, tombstone.encode_to_vec());
        let engines = &self.engines;
        engines.app.write(&batch, engines.options.durability)?;
        self.cancel_snapshot();
        remove_leftovers(engines, &tombstone)
    }

    /// Puts together what is in memory of a region whose states were checked.
    fn build(
        engines: &Arc<Engines>,
        stored: Stored,
        last_term: u64,
        log_start: u64,
        ownership: Ownership,
    ) -> Self {
        let mut terms = TermRuns::default();
        let last_index = stored.raft.last_index;
        terms.learn(stored.apply.truncated());
        terms.learn(LogPosition::new(last_term, last_index));
        let storage = PeerStorage {
            engines: Arc::clone(engines),
            persisted: last_index,
            region_state: stored.region,
            raft_state: stored.raft,
            apply_state: stored.apply,
            terms: RefCell::new(terms),
            cache: EntryCache::new(Arc::clone(&engines.cache)),
            log_start,
            log_bytes: RefCell::new(LogBytes::Unknown {
                old_end: last_index + 1,
                added: 0,
            }),
            staged: 0,
            slot: RefCell::new(Slot::default()),
            fetches: RefCell::new(None),
            _ownership: ownership,
        };
        storage.assert_invariants();
        storage
    }
}

/// The regions of a node, ascending by id, without those that were removed. One whose state is damaged
/// is left out and reported to the log: it must not take the others down. Opening it says what is wrong.
///
/// # Errors
/// Those of the data store.
pub fn regions(engines: &Engines) -> Result<Vec<RegionLocalState>> {
    let mut regions = Vec::new();
    let all = KeyRange::all();
    (engines.app).scan(Keyspace::RegionState, &all, &mut |key, value| {
        match decode_region(key, value) {
            Ok(state) if state.state != PeerState::Tombstone => regions.push(state),
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "a region is left out of the list"),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(regions)
}

fn decode_region(key: &[u8], value: &[u8]) -> Result<RegionLocalState> {
    let Some(region) = crate::keys::parse_region_key(key) else {
        let detail = format!("\"{}\", expected 8 bytes", key.escape_ascii());
        return Err(Error::corruption(None, "key in region_state", detail));
    };
    RegionLocalState::decode_of(region, value)
}

/// Goes on with removals that a crash interrupted. To be called before a region can be created: who
/// got a removed peer's range would find its data there, or lose its own to a late removal.
///
/// # Errors
/// Those of the stores.
pub fn finish_removals(engines: &Engines) -> Result<()> {
    let mut removed = Vec::new();
    let all = KeyRange::all();
    (engines.app).scan(Keyspace::RegionState, &all, &mut |key, value| {
        // What cannot be read concerns its own region only, and is reported when that is opened.
        let state = decode_region(key, value).ok();
        removed.extend(state.filter(|state| state.state == PeerState::Tombstone));
        Ok(ControlFlow::Continue(()))
    })?;
    removed
        .iter()
        .try_for_each(|tombstone| remove_leftovers(engines, tombstone))
}

fn check_peer_id(region: RegionId, peer: PeerId) -> Result<()> {
    if peer.0 == 0 {
        return Err(Error::invalid(region, "peer id", "0", "a positive number"));
    }
    Ok(())
}

fn check_region(region: &Region, peer: PeerId) -> Result<()> {
    let id = region.region_id();
    check_peer_id(id, peer)?;
    if region.range().is_empty() {
        let got = region.range().to_string();
        return Err(Error::invalid(id, "key range", got, "start below end"));
    }
    if !region.peers.iter().any(|p| p.id == peer.0) {
        let got = format!(
            "peers {:?}",
            region.peers.iter().map(|p| p.id).collect::<Vec<_>>()
        );
        let expected = format!("this node's peer {peer} among them");
        return Err(Error::invalid(id, "region", got, expected));
    }
    check_conf_state(&region.conf_state()).map_err(|reason| {
        let expected = "a configuration that raft can restore";
        Error::invalid(id, "peers", reason, expected)
    })
}

/// Writes a region that is new to this node. The log comes first: a crash between the two leaves a log
/// that no region owns, and the next creation clears it. The other way round it would leave a region
/// whose vote is missing.
fn write_new(engines: &Arc<Engines>, stored: Stored) -> Result<PeerStorage> {
    let region = stored.region.region.region_id();
    // Whoever owns it has created or opened it.
    let ownership =
        (engines.open_regions.acquire(region)).map_err(|_| Error::RegionExists { region })?;
    match read_region(engines, region)? {
        Some(old) if old.state != PeerState::Tombstone => {
            return Err(Error::RegionExists { region });
        }
        Some(old) if stored.region.peer_id <= old.peer_id => {
            return Err(Error::RegionTombstone {
                region,
                peer: old.peer_id.0,
            });
        }
        // A crash may have left some of the old peer's data, which the new one must never see.
        Some(old) => remove_leftovers(engines, &old)?,
        None => {}
    }
    let durability = engines.options.durability;
    let mut log = LogBatch::default();
    log.clear_region(region);
    log.state(region, stored.raft.clone());
    engines.log.write(&log, durability)?;
    let key = region_key(region);
    let mut kv = AppBatch::default();
    kv.put(Keyspace::RegionState, key, stored.region.encode_to_vec());
    kv.put(Keyspace::ApplyState, key, stored.apply.encode_to_vec());
    kv.delete(Keyspace::SnapshotState, key);
    engines.app.write(&kv, durability)?;
    let (term, start) = (stored.apply.truncated().term, stored.raft.last_index + 1);
    Ok(PeerStorage::build(engines, stored, term, start, ownership))
}

fn read_region(engines: &Engines, region: RegionId) -> Result<Option<RegionLocalState>> {
    let key = region_key(region);
    let Some(bytes) = engines.app.get(Keyspace::RegionState, &key)? else {
        return Ok(None);
    };
    let state = RegionLocalState::decode_of(region, &bytes)?;
    // Everything else is found by the id in the state: another one would mix two regions.
    if state.region.id != region.0 {
        let detail = format!("it names region {}, expected {region}", state.region.id);
        return Err(Error::corruption(Some(region), "RegionLocalState", detail));
    }
    Ok(Some(state))
}

/// The raft state is written before its region is: one that is missing has taken a vote along. What a
/// region with peers then says is rule 7; an install brings a new one.
fn read_raft(engines: &Engines, state: &RegionLocalState) -> Result<RaftLocalState> {
    let region = state.region.region_id();
    match engines.log.read_state(region)? {
        Some(raft) => Ok(raft),
        None if state.region.is_initialized() => Ok(RaftLocalState::default()),
        None => Err(missing(region, "RaftLocalState")),
    }
}

fn read_apply(engines: &Engines, region: RegionId) -> Result<RaftApplyState> {
    match engines.app.get(Keyspace::ApplyState, &region_key(region))? {
        Some(bytes) => RaftApplyState::decode_of(region, &bytes),
        None => Err(missing(region, "RaftApplyState")),
    }
}

fn missing(region: RegionId, what: &'static str) -> Error {
    let source = RecoveryError::StateMissing { what };
    Error::Recovery { region, source }
}

/// Goes on with a snapshot whose install was interrupted (rules 10 and 11).
///
/// If the log is still the old one, it is wiped now. An old log ends before the snapshot, or it holds
/// the entry at the snapshot's index, because a snapshot is only taken from first_index on; the log
/// that the install writes begins behind that entry. Commit and last index alone cannot tell: the old
/// ones may be the larger. Then the data is imported again, whatever had been done of it.
fn resume_install(engines: &Engines, stored: &mut Stored) -> Result<()> {
    let region = stored.region.region.region_id();
    let refused = |source| Error::Recovery { region, source };
    let key = region_key(region);
    let bytes = engines.app.get(Keyspace::SnapshotState, &key)?;
    let bytes = bytes.ok_or_else(|| refused(RecoveryError::PendingSnapshotMissing))?;
    let pending: PendingSnapshot = decode(region, "PendingSnapshot", &bytes)?;
    let import = match pending.file.map(|file| file.key(region)) {
        None => None,
        Some(file) => {
            let staged = stage_import(engines, &file, &stored.region.region);
            Some(staged.map_err(|error| {
                refused(RecoveryError::SnapshotFileMissing {
                    name: file.to_string(),
                    reason: error.to_string(),
                })
            })?)
        }
    };
    let index = pending.last_index;
    let pending: HardState = pending.hard_state.into();
    let is_old = stored.raft.last_index < index
        || stored.raft.hard_state.commit < pending.commit
        || engines.log.read_entry(region, index)?.is_some();
    if is_old {
        let raft = RaftLocalState {
            hard_state: pending,
            last_index: index,
        };
        let mut batch = LogBatch::default();
        batch.clear_region(region);
        batch.state(region, raft.clone());
        engines.log.write(&batch, engines.options.durability)?;
        stored.raft = raft;
    }
    if let Some(import) = import {
        import.finish()?;
    }
    stored.region.state = PeerState::Normal;
    let mut batch = AppBatch::default();
    batch.put(Keyspace::RegionState, key, stored.region.encode_to_vec());
    batch.delete(Keyspace::SnapshotState, key);
    engines.app.write(&batch, engines.options.durability)
}

/// What a removed peer left: its log first, then, in one batch, its states and its data. If the apply
/// state is gone, so is the data, and somebody else may own the range by now.
fn remove_leftovers(engines: &Engines, tombstone: &RegionLocalState) -> Result<()> {
    let region = tombstone.region.region_id();
    let durability = engines.options.durability;
    if engines.log.read_state(region)?.is_some() {
        let mut batch = LogBatch::default();
        batch.clear_region(region);
        engines.log.write(&batch, durability)?;
    }
    let key = region_key(region);
    if engines.app.get(Keyspace::ApplyState, &key)?.is_none() {
        return Ok(());
    }
    let mut batch = AppBatch::default();
    if tombstone.region.is_initialized() {
        for keyspace in Keyspace::APPLICATION {
            batch.delete_range(keyspace, &tombstone.region.range());
        }
    }
    batch.delete(Keyspace::ApplyState, key);
    batch.delete(Keyspace::SnapshotState, key);
    engines.app.write(&batch, durability)?;
    remove_orphans(engines, region)
}

/// Snapshot files that nobody will ask for: what was built or received before this open. Not by the
/// worker: it might come too late, and take a file that was received again meanwhile.
fn remove_orphans(engines: &Engines, region: RegionId) -> Result<()> {
    for info in engines.snapshots.list(Some(region))? {
        // At once: the worker might come to it when the same file has been received again. One that is
        // still being sent is left to the worker; without it, the next open removes the file.
        if let Some(later) =
            SnapshotTask::Remove(info.key).run(&*engines.snapshots, &engines.tasks.needed)
        {
            let _ = engines.tasks.snapshot.send(later);
        }
    }
    Ok(())
}
