//! The snapshot backends of this crate under their suite.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerstore::conformance::{self, Harness};
use peerstore::memory::{Lost, MemFs, MemorySnapshots};
use peerstore::snapshot_dir::{Compression, SnapshotDir, SnapshotOptions};
use peerstore::{DiskFs, FileSystem, RaftSnapshotStorage, Result};

/// Files in memory, which can lose what was not synced.
struct Files {
    fs: MemFs,
    options: SnapshotOptions,
    // None only while it is opened again.
    store: Option<SnapshotDir>,
}

impl Files {
    fn new(compression: Compression, block_bytes: u32) -> Files {
        let options = SnapshotOptions {
            compression,
            block_bytes,
            ..SnapshotOptions::default()
        };
        let mut files = Files {
            fs: MemFs::new(),
            options,
            store: None,
        };
        files.open().expect("an empty store");
        files
    }

    fn open(&mut self) -> Result<bool> {
        let fs: Arc<dyn FileSystem> = Arc::new(self.fs.clone());
        self.store = Some(SnapshotDir::open(fs, "snapshots", self.options)?);
        Ok(true)
    }
}

impl Harness<dyn RaftSnapshotStorage> for Files {
    fn store(&self) -> &(dyn RaftSnapshotStorage + 'static) {
        self.store.as_ref().expect("it is open")
    }
    fn reopen(&mut self) -> Result<bool> {
        self.store = None;
        self.fs = self.fs.after_kill();
        self.open()
    }
    fn crash(&mut self) -> Result<bool> {
        self.store = None;
        self.fs = self.fs.after_power_cut(Lost::Half, 42);
        self.open()
    }
}

/// Files on the machine's own disk.
struct OnDisk {
    dir: tempfile::TempDir,
    store: Option<SnapshotDir>,
}

fn open_on_disk(dir: &Path) -> Result<SnapshotDir> {
    let dir: PathBuf = dir.join("snapshots");
    SnapshotDir::open(Arc::new(DiskFs), dir, SnapshotOptions::default())
}

impl Harness<dyn RaftSnapshotStorage> for OnDisk {
    fn store(&self) -> &(dyn RaftSnapshotStorage + 'static) {
        self.store.as_ref().expect("it is open")
    }
    fn reopen(&mut self) -> Result<bool> {
        self.store = None;
        self.store = Some(open_on_disk(self.dir.path())?);
        Ok(true)
    }
}

#[test]
fn memory_snapshots_conform() {
    conformance::snapshots::run(MemorySnapshots::new);
}

#[test]
fn files_of_every_compression_conform() {
    for compression in [
        Compression::None,
        Compression::Gzip { level: 1 },
        Compression::Lz4,
        Compression::Zstd { level: 3 },
    ] {
        conformance::snapshots::run(|| Files::new(compression, 4 << 10));
    }
}

#[test]
fn files_of_large_and_small_blocks_conform() {
    conformance::snapshots::run(|| Files::new(Compression::default(), 1 << 20));
    conformance::snapshots::run(|| Files::new(Compression::None, 61));
}

#[test]
fn files_on_disk_conform() {
    conformance::snapshots::run(|| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = open_on_disk(dir.path()).expect("an empty store");
        OnDisk {
            dir,
            store: Some(store),
        }
    });
}
