//! Segments in reserve: written with zeroes or recycled, named and synced before they are needed, so
//! that a rotation does no more than take one. Uses: fs.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::format::{HEADER_BYTES, Header, Identity, SegmentId, Usage};
use super::segment::{Segment, file_name};
use crate::error::Result;
use crate::fs::FileSystem;

/// What is written at a time while a segment is made.
const CHUNK_BYTES: u64 = 1 << 20;
/// A file that one huge batch made larger than a segment, in percent, is not used again.
const OVERSIZE_PERCENT: u64 = 125;

/// The reserve.
pub(super) struct Pool {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    segment_bytes: u64,
    store: u64,
    /// Ready, ascending by number. Locked for a moment only.
    spares: Mutex<VecDeque<Segment>>,
    /// Locked while one is made, before `spares`.
    making: Mutex<Making>,
}

struct Making {
    next: SegmentId,
    /// Files that nothing needs any more, to be made segments again. Somebody may still be reading.
    unused: Vec<Arc<Segment>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is changed by single calls that do not panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub fn new(
        fs: Arc<dyn FileSystem>,
        dir: PathBuf,
        segment_bytes: u64,
        store: u64,
        next: SegmentId,
    ) -> Self {
        let making = Making {
            next,
            unused: Vec::new(),
        };
        Pool {
            fs,
            dir,
            segment_bytes,
            store,
            spares: Mutex::default(),
            making: Mutex::new(making),
        }
    }

    /// Adds a spare that was found at open; they come in ascending order.
    pub fn adopt(&self, mut segment: Segment) {
        self.measure(&mut segment);
        lock(&self.spares).push_back(segment);
    }

    /// Hands over a file that nothing that is durable needs.
    pub fn recycle(&self, segment: Arc<Segment>) {
        lock(&self.making).unused.push(segment);
    }

    /// A segment to write to, of at least `bytes`. Their numbers ascend.
    ///
    /// # Errors
    /// `DiskFull` or `Io`; nothing of the log was touched then.
    pub fn take(&self, bytes: u64) -> Result<Segment> {
        let ready = lock(&self.spares).pop_front();
        let mut segment = match ready {
            Some(segment) => segment,
            None => {
                let mut making = lock(&self.making);
                // The background may have just finished one.
                let ready = lock(&self.spares).pop_front();
                ready.map_or_else(|| self.make(&mut making), Ok)?
            }
        };
        if let Err(error) = self.grow(&mut segment, bytes) {
            lock(&self.spares).push_front(segment);
            return Err(error);
        }
        Ok(segment)
    }

    /// Makes segments until `count` are ready.
    ///
    /// # Errors
    /// `DiskFull` or `Io`.
    pub fn fill(&self, count: usize) -> Result<()> {
        while self.ready() < count {
            let mut making = lock(&self.making);
            let segment = self.make(&mut making)?;
            lock(&self.spares).push_back(segment);
        }
        Ok(())
    }

    /// Removes unused files until those that are left and the reserve take no more than `bytes_max`.
    ///
    /// # Errors
    /// `Io`.
    pub fn drain(&self, bytes_max: u64) -> Result<()> {
        let mut taken: u64 = lock(&self.spares).iter().map(|spare| spare.length).sum();
        let mut making = lock(&self.making);
        for unused in &making.unused {
            taken += unused.file.length()?;
        }
        while taken > bytes_max {
            let Some(segment) = pop_idle(&mut making.unused) else {
                break;
            };
            taken -= segment.file.length()?;
            self.fs.remove(&segment.path)?;
        }
        Ok(())
    }

    /// Gives the space of one spare back to the file system. Says whether there was one.
    pub fn shed(&self) -> Result<bool> {
        let idle = pop_idle(&mut lock(&self.making).unused);
        let spare = match idle {
            Some(segment) => Some(segment),
            None => lock(&self.spares).pop_back(),
        };
        let Some(segment) = spare else {
            return Ok(false);
        };
        self.fs.remove(&segment.path)?;
        Ok(true)
    }

    /// How many are ready.
    pub fn ready(&self) -> usize {
        lock(&self.spares).len()
    }

    /// A number above every one that was given.
    pub fn next(&self) -> SegmentId {
        lock(&self.making).next
    }

    fn make(&self, making: &mut Making) -> Result<Segment> {
        let id = making.next;
        let path = self.dir.join(file_name(id));
        making.next = SegmentId(id.0 + 1);
        let mut segment = match pop_idle(&mut making.unused) {
            Some(old) if old.size <= self.segment_bytes / 100 * OVERSIZE_PERCENT => {
                self.fs.rename(&old.path, &path)?;
                let mut segment = Segment::open(&*self.fs, path, id)?;
                self.measure(&mut segment);
                segment
            }
            Some(old) => {
                self.fs.remove(&old.path)?;
                self.create(path, id)?
            }
            None => self.create(path, id)?,
        };
        let made = self.prepare(&mut segment);
        if let Err(error) = made {
            // It counts for nothing yet; if this fails too, the next open finds it.
            self.fs.remove(&segment.path).ok();
            return Err(error);
        }
        Ok(segment)
    }

    /// What lies behind the frames of a file, its index, is not for frames: else it would be longer
    /// each time that it is used again.
    fn measure(&self, segment: &mut Segment) {
        segment.size = segment.size.min(self.segment_bytes);
    }

    fn create(&self, path: PathBuf, id: SegmentId) -> Result<Segment> {
        let file = self.fs.create(&path)?;
        Ok(Segment {
            id,
            path,
            file,
            size: 0,
            length: 0,
        })
    }

    fn prepare(&self, segment: &mut Segment) -> Result<()> {
        if segment.size < self.segment_bytes {
            write_zeroes(segment, self.segment_bytes)?;
        }
        let header = Header {
            identity: Identity {
                store: self.store,
                segment: segment.id,
                incarnation: 0,
            },
            usage: Usage::Spare,
        };
        let mut page = vec![0; HEADER_BYTES as usize];
        let bytes = header.encode();
        page[..bytes.len()].copy_from_slice(&bytes);
        segment.file.write_all_at(&page, 0)?;
        segment.file.sync()?;
        self.fs.sync_dir(&self.dir)
    }

    /// Makes room for a batch that is larger than a segment.
    fn grow(&self, segment: &mut Segment, bytes: u64) -> Result<()> {
        if segment.size >= bytes {
            return Ok(());
        }
        write_zeroes(segment, bytes)?;
        segment.file.sync()
    }
}

/// The last file that nobody is reading.
fn pop_idle(unused: &mut Vec<Arc<Segment>>) -> Option<Segment> {
    for at in (0..unused.len()).rev() {
        match Arc::try_unwrap(unused.swap_remove(at)) {
            Ok(segment) => return Some(segment),
            Err(busy) => unused.push(busy),
        }
    }
    None
}

fn write_zeroes(segment: &mut Segment, size: u64) -> Result<()> {
    let chunk = vec![0; CHUNK_BYTES.min(size - segment.size) as usize];
    while segment.size < size {
        let bytes = CHUNK_BYTES.min(size - segment.size);
        segment
            .file
            .write_all_at(&chunk[..bytes as usize], segment.size)?;
        segment.size += bytes;
    }
    segment.length = segment.length.max(size);
    Ok(())
}
