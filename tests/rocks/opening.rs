//! Opening: what is created, what is refused untouched, and who holds the lock.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use peerstore::rocks::RocksData;
use peerstore::{
    AppBatch, ApplicationDataStorage, DataRead, Durability::*, Error, Keyspace, RaftLogStorage,
    Result, keys,
};
use rocksdb::{DBWithThreadMode, MultiThreaded, Options};

use super::*;

type Db = DBWithThreadMode<MultiThreaded>;

fn refused(dir: &Path) -> Error {
    let before = tree(dir);
    let error = RocksLog::open(dir, &options()).err().unwrap();
    assert_eq!(tree(dir), before, "touched although refused: {error}");
    error
}

/// The database of a log as RocksDB sees it, to be tampered with.
fn raw(dir: &Path) -> Db {
    let families = ["default", keys::RAFT_LOG, keys::RAFT_STATE];
    let mut options = Options::default();
    options.set_track_and_verify_wals_in_manifest(true);
    Db::open_cf(&options, dir, families).unwrap()
}

#[test]
fn a_missing_store_is_created_with_its_parents_or_named() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a/b/raft");
    let strict = RocksOptions {
        create_if_missing: false,
        ..options()
    };
    let error = RocksLog::open(&dir, &strict).err().unwrap();
    assert!(matches!(error, Error::StoreNotFound { .. }), "{error}");
    assert!(!root.path().join("a").exists());
    append(&open_log(&dir), 1, 1..3, Synced);
    let log = RocksLog::open(&dir, &strict).unwrap();
    assert!(log.read_entry(RegionId(1), 2).unwrap().is_some());
    assert!(!dir.join("CREATING").exists());
}

#[test]
fn an_empty_directory_is_a_missing_store() {
    let dir = tempfile::tempdir().unwrap();
    let strict = RocksOptions {
        create_if_missing: false,
        ..options()
    };
    let error = RocksLog::open(dir.path(), &strict).err().unwrap();
    assert!(matches!(error, Error::StoreNotFound { .. }), "{error}");
    open_log(dir.path());
}

#[test]
fn foreign_directories_and_files_are_refused_untouched() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path();
    fs::write(path.join("letter.txt"), "mine").unwrap();
    assert!(matches!(refused(path), Error::ForeignDirectory { .. }));
    let file = path.join("letter.txt");
    let error = RocksLog::open(&file, &options()).err().unwrap();
    assert!(matches!(error, Error::ForeignDirectory { .. }), "{error}");

    let foreign = path.join("foreign");
    let mut create = Options::default();
    create.create_if_missing(true);
    Db::open(&create, &foreign)
        .unwrap()
        .put("key", "value")
        .unwrap();
    assert!(matches!(refused(&foreign), Error::ForeignDirectory { .. }));
    assert_eq!(
        Db::open(&create, &foreign)
            .unwrap()
            .get("key")
            .unwrap()
            .unwrap(),
        b"value"
    );
}

#[test]
fn a_log_is_no_data_store_nor_the_other_way_round() {
    let root = tempfile::tempdir().unwrap();
    let (log, data) = (root.path().join("log"), root.path().join("data"));
    open_log(&log);
    RocksData::open(&data, &options()).unwrap();
    assert!(matches!(refused(&data), Error::ForeignDirectory { .. }));
    let before = tree(&log);
    let error = RocksData::open(&log, &options()).err().unwrap();
    assert!(matches!(error, Error::ForeignDirectory { .. }), "{error}");
    assert_eq!(tree(&log), before);
}

#[test]
fn a_store_with_a_column_family_too_many_or_too_few_is_refused_untouched() {
    let root = tempfile::tempdir().unwrap();
    let (more, less) = (root.path().join("more"), root.path().join("less"));
    open_log(&more);
    raw(&more).create_cf("mine", &Options::default()).unwrap();
    let error = refused(&more);
    assert!(matches!(&error, Error::ForeignDirectory { found, .. } if found.contains("mine")));
    open_log(&less);
    raw(&less).drop_cf(keys::RAFT_STATE).unwrap();
    let error = refused(&less);
    assert!(
        matches!(&error, Error::IncompleteStore { missing, .. } if missing.contains("raft_state"))
    );
}

#[test]
fn a_newer_format_is_refused_untouched_and_a_damaged_one_too() {
    let dir = tempfile::tempdir().unwrap();
    append(&open_log(dir.path()), 1, 1..9, Synced);
    let put = |bytes: &[u8]| raw(dir.path()).put(keys::FORMAT_KEY, bytes).unwrap();
    put(&(keys::FORMAT_VERSION + 1).to_be_bytes());
    let error = refused(dir.path());
    assert!(
        matches!(error, Error::UnsupportedVersion { got: 2, max: 1, .. }),
        "{error}"
    );
    put(b"1");
    assert!(matches!(refused(dir.path()), Error::Corruption { .. }));
    raw(dir.path()).delete(keys::FORMAT_KEY).unwrap();
    assert!(matches!(
        refused(dir.path()),
        Error::ForeignDirectory { .. }
    ));
    put(&keys::FORMAT_VERSION.to_be_bytes());
    assert!(
        open_log(dir.path())
            .read_entry(RegionId(1), 8)
            .unwrap()
            .is_some()
    );
}

#[test]
fn the_format_version_lies_where_the_documentation_says() {
    let root = tempfile::tempdir().unwrap();
    let (log, data) = (root.path().join("log"), root.path().join("data"));
    open_log(&log);
    assert_eq!(
        raw(&log).get(keys::FORMAT_KEY).unwrap().unwrap(),
        [0, 0, 0, 1]
    );
    let data = RocksData::open(&data, &options()).unwrap();
    let stored = data.get(Keyspace::Store, keys::FORMAT_KEY).unwrap();
    assert_eq!(stored.unwrap(), [0, 0, 0, 1]);
}

/// A crash during creation leaves the marker and some of the files, each whole or cut short.
#[test]
fn a_creation_that_was_cut_off_anywhere_is_done_again() {
    let done = tempfile::tempdir().unwrap();
    open_log(done.path());
    let files = tree(done.path());
    let mut cuts = 0;
    for kept in 0..=files.len() {
        for cut_in_half in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("CREATING"), "").unwrap();
            for (i, (path, bytes)) in files.iter().take(kept).enumerate() {
                let half = cut_in_half && i + 1 == kept;
                let length = if half { bytes.len() / 2 } else { bytes.len() };
                let name = path.file_name().unwrap();
                fs::write(dir.path().join(name), &bytes[..length]).unwrap();
            }
            append(&open_log(dir.path()), 1, 1..3, Synced);
            assert!(!dir.path().join("CREATING").exists());
            assert!(
                open_log(dir.path())
                    .read_entry(RegionId(1), 2)
                    .unwrap()
                    .is_some()
            );
            cuts += 1;
        }
    }
    assert!(cuts >= 14, "only {cuts} cuts");
}

#[test]
fn a_marker_beside_a_foreign_file_removes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("CREATING"), "").unwrap();
    fs::write(dir.path().join("000004.log"), "").unwrap();
    fs::write(dir.path().join("letter.txt"), "mine").unwrap();
    assert!(matches!(
        refused(dir.path()),
        Error::ForeignDirectory { .. }
    ));
}

#[test]
fn options_out_of_bounds_are_named_before_anything_is_made() {
    let root = tempfile::tempdir().unwrap();
    let wrong = |change: fn(&mut RocksOptions), field: &str| {
        let mut options = options();
        change(&mut options);
        let error = RocksLog::open(&root.path().join("x"), &options)
            .err()
            .unwrap();
        assert!(matches!(&error, Error::Config { message, .. } if message.starts_with(field)));
        assert!(!root.path().join("x").exists());
    };
    wrong(|o| o.write_buffer_bytes = 1, "write_buffer_bytes");
    wrong(|o| o.wal_bytes_max = 1, "wal_bytes_max");
    wrong(|o| o.max_open_files = 0, "max_open_files");
    wrong(|o| o.background_jobs = 0, "background_jobs");
}

#[test]
fn unknown_options_are_errors_and_missing_ones_have_defaults() {
    let read = |text| serde_saphyr::from_str::<RocksOptions>(text);
    let some = read("compression: zstd\nmax_open_files: 99\n").unwrap();
    assert_eq!((some.max_open_files, some.background_jobs), (99, 4));
    assert!(read("max_open_file: 99\n").is_err());
}

fn is_locked<T>(result: Result<T>) -> bool {
    matches!(result, Err(Error::Locked { .. }))
}

#[test]
fn a_second_open_is_refused_until_the_first_is_dropped() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let log = open_log(&dir);
    assert!(is_locked(RocksLog::open(&dir, &options())));
    append(&log, 1, 1..2, Synced);
    drop(log);
    open_log(&dir);
}

#[test]
fn a_rocksdb_that_somebody_else_has_open_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    open_log(dir.path());
    let held = raw(dir.path());
    assert!(is_locked(RocksLog::open(dir.path(), &options())));
    drop(held);
    open_log(dir.path());
}

#[test]
fn a_view_keeps_its_store_open_and_locked() {
    let dir = tempfile::tempdir().unwrap();
    let data = RocksData::open(dir.path(), &options()).unwrap();
    let mut batch = AppBatch::default();
    batch.put(Keyspace::Data, "key", "value");
    data.write(&batch, Synced).unwrap();
    let view = data.view().unwrap();
    drop(data);
    assert!(is_locked(RocksData::open(dir.path(), &options())));
    assert_eq!(view.get(Keyspace::Data, b"key").unwrap().unwrap(), b"value");
    drop(view);
    RocksData::open(dir.path(), &options()).unwrap();
}

const CHILD_DIR: &str = "PEERSTORE_ROCKS_CHILD_DIR";

/// Not a test of its own: what the child process of the test below does.
#[test]
fn child_process() {
    let Ok(dir) = env::var(CHILD_DIR) else { return };
    let log = open_log(Path::new(&dir));
    append(&log, 1, 1..11, Synced);
    append(&log, 1, 11..21, Buffered);
    println!("\nready");
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_process_leaves_its_writes_and_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "opening::child_process", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"));
    assert!(is_locked(RocksLog::open(dir.path(), &options())));
    child.kill().unwrap();
    child.wait().unwrap();
    let log = open_log(dir.path());
    assert_eq!(
        log.read_entries(RegionId(1), 1..21, u64::MAX).unwrap(),
        entries(1..21)
    );
}
