//! An open RocksDB: the one place that writes, syncs and is poisoned. Uses: types, error.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use rocksdb::statistics::Ticker;
use rocksdb::{
    BoundColumnFamily, DBWithThreadMode, ErrorKind, MultiThreaded, Options, SnapshotWithThreadMode,
    WriteBatch, WriteOptions,
};

use super::open::{self, DirLock, Layout};
use super::options::RocksOptions;
use super::wal::Mark;
use crate::error::{Error, Result};
use crate::types::{Durability, RegionId};

pub(super) type Db = DBWithThreadMode<MultiThreaded>;
pub(super) type Family<'a> = Arc<BoundColumnFamily<'a>>;
pub(super) type Snapshot<'a> = SnapshotWithThreadMode<'a, Db>;
type Families<'a> = Vec<Family<'a>>;

self_cell::self_cell!(
    /// A database and the handles of its column families, so that no operation looks one up.
    struct Database {
        owner: Db,
        #[covariant]
        dependent: Families,
    }
);

self_cell::self_cell!(
    /// A moment of a database, which stays open as long as this lives.
    pub(super) struct Pinned {
        owner: Arc<Engine>,
        #[covariant]
        dependent: Snapshot,
    }
);

/// An open RocksDB.
pub(super) struct Engine {
    // Closed before the lock below is let go: fields are dropped in their order.
    database: Database,
    path: PathBuf,
    // RocksDB's own counters are reached through the options that it was opened with.
    options: Options,
    syncs_at_open: u64,
    poison: Poison,
    // Every write up to this sequence number, inclusive, is known to be on the medium.
    durable: AtomicU64,
    writes: AtomicU64,
    bytes: AtomicU64,
    _lock: DirLock,
}

impl Engine {
    /// Opens the database; see [`open::open`]. `families` are numbered in their order.
    pub(super) fn open(
        dir: &Path,
        options: &RocksOptions,
        layout: &Layout<'_>,
        families: &[&'static str],
    ) -> Result<Arc<Engine>> {
        let (db, options, lock) = open::open(dir, options, layout)?;
        let missing = |name: &str| Error::IncompleteStore {
            path: dir.to_path_buf(),
            missing: format!("the column family {name}"),
        };
        let database = Database::try_new(db, |db| {
            let handle = |name: &&str| db.cf_handle(name).ok_or_else(|| missing(name));
            families.iter().map(handle).collect()
        })?;
        let mut engine = Engine {
            database,
            path: dir.to_path_buf(),
            options,
            syncs_at_open: 0,
            poison: Poison::new(dir),
            durable: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            _lock: lock,
        };
        let mut opened = WriteBatch::default();
        opened.put_log_data(Mark::Opened.encode());
        engine.write_durably(opened, Durability::Synced)?;
        engine.syncs_at_open = engine.synced();
        Ok(Arc::new(engine))
    }

    pub(super) fn db(&self) -> &Db {
        self.database.borrow_owner()
    }

    /// The column family that was named at place `number` of the list given to [`Engine::open`].
    pub(super) fn family(&self, number: usize) -> &Family<'_> {
        &self.database.borrow_dependent()[number]
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A batch to be filled and given to [`Engine::write`]. It starts with a [`Mark`].
    pub(super) fn batch(&self, capacity_bytes: usize) -> WriteBatch {
        let mut batch = WriteBatch::with_capacity_bytes(capacity_bytes + 64);
        batch.put_log_data(Mark::Durable(self.durable.load(Relaxed)).encode());
        batch
    }

    /// What RocksDB knows to be wrong with it: failed flushes and compactions, and writes that it holds up.
    pub(super) fn trouble(&self) -> Option<String> {
        use rocksdb::properties::{ACTUAL_DELAYED_WRITE_RATE, BACKGROUND_ERRORS, IS_WRITE_STOPPED};
        let number = |name| {
            self.db()
                .property_int_value(name)
                .ok()
                .flatten()
                .unwrap_or(0)
        };
        let errors = number(BACKGROUND_ERRORS);
        if errors > 0 {
            return Some(format!(
                "RocksDB: {errors} flushes or compactions have failed"
            ));
        }
        if number(IS_WRITE_STOPPED) > 0 {
            return Some("RocksDB has stopped writes until compactions catch up".into());
        }
        let rate = number(ACTUAL_DELAYED_WRITE_RATE);
        (rate > 0).then(|| format!("RocksDB slows writes down to {rate} bytes a second"))
    }

    /// Writes `batch`, all or nothing. `bytes` of keys and values are counted.
    pub(super) fn write(
        &self,
        batch: WriteBatch,
        durability: Durability,
        bytes: u64,
    ) -> Result<()> {
        self.write_durably(batch, durability)?;
        self.writes.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        Ok(())
    }

    fn write_durably(&self, batch: WriteBatch, durability: Durability) -> Result<()> {
        let synced = durability == Durability::Synced;
        let mut options = WriteOptions::default();
        options.set_sync(synced);
        // The batch gets sequence numbers behind those that are given out now, so these, and as many
        // as it takes, are durable with it.
        let durable = self.db().latest_sequence_number() + batch.len() as u64;
        self.unless_poisoned("write to", |db| db.write_opt(batch, &options))?;
        if synced {
            self.durable.fetch_max(durable, Relaxed);
        }
        Ok(())
    }

    /// Makes everything that was written before durable: a synced write of nothing but its mark.
    pub(super) fn sync(&self) -> Result<()> {
        self.write_durably(self.batch(0), Durability::Synced)
    }

    /// Does what changes the database, see [`Poison::unless`].
    pub(super) fn unless_poisoned(
        &self,
        op: &'static str,
        change: impl FnOnce(&Db) -> Result<(), rocksdb::Error>,
    ) -> Result<()> {
        self.poison.unless(op, || change(self.db()))
    }

    /// Nothing is written any more, because of a failure beside RocksDB.
    pub(super) fn poison(&self, cause: &Error) {
        self.poison.set(cause);
    }

    /// A failed read of `what`.
    pub(super) fn read_error(
        &self,
        region: Option<RegionId>,
        what: impl Into<String>,
        error: rocksdb::Error,
    ) -> Error {
        read_error(&self.path, region, what, error)
    }

    pub(super) fn writes(&self) -> u64 {
        self.writes.load(Relaxed)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// The fsyncs of the write-ahead log since it was opened, as RocksDB counts them: several
    /// writers at once share one.
    pub(super) fn syncs(&self) -> u64 {
        self.synced() - self.syncs_at_open
    }

    fn synced(&self) -> u64 {
        self.options.get_ticker_count(Ticker::WalFileSynced)
    }
}

/// The first failure of a write or sync. Once there is one, nothing is written any more.
pub(super) struct Poison {
    path: PathBuf,
    first_failure: OnceLock<String>,
}

impl Poison {
    pub(super) fn new(path: &Path) -> Self {
        Poison {
            path: path.to_path_buf(),
            first_failure: OnceLock::new(),
        }
    }

    /// Does what changes the database. Its first failure is the last: the engine may have written a
    /// part, and an fsync that failed once would report success the next time.
    pub(super) fn unless(
        &self,
        op: &'static str,
        change: impl FnOnce() -> Result<(), rocksdb::Error>,
    ) -> Result<()> {
        self.check()?;
        if let Err(error) = change() {
            // Of several that fail at once, each gets its own error, and the first is remembered.
            let _ = self.first_failure.set(error.to_string());
            return Err(engine_error(op, &self.path, error));
        }
        // What another thread failed to sync meanwhile may lie before what this one wrote.
        self.check()
    }

    fn set(&self, cause: &Error) {
        let _ = self.first_failure.set(cause.to_string());
    }

    fn check(&self) -> Result<()> {
        match self.first_failure.get() {
            None => Ok(()),
            Some(cause) => Err(Error::Poisoned {
                path: self.path.clone(),
                cause: cause.clone(),
            }),
        }
    }
}

/// A failed read of `what`.
pub(super) fn read_error(
    path: &Path,
    region: Option<RegionId>,
    what: impl Into<String>,
    error: rocksdb::Error,
) -> Error {
    match error.kind() {
        ErrorKind::Corruption => Error::corruption(region, what, error.into_string()),
        _ => engine_error("read from", path, error),
    }
}

/// What RocksDB said, as an error of ours. Its C interface gives text only: it is read here, nowhere else,
/// but for the lock of [`open::open`].
pub(super) fn engine_error(op: &'static str, path: &Path, error: rocksdb::Error) -> Error {
    let path = path.to_path_buf();
    if error.as_ref().contains("No space left on device") {
        return Error::DiskFull { op, path };
    }
    match error.kind() {
        ErrorKind::Corruption => {
            let what = format!("database {}", path.display());
            Error::corruption(None, what, error.into_string())
        }
        _ => Error::Engine {
            op,
            path,
            message: error.into_string(),
        },
    }
}
