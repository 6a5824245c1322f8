//! What each command does, and that every replica does the same.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use proptest::prelude::*;
use raft::eraftpb::{Entry, EntryType};

use super::{KvCommand, KvRefusal, KvReply, KvStateMachine};
use crate::app_store::{ApplicationDataStorage as _, DataRead as _, Keyspace};
use crate::memory::MemoryData;
use crate::state_machine::{ApplyBatch, StateMachine as _};
use crate::types::{Durability, KeyRange};

pub(super) type Model = BTreeMap<Vec<u8>, Vec<u8>>;

pub(super) fn entry(data: Vec<u8>) -> Entry {
    let mut entry = Entry::default();
    entry.data = data.into();
    entry
}

pub(super) fn put(key: &str, value: &str) -> KvCommand {
    KvCommand::Put {
        key: key.into(),
        value: value.into(),
    }
}

pub(super) fn delete(key: &str) -> KvCommand {
    KvCommand::Delete { key: key.into() }
}

pub(super) fn delete_range(start: &str, end: &str) -> KvCommand {
    let range = KeyRange::new(start, end);
    KvCommand::DeleteRange { range }
}

pub(super) fn swap(key: &str, expected: Option<&str>, new: Option<&str>) -> KvCommand {
    KvCommand::CompareAndSwap {
        key: key.into(),
        expected: expected.map(Into::into),
        new: new.map(Into::into),
    }
}

pub(super) fn increment(key: &str, by: i64) -> KvCommand {
    KvCommand::Increment {
        key: key.into(),
        by,
    }
}

pub(super) fn not_swapped(present: Option<&str>) -> KvReply {
    KvReply::NotSwapped {
        present: present.map(Into::into),
    }
}

fn batch_refused(at: u64, because: KvReply) -> KvReply {
    let because = Box::new(because);
    KvReply::BatchRefused { at, because }
}

/// One replica of a region.
pub(super) struct Replica {
    pub data: MemoryData,
    pub region: KeyRange,
}

impl Replica {
    pub fn new(region: &KeyRange) -> Replica {
        Replica {
            data: MemoryData::new(),
            region: region.clone(),
        }
    }

    /// Applies the entries in one batch; their replies.
    pub fn apply(&self, entries: &[Entry]) -> Vec<Vec<u8>> {
        let mut batch = ApplyBatch::new(&self.data, &self.region);
        let mut apply = |entry| KvStateMachine.apply(entry, &mut batch).unwrap();
        let replies = entries.iter().map(&mut apply).collect();
        let writes = batch.into_checked(1.into()).unwrap();
        self.data.write(&writes, Durability::Buffered).unwrap();
        replies
    }

    pub fn reply(&self, command: &KvCommand) -> KvReply {
        let replies = self.apply(&[entry(command.encode())]);
        KvReply::decode(&replies[0]).unwrap()
    }

    pub fn content(&self) -> Model {
        let mut found = Model::new();
        let all = KeyRange::all();
        let mut visit = |key: &[u8], value: &[u8]| {
            found.insert(key.to_vec(), value.to_vec());
            Ok(ControlFlow::Continue(()))
        };
        self.data.scan(Keyspace::Data, &all, &mut visit).unwrap();
        found
    }

    #[track_caller]
    fn assert_holds(&self, expected: &[(&str, &str)]) {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let expected: Model = expected.iter().map(|(k, v)| (bytes(k), bytes(v))).collect();
        assert_eq!(self.content(), expected);
    }
}

#[test]
fn keys_are_put_and_deleted() {
    let replica = Replica::new(&KeyRange::all());
    let done = |command| assert_eq!(replica.reply(&command), KvReply::Done);
    for key in ["a", "b", "c", "d"] {
        done(put(key, key));
    }
    done(put("a", ""));
    done(delete("b"));
    done(delete("not there"));
    replica.assert_holds(&[("a", ""), ("c", "c"), ("d", "d")]);
    done(delete_range("d", "a"));
    done(delete_range("b", "d"));
    replica.assert_holds(&[("a", ""), ("d", "d")]);
    done(delete_range("", ""));
    replica.assert_holds(&[]);
}

#[test]
fn a_swap_happens_only_to_the_expected_value() {
    let replica = Replica::new(&KeyRange::all());
    let reply = |expected, new| replica.reply(&swap("k", expected, new));
    assert_eq!(reply(Some("1"), Some("2")), not_swapped(None));
    assert_eq!(reply(None, Some("1")), KvReply::Swapped);
    replica.assert_holds(&[("k", "1")]);
    assert_eq!(reply(None, Some("2")), not_swapped(Some("1")));
    assert_eq!(reply(Some(""), Some("2")), not_swapped(Some("1")));
    assert_eq!(reply(Some("0"), None), not_swapped(Some("1")));
    assert_eq!(reply(Some("1"), Some("")), KvReply::Swapped);
    replica.assert_holds(&[("k", "")]);
    assert_eq!(reply(None, Some("2")), not_swapped(Some("")));
    assert_eq!(reply(Some(""), None), KvReply::Swapped);
    assert_eq!(reply(None, None), KvReply::Swapped);
    replica.assert_holds(&[]);
}

#[test]
fn a_number_is_incremented_within_its_bounds() {
    let replica = Replica::new(&KeyRange::all());
    let reply = |by| replica.reply(&increment("n", by));
    assert_eq!(reply(i64::MAX), KvReply::Incremented(i64::MAX));
    let present = i64::MAX;
    assert_eq!(reply(1), KvReply::Refused(KvRefusal::Overflow { present }));
    replica.assert_holds(&[("n", "9223372036854775807")]);
    assert_eq!(reply(i64::MIN), KvReply::Incremented(-1));
    assert_eq!(reply(i64::MIN + 1), KvReply::Incremented(i64::MIN));
    let present = i64::MIN;
    assert_eq!(reply(-1), KvReply::Refused(KvRefusal::Overflow { present }));
    replica.assert_holds(&[("n", "-9223372036854775808")]);
    let others = [
        "",
        "x",
        "+1",
        "01",
        "-0",
        " 1",
        "1\n",
        "1.0",
        "9223372036854775808",
    ];
    for value in others {
        replica.reply(&put("n", value));
        let refused = KvReply::Refused(KvRefusal::NotANumber);
        assert_eq!(reply(0), refused, "{value:?}");
        replica.assert_holds(&[("n", value)]);
    }
}

#[test]
fn of_a_batch_all_is_done_or_nothing() {
    let replica = Replica::new(&KeyRange::all());
    replica.reply(&put("a", "1"));
    let all = vec![
        increment("a", 1),
        swap("a", Some("2"), Some("3")),
        delete_range("b", "c"),
    ];
    let replies = vec![KvReply::Incremented(2), KvReply::Swapped, KvReply::Done];
    assert_eq!(
        replica.reply(&KvCommand::Batch(all)),
        KvReply::Batch(replies)
    );
    replica.assert_holds(&[("a", "3")]);
    let outer = vec![
        put("x", "y"),
        KvCommand::Batch(vec![delete("a"), increment("x", 1)]),
    ];
    let because = batch_refused(1, KvReply::Refused(KvRefusal::NotANumber));
    assert_eq!(
        replica.reply(&KvCommand::Batch(outer)),
        batch_refused(1, because)
    );
    let late = vec![
        put("a", "4"),
        delete_range("", ""),
        swap("a", Some("4"), None),
        put("b", ""),
    ];
    let because = not_swapped(None);
    assert_eq!(
        replica.reply(&KvCommand::Batch(late)),
        batch_refused(2, because)
    );
    replica.assert_holds(&[("a", "3")]);
    assert_eq!(
        replica.reply(&KvCommand::Batch(vec![])),
        KvReply::Batch(vec![])
    );
}

#[test]
fn a_key_outside_the_region_is_answered_and_stops_nothing() {
    let region = KeyRange::new("b", "d");
    let replica = Replica::new(&region);
    let refused = KvReply::Refused(KvRefusal::OutOfRange { region });
    let outside = [
        put("a", "1"),
        put("d", "1"),
        delete("a"),
        delete_range("a", "c"),
        delete_range("c", ""),
        swap("d", None, Some("1")),
        increment("", 1),
    ];
    for command in outside {
        assert_eq!(replica.reply(&command), refused, "{command:?}");
        let batch = KvCommand::Batch(vec![put("c", "1"), command]);
        assert_eq!(replica.reply(&batch), batch_refused(1, refused.clone()));
    }
    replica.assert_holds(&[]);
    assert_eq!(replica.reply(&delete_range("b", "d")), KvReply::Done);
}

#[test]
fn what_is_no_command_does_nothing() {
    let replica = Replica::new(&KeyRange::all());
    let mut change = entry(put("k", "v").encode());
    change.set_entry_type(EntryType::EntryConfChangeV2);
    let nothing = replica.apply(&[entry(Vec::new()), change]);
    assert_eq!(nothing, [b"", b""]);
    let not_a_command = KvReply::Refused(KvRefusal::NotACommand).encode();
    for bytes in [b"\x00", b"\xff", b"\x12"] {
        let replies = replica.apply(&[entry(bytes.to_vec())]);
        assert_eq!(replies[0], not_a_command, "{bytes:?}");
    }
    replica.assert_holds(&[]);
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

// The bytes of version 1: logs in the field have them.
#[test]
fn commands_and_replies_have_their_golden_bytes() {
    let commands = [
        (put("k", "v"), "0a060a016b120176"),
        (delete("k"), "12016b"),
        (delete(""), "1200"),
        (delete_range("a", "b"), "1a060a0161120162"),
        (swap("k", None, Some("v")), "22060a016b1a0176"),
        (swap("k", Some(""), None), "22050a016b1200"),
        (increment("k", -3), "2a050a016b1005"),
        (KvCommand::Batch(vec![delete("k")]), "32050a0312016b"),
        (KvCommand::Batch(vec![]), "3200"),
        (KvCommand::CreateIndex { name: "i".into() }, "520169"),
        (KvCommand::DropIndex { name: "i".into() }, "5a0169"),
    ];
    for (command, bytes) in commands {
        assert_eq!(hex(&command.encode()), bytes, "{command:?}");
        assert_eq!(KvCommand::decode(&command.encode()), Some(command));
    }
    let region = KeyRange::new("a", "b");
    let replies = [
        (KvReply::Done, "0a00"),
        (KvReply::Swapped, "1200"),
        (not_swapped(None), "1a00"),
        (not_swapped(Some("")), "1a020a00"),
        (KvReply::Incremented(0), "2000"),
        (KvReply::Batch(vec![KvReply::Done]), "2a040a020a00"),
        (batch_refused(1, not_swapped(None)), "3206080112021a00"),
        (KvReply::Refused(KvRefusal::NotACommand), "3a00"),
        (
            KvReply::Refused(KvRefusal::OutOfRange { region }),
            "42060a0161120162",
        ),
        (KvReply::Refused(KvRefusal::NotANumber), "4a00"),
        (
            KvReply::Refused(KvRefusal::Overflow { present: -1 }),
            "5001",
        ),
        (
            KvReply::Refused(KvRefusal::IndexExists { name: "i".into() }),
            "5a0169",
        ),
        (
            KvReply::Refused(KvRefusal::IndexNotFound { name: "i".into() }),
            "620169",
        ),
        (
            KvReply::Refused(KvRefusal::IndexWithoutExtractor { name: "i".into() }),
            "6a0169",
        ),
    ];
    for (reply, bytes) in replies {
        assert_eq!(hex(&reply.encode()), bytes, "{reply:?}");
        assert_eq!(KvReply::decode(&reply.encode()), Some(reply));
    }
}

#[test]
fn a_reply_can_be_read_however_deep_the_command_was() {
    let replica = Replica::new(&KeyRange::all());
    let mut command = delete_range("b", "a");
    let mut refused = increment("no number", 1);
    replica.reply(&put("no number", ""));
    let depths = (0..200).take_while(|_| {
        for command in [&mut command, &mut refused] {
            *command = KvCommand::Batch(vec![command.clone()]);
        }
        let understood = KvCommand::decode(&command.encode()).is_some();
        for command in [&command, &refused].into_iter().filter(|_| understood) {
            replica.reply(command); // fails if it cannot be decoded
        }
        understood
    });
    let depth = depths.count();
    assert!((40..100).contains(&depth), "{depth}");
}

pub(super) fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(b'a'..b'd', 0..3)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let numbers = prop_oneof![-2..3_i64, Just(i64::MAX), Just(i64::MIN)];
    prop_oneof![
        3 => numbers.prop_map(|number| number.to_string().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..3),
    ]
}

fn command() -> impl Strategy<Value = KvCommand> {
    let by = prop_oneof![-2..3_i64, any::<i64>()];
    let range = (key(), key()).prop_map(|(start, end)| KeyRange::new(start, end));
    let leaf = prop_oneof![
        3 => (key(), value()).prop_map(|(key, value)| KvCommand::Put { key, value }),
        1 => key().prop_map(|key| KvCommand::Delete { key }),
        1 => range.prop_map(|range| KvCommand::DeleteRange { range }),
        3 => (key(), prop::option::of(value()), prop::option::of(value()))
            .prop_map(|(key, expected, new)| KvCommand::CompareAndSwap { key, expected, new }),
        3 => (key(), by).prop_map(|(key, by)| KvCommand::Increment { key, by }),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop::collection::vec(inner, 0..4).prop_map(KvCommand::Batch)
    })
}

fn expected_sum(value: Option<&Vec<u8>>, by: i64) -> Result<i64, KvRefusal> {
    let text = value.map_or("0".into(), |value| String::from_utf8_lossy(value));
    let present = text.parse::<i64>().ok().filter(|n| n.to_string() == text);
    let present = present.ok_or(KvRefusal::NotANumber)?;
    let sum = present.checked_add(by);
    sum.ok_or(KvRefusal::Overflow { present })
}

/// What `command` does to the region of `range`, said once more and simply.
fn expected(model: &mut Model, range: &KeyRange, command: &KvCommand) -> KvReply {
    let region = range.clone();
    let out_of_range = KvReply::Refused(KvRefusal::OutOfRange { region });
    match command {
        KvCommand::Put { key, .. }
        | KvCommand::Delete { key }
        | KvCommand::CompareAndSwap { key, .. }
        | KvCommand::Increment { key, .. }
            if !range.contains(key) =>
        {
            return out_of_range;
        }
        KvCommand::DeleteRange { range: deleted } if !deleted.is_empty() => {
            let ends = range.end.is_empty() || !deleted.end.is_empty() && deleted.end <= range.end;
            if !range.contains(&deleted.start) || !ends {
                return out_of_range;
            }
        }
        _ => (),
    }
    match command {
        KvCommand::Put { key, value } => drop(model.insert(key.clone(), value.clone())),
        KvCommand::Delete { key } => drop(model.remove(key)),
        KvCommand::DeleteRange { range } => model.retain(|key, _| !range.contains(key)),
        KvCommand::CompareAndSwap { key, expected, new } => {
            let present = model.get(key).cloned();
            if present != *expected {
                return KvReply::NotSwapped { present };
            }
            match new {
                Some(new) => model.insert(key.clone(), new.clone()),
                None => model.remove(key),
            };
            return KvReply::Swapped;
        }
        KvCommand::Increment { key, by } => {
            let sum = match expected_sum(model.get(key), *by) {
                Ok(sum) => sum,
                Err(refusal) => return KvReply::Refused(refusal),
            };
            model.insert(key.clone(), sum.to_string().into_bytes());
            return KvReply::Incremented(sum);
        }
        KvCommand::Batch(commands) => {
            let mut after = model.clone();
            let mut replies = Vec::new();
            for (at, command) in (0..).zip(commands) {
                let reply = expected(&mut after, range, command);
                if matches!(
                    reply,
                    KvReply::NotSwapped { .. } | KvReply::Refused(_) | KvReply::BatchRefused { .. }
                ) {
                    return batch_refused(at, reply);
                }
                replies.push(reply);
            }
            *model = after;
            return KvReply::Batch(replies);
        }
        _ => unreachable!("these are for those who know the time, or have indexes"),
    }
    KvReply::Done
}

proptest! {
    #[test]
    fn replicas_agree_with_a_map_however_the_entries_are_batched(
        region in prop_oneof![
            3 => Just(KeyRange::all()),
            1 => (key(), key()).prop_map(|(start, end)| KeyRange::new(start, end)),
        ],
        commands in prop::collection::vec(command(), 1..24),
        cuts in prop::collection::vec(1..8_usize, 24),
    ) {
        let entries: Vec<Entry> = commands.iter().map(|c| entry(c.encode())).collect();
        let mut model = Model::new();
        let replies = commands.iter().map(|c| expected(&mut model, &region, c).encode());
        let replies: Vec<Vec<u8>> = replies.collect();
        let (single, cut, whole) = (Replica::new(&region), Replica::new(&region), Replica::new(&region));
        let of_single: Vec<_> = entries.chunks(1).flat_map(|e| single.apply(e)).collect();
        let (mut rest, mut of_cut) = (&entries[..], Vec::new());
        for length in cuts {
            let (now, later) = rest.split_at(length.min(rest.len()));
            of_cut.extend(cut.apply(now));
            rest = later;
        }
        prop_assert_eq!(&of_single, &replies);
        prop_assert_eq!(&of_cut, &replies);
        prop_assert_eq!(&whole.apply(&entries), &replies);
        for replica in [single, cut, whole] {
            prop_assert_eq!(&replica.content(), &model);
        }
    }

    #[test]
    fn hostile_bytes_are_answered_on_every_replica_alike(
        mut bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 1..64),
            command().prop_map(|command| command.encode()),
            prop::collection::vec(command(), 0..3).prop_map(|commands| {
                let replies = commands.iter().map(|_| KvReply::Done).collect();
                KvReply::Batch(replies).encode()
            }),
        ],
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        // That it returns is the test; what is understood is understood again from its own bytes.
        if let Some(reply) = KvReply::decode(&bytes) {
            prop_assert_eq!(KvReply::decode(&reply.encode()), Some(reply));
        }
        let (one, two) = (Replica::new(&KeyRange::all()), Replica::new(&KeyRange::all()));
        let entries = [entry(bytes.clone()), entry(bytes)];
        let replies = one.apply(&entries);
        prop_assert!(replies.iter().all(|reply| KvReply::decode(reply).is_some()));
        let separately: Vec<_> = entries.chunks(1).flat_map(|e| two.apply(e)).collect();
        prop_assert_eq!(replies, separately);
        prop_assert_eq!(one.content(), two.content());
    }
}
