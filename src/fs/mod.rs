//! The seam to the file system, so that a test can put a failure or a power cut at every operation,
//! and the real one, [`DiskFs`]. Uses: error.

mod disk;

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::Result;

pub use disk::DiskFs;

/// The operations on files that this crate's own formats need.
///
/// # Contract
/// - What [`File::write_all_at`] wrote is durable after that file's [`File::sync`], no sooner.
/// - A created, renamed or removed name is durable after [`FileSystem::sync_dir`] of its directory.
/// - Errors are `DiskFull` or `Io`, with the operation and the path.
pub trait FileSystem: Send + Sync {
    /// Creates a file that must not exist yet, for reading and writing.
    ///
    /// # Errors
    /// `Io` of kind `AlreadyExists` if it does.
    fn create(&self, path: &Path) -> Result<Box<dyn File>>;

    /// Opens a file that must exist, for reading. A symbolic link is refused.
    ///
    /// # Errors
    /// `Io` of kind `NotFound` if it does not exist.
    fn open(&self, path: &Path) -> Result<Box<dyn File>>;

    /// Opens a file that must exist, for reading and writing. A symbolic link is refused.
    ///
    /// # Errors
    /// `Io` of kind `NotFound` if it does not exist.
    fn open_for_write(&self, path: &Path) -> Result<Box<dyn File>>;

    /// Gives a file another name, atomically replacing what had it.
    ///
    /// # Errors
    /// `Io`.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// `Io` of kind `NotFound` if it does not exist.
    fn remove(&self, path: &Path) -> Result<()>;

    /// Creates a directory and those above it that are missing, each made durable in its parent.
    ///
    /// # Errors
    /// `Io`.
    fn create_dir_all(&self, path: &Path) -> Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// `Io`. It is not retried: after an error the names may or may not be durable.
    fn sync_dir(&self, path: &Path) -> Result<()>;

    /// The names in a directory, sorted, without the directory's own path.
    ///
    /// # Errors
    /// `Io` of kind `NotFound` if it does not exist.
    fn list(&self, path: &Path) -> Result<Vec<PathBuf>>;

    /// Whether something has this name.
    ///
    /// # Errors
    /// `Io` if that cannot be told.
    fn exists(&self, path: &Path) -> Result<bool>;

    /// How many bytes can still be written where `path` is, or nothing if nobody can tell.
    ///
    /// # Errors
    /// `Io`.
    fn free_bytes(&self, path: &Path) -> Result<Option<u64>> {
        let _ = path;
        Ok(None)
    }

    /// Takes the exclusive lock of the file `path`, creating it, until the guard is dropped. A lock
    /// left by a dead process does not block.
    ///
    /// # Errors
    /// `Locked` if somebody has it, at once.
    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>>;
}

/// An open file, read and written at offsets in bytes.
pub trait File: Send + Sync {
    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// `Io` of kind `UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// Writes all of `data` from `offset` on, making the file longer where needed.
    ///
    /// # Errors
    /// `DiskFull` or `Io`; a part may have been written.
    fn write_all_at(&self, data: &[u8], offset: u64) -> Result<()>;

    /// Makes the file `bytes` long, with space of its own on the disk for all of it, in much less time than
    /// writing it takes. What was not written reads as zeroes. False, and nothing done, where the system has
    /// no such call; write zeroes then.
    ///
    /// # Errors
    /// `DiskFull` or `Io`.
    fn reserve(&self, bytes: u64) -> Result<bool> {
        let _ = bytes;
        Ok(false)
    }

    /// Hands what was written within `range` to the disk, and waits until the disk has taken it, so that no
    /// later [`File::sync`], of this file or another, waits for it too. Nothing is durable by that: the disk
    /// may hold it in a cache, and the file system may not have noted where it is.
    ///
    /// # Errors
    /// `DiskFull` or `Io`, to be treated as those of a sync are.
    fn write_back(&self, range: Range<u64>) -> Result<()> {
        let _ = range;
        self.sync()
    }

    /// The length in bytes.
    ///
    /// # Errors
    /// `Io`.
    fn length(&self) -> Result<u64>;

    /// Makes the file's bytes and length durable (fdatasync). Never call it again after an error: the
    /// kernel may have dropped the bytes and would report success.
    ///
    /// # Errors
    /// `Io`.
    fn sync(&self) -> Result<()>;
}

/// A held lock. Dropping it lets go.
pub trait FileLock: Send + Sync {}
