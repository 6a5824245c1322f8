//! A region is found again after a restart. Uses: the seams, recovery, install.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::Arc;

use raft::eraftpb::HardState;

use super::behind::Behind;
use super::coordinated::read_record;
use super::destroy::{remove_leftovers, remove_orphans};
use super::install::stage_import;
use super::log_bytes::LogBytes;
use super::recovery::{Refusal, Stored};
use super::snapshot::Slot;
use super::snapshot_data::PendingSnapshot;
use super::term_runs::TermRuns;
use super::upkeep::Upkeep;
use super::{Engines, Ownership, PeerStorage};
use crate::app_store::{AppBatch, Keyspace};
use crate::entry_cache::EntryCache;
use crate::error::{Error, RecoveryError, Result};
use crate::keys::region_key;
use crate::proto::{
    INITIAL_INDEX, INITIAL_TERM, PeerState, RaftApplyState, RaftLocalState, RegionLocalState,
    decode,
};
use crate::raft_log::LogBatch;
use crate::types::{KeyRange, LogPosition, RegionId};

impl PeerStorage {
    /// Opens a region that is on this node: finishes a snapshot that was being installed, then checks
    /// everything that raft relies on.
    ///
    /// # Errors
    /// `RegionNotFound`, `RegionTombstone`, `RegionOpen`; `Recovery` with what contradicts what, if the
    /// stored states do; `Corruption` if one does not decode. Nothing has changed then, except that an
    /// install may have come further and what a removed peer left was removed.
    pub(crate) fn open(engines: &Arc<Engines>, region: RegionId) -> Result<Self> {
        let ownership = engines.open_regions.acquire(region)?;
        if engines.open_regions.is_doubtful(region) {
            // What is read may not be what the disk says. A store that is well again can tell; one that
            // is poisoned cannot, and whoever went on now would lose what he acknowledges.
            engines.app.sync()?;
            engines.open_regions.trust(region);
        }
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
        if is_half_split(engines, &stored)? {
            stored.raft.last_index = 0;
            stored.raft.hard_state.commit = 0;
        }
        let term_of = |index| Ok(engines.log.read_entry(region, index)?.map(|e| e.term));
        let last_term = stored.check(term_of).map_err(|refusal| match refusal {
            Refusal::Rule(source) => Error::Recovery { region, source },
            Refusal::Read(error) => error,
        })?;
        // An install that failed without a restart has left its file in need until now.
        engines.tasks.needed.release_region(region);
        if let Some(kept) = read_record(&*engines.app, region, stored.region.peer_id)? {
            engines.tasks.needed.keep(kept);
        }
        if engines.options.retention.is_none() {
            remove_orphans(engines, region)?;
        }
        let storage = PeerStorage::build(engines, stored, last_term, 0, ownership);
        Ok(storage)
    }

    /// Puts together what is in memory of a region whose states were checked.
    pub(super) fn build(
        engines: &Arc<Engines>,
        stored: Stored,
        last_term: u64,
        log_start: u64,
        ownership: Arc<Ownership>,
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
            upkeep: Upkeep::default(),
            behind: Behind::default(),
            log_bytes: RefCell::new(LogBytes::Unknown {
                old_end: last_index + 1,
                added: 0,
            }),
            staged: 0,
            slot: RefCell::new(Slot::default()),
            fetches: RefCell::new(None),
            ownership,
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
    scan_regions(engines, &mut |found| {
        match found {
            Ok(state) if state.state != PeerState::Tombstone => regions.push(state),
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "a region is left out of the list"),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(regions)
}

/// The ids of the regions of a node that were not removed, ascending, those whose state is damaged among
/// them: opening one says what is wrong.
///
/// # Errors
/// Those of the data store.
pub fn region_ids(engines: &Engines) -> Result<Vec<RegionId>> {
    let mut ids = Vec::new();
    let all = KeyRange::all();
    (engines.app).scan(Keyspace::RegionState, &all, &mut |key, value| {
        let removed = decode_region(key, value).is_ok_and(|s| s.state == PeerState::Tombstone);
        ids.extend(crate::keys::parse_region_key(key).filter(|_| !removed));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(ids)
}

/// Visits the state of every region of a node, ascending by id, also of those that were removed.
pub(super) fn scan_regions(
    engines: &Engines,
    visit: &mut dyn FnMut(Result<RegionLocalState>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let all = KeyRange::all();
    (engines.app).scan(Keyspace::RegionState, &all, &mut |key, value| {
        visit(decode_region(key, value))
    })
}

fn decode_region(key: &[u8], value: &[u8]) -> Result<RegionLocalState> {
    let Some(region) = crate::keys::parse_region_key(key) else {
        let detail = format!("\"{}\", expected 8 bytes", key.escape_ascii());
        return Err(Error::corruption(None, "key in region_state", detail));
    };
    RegionLocalState::decode_of(region, value)
}

/// What this node knows about `region`, tombstones included.
///
/// # Errors
/// `Corruption` if it does not decode, else those of the data store.
pub fn read_region(engines: &Engines, region: RegionId) -> Result<Option<RegionLocalState>> {
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

/// Whether a split got no further than its new region's log: a peer waits for its region, and the log is
/// that of a region which has just begun (rule 26). What it promised is in that log, and stays; the rest
/// is not true yet. Entries would make it a log of the peer's own.
fn is_half_split(engines: &Engines, stored: &Stored) -> Result<bool> {
    let begun = stored.raft.last_index == INITIAL_INDEX
        && stored.raft.hard_state.commit == INITIAL_INDEX
        && stored.raft.hard_state.term >= INITIAL_TERM;
    if stored.region.region.is_initialized() || stored.apply != RaftApplyState::default() || !begun
    {
        return Ok(false);
    }
    let region = stored.region.region.region_id();
    for index in 1..INITIAL_INDEX + 1 {
        if engines.log.read_entry(region, index)?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Goes on with a snapshot whose install was interrupted (rules 10 and 11).
///
/// If the log is still the old one, it is wiped now. An old log ends before the snapshot, or it holds
/// the entry at the snapshot's index, because a leader's is only taken from first_index on; the log
/// that the install writes begins behind that entry. A restore wipes it whatever it is. Commit and last index alone cannot tell: the old
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
    let is_restore = pending.is_restore;
    let pending: HardState = pending.hard_state.into();
    let is_old = is_restore
        || stored.raft.last_index < index
        || stored.raft.hard_state.term < pending.term
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
