//! A [`Disk`] as a mounted file system, through FUSE. It writes down every change, and can fail.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use crate::disk::{Disk, Found, Ino, Name, Op};

/// The kernel may believe what it was told: nobody else changes this file system.
const TTL: Duration = Duration::from_secs(60);
const BLOCK_BYTES: u32 = 4096;

/// What is to go wrong. Numbers count from 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The change before which the power is cut: from there on everything fails.
    pub cut_at: Option<usize>,
    /// The sync that fails.
    pub sync: Option<usize>,
    /// How many bytes all files have room for.
    pub space: Option<usize>,
}

#[derive(Debug)]
struct Recorder {
    disk: Disk,
    ops: Vec<Op>,
    faults: Faults,
    syncs: usize,
    injected: usize,
}

impl Recorder {
    fn check_power(&mut self) -> Result<(), Errno> {
        if self.faults.cut_at.is_some_and(|cut| cut <= self.ops.len()) {
            self.injected += 1;
            return Err(Errno::EIO);
        }
        Ok(())
    }

    fn perform(&mut self, op: Op) -> Result<(), Errno> {
        self.check_power()?;
        self.disk.apply(&op);
        self.ops.push(op);
        Ok(())
    }

    fn find(&self, at: &Name) -> Result<Ino, Errno> {
        self.disk.lookup(at).ok_or(Errno::ENOENT)
    }

    fn create(&mut self, at: Name, is_directory: bool) -> Result<FileAttr, Errno> {
        if self.disk.lookup(&at).is_some() {
            return Err(Errno::EEXIST);
        }
        let ino = self.disk.next_ino();
        self.perform(Op::Create {
            at,
            ino,
            is_directory,
        })?;
        self.attr(ino)
    }

    /// Writes as much as there is room for.
    fn write(&mut self, ino: Ino, offset: usize, bytes: &[u8]) -> Result<usize, Errno> {
        let mut length = bytes.len();
        if let (Some(space), Some(Found::File(data))) = (self.faults.space, self.disk.node(ino)) {
            let end = data.len() + space.saturating_sub(self.disk.used());
            length = length.min(end.saturating_sub(offset));
        }
        if length < bytes.len() {
            self.injected += 1;
        }
        if length == 0 && !bytes.is_empty() {
            return Err(Errno::ENOSPC);
        }
        let bytes = bytes[..length].to_vec();
        self.perform(Op::Write { ino, offset, bytes })?;
        Ok(length)
    }

    fn sync(&mut self, ino: Ino) -> Result<(), Errno> {
        let fails = self.faults.sync == Some(self.syncs);
        self.syncs += 1;
        self.perform(Op::Sync { ino, fails })?;
        if fails {
            self.injected += 1;
            return Err(Errno::EIO);
        }
        Ok(())
    }

    fn attr(&self, ino: Ino) -> Result<FileAttr, Errno> {
        let (kind, size) = match self.disk.node(ino).ok_or(Errno::ENOENT)? {
            Found::Directory => (FileType::Directory, 0),
            Found::File(data) => (FileType::RegularFile, data.len() as u64),
        };
        Ok(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        })
    }
}

type Shared = Arc<Mutex<Recorder>>;

fn locked(shared: &Shared) -> MutexGuard<'_, Recorder> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mounted disk, unmounted when dropped.
pub struct Mount {
    shared: Shared,
    session: Option<BackgroundSession>,
    dir: tempfile::TempDir,
}

impl Mount {
    /// Whether this process may mount: it is root, and the device is there.
    pub fn is_possible() -> bool {
        let is_root = std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
            let uids = status.lines().find(|line| line.starts_with("Uid:"));
            uids.is_some_and(|line| line.split_whitespace().nth(2) == Some("0"))
        });
        let device = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse");
        is_root && device.is_ok()
    }

    pub fn new(disk: Disk, faults: Faults) -> Mount {
        let recorder = Recorder {
            disk,
            ops: Vec::new(),
            faults,
            syncs: 0,
            injected: 0,
        };
        let shared = Arc::new(Mutex::new(recorder));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut config = fuser::Config::default();
        config.mount_options = vec![MountOption::FSName("power_cut".into())];
        let server = Server(Arc::clone(&shared));
        let session = fuser::spawn_mount(server, dir.path(), &config).expect("a FUSE mount");
        Mount {
            shared,
            session: Some(session),
            dir,
        }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().to_path_buf()
    }

    /// How many changes there were: the number of the next.
    pub fn position(&self) -> usize {
        locked(&self.shared).ops.len()
    }

    /// How often something failed on purpose.
    pub fn injected(&self) -> usize {
        locked(&self.shared).injected
    }

    pub fn set_faults(&self, faults: Faults) {
        locked(&self.shared).faults = faults;
    }

    /// Every change so far.
    pub fn ops(&self) -> Vec<Op> {
        locked(&self.shared).ops.clone()
    }

    pub fn disk(&self) -> Disk {
        locked(&self.shared).disk.clone()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // A store that is still open after a failed test keeps it busy; the process's end lets go.
            if let Err(error) = session.umount_and_join() {
                eprintln!("{} was not unmounted: {error}", self.dir.path().display());
            }
        }
    }
}

struct Server(Shared);

impl Server {
    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        locked(&self.0)
    }

    fn attr_at(&self, at: &Name) -> Result<FileAttr, Errno> {
        let mut recorder = self.recorder();
        recorder.check_power()?;
        let ino = recorder.find(at)?;
        recorder.attr(ino)
    }
}

fn at(parent: INodeNo, name: &OsStr) -> Name {
    (parent.0, name.to_string_lossy().into_owned())
}

fn answer(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn answer_entry(reply: ReplyEntry, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(reply, self.attr_at(&at(parent, name)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.recorder().attr(ino.0) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut recorder = self.recorder();
        let resized = size.map_or(Ok(()), |size| {
            let (ino, length) = (ino.0, size as usize);
            recorder.perform(Op::Resize { ino, length })
        });
        match resized.and_then(|()| recorder.attr(ino.0)) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        answer_entry(reply, self.recorder().create(at(parent, name), true));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.recorder().create(at(parent, name), false) {
            Ok(attr) => {
                let handle = FileHandle(0);
                reply.created(&TTL, &attr, Generation(0), handle, FopenFlags::empty());
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (mut recorder, at) = (self.recorder(), at(parent, name));
        let removed = recorder.find(&at);
        answer(
            reply,
            removed.and_then(|_| recorder.perform(Op::Unlink { at })),
        );
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (mut recorder, at) = (self.recorder(), at(parent, name));
        let removed = recorder.find(&at).and_then(|ino| {
            let is_empty = recorder.disk.list(ino).next().is_none();
            match is_empty {
                true => recorder.perform(Op::Unlink { at }),
                false => Err(Errno::ENOTEMPTY),
            }
        });
        answer(reply, removed);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut recorder = self.recorder();
        let (from, to) = (at(parent, name), at(new_parent, new_name));
        let found = recorder.find(&from);
        answer(
            reply,
            found.and_then(|_| recorder.perform(Op::Rename { from, to })),
        );
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (mut recorder, at, ino) = (self.recorder(), at(new_parent, new_name), ino.0);
        let linked = match recorder.disk.lookup(&at) {
            Some(_) => Err(Errno::EEXIST),
            None => recorder.perform(Op::Link { at, ino }),
        };
        answer_entry(reply, linked.and_then(|()| recorder.attr(ino)));
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut recorder = self.recorder();
        match (recorder.check_power(), recorder.disk.node(ino.0)) {
            (Ok(()), Some(Found::File(data))) => {
                let start = data.len().min(offset as usize);
                let end = data.len().min(start + size as usize);
                reply.data(&data[start..end]);
            }
            _ => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.recorder().write(ino.0, offset as usize, data) {
            Ok(length) => reply.written(length as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(reply, self.recorder().sync(ino.0));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(reply, self.recorder().sync(ino.0));
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let recorder = self.recorder();
        for (next, (name, ino)) in (1..).zip(recorder.disk.list(ino.0)).skip(offset as usize) {
            let kind = match recorder.disk.node(ino) {
                Some(Found::Directory) => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(ino), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn statfs(&self, _: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let (blocks, recorder) = (1 << 20, self.recorder());
        let free = recorder.faults.space.map_or(blocks, |space| {
            (space.saturating_sub(recorder.disk.used()) / BLOCK_BYTES as usize) as u64
        });
        reply.statfs(
            blocks,
            free,
            free,
            1 << 20,
            1 << 20,
            BLOCK_BYTES,
            255,
            BLOCK_BYTES,
        );
    }
}

/// Says on standard error that a test did nothing: not by `eprintln`, which nobody sees of a test
/// that passes.
pub fn say_skipped(test: &str) {
    let text = format!("SKIPPED: {test}: mounting needs root and /dev/fuse\n");
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// A directory in memory, where there is one: nothing in it has to outlive the test.
pub fn fast_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let dir = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    dir.expect("a temporary directory")
}
