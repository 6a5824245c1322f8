//! Snapshots in memory, as the files that they would be. Uses: snapshot_format, error, the seam. Never
//! does I/O.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::snapshot_format::{
    Compression, Decoder, Encoder, Sink, SinkStream, check_limit, free_key, random_identity,
    verdict,
};
use crate::snapshot_store::{
    RaftSnapshotStorage, SnapshotFile, SnapshotInfo, SnapshotKey, SnapshotMeta, SnapshotReader,
    SnapshotReceiver, SnapshotVerdict, SnapshotWriter,
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
    file_bytes_max: u64,
}

type Files = BTreeMap<SnapshotKey, Stored>;

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
            file_bytes_max,
        }
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
        let encoder = Encoder::new(
            staged,
            meta,
            Compression::None,
            BLOCK_BYTES,
            random_identity(),
        );
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

    fn verify(&self, key: &SnapshotKey) -> Result<SnapshotVerdict> {
        let file = Box::new(self.file(key)?);
        verdict(Decoder::of_key(file, Path::new(PLACE), key).and_then(Decoder::check))
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
    fn commit(self: Box<Self>) -> Result<SnapshotInfo> {
        let Received(staged) = self.into_inner()?;
        let bytes: Arc<[u8]> = staged.bytes.into();
        let file = Box::new(Cursor::new(Arc::clone(&bytes)));
        let info = Decoder::new(file, Path::new(PLACE))?.check()?;
        let twins = staged.store.list(Some(info.key.region))?;
        let same = |twin: &SnapshotInfo| twin.digest == info.digest && twin.meta == info.meta;
        match twins.into_iter().find(same) {
            Some(twin) => Ok(twin),
            None => staged.store.insert(info, bytes),
        }
    }
}
