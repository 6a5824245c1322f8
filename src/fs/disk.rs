//! The operating system's file system. Uses: fs, error.

use std::ffi::CString;
use std::fs::{self, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{File, FileLock, FileSystem};
use crate::error::{Error, Result};

/// Real files. A symbolic link is never followed in the last part of a path.
///
/// ```
/// use peerstore::{DiskFs, FileSystem as _};
/// let dir = std::env::temp_dir();
/// assert!(DiskFs.exists(&dir)?);
/// # Ok::<(), peerstore::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFs;

impl FileSystem for DiskFs {
    fn create(&self, path: &Path) -> Result<Box<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        open_with(&mut options, "create", path)
    }

    fn open(&self, path: &Path) -> Result<Box<dyn File>> {
        open_with(OpenOptions::new().read(true), "open", path)
    }

    fn open_for_write(&self, path: &Path) -> Result<Box<dyn File>> {
        open_with(OpenOptions::new().read(true).write(true), "open", path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(|e| Error::io("rename", from, e))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(|e| Error::io("remove", path, e))
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        let exists = |dir: &Path| dir.as_os_str().is_empty() || dir.is_dir();
        let missing: Vec<&Path> = path.ancestors().take_while(|dir| !exists(dir)).collect();
        // A process that was killed between making a directory and syncing its parent leaves it
        // undurable. It makes them from the top, so only the deepest that exists can be such a one.
        if let Some(parent) = path.ancestors().nth(missing.len()).and_then(Path::parent) {
            match self.sync_dir(parent) {
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {}
                other => other?,
            }
        }
        for dir in missing.into_iter().rev() {
            match fs::create_dir(dir) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists && dir.is_dir() => {}
                other => other.map_err(|e| Error::io("create directory", dir, e))?,
            }
            if let Some(parent) = dir.parent() {
                self.sync_dir(parent)?;
            }
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        // The parent of a relative name is the empty path, which cannot be opened.
        let open = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        fs::File::open(open)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| Error::io("sync directory", path, e))
    }

    fn list(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let failed = |e| Error::io("list", path, e);
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            names.push(PathBuf::from(entry.map_err(failed)?.file_name()));
        }
        names.sort();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        match fs::symlink_metadata(path) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io("look up", path, e)),
        }
    }

    fn free_bytes(&self, path: &Path) -> Result<Option<u64>> {
        let name = CString::new(path.as_os_str().as_bytes());
        let name = name.map_err(|e| Error::io("statvfs", path, e.into()))?;
        let mut stat = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: the name ends with a zero byte and `stat` has room for the answer; both outlive the call.
        let failed = unsafe { libc::statvfs(name.as_ptr(), stat.as_mut_ptr()) } != 0;
        if failed {
            return Err(Error::io("statvfs", path, std::io::Error::last_os_error()));
        }
        // SAFETY: zeroes are a valid value of it, and the call has filled it in.
        let stat = unsafe { stat.assume_init() };
        // What is reserved for the superuser does not count.
        #[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
        let free = (stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64);
        Ok(Some(free))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.custom_flags(libc::O_NOFOLLOW);
        let file = (options.open(path)).map_err(|e| Error::io("lock", path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(DiskLock { _file: file })),
            Err(TryLockError::WouldBlock) => Err(Error::Locked {
                path: path.to_path_buf(),
            }),
            Err(TryLockError::Error(e)) => Err(Error::io("lock", path, e)),
        }
    }
}

fn open_with(options: &mut OpenOptions, op: &'static str, path: &Path) -> Result<Box<dyn File>> {
    let opened = options.custom_flags(libc::O_NOFOLLOW).open(path);
    Ok(Box::new(DiskFile {
        file: opened.map_err(|e| Error::io(op, path, e))?,
        path: path.to_path_buf(),
    }))
}

/// An open file and its path, for its errors.
struct DiskFile {
    file: fs::File,
    path: PathBuf,
}

impl File for DiskFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        (self.file.read_exact_at(buffer, offset)).map_err(|e| Error::io("read", &self.path, e))
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> Result<()> {
        (self.file.write_all_at(data, offset)).map_err(|e| Error::io("write", &self.path, e))
    }

    #[cfg(target_os = "linux")]
    fn reserve(&self, bytes: u64) -> Result<bool> {
        use std::os::fd::AsRawFd as _;
        let failed = |e| Error::io("reserve", &self.path, e);
        let length = i64::try_from(bytes).map_err(|_| failed(ErrorKind::FileTooLarge.into()))?;
        loop {
            // SAFETY: the descriptor is open as long as the file is, and no memory is handed over.
            if unsafe { libc::fallocate(self.file.as_raw_fd(), 0, 0, length) } == 0 {
                return Ok(true);
            }
            let error = std::io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Ok(false),
                _ => return Err(failed(error)),
            }
        }
    }

    #[cfg(target_os = "linux")]
    fn write_back(&self, range: Range<u64>) -> Result<()> {
        use std::os::fd::AsRawFd as _;
        let failed = |e| Error::io("write back", &self.path, e);
        if range.is_empty() {
            // No bytes at all would mean all of them.
            return Ok(());
        }
        let too_far = |_| failed(ErrorKind::InvalidInput.into());
        let start = i64::try_from(range.start).map_err(too_far)?;
        let bytes = i64::try_from(range.end - range.start).map_err(too_far)?;
        let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE
            | libc::SYNC_FILE_RANGE_WRITE
            | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        loop {
            // SAFETY: the descriptor is open as long as the file is, and no memory is handed over.
            if unsafe { libc::sync_file_range(self.file.as_raw_fd(), start, bytes, all) } == 0 {
                return Ok(());
            }
            let error = std::io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ESPIPE) => return self.sync(),
                _ => return Err(failed(error)),
            }
        }
    }

    fn length(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        Ok(metadata
            .map_err(|e| Error::io("measure", &self.path, e))?
            .len())
    }

    fn sync(&self) -> Result<()> {
        (self.file.sync_data()).map_err(|e| Error::io("sync", &self.path, e))
    }
}

/// The kernel lets go of the lock when the file is closed, also that of a dead process.
struct DiskLock {
    _file: fs::File,
}

impl FileLock for DiskLock {}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of<T>(result: Result<T>) -> ErrorKind {
        match result {
            Err(Error::Io { source, .. }) => source.kind(),
            Err(other) => panic!("expected an I/O error, got {other}"),
            Ok(_) => panic!("expected an I/O error"),
        }
    }

    fn is_loop<T>(result: Result<T>) -> bool {
        matches!(result, Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::ELOOP))
    }

    #[test]
    fn bytes_are_read_back_from_where_they_were_written() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        let file = DiskFs.create(&path)?;
        file.write_all_at(b"world", 6)?;
        file.write_all_at(b"hello ", 0)?;
        file.sync()?;
        drop(file);
        let file = DiskFs.open(&path)?;
        assert_eq!(file.length()?, 11);
        let mut bytes = [0; 11];
        file.read_exact_at(&mut bytes, 0)?;
        assert_eq!(&bytes, b"hello world");
        let past = file.read_exact_at(&mut bytes, 1);
        assert_eq!(kind_of(past), ErrorKind::UnexpectedEof);
        Ok(())
    }

    #[test]
    fn reserved_space_reads_as_zeroes_and_what_is_there_stays() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = DiskFs.create(&dir.path().join("file"))?;
        file.write_all_at(b"kept", 0)?;
        if file.reserve(1 << 16)? {
            assert_eq!(file.length()?, 1 << 16);
            let mut bytes = [1; 8];
            file.read_exact_at(&mut bytes, 0)?;
            assert_eq!(&bytes, b"kept\0\0\0\0");
        }
        Ok(())
    }

    #[test]
    fn what_is_written_back_is_what_was_written() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        let file = DiskFs.create(&path)?;
        file.write_all_at(&[7; 10_000], 0)?;
        file.write_back(0..8_192)?;
        // What is not there is no error, and neither is nothing.
        file.write_back(8_192..1 << 20)?;
        file.write_back(5..5)?;
        assert_eq!(file.length()?, 10_000);
        let mut bytes = [0; 10_000];
        file.read_exact_at(&mut bytes, 0)?;
        assert_eq!(bytes, [7; 10_000]);
        let beyond = file.write_back(u64::MAX - 1..u64::MAX);
        assert_eq!(kind_of(beyond), ErrorKind::InvalidInput);
        Ok(())
    }

    #[test]
    fn create_refuses_a_name_that_is_taken() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        DiskFs.create(&path)?.write_all_at(b"kept", 0)?;
        assert_eq!(kind_of(DiskFs.create(&path)), ErrorKind::AlreadyExists);
        assert_eq!(DiskFs.open(&path)?.length()?, 4);
        Ok(())
    }

    #[test]
    fn symbolic_links_are_refused() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        DiskFs.create(&target)?;
        std::os::unix::fs::symlink(&target, &link).expect("a symbolic link");
        assert!(is_loop(DiskFs.open(&link)) && is_loop(DiskFs.open_for_write(&link)));
        assert_eq!(kind_of(DiskFs.create(&link)), ErrorKind::AlreadyExists);
        assert!(is_loop(DiskFs.lock(&link)));
        Ok(())
    }

    #[test]
    fn a_lock_has_one_owner_at_a_time() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("LOCK");
        let held = DiskFs.lock(&path)?;
        assert!(matches!(DiskFs.lock(&path), Err(Error::Locked { .. })));
        drop(held);
        DiskFs.lock(&path)?;
        Ok(())
    }

    #[test]
    fn directories_are_made_with_those_above_them() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let deep = dir.path().join("a/b/c");
        DiskFs.create_dir_all(&deep)?;
        DiskFs.create_dir_all(&deep)?;
        DiskFs.create(&deep.join("2"))?;
        DiskFs.create(&deep.join("1"))?;
        assert_eq!(
            DiskFs.list(&deep)?,
            [PathBuf::from("1"), PathBuf::from("2")]
        );
        DiskFs.rename(&deep.join("2"), &deep.join("1"))?;
        assert!(!DiskFs.exists(&deep.join("2"))? && DiskFs.exists(&deep.join("1"))?);
        DiskFs.remove(&deep.join("1"))?;
        assert_eq!(kind_of(DiskFs.remove(&deep.join("1"))), ErrorKind::NotFound);
        DiskFs.sync_dir(&deep)
    }

    #[test]
    fn a_file_in_the_way_of_a_directory_is_an_error() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        DiskFs.create(&dir.path().join("file"))?;
        let in_the_way = DiskFs.create_dir_all(&dir.path().join("file"));
        assert_eq!(kind_of(in_the_way), ErrorKind::AlreadyExists);
        Ok(())
    }
}
