//! The data as everybody sees it: without the entries of the indexes. Uses: app_store, index, scan, error.
//! Never does I/O of its own.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::entries::PREFIX;
use super::{Inner, query_in};
use crate::app_store::{DataRead, DataView, Keyspace, Visit};
use crate::error::Result;
use crate::index::IndexQuery;
use crate::scan::Page;
use crate::types::KeyRange;

/// A moment of the data, and of the indexes.
pub(super) struct View {
    pub data: Box<dyn DataView>,
    pub inner: Arc<Inner>,
}

impl DataRead for View {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Hidden(&*self.data).get(keyspace, key)
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        Hidden(&*self.data).multi_get(keyspace, keys)
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        Hidden(&*self.data).scan(keyspace, range, visit)
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        Hidden(&*self.data).scan_back(keyspace, range, visit)
    }

    fn has_extractor(&self, name: &str) -> bool {
        self.inner.extractors.contains_key(name)
    }

    fn query_index(&self, name: &str, query: &IndexQuery, range: &KeyRange) -> Result<Page> {
        query_in(&*self.data, name, query, range)
    }
}

/// Data without the entries of the indexes.
pub(super) struct Hidden<'a, D: ?Sized>(pub &'a D);

fn is_own(keyspace: Keyspace, key: &[u8]) -> bool {
    keyspace == Keyspace::Store && key.starts_with(PREFIX)
}

impl<D: DataRead + ?Sized> DataRead for Hidden<'_, D> {
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
