//! Values that expire, reclaimed by compactions of a real RocksDB.

use peerstore::memory::{MemoryLog, MemorySnapshots};
use peerstore::rocks::RocksData;
use peerstore::{
    ApplicationDataStorage, ApplyBatch, CompositeStorage, Config, DataRead, Durability, KeyRange,
    Keyspace, KvCommand, KvStateMachine, Parts, PeerStorage, RaftSnapshotData, Region,
    StateMachine,
};
use raft::eraftpb::Entry;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::*;

fn open(dir: &Path) -> RocksData {
    RocksData::open(dir, &options()).unwrap()
}

fn apply(data: &RocksData, range: &KeyRange, command: &KvCommand) {
    let mut batch = ApplyBatch::new(data, range);
    KvStateMachine::apply_command(command, &mut batch).unwrap();
    data.write(batch.writes(), Durability::Buffered).unwrap();
}

fn put_until(key: &str, expires_at_ms: u64) -> KvCommand {
    KvCommand::PutUntil {
        key: key.into(),
        value: b"v".to_vec(),
        expires_at_ms,
    }
}

/// The keys that take space in the keyspace of what expires.
fn kept(data: &dyn DataRead) -> String {
    let mut keys = Vec::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        keys.push(key.escape_ascii().to_string());
        Ok(ControlFlow::Continue(()))
    };
    data.scan(Keyspace::Ttl, &KeyRange::all(), &mut visit)
        .unwrap();
    keys.join(" ")
}

#[test]
fn a_compaction_drops_what_the_clock_has_passed() {
    let dir = tempfile::tempdir().unwrap();
    let (data, all) = (open(dir.path()), KeyRange::all());
    for (key, expires) in [("a", 100), ("b", 101), ("c", 50), ("d", 1_000)] {
        apply(&data, &all, &put_until(key, expires));
    }
    data.compact(&all);
    assert_eq!(kept(&data), "a b c d", "no clock has moved");
    apply(&data, &all, &KvCommand::ExpireUntil { now_ms: 100 });
    assert_eq!(kept(&data), " a b c d");
    data.compact(&all);
    assert_eq!(kept(&data), " b d", "the empty key has the clock");
    // The next version of a key is not taken for the one that has expired.
    apply(&data, &all, &put_until("a", 300));
    apply(&data, &all, &KvCommand::ExpireUntil { now_ms: 200 });
    data.compact(&all);
    assert_eq!(kept(&data), " a d");
    assert_eq!(data.get(Keyspace::Ttl, b"b").unwrap(), None);
}

#[test]
fn a_clock_is_of_its_own_region_only() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path());
    let (left, right) = (KeyRange::new("", "m"), KeyRange::new("m", ""));
    for (range, key) in [(&left, "a"), (&right, "n"), (&right, "z")] {
        apply(&data, range, &put_until(key, 100));
    }
    apply(&data, &left, &KvCommand::ExpireUntil { now_ms: 100 });
    data.compact(&KeyRange::all());
    assert_eq!(kept(&data), " n z");
    apply(&data, &right, &KvCommand::ExpireUntil { now_ms: 99 });
    data.compact(&KeyRange::all());
    assert_eq!(kept(&data), " m n z");
    let (middle, last) = (KeyRange::new("m", "y"), KeyRange::new("y", ""));
    apply(&data, &middle, &KvCommand::ExpireUntil { now_ms: 100 });
    data.compact(&KeyRange::all());
    assert_eq!(kept(&data), " m z", "the clock of m to y is not that of z");
    apply(&data, &last, &KvCommand::ExpireUntil { now_ms: 100 });
    data.compact(&KeyRange::all());
    assert_eq!(kept(&data), " m y");
}

#[test]
fn a_view_keeps_what_it_can_see() {
    let dir = tempfile::tempdir().unwrap();
    let (data, all) = (open(dir.path()), KeyRange::all());
    apply(&data, &all, &put_until("a", 100));
    let view = data.view().unwrap();
    apply(&data, &all, &KvCommand::ExpireUntil { now_ms: 100 });
    let later = data.view().unwrap();
    data.compact(&all);
    assert_eq!(kept(&*view), "a");
    drop(view);
    data.compact(&all);
    assert_eq!(
        kept(&data),
        "",
        "one that has the clock itself holds nothing up"
    );
    drop(later);
}

#[test]
fn after_an_import_the_old_clock_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (data, all) = (open(dir.path()), KeyRange::all());
    apply(&data, &all, &put_until("a", 100));
    let record = data.get(Keyspace::Ttl, b"a").unwrap().unwrap();
    apply(&data, &all, &KvCommand::ExpireUntil { now_ms: 500 });
    // A backup from before the clock moved.
    let mut import = data.begin_import(&KeyRange::new("a", "b")).unwrap();
    import.put(Keyspace::Ttl, b"a", &record).unwrap();
    import.finish().unwrap();
    data.compact(&all);
    assert_eq!(kept(&data), " a");
}

#[test]
fn after_an_open_nothing_is_dropped_before_a_clock_moves() {
    let dir = tempfile::tempdir().unwrap();
    let all = KeyRange::all();
    let data = open(dir.path());
    apply(&data, &all, &put_until("a", 100));
    apply(&data, &all, &KvCommand::ExpireUntil { now_ms: 100 });
    assert_eq!(data.stats().syncs, 1, "the move of the clock is durable");
    drop(data);
    let data = open(dir.path());
    data.compact(&all);
    assert_eq!(kept(&data), " a");
    apply(&data, &all, &KvCommand::ExpireUntil { now_ms: 101 });
    data.compact(&all);
    assert_eq!(kept(&data), "");
}

/// A region of one over `data`, in which the entries of `commands` are applied.
fn region(data: &Arc<RocksData>, commands: &[KvCommand]) -> (CompositeStorage, PeerStorage) {
    let parts = Parts {
        log: Arc::new(MemoryLog::new()),
        app: data.clone(),
        snapshots: Arc::new(MemorySnapshots::new()),
    };
    let node = CompositeStorage::from_parts(parts, &Config::default()).unwrap();
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    let entries: Vec<Entry> = (6..)
        .zip(commands)
        .map(|(index, command)| {
            let mut entry = entry(index, &command.encode());
            entry.term = 5;
            entry
        })
        .collect();
    storage.append(&entries).unwrap();
    let apply =
        |entry: &Entry, batch: &mut ApplyBatch<'_>| KvStateMachine.apply(entry, batch).map(drop);
    storage.apply(&entries, apply).unwrap();
    (node, storage)
}

#[test]
fn snapshots_are_the_same_whether_it_was_reclaimed_or_not() {
    let commands = [
        KvCommand::put("stays", "1"),
        put_until("a", 100),
        put_until("b", 200),
        put_until("", 100),
        KvCommand::ExpireUntil { now_ms: 100 },
    ];
    let digest = |compacts: bool| {
        let dir = tempfile::tempdir().unwrap();
        let data = Arc::new(open(dir.path()));
        let (_node, storage) = region(&data, &commands);
        if compacts {
            data.compact(&KeyRange::all());
            assert_eq!(kept(&*data), " b");
        }
        assert_eq!(storage.get(b"a").unwrap(), None);
        assert_eq!(storage.get(b"b").unwrap().as_deref(), Some(&b"v"[..]));
        let snapshot = storage.wait_snapshot(Duration::from_secs(60)).unwrap();
        let content = RaftSnapshotData::of_snapshot(1.into(), &snapshot).unwrap();
        content.unwrap().digest
    };
    assert_eq!(digest(false), digest(true));
}
