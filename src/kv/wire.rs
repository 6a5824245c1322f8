//! The bytes of commands and replies, as protobuf messages of our own. Uses: types. Never does I/O.
//!
//! The tags are for ever: entries in the logs of the field have them.

use prost::Message as _;

use super::{KvCommand, KvRefusal, KvReply};
use crate::types::KeyRange;

#[derive(Clone, PartialEq, prost::Message)]
struct Command {
    #[prost(oneof = "Doing", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    doing: Option<Doing>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Doing {
    #[prost(message, tag = "1")]
    Put(KeyValue),
    #[prost(bytes, tag = "2")]
    Delete(Vec<u8>),
    #[prost(message, tag = "3")]
    DeleteRange(Range),
    #[prost(message, tag = "4")]
    CompareAndSwap(CompareAndSwap),
    #[prost(message, tag = "5")]
    Increment(Increment),
    #[prost(message, tag = "6")]
    Batch(Commands),
    #[prost(message, tag = "7")]
    PutUntil(PutUntil),
    #[prost(message, boxed, tag = "8")]
    At(Box<At>),
    #[prost(uint64, tag = "9")]
    ExpireUntil(u64),
    #[prost(string, tag = "10")]
    CreateIndex(String),
    #[prost(string, tag = "11")]
    DropIndex(String),
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutUntil {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
    #[prost(uint64, tag = "3")]
    expires_at_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct At {
    #[prost(uint64, tag = "1")]
    now_ms: u64,
    #[prost(message, optional, boxed, tag = "2")]
    command: Option<Box<Command>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Range {
    #[prost(bytes = "vec", tag = "1")]
    start: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    end: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CompareAndSwap {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "2")]
    expected: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "3")]
    new: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Increment {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(sint64, tag = "2")]
    by: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Commands {
    #[prost(message, repeated, tag = "1")]
    commands: Vec<Command>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Reply {
    #[prost(oneof = "Became", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    became: Option<Became>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Became {
    #[prost(message, tag = "1")]
    Done(()),
    #[prost(message, tag = "2")]
    Swapped(()),
    #[prost(message, tag = "3")]
    NotSwapped(Present),
    #[prost(sint64, tag = "4")]
    Incremented(i64),
    #[prost(message, tag = "5")]
    Batch(Replies),
    #[prost(message, tag = "6")]
    BatchRefused(Box<BatchRefused>),
    #[prost(message, tag = "7")]
    NotACommand(()),
    #[prost(message, tag = "8")]
    OutOfRange(Range),
    #[prost(message, tag = "9")]
    NotANumber(()),
    #[prost(sint64, tag = "10")]
    Overflow(i64),
    #[prost(string, tag = "11")]
    IndexExists(String),
    #[prost(string, tag = "12")]
    IndexNotFound(String),
    #[prost(string, tag = "13")]
    IndexWithoutExtractor(String),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Present {
    #[prost(bytes = "vec", optional, tag = "1")]
    value: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Replies {
    #[prost(message, repeated, tag = "1")]
    replies: Vec<Reply>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BatchRefused {
    #[prost(uint64, tag = "1")]
    at: u64,
    #[prost(message, optional, tag = "2")]
    because: Option<Reply>,
}

impl From<&KeyRange> for Range {
    fn from(range: &KeyRange) -> Self {
        let KeyRange { start, end } = range.clone();
        Range { start, end }
    }
}

impl From<Range> for KeyRange {
    fn from(Range { start, end }: Range) -> Self {
        KeyRange { start, end }
    }
}

impl From<&KvCommand> for Command {
    fn from(command: &KvCommand) -> Self {
        let doing = match command {
            KvCommand::Put { key, value } => Doing::Put(KeyValue {
                key: key.clone(),
                value: value.clone(),
            }),
            KvCommand::Delete { key } => Doing::Delete(key.clone()),
            KvCommand::DeleteRange { range } => Doing::DeleteRange(range.into()),
            KvCommand::CompareAndSwap { key, expected, new } => {
                Doing::CompareAndSwap(CompareAndSwap {
                    key: key.clone(),
                    expected: expected.clone(),
                    new: new.clone(),
                })
            }
            KvCommand::Increment { key, by } => Doing::Increment(Increment {
                key: key.clone(),
                by: *by,
            }),
            KvCommand::PutUntil {
                key,
                value,
                expires_at_ms,
            } => Doing::PutUntil(PutUntil {
                key: key.clone(),
                value: value.clone(),
                expires_at_ms: *expires_at_ms,
            }),
            KvCommand::At { now_ms, command } => Doing::At(Box::new(At {
                now_ms: *now_ms,
                command: Some(Box::new(Command::from(&**command))),
            })),
            KvCommand::ExpireUntil { now_ms } => Doing::ExpireUntil(*now_ms),
            KvCommand::CreateIndex { name } => Doing::CreateIndex(name.clone()),
            KvCommand::DropIndex { name } => Doing::DropIndex(name.clone()),
            KvCommand::Batch(commands) => Doing::Batch(Commands {
                commands: commands.iter().map(Command::from).collect(),
            }),
        };
        Command { doing: Some(doing) }
    }
}

impl Command {
    fn understood(self) -> Option<KvCommand> {
        Some(match self.doing? {
            Doing::PutUntil(PutUntil {
                key,
                value,
                expires_at_ms,
            }) => KvCommand::PutUntil {
                key,
                value,
                expires_at_ms,
            },
            Doing::At(at) => KvCommand::At {
                now_ms: at.now_ms,
                command: Box::new(at.command?.understood()?),
            },
            Doing::ExpireUntil(now_ms) => KvCommand::ExpireUntil { now_ms },
            Doing::CreateIndex(name) => KvCommand::CreateIndex { name },
            Doing::DropIndex(name) => KvCommand::DropIndex { name },
            Doing::Put(KeyValue { key, value }) => KvCommand::Put { key, value },
            Doing::Delete(key) => KvCommand::Delete { key },
            Doing::DeleteRange(range) => KvCommand::DeleteRange {
                range: range.into(),
            },
            Doing::CompareAndSwap(CompareAndSwap { key, expected, new }) => {
                KvCommand::CompareAndSwap { key, expected, new }
            }
            Doing::Increment(Increment { key, by }) => KvCommand::Increment { key, by },
            Doing::Batch(Commands { commands }) => {
                let commands = commands.into_iter().map(Command::understood);
                KvCommand::Batch(commands.collect::<Option<_>>()?)
            }
        })
    }
}

impl From<&KvReply> for Reply {
    fn from(reply: &KvReply) -> Self {
        let became = match reply {
            KvReply::Done => Became::Done(()),
            KvReply::Swapped => Became::Swapped(()),
            KvReply::NotSwapped { present } => Became::NotSwapped(Present {
                value: present.clone(),
            }),
            KvReply::Incremented(number) => Became::Incremented(*number),
            KvReply::Batch(replies) => Became::Batch(Replies {
                replies: replies.iter().map(Reply::from).collect(),
            }),
            KvReply::BatchRefused { at, because } => {
                let because = Some(Reply::from(&**because));
                Became::BatchRefused(Box::new(BatchRefused { at: *at, because }))
            }
            KvReply::Refused(refusal) => match refusal {
                KvRefusal::NotACommand => Became::NotACommand(()),
                KvRefusal::OutOfRange { region } => Became::OutOfRange(region.into()),
                KvRefusal::NotANumber => Became::NotANumber(()),
                KvRefusal::Overflow { present } => Became::Overflow(*present),
                KvRefusal::IndexExists { name } => Became::IndexExists(name.clone()),
                KvRefusal::IndexNotFound { name } => Became::IndexNotFound(name.clone()),
                KvRefusal::IndexWithoutExtractor { name } => {
                    Became::IndexWithoutExtractor(name.clone())
                }
            },
        };
        Reply {
            became: Some(became),
        }
    }
}

impl Reply {
    fn understood(self) -> Option<KvReply> {
        Some(match self.became? {
            Became::Done(()) => KvReply::Done,
            Became::Swapped(()) => KvReply::Swapped,
            Became::NotSwapped(Present { value: present }) => KvReply::NotSwapped { present },
            Became::Incremented(number) => KvReply::Incremented(number),
            Became::Batch(Replies { replies }) => {
                let replies = replies.into_iter().map(Reply::understood);
                KvReply::Batch(replies.collect::<Option<_>>()?)
            }
            Became::BatchRefused(refused) => KvReply::BatchRefused {
                at: refused.at,
                because: Box::new(refused.because?.understood()?),
            },
            Became::NotACommand(()) => KvReply::Refused(KvRefusal::NotACommand),
            Became::OutOfRange(range) => KvReply::Refused(KvRefusal::OutOfRange {
                region: range.into(),
            }),
            Became::NotANumber(()) => KvReply::Refused(KvRefusal::NotANumber),
            Became::Overflow(present) => KvReply::Refused(KvRefusal::Overflow { present }),
            Became::IndexExists(name) => KvReply::Refused(KvRefusal::IndexExists { name }),
            Became::IndexNotFound(name) => KvReply::Refused(KvRefusal::IndexNotFound { name }),
            Became::IndexWithoutExtractor(name) => {
                KvReply::Refused(KvRefusal::IndexWithoutExtractor { name })
            }
        })
    }
}

impl KvCommand {
    /// Its bytes, which are never empty.
    pub fn encode(&self) -> Vec<u8> {
        Command::from(self).encode_to_vec()
    }

    /// The command that the bytes are, or `None` if they are not those of [`KvCommand::encode`].
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Command::decode(bytes).ok()?.understood()
    }
}

impl KvReply {
    /// Its bytes, which are never empty.
    pub fn encode(&self) -> Vec<u8> {
        Reply::from(self).encode_to_vec()
    }

    /// The reply that the bytes are, or `None` if they are not those of [`KvReply::encode`].
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Reply::decode(bytes).ok()?.understood()
    }
}
