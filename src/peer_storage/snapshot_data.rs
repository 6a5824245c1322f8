//! What is saved about a snapshot that is being installed. Uses: proto, snapshot_store. Never does I/O.

use crate::proto::wire;
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
