//! The bytes of what stores say to each other. Uses: transport, proto, types.
//!
//! The field numbers are kvproto's RaftMessage's and raft's own; fields of ours are numbered above
//! 1000. raft's messages go through private structs, so that the bytes never depend on the codec that
//! raft-rs was built with, and what a stranger's bytes cost is bounded by ours.

use bytes::{Buf, Bytes};
use prost::Message as _;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use raft::eraftpb;
use raft::eraftpb::{EntryType, MessageType};

use super::{PeerBody, PeerMessage, StoreMessage};
use crate::proto::{self, Peer, Region, RegionEpoch};
use crate::types::{KeyRange, RegionId};

/// The most entries in one message. An empty entry is two bytes, and a hundred times that in memory.
pub const ENTRIES_MAX: usize = 1 << 18;
/// The most bytes of the configuration within a snapshot message: thousands of peers.
const CONF_STATE_BYTES_MAX: usize = 64 << 10;
/// The field of raft's message that holds an entry.
const ENTRIES_TAG: u32 = 7;

/// Why bytes are no message between stores, or a message cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// They are not what protobuf writes.
    #[error("{what} does not decode: {detail}")]
    Malformed {
        /// Which message.
        what: &'static str,
        /// What the decoder says.
        detail: String,
    },
    /// A type that this build does not know.
    #[error("{what} is {got}, expected 0 to {max}")]
    UnknownType {
        /// Which field.
        what: &'static str,
        /// Its value.
        got: i32,
        /// The largest known one.
        max: i32,
    },
    /// More of something than a message may hold.
    #[error("{got} {what}, expected at most {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// It has to say one thing.
    #[error("{what} has {got} contents, expected 1")]
    Contents {
        /// Which message.
        what: &'static str,
        /// How many things it says.
        got: usize,
    },
    /// Region 0, which there is none of.
    #[error("the message is for region 0, which cannot exist")]
    NoRegion,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireStoreMessage {
    #[prost(message, optional, tag = "1")]
    peer: Option<WirePeerMessage>,
    #[prost(message, optional, tag = "2")]
    alive: Option<WireAlive>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireAlive {
    #[prost(uint64, tag = "1")]
    max_id: u64,
}

/// kvproto's RaftMessage.
#[derive(Clone, PartialEq, prost::Message)]
struct WirePeerMessage {
    #[prost(uint64, tag = "1")]
    region_id: u64,
    #[prost(message, required, tag = "2")]
    from_peer: Peer,
    #[prost(message, required, tag = "3")]
    to_peer: Peer,
    // The bytes of a WireMessage, whose entries are counted before they are decoded.
    #[prost(bytes = "bytes", optional, tag = "4")]
    message: Option<Bytes>,
    #[prost(message, required, tag = "5")]
    region_epoch: RegionEpoch,
    #[prost(bool, tag = "6")]
    is_tombstone: bool,
    #[prost(bytes = "vec", tag = "7")]
    start_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "8")]
    end_key: Vec<u8>,
    // With a tombstone: the region that has taken this one in.
    #[prost(message, optional, tag = "9")]
    merge_target: Option<Region>,
    #[prost(message, optional, tag = "1001")]
    sleep: Option<WireSleep>,
    #[prost(bool, tag = "1002")]
    wake: bool,
    #[prost(uint64, optional, tag = "1004")]
    prepare: Option<u64>,
    #[prost(bool, tag = "1005")]
    prepared: bool,
    // Tells the range of every key from none.
    #[prost(bool, tag = "1003")]
    has_range: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSleep {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    commit: u64,
}

/// raft's Message.
#[derive(Clone, PartialEq, prost::Message)]
struct WireMessage {
    #[prost(int32, tag = "1")]
    msg_type: i32,
    #[prost(uint64, tag = "2")]
    to: u64,
    #[prost(uint64, tag = "3")]
    from: u64,
    #[prost(uint64, tag = "4")]
    term: u64,
    #[prost(uint64, tag = "5")]
    log_term: u64,
    #[prost(uint64, tag = "6")]
    index: u64,
    #[prost(message, repeated, tag = "7")]
    entries: Vec<WireEntry>,
    #[prost(uint64, tag = "8")]
    commit: u64,
    #[prost(message, optional, tag = "9")]
    snapshot: Option<WireSnapshot>,
    #[prost(bool, tag = "10")]
    reject: bool,
    #[prost(uint64, tag = "11")]
    reject_hint: u64,
    #[prost(bytes = "bytes", tag = "12")]
    context: Bytes,
    #[prost(uint64, tag = "13")]
    request_snapshot: u64,
    #[prost(uint64, tag = "14")]
    deprecated_priority: u64,
    #[prost(uint64, tag = "15")]
    commit_term: u64,
    #[prost(int64, tag = "16")]
    priority: i64,
}

/// raft's Entry.
#[derive(Clone, PartialEq, prost::Message)]
struct WireEntry {
    #[prost(int32, tag = "1")]
    entry_type: i32,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(bytes = "bytes", tag = "4")]
    data: Bytes,
    #[prost(bool, tag = "5")]
    sync_log: bool,
    #[prost(bytes = "bytes", tag = "6")]
    context: Bytes,
}

/// raft's Snapshot.
#[derive(Clone, PartialEq, prost::Message)]
struct WireSnapshot {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
    #[prost(message, optional, tag = "2")]
    metadata: Option<WireMetadata>,
}

/// raft's SnapshotMetadata.
#[derive(Clone, PartialEq, prost::Message)]
struct WireMetadata {
    // The bytes of a ConfState, whose length is checked before it is decoded.
    #[prost(bytes = "bytes", optional, tag = "1")]
    conf_state: Option<Bytes>,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(uint64, tag = "3")]
    term: u64,
}

/// raft's message types, by number.
const MESSAGE_TYPES: [MessageType; 19] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// raft's entry types, by number.
const ENTRY_TYPES: [EntryType; 3] = [
    EntryType::EntryNormal,
    EntryType::EntryConfChange,
    EntryType::EntryConfChangeV2,
];

impl StoreMessage {
    /// Appends its bytes to `buffer`. The same message has the same bytes whatever codec raft-rs was
    /// built with.
    ///
    /// # Errors
    /// `TooMany` if it has more entries, or a larger configuration, than a receiver takes; `buffer` is
    /// as it was.
    pub fn encode(&self, buffer: &mut Vec<u8>) -> Result<(), MessageError> {
        let mut wire = WireStoreMessage::default();
        match self {
            StoreMessage::Peer(message) => wire.peer = Some(wire_of(message)?),
            StoreMessage::Alive { max_id } => wire.alive = Some(WireAlive { max_id: *max_id }),
        }
        buffer.reserve(wire.encoded_len());
        wire.encode(buffer).expect("a vector grows as needed");
        Ok(())
    }

    /// Reads what [`StoreMessage::encode`] wrote; fields that this build does not know are left out.
    /// The memory it takes is bounded by the length of `bytes` and a constant number of entries, and
    /// nothing of `bytes` is held on to.
    ///
    /// # Errors
    /// [`MessageError`] for whatever is no such message; there is no input that it panics on.
    pub fn decode(bytes: &[u8]) -> Result<StoreMessage, MessageError> {
        let wire: WireStoreMessage = decode("StoreMessage", bytes)?;
        match (wire.peer, wire.alive) {
            (Some(peer), None) => Ok(StoreMessage::Peer(Box::new(peer_message(peer)?))),
            (None, Some(alive)) => Ok(StoreMessage::Alive {
                max_id: alive.max_id,
            }),
            (peer, _) => Err(MessageError::Contents {
                what: "StoreMessage",
                got: if peer.is_some() { 2 } else { 0 },
            }),
        }
    }

    /// About how many bytes it takes, on the wire and in memory: what a queue counts.
    pub fn approximate_bytes(&self) -> usize {
        const FIXED: usize = 128;
        const ENTRY: usize = 32;
        let StoreMessage::Peer(message) = self else {
            return FIXED;
        };
        let range = (message.range.as_ref()).map_or(0, |r| r.start.len() + r.end.len());
        let body = match &message.body {
            PeerBody::Raft(m) => {
                let entry = |e: &eraftpb::Entry| ENTRY + e.data.len() + e.context.len();
                let entries: usize = m.entries.iter().map(entry).sum();
                entries + m.context.len() + m.get_snapshot().data.len()
            }
            _ => 0,
        };
        FIXED + range + body
    }
}

fn decode<M: prost::Message + Default>(
    what: &'static str,
    bytes: impl Buf,
) -> Result<M, MessageError> {
    M::decode(bytes).map_err(|e| malformed(what, &e))
}

fn malformed(what: &'static str, error: &prost::DecodeError) -> MessageError {
    MessageError::Malformed {
        what,
        detail: error.to_string(),
    }
}

fn check_count(what: &'static str, got: usize, max: usize) -> Result<(), MessageError> {
    if got > max {
        return Err(MessageError::TooMany { what, got, max });
    }
    Ok(())
}

/// Bytes that are shared where raft's codec has shared bytes.
fn shared(bytes: impl Into<Bytes>) -> Bytes {
    bytes.into()
}

/// What raft's codec has for bytes.
fn owned<B: From<Bytes>>(bytes: Bytes) -> B {
    bytes.into()
}

fn wire_of(message: &PeerMessage) -> Result<WirePeerMessage, MessageError> {
    let mut wire = WirePeerMessage {
        region_id: message.region.0,
        from_peer: message.from,
        to_peer: message.to,
        region_epoch: message.epoch,
        ..WirePeerMessage::default()
    };
    if let Some(range) = &message.range {
        wire.has_range = true;
        (wire.start_key, wire.end_key) = (range.start.clone(), range.end.clone());
    }
    match &message.body {
        PeerBody::Raft(raft) => wire.message = Some(wire_message(raft)?.encode_to_vec().into()),
        PeerBody::Gone { into } => {
            wire.is_tombstone = true;
            wire.merge_target.clone_from(into);
        }
        PeerBody::Sleep { term, commit } => {
            let (term, commit) = (*term, *commit);
            wire.sleep = Some(WireSleep { term, commit });
        }
        PeerBody::Wake => wire.wake = true,
        PeerBody::Prepare { low } => wire.prepare = Some(*low),
        PeerBody::Prepared => wire.prepared = true,
    }
    Ok(wire)
}

fn peer_message(wire: WirePeerMessage) -> Result<PeerMessage, MessageError> {
    if wire.region_id == 0 {
        return Err(MessageError::NoRegion);
    }
    let has_range = wire.has_range || !wire.start_key.is_empty() || !wire.end_key.is_empty();
    let contents = [
        wire.message.is_some(),
        wire.is_tombstone,
        wire.sleep.is_some(),
        wire.wake,
        wire.prepare.is_some(),
        wire.prepared,
    ];
    let got = contents.into_iter().filter(|c| *c).count();
    if got != 1 {
        let what = "RaftMessage";
        return Err(MessageError::Contents { what, got });
    }
    let body = if let Some(bytes) = wire.message {
        PeerBody::Raft(raft_message(bytes)?)
    } else if let Some(WireSleep { term, commit }) = wire.sleep {
        PeerBody::Sleep { term, commit }
    } else if let Some(low) = wire.prepare {
        PeerBody::Prepare { low }
    } else if wire.prepared {
        PeerBody::Prepared
    } else if wire.is_tombstone {
        let into = wire.merge_target;
        PeerBody::Gone { into }
    } else {
        PeerBody::Wake
    };
    Ok(PeerMessage {
        region: RegionId(wire.region_id),
        from: wire.from_peer,
        to: wire.to_peer,
        epoch: wire.region_epoch,
        range: has_range.then(|| KeyRange::new(wire.start_key, wire.end_key)),
        body,
    })
}

fn wire_message(m: &eraftpb::Message) -> Result<WireMessage, MessageError> {
    check_count("entries", m.entries.len(), ENTRIES_MAX)?;
    let snapshot = m.has_snapshot().then(|| wire_snapshot(m.get_snapshot()));
    Ok(WireMessage {
        msg_type: m.get_msg_type() as i32,
        to: m.to,
        from: m.from,
        term: m.term,
        log_term: m.log_term,
        index: m.index,
        entries: m.entries.iter().map(wire_entry).collect(),
        commit: m.commit,
        snapshot: snapshot.transpose()?,
        reject: m.reject,
        reject_hint: m.reject_hint,
        context: shared(m.context.clone()),
        request_snapshot: m.request_snapshot,
        deprecated_priority: m.deprecated_priority,
        commit_term: m.commit_term,
        priority: m.priority,
    })
}

fn wire_entry(e: &eraftpb::Entry) -> WireEntry {
    WireEntry {
        entry_type: e.get_entry_type() as i32,
        term: e.term,
        index: e.index,
        data: shared(e.data.clone()),
        sync_log: e.sync_log,
        context: shared(e.context.clone()),
    }
}

fn wire_snapshot(s: &eraftpb::Snapshot) -> Result<WireSnapshot, MessageError> {
    let mut wire = WireSnapshot {
        data: shared(s.data.clone()),
        metadata: None,
    };
    if s.has_metadata() {
        let meta = s.get_metadata();
        let conf_state = (meta.has_conf_state()).then(|| {
            proto::wire::ConfState::from(meta.get_conf_state())
                .encode_to_vec()
                .into()
        });
        let bytes = conf_state.as_ref().map_or(0, Bytes::len);
        check_count("bytes of ConfState", bytes, CONF_STATE_BYTES_MAX)?;
        wire.metadata = Some(WireMetadata {
            conf_state,
            index: meta.index,
            term: meta.term,
        });
    }
    Ok(wire)
}

/// Counts the entries, and only then decodes them.
fn raft_message(bytes: Bytes) -> Result<eraftpb::Message, MessageError> {
    let what = "eraftpb.Message";
    let (mut scan, mut entries) = (&bytes[..], 0);
    while !scan.is_empty() {
        let field = decode_key(&mut scan).and_then(|(tag, kind)| {
            entries += usize::from(tag == ENTRIES_TAG);
            skip_field(kind, tag, &mut scan, DecodeContext::default())
        });
        field.map_err(|e| malformed(what, &e))?;
        check_count("entries", entries, ENTRIES_MAX)?;
    }
    // Decoded from a slice, so that an entry which lives long does not hold the whole message.
    let wire: WireMessage = decode(what, &bytes[..])?;
    let mut m = eraftpb::Message::default();
    m.set_msg_type(typed(&MESSAGE_TYPES, "Message.msg_type", wire.msg_type)?);
    (m.to, m.from, m.term) = (wire.to, wire.from, wire.term);
    (m.log_term, m.index) = (wire.log_term, wire.index);
    (m.commit, m.commit_term) = (wire.commit, wire.commit_term);
    (m.reject, m.reject_hint) = (wire.reject, wire.reject_hint);
    m.request_snapshot = wire.request_snapshot;
    m.deprecated_priority = wire.deprecated_priority;
    m.priority = wire.priority;
    m.context = owned(wire.context);
    let entries: Result<Vec<_>, _> = wire.entries.into_iter().map(raft_entry).collect();
    m.set_entries(entries?.into());
    if let Some(snapshot) = wire.snapshot {
        m.set_snapshot(raft_snapshot(snapshot)?);
    }
    Ok(m)
}

fn raft_entry(wire: WireEntry) -> Result<eraftpb::Entry, MessageError> {
    let mut e = eraftpb::Entry::default();
    e.set_entry_type(typed(&ENTRY_TYPES, "Entry.entry_type", wire.entry_type)?);
    (e.term, e.index) = (wire.term, wire.index);
    (e.data, e.context) = (owned(wire.data), owned(wire.context));
    e.sync_log = wire.sync_log;
    Ok(e)
}

fn raft_snapshot(wire: WireSnapshot) -> Result<eraftpb::Snapshot, MessageError> {
    let mut s = eraftpb::Snapshot::default();
    s.data = owned(wire.data);
    if let Some(metadata) = wire.metadata {
        let meta = s.mut_metadata();
        (meta.index, meta.term) = (metadata.index, metadata.term);
        if let Some(bytes) = metadata.conf_state {
            check_count("bytes of ConfState", bytes.len(), CONF_STATE_BYTES_MAX)?;
            let conf_state: proto::wire::ConfState = decode("eraftpb.ConfState", bytes)?;
            meta.set_conf_state(conf_state.into());
        }
    }
    Ok(s)
}

/// The type with the number `got` of a table by number.
fn typed<T: Copy>(table: &[T], what: &'static str, got: i32) -> Result<T, MessageError> {
    let found = usize::try_from(got).ok().and_then(|at| table.get(at));
    found.copied().ok_or(MessageError::UnknownType {
        what,
        got,
        max: table.len() as i32 - 1,
    })
}
