//! What expires: against a map that knows the time, on replicas that reclaim when they like.

use proptest::prelude::*;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::tests::{
    Model, Replica, delete, delete_range, entry, hex, increment, key, not_swapped, put, swap,
};
use super::{KvCommand, KvRefusal, KvReply, KvStateMachine};
use crate::app_store::{AppBatch, ApplicationDataStorage as _, DataRead as _, Keyspace};
use crate::expiry::{At, Record, clock};
use crate::state_machine::ApplyBatch;
use crate::types::{Durability, KeyRange};

fn put_until(key: &str, value: &str, expires_at_ms: u64) -> KvCommand {
    KvCommand::PutUntil {
        key: key.into(),
        value: value.into(),
        expires_at_ms,
    }
}

fn at(now_ms: u64, command: KvCommand) -> KvCommand {
    let command = Box::new(command);
    KvCommand::At { now_ms, command }
}

fn expire_until(now_ms: u64) -> KvCommand {
    KvCommand::ExpireUntil { now_ms }
}

impl Replica {
    /// What a reader sees who says that it is `now_ms`.
    fn seen_at(&self, now_ms: u64) -> Model {
        let clock = clock(&self.data, &self.region.start).unwrap();
        let data = At {
            data: &self.data,
            now_ms: now_ms.max(clock),
        };
        let mut found = Model::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            found.insert(key.to_vec(), value.to_vec());
            Ok(ControlFlow::Continue(()))
        };
        data.scan(Keyspace::Data, &self.region, &mut visit).unwrap();
        let mut back = Vec::new();
        let mut visit = |key: &[u8], _: &[u8]| {
            back.push(key.to_vec());
            Ok(ControlFlow::Continue(()))
        };
        let all = data.scan_back(Keyspace::Data, &self.region, &mut visit);
        all.unwrap();
        back.reverse();
        assert!(found.keys().eq(&back), "{found:?} and back {back:?}");
        for (key, value) in &found {
            let alone = data.get(Keyspace::Data, key).unwrap();
            assert_eq!(alone.as_ref(), Some(value));
        }
        found
    }

    /// Drops what nobody can see any more, as a compaction may at any time.
    fn reclaim(&self) {
        let clock = clock(&self.data, &self.region.start).unwrap();
        let mut gone = AppBatch::new();
        let mut visit = |key: &[u8], bytes: &[u8]| {
            if Record::of(key, bytes).unwrap().is_gone_at(clock) {
                gone.delete(Keyspace::Ttl, key);
            }
            Ok(ControlFlow::Continue(()))
        };
        self.data
            .scan(Keyspace::Ttl, &self.region, &mut visit)
            .unwrap();
        self.data.write(&gone, Durability::Buffered).unwrap();
    }

    fn records(&self) -> usize {
        let mut count = 0;
        let mut visit = |_: &[u8], _: &[u8]| {
            count += 1;
            Ok(ControlFlow::Continue(()))
        };
        let all = KeyRange::all();
        self.data.scan(Keyspace::Ttl, &all, &mut visit).unwrap();
        count
    }
}

#[test]
fn what_expires_is_gone_at_its_time() {
    let replica = Replica::new(&KeyRange::all());
    let seen = |now_ms| replica.seen_at(now_ms).len();
    replica.reply(&put("stays", "1"));
    replica.reply(&put_until("goes", "2", 100));
    assert_eq!((seen(0), seen(99), seen(100)), (2, 2, 1));
    let swap = swap("goes", None, Some("3"));
    assert_eq!(replica.reply(&swap), not_swapped(Some("2")));
    assert_eq!(replica.reply(&at(99, swap.clone())), not_swapped(Some("2")));
    assert_eq!(replica.reply(&at(100, swap)), KvReply::Swapped);
    assert_eq!(seen(1_000), 2, "what a swap has put stays");
    assert_eq!(replica.records(), 0);
}

#[test]
fn a_key_is_in_one_place_only() {
    let replica = Replica::new(&KeyRange::all());
    let until = || put_until("k", "until", 100);
    for (command, stays) in [
        (put("k", "v"), 1),
        (until(), 0),
        (delete("k"), 0),
        (until(), 0),
        (swap("k", Some("until"), None), 0),
        (until(), 0),
        (swap("k", Some("until"), Some("v")), 1),
        (until(), 0),
        (delete_range("a", "z"), 0),
        (at(100, until()), 0),
        (put("k", "v"), 1),
        (at(100, until()), 0),
    ] {
        replica.reply(&command);
        assert_eq!(replica.content().len(), stays, "{command:?}");
        let expires = matches!(command, KvCommand::PutUntil { .. });
        assert_eq!(replica.records(), usize::from(expires), "{command:?}");
    }
}

#[test]
fn a_counted_number_keeps_its_time() {
    let replica = Replica::new(&KeyRange::all());
    replica.reply(&put_until("hits", "1", 100));
    let hit = || increment("hits", 1);
    assert_eq!(replica.reply(&at(50, hit())), KvReply::Incremented(2));
    assert_eq!(replica.reply(&at(99, hit())), KvReply::Incremented(3));
    assert_eq!(replica.seen_at(100), Model::new());
    assert_eq!(replica.reply(&at(100, hit())), KvReply::Incremented(1));
    assert_eq!(replica.seen_at(1_000).len(), 1);
}

#[test]
fn behind_the_clock_nothing_comes_back() {
    let replica = Replica::new(&KeyRange::all());
    replica.reply(&put_until("a", "1", 100));
    replica.reply(&put_until("b", "1", 200));
    replica.reply(&expire_until(100));
    assert_eq!(replica.seen_at(0).len(), 1);
    let early = at(5, swap("a", Some("1"), None));
    assert_eq!(replica.reply(&early), not_swapped(None));
    replica.reply(&put_until("c", "1", 100));
    assert_eq!(replica.seen_at(0).len(), 1, "it has expired already");
    replica.reply(&expire_until(50));
    assert_eq!(clock(&replica.data, b"").unwrap(), 100, "never back");
    replica.reply(&delete_range("", ""));
    replica.reply(&delete(""));
    replica.reply(&put_until("", "under the clock's own key", 300));
    assert_eq!(clock(&replica.data, b"").unwrap(), 100);
    assert_eq!(replica.seen_at(299).len(), 1);
    replica.reply(&put("", "stays"));
    assert_eq!(clock(&replica.data, b"").unwrap(), 100);
    assert_eq!(replica.seen_at(299).len(), 1);
}

#[test]
fn who_has_nothing_that_expires_pays_nothing() {
    let replica = Replica::new(&KeyRange::all());
    replica.apply(&[entry(put("a", "1").encode()), entry(delete("b").encode())]);
    replica.reply(&delete_range("", ""));
    let all = KeyRange::all();
    let mut batch = ApplyBatch::new(&replica.data, &all);
    let command = KvCommand::Batch(vec![put("a", "1"), delete("b"), delete_range("c", "d")]);
    KvStateMachine::apply_command(&command, &mut batch).unwrap();
    assert_eq!(batch.writes().len(), 3);
}

#[test]
fn commands_with_times_have_their_golden_bytes() {
    for (command, bytes) in [
        (put_until("k", "v", 300), "3a090a016b12017618ac02"),
        (at(7, delete("k")), "42070807120312016b"),
        (expire_until(300), "48ac02"),
        (expire_until(0), "4800"),
    ] {
        assert_eq!(hex(&command.encode()), bytes, "{command:?}");
        assert_eq!(KvCommand::decode(&command.encode()), Some(command));
    }
}

/// Keys with their values and times, and the clock.
#[derive(Default)]
struct Timed {
    keys: BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>,
    clock: u64,
}

impl Timed {
    fn present(&self, key: &[u8], now_ms: u64) -> Option<&(Vec<u8>, Option<u64>)> {
        let now_ms = now_ms.max(self.clock);
        let found = self.keys.get(key);
        found.filter(|(_, expires)| expires.is_none_or(|expires| now_ms < expires))
    }

    fn seen_at(&self, now_ms: u64) -> Model {
        let keys = self.keys.keys();
        let seen = keys.filter_map(|key| Some((key.clone(), self.present(key, now_ms)?.0.clone())));
        seen.collect()
    }

    fn apply(&mut self, now_ms: u64, command: &KvCommand) -> KvReply {
        match command {
            KvCommand::Put { key, value } => {
                self.keys.insert(key.clone(), (value.clone(), None));
            }
            KvCommand::PutUntil {
                key,
                value,
                expires_at_ms,
            } => {
                let value = (value.clone(), Some(*expires_at_ms));
                self.keys.insert(key.clone(), value);
                if *expires_at_ms <= now_ms {
                    self.keys.remove(key);
                }
            }
            KvCommand::Delete { key } => {
                self.keys.remove(key);
            }
            KvCommand::DeleteRange { range } => self.keys.retain(|key, _| !range.contains(key)),
            KvCommand::CompareAndSwap { key, expected, new } => {
                let present = self.present(key, now_ms).map(|(value, _)| value.clone());
                if present != *expected {
                    return KvReply::NotSwapped { present };
                }
                match new {
                    Some(new) => self.keys.insert(key.clone(), (new.clone(), None)),
                    None => self.keys.remove(key),
                };
                return KvReply::Swapped;
            }
            KvCommand::Increment { key, by } => {
                let (value, expires) = match self.present(key, now_ms) {
                    Some((value, expires)) => (value.clone(), *expires),
                    None => (b"0".to_vec(), None),
                };
                let number: Option<i64> = String::from_utf8(value).unwrap().parse().ok();
                let Some(number) = number else {
                    return KvReply::Refused(KvRefusal::NotANumber);
                };
                let sum = number + by;
                let value = sum.to_string().into_bytes();
                self.keys.insert(key.clone(), (value, expires));
                return KvReply::Incremented(sum);
            }
            KvCommand::At {
                now_ms: at,
                command,
            } => return self.apply(now_ms.max(*at), command),
            KvCommand::ExpireUntil { now_ms } => self.clock = self.clock.max(*now_ms),
            KvCommand::CreateIndex { .. } | KvCommand::DropIndex { .. } => {
                unreachable!("these are tried over stores that have indexes")
            }
            KvCommand::Batch(commands) => {
                let replies = commands.iter().map(|c| self.apply(now_ms, c));
                return KvReply::Batch(replies.collect());
            }
        }
        // What has expired by the clock never comes back.
        let clock = self.clock;
        self.keys
            .retain(|_, (_, expires)| expires.is_none_or(|expires| clock < expires));
        KvReply::Done
    }
}

fn time() -> impl Strategy<Value = u64> {
    0..12_u64
}

fn timed_command() -> impl Strategy<Value = KvCommand> {
    let value = || (0..3_i64).prop_map(|number| number.to_string().into_bytes());
    let range = (key(), key()).prop_map(|(start, end)| KeyRange::new(start, end));
    let leaf = prop_oneof![
        2 => (key(), value()).prop_map(|(key, value)| KvCommand::Put { key, value }),
        4 => (key(), value(), time()).prop_map(|(key, value, expires_at_ms)| KvCommand::PutUntil {
            key,
            value,
            expires_at_ms,
        }),
        1 => key().prop_map(|key| KvCommand::Delete { key }),
        1 => range.prop_map(|range| KvCommand::DeleteRange { range }),
        2 => (key(), prop::option::of(value()), prop::option::of(value()))
            .prop_map(|(key, expected, new)| KvCommand::CompareAndSwap { key, expected, new }),
        2 => key().prop_map(|key| KvCommand::Increment { key, by: 1 }),
        1 => time().prop_map(expire_until),
    ];
    let timed = (time(), leaf.clone()).prop_map(|(now_ms, command)| at(now_ms, command));
    // Puts only, so that all of a batch is done.
    let puts =
        (key(), value(), time()).prop_map(|(key, value, expires_at_ms)| KvCommand::PutUntil {
            key,
            value,
            expires_at_ms,
        });
    let batch = prop::collection::vec(puts, 0..3).prop_map(KvCommand::Batch);
    prop_oneof![3 => leaf, 3 => timed, 1 => batch]
}

proptest! {
    #[test]
    fn replicas_agree_whenever_they_reclaim(
        commands in prop::collection::vec((timed_command(), any::<bool>(), any::<bool>()), 1..40),
    ) {
        let (eager, lazy) = (Replica::new(&KeyRange::all()), Replica::new(&KeyRange::all()));
        let mut model = Timed::default();
        let (mut waiting, mut replies) = (Vec::new(), Vec::new());
        for (command, ends_batch, reclaims) in &commands {
            let expected = model.apply(0, command);
            prop_assert_eq!(eager.reply(command), expected.clone(), "{:?}", command);
            waiting.push(entry(command.encode()));
            replies.push(expected);
            if *reclaims {
                eager.reclaim();
            }
            if *ends_batch {
                for (reply, expected) in lazy.apply(&waiting).iter().zip(&replies) {
                    prop_assert_eq!(KvReply::decode(reply), Some(expected.clone()));
                }
                waiting.clear();
                replies.clear();
            }
        }
        lazy.apply(&waiting);
        for now_ms in 0..13 {
            let expected = model.seen_at(now_ms);
            prop_assert_eq!(eager.seen_at(now_ms), expected.clone(), "eager at {}", now_ms);
            prop_assert_eq!(lazy.seen_at(now_ms), expected, "lazy at {}", now_ms);
        }
        eager.reclaim();
        lazy.reclaim();
        prop_assert_eq!(eager.content(), lazy.content());
        prop_assert_eq!(eager.records(), lazy.records());
    }
}
