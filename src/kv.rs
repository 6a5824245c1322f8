//! A state machine that is ready to use: keys, values and what is done to them. Uses: state_machine,
//! app_store, transaction, types, error. Never does I/O of its own.

#[cfg(test)]
#[path = "kv/expiring/tests.rs"]
mod expiring_tests;
#[cfg(test)]
mod tests;
mod wire;

use raft::eraftpb::{Entry, EntryType};

use crate::error::Result;
use crate::state_machine::{ApplyBatch, StateMachine};
use crate::transaction::decimal;
use crate::types::KeyRange;

/// What is done to keys and values. The data of an entry is what [`KvCommand::encode`] gives.
///
/// ```
/// use peerstore::KvCommand;
/// let command = KvCommand::Batch(vec![
///     KvCommand::Increment { key: "visits".into(), by: 1 },
///     KvCommand::Put { key: "last".into(), value: "you".into() },
/// ]);
/// assert_eq!(KvCommand::decode(&command.encode()), Some(command));
/// assert_eq!(KvCommand::decode(b"something else"), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvCommand {
    /// Puts `value` under `key`. The reply is [`KvReply::Done`].
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value, which may be empty.
        value: Vec<u8>,
    },
    /// Puts `value` under `key` until `expires_at_ms`: at that time it is gone. Where the region's clock
    /// has passed it, or the time of [`KvCommand::At`], the key is removed. The reply is
    /// [`KvReply::Done`].
    PutUntil {
        /// The key.
        key: Vec<u8>,
        /// The value, which may be empty.
        value: Vec<u8>,
        /// When it expires: milliseconds of the clock that all commands go by, as the proposer read it.
        expires_at_ms: u64,
    },
    /// Does `command` as of a time: what has expired by then is not there. A command without a time sees
    /// all that has not expired by the region's clock. The reply is that of the command.
    At {
        /// The time, in milliseconds, as the proposer read it.
        now_ms: u64,
        /// What is done.
        command: Box<KvCommand>,
    },
    /// Moves the region's clock on to `now_ms`: what has expired by then is gone for every later command
    /// and read, whatever its time, and its space is reclaimed. To be proposed now and then: a minute is
    /// often. The reply is [`KvReply::Done`].
    ExpireUntil {
        /// The time, in milliseconds. One that has passed does nothing.
        now_ms: u64,
    },
    /// Removes `key`; it need not exist. The reply is [`KvReply::Done`].
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// Removes every key of the half-open range; none of an empty one. The reply is [`KvReply::Done`].
    DeleteRange {
        /// The range, which lies in the region as a whole.
        range: KeyRange,
    },
    /// Changes `key` if it has the value that is expected; what it gets does not expire. The reply is [`KvReply::Swapped`] or
    /// [`KvReply::NotSwapped`].
    CompareAndSwap {
        /// The key.
        key: Vec<u8>,
        /// The value that it must have, or `None` if it must not exist.
        expected: Option<Vec<u8>>,
        /// The value that it gets, or `None` to remove it.
        new: Option<Vec<u8>>,
    },
    /// Adds `by` to a number: an `i64` in decimal, as `i64::to_string` writes it and in no other way. A
    /// key that does not exist counts as 0. A number that expires does so at the same time as before. The
    /// reply is [`KvReply::Incremented`].
    Increment {
        /// The key.
        key: Vec<u8>,
        /// What is added.
        by: i64,
    },
    /// Gives the region an index, of what it holds and of what comes: [`Reader::query_index`] asks it. Every
    /// store has to be opened with the same extractors ([`IndexedData`](crate::IndexedData)) before one
    /// is named here. The reply is [`KvReply::Done`], or a [`KvRefusal`] with nothing changed.
    ///
    /// [`Reader::query_index`]: crate::Reader::query_index
    CreateIndex {
        /// The name, which is that of its extractor.
        name: String,
    },
    /// Takes an index from the region. The reply is [`KvReply::Done`], or a [`KvRefusal`].
    DropIndex {
        /// The name.
        name: String,
    },
    /// All of them or none, each of which sees what those before it did. The reply is
    /// [`KvReply::Batch`], or [`KvReply::BatchRefused`] if one was refused or did not swap.
    ///
    /// About forty batches may lie in each other; the bytes of more are not decoded.
    Batch(Vec<KvCommand>),
}

/// What became of a [`KvCommand`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvReply {
    /// It was done.
    Done,
    /// The key had the expected value and was changed.
    Swapped,
    /// The key had another value and was not changed.
    NotSwapped {
        /// The value that it has, if it exists.
        present: Option<Vec<u8>>,
    },
    /// The number is this now.
    Incremented(i64),
    /// All of the batch was done, each with this reply.
    Batch(Vec<KvReply>),
    /// Nothing of the batch was done.
    BatchRefused {
        /// The position of the command that kept it from being done, counted from 0.
        at: u64,
        /// What became of that one.
        because: Box<KvReply>,
    },
    /// Nothing was done, because it could not be.
    Refused(KvRefusal),
}

/// Why a [`KvCommand`] was not done. A retry without a change is refused again, unless the region or
/// the value changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KvRefusal {
    /// The bytes are not what [`KvCommand::encode`] gives.
    #[error("the entry is not a command of this state machine")]
    NotACommand,
    /// A key is not of this region (any more). Look up the region of the key and ask there.
    #[error("a key is outside the region, which holds {region}")]
    OutOfRange {
        /// The range of the region that was asked.
        region: KeyRange,
    },
    /// The value to be incremented is not a decimal `i64`.
    #[error("the value is not a decimal number of 64 bits")]
    NotANumber,
    /// The sum is no `i64`.
    #[error("the sum with {present} does not fit into 64 bits")]
    Overflow {
        /// The number, which was left as it was.
        present: i64,
    },
    /// The region has an index of this name.
    #[error("the index {name:?} exists already; drop it first")]
    IndexExists {
        /// The name.
        name: String,
    },
    /// The region has no index of this name.
    #[error("there is no index {name:?}; create it first")]
    IndexNotFound {
        /// The name.
        name: String,
    },
    /// No extractor of this name was given when the store was opened.
    #[error("the index {name:?} has no extractor; open the stores with one of that name")]
    IndexWithoutExtractor {
        /// The name.
        name: String,
    },
}

impl KvCommand {
    /// [`KvCommand::Put`].
    pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        KvCommand::Put {
            key: key.into(),
            value: value.into(),
        }
    }

    /// [`KvCommand::Delete`].
    pub fn delete(key: impl Into<Vec<u8>>) -> Self {
        KvCommand::Delete { key: key.into() }
    }
}

impl KvReply {
    /// Whether the command did what it was to do.
    fn is_done(&self) -> bool {
        match self {
            KvReply::Done | KvReply::Swapped | KvReply::Incremented(_) | KvReply::Batch(_) => true,
            KvReply::NotSwapped { .. } | KvReply::BatchRefused { .. } | KvReply::Refused(_) => {
                false
            }
        }
    }
}

/// A [`StateMachine`] of [`KvCommand`]s, which answers with the bytes of a [`KvReply`].
///
/// It has no state of its own: everything is in the data, so that replicas which apply the same entries
/// have the same bytes. Nothing that a client sends stops the region: what cannot be done is answered
/// with a [`KvRefusal`], on every replica alike. Empty entries, which raft proposes by itself, and
/// changes of the configuration do nothing and are answered with nothing.
///
/// All replicas have to know a command before it is proposed. Those of later versions of this crate are
/// told in its change log.
///
/// ```
/// use peerstore::memory::MemoryData;
/// use peerstore::{ApplyBatch, KeyRange, KvCommand, KvReply, KvStateMachine, StateMachine};
/// use raft::eraftpb::Entry;
///
/// let (data, range) = (MemoryData::new(), KeyRange::all());
/// let mut batch = ApplyBatch::new(&data, &range);
/// let mut apply = |command: KvCommand| {
///     let mut entry = Entry::default();
///     entry.data = command.encode().into();
///     let reply = KvStateMachine.apply(&entry, &mut batch)?;
///     Ok::<_, peerstore::Error>(KvReply::decode(&reply))
/// };
/// let lock = |owner: &str| KvCommand::CompareAndSwap {
///     key: "lock".into(),
///     expected: None,
///     new: Some(owner.into()),
/// };
/// assert_eq!(apply(lock("me"))?, Some(KvReply::Swapped));
/// let present = Some("me".into());
/// assert_eq!(apply(lock("you"))?, Some(KvReply::NotSwapped { present }));
/// # Ok::<(), peerstore::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct KvStateMachine;

impl StateMachine for KvStateMachine {
    fn apply(&mut self, entry: &Entry, batch: &mut ApplyBatch<'_>) -> Result<Vec<u8>> {
        // The bytes of a change of the configuration might be a command by chance.
        if entry.data.is_empty() || entry.get_entry_type() != EntryType::EntryNormal {
            return Ok(Vec::new());
        }
        let reply = match KvCommand::decode(&entry.data) {
            Some(command) => KvStateMachine::apply_command(&command, batch)?,
            None => KvReply::Refused(KvRefusal::NotACommand),
        };
        Ok(reply.encode())
    }
}

impl KvStateMachine {
    /// Puts what `command` does into `batch`: for a state machine that has commands of its own beside
    /// these.
    ///
    /// # Errors
    /// Those of the data store. Nothing of the command is in the batch then.
    pub fn apply_command(command: &KvCommand, batch: &mut ApplyBatch<'_>) -> Result<KvReply> {
        apply_at(0, command, batch)
    }
}

/// Does `command` as of `now_ms`.
fn apply_at(now_ms: u64, command: &KvCommand, batch: &mut ApplyBatch<'_>) -> Result<KvReply> {
    let inside = match command {
        KvCommand::Put { key, .. }
        | KvCommand::PutUntil { key, .. }
        | KvCommand::Delete { key }
        | KvCommand::CompareAndSwap { key, .. }
        | KvCommand::Increment { key, .. } => batch.contains(key),
        KvCommand::DeleteRange { range } => batch.contains_range(range),
        KvCommand::Batch(_)
        | KvCommand::At { .. }
        | KvCommand::ExpireUntil { .. }
        | KvCommand::CreateIndex { .. }
        | KvCommand::DropIndex { .. } => true,
    };
    if !inside {
        let region = batch.range().clone();
        return Ok(KvReply::Refused(KvRefusal::OutOfRange { region }));
    }
    match command {
        KvCommand::Put { key, value } => batch.put_to_stay(key, value)?,
        KvCommand::PutUntil {
            key, expires_at_ms, ..
        } if *expires_at_ms <= now_ms => batch.remove(key)?,
        KvCommand::PutUntil {
            key,
            value,
            expires_at_ms,
        } => batch.put_until(key, value, *expires_at_ms)?,
        KvCommand::Delete { key } => batch.remove(key)?,
        KvCommand::DeleteRange { range } => batch.remove_range(range)?,
        KvCommand::CompareAndSwap { key, expected, new } => {
            return swap(now_ms, batch, key, expected, new);
        }
        KvCommand::Increment { key, by } => return increment(now_ms, batch, key, *by),
        KvCommand::ExpireUntil { now_ms } => batch.expire_until(*now_ms)?,
        KvCommand::CreateIndex { name } => return create_index(batch, name),
        KvCommand::DropIndex { name } => {
            if !batch.withdraw_index(name)? {
                let name = name.clone();
                return Ok(KvReply::Refused(KvRefusal::IndexNotFound { name }));
            }
        }
        KvCommand::At {
            now_ms: at,
            command,
        } => {
            return apply_at(now_ms.max(*at), command, batch);
        }
        KvCommand::Batch(commands) => return apply_all(now_ms, batch, commands),
    }
    Ok(KvReply::Done)
}

fn swap(
    now_ms: u64,
    batch: &mut ApplyBatch<'_>,
    key: &[u8],
    expected: &Option<Vec<u8>>,
    new: &Option<Vec<u8>>,
) -> Result<KvReply> {
    let present = batch.present_at(key, now_ms)?.map(|present| present.value);
    if present != *expected {
        return Ok(KvReply::NotSwapped { present });
    }
    match new {
        Some(new) => batch.put_to_stay(key, new)?,
        None => batch.remove(key)?,
    }
    Ok(KvReply::Swapped)
}

fn increment(now_ms: u64, batch: &mut ApplyBatch<'_>, key: &[u8], by: i64) -> Result<KvReply> {
    let present = batch.present_at(key, now_ms)?;
    let expires_at_ms = present.as_ref().and_then(|p| p.expires_at_ms);
    let number = match present {
        Some(present) => decimal(&present.value),
        None => Some(0),
    };
    let Some(number) = number else {
        return Ok(KvReply::Refused(KvRefusal::NotANumber));
    };
    let Some(sum) = number.checked_add(by) else {
        return Ok(KvReply::Refused(KvRefusal::Overflow { present: number }));
    };
    let value = sum.to_string();
    match expires_at_ms {
        Some(expires_at_ms) => batch.put_until(key, value, expires_at_ms)?,
        None => batch.put_to_stay(key, value.as_bytes())?,
    }
    Ok(KvReply::Incremented(sum))
}

fn create_index(batch: &mut ApplyBatch<'_>, name: &str) -> Result<KvReply> {
    let named = name.to_string();
    if !batch.has_extractor(name) {
        let refusal = KvRefusal::IndexWithoutExtractor { name: named };
        return Ok(KvReply::Refused(refusal));
    }
    Ok(match batch.declare_index(name)? {
        true => KvReply::Done,
        false => KvReply::Refused(KvRefusal::IndexExists { name: named }),
    })
}

fn apply_all(now_ms: u64, batch: &mut ApplyBatch<'_>, commands: &[KvCommand]) -> Result<KvReply> {
    let mark = batch.mark();
    let mut replies = Vec::with_capacity(commands.len());
    for (at, command) in (0..).zip(commands) {
        let reply = apply_at(now_ms, command, batch);
        match reply {
            Ok(reply) if reply.is_done() => replies.push(reply),
            Ok(reply) => {
                batch.rollback(mark);
                let because = Box::new(reply);
                return Ok(KvReply::BatchRefused { at, because });
            }
            Err(error) => {
                batch.rollback(mark);
                return Err(error);
            }
        }
    }
    Ok(KvReply::Batch(replies))
}
