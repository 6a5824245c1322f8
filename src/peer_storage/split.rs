//! A region begins by the split of its neighbour. Uses: create, recovery's states.

use std::sync::Arc;

use raft::eraftpb::HardState;

use super::create::{add_log, add_states, build_new, check_region, initial};
use super::open::read_region;
use super::recovery::Stored;
use super::{Engines, Ownership, PeerStorage};
use crate::app_store::AppBatch;
use crate::error::{Error, Result};
use crate::proto::{PeerState, Region, RegionLocalState};
use crate::raft_log::LogBatch;
use crate::types::PeerId;

/// A region that a split makes, between the parent's shrinking and its own first write (rule 26). Its
/// writes are made by two batches that carry more than it:
///
/// 1. [`NewRegion::add_to_log`], durable before the other; a crash behind it leaves a log that no region
///    owns, or that of a peer which still waits for its region, and `open` knows that one again;
/// 2. [`NewRegion::add_to_app`], with the parent's smaller range. From here on the region is there.
///
/// It owns its region meanwhile.
pub(crate) struct NewRegion {
    stored: Stored,
    ownership: Arc<Ownership>,
}

impl NewRegion {
    /// Plans `region`, of which `peer` is this node's. `absorbed` is the hard state of a peer of the
    /// same id that messages have made here before the split was applied; it was dropped just now, and
    /// everything that it had staged is in the log before this is. Its term and vote stay, or it could
    /// vote twice in a term (rule 8).
    ///
    /// # Errors
    /// `RegionExists` if the region has its peers already, or a newer peer of it waits here;
    /// `RegionTombstone` if `peer` was removed; `RegionOpen` if somebody owns it, `InvalidArgument` if
    /// it cannot be. The first two mean that the split has nothing to create here any more.
    pub fn of_split(
        engines: &Arc<Engines>,
        region: &Region,
        peer: PeerId,
        absorbed: Option<&HardState>,
    ) -> Result<Self> {
        check_region(region, peer)?;
        let id = region.region_id();
        let ownership = engines.open_regions.acquire(id)?;
        let mut stored = initial(region, peer);
        let is_tombstone = |old: &RegionLocalState| old.state == PeerState::Tombstone;
        match read_region(engines, id)? {
            Some(old) if is_tombstone(&old) && peer <= old.peer_id => {
                return Err(Error::RegionTombstone {
                    region: id,
                    peer: old.peer_id.0,
                });
            }
            Some(old) if is_tombstone(&old) => {}
            None => {}
            Some(old) if old.region.is_initialized() || old.peer_id > peer => {
                return Err(Error::RegionExists { region: id });
            }
            // Whoever plans this may not know of the peer that waits; what is in the log counts too.
            Some(_) => {
                let durable = engines.log.read_state(id)?.unwrap_or_default();
                keep_vote(&mut stored.raft.hard_state, &durable.hard_state);
            }
        }
        if let Some(absorbed) = absorbed {
            keep_vote(&mut stored.raft.hard_state, absorbed);
        }
        Ok(NewRegion { stored, ownership })
    }

    /// The first raft state, in the place of whatever log there was.
    pub fn add_to_log(&self, batch: &mut LogBatch) {
        add_log(&self.stored, batch);
        batch.require_sync();
    }

    /// The region's states. The data is there already: it was the parent's.
    pub fn add_to_app(&self, batch: &mut AppBatch) {
        add_states(&self.stored, batch);
    }

    /// The storage of the region, once both are written. Reads nothing.
    pub fn into_storage(self, engines: &Arc<Engines>) -> PeerStorage {
        build_new(engines, self.stored, self.ownership)
    }
}

/// Raises `hard_state` to what a peer has promised before.
fn keep_vote(hard_state: &mut HardState, promised: &HardState) {
    if promised.term >= hard_state.term {
        let vote = match hard_state.vote {
            // Of two states of one term, the one with a vote is the later.
            own if promised.term == hard_state.term && promised.vote == 0 => own,
            _ => promised.vote,
        };
        (hard_state.term, hard_state.vote) = (promised.term, vote);
    }
}

#[cfg(test)]
mod tests;
