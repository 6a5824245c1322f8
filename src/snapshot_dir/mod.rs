//! Snapshots as compressed, checksummed files in one directory. Uses: fs, snapshot_format, error, the
//! seam. Never reads a snapshot into memory whole.
//!
//! A snapshot is written to `<number>.tmp`, fsynced, renamed to `<region>-<term>-<index>-<sequence>.snap`,
//! and the directory fsynced. What comes from another store and can be gone on with later is
//! `<region>-<term>-<index>-<sequence>-<file id>-<begun>.part` until it is whole. Names are built from
//! integers only, and names that were not built so are left alone. What is there is known from memory:
//! no lock is held while a file is read or written, only while the directory is synced.

mod index;
mod partial;
mod staging;

use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::fs::{File, FileLock, FileSystem};
use crate::snapshot_format::{BLOCK_BYTES_MAX, Decoder, Encoder, SinkStream, Stamp, report};
use crate::snapshot_store::{
    RaftSnapshotStorage, SnapshotFile, SnapshotId, SnapshotInfo, SnapshotKey, SnapshotMeta,
    SnapshotReader, SnapshotReceiver, SnapshotReport, SnapshotTransfer, SnapshotWriter,
};
use crate::types::RegionId;

use index::{Index, Pin};
use partial::{Arrivals, Partial};
use staging::{Received, Staged};

pub use crate::snapshot_store::{Codec, Compression};

/// What the names of finished snapshots end with.
const SNAPSHOT_SUFFIX: &str = ".snap";
/// What the names of unfinished ones end with.
const STAGED_SUFFIX: &str = ".tmp";
/// The file that an open store has locked.
const LOCK_NAME: &str = "LOCK";

/// How snapshots are written and taken in. Reading does not depend on it: each file says how it is
/// compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// How the content is compressed.
    pub compression: Compression,
    /// The content of one block: what is compressed and checked at once. From 1 to 1,048,576, the
    /// default. A writer and a reader take twice as much, and what the compressor needs.
    pub block_bytes: u32,
    /// The largest file that is received.
    pub file_bytes_max: u64,
    /// How long what has come of a file that broke off is kept, since it was begun. Looked at when the
    /// store is opened and when a file begins to come.
    pub partial_age_max: Duration,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        SnapshotOptions {
            compression: Compression::default(),
            block_bytes: BLOCK_BYTES_MAX,
            file_bytes_max: u64::MAX,
            partial_age_max: Duration::from_secs(24 * 3600),
        }
    }
}

impl SnapshotOptions {
    fn check(&self) -> Result<()> {
        let refuse = |message| {
            Err(Error::Config {
                path: None,
                message,
            })
        };
        if !(1..=BLOCK_BYTES_MAX).contains(&self.block_bytes) {
            let got = self.block_bytes;
            return refuse(format!(
                "block_bytes is {got}, expected 1 to {BLOCK_BYTES_MAX}"
            ));
        }
        let level = self.compression.check();
        level.or_else(|message| refuse(format!("compression level: {message}")))
    }
}

/// The snapshots of one node, in one directory.
///
/// ```
/// use std::io::{Read as _, Write as _};
/// use std::sync::Arc;
/// use peerstore::memory::MemFs;
/// use peerstore::snapshot_dir::{SnapshotDir, SnapshotOptions};
/// use peerstore::{LogPosition, RaftSnapshotStorage as _, Region, SnapshotMeta};
///
/// let fs = Arc::new(MemFs::new()); // or DiskFs
/// let store = SnapshotDir::open(fs, "snapshots", SnapshotOptions::default())?;
/// let region = Region::single(1, 1);
/// let conf_state = region.conf_state();
/// let position = LogPosition::new(6, 42);
/// let mut writer = store.create(SnapshotMeta { region, position, conf_state })?;
/// writer.write_all(b"everything")?;
/// let info = writer.commit()?;
/// assert_eq!(info.key.to_string(), "1-6-42-0");
/// let mut content = String::new();
/// store.open(&info.key)?.read_to_string(&mut content)?;
/// assert_eq!(content, "everything");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SnapshotDir {
    shared: Arc<Shared>,
}

/// What the store's readers and writers share. The lock is held until the last of them is gone.
struct Shared {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    options: SnapshotOptions,
    index: Index,
    arrivals: Arrivals,
    next_staged: AtomicU64,
    /// Held through the syncs of the directory.
    naming: Mutex<()>,
    _lock: Box<dyn FileLock>,
}

impl SnapshotDir {
    /// Opens the store in `dir`, which is created if it is missing. Unfinished snapshots are removed,
    /// but for what has come of a file that can be gone on with; of finished ones head and foot are read.
    ///
    /// # Errors
    /// `Config` for options that make no sense, `Locked` if the store is open, else `DiskFull` or
    /// `Io`. A snapshot that is damaged is no error here but where it is used.
    pub fn open(
        fs: Arc<dyn FileSystem>,
        dir: impl Into<PathBuf>,
        options: SnapshotOptions,
    ) -> Result<SnapshotDir> {
        options.check()?;
        let dir = dir.into();
        fs.create_dir_all(&dir)?;
        let lock = fs.lock(&dir.join(LOCK_NAME))?;
        let shared = Shared {
            fs,
            dir,
            options,
            index: Index::default(),
            arrivals: Arrivals::default(),
            next_staged: AtomicU64::new(0),
            naming: Mutex::default(),
            _lock: lock,
        };
        let now = SystemTime::now();
        for name in shared.fs.list(&shared.dir)? {
            let Some(name) = name.to_str() else { continue };
            if let Some(key) = parse_snapshot_name(name) {
                shared.index.insert(key, shared.inspect(&key));
            } else if is_staged_name(name)
                || Partial::of_name(name).is_some_and(|partial| shared.is_expired(&partial, now))
            {
                shared.fs.remove(&shared.dir.join(name))?;
            }
        }
        // A process that was killed before its last sync has left names that are not durable yet.
        shared.fs.sync_dir(&shared.dir)?;
        Ok(SnapshotDir {
            shared: Arc::new(shared),
        })
    }

    /// Opens a file of the store, which cannot be removed while the pin is there.
    fn pinned(&self, key: &SnapshotKey) -> Result<(Pin, FileCursor)> {
        let pin = Pin::new(&self.shared, key).ok_or_else(|| self.shared.not_found(key))?;
        Ok((pin, self.shared.cursor(key)?))
    }
}

impl Shared {
    /// Gives the file at `path` a new one, durable on return. One at a time: a sync that fails may drop
    /// every name that was given since the last, and only who called it is told.
    fn rename(&self, path: &mut PathBuf, to: PathBuf) -> Result<()> {
        let _turn = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        self.fs.rename(path, &to)?;
        *path = to;
        self.fs.sync_dir(&self.dir)
    }

    fn sync_names(&self) -> Result<()> {
        let _turn = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        self.fs.sync_dir(&self.dir)
    }

    fn path(&self, key: &SnapshotKey) -> PathBuf {
        self.dir.join(format!("{key}{SNAPSHOT_SUFFIX}"))
    }

    fn staged_path(&self) -> PathBuf {
        let number = self.next_staged.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("{number}{STAGED_SUFFIX}"))
    }

    /// Whether what has come of a file is kept no longer. A clock that was set back makes it young.
    fn is_expired(&self, partial: &Partial, now: SystemTime) -> bool {
        let begun = UNIX_EPOCH.checked_add(Duration::from_secs(partial.begun_s));
        begun
            .and_then(|begun| now.duration_since(begun).ok())
            .is_some_and(|age| age > self.options.partial_age_max)
    }

    fn not_found(&self, key: &SnapshotKey) -> Error {
        Error::SnapshotNotFound {
            name: key.to_string(),
            path: self.dir.clone(),
        }
    }

    fn cursor(&self, key: &SnapshotKey) -> Result<FileCursor> {
        match self.fs.open(&self.path(key)) {
            Ok(file) => FileCursor::new(file.into()),
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Err(self.not_found(key))
            }
            Err(error) => Err(error),
        }
    }

    fn decoder(&self, key: &SnapshotKey, file: FileCursor) -> Result<Decoder> {
        Decoder::of_key(Box::new(file), &self.path(key), key)
    }

    /// What head and foot say, or nothing, and a warning, if they cannot be read.
    fn inspect(&self, key: &SnapshotKey) -> Option<SnapshotInfo> {
        match (self.cursor(key)).and_then(|file| self.decoder(key, file)) {
            Ok(decoder) => Some(decoder.info().clone()),
            Err(error) => {
                tracing::warn!(snapshot = %key, %error, "left out of the list");
                None
            }
        }
    }
}

impl RaftSnapshotStorage for SnapshotDir {
    fn create(&self, meta: SnapshotMeta) -> Result<Box<dyn SnapshotWriter>> {
        let staged = Staged::new(&self.shared)?;
        let SnapshotOptions {
            compression,
            block_bytes,
            ..
        } = self.shared.options;
        let encoder = Encoder::new(staged, meta, compression, block_bytes, Stamp::new())?;
        Ok(Box::new(SinkStream::new(encoder, &self.shared.dir)))
    }

    fn open(&self, key: &SnapshotKey) -> Result<Box<dyn SnapshotReader>> {
        let (pin, file) = self.pinned(key)?;
        let decoder = self.shared.decoder(key, file)?;
        Ok(Box::new(Pinned {
            inner: decoder,
            _pin: pin,
        }))
    }

    fn send(&self, key: &SnapshotKey) -> Result<Box<dyn SnapshotFile>> {
        let (pin, file) = self.pinned(key)?;
        Ok(Box::new(Pinned {
            inner: file,
            _pin: pin,
        }))
    }

    fn receive(&self) -> Result<Box<dyn SnapshotReceiver>> {
        let received = Received(Staged::new(&self.shared)?);
        Ok(Box::new(SinkStream::new(received, &self.shared.dir)))
    }

    fn resume(&self, transfer: &SnapshotTransfer) -> Result<Box<dyn SnapshotReceiver>> {
        let resumed = partial::resume(&self.shared, transfer)?;
        Ok(Box::new(SinkStream::new(resumed, &self.shared.dir)))
    }

    fn list(&self, region: Option<RegionId>) -> Result<Vec<SnapshotInfo>> {
        Ok(self.shared.index.list(region))
    }

    fn delete(&self, key: &SnapshotKey) -> Result<()> {
        let Some(deletion) = self.shared.index.begin_delete(key)? else {
            return Ok(());
        };
        match self.shared.fs.remove(&self.shared.path(key)) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            other => other?,
        }
        deletion.removed();
        self.shared.sync_names()
    }

    fn verify(&self, key: &SnapshotKey) -> Result<SnapshotReport> {
        let (_pin, file) = self.pinned(key)?;
        report(Box::new(file), &self.shared.path(key), key)
    }
}

/// The numbers of a name of that many, with dashes between them, in front of `suffix`.
fn numbers_of<const N: usize>(name: &str, suffix: &str) -> Option<[u64; N]> {
    let numbers = name.strip_suffix(suffix)?.split('-').map(str::parse);
    let numbers: Vec<u64> = numbers.collect::<Result<_, _>>().ok()?;
    numbers.try_into().ok()
}

fn key_of([region, term, index, sequence]: [u64; 4]) -> SnapshotKey {
    SnapshotKey {
        region: RegionId(region),
        id: SnapshotId {
            term,
            index,
            sequence,
        },
    }
}

/// The key of a name that this store would give it, and of no other.
fn parse_snapshot_name(name: &str) -> Option<SnapshotKey> {
    let key = key_of(numbers_of(name, SNAPSHOT_SUFFIX)?);
    // A sign or a leading zero would parse too.
    (format!("{key}{SNAPSHOT_SUFFIX}") == name).then_some(key)
}

fn is_staged_name(name: &str) -> bool {
    let number = name.strip_suffix(STAGED_SUFFIX).map(str::parse::<u64>);
    matches!(number, Some(Ok(number)) if format!("{number}{STAGED_SUFFIX}") == name)
}

/// A file of known length as a stream.
struct FileCursor {
    file: Arc<dyn File>,
    length: u64,
    position: u64,
}

impl FileCursor {
    fn new(file: Arc<dyn File>) -> Result<FileCursor> {
        Ok(FileCursor {
            length: file.length()?,
            file,
            position: 0,
        })
    }
}

impl Read for FileCursor {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.length.saturating_sub(self.position);
        let count = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        self.file
            .read_exact_at(&mut buffer[..count], self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for FileCursor {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(delta) => self.length.checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position = position.ok_or(ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// A stream whose snapshot cannot be removed while it is there.
struct Pinned<T> {
    inner: T,
    _pin: Pin,
}

impl<T: Read> Read for Pinned<T> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.inner.read(buffer)
    }
}

impl<T: Seek> Seek for Pinned<T> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.inner.seek(to)
    }
}

impl<T: SnapshotReader> SnapshotReader for Pinned<T> {
    fn info(&self) -> &SnapshotInfo {
        self.inner.info()
    }
}

#[cfg(test)]
mod tests;
