//! The model of a disk that can lose power: what is visible, and what a cut would leave.
//!
//! Bytes survive only once their file is synced, names only once their directory is. Of what is
//! neither, every 512-byte sector may be there or not, each for itself; of a directory's changes the
//! first few. POSIX would let these be reordered too, but no journaling file system does that, and
//! RocksDB relies on it: it renames CURRENT in place and then syncs its directory once, for that and
//! for the manifest that it names. A rename is there or not, never half.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The unit in which a disk writes: all of it or nothing.
const SECTOR_BYTES: usize = 512;

pub type Ino = u64;
/// The directory in which everything lies.
pub const ROOT: Ino = 1;
/// A name in a directory.
pub type Name = (Ino, String);
type Names = BTreeMap<Name, Ino>;

/// A change of the disk. A list of them, applied in order, makes the disk again as it was.
#[derive(Clone, Debug)]
pub enum Op {
    Create {
        at: Name,
        ino: Ino,
        is_directory: bool,
    },
    /// Another name for a file.
    Link {
        at: Name,
        ino: Ino,
    },
    /// Removes a name, of a file or of an empty directory.
    Unlink {
        at: Name,
    },
    Rename {
        from: Name,
        to: Name,
    },
    Write {
        ino: Ino,
        offset: usize,
        bytes: Vec<u8>,
    },
    Resize {
        ino: Ino,
        length: usize,
    },
    /// Makes a file's bytes or a directory's names durable. If it fails, what was to be written counts
    /// as clean, as in Linux: no later sync writes it.
    Sync {
        ino: Ino,
        fails: bool,
    },
}

/// What a power cut does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// All of it.
    Everything,
    /// A coin is thrown for every sector, and for how many changes of a directory are left.
    Half,
    /// Nothing: it had just reached the disk.
    Nothing,
}

impl Lost {
    pub const ALL: [Lost; 3] = [Lost::Everything, Lost::Half, Lost::Nothing];
}

#[derive(Clone, Debug)]
enum Node {
    File(File),
    Directory,
}

#[derive(Clone, Debug, Default)]
struct File {
    data: Vec<u8>,
    durable: Vec<u8>,
    /// What was written since the last sync, in order.
    pending: Vec<Pending<Bytes>>,
}

#[derive(Clone, Debug)]
enum Bytes {
    /// Whole sectors from this place on, which is a multiple of theirs; the last ends with the file.
    Sectors(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone, Debug)]
enum Change {
    Put(Name, Ino),
    Remove(Name),
    Move { from: Name, to: Name, ino: Ino },
}

#[derive(Clone, Debug)]
struct Pending<T> {
    what: T,
    /// Whether a sync of it failed.
    failed: bool,
}

impl<T> Pending<T> {
    fn new(what: T) -> Self {
        let failed = false;
        Pending { what, failed }
    }
}

impl Bytes {
    fn apply(&self, data: &mut Vec<u8>, keep: &mut dyn FnMut() -> bool) {
        match self {
            Bytes::Length(length) if keep() => data.resize(*length, 0),
            Bytes::Length(_) => {}
            Bytes::Sectors(start, bytes) => {
                for (number, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    if !keep() {
                        continue;
                    }
                    let start = start + number * SECTOR_BYTES;
                    let end = start + sector.len();
                    data.resize(data.len().max(end), 0);
                    data[start..end].copy_from_slice(sector);
                }
            }
        }
    }
}

impl Change {
    /// The directory whose sync makes it durable.
    fn directory(&self) -> Ino {
        match self {
            Change::Put(at, _) | Change::Remove(at) | Change::Move { to: at, .. } => at.0,
        }
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Change::Put(at, ino) => drop(names.insert(at.clone(), *ino)),
            Change::Remove(at) => drop(names.remove(at)),
            Change::Move { from, to, ino } => {
                if names.get(from) == Some(ino) {
                    names.remove(from);
                }
                names.insert(to.clone(), *ino);
            }
        }
    }
}

impl File {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        self.data.resize(self.data.len().max(end), 0);
        self.data[offset..end].copy_from_slice(bytes);
        let start = offset / SECTOR_BYTES * SECTOR_BYTES;
        let end = self.data.len().min(end.next_multiple_of(SECTOR_BYTES));
        let sectors = Bytes::Sectors(start, self.data[start..end].to_vec());
        self.pending.push(Pending::new(sectors));
    }

    fn sync(&mut self, fails: bool) {
        if fails {
            self.pending.iter_mut().for_each(|p| p.failed = true);
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        for pending in pending {
            match pending.failed {
                true => self.pending.push(pending),
                false => pending.what.apply(&mut self.durable, &mut || true),
            }
        }
    }

    fn after_cut(&self, keep: &mut dyn FnMut() -> bool) -> Vec<u8> {
        let mut data = self.durable.clone();
        for pending in &self.pending {
            pending.what.apply(&mut data, keep);
        }
        data
    }
}

#[derive(Clone, Debug)]
pub struct Disk {
    nodes: BTreeMap<Ino, Node>,
    names: Names,
    durable: Names,
    changes: Vec<Pending<Change>>,
}

/// What is at an inode.
pub enum Found<'a> {
    File(&'a [u8]),
    Directory,
}

impl Disk {
    pub fn new() -> Disk {
        Disk {
            nodes: BTreeMap::from([(ROOT, Node::Directory)]),
            names: Names::new(),
            durable: Names::new(),
            changes: Vec::new(),
        }
    }

    pub fn lookup(&self, at: &Name) -> Option<Ino> {
        self.names.get(at).copied()
    }

    pub fn node(&self, ino: Ino) -> Option<Found<'_>> {
        Some(match self.nodes.get(&ino)? {
            Node::Directory => Found::Directory,
            Node::File(file) => Found::File(&file.data),
        })
    }

    /// The names in a directory, ascending, and what they stand for.
    pub fn list(&self, directory: Ino) -> impl Iterator<Item = (&str, Ino)> {
        let names = self.names.range(within(directory));
        names.map(|((_, name), ino)| (name.as_str(), *ino))
    }

    pub fn next_ino(&self) -> Ino {
        self.nodes.keys().next_back().map_or(ROOT, |last| last + 1)
    }

    /// The bytes of all files that have a name.
    pub fn used(&self) -> usize {
        let bytes = |ino: &Ino| match self.node(*ino) {
            Some(Found::File(data)) => data.len(),
            _ => 0,
        };
        self.names.values().map(bytes).sum()
    }

    /// # Panics
    /// If the change makes no sense: who makes changes checks them.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Create {
                at,
                ino,
                is_directory,
            } => {
                let node = match is_directory {
                    true => Node::Directory,
                    false => Node::File(File::default()),
                };
                self.nodes.insert(*ino, node);
                self.change(Change::Put(at.clone(), *ino));
            }
            Op::Link { at, ino } => self.change(Change::Put(at.clone(), *ino)),
            Op::Unlink { at } => self.change(Change::Remove(at.clone())),
            Op::Rename { from, to } => {
                let ino = self.names[from];
                let (from, to) = (from.clone(), to.clone());
                self.change(Change::Move { from, to, ino });
            }
            Op::Write { ino, offset, bytes } => self.file(*ino).write(bytes, *offset),
            Op::Resize { ino, length } => {
                let file = self.file(*ino);
                file.data.resize(*length, 0);
                file.pending.push(Pending::new(Bytes::Length(*length)));
            }
            Op::Sync { ino, fails } => match self.nodes.get_mut(ino) {
                Some(Node::File(file)) => file.sync(*fails),
                _ => self.sync_names(*ino, *fails),
            },
        }
    }

    fn file(&mut self, ino: Ino) -> &mut File {
        match self.nodes.get_mut(&ino) {
            Some(Node::File(file)) => file,
            other => panic!("inode {ino} is {other:?}, expected a file"),
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(Pending::new(change));
    }

    fn sync_names(&mut self, directory: Ino, fails: bool) {
        for mut change in std::mem::take(&mut self.changes) {
            let is_meant = change.what.directory() == directory && !change.failed;
            match is_meant && !fails {
                true => change.what.apply(&mut self.durable),
                false => {
                    change.failed |= is_meant;
                    self.changes.push(change);
                }
            }
        }
    }

    /// What is there when the power comes back.
    pub fn after_cut(&self, lost: Lost, seed: u64) -> Image {
        let mut state = seed;
        let mut keep = || match lost {
            Lost::Everything => false,
            Lost::Half => coin(&mut state),
            Lost::Nothing => true,
        };
        let mut names = self.durable.clone();
        let mut ended = BTreeSet::new();
        for Pending { what, .. } in &self.changes {
            let directory = what.directory();
            if !ended.contains(&directory) && (keep() || keep()) {
                what.apply(&mut names);
            } else {
                ended.insert(directory);
            }
        }
        let mut image = Image::default();
        self.collect(&names, ROOT, Path::new(""), &mut keep, &mut image);
        image
    }

    fn collect(
        &self,
        names: &Names,
        directory: Ino,
        path: &Path,
        keep: &mut dyn FnMut() -> bool,
        image: &mut Image,
    ) {
        for ((_, name), ino) in names.range(within(directory)) {
            let path = path.join(name);
            match &self.nodes[ino] {
                Node::File(file) => drop(image.0.insert(path, Some(file.after_cut(keep)))),
                Node::Directory => {
                    image.0.insert(path.clone(), None);
                    self.collect(names, *ino, &path, keep, image);
                }
            }
        }
    }
}

/// Every name in a directory.
fn within(directory: Ino) -> Range<Name> {
    (directory, String::new())..(directory + 1, String::new())
}

/// A step of splitmix64, of which one bit is used.
fn coin(state: &mut u64) -> bool {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) & 1 == 1
}

/// Files with their bytes, and directories, by path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image(BTreeMap<PathBuf, Option<Vec<u8>>>);

impl Image {
    /// Tells images apart. RocksDB never reads its `LOG` files, so what is in them does not count.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (path, bytes) in &self.0 {
            path.hash(&mut hasher);
            if !is_info_log(path) {
                bytes.hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// Lays it out in a directory that is empty.
    pub fn lay_out(&self, dir: &Path) -> io::Result<()> {
        for (path, bytes) in &self.0 {
            match bytes {
                Some(bytes) => fs::write(dir.join(path), bytes)?,
                None => fs::create_dir(dir.join(path))?,
            }
        }
        Ok(())
    }

    /// A disk on which all of it is durable.
    pub fn into_disk(self) -> Disk {
        let mut disk = Disk::new();
        let mut inos = BTreeMap::from([(PathBuf::new(), ROOT)]);
        for (path, bytes) in self.0 {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                continue;
            };
            let at = (inos[parent], name.to_string_lossy().into_owned());
            let ino = disk.next_ino();
            let node = match bytes {
                None => Node::Directory,
                Some(data) => Node::File(File {
                    durable: data.clone(),
                    data,
                    pending: Vec::new(),
                }),
            };
            disk.nodes.insert(ino, node);
            disk.durable.insert(at, ino);
            inos.insert(path, ino);
        }
        disk.names = disk.durable.clone();
        disk
    }
}

/// Whether it is one of the files in which RocksDB tells what it does.
pub fn is_info_log(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == "LOG" || name.starts_with("LOG.old.")
}
