//! The RocksDB backends against what only they can get wrong: files, locks, damage, full disks.
#![cfg(feature = "rocksdb")]

mod data;
mod expiry;
mod faults;
mod log;
mod opening;
mod transactions;
mod wal;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use peerstore::rocks::{RocksLog, RocksOptions};
use peerstore::{Durability, LogBatch, RaftLogStorage, RegionId};
use raft::eraftpb::Entry;

/// Small enough to make many of them.
pub fn options() -> RocksOptions {
    RocksOptions {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 1 << 20,
        wal_bytes_max: 64 << 20,
        ..RocksOptions::default()
    }
}

pub fn open_log(dir: &Path) -> RocksLog {
    RocksLog::open(dir, &options()).unwrap()
}

pub fn entry(index: u64, data: &[u8]) -> Entry {
    let mut entry = Entry::default();
    entry.term = 3;
    entry.index = index;
    entry.data = data.to_vec().into();
    entry
}

pub fn entries(range: std::ops::Range<u64>) -> Vec<Entry> {
    range
        .map(|i| entry(i, format!("entry {i}").as_bytes()))
        .collect()
}

pub fn append(log: &RocksLog, region: u64, range: std::ops::Range<u64>, durability: Durability) {
    let mut batch = LogBatch::default();
    batch.append(RegionId(region), entries(range));
    log.write(&batch, durability).unwrap();
}

/// Every file below `dir` with its bytes.
pub fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for item in fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
            found.insert(path, Vec::new());
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// The files of `dir` that end so, oldest first.
pub fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    found.sort();
    found
}

pub fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// Bytes that do not compress.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}
