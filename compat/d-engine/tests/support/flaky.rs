//! A data store in memory that fails where a test says, an import in its middle.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use peerstore::memory::MemoryData;
use peerstore::{
    AppBatch, AppStats, ApplicationDataStorage, DataImport, DataRead, DataView, Durability, Error,
    KeyRange, Keyspace, Result, Visit,
};

/// Fails the change that is counted down to 0, and every one behind it: as if the process had died.
pub struct Flaky {
    pub inner: Arc<MemoryData>,
    left: Arc<AtomicU64>,
}

impl Flaky {
    pub fn new(inner: &Arc<MemoryData>, changes: u64) -> Self {
        Flaky {
            inner: Arc::clone(inner),
            left: Arc::new(AtomicU64::new(changes)),
        }
    }
}

fn take(left: &AtomicU64) -> Result<()> {
    let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    taken.map(|_| ()).map_err(|_| Error::DiskFull {
        op: "write",
        path: "(test)".into(),
    })
}

impl DataRead for Flaky {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.inner.get(keyspace, key)
    }

    fn multi_get(&self, keyspace: Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        self.inner.multi_get(keyspace, keys)
    }

    fn scan(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.inner.scan(keyspace, range, visit)
    }

    fn scan_back(&self, keyspace: Keyspace, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        self.inner.scan_back(keyspace, range, visit)
    }
}

impl ApplicationDataStorage for Flaky {
    fn write(&self, batch: &AppBatch, durability: Durability) -> Result<()> {
        take(&self.left)?;
        self.inner.write(batch, durability)
    }

    fn view(&self) -> Result<Box<dyn DataView>> {
        self.inner.view()
    }

    fn begin_import(&self, range: &KeyRange) -> Result<Box<dyn DataImport>> {
        Ok(Box::new(FlakyImport {
            import: self.inner.begin_import(range)?,
            inner: Arc::clone(&self.inner),
            range: range.clone(),
            left: Arc::clone(&self.left),
        }))
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn stats(&self) -> AppStats {
        self.inner.stats()
    }
}

struct FlakyImport {
    import: Box<dyn DataImport>,
    inner: Arc<MemoryData>,
    range: KeyRange,
    left: Arc<AtomicU64>,
}

impl DataImport for FlakyImport {
    fn put(&mut self, keyspace: Keyspace, key: &[u8], value: &[u8]) -> Result<()> {
        self.import.put(keyspace, key, value)
    }

    /// A failure leaves the range cleared, which is as much as the seam promises.
    fn finish(self: Box<Self>) -> Result<()> {
        if let Err(error) = take(&self.left) {
            let mut batch = AppBatch::new();
            for keyspace in Keyspace::APPLICATION {
                batch.delete_range(keyspace, &self.range);
            }
            self.inner.write(&batch, Durability::Synced)?;
            return Err(error);
        }
        self.import.finish()
    }
}
