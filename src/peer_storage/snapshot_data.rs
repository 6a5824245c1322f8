//! What is saved about a snapshot that is being installed, and what one is of. Uses: proto, snapshot_store,
//! app_store.

use crate::app_store::{DataRead, Keyspace};
use crate::error::{Error, Result};
use crate::keys::region_key;
use crate::proto::{RaftApplyState, RegionLocalState, wire};
use crate::snapshot_store::{SnapshotId, SnapshotKey};
use crate::types::RegionId;

/// A snapshot that is being installed, saved with the Applying state so that a crash can go on: the
/// raft state that the log gets with it, and the file to read. Its first two fields are
/// RaftLocalState's.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PendingSnapshot {
    #[prost(message, required, tag = "1")]
    pub hard_state: wire::HardState,
    #[prost(uint64, tag = "2")]
    pub last_index: u64,
    /// Set if the snapshot has a file; one without leaves the data alone.
    #[prost(message, optional, tag = "1001")]
    pub file: Option<PendingFile>,
    /// Set if the region goes back to a snapshot of its own: whatever its log is, it goes. Behind one that
    /// a leader sent there may be entries that were acknowledged.
    #[prost(bool, tag = "1002")]
    pub is_restore: bool,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct PendingFile {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub index: u64,
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
}

impl From<SnapshotId> for PendingFile {
    fn from(id: SnapshotId) -> Self {
        PendingFile {
            term: id.term,
            index: id.index,
            sequence: id.sequence,
        }
    }
}

impl PendingFile {
    pub fn key(&self, region: RegionId) -> SnapshotKey {
        let id = SnapshotId {
            term: self.term,
            index: self.index,
            sequence: self.sequence,
        };
        SnapshotKey { region, id }
    }
}

/// The states of `region` as `view` has them.
///
/// # Errors
/// `RegionNotFound` if it has none; `Corruption` if one is missing or does not decode.
pub(super) fn read_states(
    view: &dyn DataRead,
    region: RegionId,
) -> Result<(RaftApplyState, RegionLocalState)> {
    let key = region_key(region);
    let state = view.get(Keyspace::RegionState, &key)?;
    let state = state.ok_or(Error::RegionNotFound { region })?;
    let state = RegionLocalState::decode_of(region, &state)?;
    if state.state == crate::proto::PeerState::Tombstone {
        return Err(Error::RegionNotFound { region });
    }
    let apply = view.get(Keyspace::ApplyState, &key)?;
    let missing = || Error::corruption(Some(region), "RaftApplyState", "missing in the data store");
    let apply = RaftApplyState::decode_of(region, &apply.ok_or_else(missing)?)?;
    Ok((apply, state))
}
