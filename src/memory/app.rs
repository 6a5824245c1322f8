//! The data of all regions, in memory. Uses: app_store, memory::journal. Never does I/O.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::app_store::{
    AppBatch, AppOp, AppStats, ApplicationDataStorage, DataImport, DataRead, DataView, ImportOrder,
    Keyspace, Visit,
};
use crate::error::{Error, Result};
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
    bytes_max: u64,
}

type Tree = BTreeMap<Bytes, Bytes>;

/// The content of a store.
#[derive(Clone, Debug, Default)]
pub(super) struct Keyspaces {
    // One for each keyspace, in the order of `Keyspace::ALL`; shared with the views of it.
    trees: [Arc<Tree>; Keyspace::ALL.len()],
    // Invariant: what the keys and values of the application take.
    bytes: u64,
}

impl MemoryData {
    /// An empty store.
    pub fn new() -> Self {
        MemoryData {
            journal: Arc::new(Journal::new("memory data")),
            recent: Arc::default(),
            bytes_max: u64::MAX,
        }
    }

    /// An empty store whose keys and values of the application take at most so many bytes: a batch
    /// that would take more is refused whole, with `StoreFull`. So is an import.
    pub fn with_bytes_max(bytes_max: u64) -> Self {
        MemoryData {
            bytes_max,
            ..MemoryData::new()
        }
    }

    /// The store as it is after a power cut now, of which the first `kept` batches of
    /// [`MemoryData::unsynced`] were spared: 0 is the worst, `usize::MAX` is the death of the process
    /// alone. The copy is not poisoned; this store is not changed.
    pub fn crash_copy(&self, kept: usize) -> Self {
        MemoryData {
            journal: Arc::new(self.journal.crash_copy(kept)),
            recent: Arc::default(),
            bytes_max: self.bytes_max,
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
        let admit = |image: &Keyspaces| image.admit(batch, self.bytes_max);
        self.journal
            .write(admit, batch, durability, 0, batch.bytes() as u64)?;
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
        &self.trees[keyspace as usize]
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

    /// Refuses `batch` if the application's data would grow beyond `limit`.
    fn admit(&self, batch: &AppBatch, limit: u64) -> Result<()> {
        if self.bytes.saturating_add(batch.bytes() as u64) <= limit {
            return Ok(());
        }
        let got = self.bytes_after(batch);
        if got <= limit || got <= self.bytes {
            return Ok(());
        }
        let what = "the memory data, in bytes,";
        Err(Error::StoreFull { what, got, limit })
    }

    /// What the application's keys and values take when `batch` is written.
    fn bytes_after(&self, batch: &AppBatch) -> u64 {
        let mut changed: BTreeMap<(usize, &[u8]), u64> = BTreeMap::new();
        for op in batch.ops() {
            let (key, now) = match op {
                AppOp::Put { key, value, .. } => (key, item_bytes(key, value)),
                AppOp::Delete { key, .. } => (key, 0),
                AppOp::DeleteRange { .. } => {
                    // Rare, and what comes behind it depends on it.
                    let mut next = self.clone();
                    next.apply(batch);
                    return next.bytes;
                }
            };
            if is_counted(op.keyspace()) {
                changed.insert((op.keyspace() as usize, key), now);
            }
        }
        let mut bytes = self.bytes;
        for ((keyspace, key), now) in changed {
            let old = self.trees[keyspace].get(key);
            bytes = bytes + now - old.map_or(0, |value| item_bytes(key, value));
        }
        bytes
    }

    fn tree_mut(&mut self, keyspace: Keyspace) -> &mut Tree {
        Arc::make_mut(&mut self.trees[keyspace as usize])
    }
}

fn item_bytes(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

/// Whether a limit is on the keys of a keyspace.
fn is_counted(keyspace: Keyspace) -> bool {
    Keyspace::APPLICATION.contains(&keyspace)
}

impl Image for Keyspaces {
    type Batch = AppBatch;

    fn apply(&mut self, batch: &AppBatch) {
        for op in batch.ops() {
            let tree = self.tree_mut(op.keyspace());
            let (added, removed) = match op {
                AppOp::Put { key, value, .. } => {
                    let (name, content) =
                        (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                    let old = tree.insert(name, content);
                    (
                        item_bytes(key, value),
                        old.map_or(0, |v| item_bytes(key, &v)),
                    )
                }
                AppOp::Delete { key, .. } => {
                    let old = tree.remove(key);
                    (0, old.map_or(0, |v| item_bytes(key, &v)))
                }
                AppOp::DeleteRange { start, end, .. } => {
                    let mut behind = tree.split_off(start);
                    if !end.is_empty() {
                        tree.append(&mut behind.split_off(end));
                    }
                    (0, behind.iter().map(|(k, v)| item_bytes(k, v)).sum())
                }
            };
            if is_counted(op.keyspace()) {
                self.bytes = self.bytes + added - removed;
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
                bytes_max: self.bytes_max,
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
        let got = (self.batch.bytes() + key.len() + value.len()) as u64;
        if got > self.data.bytes_max {
            let (what, limit) = ("the memory data, in bytes,", self.data.bytes_max);
            return Err(Error::StoreFull { what, got, limit });
        }
        self.batch.put(keyspace, key, value);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let mut recent = self.data.recent();
        self.data
            .write_recorded(&mut recent, &self.batch, Durability::Synced)
    }
}
