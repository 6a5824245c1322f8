//! The directory of a node: what is not a store, not whole, not ours or not free is refused, untouched.
#![cfg(feature = "rocksdb")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use peerstore::{CompositeStorage, Config, Error, LogBackend, Region};
use raft::Storage as _;

use crate::killing::{child_dir, random, say, spawn};
use crate::support::{assert_says, config, entries, entry_with, fill, on_disk};

/// Every file below `dir` with its bytes, and every directory.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for item in fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
            found.insert(path, Vec::new());
        } else {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

fn refused(dir: &Path, config: Config) -> Error {
    let before = dir.is_dir().then(|| tree(dir));
    let error = CompositeStorage::open(dir, config).err().expect("opened");
    assert_eq!(dir.is_dir().then(|| tree(dir)), before, "{error}");
    assert_says(&error, &[&dir.display().to_string()]);
    error
}

/// A closed node with a region that has entries up to 9.
fn store() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let node = on_disk(dir.path());
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    fill(&mut storage, 5, 6..10);
    dir
}

fn check_store(dir: &Path) {
    let node = on_disk(dir);
    let storage = node.open_region(1).unwrap();
    assert_eq!((storage.last_index(), storage.applied_index()), (Ok(9), 9));
}

fn not_creating() -> Config {
    Config {
        create_if_missing: false,
        ..config(1)
    }
}

#[test]
fn a_missing_or_empty_directory_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_path_buf(), dir.path().join("a/b")] {
        let error = refused(&path, not_creating());
        assert!(matches!(error, Error::StoreNotFound { .. }), "{error}");
    }
    assert!(!dir.path().join("a").exists());
    on_disk(&dir.path().join("a/b"));
    CompositeStorage::open(dir.path().join("a/b"), not_creating()).unwrap();
}

#[test]
fn a_directory_with_something_else_in_it_is_foreign() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "precious").unwrap();
    for config in [config(1), not_creating()] {
        let error = refused(dir.path(), config);
        assert!(matches!(error, Error::ForeignDirectory { .. }), "{error}");
        assert_says(&error, &["thesis.tex", "PEERSTORE"]);
    }
}

#[test]
fn a_file_instead_of_a_directory_is_an_error_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    let error = refused(&file, config(1));
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"x");
}

#[test]
fn a_store_that_lost_its_marker_is_not_taken_for_a_new_one() {
    let dir = store();
    fs::remove_file(dir.path().join("PEERSTORE")).unwrap();
    let error = refused(dir.path(), config(1));
    assert!(matches!(error, Error::ForeignDirectory { .. }), "{error}");
}

#[test]
fn a_newer_format_is_refused_and_named() {
    let dir = store();
    let marker = dir.path().join("PEERSTORE");
    let text = fs::read_to_string(&marker).unwrap();
    fs::write(&marker, text.replace("format 1", "format 2")).unwrap();
    let error = refused(dir.path(), config(1));
    assert!(matches!(
        error,
        Error::UnsupportedVersion { got: 2, max: 1, .. }
    ));
    assert_says(&error, &["format version 2", "up to 1", "newer build"]);
    fs::write(&marker, text).unwrap();
    check_store(dir.path());
}

#[test]
fn a_damaged_marker_is_corruption() {
    let dir = store();
    let marker = dir.path().join("PEERSTORE");
    for text in ["", "peerstor\nformat 1\n", "peerstore\nformat x\n", "\u{0}"] {
        fs::write(&marker, text).unwrap();
        let error = refused(dir.path(), config(1));
        assert!(matches!(error, Error::Corruption { .. }), "{error}");
        assert_says(&error, &["PEERSTORE", "expected", "restore"]);
    }
    fs::write(&marker, vec![b'x'; 5000]).unwrap();
    assert_says(&refused(dir.path(), config(1)), &["5000 bytes", "at most"]);
}

#[test]
fn other_backends_than_the_store_has_are_refused() {
    let dir = store();
    let mut other = config(1);
    other.log = LogBackend::Memory;
    let error = refused(dir.path(), other);
    assert!(matches!(error, Error::Config { .. }), "{error}");
    assert_says(&error, &["raft append_log", "the config asks for"]);
    check_store(dir.path());
}

#[test]
fn a_store_without_one_of_its_parts_is_incomplete() {
    for part in ["raft", "kv", "snapshots"] {
        let dir = store();
        fs::rename(dir.path().join(part), dir.path().join("moved")).unwrap();
        let error = refused(dir.path(), config(1));
        assert!(matches!(error, Error::IncompleteStore { .. }), "{error}");
        assert_says(&error, &[part, "backup"]);
        fs::rename(dir.path().join("moved"), dir.path().join(part)).unwrap();
        check_store(dir.path());
    }
}

#[test]
fn the_store_of_somebody_else_is_refused() {
    let dir = store();
    let mut other = config(1);
    other.cluster_id = 4;
    drop(CompositeStorage::open(dir.path(), other.clone()).unwrap());
    other.store_id = 2;
    let error = CompositeStorage::open(dir.path(), other).err().unwrap();
    assert!(matches!(error, Error::ForeignStore { .. }), "{error}");
    assert_says(&error, &["store 1 of cluster 4", "store 2 of cluster 4"]);
    check_store(dir.path());
}

#[test]
fn a_second_open_in_this_process_is_locked_out_until_the_last_owner_is_gone() {
    let dir = store();
    let node = on_disk(dir.path());
    let storage = node.open_region(1).unwrap();
    for _ in 0..2 {
        let error = CompositeStorage::open(dir.path(), config(1)).err().unwrap();
        assert!(matches!(error, Error::Locked { .. }), "{error}");
        assert_says(&error, &["LOCK"]);
    }
    drop(node);
    assert!(CompositeStorage::open(dir.path(), config(1)).is_err());
    drop(storage);
    check_store(dir.path());
}

#[test]
#[ignore = "the child of the test below"]
fn the_child_that_holds_the_lock() {
    let Some(dir) = child_dir() else { return };
    let _node = on_disk(&dir);
    say("open");
    // Until the parent is gone.
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn another_process_locks_out_until_it_is_killed() {
    let dir = store();
    let mut child = spawn("node_dir::the_child_that_holds_the_lock", dir.path());
    child.wait_for("open");
    let error = CompositeStorage::open(dir.path(), config(1)).err().unwrap();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    child.kill();
    check_store(dir.path());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let path = item.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn a_first_creation_that_was_cut_at_any_step_is_begun_again() {
    let whole = tempfile::tempdir().unwrap();
    drop(on_disk(whole.path()));
    let marker = fs::read_to_string(whole.path().join("PEERSTORE")).unwrap();
    // What is there, in the order in which it comes.
    let steps: [&[&str]; 6] = [
        &[],
        &["LOCK"],
        &["LOCK", "CREATING"],
        &["LOCK", "CREATING", "snapshots"],
        &["LOCK", "CREATING", "snapshots", "raft"],
        &["LOCK", "CREATING", "snapshots", "raft", "kv"],
    ];
    for (number, parts) in steps.iter().enumerate() {
        for half in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            for part in *parts {
                match *part {
                    "LOCK" => fs::write(dir.path().join("LOCK"), "").unwrap(),
                    "CREATING" => {
                        let text = if half { &marker[..9] } else { "" };
                        fs::write(dir.path().join("PEERSTORE.creating"), text).unwrap();
                    }
                    part => copy(&whole.path().join(part), &dir.path().join(part)),
                }
            }
            // The part that was being made has its directory, and nothing in it.
            if let (true, Some(part)) = (half, parts.get(2..).and_then(|p| p.last())) {
                fs::remove_dir_all(dir.path().join(part)).unwrap();
                fs::create_dir(dir.path().join(part)).unwrap();
            }
            let node = on_disk(dir.path());
            node.create_region(&Region::single(1, 1))
                .unwrap_or_else(|e| panic!("step {number}: {e}"));
            drop(node);
            let found = fs::read_to_string(dir.path().join("PEERSTORE")).unwrap();
            assert_eq!(found, marker, "step {number}");
            assert!(!dir.path().join("PEERSTORE.creating").exists());
            on_disk(dir.path()).open_region(1).unwrap();
        }
    }
}

#[test]
#[ignore = "the child of the test below"]
fn the_child_that_creates() {
    let Some(dir) = child_dir() else { return };
    say("begin");
    drop(on_disk(&dir));
    say("end");
}

#[test]
fn a_first_creation_that_is_killed_at_any_time_is_begun_again() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let mut child = spawn("node_dir::the_child_that_creates", dir.path());
        child.wait_for("begin");
        std::thread::sleep(std::time::Duration::from_millis(random(120)));
        child.kill();
        let node = on_disk(dir.path());
        let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
        storage.append(&entries(5, 6..8)).unwrap();
    }
}

/// A file system of 24 MiB of its own, if this process may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
            .arg(dir.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(SmallDisk(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg(self.0.path())
            .status();
    }
}

#[test]
fn a_full_disk_is_a_typed_error_and_loses_nothing_that_was_acknowledged() {
    fill_disk(LogBackend::AppendLog);
    fill_disk(LogBackend::Rocksdb);
}

fn fill_disk(log: LogBackend) {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let filler = disk.0.path().join("filler");
    fs::write(&filler, vec![1; 8 << 20]).unwrap();
    let dir = disk.0.path().join("node");
    let mut config = config(1);
    config.log = log;
    // What is written would take no space otherwise.
    (config.append_log.segment_bytes, config.append_log.compress) = (1 << 20, false);
    let open = || CompositeStorage::open(&dir, config.clone());
    let node = open().unwrap();
    let mut storage = node.create_region(&Region::single(1, 1)).unwrap();
    let mut acked = 5;
    let error = loop {
        let entry = entry_with(5, acked + 1, &vec![acked as u8; 256 << 10]);
        match storage.append(&[entry]) {
            Ok(()) => acked += 1,
            Err(error) => break error,
        }
        assert!(acked < 200, "24 MiB are never full");
    };
    assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
    assert_says(&error, &["no space left", "open the store again"]);
    assert_eq!(storage.last_index(), Ok(acked), "memory is as it was");
    let context = raft::GetEntriesContext::empty(false);
    let read = storage.entries(6, acked + 1, None, context).unwrap();
    assert_eq!(read.len() as u64, acked - 5, "reads go on");
    let more = storage.append(&[entry_with(5, acked + 1, b"small")]);
    match (log, &more) {
        // It refuses what does not fit before anything is written, and goes on with what does.
        (LogBackend::AppendLog, Ok(()) | Err(Error::DiskFull { .. })) => {}
        (LogBackend::Rocksdb, Err(Error::Poisoned { .. })) => {}
        _ => panic!("{log:?}: {more:?}"),
    }
    acked += u64::from(more.is_ok());
    drop((storage, node));
    // While the disk is full, an open works or says so.
    match open() {
        Ok(node) => assert_eq!(node.open_region(1).unwrap().last_index(), Ok(acked)),
        Err(error) => assert_says(&error, &["no space left"]),
    }
    fs::remove_file(&filler).unwrap();
    let node = open().unwrap();
    let mut storage = node.open_region(1).unwrap();
    assert_eq!(storage.last_index(), Ok(acked));
    storage.append(&entries(5, acked + 1..acked + 3)).unwrap();
}
