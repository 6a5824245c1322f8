//! What comes out is what went in.

use std::io::{Read as _, Seek as _, SeekFrom};

use peerstore::async_io::{
    AsyncSnapshotReader, AsyncSnapshotReceiver, AsyncSnapshotWriter, AsyncSnapshots,
    STREAM_BUFFER_BYTES,
};
use peerstore::{Error, RegionId, SnapshotInfo, SnapshotTransfer};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use crate::{everywhere, meta, sample};

async fn write(snapshots: &AsyncSnapshots, content: &[u8], piece: usize) -> SnapshotInfo {
    let mut writer = snapshots.create(meta(42)).await.unwrap();
    writer.count_entries(3);
    for piece in content.chunks(piece) {
        writer.write_all(piece).await.unwrap();
    }
    writer.count_entries(4);
    writer.commit().await.unwrap()
}

async fn read(snapshots: &AsyncSnapshots, info: &SnapshotInfo) -> Vec<u8> {
    let mut content = Vec::new();
    let mut reader = snapshots.open(&info.key).await.unwrap();
    assert_eq!(reader.info(), info);
    reader.read_to_end(&mut content).await.unwrap();
    content
}

#[test]
fn several_mib_go_through_in_pieces_of_any_size() {
    let content = sample((5 << 20) + 4321);
    everywhere(|snapshots| {
        let content = &content;
        async move {
            let buffer = STREAM_BUFFER_BYTES;
            for piece in [4093, buffer - 1, buffer, buffer + 1, content.len()] {
                let info = write(&snapshots, content, piece).await;
                assert_eq!(info.content_bytes, content.len() as u64);
                assert_eq!(info.entry_count, 7);
                assert!(
                    read(&snapshots, &info).await == *content,
                    "in pieces of {piece}"
                );
                assert!(snapshots.verify(&info.key).await.unwrap().is_intact());
            }
        }
    });
}

#[test]
fn nothing_is_a_snapshot_too() {
    everywhere(|snapshots| async move {
        let info = write(&snapshots, &[], 1).await;
        assert_eq!(read(&snapshots, &info).await, []);
        let region = RegionId(1);
        assert_eq!(snapshots.list(Some(region)).await.unwrap().len(), 1);
        assert_eq!(snapshots.latest(region).await.unwrap(), Some(info.clone()));
        // A reader that is dropped lets go of it on another thread.
        while let Err(error) = snapshots.delete(&info.key).await {
            assert!(matches!(error, Error::SnapshotInUse { .. }), "{error}");
            tokio::task::yield_now().await;
        }
        assert_eq!(snapshots.latest(region).await.unwrap(), None);
    });
}

#[test]
fn a_file_goes_to_another_store_and_on_from_where_it_broke_off() {
    let content = sample(3 << 20);
    everywhere(|snapshots| {
        let content = &content;
        async move {
            let info = write(&snapshots, content, 1 << 16).await;
            let other = peerstore::memory::MemorySnapshots::new();
            let other =
                AsyncSnapshots::new(std::sync::Arc::new(other), snapshots.runtime().clone());
            let transfer = SnapshotTransfer::of(&info);
            let half = info.file_bytes / 2;
            let mut file = snapshots.send(&info.key).await.unwrap();
            let mut receiver = other.resume(&transfer).await.unwrap();
            assert_eq!(receiver.offset(), 0);
            let mut first = (&mut file).take(half);
            tokio::io::copy(&mut first, &mut receiver).await.unwrap();
            receiver.flush().await.unwrap();
            assert_eq!(receiver.offset(), half);
            drop(receiver);
            let mut receiver = resumed(&other, &transfer).await;
            assert_eq!(receiver.offset(), half, "what was flushed is kept");
            file.seek(SeekFrom::Start(half)).await.unwrap();
            tokio::io::copy(&mut file, &mut receiver).await.unwrap();
            receiver.shutdown().await.unwrap();
            assert_eq!(receiver.offset(), info.file_bytes);
            assert_eq!(receiver.commit().await.unwrap(), info);
            assert!(read(&other, &info).await == *content);
        }
    });
}

/// The dropped receiver lets go of its file on another thread, a moment later.
async fn resumed(snapshots: &AsyncSnapshots, transfer: &SnapshotTransfer) -> AsyncSnapshotReceiver {
    let deadline = std::time::Instant::now() + crate::tickets::PATIENCE;
    loop {
        match snapshots.resume(transfer).await {
            Err(peerstore::Error::SnapshotInUse { .. }) if std::time::Instant::now() < deadline => {
                tokio::task::yield_now().await;
            }
            other => return other.unwrap(),
        }
    }
}

#[test]
fn seeking_and_reading_agree_with_the_blocking_stream() {
    let content = sample(2_500_000);
    everywhere(|snapshots| {
        let content = &content;
        async move {
            let info = write(&snapshots, content, 1 << 20).await;
            let mut ours = snapshots.open(&info.key).await.unwrap();
            let mut theirs = snapshots.storage().open(&info.key).unwrap();
            let end = content.len() as i64;
            let mut dice = sample(400).into_iter().map(i64::from);
            while let (Some(kind), Some(place), Some(length)) =
                (dice.next(), dice.next(), dice.next())
            {
                let to = match kind % 3 {
                    0 => SeekFrom::Start((place * end / 15) as u64),
                    1 => SeekFrom::End(-(place * end / 16)),
                    // Also before the start, which both refuse.
                    _ => SeekFrom::Current((place - 8) * 100_003),
                };
                match (ours.seek(to).await, theirs.seek(to)) {
                    (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs, "{to:?}"),
                    (Err(_), Err(_)) => {}
                    (ours, theirs) => panic!("{to:?}: {ours:?}, but {theirs:?}"),
                }
                let (mut got, mut expected) = (Vec::new(), Vec::new());
                let length = 1 + length as u64 * 9001;
                (&mut ours)
                    .take(length)
                    .read_to_end(&mut got)
                    .await
                    .unwrap();
                theirs
                    .by_ref()
                    .take(length)
                    .read_to_end(&mut expected)
                    .unwrap();
                assert!(got == expected, "{to:?}, {length} bytes");
                let position = theirs.stream_position().unwrap();
                assert_eq!(ours.stream_position().await.unwrap(), position);
            }
        }
    });
}

/// What a store of somebody else asks of a stream that it is handed.
#[test]
fn the_streams_can_be_moved_and_shared() {
    fn is_fit<T: Send + Sync + Unpin + 'static>() {}
    is_fit::<AsyncSnapshotReader>();
    is_fit::<AsyncSnapshotWriter>();
    is_fit::<AsyncSnapshotReceiver>();
    is_fit::<AsyncSnapshots>();
}
