//! What an import does to indexes. Uses: app_store, types, error.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Inner, entries};
use crate::app_store::{AppBatch, DataImport, Keyspace};
use crate::error::Result;
use crate::index::Declared;
use crate::types::{Durability, KeyRange};

/// An import that makes the entries of what it brings. From the first change to the last the indexes say
/// that they are being built, so that one which is cut short is built anew.
pub(super) struct IndexedImport {
    pub import: Box<dyn DataImport>,
    pub inner: Arc<Inner>,
    pub range: KeyRange,
    /// The indexes that the regions have whose data it brings.
    pub declared: BTreeSet<String>,
}

impl DataImport for IndexedImport {
    fn put(&mut self, keyspace: Keyspace, key: &[u8], value: &[u8]) -> Result<()> {
        if keyspace == Keyspace::Index {
            let Declared(names) = Declared::under(key, Some(value))?;
            for name in names {
                self.inner.extractor(&name)?;
                self.declared.insert(name);
            }
        }
        self.import.put(keyspace, key, value)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let inner = &self.inner;
        let _writer = inner.lock();
        inner.build_declared(&self.declared)?;
        let mut indexes = inner.indexes();
        if indexes.is_empty() {
            return self.import.finish();
        }
        // One that an earlier import has left half-done is for the next open to build.
        let mut whole = indexes.clone();
        whole.retain(|_, index| index.state.is_ready);
        let mut batch = AppBatch::new();
        for (name, index) in &mut indexes {
            index.state.is_ready = false;
            entries::put_catalogue(&mut batch, name, index);
        }
        inner.data.write(&batch, Durability::Synced)?;
        inner.set(indexes);
        inner.remove_entries(&whole, &self.range)?;
        self.import.finish()?;
        inner.add_entries(&whole, &self.range)?;
        inner.make_ready(whole)?;
        inner.drop_undeclared()
    }
}
