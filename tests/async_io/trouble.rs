//! What fails, blocks, panics, or is given up half-way.

use std::future::Future;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use peerstore::async_io::{AsyncSink, AsyncSnapshots, AsyncSource, STREAM_BUFFER_BYTES};
use peerstore::memory::MemFs;
use peerstore::snapshot_dir::{Codec, Compression, SnapshotDir, SnapshotOptions};
use peerstore::{Error, FileSystem as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::tickets::PATIENCE;
use crate::{meta, on_one_thread, sample};

/// A stream that does nothing before it is let, once for each call.
struct Gated<S> {
    stream: S,
    gate: Receiver<()>,
}

fn gated<S>(stream: S) -> (Gated<S>, Sender<()>) {
    let (open, gate) = channel();
    (Gated { stream, gate }, open)
}

impl<S> Gated<S> {
    fn pass(&self) -> std::io::Result<()> {
        let closed = |_| std::io::Error::other("nobody opened the gate");
        self.gate.recv_timeout(PATIENCE).map_err(closed)
    }
}

impl<S: Write> Write for Gated<S> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.pass()?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

impl<S: Read> Read for Gated<S> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.pass()?;
        self.stream.read(bytes)
    }
}

impl<S: Seek> Seek for Gated<S> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.stream.seek(to)
    }
}

/// Polls once, with a waker that does nothing.
fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn ours(error: std::io::Error) -> Error {
    error.downcast().expect("an error of the crate is inside")
}

fn dir(fs: &MemFs) -> Arc<SnapshotDir> {
    let options = SnapshotOptions {
        compression: Compression::None,
        ..SnapshotOptions::default()
    };
    Arc::new(SnapshotDir::open(Arc::new(fs.clone()), "s", options).unwrap())
}

/// The names of files but the lock's.
fn names(fs: &MemFs) -> Vec<String> {
    let names = fs.list(Path::new("s")).unwrap().into_iter();
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name != "LOCK").collect()
}

/// What is given up goes on another thread.
async fn until_empty(fs: &MemFs) {
    let deadline = Instant::now() + PATIENCE;
    while !names(fs).is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", names(fs));
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_stream_that_blocks_holds_up_nobody_else() {
    on_one_thread(|runtime| async move {
        let (stream, open) = gated(std::io::Cursor::new(vec![7; 10]));
        let mut source = AsyncSource::new(runtime.clone(), stream);
        // It runs on the one thread there is, while the read waits: or never, and the read fails.
        tokio::spawn(async move { open.send(()) });
        assert_eq!(source.read_u8().await.unwrap(), 7);

        let (stream, open) = gated(Vec::new());
        let mut sink = AsyncSink::new(runtime, stream);
        sink.write_all(b"some").await.unwrap();
        tokio::spawn(async move { open.send(()) });
        sink.flush().await.unwrap();
    });
}

#[test]
fn a_writer_takes_no_more_than_its_buffer_while_the_disk_is_slow() {
    on_one_thread(|runtime| async move {
        let (stream, open) = gated(Vec::new());
        let mut sink = AsyncSink::new(runtime, stream);
        let piece = vec![1; 100_000];
        let mut taken = 0;
        while let Poll::Ready(written) = poll_once(sink.write(&piece)) {
            taken += written.unwrap();
        }
        assert_eq!(taken, STREAM_BUFFER_BYTES);
        open.send(()).unwrap();
        assert_eq!(sink.write(&piece).await.unwrap(), piece.len(), "it goes on");
    });
}

#[test]
fn a_read_that_was_given_up_loses_no_byte() {
    let content = sample(3 * STREAM_BUFFER_BYTES + 5);
    on_one_thread(|runtime| async move {
        let (stream, open) = gated(std::io::Cursor::new(content.clone()));
        let mut source = AsyncSource::new(runtime, stream);
        let mut read = Vec::new();
        let mut piece = vec![0; 70_000];
        loop {
            // Begun, and given up before there is an answer.
            let early = poll_once(source.read(&mut piece));
            let count = match early {
                Poll::Ready(count) => count.unwrap(),
                Poll::Pending => {
                    open.send(()).unwrap();
                    source.read(&mut piece).await.unwrap()
                }
            };
            read.extend_from_slice(&piece[..count]);
            if count == 0 {
                break;
            }
        }
        assert!(read == content);
    });
}

#[test]
fn a_writer_that_is_given_up_leaves_nothing() {
    on_one_thread(|runtime| async move {
        let fs = MemFs::new();
        let snapshots = AsyncSnapshots::new(dir(&fs), runtime);
        let content = sample(3 << 20);
        // Untouched; with bytes in it; in the middle of a write; with a commit that was never polled.
        drop(snapshots.create(meta(1)).await.unwrap());
        until_empty(&fs).await;
        let mut writer = snapshots.create(meta(2)).await.unwrap();
        writer.write_all(&content).await.unwrap();
        assert_eq!(names(&fs).len(), 1, "it is staged");
        drop(writer);
        until_empty(&fs).await;
        let mut writer = snapshots.create(meta(3)).await.unwrap();
        while poll_once(writer.write(&content)).is_ready() {}
        drop(writer);
        until_empty(&fs).await;
        let mut writer = snapshots.create(meta(4)).await.unwrap();
        writer.write_all(&content).await.unwrap();
        drop(writer.commit());
        until_empty(&fs).await;
        let mut receiver = snapshots.receive().await.unwrap();
        receiver.write_all(&content).await.unwrap();
        drop(receiver);
        until_empty(&fs).await;
        assert_eq!(snapshots.list(None).await.unwrap(), []);
    });
}

#[test]
fn shutting_a_writer_down_is_not_committing_it() {
    on_one_thread(|runtime| async move {
        let fs = MemFs::new();
        let snapshots = AsyncSnapshots::new(dir(&fs), runtime);
        let mut writer = snapshots.create(meta(1)).await.unwrap();
        writer.write_all(b"content").await.unwrap();
        writer.shutdown().await.unwrap();
        drop(writer);
        until_empty(&fs).await;
        assert_eq!(snapshots.list(None).await.unwrap(), []);
    });
}

#[test]
fn a_full_disk_fails_the_writer_with_its_error_and_for_good() {
    on_one_thread(|runtime| async move {
        let fs = MemFs::new();
        let snapshots = AsyncSnapshots::new(dir(&fs), runtime);
        fs.set_space(3 << 20);
        let mut writer = snapshots.create(meta(1)).await.unwrap();
        let failed = writer.write_all(&sample(8 << 20)).await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::StorageFull);
        assert!(matches!(ours(failed), Error::DiskFull { .. }));
        until_empty(&fs).await;
        let again = writer.write_all(b"more").await.unwrap_err();
        assert!(matches!(ours(again), Error::Poisoned { .. }));
        let flushed = writer.flush().await.unwrap_err();
        assert!(matches!(ours(flushed), Error::Poisoned { .. }));
        let committed = writer.commit().await.unwrap_err();
        assert!(matches!(committed, Error::Poisoned { .. }), "{committed}");

        // One that fails in the last piece, which only the commit writes.
        fs.set_space(100_000);
        let mut writer = snapshots.create(meta(1)).await.unwrap();
        writer.write_all(&sample(500_000)).await.unwrap();
        writer.flush().await.unwrap();
        let committed = writer.commit().await.unwrap_err();
        assert!(matches!(committed, Error::DiskFull { .. }), "{committed}");
        until_empty(&fs).await;
    });
}

#[test]
fn damage_and_what_is_missing_are_told_by_their_types() {
    on_one_thread(|runtime| async move {
        let fs = MemFs::new();
        let snapshots = AsyncSnapshots::new(dir(&fs), runtime);
        let mut writer = snapshots.create(meta(1)).await.unwrap();
        writer.write_all(&sample(3 << 20)).await.unwrap();
        let info = writer.commit().await.unwrap();
        assert_eq!(info.codec, Codec::None);
        let file = fs.open_for_write(&Path::new("s").join(names(&fs).remove(0)));
        file.unwrap().write_all_at(b"damage", 2 << 20).unwrap();

        let mut content = Vec::new();
        let mut reader = snapshots.open(&info.key).await.unwrap();
        let failed = reader.read_to_end(&mut content).await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::InvalidData);
        assert!(matches!(ours(failed), Error::Corruption { .. }));
        assert!(
            content == sample(3 << 20)[..content.len()],
            "what came is right"
        );
        drop(reader);

        let mut absent = info.key;
        absent.id.index += 1;
        let missing = snapshots.open(&absent).await.err();
        assert!(matches!(missing, Some(Error::SnapshotNotFound { .. })));
        let mut receiver = snapshots.receive().await.unwrap();
        receiver.write_all(b"no snapshot").await.unwrap();
        let refused = receiver.commit().await.unwrap_err();
        assert!(matches!(refused, Error::Corruption { .. }), "{refused}");
    });
}

struct Panics;

impl Write for Panics {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        panic!("a bug of a backend")
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_panic_below_is_an_error_and_ends_the_stream() {
    on_one_thread(|runtime| async move {
        let mut sink = AsyncSink::new(runtime, Panics);
        sink.write_all(b"some").await.unwrap();
        let failed = ours(sink.flush().await.unwrap_err());
        assert!(
            matches!(&failed, Error::WorkerPanicked { message, .. } if message == "a bug of a backend")
        );
        let again = ours(sink.flush().await.unwrap_err());
        assert!(matches!(again, Error::Poisoned { .. }));
    });
}

#[test]
fn a_runtime_that_ends_takes_the_streams_work_and_leaves_no_file() {
    let fs = MemFs::new();
    let store = dir(&fs);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let snapshots = AsyncSnapshots::new(store, runtime.handle().clone());
    let mut writer = runtime.block_on(snapshots.create(meta(1))).unwrap();
    runtime.block_on(writer.write_all(b"some")).unwrap();
    runtime.shutdown_background();
    let other = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let failed = ours(other.block_on(writer.flush()).unwrap_err());
    assert!(matches!(failed, Error::WorkerGone { .. }), "{failed}");
    let refused = other.block_on(snapshots.list(None)).unwrap_err();
    assert!(matches!(refused, Error::WorkerGone { .. }), "{refused}");
    drop(writer);
    assert_eq!(names(&fs), Vec::<String>::new());
}
