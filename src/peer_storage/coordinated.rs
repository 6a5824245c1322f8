//! Snapshots that a node keeps for itself, to be restored: made of what the state machine has applied,
//! durable before the log may go. Uses: the seams, snapshot_content. Runs on a worker, or on its caller.
//!
//! The newest of a region has a record in the data store, so that it stays although raft has no use for
//! it. It is written behind the file; a crash between the two leaves a file that the next open removes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_channel::Sender;
use prost::Message as _;

use super::snapshot_content::{Cancel, write_content};
use super::snapshot_data::{PendingFile, read_states};
use super::{Engines, NeededFiles};
use crate::app_store::{AppBatch, ApplicationDataStorage, DataRead, DataView, Keyspace};
use crate::error::{Error, Result};
use crate::keys::kept_snapshot_key;
use crate::proto::{PeerState, RaftApplyState, decode};
use crate::raft_log::RaftLogStorage;
use crate::snapshot_store::{RaftSnapshotStorage, SnapshotInfo, SnapshotKey, SnapshotMeta};
use crate::types::{Durability, LogPosition, PeerId, RegionId};

/// The record of the snapshot that a region keeps.
#[derive(Clone, PartialEq, prost::Message)]
struct KeptSnapshot {
    /// Whose it is: one of a peer that was removed is not this peer's.
    #[prost(uint64, tag = "1")]
    peer_id: u64,
    #[prost(message, required, tag = "2")]
    file: PendingFile,
}

/// What regions have done since their node was opened, all together.
#[derive(Debug, Default)]
pub struct Counts {
    /// Snapshots that were built, for raft or to be kept.
    pub snapshots_created: AtomicU64,
    /// Regions whose data a snapshot has replaced.
    pub snapshots_restored: AtomicU64,
    /// Logs that lost their front.
    pub log_compactions: AtomicU64,
}

impl Counts {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }
}

/// What it takes to make a snapshot.
#[derive(Clone)]
pub struct SnapshotMaker {
    app: Arc<dyn ApplicationDataStorage>,
    log: Arc<dyn RaftLogStorage>,
    durability: Durability,
}

/// A snapshot for the worker to make.
pub struct MakeTask {
    pub(super) maker: SnapshotMaker,
    pub(super) region: RegionId,
    pub(super) view: Box<dyn DataView>,
    pub(super) cancel: Arc<Cancel>,
    pub(super) reply: Sender<Result<SnapshotInfo>>,
}

impl MakeTask {
    /// The region.
    pub fn region(&self) -> RegionId {
        self.region
    }

    pub(super) fn run(self, store: &dyn RaftSnapshotStorage, needed: &NeededFiles) {
        let MakeTask {
            maker,
            region,
            view,
            cancel,
            reply,
        } = self;
        let made = crate::error::catch_panic("snapshot", || {
            maker.make(region, &*view, &cancel, store, needed)
        });
        // Whoever asked may be gone; the snapshot is there all the same.
        let _ = reply.send(made);
    }
}

impl SnapshotMaker {
    /// Makes snapshots of what `engines` keep.
    pub fn new(engines: &Engines) -> Self {
        SnapshotMaker {
            app: Arc::clone(&engines.app),
            log: Arc::clone(&engines.log),
            durability: engines.options.durability,
        }
    }

    /// Makes the snapshot of `region` as `view` has it: it covers what was applied then. On return it and
    /// its record are durable, and so is everything that was applied before the call.
    ///
    /// # Errors
    /// `RegionNotFound`; `SnapshotTemporarilyUnavailable` while the region is being installed or merged;
    /// `InvalidArgument` if nothing was applied yet; `Cancelled`; those of the stores. Nothing is left
    /// then, unless a crash leaves a file, which is removed with the next open.
    pub fn make(
        &self,
        region: RegionId,
        view: &dyn DataRead,
        cancel: &Cancel,
        store: &dyn RaftSnapshotStorage,
        needed: &NeededFiles,
    ) -> Result<SnapshotInfo> {
        cancel.check(region)?;
        let (apply, state) = read_states(view, region)?;
        // One that waits for a merge is not to be copied: the copy would not wait.
        if state.state != PeerState::Normal {
            return Err(Error::SnapshotTemporarilyUnavailable { region });
        }
        if apply.applied_index == 0 {
            let (what, expected) = ("snapshot", "an applied entry");
            return Err(Error::invalid(region, what, "applied index 0", expected));
        }
        let meta = SnapshotMeta {
            position: self.applied_position(region, &apply)?,
            region: state.region,
            conf_state: state.conf_state,
        };
        let range = meta.region.range();
        let mut writer = store.create(meta)?;
        write_content(region, view, &range, cancel, &mut *writer)?;
        let info = writer.commit()?;
        // Its peer may be gone, and then nobody would ever remove it.
        let recorded = cancel.check(region).and_then(|()| {
            let mut batch = AppBatch::new();
            put_record(state.peer_id, info.key, &mut batch);
            self.app.write(&batch, self.durability)
        });
        if let Err(error) = recorded {
            if let Err(error) = needed.remove(store, &info.key) {
                tracing::warn!(key = %info.key, %error, "snapshot file not removed");
            }
            return Err(error);
        }
        let before = needed.keep(info.key);
        Counts::add(&needed.counts().snapshots_created);
        if let Some(before) = before
            && !needed.keeps_many()
            && let Err(error) = needed.remove(store, &before)
        {
            // It is an orphan now, and is removed when its region is next opened.
            tracing::warn!(%before, %error, "snapshot file not removed");
        }
        Ok(info)
    }

    fn applied_position(&self, region: RegionId, state: &RaftApplyState) -> Result<LogPosition> {
        let index = state.applied_index;
        let truncated = state.truncated();
        let term = if state.commit_index == index {
            state.commit_term
        } else if truncated.index == index {
            truncated.term
        } else {
            let entry = self.log.read_entry(region, index)?;
            let missing = || Error::corruption(Some(region), format!("entry {index}"), "missing");
            entry.ok_or_else(missing)?.term
        };
        Ok(LogPosition::new(term, index))
    }
}

/// Puts the record of `key`, which `peer` keeps.
pub(super) fn put_record(peer: PeerId, key: SnapshotKey, batch: &mut AppBatch) {
    let record = KeptSnapshot {
        peer_id: peer.0,
        file: key.id.into(),
    };
    let name = kept_snapshot_key(key.region);
    batch.put(Keyspace::Store, name, record.encode_to_vec());
}

/// Removes the record of a region.
pub(super) fn remove_record(region: RegionId, batch: &mut AppBatch) {
    batch.delete(Keyspace::Store, kept_snapshot_key(region));
}

/// The snapshot that `peer` of `region` keeps, as its record says.
///
/// # Errors
/// `Corruption` if it does not decode, else those of the data store.
pub(super) fn read_record(
    app: &dyn DataRead,
    region: RegionId,
    peer: PeerId,
) -> Result<Option<SnapshotKey>> {
    let Some(bytes) = app.get(Keyspace::Store, &kept_snapshot_key(region))? else {
        return Ok(None);
    };
    let record: KeptSnapshot = decode(region, "KeptSnapshot", &bytes)?;
    Ok((record.peer_id == peer.0).then(|| record.file.key(region)))
}
