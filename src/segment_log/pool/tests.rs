//! How much is written and synced for a segment of the reserve, and for who finds none. Uses: memory.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::*;
use crate::fs::{File, FileLock};
use crate::memory::MemFs;

const SEGMENT_BYTES: u64 = 1 << 20;

/// What was written to files.
#[derive(Default)]
struct Written {
    bytes: u64,
    /// By file, what no sync has made durable.
    unsynced: HashMap<PathBuf, u64>,
    /// What a sync would have to wait for, and the most that it ever was.
    queued: u64,
    most_queued: u64,
    syncs: u64,
}

/// Counts what is written to a file system, which may be one that sets no space aside.
#[derive(Clone)]
struct Counting {
    inner: MemFs,
    reserves: bool,
    written: Arc<Mutex<Written>>,
}

impl Counting {
    fn new(reserves: bool) -> Self {
        Counting {
            inner: MemFs::new(),
            reserves,
            written: Arc::default(),
        }
    }

    fn pool(&self) -> Result<Pool> {
        self.create_dir_all(Path::new("log"))?;
        let fs = Arc::new(self.clone());
        Ok(Pool::new(fs, "log".into(), SEGMENT_BYTES, 1, SegmentId(1)))
    }

    fn file(&self, path: &Path, inner: Box<dyn File>) -> Box<dyn File> {
        let (fs, path) = (self.clone(), path.to_path_buf());
        Box::new(CountingFile { inner, fs, path })
    }
}

impl FileSystem for Counting {
    fn create(&self, path: &Path) -> Result<Box<dyn File>> {
        Ok(self.file(path, self.inner.create(path)?))
    }
    fn open(&self, path: &Path) -> Result<Box<dyn File>> {
        self.inner.open(path)
    }
    fn open_for_write(&self, path: &Path) -> Result<Box<dyn File>> {
        Ok(self.file(path, self.inner.open_for_write(path)?))
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
    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>> {
        self.inner.lock(path)
    }
}

struct CountingFile {
    inner: Box<dyn File>,
    fs: Counting,
    path: PathBuf,
}

impl File for CountingFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read_exact_at(buffer, offset)
    }
    fn write_all_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut guard = lock(&self.fs.written);
        let written = &mut *guard;
        written.bytes += data.len() as u64;
        *written.unsynced.entry(self.path.clone()).or_default() += data.len() as u64;
        written.queued += data.len() as u64;
        written.most_queued = written.most_queued.max(written.queued);
        self.inner.write_all_at(data, offset)
    }
    fn write_back(&self, range: Range<u64>) -> Result<()> {
        let mut written = lock(&self.fs.written);
        written.queued -= range.end - range.start;
        self.inner.write_back(range)
    }
    fn reserve(&self, bytes: u64) -> Result<bool> {
        match self.fs.reserves {
            true => self.inner.reserve(bytes),
            false => Ok(false),
        }
    }
    fn length(&self) -> Result<u64> {
        self.inner.length()
    }
    fn sync(&self) -> Result<()> {
        let mut written = lock(&self.fs.written);
        written.syncs += 1;
        written.unsynced.remove(&self.path);
        // Nobody else writes here.
        written.queued = 0;
        self.inner.sync()
    }
}

fn never() -> bool {
    false
}

/// That a segment has its whole space, that it reads as zeroes behind its header's page, and that a
/// power cut leaves it so.
fn check(fs: &Counting, segment: &Segment) -> Result<()> {
    assert_eq!(
        (segment.size, segment.length),
        (SEGMENT_BYTES, SEGMENT_BYTES)
    );
    let image = fs.inner.after_power_cut(crate::memory::Lost::Everything, 0);
    let found = Segment::open(&image, segment.path.clone(), segment.id)?;
    assert_eq!(found.size, SEGMENT_BYTES);
    let header = found.valid_header()?;
    assert_eq!(
        (header.identity.segment, header.usage),
        (segment.id, Usage::Spare)
    );
    let behind = found.read(HEADER_BYTES, SEGMENT_BYTES - HEADER_BYTES)?;
    assert!(behind.iter().all(|byte| *byte == 0));
    Ok(())
}

#[test]
fn of_the_reserve_one_piece_at_a_time_is_queued_for_the_disk() -> Result<()> {
    for reserves in [true, false] {
        let fs = Counting::new(reserves);
        let pool = fs.pool()?;
        pool.fill(2, u64::MAX, For::Reserve(&never))?;
        {
            let written = lock(&fs.written);
            assert_eq!(written.bytes, 2 * (SEGMENT_BYTES + HEADER_BYTES));
            assert!(written.most_queued <= PIECE_BYTES + HEADER_BYTES);
            assert!(written.unsynced.is_empty(), "{:?}", written.unsynced);
        }
        check(&fs, &pool.take(0)?)?;
        check(&fs, &pool.take(0)?)?;
    }
    Ok(())
}

#[test]
fn a_segment_that_becomes_urgent_is_set_aside_from_there_on() -> Result<()> {
    let fs = Counting::new(true);
    let pool = fs.pool()?;
    let looks = Cell::new(0);
    let is_urgent = || {
        looks.set(looks.get() + 1);
        looks.get() > 2
    };
    pool.fill(2, u64::MAX, For::Reserve(&is_urgent))?;
    // Two pieces of the first, none of the second.
    assert_eq!(lock(&fs.written).bytes, 2 * PIECE_BYTES + 2 * HEADER_BYTES);
    check(&fs, &pool.take(0)?)?;
    check(&fs, &pool.take(0)?)
}

#[test]
fn who_takes_segments_as_fast_as_they_are_made_does_not_keep_the_background() -> Result<()> {
    let fs = Counting::new(true);
    let pool = fs.pool()?;
    let taken = Cell::new(0);
    let take = || {
        if pool.ready() > 0 {
            taken.set(taken.get() + usize::from(pool.take(0).is_ok()));
        }
        false
    };
    pool.fill(2, u64::MAX, For::Reserve(&take))?;
    assert_eq!((taken.get(), pool.ready()), (1, 1), "two were made");
    Ok(())
}

#[test]
fn where_nothing_can_be_set_aside_the_reserve_is_written_to_its_end() -> Result<()> {
    let fs = Counting::new(false);
    let pool = fs.pool()?;
    pool.fill(1, u64::MAX, For::Reserve(&|| true))?;
    assert_eq!(lock(&fs.written).bytes, SEGMENT_BYTES + HEADER_BYTES);
    assert!(lock(&fs.written).most_queued <= PIECE_BYTES + HEADER_BYTES);
    check(&fs, &pool.take(0)?)
}

#[test]
fn who_finds_the_reserve_empty_waits_for_one_page_and_one_sync() -> Result<()> {
    let fs = Counting::new(true);
    let pool = fs.pool()?;
    check(&fs, &pool.take(0)?)?;
    let written = lock(&fs.written);
    assert_eq!((written.bytes, written.syncs), (HEADER_BYTES, 1));
    drop(written);
    // Without such a call zeroes have to be, but they are synced once: nobody else waits.
    let fs = Counting::new(false);
    let pool = fs.pool()?;
    check(&fs, &pool.take(0)?)?;
    assert_eq!(lock(&fs.written).syncs, 1);
    Ok(())
}

#[test]
fn a_full_disk_is_noticed_before_anything_is_written() -> Result<()> {
    let fs = Counting::new(true);
    let pool = fs.pool()?;
    fs.inner.set_space(SEGMENT_BYTES / 2);
    let full = |done: Result<()>| matches!(done, Err(Error::DiskFull { .. }));
    assert!(full(pool.fill(1, u64::MAX, For::Reserve(&never))));
    assert!(full(pool.take(0).map(drop)));
    assert_eq!(lock(&fs.written).bytes, 0);
    assert_eq!(fs.list(Path::new("log"))?, Vec::<PathBuf>::new());
    Ok(())
}

#[test]
fn a_batch_larger_than_a_segment_gets_its_space_without_zeroes() -> Result<()> {
    let fs = Counting::new(true);
    let pool = fs.pool()?;
    pool.fill(1, u64::MAX, For::Reserve(&never))?;
    let before = lock(&fs.written).bytes;
    let segment = pool.take(3 * SEGMENT_BYTES)?;
    assert_eq!(lock(&fs.written).bytes, before);
    let image = fs.inner.after_power_cut(crate::memory::Lost::Everything, 0);
    assert_eq!(image.open(&segment.path)?.length()?, 3 * SEGMENT_BYTES);
    Ok(())
}

#[test]
fn a_piece_that_does_not_reach_the_disk_is_an_error_and_leaves_no_file() -> Result<()> {
    let fs = Counting::new(true);
    let pool = fs.pool()?;
    // Creates, sets aside, writes a piece, writes it back.
    fs.inner
        .fail_at(fs.inner.operations() + 3, std::io::ErrorKind::Other);
    assert!(matches!(
        pool.fill(1, u64::MAX, For::Reserve(&never)),
        Err(Error::Io { .. })
    ));
    let history = fs.inner.history();
    assert!(history.iter().any(|(op, _)| *op == "write back"));
    assert!(!history.iter().any(|(op, _)| *op == "sync"), "{history:?}");
    assert_eq!((pool.ready(), fs.list(Path::new("log"))?.len()), (0, 0));
    Ok(())
}

#[test]
fn after_a_failed_sync_of_the_directory_no_other_succeeds() -> Result<()> {
    let fs = Counting::new(true);
    let pool = fs.pool()?;
    fs.create(Path::new("log/a"))?;
    fs.inner
        .fail_at(fs.inner.operations(), std::io::ErrorKind::Other);
    assert!(matches!(pool.sync_names(), Err(Error::Io { .. })));
    fs.create(Path::new("log/b"))?;
    assert!(matches!(pool.sync_names(), Err(Error::Poisoned { .. })));
    Ok(())
}

#[test]
fn a_spare_that_comes_after_a_higher_number_was_taken_is_not_given_out() -> Result<()> {
    let pool = Counting::new(true).pool()?;
    let late = pool.make(For::Reserve(&never))?;
    let taken = pool.take(0)?;
    assert!(taken.id > late.id);
    assert_eq!(taken.file.length()?, SEGMENT_BYTES);
    pool.put(late);
    assert_eq!(pool.ready(), 0);
    // Its file is used for the next.
    assert!(pool.take(0)?.id > taken.id);
    assert!(lock(&pool.idle).unused.is_empty());
    Ok(())
}
