//! The snapshots of a node for async code: the same calls and streams, awaited. Uses: snapshot_store,
//! error. What touches a file runs on the blocking threads of a tokio runtime.
//!
//! The storage itself has no runtime ([`RaftSnapshotStorage`] is called on the thread that needs it).
//! Whoever has one, and wants to serve or take in a snapshot over an async connection, finds here
//! [`AsyncSnapshots`] and its streams, which are [`tokio::io::AsyncRead`], `AsyncSeek` and `AsyncWrite`.
//!
//! - **Nothing blocks the runtime.** Reads, writes, commits and the removal of what was given up run by
//!   `spawn_blocking`, one piece at a time for each stream.
//! - **Memory is bounded.** A stream has one buffer of [`STREAM_BUFFER_BYTES`] and what the stream below
//!   it has. A reader does not read ahead of it, a writer that is not awaited takes no more.
//! - **Any await can be dropped.** A read, write or seek that was begun is finished on its thread, and the
//!   next call finds its outcome: no byte is lost or doubled. A writer that is dropped leaves nothing.
//! - **Errors keep their type.** Streams fail with an [`std::io::Error`] that has an [`Error`] inside, which
//!   its `downcast` gives back.
//!
//! ```
//! use std::sync::Arc;
//! use peerstore::async_io::AsyncSnapshots;
//! use peerstore::memory::MemorySnapshots;
//! use peerstore::{LogPosition, Region, SnapshotMeta};
//! use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! # runtime.block_on(async {
//! let store = Arc::new(MemorySnapshots::new()); // or `node.snapshots().clone()`
//! let snapshots = AsyncSnapshots::new(store, tokio::runtime::Handle::current());
//! let region = Region::single(1, 1);
//! let conf_state = region.conf_state();
//! let meta = SnapshotMeta { region, position: LogPosition::new(6, 42), conf_state };
//!
//! let mut writer = snapshots.create(meta).await?;
//! writer.write_all(b"everything").await?;
//! let info = writer.commit().await?; // without this there is no snapshot
//!
//! let mut content = String::new();
//! snapshots.open(&info.key).await?.read_to_string(&mut content).await?;
//! assert_eq!(content, "everything");
//!
//! // The file as it is, to another store: over a socket, or as here from hand to hand.
//! let other = AsyncSnapshots::new(Arc::new(MemorySnapshots::new()), snapshots.runtime().clone());
//! let mut receiver = other.receive().await?;
//! tokio::io::copy(&mut snapshots.send(&info.key).await?, &mut receiver).await?;
//! assert_eq!(receiver.commit().await?, info);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod offload;
mod sink;
mod source;

use std::io::SeekFrom;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::snapshot_store::{
    RaftSnapshotStorage, SnapshotFile, SnapshotInfo, SnapshotKey, SnapshotMeta, SnapshotReader,
    SnapshotReceiver, SnapshotReport, SnapshotTransfer, SnapshotWriter,
};
use crate::types::RegionId;

use offload::Task;
pub use sink::AsyncSink;
pub use source::AsyncSource;

/// What a stream holds at most beside what the stream below it does, in bytes: a quarter of the block of
/// a snapshot, so that handing work to another thread is little beside the work.
pub const STREAM_BUFFER_BYTES: usize = 256 << 10;

/// A [`RaftSnapshotStorage`] whose calls are awaited. They do what the calls of the same names do there,
/// on a blocking thread of the runtime; clones share the storage.
#[derive(Clone)]
pub struct AsyncSnapshots {
    storage: Arc<dyn RaftSnapshotStorage>,
    runtime: Handle,
}

impl AsyncSnapshots {
    /// The snapshots of `storage`, whose work is done on the blocking threads of `runtime`. What awaits
    /// it may run anywhere, on another runtime too.
    pub fn new(storage: Arc<dyn RaftSnapshotStorage>, runtime: Handle) -> Self {
        AsyncSnapshots { storage, runtime }
    }

    /// The storage.
    pub fn storage(&self) -> &Arc<dyn RaftSnapshotStorage> {
        &self.storage
    }

    /// Where the work is done.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Starts a snapshot. It is there after [`AsyncSnapshotWriter::commit`].
    ///
    /// # Errors
    /// As [`RaftSnapshotStorage::create`]; `WorkerGone` if the runtime was shut down.
    pub async fn create(&self, meta: SnapshotMeta) -> Result<AsyncSnapshotWriter> {
        let writer = self.call(move |storage| storage.create(meta)).await?;
        let sink = AsyncSink::new(self.runtime.clone(), writer);
        Ok(AsyncSnapshotWriter { sink, entries: 0 })
    }

    /// Opens the content of a snapshot.
    ///
    /// # Errors
    /// As [`RaftSnapshotStorage::open`]; `WorkerGone` if the runtime was shut down.
    pub async fn open(&self, key: &SnapshotKey) -> Result<AsyncSnapshotReader> {
        let key = *key;
        let reader = self.call(move |storage| storage.open(&key)).await?;
        let info = reader.info().clone();
        let source = AsyncSource::new(self.runtime.clone(), reader);
        Ok(AsyncSnapshotReader { source, info })
    }

    /// Opens the file of a snapshot as it is, for another store's [`AsyncSnapshots::receive`].
    ///
    /// # Errors
    /// As [`RaftSnapshotStorage::send`]; `WorkerGone` if the runtime was shut down.
    pub async fn send(&self, key: &SnapshotKey) -> Result<AsyncSource<Box<dyn SnapshotFile>>> {
        let key = *key;
        let file = self.call(move |storage| storage.send(&key)).await?;
        Ok(AsyncSource::new(self.runtime.clone(), file))
    }

    /// Takes in a file of another store. It is there after [`AsyncSnapshotReceiver::commit`].
    ///
    /// # Errors
    /// As [`RaftSnapshotStorage::receive`]; `WorkerGone` if the runtime was shut down.
    pub async fn receive(&self) -> Result<AsyncSnapshotReceiver> {
        let receiver = self.call(|storage| storage.receive()).await?;
        Ok(AsyncSnapshotReceiver::new(&self.runtime, receiver))
    }

    /// Goes on with a file whose transfer broke off.
    ///
    /// # Errors
    /// As [`RaftSnapshotStorage::resume`]; `WorkerGone` if the runtime was shut down.
    pub async fn resume(&self, transfer: &SnapshotTransfer) -> Result<AsyncSnapshotReceiver> {
        let transfer = *transfer;
        let receiver = self.call(move |storage| storage.resume(&transfer)).await?;
        Ok(AsyncSnapshotReceiver::new(&self.runtime, receiver))
    }

    /// The snapshots of `region`, or of all regions, oldest position first.
    ///
    /// # Errors
    /// As [`RaftSnapshotStorage::list`]; `WorkerGone` if the runtime was shut down.
    pub async fn list(&self, region: Option<RegionId>) -> Result<Vec<SnapshotInfo>> {
        self.call(move |storage| storage.list(region)).await
    }

    /// The newest snapshot of `region`.
    ///
    /// # Errors
    /// As [`RaftSnapshotStorage::latest`]; `WorkerGone` if the runtime was shut down.
    pub async fn latest(&self, region: RegionId) -> Result<Option<SnapshotInfo>> {
        self.call(move |storage| storage.latest(region)).await
    }

    /// Removes one.
    ///
    /// # Errors
    /// As [`RaftSnapshotStorage::delete`]; `WorkerGone` if the runtime was shut down.
    pub async fn delete(&self, key: &SnapshotKey) -> Result<()> {
        let key = *key;
        self.call(move |storage| storage.delete(&key)).await
    }

    /// Reads all of one and says what is not as it was written.
    ///
    /// # Errors
    /// As [`RaftSnapshotStorage::verify`]; `WorkerGone` if the runtime was shut down.
    pub async fn verify(&self, key: &SnapshotKey) -> Result<SnapshotReport> {
        let key = *key;
        self.call(move |storage| storage.verify(&key)).await
    }

    async fn call<R: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn RaftSnapshotStorage) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let storage = Arc::clone(&self.storage);
        Task::spawn(&self.runtime, move || work(&*storage)).await
    }
}

/// Takes the content of a new snapshot. Only [`AsyncSnapshotWriter::commit`] makes it one: dropped before,
/// also in the middle of a write, it leaves nothing. Shutting it down is flushing it.
///
/// What was written is in the buffer until that is full or flushed, so an error shows at a later call, at
/// the latest at the commit. After an error every call fails.
pub struct AsyncSnapshotWriter {
    sink: AsyncSink<Box<dyn SnapshotWriter>>,
    entries: u64,
}

impl AsyncSnapshotWriter {
    /// Adds to [`SnapshotInfo::entry_count`].
    pub fn count_entries(&mut self, count: u64) {
        self.entries = self.entries.saturating_add(count);
    }

    /// Makes the snapshot durable and visible. If the returned future is dropped once it has begun, the
    /// snapshot is there or not, never a part of it.
    ///
    /// # Errors
    /// Those of the writes before; as [`SnapshotWriter::commit`]. Nothing is left of it then.
    pub async fn commit(self) -> Result<SnapshotInfo> {
        let entries = self.entries;
        let commit = move |mut writer: Box<dyn SnapshotWriter>| {
            writer.count_entries(entries);
            writer.commit()
        };
        self.sink.finish(commit).await
    }
}

/// Takes in the bytes of a snapshot's file. What holds of [`AsyncSnapshotWriter`] holds of it, except that
/// one from [`AsyncSnapshots::resume`] keeps what it has written when it is dropped, for the next try.
pub struct AsyncSnapshotReceiver {
    sink: AsyncSink<Box<dyn SnapshotReceiver>>,
    offset: u64,
}

impl AsyncSnapshotReceiver {
    fn new(runtime: &Handle, receiver: Box<dyn SnapshotReceiver>) -> Self {
        let offset = receiver.offset();
        let sink = AsyncSink::new(runtime.clone(), receiver);
        AsyncSnapshotReceiver { sink, offset }
    }

    /// How many bytes of the file it has taken: the next one is at this offset of the file. What is still
    /// in the buffer counts, and is not there if the receiver is dropped.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Checks all of it, then makes it durable and visible, as [`SnapshotReceiver::commit`]. If the
    /// returned future is dropped once it has begun, the snapshot is there or not, never a part of it.
    ///
    /// # Errors
    /// Those of the writes before; as [`SnapshotReceiver::commit`]. Nothing is left of it then.
    pub async fn commit(self) -> Result<SnapshotInfo> {
        self.sink.finish(|receiver| receiver.commit()).await
    }
}

/// Gives the content of a snapshot, checked, as [`SnapshotReader`] does. Dropped, it lets go of the snapshot
/// on a blocking thread: until that is done, the snapshot is still in use and cannot be deleted.
pub struct AsyncSnapshotReader {
    source: AsyncSource<Box<dyn SnapshotReader>>,
    info: SnapshotInfo,
}

impl AsyncSnapshotReader {
    /// What is read.
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }
}

impl AsyncRead for AsyncSnapshotReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.source).poll_read(context, buffer)
    }
}

impl AsyncSeek for AsyncSnapshotReader {
    fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> std::io::Result<()> {
        Pin::new(&mut self.source).start_seek(to)
    }

    fn poll_complete(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<u64>> {
        Pin::new(&mut self.source).poll_complete(context)
    }
}

impl AsyncWrite for AsyncSnapshotWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.sink).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.sink).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.sink).poll_shutdown(context)
    }
}

impl AsyncWrite for AsyncSnapshotReceiver {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.sink).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            self.offset += *count as u64;
        }
        written
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.sink).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.sink).poll_shutdown(context)
    }
}
