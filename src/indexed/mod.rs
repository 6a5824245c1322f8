//! Secondary indexes over any application store. Uses: app_store, scan, types, error. Never does I/O of
//! its own.
//!
//! An index belongs to its store, not to what raft replicates: a snapshot has none of it, and a replica
//! that takes one in makes its own. So its entries lie in [`Keyspace::Store`], out of sight of everybody
//! else, in the same batch as the data that they are of.
//!
//! ```text
//! catalogue: PREFIX, 0, name                       -> id u32 BE, state u8 (0 being built, 1 ready)
//! entry:     PREFIX, 1, id u32 BE, term, 0 0, key  -> (nothing); each 0 of the term is written as 0 255
//! ```

mod entries;
mod importing;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::app_store::{
    AppBatch, AppOp, AppStats, ApplicationDataStorage, DataImport, DataRead, DataView, Keyspace,
    Visit,
};
use crate::error::{Error, Result};
use crate::scan::{Cursor, Page, Scan};
use crate::types::{Durability, KeyRange, RegionId};

use entries::{Entries, Index, PREFIX};
use importing::IndexedImport;

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

/// Which keys to look up in an index. The answer is in the order of the terms, then of the keys; a key
/// with several terms in question is there once for each.
#[derive(Clone, Debug)]
pub struct IndexQuery {
    terms: Terms,
    reverse: bool,
    limit: usize,
    after: Option<Cursor>,
}

#[derive(Clone, Debug)]
enum Terms {
    Exact(Vec<u8>),
    Range(KeyRange),
    Prefix(Vec<u8>),
}

impl IndexQuery {
    fn of(terms: Terms) -> Self {
        IndexQuery {
            terms,
            reverse: false,
            limit: 1_000,
            after: None,
        }
    }

    /// Keys with this term.
    pub fn exact(term: impl Into<Vec<u8>>) -> Self {
        IndexQuery::of(Terms::Exact(term.into()))
    }

    /// Keys with a term in the half-open range.
    pub fn range(terms: KeyRange) -> Self {
        IndexQuery::of(Terms::Range(terms))
    }

    /// Keys with a term that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        IndexQuery::of(Terms::Prefix(prefix.into()))
    }

    /// From the last term to the first.
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// At most so many keys in a page; 1,000 if not said. At least 1.
    pub fn limit(mut self, keys: usize) -> Self {
        self.limit = keys;
        self
    }

    /// Goes on where the page that gave `cursor` ended.
    pub fn after(mut self, cursor: Cursor) -> Self {
        self.after = Some(cursor);
        self
    }

    fn scan(&self, index: &Index) -> Scan {
        let mut scan = Scan::of(index.range_of(&self.terms)).limit(self.limit);
        if self.reverse {
            scan = scan.reverse();
        }
        match &self.after {
            Some(cursor) => scan.after(cursor.clone()),
            None => scan,
        }
    }
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
        let mut indexes = BTreeMap::new();
        for (name, id, is_ready) in entries::catalogue(&*inner.data)? {
            let extractor = inner.extractor(&name)?;
            let index = Index {
                id,
                is_ready,
                extractor,
            };
            indexes.insert(name, index);
        }
        inner.set(indexes.clone());
        for (name, index) in indexes.into_iter().filter(|(_, index)| !index.is_ready) {
            inner.build(&name, index)?;
        }
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
        let last = indexes.values().map(|index| index.id).max().unwrap_or(0);
        let index = Index {
            id: last + 1,
            is_ready: false,
            extractor: inner.extractor(name)?,
        };
        inner.build(name, index)
    }

    /// Removes an index. Durable on return.
    ///
    /// # Errors
    /// `IndexNotFound`; those of the store.
    pub fn drop_index(&self, name: &str) -> Result<()> {
        let inner = &*self.0;
        let _writer = inner.lock();
        let index = inner.index(name)?;
        let mut batch = AppBatch::new();
        batch.delete(Keyspace::Store, entries::catalogue_key(name));
        batch.delete_range(Keyspace::Store, &index.all());
        inner.data.write(&batch, Durability::Synced)?;
        let mut indexes = inner.indexes();
        indexes.remove(name);
        inner.set(indexes);
        Ok(())
    }

    /// The keys that `query` asks for, with their values, as of one moment.
    ///
    /// # Errors
    /// `IndexNotFound`; `IndexNotReady` if an import has failed half-way; `CursorInvalid` if the cursor
    /// is not of this query; those of the store.
    pub fn query(&self, name: &str, query: &IndexQuery) -> Result<Page> {
        let inner = &*self.0;
        let index = inner.index(name)?;
        if !index.is_ready {
            let name = name.to_string();
            return Err(Error::IndexNotReady { name });
        }
        let view = inner.data.view()?;
        let found = view.page(Keyspace::Store, &query.scan(&index))?;
        let keys: Vec<&[u8]> = found.keys().filter_map(|e| index.key_of(e)).collect();
        let values = view.multi_get(Keyspace::Data, &keys)?;
        let mut pairs = Vec::with_capacity(keys.len());
        for (key, value) in keys.into_iter().zip(values) {
            let value = value.ok_or_else(|| {
                let what = format!("index {name}");
                let detail = format!("it has \"{}\", which has no value", key.escape_ascii());
                Error::corruption(None, what, detail)
            })?;
            pairs.push((key.to_vec(), value));
        }
        let cursor = found.cursor;
        Ok(Page { pairs, cursor })
    }
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

    /// Makes `index` of everything that is there. Nobody writes meanwhile.
    fn build(&self, name: &str, index: Index) -> Result<()> {
        let mut batch = AppBatch::new();
        entries::put_catalogue(&mut batch, name, index.id, false);
        batch.delete_range(Keyspace::Store, &index.all());
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
            index.is_ready = true;
            entries::put_catalogue(&mut batch, name, index.id, true);
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
            let indexes = inner.indexes();
            if !indexes.is_empty() {
                let batch = inner.completed(&indexes, batch)?;
                inner.data.write(&batch, Durability::Buffered)?;
            } else {
                inner.data.write(batch, Durability::Buffered)?;
            }
        }
        // Outside of the lock, so that writers share an fsync.
        match durability {
            Durability::Synced if !batch.is_empty() => inner.data.sync(),
            _ => Ok(()),
        }
    }

    fn view(&self) -> Result<Box<dyn DataView>> {
        Ok(Box::new(Hidden(self.0.data.view()?)))
    }

    fn begin_import(&self, range: &KeyRange) -> Result<Box<dyn DataImport>> {
        Ok(Box::new(IndexedImport {
            import: self.0.data.begin_import(range)?,
            inner: Arc::clone(&self.0),
            range: range.clone(),
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

/// Data without the entries of the indexes.
struct Hidden<D>(D);

fn is_own(keyspace: Keyspace, key: &[u8]) -> bool {
    keyspace == Keyspace::Store && key.starts_with(PREFIX)
}

impl<D: std::ops::Deref<Target: DataRead>> DataRead for Hidden<D> {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match is_own(keyspace, key) {
            true => Ok(None),
            false => self.0.get(keyspace, key),
        }
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut values = self.0.multi_get(keyspace, keys)?;
        for (_, value) in (keys.iter().zip(&mut values)).filter(|(key, _)| is_own(keyspace, key)) {
            *value = None;
        }
        Ok(values)
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.0.scan(
            keyspace,
            range,
            &mut |key, value| match is_own(keyspace, key) {
                true => Ok(ControlFlow::Continue(())),
                false => visit(key, value),
            },
        )
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.0.scan_back(
            keyspace,
            range,
            &mut |key, value| match is_own(keyspace, key) {
                true => Ok(ControlFlow::Continue(())),
                false => visit(key, value),
            },
        )
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
}

impl std::fmt::Debug for IndexedData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.indexes();
        f.debug_tuple("IndexedData").field(&names).finish()
    }
}
