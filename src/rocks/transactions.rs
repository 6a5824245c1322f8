//! Application data under RocksDB's own optimistic transactions. Uses: types, error, app_store,
//! transaction.
//!
//! [`RocksTransactions`] opens the same directory that [`RocksData`](super::RocksData) does, one of them
//! at a time. They are two because RocksDB's transactions and its range deletions exclude each other
//! (`OptimisticTransactionDB` refuses a batch with a range in it, since the check for conflicts would
//! not see it), and what raft replicates needs the ranges: a region is destroyed, and a snapshot taken
//! in, by a range and the states beside it in one batch.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rocksdb::{
    BoundColumnFamily, ErrorKind, MultiThreaded, OptimisticTransactionDB,
    OptimisticTransactionOptions, ReadOptions, SnapshotWithThreadMode, Transaction,
    WriteBatchWithTransaction, WriteOptions,
};

use super::data::{Direction, number};
use super::engine::{Poison, read_error};
use super::open::{self, DirLock, Layout, open_error};
use super::options::RocksOptions;
use super::reclaim::Reclaim;
use super::wal::Mark;
use crate::app_store::{DataRead, Keyspace, Visit};
use crate::error::{Error, Result};
use crate::transaction::{DataTransaction, ReadTransaction, TransactionalStorage};
use crate::types::{Durability, KeyRange};

type Db = OptimisticTransactionDB<MultiThreaded>;
type Snapshot<'a> = SnapshotWithThreadMode<'a, Db>;
type Families<'a> = Vec<Arc<BoundColumnFamily<'a>>>;

self_cell::self_cell!(
    /// A database and the handles of its column families.
    struct Database {
        owner: Db,
        #[covariant]
        dependent: Families,
    }
);

self_cell::self_cell!(
    /// A moment of a database, which stays open as long as this lives.
    struct Pinned {
        owner: Arc<Inner>,
        #[covariant]
        dependent: Snapshot,
    }
);

/// Application data in a RocksDB, written by optimistic transactions: for data that one process has for
/// itself, without raft.
///
/// Conflicts are found in what RocksDB has in memory of the latest writes. A transaction that stays open
/// while several memtables are filled may be refused with `TransactionConflict` though nobody was in its
/// way.
///
/// ```
/// use peerstore::rocks::{RocksOptions, RocksTransactions};
/// use peerstore::{Durability, TransactionalStorage};
/// let dir = tempfile::tempdir()?;
/// let data = RocksTransactions::open(dir.path(), &RocksOptions::default())?;
/// let mut transaction = data.begin_write_transaction(Durability::Synced)?;
/// transaction.put(b"key", b"value")?;
/// transaction.commit()?;
/// assert!(data.begin_read_transaction()?.exists(b"key")?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RocksTransactions(Arc<Inner>);

struct Inner {
    // Closed before the lock below is let go: fields are dropped in their order.
    database: Database,
    path: PathBuf,
    poison: Poison,
    // Every write up to this sequence number, inclusive, is known to be on the medium.
    durable: AtomicU64,
    // The largest of them that a mark in the log has told.
    marked: AtomicU64,
    _lock: DirLock,
}

impl RocksTransactions {
    /// Opens the data store in `dir`, or creates it, as [`RocksData::open`](super::RocksData::open) does.
    ///
    /// # Errors
    /// As `RocksData::open`.
    pub fn open(dir: &Path, options: &RocksOptions) -> Result<Self> {
        // Without clocks: nothing here knows what time it is, so nothing is dropped.
        let reclaim = Arc::new(Reclaim::default());
        let layout = Layout {
            families: &|| options.data_families(&reclaim),
            format_family: Keyspace::Store.name(),
        };
        // Creating, checking and recovering are the other's. Nobody comes between: the lock stays.
        let (recovered, database_options, lock) = open::open(dir, options, &layout)?;
        drop(recovered);
        let db = Db::open_cf_descriptors(&database_options, dir, options.data_families(&reclaim))
            .map_err(|e| open_error(dir, e))?;
        let missing = |name: &str| Error::IncompleteStore {
            path: dir.to_path_buf(),
            missing: format!("the column family {name}"),
        };
        let database = Database::try_new(db, |db| {
            let handle = |space: Keyspace| {
                db.cf_handle(space.name())
                    .ok_or_else(|| missing(space.name()))
            };
            Keyspace::ALL.into_iter().map(handle).collect()
        })?;
        let inner = Inner {
            database,
            path: dir.to_path_buf(),
            poison: Poison::new(dir),
            durable: AtomicU64::new(0),
            marked: AtomicU64::new(0),
            _lock: lock,
        };
        inner.mark(Mark::Opened, true)?;
        Ok(RocksTransactions(Arc::new(inner)))
    }
}

impl Inner {
    fn db(&self) -> &Db {
        self.database.borrow_owner()
    }

    fn family(&self, keyspace: Keyspace) -> &Arc<BoundColumnFamily<'_>> {
        &self.database.borrow_dependent()[number(keyspace)]
    }

    /// Puts a mark into the log; see [`super::wal`].
    fn mark(&self, mark: Mark, sync: bool) -> Result<()> {
        let mut batch = WriteBatchWithTransaction::<true>::default();
        batch.put_log_data(mark.encode());
        let options = write_options(sync);
        self.poison
            .unless("write to", || self.db().write_opt(batch, &options))
    }

    /// Tells the log what is durable, if that has grown. A transaction of RocksDB has no room for a mark
    /// of its own, so it stands before it.
    fn mark_durable(&self) -> Result<()> {
        let durable = self.durable.load(Relaxed);
        if self.marked.load(Relaxed) < durable {
            self.mark(Mark::Durable(durable), false)?;
            self.marked.fetch_max(durable, Relaxed);
        }
        Ok(())
    }

    fn error(&self, keyspace: Keyspace, error: rocksdb::Error) -> Error {
        read_error(
            &self.path,
            None,
            format!("keyspace {}", keyspace.name()),
            error,
        )
    }
}

fn write_options(sync: bool) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(sync);
    options
}

impl TransactionalStorage for RocksTransactions {
    fn begin_read_transaction(&self) -> Result<ReadTransaction> {
        let pinned = Pinned::new(self.0.clone(), |inner| inner.db().snapshot());
        Ok(ReadTransaction::new(Box::new(View(pinned))))
    }

    fn begin(&self, durability: Durability) -> Result<Box<dyn DataTransaction + '_>> {
        let mut options = OptimisticTransactionOptions::default();
        options.set_snapshot(true);
        let is_synced = durability == Durability::Synced;
        let transaction = (self.0.db()).transaction_opt(&write_options(is_synced), &options);
        Ok(Box::new(RocksTransaction {
            inner: &self.0,
            transaction,
            is_synced,
        }))
    }
}

/// A moment of the data. It keeps the store open, and so locked, until it is dropped.
struct View(Pinned);

impl View {
    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(self.0.borrow_dependent());
        options
    }

    fn visit_all(
        &self,
        keyspace: Keyspace,
        range: &KeyRange,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let (inner, mut options) = (self.0.borrow_owner(), self.options());
        direction.bound(&mut options, range);
        let mut items = (inner.db()).raw_iterator_cf_opt(inner.family(keyspace), options);
        let visited = direction.visit(&mut items, range, visit)?;
        visited.map_err(|e| inner.error(keyspace, e))
    }
}

impl DataRead for View {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let inner = self.0.borrow_owner();
        let value = (inner.db()).get_cf_opt(inner.family(keyspace), key, &self.options());
        value.map_err(|e| inner.error(keyspace, e))
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        let inner = self.0.borrow_owner();
        let (family, options) = (inner.family(keyspace), self.options());
        let keys = keys.iter().copied();
        let values = (inner.db()).batched_multi_get_cf_opt(family, keys, false, &options);
        let values = values.into_iter();
        values
            .map(|value| {
                let value = value.map_err(|e| inner.error(keyspace, e))?;
                Ok(value.map(|bytes| bytes.to_vec()))
            })
            .collect()
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.visit_all(keyspace, range, Direction::Ascending, visit)
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.visit_all(keyspace, range, Direction::Descending, visit)
    }
}

struct RocksTransaction<'a> {
    inner: &'a Inner,
    transaction: Transaction<'a, Db>,
    is_synced: bool,
}

impl RocksTransaction<'_> {
    fn visit_all(
        &self,
        keyspace: Keyspace,
        range: &KeyRange,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let moment = self.transaction.snapshot();
        let mut options = ReadOptions::default();
        options.set_snapshot(&moment);
        direction.bound(&mut options, range);
        let family = self.inner.family(keyspace);
        let mut items = self.transaction.raw_iterator_cf_opt(family, options);
        let visited = direction.visit(&mut items, range, visit)?;
        visited.map_err(|e| self.inner.error(keyspace, e))
    }
}

impl DataRead for RocksTransaction<'_> {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let moment = self.transaction.snapshot();
        let mut options = ReadOptions::default();
        options.set_snapshot(&moment);
        let family = self.inner.family(keyspace);
        let value = self.transaction.get_cf_opt(family, key, &options);
        value.map_err(|e| self.inner.error(keyspace, e))
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        let moment = self.transaction.snapshot();
        let mut options = ReadOptions::default();
        options.set_snapshot(&moment);
        let family = self.inner.family(keyspace);
        let pairs = keys.iter().map(|key| (family, *key));
        let values = self.transaction.multi_get_cf_opt(pairs, &options);
        let values = values.into_iter();
        values
            .map(|value| value.map_err(|e| self.inner.error(keyspace, e)))
            .collect()
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.visit_all(keyspace, range, Direction::Ascending, visit)
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.visit_all(keyspace, range, Direction::Descending, visit)
    }
}

impl DataTransaction for RocksTransaction<'_> {
    fn put(&mut self, keyspace: Keyspace, key: &[u8], value: &[u8]) -> Result<()> {
        let put = (self.transaction).put_cf(self.inner.family(keyspace), key, value);
        put.map_err(|e| self.inner.error(keyspace, e))
    }

    fn delete(&mut self, keyspace: Keyspace, key: &[u8]) -> Result<()> {
        let deleted = (self.transaction).delete_cf(self.inner.family(keyspace), key);
        deleted.map_err(|e| self.inner.error(keyspace, e))
    }

    fn read_for_update(&mut self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let moment = self.transaction.snapshot();
        let mut options = ReadOptions::default();
        options.set_snapshot(&moment);
        let family = self.inner.family(keyspace);
        let value = (self.transaction).get_for_update_cf_opt(family, key, true, &options);
        value.map_err(|e| self.inner.error(keyspace, e))
    }

    fn commit(self: Box<Self>) -> Result<()> {
        let RocksTransaction {
            inner,
            transaction,
            is_synced,
        } = *self;
        inner.mark_durable()?;
        // What has its number now is durable with what is synced behind it.
        let written = inner.db().latest_sequence_number();
        let mut conflict = false;
        inner
            .poison
            .unless("write to", || match transaction.commit() {
                Err(e) if matches!(e.kind(), ErrorKind::Busy | ErrorKind::TryAgain) => {
                    conflict = true;
                    Ok(())
                }
                committed => committed,
            })?;
        if conflict {
            return Err(Error::TransactionConflict);
        }
        if is_synced {
            inner.durable.fetch_max(written, Relaxed);
        }
        Ok(())
    }
}
