//! What the store itself writes into the log, beside the user's bytes. Uses: proto, types, error.
//! Never does I/O.
//!
//! The user's bytes are `Entry.data`, untouched. Whatever the store has to know of an entry is in
//! `Entry.context`: the version of the region that it was proposed for, and an admin command if it is
//! one. An entry without a context is a leader's first one, or was proposed by other means: it is taken
//! for the region as it is.

use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeV2, Entry, EntryType};
use raft_proto::ConfChangeI;

use crate::error::{Error, Result};
use crate::proto::{Peer, Region, decode};
use crate::types::{LogPosition, RegionId};

/// The content of `Entry.context`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EntryHeader {
    /// The version of the region's epoch when it was proposed; 0 says that it does not matter.
    #[prost(uint64, tag = "1")]
    pub version: u64,
    /// Set on entries that are the store's own.
    #[prost(oneof = "AdminCommand", tags = "2, 3, 4, 5, 6, 7")]
    pub admin: Option<AdminCommand>,
}

/// What the store does to a region, on every replica alike.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum AdminCommand {
    /// With a conf change: where the peers that come in live.
    #[prost(message, tag = "2")]
    ChangePeers(ChangePeers),
    /// Cuts the range in two.
    #[prost(message, tag = "3")]
    Split(Split),
    /// Drops the front of the log.
    #[prost(message, tag = "4")]
    CompactLog(CompactLog),
    /// The source of a merge stops.
    #[prost(message, tag = "5")]
    PrepareMerge(PrepareMerge),
    /// The target of a merge takes the source in.
    #[prost(message, tag = "6")]
    CommitMerge(CommitMerge),
    /// The source goes on by itself.
    #[prost(message, tag = "7")]
    RollbackMerge(RollbackMerge),
}

/// See [`AdminCommand::ChangePeers`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChangePeers {
    /// The peers that come in.
    #[prost(message, repeated, tag = "1")]
    pub peers: Vec<Peer>,
}

/// See [`AdminCommand::Split`]. The region keeps what is below the key.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Split {
    /// The first key of the new region.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The id of the new region.
    #[prost(uint64, tag = "2")]
    pub region_id: u64,
    /// The ids of its peers, one for each peer of the region, in their order.
    #[prost(uint64, repeated, tag = "3")]
    pub peer_ids: Vec<u64>,
}

/// See [`AdminCommand::CompactLog`].
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct CompactLog {
    /// The last index that is dropped.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Its term.
    #[prost(uint64, tag = "2")]
    pub term: u64,
}

/// See [`AdminCommand::PrepareMerge`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct PrepareMerge {
    /// Every replica of the source has its log up to here.
    #[prost(uint64, tag = "1")]
    pub min_index: u64,
    /// The target, as it has to be when it takes the source in.
    #[prost(message, required, tag = "2")]
    pub target: Region,
}

/// See [`AdminCommand::CommitMerge`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct CommitMerge {
    /// The source, as it became by its preparation.
    #[prost(message, required, tag = "1")]
    pub source: Region,
    /// The index of the entry that prepared it: the last of the source.
    #[prost(uint64, tag = "2")]
    pub commit: u64,
    /// The position before `entries`.
    #[prost(uint64, tag = "3")]
    pub before_index: u64,
    /// Its term.
    #[prost(uint64, tag = "4")]
    pub before_term: u64,
    /// The source's entries up to `commit`, as raft's messages: a replica may not have them all.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub entries: Vec<Vec<u8>>,
    /// The target as it was when the source was prepared: it is taken in then, or never.
    #[prost(message, required, tag = "6")]
    pub target: Region,
}

/// See [`AdminCommand::RollbackMerge`].
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct RollbackMerge {
    /// The index of the entry that prepared the merge which is given up.
    #[prost(uint64, tag = "1")]
    pub commit: u64,
}

impl EntryHeader {
    /// Of an entry with the user's bytes.
    pub fn data(version: u64) -> Self {
        EntryHeader {
            version,
            admin: None,
        }
    }

    /// Of the store's own.
    pub fn admin(version: u64, command: AdminCommand) -> Self {
        EntryHeader {
            version,
            admin: Some(command),
        }
    }

    /// Of `entry`, which may have none.
    ///
    /// # Errors
    /// `Corruption`: it was replicated as it is, so every replica says the same.
    pub fn of(region: RegionId, entry: &Entry) -> Result<Self> {
        if entry.context.is_empty() {
            return Ok(EntryHeader::default());
        }
        decode(region, "entry header", &entry.context)
    }

    /// As `Entry.context`.
    pub fn to_context(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

/// Whether `entry` changes the configuration of raft.
pub fn is_conf_change(entry: &Entry) -> bool {
    entry.get_entry_type() != EntryType::EntryNormal
}

/// Where `entry` stands.
pub fn position_of(entry: &Entry) -> LogPosition {
    LogPosition::new(entry.term, entry.index)
}

/// The change of raft's configuration that `entry` holds.
///
/// # Errors
/// `Corruption` if it does not decode.
pub fn conf_change_of(region: RegionId, entry: &Entry) -> Result<ConfChangeV2> {
    let corrupt = |e: protobuf::ProtobufError| {
        let what = format!("conf change {}", entry.index);
        Error::corruption(Some(region), what, e.to_string())
    };
    let mut change = ConfChangeV2::default();
    if entry.get_entry_type() == EntryType::EntryConfChange {
        let mut simple = ConfChange::default();
        simple.merge_from_bytes(&entry.data).map_err(corrupt)?;
        return Ok(simple.into_v2());
    }
    change.merge_from_bytes(&entry.data).map_err(corrupt)?;
    Ok(change)
}
