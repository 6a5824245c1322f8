//! What d-engine keeps beside entries and data, and its entries as raft-rs's. Never does I/O.

use d_engine_core::Error;
use d_engine_core::HardState;
use d_engine_proto::common::{Entry, LogId};
use d_engine_proto::server::election::VotedFor;
use d_engine_proto::server::storage::SnapshotMetadata;
use peerstore::{SnapshotId, SnapshotKey};
use prost::Message as _;
use raft::eraftpb;

use crate::error;

/// What lies beside the log: the data of the one entry of a region of its own, so that it is written in
/// the batch of the entries, and with their fsync.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RaftRecord {
    /// The last one saved.
    #[prost(message, optional, tag = "1")]
    pub hard_state: Option<HardStateRecord>,
    /// The last entry that was purged.
    #[prost(message, optional, tag = "2")]
    pub purged: Option<LogId>,
    /// The first entry that the log has, if it has any.
    #[prost(uint64, tag = "3")]
    pub first_index: u64,
}

/// d-engine's own has no form but serde's.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HardStateRecord {
    #[prost(uint64, tag = "1")]
    pub current_term: u64,
    #[prost(message, optional, tag = "2")]
    pub voted_for: Option<VotedFor>,
}

/// What lies beside the applied index.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SnapshotRecord {
    /// The last snapshot that was generated or applied.
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<SnapshotMetadata>,
    /// One that is being applied: half of it may be there, and it has to be applied again.
    #[prost(message, optional, tag = "2")]
    pub pending: Option<PendingRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PendingRecord {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub index: u64,
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    #[prost(message, required, tag = "4")]
    pub metadata: SnapshotMetadata,
}

impl PendingRecord {
    pub fn new(key: &SnapshotKey, metadata: &SnapshotMetadata) -> Self {
        PendingRecord {
            term: key.id.term,
            index: key.id.index,
            sequence: key.id.sequence,
            metadata: metadata.clone(),
        }
    }

    pub fn id(&self) -> SnapshotId {
        SnapshotId {
            term: self.term,
            index: self.index,
            sequence: self.sequence,
        }
    }
}

impl From<&HardState> for HardStateRecord {
    fn from(state: &HardState) -> Self {
        HardStateRecord {
            current_term: state.current_term,
            voted_for: state.voted_for,
        }
    }
}

impl From<HardStateRecord> for HardState {
    fn from(record: HardStateRecord) -> Self {
        HardState {
            current_term: record.current_term,
            voted_for: record.voted_for,
        }
    }
}

/// Reads the bytes of a record.
///
/// # Errors
/// `DataCorruption` if they are none.
pub(crate) fn decode<M: prost::Message + Default>(what: &str, bytes: &[u8]) -> Result<M, Error> {
    M::decode(bytes).map_err(|e| error::damaged(format!("{what}: {e}")))
}

/// d-engine's entry as one of raft-rs: index and term in its own fields, the payload in its data, in the
/// bytes of a d-engine entry that has nothing else, because a missing payload is not an empty one.
pub(crate) fn to_raft(entry: Entry) -> eraftpb::Entry {
    let mut raft = eraftpb::Entry::default();
    (raft.index, raft.term) = (entry.index, entry.term);
    let payload = Entry {
        index: 0,
        term: 0,
        payload: entry.payload,
    };
    raft.data = payload.encode_to_vec().into();
    raft
}

/// The entry that [`to_raft`] was given.
///
/// # Errors
/// `DataCorruption` if its data is no payload of d-engine.
pub(crate) fn from_raft(entry: eraftpb::Entry) -> Result<Entry, Error> {
    let what = format!("entry {}", entry.index);
    let payload: Entry = Entry::decode(entry.data)
        .map_err(|e| error::damaged(format!("{what}: not an entry of d-engine: {e}")))?;
    Ok(Entry {
        index: entry.index,
        term: entry.term,
        ..payload
    })
}
