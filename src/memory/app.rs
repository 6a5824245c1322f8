//! The data of all regions, in memory. Uses: app_store, memory::journal. Never does I/O.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::app_store::{
    AppBatch, AppOp, AppStats, ApplicationDataStorage, DataImport, DataRead, DataView, ImportOrder,
    Keyspace, Visit,
};
use crate::error::Result;
use crate::types::{Durability, KeyRange};

use super::journal::{Image, Journal, WriteFault};
use super::transactions::Recent;

/// An [`ApplicationDataStorage`] for tests, with power cuts and failing writes.
///
/// A view costs nothing to take. The first write to a keyspace while a view is alive copies the
/// tree of that keyspace, though not the bytes of its keys and values: O(keys), once per view.
/// Every batch is held twice, as written and as synced, and one that is not synced a third time,
/// until the next sync.
///
/// ```
/// use peerstore::memory::MemoryData;
/// use peerstore::{AppBatch, ApplicationDataStorage, DataRead, Durability, Keyspace};
/// # fn main() -> peerstore::Result<()> {
/// let data = MemoryData::new();
/// let view = data.view()?;
/// let mut batch = AppBatch::default();
/// batch.put(Keyspace::Data, "key", "value");
/// data.write(&batch, Durability::Buffered)?;
/// assert_eq!(data.get(Keyspace::Data, b"key")?.as_deref(), Some(&b"value"[..]));
/// assert_eq!(view.get(Keyspace::Data, b"key")?, None);
/// assert_eq!(data.crash_copy(0).get(Keyspace::Data, b"key")?, None);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MemoryData {
    journal: Arc<Journal<Keyspaces>>,
    // Locked around every write, so that what it says is what was written.
    pub(super) recent: Arc<Mutex<Recent>>,
}

type Tree = BTreeMap<Bytes, Bytes>;

/// One tree per keyspace, in the order of [`Keyspace::ALL`]; shared with the views of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Keyspaces([Arc<Tree>; Keyspace::ALL.len()]);

impl MemoryData {
    /// An empty store.
    pub fn new() -> Self {
        MemoryData {
            journal: Arc::new(Journal::new("memory data")),
            recent: Arc::default(),
        }
    }

    /// The store as it is after a power cut now, of which the first `kept` batches of
    /// [`MemoryData::unsynced`] were spared: 0 is the worst, `usize::MAX` is the death of the process
    /// alone. The copy is not poisoned; this store is not changed.
    pub fn crash_copy(&self, kept: usize) -> Self {
        MemoryData {
            journal: Arc::new(self.journal.crash_copy(kept)),
            recent: Arc::default(),
        }
    }

    /// How many batches a power cut could take away.
    pub fn unsynced(&self) -> usize {
        self.journal.unsynced()
    }

    /// Lets the next write or fsync fail, which poisons the store.
    pub fn fail_next_write(&self, fault: WriteFault) {
        self.journal.fail_next_write(fault);
    }

    pub(super) fn image(&self) -> Keyspaces {
        self.journal.read(Keyspaces::clone)
    }

    /// Writes `batch` and tells the transactions that are open.
    pub(super) fn write_recorded(
        &self,
        recent: &mut Recent,
        batch: &AppBatch,
        durability: Durability,
    ) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.journal
            .write(batch, durability, 0, batch.bytes() as u64)?;
        recent.add(batch);
        Ok(())
    }
}

impl Default for MemoryData {
    fn default() -> Self {
        MemoryData::new()
    }
}

impl Keyspaces {
    fn tree(&self, keyspace: Keyspace) -> &Tree {
        &self.0[keyspace as usize]
    }

    /// What lies in `range`, which may be empty.
    fn range(
        &self,
        keyspace: Keyspace,
        range: &KeyRange,
    ) -> impl DoubleEndedIterator<Item = (&Bytes, &Bytes)> {
        let end = match range.end.as_slice() {
            [] => Bound::Unbounded,
            // A tree panics where the end comes before the start.
            end => Bound::Excluded(end.max(&range.start)),
        };
        let bounds = (Bound::Included(range.start.as_slice()), end);
        self.tree(keyspace).range::<[u8], _>(bounds)
    }

    fn tree_mut(&mut self, keyspace: Keyspace) -> &mut Tree {
        Arc::make_mut(&mut self.0[keyspace as usize])
    }
}

impl Image for Keyspaces {
    type Batch = AppBatch;

    fn apply(&mut self, batch: &AppBatch) {
        for op in batch.ops() {
            match op {
                AppOp::Put {
                    keyspace,
                    key,
                    value,
                } => {
                    let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                    self.tree_mut(keyspace).insert(key, value);
                }
                AppOp::Delete { keyspace, key } => {
                    self.tree_mut(keyspace).remove(key);
                }
                AppOp::DeleteRange {
                    keyspace,
                    start,
                    end,
                } => {
                    let tree = self.tree_mut(keyspace);
                    let mut behind = tree.split_off(start);
                    if !end.is_empty() {
                        tree.append(&mut behind.split_off(end));
                    }
                }
            }
        }
    }
}

impl DataRead for Keyspaces {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.tree(keyspace).get(key).map(|v| v.to_vec()))
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        keys.iter().map(|key| self.get(keyspace, key)).collect()
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        visit_all(self.range(keyspace, range), visit)
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        visit_all(self.range(keyspace, range).rev(), visit)
    }
}

fn visit_all<'t>(
    items: impl Iterator<Item = (&'t Bytes, &'t Bytes)>,
    visit: &mut Visit<'_>,
) -> Result<()> {
    for (key, value) in items {
        if let ControlFlow::Break(()) = visit(key, value)? {
            break;
        }
    }
    Ok(())
}

impl DataRead for MemoryData {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.journal.read(|image| image.get(keyspace, key))
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        self.journal.read(|image| image.multi_get(keyspace, keys))
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        // Not under the lock: `visit` may write.
        self.image().scan(keyspace, range, visit)
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.image().scan_back(keyspace, range, visit)
    }
}

impl ApplicationDataStorage for MemoryData {
    fn write(&self, batch: &AppBatch, durability: Durability) -> Result<()> {
        self.write_recorded(&mut self.recent(), batch, durability)
    }

    fn view(&self) -> Result<Box<dyn DataView>> {
        Ok(Box::new(self.image()))
    }

    fn begin_import(&self, range: &KeyRange) -> Result<Box<dyn DataImport>> {
        let mut batch = AppBatch::default();
        for keyspace in Keyspace::APPLICATION {
            batch.delete_range(keyspace, range);
        }
        Ok(Box::new(MemoryImport {
            data: MemoryData {
                journal: Arc::clone(&self.journal),
                recent: Arc::clone(&self.recent),
            },
            order: ImportOrder::new(range),
            batch,
        }))
    }

    fn sync(&self) -> Result<()> {
        self.journal.sync()
    }

    fn stats(&self) -> AppStats {
        let counts = self.journal.counts();
        AppStats {
            writes: counts.writes,
            syncs: counts.syncs,
            bytes: counts.bytes,
        }
    }
}

/// Collects one batch, so that here an import is atomic.
struct MemoryImport {
    data: MemoryData,
    order: ImportOrder,
    batch: AppBatch,
}

impl DataImport for MemoryImport {
    fn put(&mut self, keyspace: Keyspace, key: &[u8], value: &[u8]) -> Result<()> {
        self.order.take(keyspace, key)?;
        self.batch.put(keyspace, key, value);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let mut recent = self.data.recent();
        self.data
            .write_recorded(&mut recent, &self.batch, Durability::Synced)
    }
}
