//! openraft's state machine: keys and values on our data store. Uses: app_store, state_machine, kv,
//! snapshot, gate, reader, async_io.
//!
//! Nothing here waits for the disk on openraft's threads.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::RaftStateMachine;
use openraft::{
    BasicNode, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta,
    StorageError, StorageIOError, StoredMembership,
};
use prost::Message as _;
use tokio::runtime::Handle;

use super::failure::{any, blocking};
use super::gate::Gate;
use super::install::install;
use super::snapshot::{Applied, Files};
use super::stream::SnapshotStream;
use super::wire::ApplyRecord;
use super::{Entry, KvReply, KvStateMachine, TypeConfig};
use crate::app_store::{ApplicationDataStorage, DataRead, DataView, Keyspace};
use crate::async_io::AsyncSnapshots;
use crate::error::{Error, Result};
use crate::keys::region_key;
use crate::proto::{Region, RegionLocalState, decode};
use crate::reader::Reader;
use crate::state_machine::ApplyBatch;
use crate::types::{Durability, RegionId};

type StorageResult<T> = Result<T, StorageError<u64>>;

/// The keys and values of one group, under openraft.
///
/// Data, applied log id and membership are one batch, always. That batch is not fsynced by itself: the log
/// has the entries, and keeps them until the data is durable. A snapshot is built from a view that is
/// pinned when openraft asks for its builder, on another thread, streamed, compressed and checked.
///
/// It comes from [`Groups::open`](super::Groups::open).
pub struct StateMachine {
    core: Arc<MachineCore>,
}

/// Builds a snapshot of what the state machine was when the builder was asked for.
pub struct SnapshotBuilder {
    core: Arc<MachineCore>,
    // None once it was used. In a lock because openraft wants to share what has one owner.
    view: Mutex<Option<Result<Box<dyn DataView>>>>,
}

/// Reads the data of a group, from any thread. Clones are cheap.
///
/// It reads what this node has applied. For a linearizable read await `Raft::ensure_linearizable` first.
#[derive(Clone)]
pub struct DataReader {
    core: Arc<MachineCore>,
}

/// What a state machine, its builders and its readers share.
pub(super) struct MachineCore {
    pub app: Arc<dyn ApplicationDataStorage>,
    pub files: Files,
    pub gate: Arc<Gate>,
    pub state: Mutex<MachineState>,
    region: Arc<RegionLocalState>,
    // The node and the ownership of the region, dropped last.
    _owner: Arc<dyn Any + Send + Sync>,
}

#[derive(Debug, Default)]
pub(super) struct MachineState {
    pub applied: Applied,
    /// The data is neither the old one nor the new one.
    pub is_installing: bool,
}

/// What `data` says that the state machine of `region` has come to.
///
/// # Errors
/// `Corruption` if it does not decode or was written by raft-rs, else those of the store.
pub(super) fn read_applied(data: &dyn DataRead, region: RegionId) -> Result<Applied> {
    let Some(bytes) = data.get(Keyspace::ApplyState, &region_key(region))? else {
        return Ok(Applied::default());
    };
    let record: ApplyRecord = decode(region, "openraft's apply state", &bytes)?;
    let (Some(log_id), Some(membership)) = (record.applied, record.membership) else {
        let detail = "it has no log id of openraft; was it written by raft-rs?";
        return Err(Error::corruption(
            Some(region),
            "openraft's apply state",
            detail,
        ));
    };
    Ok(Applied {
        log_id: Some(log_id.into()),
        membership: membership.into(),
    })
}

impl MachineCore {
    /// Of a group whose stores say that it has come to `applied`.
    pub fn new(
        app: Arc<dyn ApplicationDataStorage>,
        files: Files,
        gate: Arc<Gate>,
        applied: Applied,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Arc<MachineCore> {
        let region = RegionLocalState {
            region: Region::with_voters(files.region, files.range.clone(), []),
            ..RegionLocalState::default()
        };
        let state = MachineState {
            applied,
            is_installing: false,
        };
        Arc::new(MachineCore {
            app,
            files,
            gate,
            state: Mutex::new(state),
            region: Arc::new(region),
            _owner: owner,
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, MachineState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what `entries` say, in one batch with where that leads to.
    fn apply(&self, entries: &[Entry]) -> Result<Vec<Option<KvReply>>> {
        let Some(last) = entries.last().map(|entry| entry.log_id) else {
            return Ok(Vec::new());
        };
        let region = self.files.region;
        let mut membership = self.lock().applied.membership.clone();
        let mut replies = Vec::with_capacity(entries.len());
        let mut batch = ApplyBatch::new(&*self.app, &self.files.range);
        for entry in entries {
            replies.push(match &entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Normal(command) => {
                    Some(KvStateMachine::apply_command(command, &mut batch)?)
                }
                EntryPayload::Membership(new) => {
                    membership = StoredMembership::new(Some(entry.log_id), new.clone());
                    None
                }
            });
        }
        let mut writes = batch.into_checked(region)?;
        let record = ApplyRecord::new(last, &membership);
        writes.put(
            Keyspace::ApplyState,
            region_key(region),
            record.encode_to_vec(),
        );
        self.app.write(&writes, Durability::Buffered)?;
        let applied = Applied {
            log_id: Some(last),
            membership,
        };
        let end = applied.end();
        self.lock().applied = applied;
        self.gate.note_written(end);
        Ok(replies)
    }

    fn view(&self) -> Result<Box<dyn DataView>> {
        // The lock keeps an install from beginning under it.
        let state = self.lock();
        if state.is_installing {
            return Err(Error::Refused {
                region: self.files.region,
                what: "read",
                reason: "a snapshot is being installed; try again later".into(),
            });
        }
        self.app.view()
    }
}

impl MachineCore {
    /// The store of the snapshots, awaited on the runtime that this is called in.
    fn snapshots(&self) -> AsyncSnapshots {
        AsyncSnapshots::new(Arc::clone(&self.files.store), Handle::current())
    }
}

impl StateMachine {
    pub(super) fn new(core: Arc<MachineCore>) -> Self {
        StateMachine { core }
    }

    /// The id of the group.
    pub fn region_id(&self) -> RegionId {
        self.core.files.region
    }

    /// Reads the data beside openraft, which takes the state machine for itself.
    pub fn reader(&self) -> DataReader {
        DataReader {
            core: Arc::clone(&self.core),
        }
    }
}

impl DataReader {
    /// A view of the data as of now, to read any number of keys from. Blocks for a moment at most.
    ///
    /// # Errors
    /// `Refused` while a snapshot is being installed; those of the data store.
    pub fn view(&self) -> Result<Reader> {
        let view = self.core.view()?;
        Ok(Reader::new(view, Arc::clone(&self.core.region)))
    }

    /// The value of `key`, read on a thread that may wait for the disk.
    ///
    /// # Errors
    /// As [`DataReader::view`]; `KeyOutOfRange` if it is not the group's.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let (reader, key) = (self.clone(), key.to_vec());
        blocking(move || reader.view()?.get(&key)).await
    }

    /// The last entry that this node has applied.
    pub fn applied(&self) -> Option<LogId<u64>> {
        self.core.lock().applied.log_id
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> StorageResult<Snapshot<TypeConfig>> {
        let slot = self.view.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (core, view) = (Arc::clone(&self.core), slot.take());
        let built = blocking(move || {
            let view = view.unwrap_or_else(|| core.view())?;
            let applied = read_applied(&*view, core.files.region)?;
            core.files.build(&*view, &applied, &core.gate)
        });
        let built = built.await;
        built.map_err(|e| StorageIOError::write_snapshot(None, any(&e)).into())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(
        &mut self,
    ) -> StorageResult<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>)> {
        let applied = self.core.lock().applied.clone();
        Ok((applied.log_id, applied.membership))
    }

    async fn apply<I>(&mut self, entries: I) -> StorageResult<Vec<Option<KvReply>>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let last = entries.last().map(|entry| entry.log_id);
        let core = Arc::clone(&self.core);
        let applied = blocking(move || core.apply(&entries)).await;
        applied.map_err(|e| match last {
            Some(last) => StorageIOError::apply(last, any(&e)).into(),
            None => StorageIOError::write_state_machine(any(&e)).into(),
        })
    }

    /// Pins what the snapshot will hold.
    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let core = Arc::clone(&self.core);
        let view = blocking(move || core.view()).await;
        SnapshotBuilder {
            core: Arc::clone(&self.core),
            view: Mutex::new(Some(view)),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> StorageResult<Box<SnapshotStream>> {
        let receiver = self.core.snapshots().receive().await;
        match receiver {
            Ok(receiver) => Ok(Box::new(SnapshotStream::receiving(receiver))),
            Err(e) => Err(StorageIOError::write_snapshot(None, any(&e)).into()),
        }
    }

    /// Checks all of `snapshot`, then replaces the data by its content, in steps that a crash may fall
    /// between: the next open goes on with it.
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        snapshot: Box<SnapshotStream>,
    ) -> StorageResult<()> {
        let (core, expected) = (Arc::clone(&self.core), meta.clone());
        let installed = match snapshot.take_in(&self.core.snapshots()).await {
            Ok(info) => blocking(move || install(&core, &info, &expected)).await,
            Err(error) => Err(error),
        };
        installed.map_err(|e| {
            // The log would wait for it for ever.
            self.core.gate.break_down();
            StorageIOError::write_snapshot(Some(meta.signature()), any(&e)).into()
        })
    }

    async fn get_current_snapshot(&mut self) -> StorageResult<Option<Snapshot<TypeConfig>>> {
        let core = Arc::clone(&self.core);
        let current = blocking(move || {
            let applied = core.lock().applied.clone();
            match core.files.current(&applied)? {
                Some((of, info)) => core.files.to_send(of, &info).map(Some),
                None => Ok(None),
            }
        });
        let current = current.await;
        current.map_err(|e| StorageIOError::read_snapshot(None, any(&e)).into())
    }
}

impl fmt::Debug for StateMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.core.lock();
        f.debug_struct("StateMachine")
            .field("state", &*state)
            .finish()
    }
}

impl fmt::Debug for SnapshotBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let region = self.core.files.region;
        f.debug_struct("SnapshotBuilder")
            .field("region", &region)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for DataReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let region = self.core.files.region;
        f.debug_struct("DataReader")
            .field("region", &region)
            .finish_non_exhaustive()
    }
}
