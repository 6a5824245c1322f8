//! What clients ask the stores of the demonstration, and their answers: over TCP a length (u32, little
//! endian) and that many bytes of one message. Uses: prost.

use std::io::{Read, Write};

use peerstore::{Peer, Region};

/// A longer frame is refused before memory is taken for it.
pub const FRAME_BYTES_MAX: u32 = 16 << 20;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    #[prost(oneof = "Ask", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    pub ask: Option<Ask>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Ask {
    /// Replicate and apply this command.
    #[prost(message, tag = "1")]
    Propose(Propose),
    /// What regions do you have?
    #[prost(message, tag = "2")]
    Regions(()),
    /// Create this region.
    #[prost(message, tag = "3")]
    Create(Region),
    /// This is where a store is found.
    #[prost(message, tag = "4")]
    Address(Address),
    /// Cut a region at this key.
    #[prost(message, tag = "5")]
    Split(Split),
    /// Change the members of a region.
    #[prost(message, tag = "6")]
    Change(Change),
    /// Merge a region into the other.
    #[prost(message, tag = "7")]
    Merge(Pair),
    /// Let the other, a peer, lead a region.
    #[prost(message, tag = "8")]
    Transfer(Pair),
    /// What would you hash the keys and values in this range to?
    #[prost(message, tag = "9")]
    Digest(Range),
    /// And each of them?
    #[prost(message, tag = "10")]
    Keys(Range),
    /// What is the value of this key, here and now?
    #[prost(bytes, tag = "11")]
    Value(Vec<u8>),
    /// Spoil your data, without a log.
    #[prost(message, tag = "12")]
    Damage(Damage),
    /// What have you done?
    #[prost(message, tag = "13")]
    Figures(()),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Propose {
    #[prost(uint64, tag = "1")]
    pub region: u64,
    /// The version of the region that the command is meant for.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// A `KvCommand`.
    #[prost(bytes = "vec", tag = "3")]
    pub command: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Address {
    #[prost(uint64, tag = "1")]
    pub store: u64,
    #[prost(string, tag = "2")]
    pub address: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Split {
    #[prost(uint64, tag = "1")]
    pub region: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Change {
    #[prost(uint64, tag = "1")]
    pub region: u64,
    /// A peer that comes in as a learner or a voter; with the id 0, a new one of an id of the store's.
    #[prost(message, optional, tag = "2")]
    pub comes: Option<Peer>,
    /// The id of a peer that goes, or 0.
    #[prost(uint64, tag = "3")]
    pub goes: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Pair {
    #[prost(uint64, tag = "1")]
    pub region: u64,
    #[prost(uint64, tag = "2")]
    pub other: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Message)]
pub struct Range {
    #[prost(bytes = "vec", tag = "1")]
    pub start: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub end: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Damage {
    /// A byte of its value changes.
    #[prost(bytes = "vec", tag = "1")]
    pub changed: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub removed: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub added: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Response {
    #[prost(oneof = "Answer", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub answer: Option<Answer>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Answer {
    #[prost(message, tag = "1")]
    Done(()),
    /// A `KvReply`.
    #[prost(bytes, tag = "2")]
    Reply(Vec<u8>),
    #[prost(message, tag = "3")]
    Regions(Regions),
    #[prost(message, tag = "4")]
    Digest(Digest),
    #[prost(message, tag = "5")]
    Keys(Keys),
    #[prost(message, tag = "6")]
    Value(Value),
    #[prost(message, tag = "7")]
    Figures(Figures),
    #[prost(message, tag = "8")]
    Failure(Failure),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Regions {
    #[prost(message, repeated, tag = "1")]
    pub regions: Vec<Known>,
}

/// A region as one store knows it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Known {
    #[prost(message, required, tag = "1")]
    pub region: Region,
    #[prost(message, optional, tag = "2")]
    pub leader: Option<Peer>,
    #[prost(uint64, tag = "3")]
    pub term: u64,
    #[prost(bool, tag = "4")]
    pub is_leader: bool,
    /// `Active`, or what else it does.
    #[prost(string, tag = "5")]
    pub stage: String,
    #[prost(uint64, tag = "6")]
    pub applied: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Digest {
    #[prost(uint64, tag = "1")]
    pub keys: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub hash: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Keys {
    #[prost(message, repeated, tag = "1")]
    pub keys: Vec<KeyDigest>,
    /// There are more behind the last one.
    #[prost(bool, tag = "2")]
    pub more: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyDigest {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub hash: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Value {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub value: Option<Vec<u8>>,
}

/// Since the store was started.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Figures {
    #[prost(uint64, tag = "1")]
    pub log_entries: u64,
    #[prost(uint64, tag = "2")]
    pub log_bytes: u64,
    #[prost(uint64, tag = "3")]
    pub log_syncs: u64,
    #[prost(uint64, tag = "4")]
    pub data_syncs: u64,
    #[prost(uint64, tag = "5")]
    pub messages_out: u64,
    #[prost(uint64, tag = "6")]
    pub snapshots_sent: u64,
    #[prost(uint64, tag = "7")]
    pub snapshots_installed: u64,
    #[prost(uint64, tag = "8")]
    pub milliseconds: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Failure {
    #[prost(enumeration = "Reason", tag = "1")]
    pub reason: i32,
    #[prost(string, tag = "2")]
    pub text: String,
    /// Who leads instead, if that is why and it is known.
    #[prost(message, optional, tag = "3")]
    pub leader: Option<Peer>,
}

/// What a client does about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Reason {
    /// Give up, or ask in another way.
    Refused = 0,
    /// Ask the leader.
    NotLeader = 1,
    /// Look the region up again.
    Stale = 2,
    /// Ask again. It may have been done.
    Again = 3,
}

/// Writes one message.
pub fn write_frame(to: &mut impl Write, message: &impl prost::Message) -> std::io::Result<()> {
    let bytes = message.encoded_len();
    if bytes > FRAME_BYTES_MAX as usize {
        return Err(invalid(format!("a frame of {bytes} bytes is not sent")));
    }
    let mut frame = Vec::with_capacity(4 + bytes);
    frame.extend((bytes as u32).to_le_bytes());
    let encoded = message.encode(&mut frame);
    encoded.map_err(|e| invalid(e.to_string()))?;
    to.write_all(&frame)
}

/// Reads one message.
pub fn read_frame<M: prost::Message + Default>(from: &mut impl Read) -> std::io::Result<M> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > FRAME_BYTES_MAX {
        let text = format!("a frame of {length} bytes, expected at most {FRAME_BYTES_MAX}");
        return Err(invalid(text));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    M::decode(&bytes[..]).map_err(|e| invalid(e.to_string()))
}

fn invalid(text: String) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, text)
}
