//! Snapshots that must be refused: the typed error says why, and nothing has changed.

use std::io::Write as _;

use peerstore::{
    CompositeStorage, Error, KeyRange, LogPosition, PeerStorage, RaftSnapshotData, Region,
    SnapshotMeta,
};
use prost::Message as _;
use raft::eraftpb::Snapshot;

use crate::support::{
    Dump, Leader, PATIENCE, assert_says, config, config_with_files, dump, fill, leader, on_disk,
    receive, two_voters,
};

struct Target {
    node: CompositeStorage,
    storage: PeerStorage,
    before: Dump,
    dir: tempfile::TempDir,
}

fn target() -> Target {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let mut storage = node.create_region(&two_voters()).unwrap();
    fill(&mut storage, 5, 6..9);
    let before = dump(&node);
    Target {
        node,
        storage,
        before,
        dir,
    }
}

impl Target {
    /// Installing `snapshot` is refused, leaves everything as it was, and takes the right one then.
    fn refuses(mut self, snapshot: Snapshot, says: &[&str]) -> Error {
        let state = self.storage.raft_state().clone();
        let error = self.storage.install_snapshot(snapshot).unwrap_err();
        assert_says(&error, says);
        assert_eq!(dump(&self.node), self.before, "{error}");
        assert_eq!(self.storage.raft_state(), &state);
        assert_eq!(self.node.snapshots().list(None).unwrap(), []);
        let good = inline_leader();
        self.storage.install_snapshot(good.snapshot).unwrap();
        assert_eq!(self.storage.applied_index(), 15);
        error
    }
}

fn inline_leader() -> Leader {
    leader(config(1), &two_voters(), 6, 15)
}

fn data_of(snapshot: &Snapshot) -> RaftSnapshotData {
    let data = RaftSnapshotData::of_snapshot(1.into(), snapshot);
    data.unwrap().unwrap()
}

fn with_data(snapshot: &Snapshot, change: impl FnOnce(&mut RaftSnapshotData)) -> Snapshot {
    let mut data = data_of(snapshot);
    change(&mut data);
    let mut snapshot = snapshot.clone();
    snapshot.data = data.encode_to_vec().into();
    snapshot
}

/// A snapshot of `region` at (6, 15) whose content is `content`, inside the message.
fn forged(region: &Region, content: &[u8]) -> Snapshot {
    forged_at(15, region, content)
}

fn forged_at(index: u64, region: &Region, content: &[u8]) -> Snapshot {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let store = node.snapshots();
    let meta = SnapshotMeta {
        region: region.clone(),
        position: LogPosition::new(6, index),
        conf_state: region.conf_state(),
    };
    let mut writer = store.create(meta).unwrap();
    writer.write_all(content).unwrap();
    let info = writer.commit().unwrap();
    let mut file = Vec::new();
    (store.send(&info.key).unwrap())
        .read_to_end(&mut file)
        .unwrap();
    let mut snapshot = Snapshot::default();
    let meta = snapshot.mut_metadata();
    (meta.term, meta.index) = (6, index);
    meta.set_conf_state(region.conf_state());
    snapshot.data = RaftSnapshotData::of(&info, file).encode_to_vec().into();
    snapshot
}

fn record(keyspace: u8, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut record = vec![keyspace];
    record.extend_from_slice(&(key.len() as u32).to_le_bytes());
    record.extend_from_slice(&(value.len() as u32).to_le_bytes());
    record.extend_from_slice(key);
    record.extend_from_slice(value);
    record
}

#[test]
fn a_snapshot_of_another_region_is_refused() {
    let mut region = two_voters();
    region.id = 9;
    let error = target().refuses(forged(&region, &[0]), &["region 1", "of region 9"]);
    assert!(matches!(error, Error::SnapshotRefused { .. }));
}

#[test]
fn a_file_of_another_region_than_the_message_is_refused() {
    let mut region = two_voters();
    region.id = 9;
    let lie = with_data(&forged(&region, &[0]), |data| data.region.id = 1);
    target().refuses(lie, &["region 1", "its file is of 9", "the message of 1"]);
}

#[test]
fn a_file_of_another_position_than_the_message_is_refused() {
    let mut lie = inline_leader().snapshot;
    lie.mut_metadata().index = 16;
    target().refuses(lie, &["index 15", "index 16"]);
}

#[test]
fn a_snapshot_of_an_older_epoch_is_refused() {
    for (conf_ver, version) in [(0, 1), (1, 0), (0, 5)] {
        let mut region = two_voters();
        region.region_epoch.conf_ver = conf_ver;
        region.region_epoch.version = version;
        let says = ["region 1", "its epoch is", "expected at least"];
        let error = target().refuses(forged_at(8, &region, &[0]), &says);
        assert!(matches!(error, Error::SnapshotRefused { .. }));
    }
    let mut region = two_voters();
    region.region_epoch.version = 0;
    let ahead = forged_at(15, &region, &[0]);
    target().refuses(ahead, &["region 1", "its epoch is", "expected at least"]);
}

#[test]
fn a_key_outside_the_range_is_refused() {
    let mut region = two_voters();
    (region.start_key, region.end_key) = (b"b".to_vec(), b"d".to_vec());
    let mut content = record(1, b"c", b"inside");
    content.extend(record(1, b"d", b"outside"));
    content.push(0);
    let says = ["data \"d\"", "expected a key in [\"b\", \"d\")"];
    target().refuses(forged(&region, &content), &says);
}

#[test]
fn a_range_that_is_empty_is_refused() {
    let mut region = two_voters();
    (region.start_key, region.end_key) = (b"d".to_vec(), b"b".to_vec());
    let says = ["region 1", "its range is [\"d\", \"b\")", "expected"];
    target().refuses(forged(&region, &[0]), &says);
}

#[test]
fn content_that_is_no_content_is_refused() {
    let mut unordered = record(1, b"b", b"");
    unordered.extend(record(1, b"a", b""));
    unordered.push(0);
    let mut huge = vec![1];
    huge.extend_from_slice(&u32::MAX.to_le_bytes());
    huge.extend_from_slice(&0u32.to_le_bytes());
    let cases: [(Vec<u8>, &str); 6] = [
        (unordered, "expected a key behind"),
        (huge, "a length of 4294967295"),
        (record(4, b"a", b""), "keyspace 4, expected 1 to 3"),
        (record(1, b"a", b"no end"), "corrupt"),
        (vec![0, 0], "bytes behind the end"),
        (
            vec![1, 10, 0, 0, 0, 0, 0, 0, 0, 1],
            "1 bytes left, expected 10",
        ),
    ];
    for (content, says) in cases {
        target().refuses(forged(&two_voters(), &content), &[says]);
    }
}

#[test]
fn a_damaged_inline_file_is_refused() {
    let good = inline_leader().snapshot;
    let length = data_of(&good).inline_file.len();
    for at in (0..length).step_by(7) {
        let damaged = with_data(&good, |data| data.inline_file[at] ^= 1);
        let mut target = target_in_memory();
        let error = target.1.install_snapshot(damaged).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Corruption { .. } | Error::UnsupportedVersion { .. }
            ),
            "byte {at}: {error}"
        );
        assert_eq!(dump(&target.0), target.2, "byte {at}");
    }
    let torn = with_data(&good, |data| data.inline_file.truncate(length / 2));
    target().refuses(torn, &["corrupt", "restore"]);
}

fn target_in_memory() -> (CompositeStorage, PeerStorage, Dump) {
    let rig = crate::support::Rig::new(config(1));
    let storage = rig.node.create_region(&two_voters()).unwrap();
    let before = dump(&rig.node);
    (rig.node, storage, before)
}

#[test]
fn data_that_is_no_message_or_newer_is_refused() {
    let mut garbage = inline_leader().snapshot;
    garbage.data = vec![0xff; 10].into();
    target().refuses(garbage, &["region 1", "RaftSnapshotData is corrupt"]);
    let newer = with_data(&inline_leader().snapshot, |data| data.version = 2);
    target().refuses(newer, &["region 1", "version 2", "reads up to 1"]);
}

#[test]
fn a_configuration_that_raft_would_panic_on_is_refused() {
    let mut snapshot = inline_leader().snapshot;
    snapshot.mut_metadata().mut_conf_state().learners = vec![2];
    let says = ["region 1", "both a voter and a learner"];
    target().refuses(snapshot, &says);
}

#[test]
fn a_file_that_was_not_transferred_is_not_found() {
    let leader = leader(config_with_files(1), &two_voters(), 6, 15);
    let says = ["1-6-15-0", "transfer it before"];
    let error = target().refuses(leader.snapshot.clone(), &says);
    assert!(matches!(error, Error::SnapshotNotFound { .. }));
}

#[test]
fn a_transferred_file_that_was_damaged_is_refused_and_can_be_transferred_again() {
    let leader = leader(config_with_files(1), &two_voters(), 6, 15);
    let mut target = target();
    let info = leader.send_to(&**target.node.snapshots());
    let path = target
        .dir
        .path()
        .join("snapshots")
        .join(format!("{}.snap", info.key));
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&path, &bytes).unwrap();
    let install = |target: &mut Target| target.storage.install_snapshot(leader.snapshot.clone());
    let error = install(&mut target).unwrap_err();
    assert!(matches!(error, Error::Corruption { .. }), "{error}");
    assert_eq!(dump(&target.node), target.before);
    leader.send_to(&**target.node.snapshots());
    install(&mut target).unwrap();
    assert_eq!(crate::support::data_of(&target.node).len(), 10);
}

#[test]
fn a_damaged_file_found_when_an_install_goes_on_is_a_refusal_that_names_it() {
    let leader = leader(config_with_files(1), &two_voters(), 6, 15);
    let mut rig = crate::support::Rig::new(config(2));
    let mut storage = rig.node.create_region(&two_voters()).unwrap();
    leader.send_to(&*rig.snapshots);
    rig.trace.cut_after(2);
    assert!(storage.install_snapshot(leader.snapshot.clone()).is_err());
    drop(storage);
    rig = rig.crash(0);
    let info = rig.snapshots.list(None).unwrap().remove(0);
    rig.snapshots.delete(&info.key).unwrap();
    let before = rig.dump();
    for _ in 0..2 {
        let error = rig.node.open_region(1).unwrap_err();
        assert_says(
            &error,
            &["region 1", "1-6-15-0", "state is Applying", "remove"],
        );
        assert_eq!(rig.dump(), before);
    }
    // Brought back, it is found.
    receive(&*rig.snapshots, &leader.file()).unwrap();
    let storage = rig.node.open_region(1).unwrap();
    assert_eq!(storage.applied_index(), 15);
    assert!(storage.wait_snapshot(PATIENCE).is_ok());
}

#[test]
fn data_outside_the_range_of_a_snapshot_is_left_alone() {
    let range = KeyRange::new("b", "d");
    let region = Region::with_voters(1, range, [(1.into(), 1), (2.into(), 2)]);
    let mut target = target();
    let mut content = record(1, b"c", b"new");
    content.push(0);
    target
        .storage
        .install_snapshot(forged(&region, &content))
        .unwrap_or_else(|e| panic!("{e}"));
    let keys: Vec<String> = crate::support::data_of(&target.node)
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(keys, ["c", "key0006", "key0007", "key0008"]);
}
