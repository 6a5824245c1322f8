//! Transactions over a real RocksDB: its directory, its log, its memory.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use peerstore::rocks::{RocksData, RocksTransactions};
use peerstore::{
    AppBatch, ApplicationDataStorage, DataRead, Durability, Error, Keyspace, TransactionalStorage,
};

use super::faults::Mount;
use super::*;

fn open(dir: &Path) -> RocksTransactions {
    RocksTransactions::open(dir, &options()).unwrap()
}

fn put(data: &RocksTransactions, key: &[u8], value: &[u8], durability: Durability) {
    let mut transaction = data.begin_write_transaction(durability).unwrap();
    transaction.put(key, value).unwrap();
    transaction.commit().unwrap();
}

fn get(data: &RocksTransactions, key: &[u8]) -> Option<Vec<u8>> {
    data.begin_read_transaction().unwrap().get(key).unwrap()
}

#[test]
fn the_directory_is_the_same_with_transactions_and_without() {
    let dir = tempfile::tempdir().unwrap();
    let data = RocksData::open(dir.path(), &options()).unwrap();
    let mut batch = AppBatch::new();
    batch.put(Keyspace::Data, "a", "plain");
    batch.put(Keyspace::Data, "b", "plain");
    data.write(&batch, Durability::Synced).unwrap();
    let taken = RocksTransactions::open(dir.path(), &options()).map(drop);
    assert!(matches!(taken, Err(Error::Locked { .. })), "{taken:?}");
    drop(data);
    let data = open(dir.path());
    assert_eq!(get(&data, b"a").as_deref(), Some(&b"plain"[..]));
    put(&data, b"a", b"transacted", Durability::Synced);
    let taken = RocksData::open(dir.path(), &options()).map(drop);
    assert!(matches!(taken, Err(Error::Locked { .. })), "{taken:?}");
    drop(data);
    let data = RocksData::open(dir.path(), &options()).unwrap();
    let values = data.multi_get(Keyspace::Data, &[b"a", b"b"]).unwrap();
    let expected = [b"transacted".to_vec(), b"plain".to_vec()].map(Some);
    assert_eq!(values, expected);
}

#[test]
fn a_read_transaction_keeps_the_store_open() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path());
    put(&data, b"a", b"1", Durability::Buffered);
    let read = data.begin_read_transaction().unwrap();
    drop(data);
    assert!(read.exists(b"a").unwrap());
    let taken = RocksTransactions::open(dir.path(), &options()).map(drop);
    assert!(matches!(taken, Err(Error::Locked { .. })), "{taken:?}");
    drop(read);
    assert!(get(&open(dir.path()), b"a").is_some());
}

#[test]
fn damage_in_the_middle_of_the_log_is_not_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path());
    let marker = noise(7, 64);
    put(&data, b"damaged", &marker, Durability::Synced);
    for n in 0..3_u8 {
        put(&data, &[n], &[n], Durability::Synced);
    }
    drop(data);
    let log = files(dir.path(), "log").pop().unwrap();
    let bytes = fs::read(&log).unwrap();
    let at = bytes.windows(64).position(|w| w == marker).unwrap();
    flip(&log, at + 10);
    for _ in 0..2 {
        let got = RocksTransactions::open(dir.path(), &options()).map(drop);
        assert!(matches!(got, Err(Error::Corruption { .. })), "{got:?}");
        let got = RocksData::open(dir.path(), &options()).map(drop);
        assert!(matches!(got, Err(Error::Corruption { .. })), "{got:?}");
    }
}

#[test]
fn a_torn_last_transaction_never_was() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path());
    put(&data, b"whole", b"1", Durability::Synced);
    let mut transaction = data.begin_write_transaction(Durability::Buffered).unwrap();
    for n in 0..10_u8 {
        transaction.put(&[n], &noise(n.into(), 100)).unwrap();
    }
    transaction.commit().unwrap();
    drop(data);
    let log = files(dir.path(), "log").pop().unwrap();
    let file = fs::OpenOptions::new().write(true).open(&log).unwrap();
    file.set_len(file.metadata().unwrap().len() - 150).unwrap();
    let data = open(dir.path());
    assert!(get(&data, b"whole").is_some());
    for n in 0..10_u8 {
        assert_eq!(get(&data, &[n]), None, "{n}");
    }
}

#[test]
fn a_transaction_that_is_too_old_to_be_judged_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path());
    put(&data, b"a", b"1", Durability::Buffered);
    let mut old = data.begin_write_transaction(Durability::Buffered).unwrap();
    old.put(b"a", b"old").unwrap();
    put(&data, b"a", b"2", Durability::Buffered);
    // More than RocksDB remembers of its latest writes.
    for n in 0..200_u64 {
        put(
            &data,
            &n.to_be_bytes(),
            &noise(n, 100_000),
            Durability::Buffered,
        );
    }
    let got = old.commit();
    assert!(matches!(got, Err(Error::TransactionConflict)), "{got:?}");
    assert_eq!(get(&data, b"a").as_deref(), Some(&b"2"[..]));
    put(&data, b"a", b"3", Durability::Buffered);
}

#[test]
fn a_foreign_directory_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("theirs"), "x").unwrap();
    let before = tree(dir.path());
    let got = RocksTransactions::open(dir.path(), &options()).map(drop);
    assert!(
        matches!(got, Err(Error::ForeignDirectory { .. })),
        "{got:?}"
    );
    assert_eq!(tree(dir.path()), before);
}

/// What is under `key` after the store was opened again.
fn after_reopening(dir: &Path, key: &[u8]) -> Option<Vec<u8>> {
    let data = RocksTransactions::open(dir, &options()).unwrap();
    data.begin_read_transaction().unwrap().get(key).unwrap()
}

#[test]
fn a_commit_that_finds_the_disk_full_is_named_and_stops_all_later_ones() {
    let Some(mount) = Mount::small(24) else {
        return;
    };
    let data = RocksTransactions::open(&mount.path(), &options()).unwrap();
    let put = |number: u32, bytes: usize| {
        let mut transaction = data.begin_write_transaction(Durability::Synced)?;
        transaction.put(b"last", &number.to_be_bytes())?;
        transaction.put(&number.to_be_bytes(), &vec![7; bytes])?;
        transaction.commit()
    };
    put(0, 10).unwrap();
    let mut open_since = data.begin_write_transaction(Durability::Synced).unwrap();
    let ballast = mount.fill();
    let mut acknowledged = 0;
    let error = loop {
        match put(acknowledged + 1, 64 << 10) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1_000, "the disk is full");
    };
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    // Also when there is room again: what the failure has left is for the next open to find out.
    fs::remove_file(ballast).unwrap();
    for _ in 0..2 {
        let error = put(9, 10).unwrap_err();
        assert!(matches!(error, Error::Poisoned { .. }), "{error}");
    }
    open_since.put(b"other", b"").unwrap();
    let error = open_since.commit().unwrap_err();
    assert!(matches!(error, Error::Poisoned { .. }), "{error}");
    let read = data.begin_read_transaction().unwrap();
    assert_eq!(
        read.get(b"last").unwrap(),
        Some(acknowledged.to_be_bytes().to_vec())
    );
    drop((read, data));
    let last = after_reopening(&mount.path(), b"last").unwrap();
    let last = u32::from_be_bytes(last.try_into().unwrap());
    assert!(
        last == acknowledged || last == acknowledged + 1,
        "{last} of {acknowledged}"
    );
    let whole = after_reopening(&mount.path(), &last.to_be_bytes()).unwrap();
    assert!(
        whole.len() == 64 << 10 || last == 0,
        "{} bytes",
        whole.len()
    );
    assert_eq!(after_reopening(&mount.path(), b"other"), None);
}

#[test]
fn of_a_storm_of_writers_of_one_key_every_commit_counts_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let data = RocksTransactions::open(dir.path(), &options()).unwrap();
    let (committed, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let together = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..40 {
                    // All of them begin before any of them commits.
                    let mut transaction =
                        data.begin_write_transaction(Durability::Buffered).unwrap();
                    transaction.increment(b"count", 1).unwrap();
                    together.wait();
                    match transaction.commit() {
                        Ok(()) => committed.fetch_add(1, Relaxed),
                        Err(Error::TransactionConflict) => refused.fetch_add(1, Relaxed),
                        Err(error) => panic!("{error}"),
                    };
                    together.wait();
                }
            });
        }
    });
    assert_eq!((committed.into_inner(), refused.into_inner()), (40, 280));
    drop(data);
    assert_eq!(
        after_reopening(dir.path(), b"count").as_deref(),
        Some(&b"40"[..])
    );
}

#[test]
fn a_transaction_that_is_dropped_behind_any_step_leaves_nothing_and_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let data = RocksTransactions::open(dir.path(), &options()).unwrap();
    type Step = fn(&mut peerstore::WriteTransaction<'_>);
    let steps: [Step; 6] = [
        |t| t.put(b"a", b"lost").unwrap(),
        |t| t.delete(b"b").unwrap(),
        |t| drop(t.read_for_update(b"c").unwrap()),
        |t| assert_eq!(t.increment(b"count", 1).unwrap(), 1),
        |t| assert!(t.compare_and_swap(b"d", None, Some(b"lost")).unwrap()),
        |t| {
            drop(
                t.scan(&peerstore::Scan::of(peerstore::KeyRange::all()))
                    .unwrap(),
            )
        },
    ];
    for taken in 0..=steps.len() {
        let mut lost = data.begin_write_transaction(Durability::Synced).unwrap();
        steps[..taken].iter().for_each(|step| step(&mut lost));
        let mut other = data.begin_write_transaction(Durability::Buffered).unwrap();
        for key in [b"a", b"b", b"c"] {
            other.put(key, taken.to_string().as_bytes()).unwrap();
        }
        match taken % 2 {
            0 => drop(lost),
            _ => lost.rollback(),
        }
        other.commit().unwrap();
        let read = data.begin_read_transaction().unwrap();
        for key in [b"a", b"b", b"c"] {
            assert_eq!(read.get(key).unwrap(), Some(taken.to_string().into_bytes()));
        }
        assert!(!read.exists(b"d").unwrap() && !read.exists(b"count").unwrap());
    }
}
