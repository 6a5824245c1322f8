//! A file system whose directories are synced one at a time, and never again after a failure. Uses: fs,
//! error.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{File, FileLock, FileSystem};
use crate::error::{Error, Result};

/// For a store whose threads make names in one directory. A sync that fails may have dropped what another
/// thread had renamed there, and the system tells one of the two only: the other's sync succeeds, and
/// something would be counted as durable that is not. So they take turns, and after a failure nobody's
/// succeeds until the store is opened again.
pub(crate) struct FinalSyncs {
    inner: Arc<dyn FileSystem>,
    /// The first failure. Held through a sync: those of a directory wait for each other anyway.
    failure: Mutex<Option<String>>,
}

impl FinalSyncs {
    pub fn over(inner: Arc<dyn FileSystem>) -> Arc<dyn FileSystem> {
        Arc::new(FinalSyncs {
            inner,
            failure: Mutex::default(),
        })
    }
}

impl FileSystem for FinalSyncs {
    fn sync_dir(&self, path: &Path) -> Result<()> {
        let mut failure = (self.failure.lock()).unwrap_or_else(PoisonError::into_inner);
        if let Some(cause) = &*failure {
            return Err(Error::Poisoned {
                path: path.to_path_buf(),
                cause: cause.clone(),
            });
        }
        let synced = self.inner.sync_dir(path);
        *failure = synced.as_ref().err().map(Error::to_string);
        synced
    }

    fn create(&self, path: &Path) -> Result<Box<dyn File>> {
        self.inner.create(path)
    }

    fn open(&self, path: &Path) -> Result<Box<dyn File>> {
        self.inner.open(path)
    }

    fn open_for_write(&self, path: &Path) -> Result<Box<dyn File>> {
        self.inner.open_for_write(path)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemFs;

    #[test]
    fn after_a_failed_sync_of_a_directory_no_other_succeeds() -> Result<()> {
        let disk = MemFs::new();
        let fs = FinalSyncs::over(Arc::new(disk.clone()));
        let dir = Path::new("dir");
        fs.create_dir_all(dir)?;
        fs.create(&dir.join("a"))?;
        disk.fail_at(disk.operations(), std::io::ErrorKind::Other);
        assert!(matches!(fs.sync_dir(dir), Err(Error::Io { .. })));
        fs.create(&dir.join("b"))?;
        assert!(matches!(fs.sync_dir(dir), Err(Error::Poisoned { .. })));
        Ok(())
    }
}
