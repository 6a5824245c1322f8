//! A file system in memory that can lose power, fail and fill up. Uses: fs, error. Never does I/O.
//!
//! It is as strict as POSIX allows a real one to be: bytes survive a power cut only once their file
//! is synced, names only once their directory is. What is neither may be there or not, every 512-byte
//! sector and every name for itself; a rename is there or not, never half.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::mem;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::fs::{File, FileLock, FileSystem};

/// The unit in which a disk writes: all of it or nothing.
const SECTOR_BYTES: usize = 512;

/// What a power cut does to the writes and names that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// All of them happened to reach the disk, as when only the process dies.
    Nothing,
    /// A coin is thrown for each, from the seed.
    Half,
    /// None reached the disk.
    Everything,
}

/// The file system. Clones share it; [`MemFs::after_power_cut`] makes one that does not.
///
/// Operations are numbered from 0 in the order in which they were called; reads count too.
///
/// ```
/// use peerstore::FileSystem as _;
/// use peerstore::memory::{Lost, MemFs};
/// let fs = MemFs::new();
/// fs.create("a".as_ref())?.sync()?; // the bytes are durable, the name is not
/// assert!(!fs.after_power_cut(Lost::Everything, 0).exists("a".as_ref())?);
/// fs.sync_dir("".as_ref())?;
/// assert!(fs.after_power_cut(Lost::Everything, 0).exists("a".as_ref())?);
/// # Ok::<(), peerstore::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct MemFs {
    disk: Arc<Mutex<Disk>>,
}

impl MemFs {
    /// An empty one. The directories `""` and `"/"` are there and durable.
    pub fn new() -> Self {
        MemFs::default()
    }

    /// How many operations were called.
    pub fn operations(&self) -> u64 {
        self.disk().history.len() as u64
    }

    /// Every operation that was called, failed ones too, and the path that it was called with.
    pub fn history(&self) -> Vec<(&'static str, PathBuf)> {
        self.disk().history.clone()
    }

    /// Cuts the power before operation `number`: it and all later ones fail and do nothing.
    pub fn cut_at(&self, number: u64) {
        self.disk().cut_at = Some(number);
    }

    /// Lets operation `number` fail with `kind`, once. Of a write that fails a part was written; after
    /// a sync that fails the pages count as clean, as in Linux: no later sync writes them.
    pub fn fail_at(&self, number: u64, kind: ErrorKind) {
        self.disk().failures.insert(number, kind);
    }

    /// Limits the bytes of all files together. A write beyond is cut short and fails.
    pub fn set_space(&self, bytes: u64) {
        self.disk().space = Some(bytes);
    }

    /// What the next process sees when this one was killed: everything, and what is not durable yet
    /// can still be lost. This one is left as it is.
    pub fn after_kill(&self) -> MemFs {
        let disk = self.disk().after_kill();
        MemFs {
            disk: Arc::new(Mutex::new(disk)),
        }
    }

    /// What is there when the power comes back. This one is left as it is.
    pub fn after_power_cut(&self, lost: Lost, seed: u64) -> MemFs {
        let mut state = seed;
        let mut kept = || match lost {
            Lost::Nothing => true,
            Lost::Half => coin(&mut state),
            Lost::Everything => false,
        };
        let disk = self.disk().after_power_cut(&mut kept);
        MemFs {
            disk: Arc::new(Mutex::new(disk)),
        }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.disk)
    }
}

/// A panic elsewhere does not damage the maps: each change is made by one call.
fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A step of splitmix64, of which one bit is used.
fn coin(state: &mut u64) -> bool {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) & 1 == 1
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Directory,
    /// The place of the file in [`Disk::inodes`].
    File(usize),
}

/// A change of names.
#[derive(Clone, Debug)]
enum Change {
    Link(PathBuf, Node),
    Unlink(PathBuf),
    Move(PathBuf, PathBuf, Node),
}

impl Change {
    /// The directory whose sync makes it durable.
    fn directory(&self) -> Option<&Path> {
        match self {
            Change::Link(path, _) | Change::Unlink(path) | Change::Move(_, path, _) => {
                path.parent()
            }
        }
    }

    fn paths(&self) -> [&Path; 2] {
        match self {
            Change::Link(path, _) | Change::Unlink(path) => [path, path],
            Change::Move(from, to, _) => [from, to],
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Change::Link(path, node) => drop(names.insert(path.clone(), *node)),
            Change::Unlink(path) => drop(names.remove(path)),
            Change::Move(_, to, node) => {
                // Whichever of its earlier names is there: a file has one name at a time.
                names.retain(|_, other| other != node);
                names.insert(to.clone(), *node);
            }
        }
    }
}

/// A change that no sync of its directory has made durable.
#[derive(Clone, Debug)]
struct Pending {
    change: Change,
    /// Whether a sync of its directory failed: no later one makes it durable.
    failed: bool,
}

/// The bytes of a file.
#[derive(Clone, Default)]
struct Inode {
    /// What a read sees.
    data: Vec<u8>,
    /// What a power cut leaves.
    durable: Vec<u8>,
    /// Every write to a sector since the last sync, in order: any of them may be what the disk has.
    dirty: BTreeMap<usize, Vec<Vec<u8>>>,
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        self.data.resize(self.data.len().max(end), 0);
        self.data[offset..end].copy_from_slice(bytes);
        for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let start = sector * SECTOR_BYTES;
            let stop = self.data.len().min(start + SECTOR_BYTES);
            let written = self.data[start..stop].to_vec();
            self.dirty.entry(sector).or_default().push(written);
        }
    }

    fn sync(&mut self) {
        self.durable = self.after_power_cut(&mut || true);
        self.durable.resize(self.data.len(), 0);
        self.dirty.clear();
    }

    fn after_power_cut(&self, kept: &mut dyn FnMut() -> bool) -> Vec<u8> {
        let mut image = self.durable.clone();
        for (sector, writes) in &self.dirty {
            let Some(bytes) = writes.iter().rev().find(|_| kept()) else {
                continue;
            };
            let (start, end) = (sector * SECTOR_BYTES, sector * SECTOR_BYTES + bytes.len());
            image.resize(image.len().max(end), 0);
            image[start..end].copy_from_slice(bytes);
        }
        image
    }
}

/// What becomes of an operation.
enum Fate {
    Succeeds,
    /// It fails, after it has done a part.
    Fails(Error),
    /// There is no power: it does nothing.
    Off(Error),
}

#[derive(Default)]
struct Disk {
    /// What a look-up sees.
    names: BTreeMap<PathBuf, Node>,
    /// What a power cut leaves of it.
    durable: BTreeMap<PathBuf, Node>,
    pending: Vec<Pending>,
    // A file whose last name is gone stays: a handle or a durable name may still lead to it.
    inodes: Vec<Inode>,
    history: Vec<(&'static str, PathBuf)>,
    cut_at: Option<u64>,
    failures: BTreeMap<u64, ErrorKind>,
    space: Option<u64>,
    /// The bytes of all files that have a name.
    used: u64,
    locks: BTreeSet<PathBuf>,
}

impl Disk {
    fn fate(&mut self, op: &'static str, path: &Path) -> Fate {
        let number = self.history.len() as u64;
        self.history.push((op, path.to_path_buf()));
        if self.cut_at.is_some_and(|cut| cut <= number) {
            let cut = std::io::Error::other("the power is cut");
            return Fate::Off(Error::io(op, path, cut));
        }
        match self.failures.remove(&number) {
            Some(kind) => Fate::Fails(Error::io(op, path, kind.into())),
            None => Fate::Succeeds,
        }
    }

    /// For operations that do nothing when they fail.
    fn begin(&mut self, op: &'static str, path: &Path) -> Result<()> {
        match self.fate(op, path) {
            Fate::Succeeds => Ok(()),
            Fate::Fails(error) | Fate::Off(error) => Err(error),
        }
    }

    fn node(&self, path: &Path) -> Option<Node> {
        match path.parent() {
            None => Some(Node::Directory),
            Some(_) => self.names.get(path).copied(),
        }
    }

    fn file(&self, op: &'static str, path: &Path) -> Result<usize> {
        match self.node(path) {
            Some(Node::File(inode)) => Ok(inode),
            Some(Node::Directory) => Err(Error::io(op, path, ErrorKind::IsADirectory.into())),
            None => Err(Error::io(op, path, ErrorKind::NotFound.into())),
        }
    }

    fn directory(&self, op: &'static str, path: &Path) -> Result<()> {
        match self.node(path) {
            Some(Node::Directory) => Ok(()),
            Some(Node::File(_)) => Err(Error::io(op, path, ErrorKind::NotADirectory.into())),
            None => Err(Error::io(op, path, ErrorKind::NotFound.into())),
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.pending.push(Pending {
            change,
            failed: false,
        });
    }

    fn create(&mut self, op: &'static str, path: &Path) -> Result<usize> {
        self.directory(op, path.parent().unwrap_or(path))?;
        if self.node(path).is_some() {
            return Err(Error::io(op, path, ErrorKind::AlreadyExists.into()));
        }
        let inode = self.inodes.len();
        self.inodes.push(Inode::default());
        self.change(Change::Link(path.to_path_buf(), Node::File(inode)));
        Ok(inode)
    }

    fn release(&mut self, path: &Path) {
        if let Some(Node::File(inode)) = self.node(path) {
            self.used -= self.inodes[inode].data.len() as u64;
        }
    }

    fn write(&mut self, path: &Path, inode: usize, bytes: &[u8], offset: usize) -> Result<()> {
        let (mut part, mut outcome) = match self.fate("write", path) {
            Fate::Succeeds => (bytes, Ok(())),
            Fate::Fails(error) => (&bytes[..bytes.len() / 2], Err(error)),
            Fate::Off(error) => return Err(error),
        };
        let length = self.inodes[inode].data.len();
        let free = (self.space).map_or(u64::MAX, |space| space.saturating_sub(self.used)) as usize;
        if (offset + part.len()).saturating_sub(length) > free {
            part = &part[..(length + free).saturating_sub(offset).min(part.len())];
            outcome = Err(Error::io("write", path, ErrorKind::StorageFull.into()));
        }
        self.inodes[inode].write(part, offset);
        self.used += (self.inodes[inode].data.len() - length) as u64;
        outcome
    }

    /// Whether the disk takes the bytes of a file; what it took can be lost. After a failure it gets none.
    fn flush(&mut self, op: &'static str, path: &Path, inode: usize) -> Result<()> {
        let fate = self.fate(op, path);
        if let Fate::Fails(_) = fate {
            self.inodes[inode].dirty.clear();
        }
        match fate {
            Fate::Succeeds => Ok(()),
            Fate::Fails(error) | Fate::Off(error) => Err(error),
        }
    }

    fn sync_dir(&mut self, path: &Path) -> Result<()> {
        let fate = self.fate("sync directory", path);
        if let Fate::Off(error) = fate {
            return Err(error);
        }
        self.directory("sync directory", path)?;
        if let Fate::Fails(error) = fate {
            for pending in &mut self.pending {
                pending.failed |= pending.change.directory() == Some(path);
            }
            return Err(error);
        }
        let mut rest: Vec<Pending> = Vec::new();
        for pending in mem::take(&mut self.pending) {
            if pending.failed || pending.change.directory() != Some(path) {
                rest.push(pending);
                continue;
            }
            pending.change.apply(&mut self.durable);
            // What it wrote overrules an earlier change of the same name that was not written.
            let written = pending.change.paths();
            rest.retain(|old| {
                !old.failed || !old.change.paths().iter().any(|p| written.contains(p))
            });
        }
        self.pending = rest;
        Ok(())
    }

    fn after_kill(&self) -> Disk {
        Disk {
            names: self.names.clone(),
            durable: self.durable.clone(),
            pending: self.pending.clone(),
            inodes: self.inodes.clone(),
            used: self.used,
            ..Disk::default()
        }
    }

    fn after_power_cut(&self, kept: &mut dyn FnMut() -> bool) -> Disk {
        let mut names = self.durable.clone();
        for pending in self.pending.iter().filter(|_| kept()) {
            pending.change.apply(&mut names);
        }
        let mut disk = Disk::default();
        // Ascending: a directory comes before what is in it, and takes that with it if it is lost.
        for (path, node) in names {
            if disk.directory("", path.parent().unwrap_or(&path)).is_err() {
                continue;
            }
            let node = match node {
                Node::Directory => Node::Directory,
                Node::File(inode) => {
                    let data = self.inodes[inode].after_power_cut(kept);
                    disk.used += data.len() as u64;
                    disk.inodes.push(Inode {
                        durable: data.clone(),
                        data,
                        dirty: BTreeMap::new(),
                    });
                    Node::File(disk.inodes.len() - 1)
                }
            };
            disk.names.insert(path, node);
        }
        disk.durable = disk.names.clone();
        disk
    }
}

impl MemFs {
    fn handle(&self, inode: usize, path: &Path) -> Box<dyn File> {
        Box::new(MemFile {
            disk: Arc::clone(&self.disk),
            inode,
            path: path.to_path_buf(),
        })
    }
}

impl FileSystem for MemFs {
    fn create(&self, path: &Path) -> Result<Box<dyn File>> {
        let mut disk = self.disk();
        disk.begin("create", path)?;
        let inode = disk.create("create", path)?;
        Ok(self.handle(inode, path))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn File>> {
        let mut disk = self.disk();
        disk.begin("open", path)?;
        let inode = disk.file("open", path)?;
        Ok(self.handle(inode, path))
    }

    fn open_for_write(&self, path: &Path) -> Result<Box<dyn File>> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut disk = self.disk();
        disk.begin("rename", from)?;
        let inode = disk.file("rename", from)?;
        disk.directory("rename", to.parent().unwrap_or(to))?;
        if disk.node(to) == Some(Node::Directory) {
            return Err(Error::io("rename", to, ErrorKind::IsADirectory.into()));
        }
        if from != to {
            disk.release(to);
            let (from, to) = (from.to_path_buf(), to.to_path_buf());
            disk.change(Change::Move(from, to, Node::File(inode)));
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let mut disk = self.disk();
        disk.begin("remove", path)?;
        disk.file("remove", path)?;
        disk.release(path);
        disk.change(Change::Unlink(path.to_path_buf()));
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        let mut disk = self.disk();
        let missing = path.ancestors().take_while(|dir| disk.node(dir).is_none());
        for dir in missing.collect::<Vec<_>>().into_iter().rev() {
            disk.begin("create directory", dir)?;
            let parent = dir.parent().unwrap_or(dir);
            disk.directory("create directory", parent)?;
            disk.change(Change::Link(dir.to_path_buf(), Node::Directory));
            disk.sync_dir(parent)?;
        }
        disk.directory("create directory", path)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.disk().sync_dir(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let mut disk = self.disk();
        disk.begin("list", path)?;
        disk.directory("list", path)?;
        let inside = disk.names.keys().filter(|name| name.parent() == Some(path));
        Ok(inside
            .filter_map(|name| name.file_name())
            .map(PathBuf::from)
            .collect())
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        let mut disk = self.disk();
        disk.begin("look up", path)?;
        Ok(disk.node(path).is_some())
    }

    fn free_bytes(&self, _path: &Path) -> Result<Option<u64>> {
        let disk = self.disk();
        Ok(disk.space.map(|space| space.saturating_sub(disk.used)))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>> {
        let mut disk = self.disk();
        disk.begin("lock", path)?;
        if disk.node(path).is_none() {
            disk.create("lock", path)?;
        }
        if !disk.locks.insert(path.to_path_buf()) {
            let path = path.to_path_buf();
            return Err(Error::Locked { path });
        }
        Ok(Box::new(MemLock {
            disk: Arc::clone(&self.disk),
            path: path.to_path_buf(),
        }))
    }
}

struct MemFile {
    disk: Arc<Mutex<Disk>>,
    inode: usize,
    path: PathBuf,
}

impl File for MemFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut disk = lock(&self.disk);
        disk.begin("read", &self.path)?;
        let data = &disk.inodes[self.inode].data;
        let bytes = usize::try_from(offset).ok().and_then(|start| {
            let end = start.checked_add(buffer.len())?;
            data.get(start..end)
        });
        let Some(bytes) = bytes else {
            let ends = ErrorKind::UnexpectedEof.into();
            return Err(Error::io("read", &self.path, ends));
        };
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> Result<()> {
        lock(&self.disk).write(&self.path, self.inode, data, offset as usize)
    }

    fn reserve(&self, bytes: u64) -> Result<bool> {
        let mut disk = lock(&self.disk);
        let length = disk.inodes[self.inode].data.len();
        let missing = vec![0; (bytes as usize).saturating_sub(length)];
        disk.write(&self.path, self.inode, &missing, length)?;
        Ok(true)
    }

    fn write_back(&self, _range: Range<u64>) -> Result<()> {
        lock(&self.disk).flush("write back", &self.path, self.inode)
    }

    fn length(&self) -> Result<u64> {
        let mut disk = lock(&self.disk);
        disk.begin("measure", &self.path)?;
        Ok(disk.inodes[self.inode].data.len() as u64)
    }

    fn sync(&self) -> Result<()> {
        let mut disk = lock(&self.disk);
        disk.flush("sync", &self.path, self.inode)?;
        disk.inodes[self.inode].sync();
        Ok(())
    }
}

struct MemLock {
    disk: Arc<Mutex<Disk>>,
    path: PathBuf,
}

impl FileLock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        lock(&self.disk).locks.remove(&self.path);
    }
}

#[cfg(test)]
mod tests;
