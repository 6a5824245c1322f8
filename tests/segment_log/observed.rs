//! A file system that calls a test before each change, and can leave changes out. Uses: the seam.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use peerstore::memory::MemFs;
use peerstore::{File, FileLock, FileSystem, Result};

/// What is left out, to see the checks notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// No file is synced.
    Files,
    /// No directory is.
    Directories,
    /// Of the files only the checkpoints are.
    Segments,
    /// Of the files only the segments are.
    Checkpoints,
}

type Hook = Box<dyn FnMut(&'static str, &Path) + Send>;

/// Calls its hook before every change of the file system that it stands in front of.
#[derive(Clone)]
pub struct Observed {
    inner: MemFs,
    hook: Arc<Mutex<Hook>>,
    flaw: Option<Flaw>,
}

impl Observed {
    pub fn new(
        inner: &MemFs,
        flaw: Option<Flaw>,
        hook: impl FnMut(&'static str, &Path) + Send + 'static,
    ) -> Self {
        Observed {
            inner: inner.clone(),
            hook: Arc::new(Mutex::new(Box::new(hook))),
            flaw,
        }
    }

    fn before(&self, op: &'static str, path: &Path) {
        (self.hook.lock().expect("the hook has not panicked"))(op, path);
    }

    fn file(&self, path: &Path, inner: Box<dyn File>) -> Box<dyn File> {
        Box::new(ObservedFile {
            fs: self.clone(),
            path: path.to_path_buf(),
            inner,
        })
    }
}

impl FileSystem for Observed {
    fn create(&self, path: &Path) -> Result<Box<dyn File>> {
        self.before("create", path);
        Ok(self.file(path, self.inner.create(path)?))
    }
    fn open(&self, path: &Path) -> Result<Box<dyn File>> {
        self.inner.open(path)
    }
    fn open_for_write(&self, path: &Path) -> Result<Box<dyn File>> {
        Ok(self.file(path, self.inner.open_for_write(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.before("rename", from);
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> Result<()> {
        self.before("remove", path);
        self.inner.remove(path)
    }
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.before("create directory", path);
        self.inner.create_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.before("sync directory", path);
        match self.flaw {
            Some(Flaw::Directories) => Ok(()),
            _ => self.inner.sync_dir(path),
        }
    }
    fn list(&self, path: &Path) -> Result<Vec<PathBuf>> {
        self.inner.list(path)
    }
    fn exists(&self, path: &Path) -> Result<bool> {
        self.inner.exists(path)
    }
    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>> {
        self.inner.lock(path)
    }
}

struct ObservedFile {
    fs: Observed,
    path: PathBuf,
    inner: Box<dyn File>,
}

impl File for ObservedFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read_exact_at(buffer, offset)
    }
    fn write_all_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.fs.before("write", &self.path);
        self.inner.write_all_at(data, offset)
    }
    fn reserve(&self, bytes: u64) -> Result<bool> {
        self.fs.before("reserve", &self.path);
        self.inner.reserve(bytes)
    }
    fn length(&self) -> Result<u64> {
        self.inner.length()
    }
    fn sync(&self) -> Result<()> {
        self.fs.before("sync", &self.path);
        let is_segment = self.path.extension().is_some_and(|e| e == "seg");
        let left_out = match self.fs.flaw {
            Some(Flaw::Files) => true,
            Some(Flaw::Segments) => is_segment,
            Some(Flaw::Checkpoints) => !is_segment,
            Some(Flaw::Directories) | None => false,
        };
        if left_out { Ok(()) } else { self.inner.sync() }
    }
}
