//! d-engine's state machine: keys and values, those that expire among them, and how far they were applied.

use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{
    ApplyEntry, ApplyResult, Command, Error, ScanResult, StateMachine, StorageError,
};
use d_engine_proto::common::LogId;
use d_engine_proto::server::storage::SnapshotMetadata;
use peerstore::{
    AppBatch, ApplicationDataStorage, ApplyBatch, CompositeStorage, Durability, KeyRange, Keyspace,
    KvCommand, KvReply, KvStateMachine, RaftApplyState, Reader, Region, RegionId, Scan, keys,
};
use prost::Message as _;

use crate::record::{SnapshotRecord, decode};
use crate::{Clock, Options, error, snapshot};

/// How many keys a scan holds in memory beside what it answers.
const PAGE_KEYS: usize = 1024;

/// Keys and values of one raft group, in the data store of a node.
///
/// A chunk and the index that it brings the group to are one batch. It is not fsynced: d-engine has the
/// entries, and applies again what a power cut takes. They are purged only behind an fsync of the data.
///
/// An entry that was applied is not applied again, however often d-engine brings it.
pub struct PeerstoreStateMachine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub node: Arc<CompositeStorage>,
    pub region: RegionId,
    clock: Clock,
    // Held by whoever changes the data, until what it has changed is in `known`.
    writer: Mutex<()>,
    known: RwLock<Known>,
    // No value that was put through here expires before; 0 before the first look.
    expires_first_ms: AtomicU64,
}

/// What is known of the data without reading it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub serving: Serving,
    pub applied: LogId,
    pub snapshot: SnapshotRecord,
}

/// Whether the data can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serving {
    Running,
    Stopped,
    /// A snapshot is being applied, or could not be applied to its end: the data is half of it.
    Restoring,
}

impl PeerstoreStateMachine {
    pub(crate) fn open(node: &Arc<CompositeStorage>, options: Options) -> Result<Self, Error> {
        let known = Known {
            serving: Serving::Running,
            applied: LogId::default(),
            snapshot: SnapshotRecord::default(),
        };
        let inner = Arc::new(Inner {
            node: Arc::clone(node),
            region: options.region,
            clock: options.now_ms,
            writer: Mutex::new(()),
            known: RwLock::new(known),
            expires_first_ms: AtomicU64::new(0),
        });
        inner.load()?;
        snapshot::go_on(&inner)?;
        Ok(PeerstoreStateMachine { inner })
    }

    /// Calls `visit` with every key of `range` that has not expired, ascending, as of one moment.
    fn visit(
        &self,
        reader: &Reader,
        range: KeyRange,
        visit: &mut dyn FnMut(Vec<u8>, Vec<u8>),
    ) -> Result<(), Error> {
        let now_ms = (self.inner.clock)();
        let mut next = Some(Scan::of(range).limit(PAGE_KEYS));
        while let Some(scan) = next.take() {
            let page = reader.page_at(&scan, now_ms).map_err(error::of)?;
            for (key, value) in page.pairs {
                visit(key, value);
            }
            next = page.cursor.map(|cursor| scan.after(cursor));
        }
        Ok(())
    }
}

impl Inner {
    pub fn app(&self) -> &dyn ApplicationDataStorage {
        &**self.node.app()
    }

    pub fn known(&self) -> Known {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    pub fn know(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner));
    }

    // Nothing is behind the lock that a panic could leave half done.
    pub fn lock(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reader of this moment.
    pub fn reader(&self) -> Result<Reader, Error> {
        let view = self.app().view().map_err(error::of)?;
        Ok(Reader::over(view, self.group()))
    }

    /// The group as one region of every key.
    pub fn group(&self) -> Region {
        Region {
            id: self.region.0,
            ..Region::default()
        }
    }

    /// Up to where the data that `reader` sees was applied.
    pub fn applied_in(&self, reader: &Reader) -> Result<LogId, Error> {
        let key = keys::region_key(self.region);
        let bytes = reader.data().get(Keyspace::ApplyState, &key);
        let Some(bytes) = bytes.map_err(error::of)? else {
            return Ok(LogId::default());
        };
        let state = RaftApplyState::decode_of(self.region, &bytes).map_err(error::of)?;
        Ok(LogId {
            index: state.applied_index,
            term: state.commit_term,
        })
    }

    /// Adds the state that says that all up to `applied` is in the data. What is applied is committed, so
    /// the term goes where peerstore keeps that of the commit.
    pub fn add_applied(&self, batch: &mut AppBatch, applied: LogId) {
        let state = RaftApplyState {
            applied_index: applied.index,
            commit_index: applied.index,
            commit_term: applied.term,
            ..RaftApplyState::default()
        };
        let key = keys::region_key(self.region);
        batch.put(Keyspace::ApplyState, key, state.encode_to_vec());
    }

    /// Adds what is known about snapshots.
    pub fn add_record(&self, batch: &mut AppBatch, record: &SnapshotRecord) {
        batch.put(Keyspace::Store, self.record_key(), record.encode_to_vec());
    }

    pub fn write(&self, batch: &AppBatch, durability: Durability) -> Result<(), Error> {
        self.app().write(batch, durability).map_err(error::of)
    }

    fn record_key(&self) -> Vec<u8> {
        [&b"d-engine/"[..], &keys::region_key(self.region)].concat()
    }

    fn load(&self) -> Result<(), Error> {
        let reader = self.reader()?;
        let applied = self.applied_in(&reader)?;
        let bytes = reader.data().get(Keyspace::Store, &self.record_key());
        let snapshot = match bytes.map_err(error::of)? {
            Some(bytes) => decode("record of the snapshots", &bytes)?,
            None => SnapshotRecord::default(),
        };
        self.know(|known| (known.applied, known.snapshot) = (applied, snapshot));
        Ok(())
    }

    fn apply(&self, chunk: &[ApplyEntry]) -> Result<Vec<ApplyResult>, Error> {
        let _writer = self.lock();
        let known = self.known();
        if known.serving == Serving::Restoring {
            return Err(not_serving());
        }
        let range = KeyRange::all();
        let mut batch = ApplyBatch::new(self.app(), &range);
        let mut applied = known.applied;
        let mut results = Vec::with_capacity(chunk.len());
        let now_ms = (self.clock)();
        for entry in chunk {
            if entry.index <= known.applied.index {
                results.push(applied_before(entry));
                continue;
            }
            if entry.index != applied.index + 1 {
                let got = format!("entry {}", entry.index);
                let expected = format!("entry {}, behind what was applied", applied.index + 1);
                return Err(error::state_machine(got, expected));
            }
            results.push(self.apply_entry(entry, now_ms, &mut batch)?);
            applied = LogId {
                index: entry.index,
                term: entry.term,
            };
        }
        if applied == known.applied {
            return Ok(results);
        }
        let mut batch = batch.into_checked(self.region).map_err(error::of)?;
        self.add_applied(&mut batch, applied);
        self.write(&batch, Durability::Buffered)?;
        self.know(|known| known.applied = applied);
        Ok(results)
    }

    fn apply_entry(
        &self,
        entry: &ApplyEntry,
        now_ms: u64,
        batch: &mut ApplyBatch<'_>,
    ) -> Result<ApplyResult, Error> {
        let command = match &entry.command {
            Command::Noop => return Ok(ApplyResult::success(entry.index)),
            Command::Insert {
                key,
                value,
                ttl_secs: None,
            } => KvCommand::put(key.to_vec(), value.to_vec()),
            Command::Insert {
                key,
                value,
                ttl_secs: Some(ttl_secs),
            } => {
                let expires_at_ms = now_ms.saturating_add(ttl_secs.saturating_mul(1000));
                (self.expires_first_ms).fetch_min(expires_at_ms, Ordering::Relaxed);
                KvCommand::PutUntil {
                    key: key.to_vec(),
                    value: value.to_vec(),
                    expires_at_ms,
                }
            }
            Command::Delete { key } => KvCommand::delete(key.to_vec()),
            Command::CompareAndSwap {
                key,
                expected,
                value,
            } => KvCommand::CompareAndSwap {
                key: key.to_vec(),
                expected: expected.as_ref().map(|bytes| bytes.to_vec()),
                new: Some(value.to_vec()),
            },
        };
        // What a client could not read any more is not there for a swap either.
        let command = KvCommand::At {
            now_ms,
            command: Box::new(command),
        };
        let reply = KvStateMachine::apply_command(&command, batch).map_err(error::of)?;
        match reply {
            KvReply::Done | KvReply::Swapped => Ok(ApplyResult::success(entry.index)),
            KvReply::NotSwapped { .. } => Ok(ApplyResult::failure(entry.index)),
            other => {
                let got = format!("entry {}: {other:?}", entry.index);
                Err(error::state_machine(
                    got,
                    "a command that can be done".into(),
                ))
            }
        }
    }

    /// Moves the clock of the group on to the time; the keys that are gone by that.
    fn expire(&self) -> Result<Vec<Bytes>, Error> {
        let now_ms = (self.clock)();
        if now_ms < self.expires_first_ms.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let _writer = self.lock();
        if self.known().serving == Serving::Restoring {
            return Ok(Vec::new());
        }
        let (mut gone, mut first) = (Vec::new(), u64::MAX);
        let reader = self.reader()?;
        let found = reader.scan_expiring(&KeyRange::all(), |key, _, expires_at_ms| {
            match expires_at_ms <= now_ms {
                true => gone.push(Bytes::copy_from_slice(key)),
                false => first = first.min(expires_at_ms),
            }
            Ok(ControlFlow::Continue(()))
        });
        found.map_err(error::of)?;
        if !gone.is_empty() {
            let range = KeyRange::all();
            let mut batch = ApplyBatch::new(self.app(), &range);
            batch.expire_until(now_ms).map_err(error::of)?;
            let batch = batch.into_checked(self.region).map_err(error::of)?;
            self.write(&batch, Durability::Buffered)?;
        }
        self.expires_first_ms.store(first, Ordering::Relaxed);
        Ok(gone)
    }

    fn reset(&self) -> Result<(), Error> {
        let _writer = self.lock();
        let mut batch = AppBatch::new();
        for keyspace in Keyspace::APPLICATION {
            batch.delete_range(keyspace, &KeyRange::all());
        }
        batch.delete(Keyspace::ApplyState, keys::region_key(self.region));
        batch.delete(Keyspace::Store, self.record_key());
        self.write(&batch, Durability::Synced)?;
        self.expires_first_ms.store(u64::MAX, Ordering::Relaxed);
        self.know(|known| {
            known.applied = LogId::default();
            known.snapshot = SnapshotRecord::default();
            if known.serving == Serving::Restoring {
                known.serving = Serving::Running;
            }
        });
        snapshot::remove_all(self)
    }

    /// Writes what is known in memory.
    fn save(&self, durability: Durability) -> Result<(), Error> {
        let known = self.known();
        let mut batch = AppBatch::new();
        self.add_applied(&mut batch, known.applied);
        self.add_record(&mut batch, &known.snapshot);
        self.write(&batch, durability)
    }

    pub fn forget_expiry(&self) {
        self.expires_first_ms.store(0, Ordering::Relaxed);
    }
}

/// The answer for an entry that is in the data already. Nobody waits for it: who proposed it was answered
/// when it was applied, or has lost the connection with the process.
fn applied_before(entry: &ApplyEntry) -> ApplyResult {
    match entry.command {
        Command::CompareAndSwap { .. } => ApplyResult::failure(entry.index),
        _ => ApplyResult::success(entry.index),
    }
}

fn not_serving() -> Error {
    StorageError::NotServing("stopped, or a snapshot is being applied".into()).into()
}

#[async_trait]
impl StateMachine for PeerstoreStateMachine {
    async fn start(&self) -> Result<(), Error> {
        match self.is_running() {
            true => Ok(()),
            false if self.inner.known().serving == Serving::Restoring => Err(not_serving()),
            false => {
                self.inner.know(|known| known.serving = Serving::Running);
                Ok(())
            }
        }
    }

    /// Everything that was applied is durable on return.
    fn stop(&self) -> Result<(), Error> {
        self.flush()?;
        self.inner.know(|known| {
            if known.serving == Serving::Running {
                known.serving = Serving::Stopped;
            }
        });
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.inner.known().serving == Serving::Running
    }

    fn get(&self, key_buffer: &[u8]) -> Result<Option<Bytes>, Error> {
        if !self.is_running() {
            return Err(not_serving());
        }
        let value = self.inner.app().get(Keyspace::Data, key_buffer);
        if let Some(value) = value.map_err(error::of)? {
            return Ok(Some(value.into()));
        }
        // As of one moment, because a write may take a key from one keyspace to the other.
        let now_ms = (self.inner.clock)();
        let value = self.inner.reader()?.value_at(key_buffer, now_ms);
        Ok(value.map_err(error::of)?.map(Bytes::from))
    }

    /// That of the last applied entry; entries are the log's, which knows the others.
    fn entry_term(&self, entry_id: u64) -> Option<u64> {
        let applied = self.last_applied();
        (entry_id > 0 && entry_id == applied.index).then_some(applied.term)
    }

    async fn apply_chunk(&self, chunk: &[ApplyEntry]) -> Result<Vec<ApplyResult>, Error> {
        self.inner.apply(chunk)
    }

    /// Reads every key; 0 if they cannot be read.
    fn len(&self) -> usize {
        let mut count = 0;
        let counted = self
            .inner
            .reader()
            .and_then(|reader| self.visit(&reader, KeyRange::all(), &mut |_, _| count += 1));
        match counted {
            Ok(()) => count,
            Err(error) => {
                tracing::error!(?error, "the keys cannot be counted");
                0
            }
        }
    }

    fn update_last_applied(&self, last_applied: LogId) {
        self.inner.know(|known| known.applied = last_applied);
    }

    fn last_applied(&self) -> LogId {
        self.inner.known().applied
    }

    fn persist_last_applied(&self, last_applied: LogId) -> Result<(), Error> {
        let _writer = self.inner.lock();
        self.update_last_applied(last_applied);
        self.inner.save(Durability::Synced)
    }

    fn update_last_snapshot_metadata(
        &self,
        snapshot_metadata: &SnapshotMetadata,
    ) -> Result<(), Error> {
        let metadata = Some(snapshot_metadata.clone());
        self.inner.know(|known| known.snapshot.metadata = metadata);
        Ok(())
    }

    fn snapshot_metadata(&self) -> Option<SnapshotMetadata> {
        self.inner.known().snapshot.metadata
    }

    fn persist_last_snapshot_metadata(
        &self,
        snapshot_metadata: &SnapshotMetadata,
    ) -> Result<(), Error> {
        let _writer = self.inner.lock();
        self.update_last_snapshot_metadata(snapshot_metadata)?;
        self.inner.save(Durability::Synced)
    }

    async fn apply_snapshot_from_file(
        &self,
        metadata: &SnapshotMetadata,
        snapshot_path: PathBuf,
    ) -> Result<(), Error> {
        let metadata = metadata.clone();
        self.blocking(move |inner| snapshot::apply(inner, &metadata, &snapshot_path))
            .await
    }

    async fn generate_snapshot_data(
        &self,
        new_snapshot_dir: PathBuf,
        last_included: LogId,
    ) -> Result<Bytes, Error> {
        self.blocking(move |inner| snapshot::generate(inner, &new_snapshot_dir, last_included))
            .await
    }

    fn save_hard_state(&self) -> Result<(), Error> {
        let _writer = self.inner.lock();
        self.inner.save(Durability::Synced)
    }

    fn flush(&self) -> Result<(), Error> {
        self.inner.app().sync().map_err(error::of)
    }

    async fn flush_async(&self) -> Result<(), Error> {
        self.flush()
    }

    async fn reset(&self) -> Result<(), Error> {
        self.inner.reset()
    }

    /// The pairs and the index are of one moment. An empty prefix is every key.
    fn scan_prefix(&self, prefix: &[u8]) -> Result<ScanResult, Error> {
        if !self.is_running() {
            return Err(not_serving());
        }
        let reader = self.inner.reader()?;
        let revision = self.inner.applied_in(&reader)?.index;
        let mut entries = Vec::new();
        self.visit(&reader, KeyRange::prefix(prefix), &mut |key, value| {
            entries.push((key.into(), value.into()));
        })?;
        Ok(ScanResult { entries, revision })
    }

    async fn lease_background_cleanup(&self) -> Result<Vec<Bytes>, Error> {
        self.inner.expire()
    }
}

impl PeerstoreStateMachine {
    /// Does on another thread what reads and writes all of the data, or d-engine's own would stand still.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|e| Err(Error::Fatal(format!("the task of a snapshot: {e}"))))
    }
}

impl fmt::Debug for PeerstoreStateMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerstoreStateMachine")
            .field("region", &self.inner.region)
            .field("known", &self.inner.known())
            .finish_non_exhaustive()
    }
}

impl Drop for PeerstoreStateMachine {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::error!(
                ?error,
                "what was applied last may not be durable; the log has it"
            );
        }
    }
}
