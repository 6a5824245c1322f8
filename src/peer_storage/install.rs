//! Installing a snapshot that came from a leader: checked and read whole first, then switched in steps
//! that a crash may fall between. Uses: the seams, snapshot_content, recovery's states.
//!
//! | step | what becomes durable | a crash after it |
//! |---|---|---|
//! | 1 | kv: Applying, the new apply state, the saved raft state | the log is wiped, then as 2 |
//! | 2 | log: old entries gone, the new raft state, entries behind the snapshot | the data is imported again |
//! | 3 | kv: the data | the same |
//! | 4 | kv: Normal, the saved raft state gone | nothing to do |

use prost::Message as _;
use raft::eraftpb::{Entry, HardState, Snapshot};

use super::log_bytes::LogBytes;
use super::snapshot::SnapshotTask;
use super::snapshot_content::read_content;
use super::snapshot_data::PendingSnapshot;
use super::{Engines, PeerStorage, check_contiguous};
use crate::app_store::{AppBatch, DataImport, Keyspace};
use crate::conf::check_conf_state;
use crate::error::{Error, Result};
use crate::keys::region_key;
use crate::proto::{PeerState, RaftApplyState, RaftLocalState, Region, RegionLocalState, wire};
use crate::raft_log::LogBatch;
use crate::snapshot_data::{RaftSnapshotData, position};
use crate::snapshot_store::{RaftSnapshotStorage, SnapshotInfo, SnapshotKey};
use crate::types::LogPosition;

/// The data of a snapshot between steps 2 and 3: staged, not yet switched to.
pub(super) struct Install {
    // None if the snapshot has no data of its own.
    import: Option<Box<dyn DataImport>>,
    file: Option<SnapshotKey>,
}

impl std::fmt::Debug for Install {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Install").field("file", &self.file).finish()
    }
}

/// What a snapshot brings, checked against the region.
struct Checked {
    position: LogPosition,
    region_state: RegionLocalState,
    file: Option<SnapshotInfo>,
}

impl PeerStorage {
    /// Replaces the log and the configuration by a snapshot's, and the data if the snapshot has any.
    /// The snapshot may lie anywhere behind the truncated index: entries beyond it go too. Term and
    /// commit move as with `MemStorage::apply_snapshot`. Durable on return.
    ///
    /// Unless it travelled inside the message, the snapshot's file must have been transferred before,
    /// with `RaftSnapshotStorage::receive`. It is read whole before anything is changed.
    ///
    /// # Errors
    /// `SnapshotOutOfDate` if it ends before first_index; `SnapshotRefused` if it is of another region,
    /// has an older epoch, or comes while Readies are staged; `SnapshotNotFound`; `Corruption`. Nothing
    /// has changed then. After any other error the region has to be opened again, which goes on.
    pub fn install_snapshot(&mut self, snapshot: Snapshot) -> Result<()> {
        let mut batch = LogBatch::default();
        let install = self.begin_install(&snapshot, None, &[], &mut batch)?;
        self.engines.write_log(&batch)?;
        self.set_installed_persisted();
        self.finish_install(install)
    }

    /// Steps 1 and 2, the latter into `batch`.
    pub(super) fn begin_install(
        &mut self,
        snapshot: &Snapshot,
        hard_state: Option<HardState>,
        entries: &[Entry],
        batch: &mut LogBatch,
    ) -> Result<Install> {
        let checked = self.check_snapshot(snapshot)?;
        let LogPosition { term, index } = checked.position;
        check_contiguous(self.region_id(), index + 1, entries)?;
        let install = self.stage_data(&checked)?;
        let hard_state = hard_state.unwrap_or_else(|| {
            let mut state = self.hard_state().clone();
            (state.term, state.commit) = (state.term.max(term), index);
            state
        });
        let apply_state = RaftApplyState {
            applied_index: index,
            truncated_state: checked.position.into(),
            commit_index: index,
            commit_term: term,
        };
        // The log that is written from this after a crash ends at the snapshot, and so must its commit:
        // what came behind the snapshot was not acknowledged yet.
        let pending = PendingSnapshot {
            hard_state: wire::HardState {
                commit: index,
                ..(&hard_state).into()
            },
            last_index: index,
            file: install.file.map(|key| key.id.into()),
        };
        let region = self.region_id();
        let key = region_key(region);
        let mut kv = AppBatch::default();
        kv.put(
            Keyspace::RegionState,
            key,
            checked.region_state.encode_to_vec(),
        );
        kv.put(Keyspace::ApplyState, key, apply_state.encode_to_vec());
        kv.put(Keyspace::SnapshotState, key, pending.encode_to_vec());
        let written = (self.engines.app).write(&kv, self.engines.options.durability);
        // From here on nobody may write to the log: it is wiped. That holds for a failed write too,
        // because it may be on the disk all the same.
        self.begin_applying();
        self.region_state.state = PeerState::Applying;
        written?;

        let last_index = entries.last().map_or(index, |e| e.index);
        let raft_state = RaftLocalState {
            hard_state,
            last_index,
        };
        batch.clear_region(region);
        batch.append(region, entries.to_vec());
        batch.state(region, raft_state.clone());
        batch.require_sync();

        self.show_snapshot(checked.region_state, apply_state, raft_state.hard_state);
        self.accept_entries(entries.to_vec());
        self.assert_invariants();
        Ok(install)
    }

    /// Makes memory show the snapshot; the state Applying keeps everybody from using it.
    fn show_snapshot(
        &mut self,
        region_state: RegionLocalState,
        apply_state: RaftApplyState,
        hard_state: HardState,
    ) {
        let position = apply_state.truncated();
        self.region_state = region_state;
        self.apply_state = apply_state;
        self.raft_state = RaftLocalState {
            hard_state,
            last_index: position.index,
        };
        self.cache.clear();
        self.forget_from(0);
        self.terms.get_mut().learn(position);
        (self.persisted, self.log_start) = (position.index, position.index + 1);
        *self.log_bytes.get_mut() = LogBytes::Known(0);
    }

    /// Steps 3 and 4.
    pub(super) fn finish_install(&mut self, install: Install) -> Result<()> {
        if let Some(import) = install.import {
            import.finish()?;
        }
        let state = RegionLocalState {
            state: PeerState::Normal,
            ..self.region_state.clone()
        };
        let key = region_key(self.region_id());
        let mut batch = AppBatch::default();
        batch.put(Keyspace::RegionState, key, state.encode_to_vec());
        batch.delete(Keyspace::SnapshotState, key);
        self.engines
            .app
            .write(&batch, self.engines.options.durability)?;
        self.region_state = state;
        self.end_applying();
        if let Some(file) = install.file {
            self.engines.tasks.needed.release(&file);
            self.remove_snapshot_file(file);
        }
        Ok(())
    }

    /// Everything behind the snapshot that came with it is durable.
    fn set_installed_persisted(&mut self) {
        self.persisted = self.log_last();
        self.cache.set_persisted(self.persisted);
    }

    /// Whether a snapshot may replace what is here.
    fn check_snapshot(&self, snapshot: &Snapshot) -> Result<Checked> {
        self.check_writable("install_snapshot")?;
        let region = self.region_id();
        let refused = |reason: String| Error::SnapshotRefused { region, reason };
        let position = position(snapshot);
        let first_index = self.log_first();
        if position.index < first_index {
            return Err(Error::SnapshotOutOfDate {
                region,
                index: position.index,
                first_index,
            });
        }
        if self.staged > 0 {
            let staged = self.staged;
            let reason = format!("{staged} staged writes are not durable yet, expected none");
            return Err(refused(reason));
        }
        let conf_state = snapshot.get_metadata().get_conf_state().clone();
        check_conf_state(&conf_state).map_err(|e| refused(format!("its configuration: {e}")))?;
        let mut region_state = RegionLocalState {
            state: PeerState::Applying,
            conf_state,
            ..self.region_state.clone()
        };
        let Some(data) = RaftSnapshotData::of_snapshot(region, snapshot)? else {
            return Ok(Checked {
                position,
                region_state,
                file: None,
            });
        };
        self.check_region(&data, position.index)?;
        let file = self.snapshot_file(&data, snapshot)?;
        if file.meta.position != position || file.meta.region != data.region {
            let got = format!(
                "its file is of {} at {}",
                file.meta.region.id, file.meta.position
            );
            let reason = format!("{got}, the message of {region} at {position}");
            return Err(self.remove_refused(file.key, refused(reason)));
        }
        region_state.region = data.region;
        Ok(Checked {
            position,
            region_state,
            file: Some(file),
        })
    }

    /// Whether the snapshot is of this region, and not from before a change that is known here. One
    /// that ends behind what is applied here cannot miss a change of the members, whatever its epoch
    /// counts: a change that is written by hand, not with its entry, may be counted twice.
    fn check_region(&self, data: &RaftSnapshotData, index: u64) -> Result<()> {
        let region = self.region_id();
        let (theirs, ours) = (data.region.region_epoch, self.region().region_epoch);
        let is_older = theirs.version < ours.version
            || theirs.conf_ver < ours.conf_ver && index <= self.applied_index();
        let reason = if data.region.id != region.0 {
            format!("it is of region {}, expected {region}", data.region.id)
        } else if data.region.range().is_empty() {
            format!(
                "its range is {}, expected a start below the end",
                data.region.range()
            )
        } else if is_older {
            format!("its epoch is {theirs:?}, expected at least {ours:?}")
        } else {
            return Ok(());
        };
        Err(Error::SnapshotRefused { region, reason })
    }

    /// The file of the snapshot in this node's store; one that came inside the message is put there.
    fn snapshot_file(&self, data: &RaftSnapshotData, snapshot: &Snapshot) -> Result<SnapshotInfo> {
        let store = &*self.engines.snapshots;
        if !data.needs_transfer() {
            return receive_inline(store, &data.inline_file);
        }
        let key = data.key(snapshot);
        let same = |info: &SnapshotInfo| {
            info.meta.position == position(snapshot)
                && info.meta.region == data.region
                && info.digest[..] == data.digest[..]
        };
        let found = store.list(Some(key.region))?.into_iter().find(same);
        found.ok_or_else(|| not_found(&key))
    }

    /// A file that can never be installed goes, or it would be taken for the same one when it is sent
    /// again. Where the system is at fault it stays, for the next try.
    fn remove_refused(&self, file: SnapshotKey, error: Error) -> Error {
        if matches!(
            error,
            Error::SnapshotRefused { .. }
                | Error::Corruption { .. }
                | Error::InvalidArgument { .. }
        ) && let Some(later) =
            SnapshotTask::Remove(file).run(&*self.engines.snapshots, &self.engines.tasks.needed)
        {
            let _ = self.engines.tasks.snapshot.send(later);
        }
        error
    }

    /// Reads the whole file into an import: if anything is wrong with it, nothing has changed yet.
    fn stage_data(&self, checked: &Checked) -> Result<Install> {
        let Some(info) = &checked.file else {
            return Ok(Install {
                import: None,
                file: None,
            });
        };
        let needed = &self.engines.tasks.needed;
        if !needed.need(info.key) {
            return Err(not_found(&info.key));
        }
        let import = stage_import(&self.engines, &info.key, &checked.region_state.region).map_err(
            |error| {
                needed.release(&info.key);
                self.remove_refused(info.key, error)
            },
        )?;
        Ok(Install {
            import: Some(import),
            file: Some(info.key),
        })
    }
}

/// Reads the whole file `key` into an import of the range of `region`.
pub(super) fn stage_import(
    engines: &Engines,
    key: &SnapshotKey,
    region: &Region,
) -> Result<Box<dyn DataImport>> {
    let mut reader = engines.snapshots.open(key)?;
    let mut import = engines.app.begin_import(&region.range())?;
    read_content(key, &mut *reader, &mut *import)?;
    Ok(import)
}

fn not_found(key: &SnapshotKey) -> Error {
    Error::SnapshotNotFound {
        name: key.to_string(),
        path: "the node's snapshots".into(),
    }
}

/// Takes a file out of a message into the store, checked and durable.
fn receive_inline(store: &dyn RaftSnapshotStorage, file: &[u8]) -> Result<SnapshotInfo> {
    let mut receiver = store.receive()?;
    std::io::Write::write_all(&mut receiver, file)
        .map_err(|e| Error::io("receive snapshot", std::path::Path::new("(message)"), e))?;
    receiver.commit()
}
