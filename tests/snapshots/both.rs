//! The contract of the seam, over every store.

use std::collections::BTreeSet;
use std::io::{Seek, SeekFrom};

use peerstore::RegionId;

use super::*;

/// A store, what to call it, and what keeps its directory there.
struct Case {
    name: String,
    store: Arc<dyn RaftSnapshotStorage>,
    _dir: Option<tempfile::TempDir>,
}

/// A store of every kind.
fn stores() -> Result<Vec<Case>> {
    let mut stores = vec![Case {
        name: "memory".into(),
        store: Arc::new(MemorySnapshots::new()),
        _dir: None,
    }];
    for compression in COMPRESSIONS {
        let store = open_dir(&MemFs::new(), compression)?;
        stores.push(Case {
            name: format!("files in memory, {compression:?}"),
            store: Arc::new(store),
            _dir: None,
        });
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = options(Compression::default());
    let store = SnapshotDir::open(Arc::new(DiskFs), dir.path().join("snapshots"), options)?;
    stores.push(Case {
        name: "files on disk".into(),
        store: Arc::new(store),
        _dir: Some(dir),
    });
    Ok(stores)
}

/// Runs `case` over every store.
fn each(case: impl Fn(&dyn RaftSnapshotStorage) -> Result<()>) {
    for Case { name, store, _dir } in stores().expect("stores") {
        if let Err(error) = case(&*store) {
            panic!("{name}: {error}");
        }
    }
}

#[test]
fn committed_content_is_read_back() {
    each(|store| {
        for (index, length) in [0, 1, 63, 64, 65, 128, 5000].into_iter().enumerate() {
            let (meta, content) = (meta(1, 5, index as u64), sample(0, length));
            let info = create(store, meta.clone(), &content)?;
            assert_eq!(
                (info.meta.clone(), info.content_bytes),
                (meta, length as u64)
            );
            assert_eq!(info.digest, *blake3::hash(&content).as_bytes());
            assert_eq!(read(store, &info.key)?, content);
            assert_eq!(store.open(&info.key)?.info(), &info);
            assert_eq!(image(store, &info.key)?.len() as u64, info.file_bytes);
            assert!(store.verify(&info.key)?.is_intact());
        }
        Ok(())
    });
}

#[test]
fn a_snapshot_is_not_seen_before_it_is_committed() {
    each(|store| {
        let mut writer = store.create(meta(1, 5, 10))?;
        writer.write_all(&sample(0, 500)).map_err(own)?;
        assert!(store.list(None)?.is_empty());
        drop(writer);
        assert!(store.list(None)?.is_empty());
        let info = create(store, meta(1, 5, 10), b"content")?;
        assert_eq!(
            info.key.to_string(),
            "1-5-10-0",
            "the one that was given up took no name"
        );
        Ok(())
    });
}

#[test]
fn snapshots_of_one_position_are_told_apart_by_sequence() {
    each(|store| {
        let first = create(store, meta(1, 5, 10), b"first")?;
        let second = create(store, meta(1, 5, 10), b"second")?;
        let elsewhere = create(store, meta(1, 5, 11), b"elsewhere")?;
        let sequences = [&first, &second, &elsewhere].map(|info| info.key.id.sequence);
        assert_eq!(sequences, [0, 1, 0]);
        assert_eq!(read(store, &first.key)?, b"first");
        assert_eq!(read(store, &second.key)?, b"second");
        Ok(())
    });
}

#[test]
fn the_list_is_by_region_and_oldest_position_first() {
    each(|store| {
        for (region, term, index) in [(2, 6, 9), (1, 6, 10), (2, 5, 30), (1, 6, 9)] {
            create(store, meta(region, term, index), b"content")?;
        }
        let names = |region: Option<u64>| -> Result<Vec<String>> {
            let infos = store.list(region.map(RegionId))?;
            Ok(infos.into_iter().map(|info| info.key.to_string()).collect())
        };
        assert_eq!(names(None)?, ["1-6-9-0", "1-6-10-0", "2-5-30-0", "2-6-9-0"]);
        assert_eq!(names(Some(2))?, ["2-5-30-0", "2-6-9-0"]);
        assert!(names(Some(3))?.is_empty());
        Ok(())
    });
}

#[test]
fn a_snapshot_in_use_is_not_deleted() {
    each(|store| {
        let info = create(store, meta(1, 5, 10), &sample(0, 500))?;
        let in_use = |store: &dyn RaftSnapshotStorage| matches!(store.delete(&info.key), Err(Error::SnapshotInUse { name }) if name == "1-5-10-0");
        let mut reader = store.open(&info.key)?;
        let file = store.send(&info.key)?;
        assert!(in_use(store));
        drop(file);
        assert!(in_use(store));
        let mut content = Vec::new();
        reader.read_to_end(&mut content).map_err(own)?;
        assert_eq!(content, sample(0, 500));
        drop(reader);
        store.delete(&info.key)?;
        store.delete(&info.key)?;
        assert!(store.list(None)?.is_empty());
        assert!(matches!(
            store.open(&info.key).map(drop),
            Err(Error::SnapshotNotFound { .. })
        ));
        assert!(matches!(
            store.send(&info.key).map(drop),
            Err(Error::SnapshotNotFound { .. })
        ));
        assert!(matches!(
            store.verify(&info.key),
            Err(Error::SnapshotNotFound { .. })
        ));
        Ok(())
    });
}

#[test]
fn files_go_from_every_store_to_every_other() {
    each(|from| {
        let content = sample(0, 1000);
        let sent = create(from, meta(4, 5, 10), &content)?;
        let bytes = image(from, &sent.key)?;
        each(|to| {
            let received = receive(to, &bytes)?;
            assert_eq!(received, sent);
            assert_eq!(read(to, &received.key)?, content);
            assert_eq!(image(to, &received.key)?, bytes);
            Ok(())
        });
        Ok(())
    });
}

#[test]
fn a_sent_file_can_be_resumed_from_the_middle() {
    each(|store| {
        let info = create(store, meta(1, 5, 10), &sample(0, 1000))?;
        let bytes = image(store, &info.key)?;
        let mut file = store.send(&info.key)?;
        let middle = bytes.len() / 2;
        let mut rest = Vec::new();
        assert_eq!(file.seek(SeekFrom::End(0)).map_err(own)?, info.file_bytes);
        file.seek(SeekFrom::Start(middle as u64)).map_err(own)?;
        file.read_to_end(&mut rest).map_err(own)?;
        assert_eq!(rest, bytes[middle..]);
        assert!(file.seek(SeekFrom::Current(-1 << 40)).is_err());
        Ok(())
    });
}

#[test]
fn the_same_content_is_kept_once_and_other_content_gets_another_sequence() {
    let other = MemorySnapshots::new();
    let one = create(&other, meta(1, 5, 10), b"one").expect("memory");
    let two = create(&other, meta(1, 5, 10), b"two").expect("memory");
    each(|store| {
        let first = receive(store, &image(&other, &two.key)?)?;
        assert_eq!(first.key.id.sequence, 0);
        assert_eq!(receive(store, &image(&other, &two.key)?)?.key, first.key);
        assert_eq!(
            receive(store, &image(&other, &one.key)?)?.key.id.sequence,
            1
        );
        assert_eq!(store.list(None)?.len(), 2);
        Ok(())
    });
}

#[test]
fn a_received_file_that_is_not_whole_is_refused_and_nothing_is_left() {
    let other = MemorySnapshots::new();
    let info = create(&other, meta(1, 5, 10), &sample(0, 300)).expect("memory");
    let bytes = image(&other, &info.key).expect("memory");
    each(|store| {
        for length in 0..bytes.len() {
            let result = receive(store, &bytes[..length]);
            assert!(
                matches!(result, Err(Error::Corruption { .. })),
                "{length} bytes"
            );
        }
        for byte in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[byte] ^= 0x10;
            let result = receive(store, &damaged);
            assert!(
                matches!(result, Err(Error::Corruption { .. })),
                "byte {byte}"
            );
        }
        assert!(store.list(None)?.is_empty());
        drop(store.receive()?);
        assert_eq!(
            receive(store, &bytes)?.key,
            info.key,
            "the store still works"
        );
        Ok(())
    });
}

#[test]
fn a_received_file_of_a_newer_version_is_unsupported() {
    let other = MemorySnapshots::new();
    let info = create(&other, meta(1, 5, 10), b"content").expect("memory");
    let bytes = crate::damage::newer_version(image(&other, &info.key).expect("memory"));
    each(|store| {
        let result = receive(store, &bytes);
        assert!(matches!(
            result,
            Err(Error::UnsupportedVersion { got: 3, max: 2, .. })
        ));
        assert!(store.list(None)?.is_empty());
        Ok(())
    });
}

#[test]
fn a_received_file_beyond_the_limit_is_refused_at_once() {
    let dir = SnapshotOptions {
        file_bytes_max: 1000,
        ..SnapshotOptions::default()
    };
    let fs = MemFs::new();
    let dir = SnapshotDir::open(Arc::new(fs.clone()), DIR, dir).expect("a store");
    let memory = MemorySnapshots::with_file_bytes_max(1000);
    for store in [&dir as &dyn RaftSnapshotStorage, &memory] {
        let mut receiver = store.receive().expect("a receiver");
        receiver.write_all(&[0; 1000]).expect("up to the limit");
        let error = receiver.write_all(&[0]).expect_err("one more");
        assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
        assert!(receiver.write_all(&[0]).is_err());
        assert!(
            names(&fs).expect("names").is_empty(),
            "the file is gone at once"
        );
        assert!(matches!(receiver.commit(), Err(Error::Poisoned { .. })));
    }
}

#[test]
fn many_writers_of_one_position_get_a_name_each() {
    each(|store| {
        let keys = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..8u8)
                .map(|n| scope.spawn(move || create(store, meta(1, 5, 10), &sample(n, 500))))
                .collect();
            let infos = writers.into_iter().map(|w| w.join().expect("a writer"));
            infos.collect::<Result<Vec<SnapshotInfo>>>()
        })?;
        let sequences: BTreeSet<u64> = keys.iter().map(|info| info.key.id.sequence).collect();
        assert_eq!(sequences, (0..8).collect());
        for info in keys {
            assert_eq!(
                info.digest,
                *blake3::hash(&read(store, &info.key)?).as_bytes()
            );
        }
        Ok(())
    });
}
