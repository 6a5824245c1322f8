//! The append-only log under the suite: in memory, killed and with its power cut, and on a disk.

use std::sync::Arc;
use std::time::Duration;

use peerstore::conformance::{self, Harness};
use peerstore::memory::{Lost, MemFs};
use peerstore::segment_log::{SegmentLog, SegmentLogOptions, SyncPolicy};
use peerstore::{DiskFs, FileSystem, RaftLogStorage, Result};
use tempfile::TempDir;

fn options(background: bool) -> SegmentLogOptions {
    SegmentLogOptions {
        segment_bytes: 64 << 10,
        background,
        ..SegmentLogOptions::default()
    }
}

fn open(fs: &MemFs, options: &SegmentLogOptions) -> Option<SegmentLog> {
    let log = SegmentLog::open(Arc::new(fs.clone()), "dir/log", options.clone());
    Some(log.expect("open"))
}

/// In memory; a process that dies is killed, so that nothing is closed in order.
struct InMemory {
    fs: MemFs,
    options: SegmentLogOptions,
    log: Option<SegmentLog>,
}

impl InMemory {
    fn new(options: SegmentLogOptions) -> Self {
        let fs = MemFs::new();
        let log = open(&fs, &options);
        InMemory { fs, options, log }
    }

    fn go_on_with(&mut self, fs: MemFs) -> Result<bool> {
        self.log = None;
        self.fs = fs;
        self.log = open(&self.fs, &self.options);
        Ok(true)
    }
}

impl Harness<dyn RaftLogStorage> for InMemory {
    fn store(&self) -> &(dyn RaftLogStorage + 'static) {
        self.log.as_ref().expect("it is open")
    }
    fn reopen(&mut self) -> Result<bool> {
        self.go_on_with(self.fs.after_kill())
    }
    fn crash(&mut self) -> Result<bool> {
        self.go_on_with(self.fs.after_power_cut(Lost::Half, 7))
    }
}

/// On a disk, closed in order and opened again.
struct OnDisk {
    dir: TempDir,
    options: SegmentLogOptions,
    log: Option<SegmentLog>,
}

impl OnDisk {
    fn new(options: SegmentLogOptions) -> Self {
        let mut harness = OnDisk {
            dir: tempfile::tempdir().expect("a temporary directory"),
            options,
            log: None,
        };
        harness.reopen().expect("open");
        harness
    }
}

impl Harness<dyn RaftLogStorage> for OnDisk {
    fn store(&self) -> &(dyn RaftLogStorage + 'static) {
        self.log.as_ref().expect("it is open")
    }
    fn reopen(&mut self) -> Result<bool> {
        self.log = None;
        let fs: Arc<dyn FileSystem> = Arc::new(DiskFs);
        let dir = self.dir.path().join("log");
        self.log = Some(SegmentLog::open(fs, dir, self.options.clone())?);
        Ok(true)
    }
}

#[test]
fn segment_log_conforms_in_memory() {
    conformance::raft_log::run(|| InMemory::new(options(false)));
}

#[test]
fn segment_log_conforms_in_memory_with_its_background() {
    conformance::raft_log::run(|| InMemory::new(options(true)));
}

#[test]
fn segment_log_conforms_without_a_cache_of_any_kind() {
    conformance::raft_log::run(|| {
        let mut options = options(true);
        (options.ring_bytes, options.index_bytes_max) = (0, 0);
        InMemory::new(options)
    });
}

#[test]
fn segment_log_conforms_with_the_interval_policy() {
    conformance::raft_log::run(|| {
        let mut options = options(true);
        options.sync = SyncPolicy::Interval(Duration::from_millis(1));
        InMemory::new(options)
    });
}

#[test]
fn segment_log_conforms_on_disk() {
    conformance::raft_log::run(|| OnDisk::new(options(true)));
}
