//! What the data of replicas has beside keys and values: indexes by commands, and values that expire.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use peerstore::{
    Error, Extractor, IndexQuery, KeyRange, Keyspace, KvCommand, KvRefusal, KvReply, Reader, Result,
};

use crate::site::{Death, Site};
use crate::world::World;

fn words() -> Extractor {
    Arc::new(|_, value| value.split(|b| *b == b' ').map(<[u8]>::to_vec).collect())
}

fn length() -> Extractor {
    Arc::new(|_, value| vec![vec![value.len() as u8]])
}

/// Three stores that know how to index, each with a clock.
fn world(site: fn() -> Site) -> World {
    let mut world = World::new(0, site, None);
    world.extractors = vec![("words", words()), ("length", length())];
    world.clocks = (1..=3)
        .map(|id| (id, Arc::new(AtomicU64::new(0))))
        .collect();
    for id in 1..=3 {
        world.add(id, site());
    }
    world.create_region(&[1, 2, 3]);
    world
}

fn create(name: &str) -> KvCommand {
    KvCommand::CreateIndex { name: name.into() }
}

fn drop_index(name: &str) -> KvCommand {
    KvCommand::DropIndex { name: name.into() }
}

fn refused(refusal: KvRefusal) -> KvReply {
    KvReply::Refused(refusal)
}

impl World {
    /// What the state machine of the region says to `command`.
    fn command(&mut self, region: u64, command: &KvCommand) -> KvReply {
        let command = command.encode();
        let reply = self.wait("a command", |world| {
            let leader = world.leader(region)?;
            let ticket = world.store(leader).propose(region, command.clone());
            world.answer(ticket)?.ok()
        });
        KvReply::decode(&reply).expect("a reply")
    }

    /// A linearizable read on the store `id`, whether it leads or not.
    fn reader(&mut self, id: u64, region: u64) -> Reader {
        self.wait("a read", |world| {
            let ticket = world.store(id).read(region);
            world.answer(ticket)?.ok()
        })
    }

    /// The keys that each store finds in its index, which must be the same.
    fn find(&mut self, region: u64, name: &str, query: &IndexQuery) -> Result<Vec<String>> {
        let found: Vec<_> = [1, 2, 3]
            .map(|id| {
                let page = self.reader(id, region).query_index(name, query)?;
                Ok(page.keys().map(|k| k.escape_ascii().to_string()).collect())
            })
            .into_iter()
            .collect();
        let text = format!("{found:?}");
        assert!(
            found
                .iter()
                .all(|f| format!("{f:?}") == format!("{:?}", found[0])),
            "{text}"
        );
        found.into_iter().next().expect("of three")
    }

    fn exact(&mut self, region: u64, word: &str) -> String {
        let found = self.find(region, "words", &IndexQuery::exact(word));
        found.expect("an index").join(" ")
    }

    /// Waits until the replicas have the same, and nobody has anything else.
    fn assert_same(&mut self, regions: &[u64]) {
        self.check(regions);
        let starts: Vec<_> = regions.iter().map(|id| self.region(*id)).collect();
        let starts: Vec<_> = starts
            .into_iter()
            .map(|r| r.expect("led").start_key)
            .collect();
        self.wait("replicas with the same", |world| {
            let first = world.held(1, &starts);
            let same = [2, 3].iter().all(|id| world.held(*id, &starts) == first);
            same.then_some(())
        });
    }

    /// What a store holds, without what the clocks of the regions that begin at `starts` have passed:
    /// when that goes from the disk is each store's own affair.
    fn held(&self, id: u64, starts: &[Vec<u8>]) -> Vec<(Keyspace, Vec<u8>, Vec<u8>)> {
        let app = &self.running[&id].app;
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().expect("a number"));
        let clock_of = |key: &[u8]| -> u64 {
            let start = starts.iter().rev().find(|start| start.as_slice() <= key);
            let record = app
                .get(Keyspace::Ttl, start.expect("a region"))
                .expect("read");
            record
                .filter(|r| r[0] & 1 != 0)
                .map_or(0, |r| number(&r[1..]))
        };
        let mut held = Vec::new();
        for keyspace in Keyspace::APPLICATION {
            let mut take = |key: &[u8], value: &[u8]| {
                let is_value = keyspace == Keyspace::Ttl && value[0] == 2;
                if !is_value || number(&value[1..]) > clock_of(key) {
                    held.push((keyspace, key.to_vec(), value.to_vec()));
                }
                Ok(ControlFlow::Continue(()))
            };
            app.scan(keyspace, &KeyRange::all(), &mut take)
                .expect("read");
        }
        held
    }

    /// Sets the clock of a store, or of all.
    fn clock(&self, id: u64, now_ms: u64) {
        self.clocks[&id].store(now_ms, Relaxed);
    }

    fn last_index(&self, id: u64) -> u64 {
        self.applied(id, 1).map_or(0, |state| state.applied_index)
    }
}

fn put_until(key: &str, expires_at_ms: u64) -> KvCommand {
    KvCommand::PutUntil {
        key: key.into(),
        value: b"v".to_vec(),
        expires_at_ms,
    }
}

fn over_sites(test: fn(World)) {
    test(world(Site::memory));
    #[cfg(feature = "rocksdb")]
    test(world(Site::rocks));
}

#[test]
fn an_index_is_created_filled_and_dropped_by_commands_on_every_replica() {
    over_sites(|mut world| {
        world.put_all(&["1", "3"], "red blue");
        let all = IndexQuery::prefix("");
        let gone = world.find(1, "words", &all);
        assert!(matches!(gone, Err(Error::IndexNotFound { .. })), "{gone:?}");
        assert_eq!(world.command(1, &create("words")), KvReply::Done);
        let name = || "words".to_string();
        let again = world.command(1, &create("words"));
        assert_eq!(again, refused(KvRefusal::IndexExists { name: name() }));
        world.put_all(&["2"], "red");
        assert_eq!(world.exact(1, "red"), "1 2 3");
        assert_eq!(world.exact(1, "blue"), "1 3");
        let page = world.find(1, "words", &IndexQuery::prefix("").reverse().limit(2));
        assert_eq!(page.expect("found"), ["3", "2"]);
        world.assert_same(&[1]);
        assert_eq!(world.command(1, &drop_index("words")), KvReply::Done);
        let again = world.command(1, &drop_index("words"));
        assert_eq!(again, refused(KvRefusal::IndexNotFound { name: name() }));
        let gone = world.find(1, "words", &all);
        assert!(matches!(gone, Err(Error::IndexNotFound { .. })), "{gone:?}");
        world.assert_same(&[1]);
    });
}

#[test]
fn an_index_on_a_missing_extractor_is_refused_and_nothing_is_changed() {
    over_sites(|mut world| {
        world.put("1", "red");
        let command = KvCommand::Batch(vec![create("words"), create("colour")]);
        let because = KvRefusal::IndexWithoutExtractor {
            name: "colour".into(),
        };
        let expected = KvReply::BatchRefused {
            at: 1,
            because: Box::new(refused(because.clone())),
        };
        assert_eq!(world.command(1, &command), expected);
        assert_eq!(world.command(1, &create("colour")), refused(because));
        for name in ["words", "colour"] {
            let gone = world.find(1, name, &IndexQuery::prefix(""));
            assert!(matches!(gone, Err(Error::IndexNotFound { .. })), "{gone:?}");
        }
        for id in 1..=3 {
            let mut none = |key: &[u8], _: &[u8]| panic!("store {id} has {key:?}");
            let app = &world.running[&id].app;
            app.scan(Keyspace::Index, &KeyRange::all(), &mut none)
                .expect("read");
        }
        world.assert_same(&[1]);
    });
}

#[test]
fn the_indexes_of_a_region_go_with_it_through_split_and_merge() {
    over_sites(|mut world| {
        assert_eq!(world.command(1, &create("words")), KvReply::Done);
        world.put_all(&["a", "k", "z"], "red");
        let right = world.split("k");
        assert_eq!(
            (world.exact(1, "red"), world.exact(right, "red")),
            ("a".into(), "k z".into())
        );
        // Each goes its own way until they are one again.
        assert_eq!(world.command(1, &drop_index("words")), KvReply::Done);
        assert_eq!(world.command(1, &create("length")), KvReply::Done);
        world.put_all(&["b", "y"], "red");
        assert_eq!(world.exact(right, "red"), "k y z");
        let gone = world.find(1, "words", &IndexQuery::exact("red"));
        assert!(matches!(gone, Err(Error::IndexNotFound { .. })), "{gone:?}");
        let by_length = IndexQuery::exact([3]);
        assert_eq!(
            world.find(1, "length", &by_length).expect("found"),
            ["a", "b"]
        );
        world.assert_same(&[1, right]);
        world.merge(right, 1);
        assert_eq!(world.exact(1, "red"), "a b k y z");
        let found = world.find(1, "length", &by_length).expect("found");
        assert_eq!(found, ["a", "b", "k", "y", "z"]);
        world.assert_same(&[1]);
    });
}

#[test]
fn a_replica_makes_its_indexes_from_a_snapshot_and_again_after_it_died() {
    for death in Death::ALL {
        let mut world = world(Site::memory);
        world.put_all(&["a", "b"], "red");
        world.network.isolate(3);
        world.lead_from(1, 1);
        assert_eq!(world.command(1, &create("words")), KvReply::Done);
        world.put_all(&["b", "c"], "red blue");
        world.compact(1);
        world.network.heal();
        world.assert_same(&[1]);
        assert_eq!(
            (world.exact(1, "red"), world.exact(1, "blue")),
            ("a b c".into(), "b c".into())
        );
        for id in 1..=3 {
            world.restart(id, death);
            assert_eq!(world.exact(1, "blue"), "b c", "store {id} after {death:?}");
        }
        world.assert_same(&[1]);
    }
}

#[test]
fn what_has_expired_goes_from_every_replica_by_one_command_of_the_leader() {
    over_sites(|mut world| {
        world.lead_from(1, 1);
        world.command(1, &put_until("soon", 1_000));
        world.command(1, &put_until("late", 9_000));
        world.assert_same(&[1]);
        let before = world.last_index(1);
        // The others' clocks say nothing.
        world.clock(2, 5_000);
        world.clock(3, 5_000);
        world.clock(1, 999);
        world.pass(400);
        assert_eq!(
            world.last_index(1),
            before,
            "nothing has expired for the leader"
        );
        world.clock(1, 1_000);
        world.wait("the command", |w| (w.last_index(1) > before).then_some(()));
        world.assert_same(&[1]);
        for id in 1..=3 {
            let reader = world.reader(id, 1);
            assert_eq!(reader.get(b"soon").unwrap(), None, "store {id}");
            assert!(reader.get(b"late").unwrap().is_some(), "store {id}");
        }
        world.pass(400);
        assert_eq!(world.last_index(1), before + 1, "no second time");
    });
}

#[test]
fn a_leader_whose_clock_is_behind_brings_nothing_back() {
    over_sites(|mut world| {
        world.lead_from(1, 1);
        world.command(1, &put_until("key", 1_000));
        world.clock(1, 1_000);
        world.wait("the end of the key", |w| {
            w.reader(1, 1)
                .get(b"key")
                .expect("read")
                .is_none()
                .then_some(())
        });
        world.clock(2, 3);
        world.lead_from(1, 2);
        let before = world.last_index(2);
        world.pass(400);
        assert_eq!(world.last_index(2), before, "there is nothing to say");
        world.command(1, &KvCommand::ExpireUntil { now_ms: 3 });
        // Nor does a command that carries the time of that clock.
        world.command(1, &put_until("dead", 900));
        for id in 1..=3 {
            let reader = world.reader(id, 1);
            for key in [&b"key"[..], b"dead"] {
                assert_eq!(reader.value_at(key, 3).unwrap(), None, "store {id}");
            }
        }
        world.assert_same(&[1]);
    });
}

#[test]
fn a_region_without_anything_to_expire_sleeps_on_and_one_with_it_is_woken() {
    let mut world = world(Site::memory);
    world.lead_from(1, 1);
    world.put("key", "value");
    world.command(1, &put_until("soon", 1_000));
    world.check(&[1]);
    let ticks = |world: &World| -> u64 {
        let all = world.running.values();
        all.map(|r| r.store.store().stats().region_ticks).sum()
    };
    world.pass(1_000);
    let (asleep, before) = (ticks(&world), world.last_index(1));
    world.clock(1, 999);
    world.pass(400);
    assert_eq!(ticks(&world), asleep, "it was looked at, and not woken");
    world.clock(1, 1_000);
    world.wait("the command", |w| (w.last_index(3) > before).then_some(()));
    assert!(ticks(&world) >= asleep);
    // Then it sleeps again, though the time goes on.
    world.pass(1_000);
    let asleep = ticks(&world);
    for now_ms in 2_000..2_020 {
        world.clock(1, now_ms);
        world.pass(20);
    }
    assert_eq!((ticks(&world), world.last_index(1)), (asleep, before + 1));
    assert_eq!(world.reader(1, 1).get(b"soon").unwrap(), None);
}

#[test]
fn a_clock_that_was_moved_stays_after_a_snapshot_and_a_death() {
    let mut world = world(Site::memory);
    world.command(1, &put_until("soon", 1_000));
    world.network.isolate(3);
    world.lead_from(1, 1);
    world.clock(1, 1_000);
    let before = world.last_index(1);
    world.wait("the command", |w| (w.last_index(1) > before).then_some(()));
    world.compact(1);
    world.network.heal();
    world.assert_same(&[1]);
    for id in 1..=3 {
        world.restart(id, Death::Power { log: 0, data: 0 });
        let value = world.reader(id, 1).value_at(b"soon", 0).unwrap();
        assert_eq!(value, None, "store {id}");
    }
}
