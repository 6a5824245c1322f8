//! Installing a snapshot that came from a leader: checked and read whole first, then switched in steps
//! that a crash may fall between. Uses: the seams, snapshot_content, recovery's states.
//!
//! | step | what becomes durable | a crash after it |
//! |---|---|---|
//! | 1 | kv: Applying, the new apply state, the saved raft state; keys that are given up go | the log is wiped, then as 2 |
//! | 2 | log: old entries gone, the new raft state, entries behind the snapshot | the data is imported again |
//! | 3 | kv: the data | the same |
//! | 4 | kv: Normal, the saved raft state gone | nothing to do |

use prost::Message as _;
use raft::eraftpb::{Entry, HardState, Snapshot};

use super::coordinated::{Counts, put_record};
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
use crate::types::{KeyRange, LogPosition};

/// The data of a snapshot between steps 2 and 3: staged, not yet switched to.
pub(super) struct Install {
    // None if the snapshot has no data of its own.
    import: Option<Box<dyn DataImport>>,
    file: Option<SnapshotKey>,
    content_bytes: u64,
}

impl std::fmt::Debug for Install {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Install").field("file", &self.file).finish()
    }
}

/// What an install switches a region to, as far as the message tells and checked against the region.
#[derive(Debug)]
pub(super) struct Target {
    // Applying; the range and epoch are the snapshot's.
    pub region_state: RegionLocalState,
    pub apply_state: RaftApplyState,
    pub hard_state: HardState,
    // Those that came behind the snapshot.
    pub entries: Vec<Entry>,
    // None if it leaves the data alone.
    data: Option<RaftSnapshotData>,
    // What the region gives up: keys that a split here has not come to yet. They were this region's
    // until now, so nobody else's, and whoever has them now brings its own.
    given_up: Vec<KeyRange>,
    snapshot: Snapshot,
    // Set if the region goes back to a snapshot that it keeps.
    restored: Option<SnapshotKey>,
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
        let target = self.plan_install(snapshot, hard_state, entries)?;
        let install = target.stage_data(&self.engines)?;
        let written = target.write_applying(&self.engines, &install, AppBatch::default());
        // From here on nobody may write to the log: it is wiped. That holds for a failed write too,
        // because it may be on the disk all the same.
        self.set_applying();
        written?;
        target.add_to_log(batch);
        self.show_target(target);
        Ok(install)
    }

    /// From here on the region writes nothing: a snapshot is being installed.
    pub(super) fn set_applying(&mut self) {
        self.begin_applying();
        self.region_state.state = PeerState::Applying;
    }

    /// Makes memory show the snapshot and what came behind it; while the state is Applying, that keeps
    /// everybody from using it.
    pub(super) fn show_target(&mut self, target: Target) {
        let position = target.apply_state.truncated();
        self.region_state = target.region_state;
        self.apply_state = target.apply_state;
        self.raft_state = RaftLocalState {
            hard_state: target.hard_state,
            last_index: position.index,
        };
        self.cache.clear();
        self.forget_from(0);
        self.terms.get_mut().learn(position);
        (self.persisted, self.log_start) = (position.index, position.index + 1);
        *self.log_bytes.get_mut() = LogBytes::Known(0);
        self.accept_entries(target.entries);
        self.assert_invariants();
    }

    /// Steps 3 and 4.
    pub(super) fn finish_install(&mut self, install: Install) -> Result<()> {
        self.region_state = install.finish(&self.engines, &self.region_state)?;
        self.end_applying();
        Ok(())
    }

    /// Everything behind the snapshot that came with it is durable.
    pub(super) fn set_installed_persisted(&mut self) {
        self.persisted = self.log_last();
        self.cache.set_persisted(self.persisted);
    }

    /// Whether a snapshot may replace what is here, and by what. Reads nothing.
    pub(super) fn plan_install(
        &self,
        snapshot: &Snapshot,
        hard_state: Option<HardState>,
        entries: &[Entry],
    ) -> Result<Target> {
        let (region, index) = (self.region_id(), position(snapshot).index);
        let first_index = self.log_first();
        if index < first_index {
            return Err(Error::SnapshotOutOfDate {
                region,
                index,
                first_index,
            });
        }
        self.plan_switch(snapshot, hard_state, entries)
    }

    /// The same wherever the snapshot ends.
    pub(super) fn plan_switch(
        &self,
        snapshot: &Snapshot,
        hard_state: Option<HardState>,
        entries: &[Entry],
    ) -> Result<Target> {
        self.check_writable("install_snapshot")?;
        let region = self.region_id();
        let refused = |reason: String| Error::SnapshotRefused { region, reason };
        let position = position(snapshot);
        let LogPosition { term, index } = position;
        if self.staged > 0 {
            let staged = self.staged;
            let reason = format!("{staged} staged writes are not durable yet, expected none");
            return Err(refused(reason));
        }
        let conf_state = snapshot.get_metadata().get_conf_state().clone();
        check_conf_state(&conf_state).map_err(|e| refused(format!("its configuration: {e}")))?;
        let data = RaftSnapshotData::of_snapshot(region, snapshot)?;
        if let Some(data) = &data {
            self.check_region(data, index)?;
        }
        check_contiguous(region, index + 1, entries)?;
        let range_and_epoch = data.as_ref().map(|data| data.region.clone());
        let given_up = match &range_and_epoch {
            // A range becomes smaller by a split, which counts.
            Some(next)
                if self.region().is_initialized()
                    && next.region_epoch.version > self.region().region_epoch.version =>
            {
                self.region().range().without(&next.range())
            }
            _ => Vec::new(),
        };
        let hard_state = hard_state.unwrap_or_else(|| {
            let mut state = self.hard_state().clone();
            (state.term, state.commit) = (state.term.max(term), index);
            state
        });
        Ok(Target {
            region_state: RegionLocalState {
                state: PeerState::Applying,
                region: range_and_epoch.unwrap_or_else(|| self.region().clone()),
                // A region that waits for a merge has no snapshot: this one is from after the wait.
                merge_state: None,
                peer_id: self.peer_id(),
                conf_state,
            },
            apply_state: RaftApplyState {
                applied_index: index,
                truncated_state: position.into(),
                commit_index: index,
                commit_term: term,
            },
            hard_state,
            entries: entries.to_vec(),
            data,
            given_up,
            snapshot: snapshot.clone(),
            restored: None,
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
}

impl Target {
    /// The same as a way back to `key`, which the region then keeps.
    pub fn into_restore(self, key: SnapshotKey) -> Target {
        Target {
            restored: Some(key),
            ..self
        }
    }

    /// Reads the whole file into an import: if anything is wrong with it, nothing has changed yet.
    pub fn stage_data(&self, engines: &Engines) -> Result<Install> {
        let Some(info) = self.file(engines)? else {
            return Ok(Install {
                import: None,
                file: None,
                content_bytes: 0,
            });
        };
        let needed = &engines.tasks.needed;
        if !needed.need(info.key) {
            return Err(not_found(&info.key));
        }
        let import =
            stage_import(engines, &info.key, &self.region_state.region).map_err(|error| {
                needed.release(&info.key);
                engines.metrics.install_refused();
                remove_refused(engines, info.key, error)
            })?;
        Ok(Install {
            import: Some(import),
            file: Some(info.key),
            content_bytes: info.content_bytes,
        })
    }

    /// Step 1, behind what is in `batch` already.
    pub fn write_applying(
        &self,
        engines: &Engines,
        install: &Install,
        mut batch: AppBatch,
    ) -> Result<()> {
        self.add_applying(install, &mut batch);
        let written = engines.app.write(&batch, engines.options.durability);
        if written.is_err() {
            let region = self.region_state.region.region_id();
            engines.open_regions.doubt(region);
        }
        written
    }

    /// Puts step 1 into `batch`.
    pub fn add_applying(&self, install: &Install, batch: &mut AppBatch) {
        let region = self.region_state.region.region_id();
        // The log that is written from this after a crash ends at the snapshot, and so must its commit:
        // what came behind the snapshot was not acknowledged yet.
        let index = self.apply_state.applied_index;
        let pending = PendingSnapshot {
            hard_state: wire::HardState {
                commit: index,
                ..(&self.hard_state).into()
            },
            last_index: index,
            file: install.file.map(|key| key.id.into()),
            is_restore: self.restored.is_some(),
        };
        let key = region_key(region);
        batch.put(
            Keyspace::RegionState,
            key,
            self.region_state.encode_to_vec(),
        );
        batch.put(Keyspace::ApplyState, key, self.apply_state.encode_to_vec());
        batch.put(Keyspace::SnapshotState, key, pending.encode_to_vec());
        // With the range: afterwards nobody would know whose they were.
        for range in &self.given_up {
            for keyspace in Keyspace::APPLICATION {
                batch.delete_range(keyspace, range);
            }
        }
        if let Some(key) = self.restored {
            put_record(self.region_state.peer_id, key, batch);
        }
    }

    /// Step 2.
    pub fn add_to_log(&self, batch: &mut LogBatch) {
        let region = self.region_state.region.region_id();
        let index = self.apply_state.applied_index;
        batch.clear_region(region);
        batch.append(region, self.entries.clone());
        batch.state(
            region,
            RaftLocalState {
                hard_state: self.hard_state.clone(),
                last_index: self.entries.last().map_or(index, |e| e.index),
            },
        );
        batch.require_sync();
    }

    /// The file of the snapshot in this node's store; one that came inside the message is put there.
    /// None if the snapshot has none.
    fn file(&self, engines: &Engines) -> Result<Option<SnapshotInfo>> {
        let Some(data) = &self.data else {
            return Ok(None);
        };
        let store = &*engines.snapshots;
        let (region, position) = (data.region.region_id(), position(&self.snapshot));
        if data.needs_transfer() {
            let same = |info: &SnapshotInfo| {
                info.meta.position == position
                    && info.meta.region == data.region
                    && info.digest[..] == data.digest[..]
            };
            let found = store.list(Some(region))?.into_iter().find(same);
            let file = found.ok_or_else(|| not_found(&data.key(&self.snapshot)))?;
            return Ok(Some(file));
        }
        let file = receive_inline(store, &data.inline_file)?;
        if file.meta.position == position && file.meta.region == data.region {
            return Ok(Some(file));
        }
        let (got, at) = (file.meta.region.id, file.meta.position);
        let reason = format!("its file is of {got} at {at}, the message of {region} at {position}");
        let refused = Error::SnapshotRefused { region, reason };
        Err(remove_refused(engines, file.key, refused))
    }
}

impl Install {
    /// Before step 1: nothing was changed, and the file is not needed any more.
    pub fn give_up(&self, engines: &Engines) {
        if let Some(file) = &self.file {
            engines.tasks.needed.release(file);
        }
    }

    /// Steps 3 and 4. Returns the region as it is now.
    pub fn finish(
        self,
        engines: &Engines,
        applying: &RegionLocalState,
    ) -> Result<RegionLocalState> {
        if let Some(import) = self.import {
            (engines.metrics).install(self.content_bytes, || import.finish())?;
        }
        let state = RegionLocalState {
            state: PeerState::Normal,
            ..applying.clone()
        };
        let key = region_key(state.region.region_id());
        let mut batch = AppBatch::default();
        batch.put(Keyspace::RegionState, key, state.encode_to_vec());
        batch.delete(Keyspace::SnapshotState, key);
        engines.app.write(&batch, engines.options.durability)?;
        Counts::add(&engines.tasks.needed.counts().snapshots_restored);
        if let Some(file) = self.file {
            engines.tasks.needed.release(&file);
            engines.remove_snapshot_file(file);
        }
        Ok(state)
    }
}

/// A file that can never be installed goes, or it would be taken for the same one when it is sent
/// again. Where the system is at fault it stays, for the next try.
fn remove_refused(engines: &Engines, file: SnapshotKey, error: Error) -> Error {
    if matches!(
        error,
        Error::SnapshotRefused { .. } | Error::Corruption { .. } | Error::InvalidArgument { .. }
    ) && let Some(later) =
        SnapshotTask::Remove(file).run(&*engines.snapshots, &engines.tasks.needed)
    {
        let _ = engines.tasks.snapshot.send(later);
    }
    error
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
