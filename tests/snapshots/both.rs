//! What every store does with files of other stores. The contract of the seam is the suite's
//! (`conformance::snapshots`).

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
