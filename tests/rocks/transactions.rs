//! Transactions over a real RocksDB: its directory, its log, its memory.

use peerstore::rocks::{RocksData, RocksTransactions};
use peerstore::{
    AppBatch, ApplicationDataStorage, DataRead, Durability, Error, Keyspace, TransactionalStorage,
};

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
