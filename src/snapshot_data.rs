//! What travels in the `data` of raft's snapshot message: which file it means, or the file itself if
//! it is small. Uses: proto, snapshot_store, types, error. Never does I/O.

use prost::Message as _;
use raft::eraftpb::Snapshot;

use crate::error::{Error, Result};
use crate::proto::{Region, decode};
use crate::snapshot_store::{SnapshotId, SnapshotInfo, SnapshotKey, SnapshotTransfer};
use crate::types::{LogPosition, RegionId};

/// The content of `Snapshot.data`. Fields 1 to 5 are kvproto's RaftSnapshotData.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RaftSnapshotData {
    /// The region, with its range and epoch, as of the snapshot.
    #[prost(message, required, tag = "1")]
    pub region: Region,
    /// The bytes of the file.
    #[prost(uint64, tag = "2")]
    pub file_size: u64,
    /// The version of this message.
    #[prost(uint64, tag = "4")]
    pub version: u64,
    /// The whole file, if it is small enough to travel here; else it has to be transferred.
    #[prost(bytes = "vec", tag = "1001")]
    pub inline_file: Vec<u8>,
    /// The sequence of the file at its sender.
    #[prost(uint64, tag = "1002")]
    pub sequence: u64,
    /// The BLAKE3 digest of the content.
    #[prost(bytes = "vec", tag = "1003")]
    pub digest: Vec<u8>,
    /// The number that tells the file from others of the same content ([`SnapshotInfo::file_id`]). Who
    /// gives it can go on with a transfer that broke off; 0 if the sender is too old for that.
    #[prost(uint64, tag = "1004")]
    pub file_id: u64,
}

/// The version that is written, and the newest that is read.
pub const SNAPSHOT_DATA_VERSION: u64 = 1;

impl RaftSnapshotData {
    /// Describes the file `info`, with the file itself in `inline_file` if it is to travel along.
    pub fn of(info: &SnapshotInfo, inline_file: Vec<u8>) -> Self {
        RaftSnapshotData {
            region: info.meta.region.clone(),
            file_size: info.file_bytes,
            version: SNAPSHOT_DATA_VERSION,
            inline_file,
            sequence: info.key.id.sequence,
            digest: info.digest.to_vec(),
            file_id: info.file_id,
        }
    }

    /// Reads the data of a snapshot for `region`; nothing if it has none.
    ///
    /// # Errors
    /// `SnapshotRefused` if it is of a newer version, `Corruption` if it does not decode.
    pub fn of_snapshot(region: RegionId, snapshot: &Snapshot) -> Result<Option<Self>> {
        if snapshot.data.is_empty() {
            return Ok(None);
        }
        let data: RaftSnapshotData = decode(region, "RaftSnapshotData", &snapshot.data)?;
        if data.version > SNAPSHOT_DATA_VERSION {
            return Err(Error::SnapshotRefused {
                region,
                reason: format!(
                    "its data has version {}, this build reads up to {SNAPSHOT_DATA_VERSION}",
                    data.version
                ),
            });
        }
        Ok(Some(data))
    }

    /// The name of the file at its sender: what to give to `RaftSnapshotStorage::send`.
    pub fn key(&self, snapshot: &Snapshot) -> SnapshotKey {
        let position = position(snapshot);
        SnapshotKey {
            region: self.region.region_id(),
            id: SnapshotId {
                term: position.term,
                index: position.index,
                sequence: self.sequence,
            },
        }
    }

    /// The transfer of the file, if the sender can go on with one that broke off.
    pub fn transfer(&self, snapshot: &Snapshot) -> Option<SnapshotTransfer> {
        (self.file_id != 0).then(|| SnapshotTransfer {
            key: self.key(snapshot),
            file_id: self.file_id,
            file_bytes: self.file_size,
        })
    }

    /// Whether the file has to be transferred before the snapshot is installed.
    pub fn needs_transfer(&self) -> bool {
        self.inline_file.is_empty()
    }

    /// As raft's message.
    pub(crate) fn into_snapshot(self, info: &SnapshotInfo) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.data = self.encode_to_vec().into();
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = (info.meta.position.index, info.meta.position.term);
        meta.set_conf_state(info.meta.conf_state.clone());
        snapshot
    }
}

/// What `snapshot` covers.
pub(crate) fn position(snapshot: &Snapshot) -> LogPosition {
    let meta = snapshot.get_metadata();
    LogPosition::new(meta.term, meta.index)
}
