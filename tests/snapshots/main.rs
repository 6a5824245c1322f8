//! Both snapshot stores take each other's files, and the one on files goes through power cuts,
//! failures and damage.

mod both;
mod damage;
mod faults;
mod hostile;
mod interrupted;
mod partial;
mod retention;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerstore::memory::{MemFs, MemorySnapshots};
use peerstore::snapshot_dir::{Compression, SnapshotDir, SnapshotOptions};
use peerstore::{
    DiskFs, Error, FileSystem, LogPosition, RaftSnapshotStorage, Region, Result, SnapshotInfo,
    SnapshotKey, SnapshotMeta, SnapshotTransfer,
};

const DIR: &str = "node/snapshots";
const COMPRESSIONS: [Compression; 4] = [
    Compression::None,
    Compression::Gzip { level: 6 },
    Compression::Lz4,
    Compression::Zstd { level: 3 },
];

fn options(compression: Compression) -> SnapshotOptions {
    SnapshotOptions {
        compression,
        block_bytes: 64,
        ..SnapshotOptions::default()
    }
}

fn open_dir(fs: &MemFs, compression: Compression) -> Result<SnapshotDir> {
    SnapshotDir::open(Arc::new(fs.clone()), DIR, options(compression))
}

fn meta(region: u64, term: u64, index: u64) -> SnapshotMeta {
    let region = Region::single(region, 1);
    SnapshotMeta {
        position: LogPosition::new(term, index),
        conf_state: region.conf_state(),
        region,
    }
}

/// Content that compresses, and that differs by `seed`.
fn sample(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|i| {
            if i % 8 == 0 {
                (i / 8) as u8 ^ seed
            } else {
                b'x'
            }
        })
        .collect()
}

/// Writes and commits one.
fn create(
    store: &dyn RaftSnapshotStorage,
    meta: SnapshotMeta,
    content: &[u8],
) -> Result<SnapshotInfo> {
    let mut writer = store.create(meta)?;
    for chunk in content.chunks(50) {
        writer.write_all(chunk).map_err(own)?;
    }
    writer.commit()
}

/// The error of this crate that a stream carried.
fn own(error: std::io::Error) -> Error {
    error
        .downcast()
        .expect("a stream carries the crate's own error")
}

fn read(store: &dyn RaftSnapshotStorage, key: &SnapshotKey) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    store.open(key)?.read_to_end(&mut content).map_err(own)?;
    Ok(content)
}

/// The bytes of its file.
fn image(store: &dyn RaftSnapshotStorage, key: &SnapshotKey) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    store.send(key)?.read_to_end(&mut bytes).map_err(own)?;
    Ok(bytes)
}

fn receive(store: &dyn RaftSnapshotStorage, bytes: &[u8]) -> Result<SnapshotInfo> {
    let mut receiver = store.receive()?;
    for chunk in bytes.chunks(100) {
        receiver.write_all(chunk).map_err(own)?;
    }
    receiver.commit()
}

/// Sends from where the receiver is up to `end`, and lets the connection break. Says where it was.
fn send_until(
    store: &dyn RaftSnapshotStorage,
    transfer: &SnapshotTransfer,
    bytes: &[u8],
    end: usize,
) -> Result<usize> {
    let mut receiver = store.resume(transfer)?;
    let offset = receiver.offset() as usize;
    if offset < end {
        receiver.write_all(&bytes[offset..end]).map_err(own)?;
    }
    Ok(offset)
}

/// Sends the rest.
fn send_rest(
    store: &dyn RaftSnapshotStorage,
    transfer: &SnapshotTransfer,
    bytes: &[u8],
) -> Result<SnapshotInfo> {
    let mut receiver = store.resume(transfer)?;
    let rest = &bytes[receiver.offset() as usize..];
    for chunk in rest.chunks(100) {
        receiver.write_all(chunk).map_err(own)?;
    }
    receiver.commit()
}

/// The names in the store's directory, but for its lock.
fn names(fs: &dyn FileSystem) -> Result<Vec<PathBuf>> {
    let names = fs.list(Path::new(DIR))?;
    Ok(names
        .into_iter()
        .filter(|name| name != Path::new("LOCK"))
        .collect())
}

fn path_of(key: &SnapshotKey) -> PathBuf {
    Path::new(DIR).join(format!("{key}.snap"))
}

/// Replaces the bytes of a finished snapshot.
fn overwrite(fs: &MemFs, key: &SnapshotKey, bytes: &[u8]) -> Result<()> {
    let path = path_of(key);
    fs.remove(&path)?;
    fs.create(&path)?.write_all_at(bytes, 0)
}
