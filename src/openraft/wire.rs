//! The bytes of what openraft has stored: its entries, log ids, votes and memberships. Never does I/O.
//!
//! They are messages of this crate, so that they depend neither on serde nor on the version of openraft.
//! Their numbers and golden bytes are in `docs/data-model.md`.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{
    BasicNode, CommittedLeaderId, EntryPayload, LogId, Membership, StoredMembership, Vote,
};
use prost::Message as _;
use raft::eraftpb::Entry as RaftEntry;

use super::{Entry, KvCommand};
use crate::error::{Error, Result};
use crate::peer_storage::PendingFile;
use crate::proto::{RaftTruncatedState, decode};
use crate::types::RegionId;

/// Where an entry stands, and who led when it was proposed.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct WireLogId {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
    #[prost(uint64, tag = "3")]
    pub index: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct WireVote {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
    #[prost(bool, tag = "3")]
    pub committed: bool,
}

/// The voters of one of the configurations that a membership joins.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct WireConfig {
    #[prost(uint64, repeated, tag = "1")]
    pub voters: Vec<u64>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct WireNode {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub addr: String,
}

/// Nodes that vote in no configuration are learners.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct WireMembership {
    #[prost(message, repeated, tag = "1")]
    pub configs: Vec<WireConfig>,
    #[prost(message, repeated, tag = "2")]
    pub nodes: Vec<WireNode>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct WireStoredMembership {
    #[prost(message, optional, tag = "1")]
    pub log_id: Option<WireLogId>,
    #[prost(message, required, tag = "2")]
    pub membership: WireMembership,
}

/// In `Entry.context`. The numbers below 1000 are those of the store's own header, which finds nothing
/// here: for its tools these are entries with the user's bytes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct EntryContext {
    #[prost(uint64, tag = "1001")]
    node_id: u64,
    #[prost(message, optional, tag = "1002")]
    membership: Option<WireMembership>,
}

/// What a log knows beside its entries.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct LogMeta {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<WireVote>,
    #[prost(message, optional, tag = "2")]
    pub committed: Option<WireLogId>,
    #[prost(message, optional, tag = "3")]
    pub purged: Option<WireLogId>,
    /// The index of the first entry, or of the one that will be the first.
    #[prost(uint64, tag = "4")]
    pub first_index: u64,
}

/// What the state machine has come to, in the batch that carries the data. Its numbers below 1000 are
/// those of `RaftApplyState`, for its readers.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ApplyRecord {
    #[prost(uint64, tag = "1")]
    pub applied_index: u64,
    #[prost(message, required, tag = "2")]
    pub truncated_state: RaftTruncatedState,
    #[prost(uint64, tag = "4")]
    pub commit_index: u64,
    #[prost(uint64, tag = "5")]
    pub commit_term: u64,
    #[prost(message, optional, tag = "1001")]
    pub applied: Option<WireLogId>,
    #[prost(message, optional, tag = "1002")]
    pub membership: Option<WireStoredMembership>,
}

/// What a snapshot is of, in front of its content.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct About {
    #[prost(message, optional, tag = "1")]
    pub last_log_id: Option<WireLogId>,
    #[prost(message, required, tag = "2")]
    pub membership: WireStoredMembership,
}

/// The file of a snapshot that is being installed. The number is that of `PendingSnapshot`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct PendingInstall {
    #[prost(message, optional, tag = "1001")]
    pub file: Option<PendingFile>,
}

impl From<LogId<u64>> for WireLogId {
    fn from(id: LogId<u64>) -> Self {
        WireLogId {
            term: id.leader_id.term,
            node_id: id.leader_id.node_id,
            index: id.index,
        }
    }
}

impl From<WireLogId> for LogId<u64> {
    fn from(id: WireLogId) -> Self {
        LogId::new(CommittedLeaderId::new(id.term, id.node_id), id.index)
    }
}

impl From<Vote<u64>> for WireVote {
    fn from(vote: Vote<u64>) -> Self {
        WireVote {
            term: vote.leader_id.term,
            node_id: vote.leader_id.node_id,
            committed: vote.committed,
        }
    }
}

impl From<WireVote> for Vote<u64> {
    fn from(vote: WireVote) -> Self {
        match vote.committed {
            true => Vote::new_committed(vote.term, vote.node_id),
            false => Vote::new(vote.term, vote.node_id),
        }
    }
}

impl From<&Membership<u64, BasicNode>> for WireMembership {
    fn from(membership: &Membership<u64, BasicNode>) -> Self {
        let configs = membership.get_joint_config().iter();
        WireMembership {
            configs: configs
                .map(|voters| WireConfig {
                    voters: voters.iter().copied().collect(),
                })
                .collect(),
            nodes: membership
                .nodes()
                .map(|(id, node)| WireNode {
                    id: *id,
                    addr: node.addr.clone(),
                })
                .collect(),
        }
    }
}

impl From<WireMembership> for Membership<u64, BasicNode> {
    fn from(membership: WireMembership) -> Self {
        let configs = membership.configs.into_iter();
        let configs: Vec<BTreeSet<u64>> = configs
            .map(|config| config.voters.into_iter().collect())
            .collect();
        let nodes = membership.nodes.into_iter();
        let nodes: BTreeMap<u64, BasicNode> = nodes
            .map(|node| (node.id, BasicNode::new(node.addr)))
            .collect();
        Membership::new(configs, nodes)
    }
}

impl From<&StoredMembership<u64, BasicNode>> for WireStoredMembership {
    fn from(stored: &StoredMembership<u64, BasicNode>) -> Self {
        WireStoredMembership {
            log_id: stored.log_id().map(WireLogId::from),
            membership: stored.membership().into(),
        }
    }
}

impl From<WireStoredMembership> for StoredMembership<u64, BasicNode> {
    fn from(stored: WireStoredMembership) -> Self {
        StoredMembership::new(stored.log_id.map(LogId::from), stored.membership.into())
    }
}

impl ApplyRecord {
    /// After `applied`.
    pub fn new(applied: LogId<u64>, membership: &StoredMembership<u64, BasicNode>) -> Self {
        ApplyRecord {
            applied_index: applied.index,
            truncated_state: RaftTruncatedState::default(),
            commit_index: applied.index,
            commit_term: applied.leader_id.term,
            applied: Some(applied.into()),
            membership: Some(membership.into()),
        }
    }
}

/// As an entry of our log. A command is its data; who led and a membership are in its context.
pub(super) fn encode_entry(entry: &Entry) -> RaftEntry {
    let mut encoded = RaftEntry::default();
    let LogId { leader_id, index } = entry.log_id;
    (encoded.term, encoded.index) = (leader_id.term, index);
    let mut context = EntryContext {
        node_id: leader_id.node_id,
        membership: None,
    };
    match &entry.payload {
        EntryPayload::Blank => {}
        EntryPayload::Normal(command) => encoded.data = command.encode().into(),
        EntryPayload::Membership(membership) => context.membership = Some(membership.into()),
    }
    encoded.context = context.encode_to_vec().into();
    encoded
}

/// The entry again.
///
/// # Errors
/// `Corruption` if it is not one of [`encode_entry`].
pub(super) fn decode_entry(region: RegionId, entry: &RaftEntry) -> Result<Entry> {
    let context: EntryContext = decode(region, "entry context", &entry.context)?;
    let corrupt = |detail: &str| {
        let what = format!("entry {}", entry.index);
        Error::corruption(Some(region), what, detail)
    };
    let payload = match (context.membership, entry.data.is_empty()) {
        (None, true) => EntryPayload::Blank,
        (None, false) => {
            let command = KvCommand::decode(&entry.data);
            let what = "its data is not a command; was it written by raft-rs?";
            EntryPayload::Normal(command.ok_or_else(|| corrupt(what))?)
        }
        (Some(membership), true) => EntryPayload::Membership(membership.into()),
        (Some(_), false) => return Err(corrupt("it has a membership and a command, expected one")),
    };
    let leader = CommittedLeaderId::new(entry.term, context.node_id);
    Ok(Entry {
        log_id: LogId::new(leader, entry.index),
        payload,
    })
}

#[cfg(test)]
#[path = "wire/tests.rs"]
mod tests;
