//! What is stored about a region, and its bytes. Uses: types, error. Never does I/O.
//!
//! The field numbers are kvproto's, so that tools which know TiKV's messages can decode these; fields
//! of our own are numbered above 1000. The bytes never depend on the codec that raft-rs was built
//! with: its `HardState` and `ConfState` go through the private structs of [`wire`].

use prost::Message as _;
use raft::eraftpb::{ConfState, HardState};

use crate::error::{Error, Result};
use crate::types::{KeyRange, LogPosition, PeerId, RegionId};

/// The index and term that a region created with peers starts from, so that a peer which joins later
/// with an empty log is always behind it and gets a snapshot (TiKV's RAFT_INIT_LOG_INDEX and _TERM).
pub const INITIAL_INDEX: u64 = 5;
/// See [`INITIAL_INDEX`].
pub const INITIAL_TERM: u64 = 5;

/// The raft state of one region, kept in the log store: written in the batch that carries its entries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RaftLocalState {
    /// Term, vote and commit.
    pub hard_state: HardState,
    /// The index of the last entry of the log, or the truncated index if it has none.
    pub last_index: u64,
}

/// The apply state of one region, kept beside its data: written in the batch that carries the data.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RaftApplyState {
    /// The state machine contains every entry up to this index, inclusive.
    #[prost(uint64, tag = "1")]
    pub applied_index: u64,
    /// The position of the last entry that was dropped from the front of the log.
    #[prost(message, required, tag = "2")]
    pub truncated_state: RaftTruncatedState,
    /// An index known to be committed when this was written; never beyond the persisted log.
    #[prost(uint64, tag = "4")]
    pub commit_index: u64,
    /// The term of the entry at `commit_index`.
    #[prost(uint64, tag = "5")]
    pub commit_term: u64,
}

/// The position before the first entry of a log: the entry is gone, its term is still known.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RaftTruncatedState {
    /// The index of the last dropped entry; first_index is one more.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// The term of that entry.
    #[prost(uint64, tag = "2")]
    pub term: u64,
}

/// How far the configuration and the key range of a region have come.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RegionEpoch {
    /// Grows with each change of the members.
    #[prost(uint64, tag = "1")]
    pub conf_ver: u64,
    /// Grows with each split and merge.
    #[prost(uint64, tag = "2")]
    pub version: u64,
}

/// The part that a peer plays in its region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum PeerRole {
    /// Votes.
    Voter = 0,
    /// Receives the log, does not vote.
    Learner = 1,
    /// In a joint configuration: votes in the incoming one only.
    IncomingVoter = 2,
    /// In a joint configuration: votes in the outgoing one and then becomes a learner.
    DemotingVoter = 3,
}

/// One replica of a region and the store that it lives on.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Peer {
    /// The id of the peer; raft-rs's node id.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The id of the store.
    #[prost(uint64, tag = "2")]
    pub store_id: u64,
    /// See [`PeerRole`]; read it with [`Peer::role`].
    #[prost(enumeration = "PeerRole", tag = "3")]
    pub role: i32,
}

/// A raft group: its key range, its epoch and its peers.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Region {
    /// The id of the region.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The first key of the range.
    #[prost(bytes = "vec", tag = "2")]
    pub start_key: Vec<u8>,
    /// The first key behind the range; empty for no bound.
    #[prost(bytes = "vec", tag = "3")]
    pub end_key: Vec<u8>,
    /// See [`RegionEpoch`].
    #[prost(message, required, tag = "4")]
    pub region_epoch: RegionEpoch,
    /// The replicas. Empty where they are not known yet: an uninitialised peer.
    #[prost(message, repeated, tag = "5")]
    pub peers: Vec<Peer>,
}

impl Region {
    /// A region of one voter that holds every key: the start of a group that grows by conf change.
    ///
    /// ```
    /// let region = peerstore::Region::single(1, 1);
    /// assert_eq!(region.peers[0].id, 1);
    /// assert!(region.range().contains(b"any key"));
    /// ```
    pub fn single(region_id: impl Into<RegionId>, peer_id: impl Into<PeerId>) -> Self {
        let id = peer_id.into();
        Region::with_voters(region_id, KeyRange::all(), [(id, id.0)])
    }

    /// A region over `range` whose peers, given as (peer id, store id), are all voters.
    pub fn with_voters(
        region_id: impl Into<RegionId>,
        range: KeyRange,
        voters: impl IntoIterator<Item = (PeerId, u64)>,
    ) -> Self {
        let peer = |(id, store_id): (PeerId, u64)| Peer {
            id: id.0,
            store_id,
            role: PeerRole::Voter as i32,
        };
        Region {
            id: region_id.into().0,
            start_key: range.start,
            end_key: range.end,
            region_epoch: RegionEpoch {
                conf_ver: 1,
                version: 1,
            },
            peers: voters.into_iter().map(peer).collect(),
        }
    }

    /// The id, typed.
    pub fn region_id(&self) -> RegionId {
        RegionId(self.id)
    }

    /// The keys of the region.
    pub fn range(&self) -> KeyRange {
        KeyRange::new(self.start_key.clone(), self.end_key.clone())
    }

    /// Whether its peers are known. A peer that was made by a message knows only its own id until a
    /// snapshot arrives.
    pub fn is_initialized(&self) -> bool {
        !self.peers.is_empty()
    }

    /// The configuration that the roles of the peers describe.
    pub fn conf_state(&self) -> ConfState {
        let mut conf_state = ConfState::default();
        let joint = (self.peers.iter())
            .any(|p| matches!(p.role(), PeerRole::IncomingVoter | PeerRole::DemotingVoter));
        for peer in &self.peers {
            let (incoming, outgoing, learner, demoted) = match peer.role() {
                PeerRole::Voter => (true, joint, false, false),
                PeerRole::Learner => (false, false, true, false),
                PeerRole::IncomingVoter => (true, false, false, false),
                PeerRole::DemotingVoter => (false, true, false, true),
            };
            let push = |wanted: bool, list: &mut Vec<u64>| {
                if wanted {
                    list.push(peer.id);
                }
            };
            push(incoming, &mut conf_state.voters);
            push(outgoing, &mut conf_state.voters_outgoing);
            push(learner, &mut conf_state.learners);
            push(demoted, &mut conf_state.learners_next);
        }
        conf_state
    }
}

/// What a peer may do. Stored with the region; the state of its data, not raft's role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// Takes part.
    #[default]
    Normal,
    /// A snapshot is being installed: the data is incomplete until it is done.
    Applying,
    /// Removed for ever; only a larger peer id may come back.
    Tombstone,
    /// Waits to be merged into its neighbour.
    Merging,
}

/// How far a merge of this region into its neighbour has come.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MergeState {
    /// The smallest index that the target may need of the source's log.
    #[prost(uint64, tag = "1")]
    pub min_index: u64,
    /// The region that takes this one in.
    #[prost(message, optional, tag = "2")]
    pub target: Option<Region>,
    /// The source's commit index when the merge was prepared.
    #[prost(uint64, tag = "3")]
    pub commit: u64,
}

/// The region as this node knows it, kept beside its data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegionLocalState {
    /// See [`PeerState`].
    pub state: PeerState,
    /// The range, epoch and peers.
    pub region: Region,
    /// Set while the state is [`PeerState::Merging`].
    pub merge_state: Option<MergeState>,
    /// The id of this node's own peer of the region.
    pub peer_id: PeerId,
    /// The configuration that raft uses: stored as it is, because the roles of the peers alone would
    /// lose `auto_leave`.
    pub conf_state: ConfState,
}

/// Who a store is. Compared at each open with what the config says.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct StoreIdent {
    /// The cluster that the store belongs to.
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    /// The id of the store in its cluster.
    #[prost(uint64, tag = "2")]
    pub store_id: u64,
}

/// The private structs that fix the bytes of raft-rs's own types, whatever codec it was built with.
pub(crate) mod wire {
    use super::{MergeState, Region};

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct HardState {
        #[prost(uint64, tag = "1")]
        pub term: u64,
        #[prost(uint64, tag = "2")]
        pub vote: u64,
        #[prost(uint64, tag = "3")]
        pub commit: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ConfState {
        #[prost(uint64, repeated, tag = "1")]
        pub voters: Vec<u64>,
        #[prost(uint64, repeated, tag = "2")]
        pub learners: Vec<u64>,
        #[prost(uint64, repeated, tag = "3")]
        pub voters_outgoing: Vec<u64>,
        #[prost(uint64, repeated, tag = "4")]
        pub learners_next: Vec<u64>,
        #[prost(bool, tag = "5")]
        pub auto_leave: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct RaftLocalState {
        #[prost(message, required, tag = "1")]
        pub hard_state: HardState,
        #[prost(uint64, tag = "2")]
        pub last_index: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct RegionLocalState {
        #[prost(int32, tag = "1")]
        pub state: i32,
        #[prost(message, required, tag = "2")]
        pub region: Region,
        #[prost(message, optional, tag = "3")]
        pub merge_state: Option<MergeState>,
        #[prost(message, required, tag = "1001")]
        pub conf_state: ConfState,
        #[prost(uint64, tag = "1002")]
        pub peer_id: u64,
    }
}

impl From<&HardState> for wire::HardState {
    fn from(s: &HardState) -> Self {
        wire::HardState {
            term: s.term,
            vote: s.vote,
            commit: s.commit,
        }
    }
}

impl From<wire::HardState> for HardState {
    fn from(s: wire::HardState) -> Self {
        let mut state = HardState::default();
        (state.term, state.vote, state.commit) = (s.term, s.vote, s.commit);
        state
    }
}

impl From<&ConfState> for wire::ConfState {
    fn from(s: &ConfState) -> Self {
        wire::ConfState {
            voters: s.voters.clone(),
            learners: s.learners.clone(),
            voters_outgoing: s.voters_outgoing.clone(),
            learners_next: s.learners_next.clone(),
            auto_leave: s.auto_leave,
        }
    }
}

impl From<wire::ConfState> for ConfState {
    fn from(s: wire::ConfState) -> Self {
        let mut state = ConfState::from((s.voters, s.learners));
        state.voters_outgoing = s.voters_outgoing;
        state.learners_next = s.learners_next;
        state.auto_leave = s.auto_leave;
        state
    }
}

impl RaftLocalState {
    /// Its bytes.
    pub fn encode_to_vec(&self) -> Vec<u8> {
        let state = wire::RaftLocalState {
            hard_state: (&self.hard_state).into(),
            last_index: self.last_index,
        };
        state.encode_to_vec()
    }

    /// Reads the bytes of [`RaftLocalState::encode_to_vec`]; `region` is named in the error.
    ///
    /// # Errors
    /// [`Error::Corruption`] if they are not such bytes.
    pub fn decode_of(region: RegionId, bytes: &[u8]) -> Result<Self> {
        let state: wire::RaftLocalState = decode(region, "RaftLocalState", bytes)?;
        Ok(RaftLocalState {
            hard_state: state.hard_state.into(),
            last_index: state.last_index,
        })
    }
}

impl RaftApplyState {
    /// The truncated position.
    pub fn truncated(&self) -> LogPosition {
        LogPosition::new(self.truncated_state.term, self.truncated_state.index)
    }

    /// Its bytes, as they lie in [`Keyspace::ApplyState`](crate::Keyspace::ApplyState) under the region's
    /// key. The same as those of prost's method, for who has no prost or another version of it.
    pub fn encode_to_vec(&self) -> Vec<u8> {
        prost::Message::encode_to_vec(self)
    }

    /// Reads the bytes of [`RaftApplyState::encode_to_vec`]; `region` is named in the error.
    ///
    /// # Errors
    /// [`Error::Corruption`] if they are not such bytes.
    pub fn decode_of(region: RegionId, bytes: &[u8]) -> Result<Self> {
        decode(region, "RaftApplyState", bytes)
    }
}

impl From<LogPosition> for RaftTruncatedState {
    fn from(p: LogPosition) -> Self {
        RaftTruncatedState {
            index: p.index,
            term: p.term,
        }
    }
}

impl RegionLocalState {
    /// Its bytes.
    pub fn encode_to_vec(&self) -> Vec<u8> {
        let state = wire::RegionLocalState {
            state: match self.state {
                PeerState::Normal => 0,
                PeerState::Applying => 1,
                PeerState::Tombstone => 2,
                PeerState::Merging => 3,
            },
            region: self.region.clone(),
            merge_state: self.merge_state.clone(),
            conf_state: (&self.conf_state).into(),
            peer_id: self.peer_id.0,
        };
        state.encode_to_vec()
    }

    /// Reads the bytes of [`RegionLocalState::encode_to_vec`]; `region` is named in the error.
    ///
    /// # Errors
    /// [`Error::Corruption`] if they are not such bytes or name a state that does not exist.
    pub fn decode_of(region: RegionId, bytes: &[u8]) -> Result<Self> {
        let what = "RegionLocalState";
        let s: wire::RegionLocalState = decode(region, what, bytes)?;
        let state = match s.state {
            0 => PeerState::Normal,
            1 => PeerState::Applying,
            2 => PeerState::Tombstone,
            3 => PeerState::Merging,
            other => {
                let detail = format!("peer state {other}, expected 0 to 3");
                return Err(Error::corruption(Some(region), what, detail));
            }
        };
        Ok(RegionLocalState {
            state,
            region: s.region,
            merge_state: s.merge_state,
            peer_id: PeerId(s.peer_id),
            conf_state: s.conf_state.into(),
        })
    }
}

/// Decodes a message of `region`, or says which message did not decode.
pub(crate) fn decode<M: prost::Message + Default>(
    region: RegionId,
    what: &'static str,
    bytes: &[u8],
) -> Result<M> {
    M::decode(bytes).map_err(|e| Error::corruption(Some(region), what, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn hard_state() -> HardState {
        let mut state = HardState::default();
        (state.term, state.vote, state.commit) = (7, 2, 300);
        state
    }

    fn conf_state() -> ConfState {
        let mut conf_state = ConfState::from((vec![1, 2], vec![300]));
        conf_state.voters_outgoing = vec![1, 3];
        conf_state.learners_next = vec![3];
        conf_state.auto_leave = true;
        conf_state
    }

    fn region_state() -> RegionLocalState {
        let range = KeyRange::new("a", "b");
        let voters = [(PeerId(2), 20), (PeerId(3), 30)];
        RegionLocalState {
            state: PeerState::Applying,
            region: Region::with_voters(9, range, voters),
            merge_state: Some(MergeState {
                min_index: 4,
                target: None,
                commit: 5,
            }),
            peer_id: PeerId(2),
            conf_state: conf_state(),
        }
    }

    // The bytes of version 1, the same with both codecs of raft-rs: stores in the field have them.
    #[test]
    fn the_states_have_their_golden_bytes() {
        let raft = RaftLocalState {
            hard_state: hard_state(),
            last_index: 301,
        };
        let apply = RaftApplyState {
            applied_index: 299,
            truncated_state: RaftTruncatedState { index: 5, term: 6 },
            commit_index: 300,
            commit_term: 7,
        };
        let ident = StoreIdent {
            cluster_id: 1,
            store_id: 2,
        };
        assert_eq!(hex(&raft.encode_to_vec()), "0a070807100218ac0210ad02");
        assert_eq!(hex(&apply.encode_to_vec()), "08ab0212040805100620ac022807");
        assert_eq!(hex(&ident.encode_to_vec()), "08011002");
        assert_eq!(
            hex(&region_state().encode_to_vec()),
            concat!(
                "0801",
                "121a",
                "0809",
                "120161",
                "1a0162",
                "220408011001",
                "2a0408021014",
                "2a040803101e",
                "1a0408041805",
                "ca3e11",
                "0a020102",
                "1202ac02",
                "1a020103",
                "220103",
                "2801",
                "d03e02",
            )
        );
    }

    #[test]
    fn every_field_comes_back() -> Result<()> {
        let region = RegionId(9);
        let raft = RaftLocalState {
            hard_state: hard_state(),
            last_index: 301,
        };
        let bytes = raft.encode_to_vec();
        assert_eq!(RaftLocalState::decode_of(region, &bytes)?, raft);
        let bytes = region_state().encode_to_vec();
        assert_eq!(RegionLocalState::decode_of(region, &bytes)?, region_state());
        Ok(())
    }

    #[test]
    fn a_state_that_does_not_exist_is_corruption_that_names_the_region() {
        let mut bytes = region_state().encode_to_vec();
        assert_eq!(bytes[0..2], [8, 1]);
        bytes[1] = 9;
        let error = RegionLocalState::decode_of(RegionId(9), &bytes).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Corruption { .. }), "{text}");
        assert!(text.contains("region 9") && text.contains("peer state 9, expected 0 to 3"));
    }

    #[test]
    fn roles_give_the_configuration_of_a_joint_region() {
        let mut region = Region::single(1, 1);
        let mut add = |id, role: PeerRole| {
            region.peers.push(Peer {
                id,
                store_id: id,
                role: role as i32,
            });
        };
        add(2, PeerRole::IncomingVoter);
        add(3, PeerRole::DemotingVoter);
        add(4, PeerRole::Learner);
        let conf_state = region.conf_state();
        assert_eq!(conf_state.voters, [1, 2]);
        assert_eq!(conf_state.voters_outgoing, [1, 3]);
        assert_eq!(conf_state.learners, [4]);
        assert_eq!(conf_state.learners_next, [3]);
    }
}
