//! The application's data and the states beside it in a RocksDB. Uses: types, error, app_store.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rocksdb::{
    DBAccess, DBPinnableSlice, DBRawIteratorWithThreadMode, Options, ReadOptions, WriteBatch,
};

use super::engine::{Engine, Pinned, Snapshot};
use super::import::RocksImport;
use super::open::Layout;
use super::options::RocksOptions;
use super::reclaim::{Pin, Reclaim, moves_a_clock};
use crate::app_store::{
    AppBatch, AppOp, AppStats, ApplicationDataStorage, DataImport, DataRead, DataView, Keyspace,
    Visit,
};
use crate::error::{Error, Result};
use crate::types::{Durability, KeyRange};

/// The data of every region of a node in one RocksDB, a column family for each [`Keyspace`].
pub struct RocksData {
    pub(super) engine: Arc<Engine>,
    pub(super) reclaim: Arc<Reclaim>,
    // Names the staging directories of imports apart.
    imports: AtomicU64,
    import_tables: Options,
}

impl RocksData {
    /// Opens the data store in `dir`, or creates it, durable on return with the directories above
    /// it. What an import left unfinished is removed.
    ///
    /// # Errors
    /// `StoreNotFound`, `Locked`, `ForeignDirectory`, `IncompleteStore` or `UnsupportedVersion`, with
    /// nothing modified; `Corruption`; `Config`; `Io`, `DiskFull` or `Engine`.
    pub fn open(dir: &Path, options: &RocksOptions) -> Result<RocksData> {
        let reclaim = Arc::new(Reclaim::default());
        let layout = Layout {
            families: &|| options.data_families(&reclaim),
            format_family: Keyspace::Store.name(),
        };
        let engine = Engine::open(dir, options, &layout, &Keyspace::ALL.map(Keyspace::name))?;
        let import_tables = options.import_tables();
        Ok(RocksData {
            engine,
            reclaim,
            imports: AtomicU64::new(0),
            import_tables,
        })
    }

    /// Compacts what the application has in `range`, which gives the space of what was deleted or has
    /// expired back to the disk. That happens by itself; this is for who does not want to wait.
    ///
    /// # Errors
    /// None: what RocksDB meets on the way fails the next write.
    pub fn compact(&self, range: &KeyRange) {
        let bound = |key: &'_ Vec<u8>| (!key.is_empty()).then(|| key.clone());
        for keyspace in Keyspace::APPLICATION {
            let family = self.engine.family(number(keyspace));
            let (start, end) = (bound(&range.start), bound(&range.end));
            self.engine.db().compact_range_cf(family, start, end);
        }
    }

    fn now(&self) -> Reader<'_> {
        Reader {
            engine: &self.engine,
            moment: None,
        }
    }
}

/// The place of `keyspace` in [`Keyspace::ALL`], and so the number of its column family.
pub(super) fn number(keyspace: Keyspace) -> usize {
    match keyspace {
        Keyspace::Data => 0,
        Keyspace::Index => 1,
        Keyspace::Ttl => 2,
        Keyspace::ApplyState => 3,
        Keyspace::RegionState => 4,
        Keyspace::SnapshotState => 5,
        Keyspace::Store => 6,
    }
}

impl DataRead for RocksData {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.now().get(keyspace, key)
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        let _pin = (keyspace == Keyspace::Ttl).then(|| self.reclaim.pin());
        let snapshot = self.engine.db().snapshot();
        Reader {
            engine: &self.engine,
            moment: Some(&snapshot),
        }
        .multi_get(keyspace, keys)
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.now().scan(keyspace, range, visit)
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.now().scan_back(keyspace, range, visit)
    }
}

impl ApplicationDataStorage for RocksData {
    fn write(&self, batch: &AppBatch, durability: Durability) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let slots = batch.ops().count();
        let mut target = self.engine.batch(batch.bytes() + 16 * slots);
        for op in batch.ops() {
            match op {
                AppOp::Put {
                    keyspace,
                    key,
                    value,
                } => {
                    target.put_cf(self.engine.family(number(keyspace)), key, value);
                }
                AppOp::Delete { keyspace, key } => {
                    target.delete_cf(self.engine.family(number(keyspace)), key);
                }
                AppOp::DeleteRange {
                    keyspace,
                    start,
                    end,
                } => {
                    let pending = last_put(batch, keyspace);
                    delete_range(&self.engine, &mut target, keyspace, start, end, pending)?;
                }
            }
        }
        // See `reclaim`: what has expired may be dropped only when its clock is durable.
        let moves_a_clock = moves_a_clock(batch);
        let durability = match moves_a_clock {
            true => Durability::Synced,
            false => durability,
        };
        (self.engine).write(target, durability, batch.bytes() as u64)?;
        if moves_a_clock {
            self.reclaim.add(batch);
        }
        Ok(())
    }

    fn view(&self) -> Result<Box<dyn DataView>> {
        let pin = self.reclaim.pin();
        let pinned = Pinned::new(self.engine.clone(), |engine| engine.db().snapshot());
        Ok(Box::new(RocksView { pinned, _pin: pin }))
    }

    fn begin_import(&self, range: &KeyRange) -> Result<Box<dyn DataImport>> {
        let (engine, tables) = (self.engine.clone(), &self.import_tables);
        Ok(Box::new(RocksImport::begin(
            engine,
            self.reclaim.clone(),
            &self.imports,
            tables,
            range,
        )))
    }

    fn sync(&self) -> Result<()> {
        self.engine.sync()
    }

    fn trouble(&self) -> Option<String> {
        self.engine.trouble()
    }

    fn stats(&self) -> AppStats {
        AppStats {
            writes: self.engine.writes(),
            syncs: self.engine.syncs(),
            bytes: self.engine.bytes(),
        }
    }
}

/// The largest key that `batch` puts into `keyspace`.
fn last_put(batch: &AppBatch, keyspace: Keyspace) -> Option<&[u8]> {
    let puts = batch.ops().filter_map(|op| match op {
        AppOp::Put {
            keyspace: into,
            key,
            ..
        } if into == keyspace => Some(key),
        _ => None,
    });
    puts.max()
}

/// Removes `[start, end)` of `keyspace`. RocksDB knows no range without a bound, so an empty `end`
/// becomes the first key behind the last one there is: in the store, or `pending` in the same batch.
pub(super) fn delete_range(
    engine: &Engine,
    batch: &mut WriteBatch,
    keyspace: Keyspace,
    start: &[u8],
    end: &[u8],
    pending: Option<&[u8]>,
) -> Result<()> {
    let family = engine.family(number(keyspace));
    if !end.is_empty() {
        if start < end {
            batch.delete_range_cf(family, start, end);
        }
        return Ok(());
    }
    let mut keys = engine.db().raw_iterator_cf(family);
    keys.seek_to_last();
    keys.status()
        .map_err(|e| engine.read_error(None, keyspace.name(), e))?;
    if let Some(last) = keys.key().max(pending).filter(|last| *last >= start) {
        let behind = [last, &[0]].concat();
        batch.delete_range_cf(family, start, behind.as_slice());
    }
    Ok(())
}

/// A moment of the data. It keeps the store open, and so locked, until it is dropped.
struct RocksView {
    pinned: Pinned,
    _pin: Pin,
}

impl RocksView {
    fn reader(&self) -> Reader<'_> {
        Reader {
            engine: self.pinned.borrow_owner(),
            moment: Some(self.pinned.borrow_dependent()),
        }
    }
}

impl DataRead for RocksView {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.reader().get(keyspace, key)
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        self.reader().multi_get(keyspace, keys)
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.reader().scan(keyspace, range, visit)
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.reader().scan_back(keyspace, range, visit)
    }
}

/// The way in which a scan goes through its range.
#[derive(Clone, Copy)]
pub(super) enum Direction {
    Ascending,
    Descending,
}

impl Direction {
    /// Keeps an iterator with `options` within `range`.
    pub(super) fn bound(self, options: &mut ReadOptions, range: &KeyRange) {
        if !range.end.is_empty() {
            options.set_iterate_upper_bound(range.end.as_slice());
        }
        if matches!(self, Direction::Descending) {
            options.set_iterate_lower_bound(range.start.as_slice());
        }
    }

    /// Visits everything that `items`, bounded by `range`, has. Within is what RocksDB said of it.
    pub(super) fn visit<D: DBAccess>(
        self,
        items: &mut DBRawIteratorWithThreadMode<'_, D>,
        range: &KeyRange,
        visit: &mut Visit<'_>,
    ) -> Result<Result<(), rocksdb::Error>> {
        match self {
            Direction::Ascending => items.seek(&range.start),
            Direction::Descending => items.seek_to_last(),
        }
        while let Some((key, value)) = items.item() {
            if let ControlFlow::Break(()) = visit(key, value)? {
                return Ok(Ok(()));
            }
            match self {
                Direction::Ascending => items.next(),
                Direction::Descending => items.prev(),
            }
        }
        Ok(items.status())
    }
}

/// Reads as of now, or as of a moment.
struct Reader<'a> {
    engine: &'a Engine,
    moment: Option<&'a Snapshot<'a>>,
}

impl Reader<'_> {
    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        if let Some(moment) = self.moment {
            options.set_snapshot(moment);
        }
        options
    }

    fn error(&self, keyspace: Keyspace, error: rocksdb::Error) -> Error {
        self.engine
            .read_error(None, format!("keyspace {}", keyspace.name()), error)
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
        let mut options = self.options();
        // A snapshot of a region reads everything once: that must not push out what is read often.
        options.fill_cache(self.moment.is_none());
        direction.bound(&mut options, range);
        let family = self.engine.family(number(keyspace));
        let mut items = self.engine.db().raw_iterator_cf_opt(family, options);
        let visited = direction.visit(&mut items, range, visit)?;
        visited.map_err(|e| self.error(keyspace, e))
    }
}

impl DataRead for Reader<'_> {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let family = self.engine.family(number(keyspace));
        let value = self.engine.db().get_cf_opt(family, key, &self.options());
        value.map_err(|e| self.error(keyspace, e))
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        let family = self.engine.family(number(keyspace));
        let keys = keys.iter().copied();
        let options = self.options();
        let values = self
            .engine
            .db()
            .batched_multi_get_cf_opt(family, keys, false, &options);
        let own = |value: Option<DBPinnableSlice<'_>>| value.map(|bytes| bytes.to_vec());
        let values = values.into_iter();
        values
            .map(|value| value.map(own).map_err(|e| self.error(keyspace, e)))
            .collect()
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.visit_all(keyspace, range, Direction::Ascending, visit)
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.visit_all(keyspace, range, Direction::Descending, visit)
    }
}
