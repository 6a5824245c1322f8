//! The indexes of a region, in a batch. Uses: app_store, index, error. Never does I/O of its own.

use super::ApplyBatch;
use crate::app_store::Keyspace;
use crate::error::Result;
use crate::index::Declared;

/// The indexes that the region has. Which they are is replicated; their entries are each store's own, and
/// are there as soon as the batch is written. It is [`IndexedData`](crate::IndexedData) that makes them.
///
/// ```
/// use std::sync::Arc;
/// use peerstore::memory::MemoryData;
/// use peerstore::{ApplyBatch, IndexedData, KeyRange};
///
/// let by_city = |_key: &[u8], value: &[u8]| vec![value.to_vec()];
/// let extractors = [("city", Arc::new(by_city) as _)];
/// let data = IndexedData::open(Arc::new(MemoryData::new()), extractors)?;
/// let range = KeyRange::all();
/// let mut batch = ApplyBatch::new(&data, &range);
/// assert!(batch.has_extractor("city") && !batch.has_extractor("street"));
/// assert!(batch.declare_index("city")?);
/// assert_eq!(batch.indexes()?, ["city"]);
/// assert!(batch.withdraw_index("city")?);
/// # Ok::<(), peerstore::Error>(())
/// ```
impl ApplyBatch<'_> {
    /// Whether an index of this name can be made here. Every replica has to answer the same: the stores
    /// are given the same extractors before a command names one of them.
    pub fn has_extractor(&self, name: &str) -> bool {
        self.data.has_extractor(name)
    }

    /// The names of the region's indexes, ascending.
    ///
    /// # Errors
    /// `Corruption`; those of the store.
    pub fn indexes(&self) -> Result<Vec<String>> {
        Ok(self.declared()?.0.into_iter().collect())
    }

    /// Gives the region the index `name`, which [`ApplyBatch::has_extractor`] must know; whether it had
    /// none of that name.
    ///
    /// # Errors
    /// `Corruption`; those of the store.
    pub fn declare_index(&mut self, name: &str) -> Result<bool> {
        let mut declared = self.declared()?;
        Ok(declared.0.insert(name.to_string()) && self.set_declared(&declared))
    }

    /// Takes the index `name` from the region; whether it had it.
    ///
    /// # Errors
    /// `Corruption`; those of the store.
    pub fn withdraw_index(&mut self, name: &str) -> Result<bool> {
        let mut declared = self.declared()?;
        Ok(declared.0.remove(name) && self.set_declared(&declared))
    }

    fn declared(&self) -> Result<Declared> {
        let start = &self.range.start;
        let bytes = self.read_in(Keyspace::Index, start)?;
        Declared::under(start, bytes.as_deref())
    }

    fn set_declared(&mut self, declared: &Declared) -> bool {
        declared.put(&mut self.writes, &self.range.start);
        self.index_writes();
        true
    }
}
