//! Segments in reserve: written with zeroes or recycled, named and synced before they are needed, so
//! that a rotation does no more than take one. Uses: fs.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::format::{HEADER_BYTES, Header, Identity, SegmentId, Usage};
use super::segment::{Segment, file_name};
use crate::error::{Error, Result};
use crate::fs::FileSystem;

/// So much of a segment of the reserve is written with zeroes, and has to be on the disk, at a time: the fsync
/// of a writer finds no more than that before it.
const PIECE_BYTES: u64 = 256 << 10;
/// A file that one huge batch made larger than a segment, in percent, is not used again.
const OVERSIZE_PERCENT: u64 = 125;

/// The reserve, and who makes the names of the log's directory durable. A writer never waits until a spare is
/// made: no lock but that of the directory's syncs is held through I/O.
pub(super) struct Pool {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    segment_bytes: u64,
    store: u64,
    spares: Mutex<Spares>,
    idle: Mutex<Idle>,
    /// Why a sync of the directory failed.
    unsynced: Mutex<Option<String>>,
}

struct Spares {
    /// Ascending by number.
    ready: VecDeque<Segment>,
    /// What was taken last. A spare of a lower number, made meanwhile, is not for frames any more.
    taken: SegmentId,
}

struct Idle {
    next: SegmentId,
    /// Files that nothing needs any more, to be made segments again. Somebody may still be reading.
    unused: Vec<Arc<Segment>>,
}

/// Who a segment is made for.
#[derive(Clone, Copy)]
pub(super) enum For<'a> {
    /// There are no writers yet: it is written with zeroes.
    Nobody,
    /// Somebody who waits for it: its space is set aside, and no more.
    Writer,
    /// Whoever comes: it is written with zeroes besides, so that a frame in it costs one write to the disk,
    /// and no note about the file; until this says that a writer may not find one otherwise.
    Reserve(&'a dyn Fn() -> bool),
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
        let spares = Spares {
            ready: VecDeque::new(),
            taken: SegmentId(0),
        };
        let idle = Idle {
            next,
            unused: Vec::new(),
        };
        Pool {
            fs,
            dir,
            segment_bytes,
            store,
            spares: Mutex::new(spares),
            idle: Mutex::new(idle),
            unsynced: Mutex::default(),
        }
    }

    /// Adds a spare that was found at open; they come in ascending order.
    pub fn adopt(&self, mut segment: Segment) {
        self.measure(&mut segment);
        self.put(segment);
    }

    /// Hands over a file that nothing that is durable needs.
    pub fn recycle(&self, segment: Arc<Segment>) {
        lock(&self.idle).unused.push(segment);
    }

    /// A segment to write to, of at least `bytes`. Their numbers ascend. Where none is ready, one is made
    /// without waiting for zeroes to be written.
    ///
    /// # Errors
    /// `DiskFull` or `Io`; nothing of the log was touched then.
    pub fn take(&self, bytes: u64) -> Result<Segment> {
        let ready = lock(&self.spares).ready.pop_front();
        let mut segment = ready.map_or_else(|| self.make(For::Writer), Ok)?;
        if let Err(error) = self.grow(&mut segment, bytes) {
            self.put(segment);
            return Err(error);
        }
        let late: Vec<Segment> = {
            let mut spares = lock(&self.spares);
            spares.taken = segment.id;
            let late = spares.ready.partition_point(|spare| spare.id < segment.id);
            spares.ready.drain(..late).collect()
        };
        late.into_iter()
            .for_each(|spare| self.recycle(Arc::new(spare)));
        Ok(segment)
    }

    /// Makes as many segments as are missing for `count` to be ready, out of files that nobody needs, or new
    /// ones while the reserve takes no more than `bytes_max` with them. Others may take them meanwhile:
    /// whoever is as fast as that does not keep the caller here.
    ///
    /// # Errors
    /// `DiskFull` or `Io`.
    pub fn fill(&self, count: usize, bytes_max: u64, whom: For) -> Result<()> {
        for _ in self.ready()..count {
            let is_free = |unused: &Arc<Segment>| Arc::strong_count(unused) == 1;
            let has_unused = lock(&self.idle).unused.iter().any(is_free);
            if !has_unused && self.bytes()? + self.segment_bytes > bytes_max {
                break;
            }
            self.put(self.make(whom)?);
        }
        Ok(())
    }

    /// A file that begins empty and grows with what is written. Its name is not durable yet.
    ///
    /// # Errors
    /// `DiskFull` or `Io`.
    pub fn begin_empty(&self) -> Result<Segment> {
        let id = self.number();
        self.create(self.dir.join(file_name(id)), id)
    }

    fn put(&self, segment: Segment) {
        let mut spares = lock(&self.spares);
        if segment.id < spares.taken {
            drop(spares);
            return self.recycle(Arc::new(segment));
        }
        let at = spares.ready.partition_point(|spare| spare.id < segment.id);
        spares.ready.insert(at, segment);
    }

    /// What the reserve and unused files take.
    ///
    /// # Errors
    /// `Io`.
    pub fn bytes(&self) -> Result<u64> {
        let spares: u64 = (lock(&self.spares).ready.iter()).map(|s| s.length).sum();
        let mut bytes = spares;
        for unused in &lock(&self.idle).unused {
            bytes += unused.file.length()?;
        }
        Ok(bytes)
    }

    /// Removes unused files, and then spares beyond `count`, until what is left takes no more than
    /// `bytes_max`.
    ///
    /// # Errors
    /// `Io`.
    pub fn drain(&self, count: usize, bytes_max: u64) -> Result<()> {
        let mut taken = self.bytes()?;
        while taken > bytes_max
            && let Some(bytes) = self.give_back(count)?
        {
            taken -= bytes;
        }
        Ok(())
    }

    /// Removes an unused file, or else a spare beyond `count`. Returns what it took, if there was one.
    fn give_back(&self, count: usize) -> Result<Option<u64>> {
        let Some(segment) = self.pop_idle().or_else(|| self.pop_beyond(count)) else {
            return Ok(None);
        };
        let bytes = segment.file.length()?;
        self.fs.remove(&segment.path)?;
        Ok(Some(bytes))
    }

    /// The last spare, if there are more than `count`.
    fn pop_beyond(&self, count: usize) -> Option<Segment> {
        let ready = &mut lock(&self.spares).ready;
        if ready.len() > count {
            return ready.pop_back();
        }
        None
    }

    /// Gives the space of one spare back to the file system. Says whether there was one.
    pub fn shed(&self) -> Result<bool> {
        Ok(self.give_back(0)?.is_some())
    }

    /// Makes the names in the log's directory durable. A sync that fails may have dropped what another
    /// thread had renamed there, and the system tells one of the two only: the other's sync would succeed,
    /// and something would be counted as durable that is not. So they take turns, and after a failure
    /// nobody's succeeds until the log is opened again.
    ///
    /// # Errors
    /// `DiskFull` or `Io`, once; `Poisoned` from then on.
    pub fn sync_names(&self) -> Result<()> {
        // Held through the sync: those of one directory wait for each other anyway.
        let mut unsynced = lock(&self.unsynced);
        if let Some(cause) = &*unsynced {
            return Err(Error::Poisoned {
                path: self.dir.clone(),
                cause: cause.clone(),
            });
        }
        let synced = self.fs.sync_dir(&self.dir);
        *unsynced = synced.as_ref().err().map(Error::to_string);
        synced
    }

    /// How many are ready.
    pub fn ready(&self) -> usize {
        lock(&self.spares).ready.len()
    }

    /// A number above every one that was given.
    pub fn next(&self) -> SegmentId {
        lock(&self.idle).next
    }

    /// A number above every one that was given; the next is above it.
    fn number(&self) -> SegmentId {
        let mut idle = lock(&self.idle);
        let id = idle.next;
        idle.next = SegmentId(id.0 + 1);
        id
    }

    fn make(&self, whom: For) -> Result<Segment> {
        let id = self.number();
        let path = self.dir.join(file_name(id));
        let mut segment = match self.pop_idle() {
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
        let made = self.prepare(&mut segment, whom);
        if let Err(error) = made {
            // It counts for nothing yet; if this fails too, the next open finds it.
            self.fs.remove(&segment.path).ok();
            return Err(error);
        }
        Ok(segment)
    }

    /// The last file that nobody is reading.
    fn pop_idle(&self) -> Option<Segment> {
        let unused = &mut lock(&self.idle).unused;
        for at in (0..unused.len()).rev() {
            match Arc::try_unwrap(unused.swap_remove(at)) {
                Ok(segment) => return Some(segment),
                Err(busy) => unused.push(busy),
            }
        }
        None
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

    fn prepare(&self, segment: &mut Segment, whom: For) -> Result<()> {
        if segment.size < self.segment_bytes {
            allot(segment, self.segment_bytes, whom)?;
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
        self.sync_names()
    }

    /// Makes room for a batch that is larger than a segment.
    fn grow(&self, segment: &mut Segment, bytes: u64) -> Result<()> {
        if segment.size >= bytes {
            return Ok(());
        }
        allot(segment, bytes, For::Writer)?;
        segment.file.sync()
    }
}

/// Gives a file the space for `size` bytes of frames. What of it was not synced, a sync makes durable.
fn allot(segment: &mut Segment, size: u64, whom: For) -> Result<()> {
    // First of all, so that a disk that is full says so before the work.
    let is_set_aside = segment.file.reserve(size)?;
    let zeroes = vec![0; PIECE_BYTES.min(size - segment.size) as usize];
    while segment.size < size {
        let (is_enough, is_shared) = match whom {
            For::Nobody => (false, false),
            For::Writer => (true, false),
            For::Reserve(is_urgent) => (is_urgent(), true),
        };
        if is_set_aside && is_enough {
            break;
        }
        let start = Instant::now();
        let piece = segment.size..size.min(segment.size + PIECE_BYTES);
        let bytes = piece.end - piece.start;
        (segment.file).write_all_at(&zeroes[..bytes as usize], piece.start)?;
        segment.size = piece.end;
        if is_shared && piece.end < size {
            segment.file.write_back(piece)?;
            // So that half of the disk's time is the writers'.
            std::thread::sleep(start.elapsed());
        }
    }
    segment.extend(size);
    Ok(())
}

#[cfg(test)]
mod tests;
