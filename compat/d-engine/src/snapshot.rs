//! Snapshots of d-engine: the data as a snapshot of the node's own store, whose file goes into d-engine's
//! directory and comes out of it. Everything is streamed; nothing holds more than a block of it.
//!
//! A snapshot says itself what it covers: all that was applied when it was made. d-engine calls it by an
//! earlier index, so that its log keeps some entries behind it; whoever gets it knows that the data has
//! those already, and does not apply them again.
//!
//! Applied, it replaces all of the data: what is pending is noted first, durably, and gone on with when
//! the process dies in between.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use d_engine_core::{Error, StorageError};
use d_engine_proto::common::LogId;
use d_engine_proto::server::storage::SnapshotMetadata;
use peerstore::{
    AppBatch, Durability, KeyRange, LogPosition, SnapshotInfo, SnapshotKey, SnapshotMeta,
    check_export, export_data, import_data,
};
use raft::eraftpb::ConfState;

use crate::error;
use crate::record::{PendingRecord, SnapshotRecord};
use crate::state_machine::{Inner, Serving};

/// The file in the directory that d-engine packs and sends: what peerstore's `SnapshotDir` writes.
pub const SNAPSHOT_FILE: &str = "snapshot.peerstore";

/// Makes a snapshot and puts its file into `dir`; the digest of its content. All that it covers is durable
/// in the data store before, because d-engine purges the log behind it.
pub(crate) fn generate(inner: &Inner, dir: &Path, last_included: LogId) -> Result<Bytes, Error> {
    if inner.known().serving == Serving::Restoring {
        let got = "a snapshot is being applied".into();
        return Err(error::state_machine(got, "the data to be whole".into()));
    }
    let reader = inner.reader()?;
    let applied = inner.applied_in(&reader)?;
    if last_included.index > applied.index {
        let got = format!(
            "a snapshot that is to include entry {}",
            last_included.index
        );
        let expected = format!("at most {}, which was applied last", applied.index);
        return Err(error::state_machine(got, expected));
    }
    inner.app().sync().map_err(error::of)?;
    let meta = SnapshotMeta {
        region: inner.group(),
        position: LogPosition::new(applied.term, applied.index),
        conf_state: ConfState::default(),
    };
    let mut writer = inner.node.snapshots().create(meta).map_err(error::of)?;
    let keys = export_data(reader.data(), &KeyRange::all(), &mut writer).map_err(error::of)?;
    writer.count_entries(keys);
    let info = writer.commit().map_err(error::of)?;
    copy_out(inner, &info.key, dir)?;

    let checksum = Bytes::copy_from_slice(&info.digest);
    let record = SnapshotRecord {
        metadata: Some(SnapshotMetadata {
            last_included: Some(last_included),
            checksum: checksum.clone(),
        }),
        pending: None,
    };
    let _writer = inner.lock();
    note(inner, record)?;
    remove_others(inner, &info.key)?;
    Ok(checksum)
}

/// Replaces all of the data by the snapshot in `path`: d-engine's directory, or the file itself.
pub(crate) fn apply(inner: &Inner, metadata: &SnapshotMetadata, path: &Path) -> Result<(), Error> {
    let file = match path.is_dir() {
        true => path.join(SNAPSHOT_FILE),
        false => path.to_path_buf(),
    };
    let mut opened = File::open(&file).map_err(|source| StorageError::PathError {
        path: file.clone(),
        source,
    })?;
    let snapshots = inner.node.snapshots();
    let info = snapshots.install(&mut opened).map_err(error::of)?;
    let _writer = inner.lock();
    if let Err(refusal) = check(inner, metadata, &info) {
        // What is left of it when somebody reads it goes with the next snapshot.
        let _ = snapshots.delete(&info.key);
        return Err(refusal);
    }
    let before = inner.known();
    inner.know(|known| known.serving = Serving::Restoring);
    let pending = PendingRecord::new(&info.key, metadata);
    let record = SnapshotRecord {
        metadata: before.snapshot.metadata,
        pending: Some(pending.clone()),
    };
    if let Err(error) = note(inner, record) {
        inner.know(|known| known.serving = before.serving);
        return Err(error);
    }
    finish(inner, &pending)
}

/// Goes on with what was pending when the process died.
pub(crate) fn go_on(inner: &Inner) -> Result<(), Error> {
    let Some(pending) = inner.known().snapshot.pending else {
        return Ok(());
    };
    inner.know(|known| known.serving = Serving::Restoring);
    let _writer = inner.lock();
    finish(inner, &pending)
}

/// Removes every snapshot of the group. One that is read stays until the next time.
pub(crate) fn remove_all(inner: &Inner) -> Result<(), Error> {
    remove_but(inner, None)
}

/// Whether the snapshot is the one that was announced, and may replace the data.
fn check(inner: &Inner, metadata: &SnapshotMetadata, info: &SnapshotInfo) -> Result<(), Error> {
    let SnapshotInfo { key, meta, .. } = info;
    let last_included = metadata.last_included.unwrap_or_default();
    let applied = inner.known().applied.index;
    let refuse = |got: String, expected: String| Err(error::state_machine(got, expected));
    if key.region != inner.region {
        let got = format!("a snapshot of group {}", key.region);
        return refuse(got, format!("one of group {}", inner.region));
    }
    if !metadata.checksum.is_empty() && metadata.checksum != info.digest[..] {
        let got = format!("a snapshot of digest {:02x?}", info.digest);
        return refuse(got, format!("{:02x?}", &metadata.checksum[..]));
    }
    if meta.position.index < last_included.index {
        let got = format!("a snapshot up to {}", meta.position);
        return refuse(got, format!("one up to {} at least", last_included.index));
    }
    if meta.position.index < applied {
        let got = format!("a snapshot up to {}", meta.position);
        return refuse(
            got,
            format!("one up to {applied} at least: that was applied"),
        );
    }
    let mut content = inner.node.snapshots().open(key).map_err(error::of)?;
    check_export(&KeyRange::all(), &mut content).map_err(error::of)?;
    Ok(())
}

/// Imports what is pending. It may be half there already: an import clears what it replaces first.
fn finish(inner: &Inner, pending: &PendingRecord) -> Result<(), Error> {
    let key = SnapshotKey {
        region: inner.region,
        id: pending.id(),
    };
    let mut content = inner.node.snapshots().open(&key).map_err(error::of)?;
    import_data(inner.app(), &KeyRange::all(), &mut content).map_err(error::of)?;
    drop(content);
    let applied = LogId {
        term: pending.term,
        index: pending.index,
    };
    let record = SnapshotRecord {
        metadata: Some(pending.metadata.clone()),
        pending: None,
    };
    let mut batch = AppBatch::new();
    inner.add_applied(&mut batch, applied);
    inner.add_record(&mut batch, &record);
    inner.write(&batch, Durability::Synced)?;
    inner.forget_expiry();
    inner.know(|known| {
        known.serving = Serving::Running;
        known.applied = applied;
        known.snapshot = record;
    });
    remove_others(inner, &key)
}

fn note(inner: &Inner, record: SnapshotRecord) -> Result<(), Error> {
    let mut batch = AppBatch::new();
    inner.add_record(&mut batch, &record);
    inner.write(&batch, Durability::Synced)?;
    inner.know(|known| known.snapshot = record);
    Ok(())
}

fn copy_out(inner: &Inner, key: &SnapshotKey, dir: &Path) -> Result<(), Error> {
    let mut from = inner.node.snapshots().send(key).map_err(error::of)?;
    std::fs::create_dir_all(dir)?;
    let mut file = File::create(dir.join(SNAPSHOT_FILE))?;
    std::io::copy(&mut from, &mut file)?;
    file.sync_all()?;
    Ok(())
}

fn remove_others(inner: &Inner, keep: &SnapshotKey) -> Result<(), Error> {
    remove_but(inner, Some(keep))
}

fn remove_but(inner: &Inner, keep: Option<&SnapshotKey>) -> Result<(), Error> {
    let snapshots = inner.node.snapshots();
    for info in snapshots.list(Some(inner.region)).map_err(error::of)? {
        let deleted = match keep == Some(&info.key) {
            true => Ok(()),
            false => snapshots.delete(&info.key),
        };
        match deleted {
            Ok(()) | Err(peerstore::Error::SnapshotInUse { .. }) => {}
            Err(error) => return Err(error::of(error)),
        }
    }
    Ok(())
}
