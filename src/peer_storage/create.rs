//! A region begins: created by its user, or by a message. Uses: the seams, recovery's states.

use std::sync::Arc;

use raft::eraftpb::HardState;

use super::coordinated::remove_record;
use super::destroy::remove_leftovers;
use super::open::read_region;
use super::recovery::Stored;
use super::{Engines, Ownership, PeerStorage};
use crate::app_store::{AppBatch, Keyspace};
use crate::conf::check_conf_state;
use crate::error::{Error, Result};
use crate::keys::region_key;
use crate::proto::{
    INITIAL_INDEX, INITIAL_TERM, PeerState, RaftApplyState, RaftLocalState, RaftTruncatedState,
    Region, RegionLocalState,
};
use crate::raft_log::LogBatch;
use crate::types::{PeerId, RegionId};

impl PeerStorage {
    /// Creates `region` with its peers, of which `peer` is this node's: from [`INITIAL_INDEX`] and
    /// [`INITIAL_TERM`] on, the same on every node that creates it. Durable on return.
    ///
    /// # Errors
    /// `RegionExists`, `RegionTombstone` unless `peer` is larger than the one that was removed,
    /// `InvalidArgument` if the region cannot be.
    pub(crate) fn create(engines: &Arc<Engines>, region: &Region, peer: PeerId) -> Result<Self> {
        check_region(region, peer)?;
        write_new(engines, initial(region, peer))
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
}

/// The states that every peer of a region begins with.
pub(super) fn initial(region: &Region, peer: PeerId) -> Stored {
    let mut hard_state = HardState::default();
    (hard_state.term, hard_state.commit) = (INITIAL_TERM, INITIAL_INDEX);
    Stored {
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
    }
}

fn check_peer_id(region: RegionId, peer: PeerId) -> Result<()> {
    if peer.0 == 0 {
        return Err(Error::invalid(region, "peer id", "0", "a positive number"));
    }
    Ok(())
}

pub(super) fn check_region(region: &Region, peer: PeerId) -> Result<()> {
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
    engines.tasks.needed.forget(region);
    let durability = engines.options.durability;
    let mut log = LogBatch::default();
    add_log(&stored, &mut log);
    engines.log.write(&log, durability)?;
    let mut app = AppBatch::default();
    add_states(&stored, &mut app);
    engines.app.write(&app, durability)?;
    Ok(build_new(engines, stored, ownership))
}

pub(super) fn add_log(stored: &Stored, batch: &mut LogBatch) {
    let region = stored.region.region.region_id();
    batch.clear_region(region);
    batch.state(region, stored.raft.clone());
}

pub(super) fn add_states(stored: &Stored, batch: &mut AppBatch) {
    let key = region_key(stored.region.region.region_id());
    batch.put(Keyspace::RegionState, key, stored.region.encode_to_vec());
    batch.put(Keyspace::ApplyState, key, stored.apply.encode_to_vec());
    batch.delete(Keyspace::SnapshotState, key);
    remove_record(stored.region.region.region_id(), batch);
}

pub(super) fn build_new(
    engines: &Arc<Engines>,
    stored: Stored,
    ownership: Arc<Ownership>,
) -> PeerStorage {
    let (term, start) = (stored.apply.truncated().term, stored.raft.last_index + 1);
    PeerStorage::build(engines, stored, term, start, ownership)
}
