//! Secondary indexes over any application store. Uses: app_store, index, scan, types, error. Never does I/O of
//! its own.
//!
//! The entries of an index belong to their store, not to what raft replicates: a snapshot has none of
//! them, and a replica that takes one in makes its own. So they lie in [`Keyspace::Store`], out of sight
//! of everybody else, in the same batch as the data that they are of.
//!
//! There is an index because somebody has created it here, or because a region has it (see `index`). It
//! has entries of all data of the store, also of regions that do not have it: these are not asked, and a
//! split or merge changes nothing in it.
//!
//! ```text
//! catalogue: PREFIX, 0, name                       -> id u32 BE, state u8 (1 ready, 2 of regions)
//! entry:     PREFIX, 1, id u32 BE, term, 0 0, key  -> (nothing); each 0 of the term is written as 0 255
//! ```

mod entries;
mod importing;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::app_store::{
    AppBatch, AppOp, AppStats, ApplicationDataStorage, DataImport, DataRead, DataView, Keyspace,
    Visit,
};
use crate::error::{Error, Result};
use crate::index::{Declared, IndexQuery};
use crate::scan::Page;
use crate::types::{Durability, KeyRange, RegionId};

use entries::{Entries, Index, IndexId, PREFIX, State};
use importing::IndexedImport;
use view::{Hidden, View};

/// What a key and its value are to be found by: any number of terms, the same each time it is asked.
pub type Extractor = Arc<dyn Fn(&[u8], &[u8]) -> Vec<Vec<u8>> + Send + Sync>;

/// An [`ApplicationDataStorage`] that keeps indexes of [`Keyspace::Data`] up to date: in the same batch,
/// whoever writes it, a client, a state machine or an import. Values that expire are in no index.
///
/// Extractors are code, so they are given by name at each open; which indexes there are is stored. Who
/// changes what an extractor answers drops the index and creates it again.
///
/// A write reads what it overwrites, one writer at a time, as long as there is an index at all.
///
/// Under a [`Store`](crate::Store) the regions have indexes of their own, by the commands
/// [`KvCommand::CreateIndex`](crate::KvCommand::CreateIndex) and `DropIndex`, or
/// [`ApplyBatch::declare_index`](crate::ApplyBatch::declare_index) of another state machine: then every
/// store of the cluster has to be given the same extractors before one of them is named by a command.
///
/// ```
/// use std::sync::Arc;
/// use peerstore::memory::MemoryData;
/// use peerstore::{AppBatch, ApplicationDataStorage, Durability, IndexQuery, IndexedData, Keyspace};
///
/// let by_city = |_key: &[u8], value: &[u8]| vec![value.to_vec()];
/// let data = IndexedData::open(Arc::new(MemoryData::new()), [("city", Arc::new(by_city) as _)])?;
/// data.create_index("city")?;
/// let mut batch = AppBatch::new();
/// batch.put(Keyspace::Data, "alice", "Paris");
/// batch.put(Keyspace::Data, "bob", "Oslo");
/// data.write(&batch, Durability::Synced)?;
/// let found = data.query("city", &IndexQuery::prefix("Pa"))?;
/// assert_eq!(found.pairs, [(b"alice".to_vec(), b"Paris".to_vec())]);
/// # Ok::<(), peerstore::Error>(())
/// ```
pub struct IndexedData(Arc<Inner>);

struct Inner {
    data: Arc<dyn ApplicationDataStorage>,
    extractors: BTreeMap<String, Extractor>,
    // What the catalogue says. Changed by whoever holds `writer` only.
    indexes: RwLock<BTreeMap<String, Index>>,
    // Held from reading what is overwritten to the write.
    writer: Mutex<()>,
}

impl IndexedData {
    /// Puts the indexes that `data` has over it. One whose building was cut short is built again.
    ///
    /// # Errors
    /// `IndexWithoutExtractor` if there is an index whose extractor is not among those given, with
    /// nothing changed; `Corruption`; those of the store.
    pub fn open<'n>(
        data: Arc<dyn ApplicationDataStorage>,
        extractors: impl IntoIterator<Item = (&'n str, Extractor)>,
    ) -> Result<Self> {
        let extractors = extractors.into_iter();
        let inner = Inner {
            extractors: extractors.map(|(n, e)| (n.to_string(), e)).collect(),
            indexes: RwLock::default(),
            writer: Mutex::new(()),
            data,
        };
        let declared = inner.declared()?;
        for name in &declared {
            inner.extractor(name)?;
        }
        let mut indexes = BTreeMap::new();
        for (name, id, state) in entries::catalogue(&*inner.data)? {
            // One that no region has any more goes, whether its extractor is known or not.
            if state.of_regions && !declared.contains(&name) {
                inner.remove(&name, id)?;
                continue;
            }
            let extractor = inner.extractor(&name)?;
            let index = Index {
                id,
                state,
                extractor,
            };
            indexes.insert(name, index);
        }
        inner.set(indexes.clone());
        for (name, index) in indexes.into_iter().filter(|(_, i)| !i.state.is_ready) {
            inner.build(&name, index)?;
        }
        inner.build_declared(&declared)?;
        Ok(IndexedData(Arc::new(inner)))
    }

    /// The names of the indexes.
    pub fn indexes(&self) -> Vec<String> {
        self.0.indexes().into_keys().collect()
    }

    /// Creates an index, of what is there and of what comes. Durable on return; until then nobody else
    /// can write.
    ///
    /// # Errors
    /// `IndexExists`; `IndexWithoutExtractor`, with nothing changed; those of the store: the next open
    /// builds it again then.
    pub fn create_index(&self, name: &str) -> Result<()> {
        let inner = &*self.0;
        let _writer = inner.lock();
        let indexes = inner.indexes();
        if indexes.contains_key(name) {
            let name = name.to_string();
            return Err(Error::IndexExists { name });
        }
        let index = inner.new_index(name, false)?;
        inner.build(name, index)
    }

    /// Removes an index. Durable on return. One that a region has stays until none has it.
    ///
    /// # Errors
    /// `IndexNotFound`; those of the store.
    pub fn drop_index(&self, name: &str) -> Result<()> {
        let inner = &*self.0;
        let _writer = inner.lock();
        let mut index = inner.index(name)?;
        if !inner.declared()?.contains(name) {
            return inner.remove(name, index.id);
        }
        index.state.of_regions = true;
        let mut batch = AppBatch::new();
        entries::put_catalogue(&mut batch, name, &index);
        inner.data.write(&batch, Durability::Synced)?;
        let mut indexes = inner.indexes();
        indexes.insert(name.to_string(), index);
        inner.set(indexes);
        Ok(())
    }

    /// The keys that `query` asks for, with their values, as of one moment.
    ///
    /// # Errors
    /// `IndexNotFound`; `IndexNotReady` if an import has failed half-way; `CursorInvalid` if the cursor
    /// is not of this query; those of the store.
    pub fn query(&self, name: &str, query: &IndexQuery) -> Result<Page> {
        query_in(&*self.0.data.view()?, name, query, &KeyRange::all())
    }
}

/// The keys of `range` that `query` asks for, as `view` has them.
fn query_in(view: &dyn DataRead, name: &str, query: &IndexQuery, range: &KeyRange) -> Result<Page> {
    let named = || name.to_string();
    let (id, state) =
        entries::find(view, name)?.ok_or_else(|| Error::IndexNotFound { name: named() })?;
    if !state.is_ready {
        return Err(Error::IndexNotReady { name: named() });
    }
    let mut scan = query.scan(id.range_of(query.terms()));
    let (mut pairs, mut cursor) = (Vec::new(), None);
    // Entries of other regions lie between: as many as there is room for are read at a time.
    while pairs.len() < query.keys_max() {
        scan = scan.limit(query.keys_max() - pairs.len());
        let found = view.page(Keyspace::Store, &scan)?;
        let keys = found.keys().filter_map(|entry| id.key_of(entry));
        let keys: Vec<&[u8]> = keys.filter(|key| range.contains(key)).collect();
        let values = view.multi_get(Keyspace::Data, &keys)?;
        for (key, value) in keys.into_iter().zip(values) {
            let value = value.ok_or_else(|| {
                let what = format!("index {name}");
                let detail = format!("it has \"{}\", which has no value", key.escape_ascii());
                Error::corruption(None, what, detail)
            })?;
            pairs.push((key.to_vec(), value));
        }
        cursor = found.cursor;
        match &cursor {
            Some(cursor) => scan = scan.after(cursor.clone()),
            None => break,
        }
    }
    Ok(Page { pairs, cursor })
}

/// Whether there are indexes over `data`, which have to be kept up to date.
///
/// # Errors
/// `Corruption`; those of the store.
pub(crate) fn has_indexes(data: &dyn DataRead) -> Result<bool> {
    Ok(!entries::catalogue(data)?.is_empty())
}

/// What is done for a key and its value.
type Change<'a> = dyn FnMut(&mut Entries<'_>, &[u8], &[u8]) + 'a;

impl Inner {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn indexes(&self) -> BTreeMap<String, Index> {
        let indexes = self.indexes.read();
        indexes.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, indexes: BTreeMap<String, Index>) {
        *self.indexes.write().unwrap_or_else(PoisonError::into_inner) = indexes;
    }

    fn index(&self, name: &str) -> Result<Index> {
        let found = self.indexes().remove(name);
        found.ok_or_else(|| Error::IndexNotFound {
            name: name.to_string(),
        })
    }

    fn extractor(&self, name: &str) -> Result<Extractor> {
        let found = self.extractors.get(name).cloned();
        found.ok_or_else(|| Error::IndexWithoutExtractor {
            name: name.to_string(),
        })
    }

    /// An index that there is not yet.
    fn new_index(&self, name: &str, of_regions: bool) -> Result<Index> {
        let last = self.indexes().values().map(|index| index.id.0).max();
        Ok(Index {
            id: IndexId(last.unwrap_or(0) + 1),
            state: State {
                is_ready: false,
                of_regions,
            },
            extractor: self.extractor(name)?,
        })
    }

    /// The indexes that regions of this store have.
    fn declared(&self) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        let mut take = |key: &[u8], value: &[u8]| {
            names.extend(Declared::under(key, Some(value))?.0);
            Ok(ControlFlow::Continue(()))
        };
        self.data
            .scan(Keyspace::Index, &KeyRange::all(), &mut take)?;
        Ok(names)
    }

    /// Builds those of `declared` that there are not yet. Nobody writes meanwhile.
    fn build_declared(&self, declared: &BTreeSet<String>) -> Result<()> {
        let indexes = self.indexes();
        for name in declared.iter().filter(|name| !indexes.contains_key(*name)) {
            self.build(name, self.new_index(name, true)?)?;
        }
        Ok(())
    }

    /// Removes the indexes that were there for regions none of which has them any more.
    fn drop_undeclared(&self) -> Result<()> {
        let mut of_regions = self.indexes();
        of_regions.retain(|_, index| index.state.of_regions);
        if of_regions.is_empty() {
            return Ok(());
        }
        let declared = self.declared()?;
        for (name, index) in of_regions {
            if !declared.contains(&name) {
                self.remove(&name, index.id)?;
            }
        }
        Ok(())
    }

    fn remove(&self, name: &str, id: IndexId) -> Result<()> {
        let mut batch = AppBatch::new();
        batch.delete(Keyspace::Store, entries::catalogue_key(name));
        batch.delete_range(Keyspace::Store, &id.all());
        self.data.write(&batch, Durability::Synced)?;
        let mut indexes = self.indexes();
        indexes.remove(name);
        self.set(indexes);
        Ok(())
    }

    /// Makes `index` of everything that is there. Nobody writes meanwhile.
    fn build(&self, name: &str, mut index: Index) -> Result<()> {
        index.state.is_ready = false;
        let mut batch = AppBatch::new();
        entries::put_catalogue(&mut batch, name, &index);
        batch.delete_range(Keyspace::Store, &index.id.all());
        self.data.write(&batch, Durability::Synced)?;
        let one = BTreeMap::from([(name.to_string(), index)]);
        self.add_entries(&one, &KeyRange::all())?;
        self.make_ready(one)
    }

    /// Puts the entries of what lies in `range`.
    fn add_entries(&self, indexes: &BTreeMap<String, Index>, range: &KeyRange) -> Result<()> {
        self.for_all(range, &mut |entries, key, value| {
            for index in indexes.values() {
                entries.change(index, key, None, Some(value));
            }
        })
    }

    /// Removes the entries of what lies in `range`.
    fn remove_entries(&self, indexes: &BTreeMap<String, Index>, range: &KeyRange) -> Result<()> {
        self.for_all(range, &mut |entries, key, value| {
            for index in indexes.values() {
                entries.change(index, key, Some(value), None);
            }
        })
    }

    /// Writes what `change` makes of each key of `range`, some at a time: it takes no more memory than
    /// that.
    fn for_all(&self, range: &KeyRange, change: &mut Change<'_>) -> Result<()> {
        const BATCH_BYTES: usize = 1 << 20;
        let mut batch = AppBatch::new();
        let view = self.data.view()?;
        view.scan(Keyspace::Data, range, &mut |key, value| {
            change(&mut Entries(&mut batch), key, value);
            if batch.bytes() >= BATCH_BYTES {
                self.data.write(&batch, Durability::Buffered)?;
                batch.clear();
            }
            Ok(ControlFlow::Continue(()))
        })?;
        self.data.write(&batch, Durability::Buffered)
    }

    /// Says, durably, that `changed` are complete.
    fn make_ready(&self, mut changed: BTreeMap<String, Index>) -> Result<()> {
        let mut batch = AppBatch::new();
        for (name, index) in &mut changed {
            index.state.is_ready = true;
            entries::put_catalogue(&mut batch, name, index);
        }
        self.data.write(&batch, Durability::Synced)?;
        let mut indexes = self.indexes();
        indexes.extend(changed);
        self.set(indexes);
        Ok(())
    }

    /// `batch` with what it does to the indexes.
    fn completed(&self, indexes: &BTreeMap<String, Index>, batch: &AppBatch) -> Result<AppBatch> {
        let mut all = batch.clone();
        let mut entries = Entries(&mut all);
        // What the batch has said of a key so far.
        let mut said: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        for op in batch.ops().filter(|op| op.keyspace() == Keyspace::Data) {
            let (key, new) = match op {
                AppOp::Put { key, value, .. } => (key, Some(value)),
                AppOp::Delete { key, .. } => (key, None),
                AppOp::DeleteRange { start, end, .. } => {
                    let range = KeyRange::new(start, end);
                    self.data.scan(Keyspace::Data, &range, &mut |key, value| {
                        said.entry(key.to_vec())
                            .or_insert_with(|| Some(value.to_vec()));
                        Ok(ControlFlow::Continue(()))
                    })?;
                    for (key, value) in said.iter_mut().filter(|(key, _)| range.contains(key)) {
                        let old = value.take();
                        for index in indexes.values() {
                            entries.change(index, key, old.as_deref(), None);
                        }
                    }
                    continue;
                }
            };
            let old = match said.remove(key) {
                Some(value) => value,
                None => self.data.get(Keyspace::Data, key)?,
            };
            for index in indexes.values() {
                entries.change(index, key, old.as_deref(), new);
            }
            said.insert(key.to_vec(), new.map(<[u8]>::to_vec));
        }
        Ok(all)
    }
}

/// That nobody writes where the indexes are.
fn check(batch: &AppBatch) -> Result<()> {
    let own = KeyRange::prefix(PREFIX);
    for op in batch.ops().filter(|op| op.keyspace() == Keyspace::Store) {
        let (key, inside) = match op {
            AppOp::Put { key, .. } | AppOp::Delete { key, .. } => (key, own.contains(key)),
            AppOp::DeleteRange { start, end, .. } => {
                let ends_before = !end.is_empty() && end <= own.start.as_slice();
                (start, !ends_before && start < own.end.as_slice())
            }
        };
        if inside {
            let got = format!("store \"{}\"", key.escape_ascii());
            let expected = "a key outside of the indexes".to_string();
            return Err(Error::invalid(RegionId(0), "write", got, expected));
        }
    }
    Ok(())
}

impl ApplicationDataStorage for IndexedData {
    fn write(&self, batch: &AppBatch, durability: Durability) -> Result<()> {
        check(batch)?;
        let inner = &*self.0;
        {
            let _writer = inner.lock();
            let of_regions = OfRegions::of(batch)?;
            inner.build_declared(&of_regions.declared)?;
            let indexes = inner.indexes();
            if !indexes.is_empty() {
                let batch = inner.completed(&indexes, batch)?;
                inner.data.write(&batch, Durability::Buffered)?;
            } else {
                inner.data.write(batch, Durability::Buffered)?;
            }
            if of_regions.changes {
                inner.drop_undeclared()?;
            }
        }
        // Outside of the lock, so that writers share an fsync.
        match durability {
            Durability::Synced if !batch.is_empty() => inner.data.sync(),
            _ => Ok(()),
        }
    }

    fn view(&self) -> Result<Box<dyn DataView>> {
        let inner = Arc::clone(&self.0);
        let data = self.0.data.view()?;
        Ok(Box::new(View { data, inner }))
    }

    fn begin_import(&self, range: &KeyRange) -> Result<Box<dyn DataImport>> {
        Ok(Box::new(IndexedImport {
            import: self.0.data.begin_import(range)?,
            inner: Arc::clone(&self.0),
            range: range.clone(),
            declared: BTreeSet::new(),
        }))
    }

    fn sync(&self) -> Result<()> {
        self.0.data.sync()
    }

    fn stats(&self) -> AppStats {
        self.0.data.stats()
    }

    fn trouble(&self) -> Option<String> {
        self.0.data.trouble()
    }
}

/// What a batch says of the indexes of regions.
#[derive(Default)]
struct OfRegions {
    declared: BTreeSet<String>,
    changes: bool,
}

impl OfRegions {
    fn of(batch: &AppBatch) -> Result<Self> {
        let mut of_regions = OfRegions::default();
        for op in batch.ops().filter(|op| op.keyspace() == Keyspace::Index) {
            of_regions.changes = true;
            if let AppOp::Put { key, value, .. } = op {
                let Declared(names) = Declared::under(key, Some(value))?;
                of_regions.declared.extend(names);
            }
        }
        Ok(of_regions)
    }
}

impl DataRead for IndexedData {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Hidden(&*self.0.data).get(keyspace, key)
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        Hidden(&*self.0.data).multi_get(keyspace, keys)
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        Hidden(&*self.0.data).scan(keyspace, range, visit)
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        Hidden(&*self.0.data).scan_back(keyspace, range, visit)
    }

    fn has_extractor(&self, name: &str) -> bool {
        self.0.extractors.contains_key(name)
    }

    fn query_index(&self, name: &str, query: &IndexQuery, range: &KeyRange) -> Result<Page> {
        query_in(&*self.0.data.view()?, name, query, range)
    }
}

impl std::fmt::Debug for IndexedData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.indexes();
        f.debug_tuple("IndexedData").field(&names).finish()
    }
}
