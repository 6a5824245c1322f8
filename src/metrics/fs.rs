//! A file system that measures its fsyncs. Uses: fs.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use metrics::Histogram;

use super::{Scope, Stopwatch};
use crate::error::Result;
use crate::fs::{File, FileLock, FileSystem};

/// Another file system, whose fsyncs are measured from [`MeteredFs::begin`] on: whose they are may be
/// written in the very files. Those of directories are not, they are rare.
pub(crate) struct MeteredFs {
    inner: Arc<dyn FileSystem>,
    fsync: Arc<OnceLock<Histogram>>,
}

struct MeteredFile {
    inner: Box<dyn File>,
    fsync: Arc<OnceLock<Histogram>>,
}

impl MeteredFs {
    /// Will measure `inner`.
    pub fn wrap(inner: Arc<dyn FileSystem>) -> Arc<Self> {
        let fsync = Arc::default();
        Arc::new(MeteredFs { inner, fsync })
    }

    /// Measures from now on, for this part of the node.
    pub fn begin(&self, scope: &Scope, part: &'static str) {
        let fsync = scope.histogram("peerstore_fsync_seconds", part);
        self.fsync.set(fsync).ok();
    }

    fn file(&self, inner: Box<dyn File>) -> Box<dyn File> {
        let fsync = Arc::clone(&self.fsync);
        Box::new(MeteredFile { inner, fsync })
    }
}

impl FileSystem for MeteredFs {
    fn create(&self, path: &Path) -> Result<Box<dyn File>> {
        Ok(self.file(self.inner.create(path)?))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn File>> {
        // It is not synced.
        self.inner.open(path)
    }

    fn open_for_write(&self, path: &Path) -> Result<Box<dyn File>> {
        Ok(self.file(self.inner.open_for_write(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.inner.remove(path)
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.inner.create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.inner.sync_dir(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<PathBuf>> {
        self.inner.list(path)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.inner.exists(path)
    }

    fn free_bytes(&self, path: &Path) -> Result<Option<u64>> {
        self.inner.free_bytes(path)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>> {
        self.inner.lock(path)
    }
}

impl File for MeteredFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.inner.write_all_at(data, offset)
    }

    fn reserve(&self, bytes: u64) -> Result<bool> {
        self.inner.reserve(bytes)
    }

    fn write_back(&self, range: Range<u64>) -> Result<()> {
        self.inner.write_back(range)
    }

    fn length(&self) -> Result<u64> {
        self.inner.length()
    }

    fn sync(&self) -> Result<()> {
        let start = Stopwatch::start();
        let synced = self.inner.sync();
        if let Some(fsync) = self.fsync.get() {
            fsync.record(start.elapsed());
        }
        synced
    }
}
