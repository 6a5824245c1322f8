//! Snapshots in memory, as the files that they would be. Uses: snapshot_format, error, the seam. Never
//! does I/O.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::snapshot_format::{
    Decoder, Encoder, Sink, SinkStream, Stamp, check_limit, free_key, report,
};
use crate::snapshot_store::{
    Compression, RaftSnapshotStorage, SnapshotFile, SnapshotInfo, SnapshotKey, SnapshotMeta,
    SnapshotReader, SnapshotReceiver, SnapshotReport, SnapshotTransfer, SnapshotWriter,
};
use crate::types::RegionId;

/// What its errors call it.
const PLACE: &str = "memory";
/// The content of a block.
const BLOCK_BYTES: u32 = 64 << 10;
/// The largest file that is received unless another limit is given.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// The snapshots of one node, in memory. Clones share them.
#[derive(Clone)]
pub struct MemorySnapshots {
    files: Arc<Mutex<Files>>,
    arrivals: Arc<Mutex<Arrivals>>,
    file_bytes_max: u64,
}

type Files = BTreeMap<SnapshotKey, Stored>;

/// What has come of files whose transfer broke off; nothing while one is just coming.
type Arrivals = BTreeMap<(SnapshotKey, u64), Option<Vec<u8>>>;

struct Stored {
    info: SnapshotInfo,
    /// Its readers hold it too.
    bytes: Arc<[u8]>,
}

impl Default for MemorySnapshots {
    fn default() -> Self {
        MemorySnapshots::with_file_bytes_max(FILE_BYTES_MAX)
    }
}

impl MemorySnapshots {
    /// Without any. Files of up to 1 GiB are received.
    pub fn new() -> Self {
        MemorySnapshots::default()
    }

    /// Without any, receiving files of up to `file_bytes_max` bytes.
    pub fn with_file_bytes_max(file_bytes_max: u64) -> Self {
        MemorySnapshots {
            files: Arc::default(),
            arrivals: Arc::default(),
            file_bytes_max,
        }
    }

    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        // Each change of the map is one call: a panic elsewhere leaves it whole.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, key: &SnapshotKey) -> Result<Cursor<Arc<[u8]>>> {
        let files = self.files();
        let stored = files.get(key).ok_or_else(|| Error::SnapshotNotFound {
            name: key.to_string(),
            path: PathBuf::from(PLACE),
        })?;
        Ok(Cursor::new(Arc::clone(&stored.bytes)))
    }

    fn insert(&self, mut info: SnapshotInfo, bytes: Arc<[u8]>) -> Result<SnapshotInfo> {
        let mut files = self.files();
        info.key = free_key(&files, &info.key)?;
        let stored = Stored {
            info: info.clone(),
            bytes,
        };
        files.insert(info.key, stored);
        Ok(info)
    }
}

impl RaftSnapshotStorage for MemorySnapshots {
    fn create(&self, meta: SnapshotMeta) -> Result<Box<dyn SnapshotWriter>> {
        let staged = Staged::new(self);
        let encoder = Encoder::new(staged, meta, Compression::None, BLOCK_BYTES, Stamp::new());
        Ok(Box::new(SinkStream::new(encoder?, Path::new(PLACE))))
    }

    fn open(&self, key: &SnapshotKey) -> Result<Box<dyn SnapshotReader>> {
        let file = Box::new(self.file(key)?);
        Ok(Box::new(Decoder::of_key(file, Path::new(PLACE), key)?))
    }

    fn send(&self, key: &SnapshotKey) -> Result<Box<dyn SnapshotFile>> {
        Ok(Box::new(self.file(key)?))
    }

    fn receive(&self) -> Result<Box<dyn SnapshotReceiver>> {
        let received = Received(Staged::new(self));
        Ok(Box::new(SinkStream::new(received, Path::new(PLACE))))
    }

    fn resume(&self, transfer: &SnapshotTransfer) -> Result<Box<dyn SnapshotReceiver>> {
        let more = usize::try_from(transfer.file_bytes).unwrap_or(usize::MAX);
        check_limit(Path::new(PLACE), 0, more, self.file_bytes_max)?;
        let id = (transfer.key, transfer.file_id);
        let mut arrivals = self.arrivals();
        if arrivals.get(&id).is_some_and(Option::is_none) {
            let name = transfer.key.to_string();
            return Err(Error::SnapshotInUse { name });
        }
        let bytes = arrivals.insert(id, None).flatten().unwrap_or_default();
        let region = transfer.key.region;
        arrivals.retain(|(key, _), bytes| key.region != region || bytes.is_none());
        drop(arrivals);
        let mut staged = Staged::new(self);
        staged.bytes = bytes;
        let resumed = Resumed {
            staged,
            transfer: *transfer,
            keeps: true,
        };
        Ok(Box::new(SinkStream::new(resumed, Path::new(PLACE))))
    }

    fn list(&self, region: Option<RegionId>) -> Result<Vec<SnapshotInfo>> {
        let listed = |stored: &&Stored| region.is_none_or(|r| r == stored.info.key.region);
        Ok((self
            .files()
            .values()
            .filter(listed)
            .map(|stored| stored.info.clone()))
        .collect())
    }

    fn delete(&self, key: &SnapshotKey) -> Result<()> {
        let mut files = self.files();
        // Readers take their share under the same mutex: nobody can come in between.
        if files
            .get(key)
            .is_some_and(|stored| Arc::strong_count(&stored.bytes) > 1)
        {
            let name = key.to_string();
            return Err(Error::SnapshotInUse { name });
        }
        files.remove(key);
        Ok(())
    }

    fn verify(&self, key: &SnapshotKey) -> Result<SnapshotReport> {
        report(Box::new(self.file(key)?), Path::new(PLACE), key)
    }
}

/// A snapshot that is not finished yet.
struct Staged {
    store: MemorySnapshots,
    bytes: Vec<u8>,
}

impl Staged {
    fn new(store: &MemorySnapshots) -> Staged {
        Staged {
            store: store.clone(),
            bytes: Vec::new(),
        }
    }
}

impl Sink for Staged {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.put(bytes)
    }
}

impl SnapshotWriter for SinkStream<Encoder<Staged>> {
    fn count_entries(&mut self, count: u64) {
        if let Some(encoder) = self.sink_mut() {
            encoder.count_entries(count);
        }
    }

    fn commit(self: Box<Self>) -> Result<SnapshotInfo> {
        let (staged, info) = self.into_inner()?.finish()?;
        staged.store.insert(info, staged.bytes.into())
    }
}

/// A file that comes from another store.
struct Received(Staged);

impl Sink for Received {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let length = self.0.bytes.len() as u64;
        let limit = self.0.store.file_bytes_max;
        check_limit(Path::new(PLACE), length, bytes.len(), limit)?;
        self.0.put(bytes)
    }
}

impl SnapshotReceiver for SinkStream<Received> {
    fn offset(&self) -> u64 {
        self.sink()
            .map_or(0, |Received(staged)| staged.bytes.len() as u64)
    }

    fn commit(self: Box<Self>) -> Result<SnapshotInfo> {
        let Received(staged) = self.into_inner()?;
        staged.take_in()
    }
}

impl Staged {
    /// Checks all of it and puts it into the store, unless the same content is there already.
    fn take_in(self) -> Result<SnapshotInfo> {
        let bytes: Arc<[u8]> = self.bytes.into();
        let file = Box::new(Cursor::new(Arc::clone(&bytes)));
        let info = Decoder::new(file, Path::new(PLACE))?.check()?;
        let twins = self.store.list(Some(info.key.region))?;
        let same = |twin: &SnapshotInfo| twin.digest == info.digest && twin.meta == info.meta;
        match twins.into_iter().find(same) {
            Some(twin) => Ok(twin),
            None => self.store.insert(info, bytes),
        }
    }
}

/// A file that comes from another store, and of which a part may have come before.
struct Resumed {
    staged: Staged,
    transfer: SnapshotTransfer,
    /// Whether what has come is kept for the next try.
    keeps: bool,
}

impl Sink for Resumed {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let length = self.staged.bytes.len() as u64;
        let limit = self.transfer.file_bytes;
        let written = check_limit(Path::new(PLACE), length, bytes.len(), limit)
            .and_then(|()| self.staged.put(bytes));
        self.keeps = written.is_ok();
        written
    }
}

impl Drop for Resumed {
    fn drop(&mut self) {
        let id = (self.transfer.key, self.transfer.file_id);
        let mut arrivals = self.staged.store.arrivals();
        match self.keeps {
            true => arrivals.insert(id, Some(std::mem::take(&mut self.staged.bytes))),
            false => arrivals.remove(&id),
        };
    }
}

impl SnapshotReceiver for SinkStream<Resumed> {
    fn offset(&self) -> u64 {
        self.sink()
            .map_or(0, |resumed| resumed.staged.bytes.len() as u64)
    }

    fn commit(self: Box<Self>) -> Result<SnapshotInfo> {
        let mut resumed = self.into_inner()?;
        let (got, expected) = (resumed.staged.bytes.len(), resumed.transfer.file_bytes);
        if (got as u64) < expected {
            let detail = format!("{got} bytes have come, expected {expected}");
            let (region, key) = (resumed.transfer.key.region, resumed.transfer.key);
            let what = format!("snapshot file {key}");
            return Err(Error::corruption(Some(region), what, detail));
        }
        resumed.keeps = false;
        let mut whole = Staged::new(&resumed.staged.store);
        whole.bytes = std::mem::take(&mut resumed.staged.bytes);
        whole.take_in()
    }
}
